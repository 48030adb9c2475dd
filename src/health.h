/*-------------------------------------------------------------------------
 *
 * health.h
 *		How queues do, and the installation: queue.queue_health().
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_HEALTH_H
#define QUEUE_HEALTH_H

#include "catalog.h"
#include "shared.h"
#include "store.h"

/* check the setting health_thresholds */
extern void QueueHealthCheckThresholds(Datum thresholds);

/* the maintenance worker begins a round; outside a transaction */
extern void QueueHealthRound(Installation *installation, Oid live_id);

/* a worker of ours could not be started, because there was no slot for it */
static inline void
QueueHealthWorkerDenied(void)
{
	pg_atomic_write_u64(&Shared->worker_denied_at, (uint64) GetCurrentTimestamp());
}

/* a job is completed, or would be but for a rollback; to the second, as many are */
static inline void
QueueHealthCompleted(QueueSlot *slot, TimestampTz now)
{
	if (slot && (uint64) now - pg_atomic_read_u64(&slot->completed_at) > USECS_PER_SEC)
		pg_atomic_write_u64(&slot->completed_at, (uint64) now);
}

/* somebody looks for jobs */
static inline void
QueueHealthTaker(QueueSlot *slot, TimestampTz now)
{
	if (slot)
		pg_atomic_write_u64(&slot->taker_at, (uint64) now);
}

/* due time of the oldest waiting job; PG_INT64_MAX: none (in status.c) */
extern TimestampTz QueueOldestWaiting(QueueStore *live, const QueueSettings *settings,
									  QueueSlot *slot);

/* since when takers and completions of a queue have been noticed */
extern TimestampTz QueueHealthKnownSince(const QueueSettings *settings);

/* a time in words: "3 hours" */
extern char *QueueSpell(int64 usecs);

#endif							/* QUEUE_HEALTH_H */

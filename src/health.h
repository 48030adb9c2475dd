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

/* something has happened, to the second: many say so at once */
static inline void
queue_health_note(pg_atomic_uint64 *at, TimestampTz now)
{
	if (now - (TimestampTz) pg_atomic_read_u64(at) > USECS_PER_SEC)
		pg_atomic_write_u64(at, (uint64) now);
}

/* a job is completed, or would be but for a rollback */
static inline void
QueueHealthCompleted(QueueSlot *slot, TimestampTz now)
{
	if (slot)
		queue_health_note(&slot->completed_at, now);
}

/* somebody looks for jobs */
static inline void
QueueHealthTaker(QueueSlot *slot, TimestampTz now)
{
	if (slot)
		queue_health_note(&slot->taker_at, now);
}

/* due time of the oldest waiting job; PG_INT64_MAX: none (in status.c) */
extern TimestampTz QueueOldestWaiting(QueueStore *live, const QueueSettings *settings,
									  QueueSlot *slot);

/* since when takers and completions of a queue have been noticed */
extern TimestampTz QueueHealthKnownSince(const QueueSettings *settings);

/* a time in words: "3 hours" */
extern char *QueueSpell(int64 usecs);

#endif							/* QUEUE_HEALTH_H */

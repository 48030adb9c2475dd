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

#define HEALTH_EXACT_USECS	10000	/* no need to be more exact */

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

/* a time that many write; the clock may have been set back */
static inline void
health_note_time(pg_atomic_uint64 *at, TimestampTz now)
{
	TimestampTz known = (TimestampTz) pg_atomic_read_u64(at);

	if (now - known > HEALTH_EXACT_USECS || known > now)
		pg_atomic_write_u64(at, (uint64) now);
}

/* an attempt has ended; what is rolled back is counted, too */
static inline void
QueueHealthEnded(QueueSlot *slot, AttemptEnd end, TimestampTz now)
{
	if (slot == NULL)
		return;
	(void) pg_atomic_fetch_add_u64(&slot->ended[end], 1);
	if (end == ATTEMPT_COMPLETED)
		health_note_time(&slot->completed_at, now);
}

/* somebody looks for jobs */
static inline void
QueueHealthTaker(QueueSlot *slot, TimestampTz now)
{
	if (slot)
		health_note_time(&slot->taker_at, now);
}

/* due time of the oldest waiting job; PG_INT64_MAX: none (in status.c) */
extern TimestampTz QueueOldestWaiting(QueueStore *live, const QueueSettings *settings,
									  QueueSlot *slot);

/* since when takers and completions of a queue have been noticed */
extern TimestampTz QueueHealthKnownSince(const QueueSettings *settings);

/* a time in words: "3 hours" */
extern char *QueueSpell(int64 usecs);

#endif							/* QUEUE_HEALTH_H */

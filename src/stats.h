/*-------------------------------------------------------------------------
 *
 * stats.h
 *		How many jobs of each queue are in each state.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_STATS_H
#define QUEUE_STATS_H

#include "shared.h"
#include "store.h"

/* what the ended transaction xid has changed; does not throw */
extern void QueueStatsApply(QueueSlot *slot, const int64 *delta, FullTransactionId xid);

/* the counters are wrong from now on, until they are counted anew */
extern void QueueStatsForget(Installation *installation);
extern bool QueueStatsKnown(Installation *installation);

/* count the tables; the caller's transaction must not have written */
extern void QueueStatsRecount(Installation *installation);

/* the same, if need be and the transaction has not; false: not known */
extern bool QueueStatsEnsure(Installation *installation);

/* false if the counters are not known */
extern bool QueueStatsRead(Installation *installation, QueueSlot *slot, int64 *count);

/* due time of the oldest job that waits, or PG_INT64_MAX; see status.c */
extern TimestampTz QueueOldestWaiting(QueueStore *live, const QueueSettings *settings,
									  QueueSlot *slot);

#endif							/* QUEUE_STATS_H */

/*-------------------------------------------------------------------------
 *
 * dequeue.h
 *		Take jobs, for SQL and for those that work inside the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_DEQUEUE_H
#define QUEUE_DEQUEUE_H

#include "executor.h"
#include "finish.h"

/*
 * Move up to limit due jobs of a queue from the parked table to the live one.
 * Returns how many; *next_due is when the next one is due, as far as known.
 */
extern int	QueueMoveDue(const QueueSettings *settings, int limit, TimestampTz *next_due);

/*
 * Take up to want jobs for the executor that calls.  The leases end with the
 * process; what is taken is not charged as an attempt before it is started.
 * *retry_at is when a limit may let more be taken; infinity: no time is known.
 */
extern int	QueueTakeForExecutor(const QueueSettings *settings, int want, ExecutorClaim *claims,
								 TimestampTz *retry_at);

/* take one job in the caller's transaction: a copy of its row, or NULL */
extern HeapTuple QueueTakeOne(const QueueSettings *settings);

/* find out which classes of a queue the index holds, and give each a hint */
extern void QueueLearnClasses(QueueStore *live, QueueSlot *slot);

/* end the attempt of an active job whose lease has run out, for good */
extern void QueueFailStalled(QueueFinish *finish, HeapTuple row, TupleDesc desc,
							 const QueueSettings *settings, QueueSlot *slot, TimestampTz now);

/* end its attempt, and let it wait again; false: somebody has it in hands */
extern bool QueueReturnStalled(QueueFinish *finish, QueueStore *live, HeapTuple row,
							   ItemPointer tid, const QueueSettings *settings,
							   QueueSlot *slot, bool begun, TimestampTz now);

#endif							/* QUEUE_DEQUEUE_H */

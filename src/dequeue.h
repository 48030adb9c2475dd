/*-------------------------------------------------------------------------
 *
 * dequeue.h
 *		Take jobs, for SQL and for those that work inside the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_DEQUEUE_H
#define QUEUE_DEQUEUE_H

#include "finish.h"

/*
 * Move up to limit due jobs of a queue from the parked table to the live one.
 * Returns how many; *next_due is when the next one is due, as far as known.
 */
extern int	QueueMoveDue(const QueueSettings *settings, int limit, TimestampTz *next_due);

/* find out which classes of a queue the index holds, and give each a hint */
extern void QueueLearnClasses(QueueStore *live, QueueSlot *slot);

/* end the attempt of an active job whose lease has run out, for good */
extern void QueueFailStalled(QueueFinish *finish, HeapTuple row, TupleDesc desc,
							 const QueueSettings *settings, QueueSlot *slot, TimestampTz now);

/* end its attempt, and let it wait again; false: somebody has it in hands */
extern bool QueueReturnStalled(QueueFinish *finish, QueueStore *live, HeapTuple row,
							   ItemPointer tid, const QueueSettings *settings,
							   QueueSlot *slot, TimestampTz now);

#endif							/* QUEUE_DEQUEUE_H */

/*-------------------------------------------------------------------------
 *
 * deadletter.h
 *		Dead letters: jobs that failed for good move to another queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_DEADLETTER_H
#define QUEUE_DEADLETTER_H

#include "entry.h"

/*
 * Put a job that has failed for good, and whose row is gone from its queue,
 * into its queue's dead-letter queue.  NULL, or why it could not be moved.
 */
extern char *QueueDeadLetterMove(const QueueSettings *settings, HeapTuple row, TupleDesc desc);

#endif							/* QUEUE_DEADLETTER_H */

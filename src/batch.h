/*-------------------------------------------------------------------------
 *
 * batch.h
 *		Batches: jobs whose progress is counted together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_BATCH_H
#define QUEUE_BATCH_H

#include "job.h"

/*
 * Before jobs of a batch are put in: it is kept from being closed until the end
 * of the transaction, and made if there is none.  An error if it is closed.
 */
extern void QueueBatchJoin(text *batch_id, text *source);

/* after: so many were, into this queue */
extern void QueueBatchAdd(text *batch_id, int32 queue_id, int64 jobs);

/* what a call changes in batches, collected before it is written */
typedef struct QueueBatchChange
{
	text	   *batch_id;
	int32		queue_id;
	int64		count[3];		/* completed, failed, cancelled */
	TimestampTz started_at;		/* DT_NOEND: none was taken */
} QueueBatchChange;

typedef struct QueueBatchChanges
{
	MemoryContext context;		/* of what is below; set by the caller */
	QueueBatchChange *change;
	int			count;
	int			size;
} QueueBatchChanges;

/* so many jobs have ended in this state; less than none: are to run again */
extern void QueueBatchCount(QueueBatchChanges *changes, Datum batch_id, int32 queue_id,
							JobState state, int64 jobs, TimestampTz taken_at);
extern void QueueBatchWrite(QueueBatchChanges *changes);

/*
 * Fold what is new; close and complete what is due; returns how many.  all: look
 * also at batches with nothing new.  *next_at: when to look at all again, if
 * that is earlier.  *closed: some batch will be complete when its last job has
 * ended.  Never waits for anybody.
 */
extern int64 QueueBatchPass(bool all, TimestampTz *next_at, bool *closed);

#endif							/* QUEUE_BATCH_H */

/*-------------------------------------------------------------------------
 *
 * mark.h
 *		Which attempts executors have begun, so that a crash charges them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_MARK_H
#define QUEUE_MARK_H

#include "job.h"

/* an attempt that was under way when the server crashed */
typedef struct QueueMark
{
	Oid			database_id;	/* InvalidOid: none */
	Oid			live_id;		/* names the installation */
	int64		job_id;
	int32		attempt;
} QueueMark;

/* those from before the last crash, one per executor slot; Shared->lock */
extern QueueMark *QueueMarks;

/* called once, when shared memory is made */
extern void QueueMarksRead(void);

/* is the server down, or was it before this start, as it should? */
extern bool QueueShutDownCleanly(void);

/* the attempt that this executor begins, before it does; job_id 0: none */
extern void QueueMarkSet(int executor, int64 job_id, int32 attempt);

/* what a slot's mark said has been seen to: forget it */
extern void QueueMarkClear(int executor);

/*
 * Has the attempt of a job that an executor held, which is gone, begun?  The
 * job must be of this database.
 */
extern bool QueueMarkFind(const JobHead *job);

/*
 * The same, and will the maintenance worker see to it?  Then nobody else need,
 * and it knows better what to say.  It notes the job when it has.
 */
extern bool QueueMarkPending(const JobHead *job);

#endif							/* QUEUE_MARK_H */

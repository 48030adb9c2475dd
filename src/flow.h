/*-------------------------------------------------------------------------
 *
 * flow.h
 *		Flows: jobs that wait until other jobs are completed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_FLOW_H
#define QUEUE_FLOW_H

#include "entry.h"
#include "finish.h"

/* what becomes of a child whose parent fails for good */
typedef enum OnParentFailure
{
	PARENT_FAIL = 'f',			/* it fails, too */
	PARENT_RUN = 'r',			/* it runs as if the parent were completed */
	PARENT_BLOCK = 'b'			/* it stays blocked */
} OnParentFailure;

/*
 * What the parents of a job to be enqueued mean for it.  Those that are not
 * over are kept from ending until this transaction has, and recorded.
 */
typedef enum FlowStart
{
	FLOW_READY,					/* it need not wait */
	FLOW_BLOCKED,
	FLOW_FAILED					/* a parent has failed: it fails at once */
} FlowStart;

extern FlowStart QueueFlowStart(const QueueRequest *request, int64 child_id, int32 child_queue_id,
								int64 *failed_parent);

/* could others wait for jobs of this queue? */
extern bool QueueFlowHasDependents(QueueSlot *slot);
/* a job goes from one queue to another */
extern void QueueFlowMoved(QueueSlot *from, QueueSlot *to);
/* the queue is being created, so nobody can do so yet */
extern void QueueFlowNone(int32 queue_id);

/* a job is over, and what was settled with it is done */
typedef struct FlowEnd
{
	int64		job_id;
	JobState	state;
} FlowEnd;

/* let those go that waited for them; children may end, too, by way of finish */
extern void QueueFlowEnd(QueueFinish *finish, FlowEnd *ends, int count);

/* a blocked job is over before its parents are */
extern void QueueFlowForget(int64 child_id);

/*
 * Has this blocked job, whose row this is, no parent left?  Then it is let go.
 * False: somebody has not committed; ask again.
 */
extern bool QueueFlowCheck(QueueEntry *entry, HeapTuple row, ItemPointer tid);

/* note queues that nobody's job waits for a job of; false: not now */
extern bool QueueFlowTidy(void);

#endif							/* QUEUE_FLOW_H */

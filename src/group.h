/*-------------------------------------------------------------------------
 *
 * group.h
 *		Groups: jobs that run one at a time, in order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_GROUP_H
#define QUEUE_GROUP_H

#include "entry.h"

/* a job is about to enter its queue: where does it stand in its group? */
typedef enum GroupPlace
{
	GROUP_HEAD,					/* it may run */
	GROUP_BEHIND,				/* it must wait until those before it are over */
	GROUP_PASS					/* the place is free, but others wait already:
								 * park it, and call QueueGroupPass() */
} GroupPlace;

extern GroupPlace QueueGroupJoin(QueueEntry *entry, Datum group, int64 job_id);
extern void QueueGroupPass(QueueEntry *entry, Datum group);

/*
 * In a transaction block the place is not taken before its end, or before this
 * transaction takes jobs itself: others need not wait for it.  The callbacks
 * of xact.c call these.
 */
extern void QueueGroupJoinPending(void);
extern void QueueGroupForgetPending(void);
extern void QueueGroupCommitSub(SubTransactionId subid, SubTransactionId parent_subid);
extern void QueueGroupAbortSub(SubTransactionId subid);

/* the head of a group is over: the next one takes its place, if there is one */
extern void QueueGroupLeave(QueueEntry *entry, Datum group, int64 job_id);

/*
 * Has this blocked job, whose row this is, a group without a head?  Then the
 * group gets one.  False: somebody has not committed; ask again.
 */
extern bool QueueGroupCheck(QueueEntry *entry, HeapTuple row);

#endif							/* QUEUE_GROUP_H */

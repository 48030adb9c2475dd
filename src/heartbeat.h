/*-------------------------------------------------------------------------
 *
 * heartbeat.h
 *		Outside workers, as far as they tell that they live, and the view
 *		queue.worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_HEARTBEAT_H
#define QUEUE_HEARTBEAT_H

#include "job.h"
#include "table.h"

extern Size QueueHeartbeatSize(void);
extern void QueueHeartbeatInit(char *at, LWLock *lock, bool found);

/* an attempt of a job, whose row is given, has ended: for the worker's counts */
extern void QueueHeartbeatSettled(HeapTuple row, bool completed, TimestampTz now);

/*
 * Mark workers that were not heard of for too long, and forget those of days
 * ago.  True if leases are to be ended; *wake_at: look again.  Needs no
 * transaction.
 */
extern bool QueueHeartbeatLost(Oid live_id, TimestampTz *wake_at);

/*
 * End leases of lost workers, some at a time: returns how many.  After 0,
 * *again tells whether somebody has one of their jobs in hands.
 */
extern int64 QueueHeartbeatEndLeases(bool *again);

/* how many workers of a queue live, and how many have fallen silent */
extern void QueueHeartbeatCount(int32 queue_id, int *live, int *stale);

/* the callbacks of xact.c call these */
extern void QueueHeartbeatCommit(void);
extern void QueueHeartbeatForget(void);
extern void QueueHeartbeatCommitSub(SubTransactionId subid, SubTransactionId parent_subid);
extern void QueueHeartbeatAbortSub(SubTransactionId subid);

#endif							/* QUEUE_HEARTBEAT_H */

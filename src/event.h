/*-------------------------------------------------------------------------
 *
 * event.h
 *		What happens to a queue's jobs, told by NOTIFY.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_EVENT_H
#define QUEUE_EVENT_H

#include "catalog.h"
#include "shared.h"

extern int	queue_notify_interval;

/*
 * It has happened so many times, if this (sub)transaction commits; last to
 * this job, which it left in that state.  Call it only where the queue's
 * setting notify is on.  slot may be NULL: nobody is told.
 */
extern void QueueEventRecord(QueueSlot *slot, QueueEvent event, int64 job_id, JobState state,
							 int64 count);

/* the same of a batch, for one of its queues */
extern void QueueEventBatch(QueueSlot *slot, const char *batch_id);

extern bool QueueEventAny(void);

/* records of a transaction that is prepared, one after the other: false after the last */
extern bool QueueEventPending(int number, QueueSlot **slot, QueueEvent *event, SlotEvent *what);

/*
 * What an ended transaction tells; does not throw.  batch_id has room for
 * EVENT_BATCH_ID bytes; NULL: it is not known.
 */
extern void QueueEventAdd(QueueSlot *slot, QueueEvent event, const SlotEvent *what,
						  const char *batch_id);

/*
 * Of the maintenance worker: send what has been collected, if it is time;
 * *wake_at gets the time if it is not yet.
 */
extern void QueueEventSend(Installation *installation, const QueueSettings *const *queue_of_slot,
						   TimestampTz *wake_at);

/* the callbacks of xact.c call these */
extern void QueueEventCommit(void);
extern void QueueEventForget(void);
extern void QueueEventCommitSub(SubTransactionId subid, SubTransactionId parent_subid);
extern void QueueEventAbortSub(SubTransactionId subid);

#endif							/* QUEUE_EVENT_H */

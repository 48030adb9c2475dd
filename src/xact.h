/*-------------------------------------------------------------------------
 *
 * xact.h
 *		What a transaction will have to tell shared memory when it ends.
 *
 * Callbacks can neither allocate nor throw, so everything is recorded before
 * the change that it is about.  For each verb:
 *
 *		slot = QueueXactSlot(queue_id)			pins the queue's slot
 *		QueueXactNote...(...)					before the row is changed
 *		QueueXactCount(...)						with the change
 *
 * slot and hint may be NULL (no room in shared memory): nothing is recorded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_XACT_H
#define QUEUE_XACT_H

#include "hint.h"

extern void QueueXactInit(void);

/* the slot of a queue, pinned until the transaction ends; NULL: no room */
extern QueueSlot *QueueXactSlot(int32 queue_id);

/* there is no room for the hint of a class that we are about to change */
extern void QueueXactNoHint(QueueSlot *slot, int order_class);

/* key becomes claimable for everybody if this (sub)transaction commits */
extern void QueueXactNoteCommit(HintSlot *hint, HintKey key);

/* key becomes claimable again for everybody if it aborts */
extern void QueueXactNoteAbort(HintSlot *hint, HintKey key);

/* a look has reserved all from key on; until it ends, the same for that */
extern void QueueXactReserve(HintSlot *hint, HintKey key);
extern void QueueXactReserveEnd(HintSlot *hint);

/* leases become visible if it commits */
extern void QueueXactNoteLeases(HintSlot *hint, HintLeases leases);

/* the leases of a class are being looked through: if it aborts, they must again */
extern void QueueXactSweep(HintSlot *hint);

/* the least key that this transaction would note if it committed now */
extern HintKey QueueXactOwnKey(HintSlot *hint);

/* so many jobs more, or less, in a state if it commits */
extern void QueueXactCount(QueueSlot *slot, JobCount state, int64 change);

/* how many more it has made them so far */
extern int64 QueueXactPending(QueueSlot *slot, JobCount state);

/* so much has happened to its jobs if it commits; and a job took so long */
extern void QueueXactTotal(QueueSlot *slot, QueueTotal total, int64 change);
extern void QueueXactTime(QueueSlot *slot, QueueTime time, int64 usecs);

/* what a (sub)transaction has of a queue's limits; see limit.c */
typedef struct LimitHeld
{
	int64		places;			/* which its end gives back */
	int64		tokens;			/* which its abort gives back; nanoseconds */
	TimestampTz tokens_at;		/* when it got the first of them */
	TimestampTz completed_at;	/* when the last job that it has completed was
								 * taken, if that matters; 0: none */
} LimitHeld;

/* the record of the current subtransaction, for use before the next is asked for */
extern LimitHeld *QueueXactHeld(QueueSlot *slot);

/* the places of the whole transaction */
extern int64 QueueXactPlaces(QueueSlot *slot);

/* a job that was taken then is complete: a throttle need grow no more */
extern void QueueXactCompleted(QueueSlot *slot, TimestampTz taken_at);

/* the maintenance worker is to look at a blocked job, if it commits */
extern void QueueXactCheck(int64 job_id);

/* an executor that runs this job is to stop, if it commits */
extern void QueueXactInterrupt(int64 job_id);

/* the maintenance worker is to look at batches, if it commits */
extern void QueueXactBatches(bool closed);

/* so many row versions of job_live are dead when it ends */
extern void QueueXactDead(int64 versions);

/* the settings of a queue change: those who wait for its jobs must look */
extern void QueueXactWakeAll(int32 queue_id);

/* tables were changed by SQL: forget hints and counters at its end */
extern void QueueXactForgetAll(void);

/* the launcher is told at commit that the extension, or a database, is new */
extern void QueueXactAnnounceExtension(void);
extern void QueueXactAnnounceDatabase(void);

/*
 * Brackets what a claim writes.  A transaction that has written nothing else
 * need not wait for the disk: see queue.async_claims.
 */
extern void QueueXactClaimBegin(void);
extern void QueueXactClaimEnd(bool must_flush);

/* a prepared transaction has ended; before and after it is finished */
typedef struct QueuePrepared QueuePrepared;
extern QueuePrepared *QueuePreparedRead(const char *gid);
extern void QueuePreparedFinish(QueuePrepared *prepared, bool commit);

#endif							/* QUEUE_XACT_H */

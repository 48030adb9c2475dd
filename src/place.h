/*-------------------------------------------------------------------------
 *
 * place.h
 *		Places: jobs that must wait for others, those of their group and those
 *		with the same limit_key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_PLACE_H
#define QUEUE_PLACE_H

#include "entry.h"

typedef enum PlaceKind
{
	PLACE_GROUP,				/* one of a group: its head */
	PLACE_LIMIT					/* max_active_per_key of a limit_key */
} PlaceKind;

/* a job is about to enter its queue: may it? */
typedef enum PlaceAnswer
{
	PLACE_TAKEN,				/* it has a place now */
	PLACE_NONE,					/* it must wait: park it */
	PLACE_PASS					/* it has, but others wait already: park it, and
								 * call QueuePlaceLeave() */
} PlaceAnswer;

extern PlaceAnswer QueuePlaceJoin(QueueEntry *entry, PlaceKind kind, Datum key, int64 job_id);

/*
 * In a transaction block no place is taken before its end, or before this
 * transaction takes jobs itself: others need not wait for it.  The callbacks
 * of xact.c call these.
 */
extern void QueuePlaceJoinPending(void);
extern void QueuePlaceForgetPending(void);
extern void QueuePlaceCommitSub(SubTransactionId subid, SubTransactionId parent_subid);
extern void QueuePlaceAbortSub(SubTransactionId subid);

/* one that waited is gone: somebody may have left a place free for it */
extern void QueuePlaceSkip(QueueEntry *entry, PlaceKind kind, Datum key);

/*
 * A job is over, or waits elsewhere: the least of those who wait gets its place,
 * if it has one.
 */
extern void QueuePlaceLeave(QueueEntry *entry, PlaceKind kind, Datum key, int64 job_id);

/* a job of the live table gets a place, one beyond the limit if there must be */
extern void QueuePlaceForce(QueueEntry *entry, Datum limit_key, int64 job_id);
extern bool QueuePlaceHas(QueueEntry *entry, Datum limit_key, int64 job_id);

/*
 * Is there a place for this blocked job, whose row this is?  Then those who
 * wait get what is free.  False: somebody has not committed; ask again.
 */
extern bool QueuePlaceCheck(QueueEntry *entry, HeapTuple row);

#endif							/* QUEUE_PLACE_H */

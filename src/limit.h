/*-------------------------------------------------------------------------
 *
 * limit.h
 *		How many jobs of a queue may be taken: max_active, rate_limit, throttle.
 *
 * A taker:
 *
 *		if (!QueueLimitBegin(&limit, ...))		nothing may be taken now
 *			return
 *		for each job, before it is claimed:
 *			if (!QueueLimitTake(&limit, ...))	not this one, nor those behind it
 *				break
 *			claimed: QueueLimitUsed(&limit, ...)
 *		QueueLimitEnd(&limit)					gives back what was not used
 *
 * An error in between is cleaned up by the transaction callbacks, as is what
 * a transaction has used: see limit.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_LIMIT_H
#define QUEUE_LIMIT_H

#include "catalog.h"
#include "xact.h"

typedef struct QueueLimit
{
	const QueueSettings *settings;
	QueueSlot  *slot;
	bool		applies;		/* to each job */
	bool		denied;			/* the last time that it was asked for one */
	TimestampTz retry_at;		/* then: when time alone will have changed
								 * that, or infinity: a place must be free */
	bool		place;			/* in hand, for the next job */
	int64		token;			/* likewise, nanoseconds; 0: none */
	TimestampTz token_at;
} QueueLimit;

/* the server begins to write, so buckets are empty; only the first call counts */
extern void QueueLimitStart(void);

/*
 * May anything be taken now?  settings and slot must live as long as limit.
 * Counts the jobs if their number is not known and this transaction may.
 */
extern bool QueueLimitBegin(QueueLimit *limit, const QueueSettings *settings, QueueSlot *slot);

/* have what a job needs; active: it is one already, and needs no place */
extern bool QueueLimitTake(QueueLimit *limit, bool active);
extern void QueueLimitUsed(QueueLimit *limit, bool active);
extern void QueueLimitEnd(QueueLimit *limit);

/* the same, for those who take nothing themselves, and outside of a transaction */
extern bool QueueLimitAllows(const QueueSettings *settings, QueueSlot *slot);

/* others wait, and there are more jobs: wake one of them, now or in time */
extern void QueueLimitPass(QueueLimit *limit);

/* callbacks: what a (sub)transaction has used, at its end */
extern void QueueLimitSettle(QueueSlot *slot, const LimitHeld *held, bool commit);

/*
 * What queue_stats() shows; *available is -1 without a rate limit.  Returns
 * the end of the throttle, 0: none.
 */
extern TimestampTz QueueLimitRead(QueueSlot *slot, const QueueSettings *settings, int64 *available);

/*
 * Throttles are kept in queue.queue for a restart: has this one changed?  Then
 * write it, and when that has committed, say so.  Save() returns false where
 * the row is in somebody's hands.
 */
extern bool QueueThrottleChanged(QueueSlot *slot, TimestampTz *until);
extern bool QueueThrottleSave(int32 queue_id, TimestampTz until);
extern void QueueThrottleSaved(QueueSlot *slot, TimestampTz until);

#endif							/* QUEUE_LIMIT_H */

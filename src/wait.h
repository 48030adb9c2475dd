/*-------------------------------------------------------------------------
 *
 * wait.h
 *		Wait for a job, and wake those who do.
 *
 * To wait:
 *
 *		QueueWaitBegin(&wait, want, usecs)
 *		for (;;)
 *			QueueWaitEnter(&wait, slot)		in the list from here on
 *			read the settings anew, look; found something: leave the loop
 *			QueueWaitSleep(&wait)			WAKE_OVER: leave the loop
 *			after WAKE_WOKEN, look; found something: leave the loop
 *		QueueWaitEnd(served)
 *
 * An error in between is cleaned up by the transaction callbacks
 * (QueueWaitForget).  The slot must stay pinned.
 *
 * To wake: QueueWaitWake(), after what there is to see is visible and noted.
 * It neither allocates nor throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_WAIT_H
#define QUEUE_WAIT_H

#include "shared.h"

typedef struct QueueWait
{
	QueueSlot  *slot;			/* where it has arrived, or NULL */
	uint64		arrival;		/* its place there */
	int			want;			/* jobs */
	int64		deadline;		/* by the monotonic clock: see clock.h */
} QueueWait;

typedef enum QueueWake
{
	WAKE_WOKEN,					/* by somebody who has something for us */
	WAKE_LOOK,					/* nobody will, so look */
	WAKE_OVER					/* the time is over */
} QueueWake;

extern void QueueWaitBegin(QueueWait *wait, int want, int64 usecs);

/* slot may be NULL: no room in shared memory, so the wait is a poll */
extern void QueueWaitEnter(QueueWait *wait, QueueSlot *slot);
extern QueueWake QueueWaitSleep(QueueWait *wait);

/* served: the look that we were last woken for has been made to its end */
extern void QueueWaitEnd(bool served);
extern void QueueWaitForget(void);

/* widens the gaps between two steps, for tests */
#ifdef QUEUE_TESTING
#define QUEUE_LINGER() \
	do { \
		if (QUEUE_MUTATION(6) || QUEUE_MUTATION(8)) \
			pg_usleep(QUEUE_MUTATION(6) ? 3000 : 300); \
	} while (0)
#else
#define QUEUE_LINGER()	((void) 0)
#endif

static inline bool
QueueHasWaiters(QueueSlot *slot)
{
	return pg_atomic_read_u32(&slot->waiters) != 0;
}

/* does anybody want to hear of its jobs: waiters, or executors? */
static inline bool
QueueHasTakers(QueueSlot *slot)
{
	return QueueHasWaiters(slot) || OidIsValid(slot->served);
}

/* wake takers enough for so many jobs; QueueWaitWakeListed() is its second half */
extern void QueueWaitWakeListed(QueueSlot *slot, int64 jobs);

static inline void
QueueWaitWake(QueueSlot *slot, int64 jobs)
{
	pg_memory_barrier();		/* first the note, then the list: see wait.c */
	if (unlikely(QueueHasTakers(slot)))
		QueueWaitWakeListed(slot, jobs);
}

/* there is a job that may be taken then: the first in the list is to look */
extern void QueueWaitAlarm(QueueSlot *slot, TimestampTz at);

/* something other than a job has changed */
extern void QueueWaitWakeAll(QueueSlot *slot);
extern void QueueWaitWakeInstallation(Installation *installation);

/*
 * Might a look at this time find something?  *known is false if shared memory
 * does not know; then it might.
 */
extern bool QueueMayHaveJob(QueueSlot *slot, TimestampTz now, bool *known);

#endif							/* QUEUE_WAIT_H */

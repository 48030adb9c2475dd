/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The two clocks, and which of them is for what.
 *
 * What people name as a time, or read as one, is by the wall clock: due times,
 * leases, throttles, retention, history.  That clock may be set, in either
 * direction, while we run.
 *
 * How long to wait, and for how long somebody has been silent, is by the
 * monotonic clock, which only ever goes on; it means nothing in another start
 * of the machine, so it is kept in memory only.
 *
 * Spacings, turns and delays of our processes are short, and kept by the wall
 * clock, as they are compared with due times.  One that lies in the future of a
 * clock that was set back would last for as long as that: so who asks whether a
 * time has passed is told yes if the clock is behind its beginning.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_CLOCK_H
#define QUEUE_CLOCK_H

#include <time.h>

#include "utils/timestamp.h"

/* of the machine, so of all processes alike */
static inline int64
QueueMonotonicUsecs(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}

/* are so many milliseconds over since then? */
static inline bool
QueueHasPassed(TimestampTz since, int64 ms, TimestampTz now)
{
	return now < since || now - since >= ms * 1000;
}

#endif							/* QUEUE_CLOCK_H */

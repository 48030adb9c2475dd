/*-------------------------------------------------------------------------
 *
 * ring.h
 *		Rings of leaf tables for what is over: queue.job_archive, queue.job_log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_RING_H
#define QUEUE_RING_H

#include "catalog.h"

typedef enum QueueRing
{
	RING_ARCHIVE = 'a',
	RING_LOG = 'l'
} QueueRing;

/* the leaf for what expires then: any backend, no lock needed */
extern int	QueueLeafFor(QueueRing ring, TimestampTz expires_at);
extern Oid	QueueLeafRelation(QueueRing ring, int leaf);

/*
 * See to it that there is a leaf for what expires so many microseconds from
 * now; in the caller's transaction.  A worker does not wait for the lock on
 * queue._leaf that somebody's transaction may hold: it comes again.
 */
extern void QueueRingEnsure(QueueRing ring, int64 retention, bool wait);

/*
 * Truncate at most one leaf whose time has passed; true if one was.  In a
 * transaction of its own, and only by the maintenance worker or maintain().
 */
extern bool QueueRingTruncate(QueueRing ring);

/* delete what has expired in leaf 0, which is never truncated */
extern uint64 QueueRingSweepZero(QueueRing ring, int limit);

#endif							/* QUEUE_RING_H */

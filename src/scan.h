/*-------------------------------------------------------------------------
 *
 * scan.h
 *		Find rows in the tables of unfinished jobs: in their order, or by id.
 *
 * The store must be open.  What is found may be changed by others meanwhile:
 * an update or a delete tells.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SCAN_H
#define QUEUE_SCAN_H

#include "access/relscan.h"
#include "access/skey.h"
#include "storage/buf.h"
#include "utils/snapshot.h"

#include "store.h"

/*
 * What everybody has committed by now, at any isolation level.  SERIALIZABLE
 * gets SnapshotSelf, which takes no predicate locks.
 */
extern Snapshot QueueFreshSnapshot(void);
extern void QueueReleaseSnapshot(Snapshot snapshot);

/*
 * A walk through one class of the live table, or the due times of the parked.
 *
 * A B-tree scan reads all that matches in a page at once, which may be more
 * work than to take a job.  So a caller who is likely to need no more than the
 * keys before until gets these first, by keys that end the scan there, and all
 * that follows only if it goes on.
 *
 * Who wants to know how far so many rows reach before it looks at any has their
 * entries read ahead.  It must have an MVCC snapshot: the pins that keep dead
 * entries from being used again are gone by then, all but that on the last
 * leaf, which such a scan holds to its end.
 */
#define SCAN_AHEAD	128
typedef struct QueueScan
{
	QueueStore *store;
	Snapshot	snapshot;
	int32		queue_id;
	int			order_class;
	HintKey		until;			/* where the part at hand ends, or HINT_KEY_MAX */
	bool		may_read_ahead;
	bool		ended;
	IndexScanDesc scan;
	ScanKeyData key[5];
	ScanKeyData row[2];
	Buffer		buffer;			/* of the last row, or invalid */
	Buffer		map;			/* visibility map, for who prunes */
	HeapTupleData tuple;
	HintKey		here;			/* where it was sought, or behind the last row */
	int			ahead_count;
	int			ahead_next;		/* the first of those that are still to come */
	ItemPointerData ahead[SCAN_AHEAD];
} QueueScan;

extern void QueueScanBegin(QueueScan *scan, QueueStore *store, Snapshot snapshot,
						   int32 queue_id, int order_class, HintKey from, HintKey until,
						   bool may_read_ahead);
/* go on at a key: (order_at, job_id) >= from */
extern void QueueScanSeek(QueueScan *scan, HintKey from, HintKey until);
/*
 * Read up to so many entries ahead, of the live table; returns how many.
 * *behind is the key behind the last.  Not to be called again before they are
 * used up, nor once may_read_ahead is false.
 */
extern int	QueueScanAhead(QueueScan *scan, int count, HintKey *behind);
static inline bool
QueueScanHasAhead(const QueueScan *scan)
{
	return scan->ahead_next < scan->ahead_count;
}
/* the next visible row, or NULL; it stays valid until the next call */
extern HeapTuple QueueScanNext(QueueScan *scan, ItemPointer tid);
extern void QueueScanEnd(QueueScan *scan);

/*
 * A walk by ids, quick if they ascend and lie close together, or if this
 * backend remembers where the jobs are.
 */
typedef struct QueueWalk
{
	QueueStore *store;
	Snapshot	snapshot;
	IndexScanDesc scan;			/* made when needed */
	Buffer		buffer;			/* of the last remembered row, or invalid */
	BlockNumber blocks;			/* of the table, if it was asked, or 0 */
	HeapTupleData tuple;		/* the last remembered row */
	TupleTableSlot *slot;		/* of the scan */
	bool		positioned;
	bool		have;
	int64		current;
} QueueWalk;

/* a job of the live table has been taken: its index entries point to root */
extern void QueueStoreRemember(int64 job_id, ItemPointer root);

extern void QueueWalkBegin(QueueWalk *walk, QueueStore *store, Snapshot snapshot);
extern HeapTuple QueueWalkTo(QueueWalk *walk, int64 job_id, ItemPointer tid);
extern void QueueWalkEnd(QueueWalk *walk);

/* one job by id, in this table: a copy, or NULL */
extern HeapTuple QueueStoreFind(QueueStore *store, Snapshot snapshot, int64 job_id,
								ItemPointer tid);

/* the least class above a given one that the ready index has an entry of */
extern bool QueueStoreNextClass(QueueStore *store, int32 queue_id, int above, int *order_class);

#endif							/* QUEUE_SCAN_H */

/*-------------------------------------------------------------------------
 *
 * store.h
 *		The tables of unfinished jobs: open, insert, find by id, change, and
 *		the order of their indexes.
 *
 * QueueStoreOpen() locks the table against DDL until the end of the
 * transaction, or until QueueStoreCloseUnused().  Before a row is changed, QueueXactNoteAbort() must have been
 * called for its key; QueueStoreUpdate() and QueueStoreDelete() do that
 * themselves, given the row's head and the slot of its queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_STORE_H
#define QUEUE_STORE_H

#include "access/relscan.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "storage/buf.h"
#include "utils/snapshot.h"

#include "compat.h"
#include "job.h"
#include "xact.h"

/*
 * Every index of a table, for those whose indexes we do not know by heart.  There
 * may be many: what a REINDEX CONCURRENTLY leaves behind that was interrupted is
 * an index as well.
 */
typedef struct QueueIndexes
{
	int			count;
	Relation   *index;
	IndexInfo **info;
	EState	   *estate;			/* only if one has expressions or a predicate */
} QueueIndexes;

extern void QueueIndexesOpen(QueueIndexes *indexes, Relation heap);
extern void QueueIndexesInsert(QueueIndexes *indexes, Relation heap, TupleTableSlot *slot);
extern void QueueIndexesClose(QueueIndexes *indexes);

typedef struct QueueStore
{
	bool		parked;
	Relation	heap;
	Relation	id_index;
	Relation	order_index;
	Relation	group_index;	/* of the parked table, else NULL, as the next */
	Relation	limit_index;
	bool		foreign_indexes;	/* somebody has made others */
	QueueIndexes all;			/* then this has them all */
	MemoryContext context;		/* it was opened in */
	TupleTableSlot *slot;		/* for updates, made when needed */
} QueueStore;

extern void QueueStoreOpen(QueueStore *store, bool parked);
extern void QueueStoreClose(QueueStore *store);
/* the same, of one in which nothing was changed: lets go of the lock */
extern void QueueStoreCloseUnused(QueueStore *store);

/* multi-row inserts, of rows of a layout that never changes */
typedef enum QueueRowKind
{
	ROW_JOB,
	ROW_ARCHIVE,
	ROW_LOG
} QueueRowKind;
#define ROW_KINDS	(ROW_LOG + 1)
extern TupleTableSlot **QueueInsertSlots(QueueRowKind kind, Relation heap,
										 HeapTuple *tuples, int count);

/* replace a row version of any of our tables; *update_indexes: not HOT */
extern TM_Result QueueTupleUpdate(Relation heap, ItemPointer tid, TupleTableSlot *slot, bool wait,
								  QUEUE_UPDATE_INDEXES_TYPE *update_indexes);

extern void QueueStoreInsert(QueueStore *store, HeapTuple *tuples, int count);

/*
 * Change or delete the row version at tid, whose head is old.  wait: for a
 * transaction that is changing it; the answer then is about what came of it.
 */
extern TM_Result QueueStoreUpdate(QueueStore *store, ItemPointer tid, const JobHead *old,
								  QueueSlot *slot, HeapTuple tuple, bool wait);
extern TM_Result QueueStoreDelete(QueueStore *store, ItemPointer tid, const JobHead *old,
								  QueueSlot *slot, bool wait, bool moving);

/* the hint that a row in this store is under; NULL: none */
extern HintSlot *QueueStoreHint(QueueStore *store, const JobHead *job, QueueSlot *slot,
								bool create);
extern HintKey QueueStoreKey(QueueStore *store, const JobHead *job);

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

#endif							/* QUEUE_STORE_H */

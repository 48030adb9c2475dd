/*-------------------------------------------------------------------------
 *
 * side.h
 *		Rows beside jobs: keys, heads of groups, dependencies, batches.
 *
 * Plain tables, read and written as directly as those of the jobs, so that no
 * isolation level, search path or privilege of the caller is in the way.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SIDE_H
#define QUEUE_SIDE_H

#include "store.h"

typedef struct QueueSide
{
	Relation	heap;
	QueueIndexes indexes;
} QueueSide;

/* locked against DDL until the end of the transaction */
extern void QueueSideOpen(QueueSide *side, Oid relid);
extern void QueueSideClose(QueueSide *side);

extern void QueueSideInsert(QueueSide *side, Datum *values, bool *nulls);
/* wait: for somebody who is changing the row; else the answer says so */
extern TM_Result QueueSideUpdate(QueueSide *side, ItemPointer tid, Datum *values, bool *nulls,
								 bool wait);
extern TM_Result QueueSideDelete(QueueSide *side, ItemPointer tid, bool wait);

/* rows by the first columns of an index; newest first, where they are alike */
typedef struct QueueSideScan
{
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	SnapshotData dirty;			/* of a scan that sees what is not committed */
	Snapshot	snapshot;		/* else */
	ScanDirection direction;
} QueueSideScan;

/*
 * A dirty scan also returns what others have inserted or are deleting and have
 * not committed; after each row, *writer is who is at it, or invalid.
 */
extern void QueueSideScanBegin(QueueSideScan *scan, QueueSide *side, Oid index, int nkeys,
							   ScanKey keys, Snapshot snapshot, ScanDirection direction);
/* the same scan with as many other keys */
extern void QueueSideScanAgain(QueueSideScan *scan, int nkeys, ScanKey keys);
extern HeapTuple QueueSideScanNext(QueueSideScan *scan, ItemPointer tid, TransactionId *writer);
extern void QueueSideScanEnd(QueueSideScan *scan);

/*
 * The one row of a unique key, dirty: a copy, or NULL.  If *writer is valid,
 * somebody has not committed yet what becomes of it.
 */
extern HeapTuple QueueSideFind(QueueSide *side, Oid index, int nkeys, ScanKey keys,
							   ItemPointer tid, TransactionId *writer);

/*
 * A short lock on a key that may have no row yet: whoever is to insert one
 * holds it from looking to inserting, and no longer.
 */
extern void QueueSideLockKey(QueueSide *side, int32 queue_id, Datum key);
extern void QueueSideUnlockKey(QueueSide *side, int32 queue_id, Datum key);

#endif							/* QUEUE_SIDE_H */

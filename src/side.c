/*-------------------------------------------------------------------------
 *
 * side.c
 *		Rows beside jobs.
 *
 * Who looks for a key must know of rows that are not committed yet, or two
 * sessions would make two rows.  So these lookups are dirty ones: they return
 * such a row and who is writing it, and the caller waits for that transaction
 * or does without.
 *
 * Between looking for a key that has no row and inserting one, the key is
 * locked by its hash, for that long only.  Nobody waits for anything else
 * while holding the lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "side.h"

void
QueueSideOpen(QueueSide *side, Oid relid)
{
	side->heap = QueueOpenTable(relid, RowExclusiveLock);
	QueueIndexesOpen(&side->indexes, side->heap);
}

void
QueueSideClose(QueueSide *side)
{
	QueueIndexesClose(&side->indexes);
	table_close(side->heap, NoLock);
}

void
QueueSideInsert(QueueSide *side, Datum *values, bool *nulls)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(side->heap), values, nulls);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(side->heap),
													&TTSOpsHeapTuple);

	heap_insert(side->heap, tuple, GetCurrentCommandId(true), 0, NULL);
	ExecStoreHeapTuple(tuple, slot, false);
	slot->tts_tid = tuple->t_self;
	QueueIndexesInsert(&side->indexes, side->heap, slot);
	ExecDropSingleTupleTableSlot(slot);
	heap_freetuple(tuple);
}

TM_Result
QueueSideUpdate(QueueSide *side, ItemPointer tid, Datum *values, bool *nulls, bool wait)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(side->heap), values, nulls);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(side->heap),
													&TTSOpsHeapTuple);
	QUEUE_UPDATE_INDEXES_TYPE update_indexes = 0;
	TM_Result	result;

	ExecStoreHeapTuple(tuple, slot, false);
	result = QueueTupleUpdate(side->heap, tid, slot, wait, &update_indexes);
	if (result == TM_Ok && update_indexes)
		QueueIndexesInsert(&side->indexes, side->heap, slot);
	ExecDropSingleTupleTableSlot(slot);
	heap_freetuple(tuple);
	return result;
}

TM_Result
QueueSideDelete(QueueSide *side, ItemPointer tid, bool wait)
{
	TM_FailureData failure;

	return queue_tuple_delete(side->heap, tid, GetCurrentCommandId(true), wait, &failure, false);
}

void
QueueSideScanBegin(QueueSideScan *scan, QueueSide *side, Oid index, int nkeys, ScanKey keys,
				   Snapshot snapshot, ScanDirection direction)
{
	InitDirtySnapshot(scan->dirty);
	scan->snapshot = snapshot ? snapshot : &scan->dirty;
	scan->direction = direction;
	scan->index = index_open(index, AccessShareLock);
	scan->slot = table_slot_create(side->heap, NULL);
	scan->scan = queue_index_beginscan(side->heap, scan->index, scan->snapshot, nkeys);
	QueueSideScanAgain(scan, nkeys, keys);
}

void
QueueSideScanAgain(QueueSideScan *scan, int nkeys, ScanKey keys)
{
	Assert(nkeys == scan->scan->numberOfKeys);
	index_rescan(scan->scan, keys, nkeys, NULL, 0);
}

HeapTuple
QueueSideScanNext(QueueSideScan *scan, ItemPointer tid, TransactionId *writer)
{
	bool		should_free;

	CHECK_FOR_INTERRUPTS();
	if (!index_getnext_slot(scan->scan, scan->direction, scan->slot))
		return NULL;
	if (tid)
		*tid = scan->slot->tts_tid;
	if (writer)
		*writer = TransactionIdIsValid(scan->dirty.xmin) ? scan->dirty.xmin : scan->dirty.xmax;
	return ExecFetchSlotHeapTuple(scan->slot, false, &should_free);
}

void
QueueSideScanEnd(QueueSideScan *scan)
{
	index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, NoLock);
}

HeapTuple
QueueSideFind(QueueSide *side, Oid index, int nkeys, ScanKey keys, ItemPointer tid,
			  TransactionId *writer)
{
	QueueSideScan scan;
	HeapTuple	row,
				found = NULL;

	/* backwards: where old versions abound, the living one is among the last */
	QueueSideScanBegin(&scan, side, index, nkeys, keys, NULL, BackwardScanDirection);
	row = QueueSideScanNext(&scan, tid, writer);
	if (row)
		found = heap_copytuple(row);
	QueueSideScanEnd(&scan);
	return found;
}

static void
key_tag(int32 queue_id, Datum key, Oid *object, uint16 *subobject)
{
	text	   *bytes = DatumGetTextPP(key);
	uint64		h = hash_bytes_extended((unsigned char *) VARDATA_ANY(bytes),
										VARSIZE_ANY_EXHDR(bytes), (uint64) (uint32) queue_id);

	*object = (Oid) (h >> 16);
	*subobject = (uint16) h;
}

void
QueueSideLockKey(QueueSide *side, int32 queue_id, Datum key)
{
	Oid			object;
	uint16		subobject;

	key_tag(queue_id, key, &object, &subobject);
	LockDatabaseObject(RelationGetRelid(side->heap), object, subobject, ExclusiveLock);
}

void
QueueSideUnlockKey(QueueSide *side, int32 queue_id, Datum key)
{
	Oid			object;
	uint16		subobject;

	key_tag(queue_id, key, &object, &subobject);
	UnlockDatabaseObject(RelationGetRelid(side->heap), object, subobject, ExclusiveLock);
}

/*-------------------------------------------------------------------------
 *
 * store.c
 *		The tables of unfinished jobs: queue.job_live and queue.job_parked.
 *
 * The hot path goes straight to heap and B-tree.  That leaves out what the
 * executor would do, so it is done, or refused, here: the tables must be heaps
 * with our columns; indexes that somebody else has made (REINDEX CONCURRENTLY
 * does, for a while) get their entries the executor's way; triggers, checks and
 * row security are not ours to honour, because nobody but a superuser may
 * touch the tables by SQL, see doc/architecture.md.
 *
 * No column of an index, nor of an index predicate, changes when a job is
 * claimed: the update is HOT as long as the page has room.
 *
 * Whoever changes a row records first that its key is to be noted if the
 * change is rolled back; see hint.c for why.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "store.h"
#include "tree.h"

#define INSERT_CHUNK	1000	/* rows of one multi-insert */
#define WALK_STEPS		8		/* index entries to pass before descending anew */
#define PRUNE_BELOW		8		/* prune a page with less than this part of it free */

/* ---------------------------------------------------------------------
 * Indexes the general way
 * --------------------------------------------------------------------- */

void
QueueIndexesOpen(QueueIndexes *indexes, Relation heap)
{
	List	   *list = RelationGetIndexList(heap);
	ListCell   *lc;

	indexes->count = 0;
	indexes->estate = NULL;
	indexes->index = palloc(Max(list_length(list), 1) * sizeof(Relation));
	indexes->info = palloc(Max(list_length(list), 1) * sizeof(IndexInfo *));
	foreach(lc, list)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
			if (indexes->estate == NULL)
				indexes->estate = CreateExecutorState();
		indexes->index[indexes->count] = index;
		indexes->info[indexes->count++] = info;
	}
	list_free(list);
}

void
QueueIndexesInsert(QueueIndexes *indexes, Relation heap, TupleTableSlot *slot)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < indexes->count; i++)
	{
		IndexInfo  *info = indexes->info[i];

		if (!info->ii_ReadyForInserts)
			continue;
		if (indexes->estate)
		{
			ExprContext *econtext = GetPerTupleExprContext(indexes->estate);

			econtext->ecxt_scantuple = slot;
			if (info->ii_Predicate != NIL)
			{
				if (info->ii_PredicateState == NULL)
					info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, indexes->estate);
				if (!ExecQual(info->ii_PredicateState, econtext))
					continue;
			}
		}
		FormIndexDatum(info, slot, indexes->estate, values, nulls);
		index_insert(indexes->index[i], values, nulls, &slot->tts_tid, heap,
					 info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 false, info);
		if (indexes->estate)
			ResetPerTupleExprContext(indexes->estate);
	}
}

static void
close_indexes(QueueIndexes *indexes, LOCKMODE lock)
{
	for (int i = 0; i < indexes->count; i++)
		index_close(indexes->index[i], lock);
	if (indexes->estate)
		FreeExecutorState(indexes->estate);
	indexes->estate = NULL;
	indexes->count = 0;
	pfree(indexes->index);
	pfree(indexes->info);
}

void
QueueIndexesClose(QueueIndexes *indexes)
{
	close_indexes(indexes, NoLock);
}

/* ---------------------------------------------------------------------
 * Open and close
 * --------------------------------------------------------------------- */

void
QueueStoreOpen(QueueStore *store, bool parked)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	Relation	heap = QueueOpenTable(parked ? cat->parked : cat->live, RowExclusiveLock);
	int			own_indexes = parked ? 4 : 2;
	List	   *list;

	if (heap->rd_tableam != GetHeapamTableAmRoutine() ||
		RelationGetDescr(heap)->natts != JOB_NATTS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not as the extension made it",
						RelationGetRelationName(heap)),
				 errhint("Undo the changes to its columns or its access method.")));

	/* opening may have processed invalidations */
	cat = QueueCatalogGet(false);
	store->parked = parked;
	store->heap = heap;
	store->id_index = index_open(parked ? cat->parked_id : cat->live_id, RowExclusiveLock);
	store->order_index = index_open(parked ? cat->parked_due : cat->live_ready, RowExclusiveLock);
	store->group_index = parked ? index_open(cat->parked_group, RowExclusiveLock) : NULL;
	store->limit_index = parked ? index_open(cat->parked_limit, RowExclusiveLock) : NULL;
	store->context = CurrentMemoryContext;
	store->slot = NULL;
	if (heap->rd_indexvalid)
		store->foreign_indexes = list_length(heap->rd_indexlist) != own_indexes;
	else
	{
		list = RelationGetIndexList(heap);
		store->foreign_indexes = list_length(list) != own_indexes;
		list_free(list);
	}
	if (unlikely(store->foreign_indexes))
		QueueIndexesOpen(&store->all, heap);
}

static void
close_store(QueueStore *store, LOCKMODE lock)
{
	if (store->slot)
		ExecDropSingleTupleTableSlot(store->slot);
	if (unlikely(store->foreign_indexes))
		close_indexes(&store->all, lock);
	if (store->limit_index)
		index_close(store->limit_index, lock);
	if (store->group_index)
		index_close(store->group_index, lock);
	index_close(store->order_index, lock);
	index_close(store->id_index, lock);
	table_close(store->heap, lock);
}

void
QueueStoreClose(QueueStore *store)
{
	close_store(store, NoLock);
}

void
QueueStoreCloseUnused(QueueStore *store)
{
	close_store(store, RowExclusiveLock);
}

HintKey
QueueStoreKey(QueueStore *store, const JobHead *job)
{
	return store->parked ? job_due_key(job) : job_order_key(job);
}

HintSlot *
QueueStoreHint(QueueStore *store, const JobHead *job, QueueSlot *slot, bool create)
{
	int			order_class = store->parked ? CLASS_PARKED : job->order_class;
	HintSlot   *hint;

	if (slot == NULL)
		return NULL;
	hint = QueueHintSlot(slot, order_class, create);
	if (unlikely(hint == NULL) && create)
		QueueXactNoHint(slot, order_class);
	return hint;
}

/* ---------------------------------------------------------------------
 * Insert, update, delete
 * --------------------------------------------------------------------- */

/* btree needs nothing from it, but the interface wants one */
static IndexInfo *
plain_index_info(void)
{
	static IndexInfo *info;

	if (info == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		info = makeNode(IndexInfo);
		info->ii_ReadyForInserts = true;
		MemoryContextSwitchTo(old);
	}
	return info;
}

/* unchanged: of a new version of a row; the server first removes entries of old ones then */
static void
insert_id_entry(QueueStore *store, const JobHead *job, ItemPointer tid, bool unchanged)
{
	Datum		values[1];
	bool		nulls[1] = {false};

	values[0] = Int64GetDatum(job->job_id);
	index_insert(store->id_index, values, nulls, tid, store->heap,
				 UNIQUE_CHECK_YES, unchanged, plain_index_info());
}

static void
insert_order_entry(QueueStore *store, const JobHead *job, ItemPointer tid, bool unchanged)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};
	int			n = 0;

	values[n++] = Int32GetDatum(job->queue_id);
	if (store->parked)
		values[n++] = TimestampTzGetDatum(job->run_at);
	else
	{
		values[n++] = Int16GetDatum(job->order_class);
		values[n++] = TimestampTzGetDatum(job->order_at);
	}
	values[n++] = Int64GetDatum(job->job_id);
	index_insert(store->order_index, values, nulls, tid, store->heap,
				 UNIQUE_CHECK_NO, unchanged, plain_index_info());
}

/* of a job that its group or its limit_key blocks: their indexes have no others */
static void
insert_place_entry(QueueStore *store, HeapTuple tuple, ItemPointer tid)
{
	const JobHead *job = JOB_HEAD(tuple);
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};
	bool		grouped = job->state == JOB_GROUPED;

	if (!grouped && job->state != JOB_LIMITED)
		return;
	Assert(store->parked);
	values[0] = Int32GetDatum(job->queue_id);
	values[1] = heap_getattr(tuple, grouped ? JOB_GROUP_KEY : JOB_LIMIT_KEY,
							 RelationGetDescr(store->heap), &nulls[1]);
	values[2] = TimestampTzGetDatum(job->order_at);
	values[3] = Int64GetDatum(job->job_id);
	index_insert(grouped ? store->group_index : store->limit_index, values, nulls, tid, store->heap,
				 UNIQUE_CHECK_NO, false, plain_index_info());
}

static TupleTableSlot *
store_slot(QueueStore *store)
{
	/* the caller may be in a context that it resets for every job */
	if (store->slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(store->context);

		store->slot = MakeSingleTupleTableSlot(RelationGetDescr(store->heap), &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	return store->slot;
}

/*
 * Slots over tuples, for table_multi_insert().  Making a slot costs more than
 * using it, so they are kept from call to call, a set for each layout of rows.
 */
TupleTableSlot **
QueueInsertSlots(QueueRowKind kind, Relation heap, HeapTuple *tuples, int count)
{
	static TupleTableSlot **slots[ROW_KINDS];
	static int	made[ROW_KINDS];

	Assert(count <= INSERT_CHUNK);
	if (made[kind] < count)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		TupleDesc	desc = CreateTupleDescCopy(RelationGetDescr(heap));

		if (slots[kind] == NULL)
			slots[kind] = palloc(INSERT_CHUNK * sizeof(TupleTableSlot *));
		for (; made[kind] < count; made[kind]++)
			slots[kind][made[kind]] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	for (int i = 0; i < count; i++)
		ExecStoreHeapTuple(tuples[i], slots[kind][i], false);
	return slots[kind];
}

/* index entries as their columns lie in them */
typedef struct IdEntry
{
	IndexTupleData head;
	int64		job_id;
} IdEntry;

typedef struct ReadyEntry
{
	IndexTupleData head;
	int32		queue_id;
	int16		order_class;
	HintKey		key;
} ReadyEntry;

typedef struct DueEntry
{
	IndexTupleData head;
	int32		queue_id;
	HintKey		key;
} DueEntry;

StaticAssertDecl(offsetof(IdEntry, job_id) == MAXALIGN(sizeof(IndexTupleData)) &&
				 offsetof(ReadyEntry, queue_id) == MAXALIGN(sizeof(IndexTupleData)) &&
				 offsetof(DueEntry, queue_id) == MAXALIGN(sizeof(IndexTupleData)),
				 "columns begin where index_form_tuple() lets them begin");

static void
begin_entry(IndexTuple entry, ItemPointer tid, Size size)
{
	entry->t_tid = *tid;
	entry->t_info = (unsigned short) size;
}

static bool
is_in_order(const QueueStore *store, const JobHead *a, const JobHead *b)
{
	if (a->queue_id != b->queue_id)
		return a->queue_id < b->queue_id;
	if (store->parked)
		return HINT_KEY_LT(job_due_key(a), job_due_key(b));
	if (a->order_class != b->order_class)
		return a->order_class < b->order_class;
	return HINT_KEY_LT(job_order_key(a), job_order_key(b));
}

/* rows of one call nearly always ascend; else they go one by one */
static void
insert_id_entries(QueueStore *store, HeapTuple *tuples, TupleTableSlot **slots, int count)
{
	IdEntry    *entries = palloc0(count * sizeof(IdEntry));
	bool		ascend = true;

	for (int i = 0; i < count; i++)
	{
		begin_entry(&entries[i].head, &slots[i]->tts_tid, sizeof(IdEntry));
		entries[i].job_id = JOB_HEAD(tuples[i])->job_id;
		ascend &= i == 0 || entries[i - 1].job_id < entries[i].job_id;
	}
	if (ascend)
		QueueTreeInsert(store->id_index, store->heap, true,
						(QueueTreeEntries) {(char *) entries, sizeof(IdEntry), count});
	else
		for (int i = 0; i < count; i++)
			insert_id_entry(store, JOB_HEAD(tuples[i]), &slots[i]->tts_tid, false);
	pfree(entries);
}

static QueueTreeEntries
ready_entries(HeapTuple *tuples, TupleTableSlot **slots, int count)
{
	ReadyEntry *entries = palloc0(count * sizeof(ReadyEntry));

	for (int i = 0; i < count; i++)
	{
		const JobHead *job = JOB_HEAD(tuples[i]);

		begin_entry(&entries[i].head, &slots[i]->tts_tid, sizeof(ReadyEntry));
		entries[i].queue_id = job->queue_id;
		entries[i].order_class = job->order_class;
		entries[i].key = job_order_key(job);
	}
	return (QueueTreeEntries) {(char *) entries, sizeof(ReadyEntry), count};
}

static QueueTreeEntries
due_entries(HeapTuple *tuples, TupleTableSlot **slots, int count)
{
	DueEntry   *entries = palloc0(count * sizeof(DueEntry));

	for (int i = 0; i < count; i++)
	{
		const JobHead *job = JOB_HEAD(tuples[i]);

		begin_entry(&entries[i].head, &slots[i]->tts_tid, sizeof(DueEntry));
		entries[i].queue_id = job->queue_id;
		entries[i].key = job_due_key(job);
	}
	return (QueueTreeEntries) {(char *) entries, sizeof(DueEntry), count};
}

static void
insert_order_entries(QueueStore *store, HeapTuple *tuples, TupleTableSlot **slots, int count)
{
	QueueTreeEntries entries;
	bool		ascend = true;

	for (int i = 1; i < count && ascend; i++)
		ascend = is_in_order(store, JOB_HEAD(tuples[i - 1]), JOB_HEAD(tuples[i]));
	if (!ascend)
	{
		for (int i = 0; i < count; i++)
			insert_order_entry(store, JOB_HEAD(tuples[i]), &slots[i]->tts_tid, false);
		return;
	}
	entries = store->parked ? due_entries(tuples, slots, count) :
		ready_entries(tuples, slots, count);
	QueueTreeInsert(store->order_index, store->heap, false, entries);
	pfree(entries.first);
}

static void
insert_chunk(QueueStore *store, HeapTuple *tuples, int count)
{
	TupleTableSlot **slots = QueueInsertSlots(ROW_JOB, store->heap, tuples, count);

	table_multi_insert(store->heap, slots, count, GetCurrentCommandId(true), 0, NULL);
	if (unlikely(store->foreign_indexes))
	{
		for (int i = 0; i < count; i++)
			QueueIndexesInsert(&store->all, store->heap, slots[i]);
	}
	else
	{
		insert_id_entries(store, tuples, slots, count);
		insert_order_entries(store, tuples, slots, count);
		for (int i = 0; i < count; i++)
			insert_place_entry(store, tuples[i], &slots[i]->tts_tid);
	}
	for (int i = 0; i < count; i++)
		ExecClearTuple(slots[i]);
}

void
QueueStoreInsert(QueueStore *store, HeapTuple *tuples, int count)
{
	if (count == 1)
	{
		heap_insert(store->heap, tuples[0], GetCurrentCommandId(true), 0, NULL);
		if (unlikely(store->foreign_indexes))
		{
			TupleTableSlot *slot = store_slot(store);

			ExecStoreHeapTuple(tuples[0], slot, false);
			slot->tts_tid = tuples[0]->t_self;
			QueueIndexesInsert(&store->all, store->heap, slot);
			ExecClearTuple(slot);
			return;
		}
		insert_id_entry(store, JOB_HEAD(tuples[0]), &tuples[0]->t_self, false);
		insert_order_entry(store, JOB_HEAD(tuples[0]), &tuples[0]->t_self, false);
		insert_place_entry(store, tuples[0], &tuples[0]->t_self);
		return;
	}
	for (int done = 0; done < count; done += INSERT_CHUNK)
		insert_chunk(store, tuples + done, Min(INSERT_CHUNK, count - done));
}

/* lock a row as an update does, but do not wait for anybody */
static TM_Result
lock_row(Relation heap, ItemPointer tid)
{
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	TM_FailureData failure;
	TM_Result	result = table_tuple_lock(heap, tid, SnapshotAny, slot,
										  GetCurrentCommandId(true),
										  LockTupleNoKeyExclusive, LockWaitSkip, 0, &failure);

	ExecDropSingleTupleTableSlot(slot);
	return result;
}

#ifndef USE_ASSERT_CHECKING
/*
 * Could it be that the row is only locked, by those who enqueue its children?
 * Of several lockers, one may have been changing it and given up.
 */
static bool
may_be_locked_only(Relation heap, ItemPointer tid)
{
	Buffer		buffer = ReadBuffer(heap, ItemPointerGetBlockNumber(tid));
	ItemId		item;
	bool		locked = false;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	item = PageGetItemId(BufferGetPage(buffer), ItemPointerGetOffsetNumber(tid));
	if (ItemIdIsNormal(item))
	{
		HeapTupleHeader header = (HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item);

		locked = (header->t_infomask & HEAP_XMAX_IS_MULTI) != 0 ||
			(HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask) &&
			 HEAP_XMAX_IS_KEYSHR_LOCKED(header->t_infomask));
	}
	UnlockReleaseBuffer(buffer);
	return locked;
}
#endif

/*
 * heap_update() without waiting gives up at any lock, even one that does not
 * conflict; then the row is locked first, which costs a WAL record more.  A
 * server built with assertions always has it so: heap_update() asserts there
 * that nobody needs it ("no caller uses that case").
 */
TM_Result
QueueTupleUpdate(Relation heap, ItemPointer tid, TupleTableSlot *slot, bool wait,
				 QUEUE_UPDATE_INDEXES_TYPE *update_indexes)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	TM_Result	result;

#ifndef USE_ASSERT_CHECKING
	result = queue_tuple_update(heap, tid, slot, GetCurrentCommandId(true), wait,
								&failure, &lockmode, update_indexes);
	if (likely(result != TM_BeingModified) || !may_be_locked_only(heap, tid))
		return result;
#endif
	if (!wait && (result = lock_row(heap, tid)) != TM_Ok)
		return result;
	return queue_tuple_update(heap, tid, slot, GetCurrentCommandId(true), true,
							  &failure, &lockmode, update_indexes);
}

TM_Result
QueueStoreUpdate(QueueStore *store, ItemPointer tid, const JobHead *old, QueueSlot *slot,
				 HeapTuple tuple, bool wait)
{
	TupleTableSlot *tts = store_slot(store);
	QUEUE_UPDATE_INDEXES_TYPE update_indexes = 0;
	TM_Result	result;

	QueueXactNoteAbort(QueueStoreHint(store, old, slot, true), QueueStoreKey(store, old));
	ExecStoreHeapTuple(tuple, tts, false);
	result = QueueTupleUpdate(store->heap, tid, tts, wait, &update_indexes);
	if (result == TM_Ok && update_indexes)
	{
		if (unlikely(store->foreign_indexes))
			QueueIndexesInsert(&store->all, store->heap, tts);
		else
		{
			insert_id_entry(store, JOB_HEAD(tuple), &tts->tts_tid, true);
			insert_order_entry(store, JOB_HEAD(tuple), &tts->tts_tid, true);
			insert_place_entry(store, tuple, &tts->tts_tid);
		}
	}
	ExecClearTuple(tts);
	return result;
}

TM_Result
QueueStoreDelete(QueueStore *store, ItemPointer tid, const JobHead *old, QueueSlot *slot,
				 bool wait, bool moving)
{
	TM_FailureData failure;

	QueueXactNoteAbort(QueueStoreHint(store, old, slot, true), QueueStoreKey(store, old));
	return queue_tuple_delete(store->heap, tid, GetCurrentCommandId(true), wait,
							  &failure, moving);
}

/* ---------------------------------------------------------------------
 * Find
 * --------------------------------------------------------------------- */

Snapshot
QueueFreshSnapshot(void)
{
	if (IsolationIsSerializable())
		return SnapshotSelf;
	return RegisterSnapshot(GetLatestSnapshot());
}

void
QueueReleaseSnapshot(Snapshot snapshot)
{
	if (snapshot != SnapshotSelf)
		UnregisterSnapshot(snapshot);
}

/* the tuple in a slot of a heap, not copied */
static HeapTuple
slot_tuple(TupleTableSlot *slot)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

	Assert(!should_free);
	return tuple;
}

void
QueueScanBegin(QueueScan *scan, QueueStore *store, Snapshot snapshot,
			   int32 queue_id, int order_class, HintKey from, HintKey until,
			   bool may_read_ahead)
{
	Assert(!may_read_ahead || (!store->parked && IsMVCCSnapshot(snapshot)));
	scan->store = store;
	scan->snapshot = snapshot;
	scan->queue_id = queue_id;
	scan->order_class = order_class;
	scan->may_read_ahead = may_read_ahead;
	scan->scan = NULL;
	scan->buffer = scan->map = InvalidBuffer;
	QueueScanSeek(scan, from, until);
}

/*
 * Keys for what is at or behind from, and before until.  All of them must end
 * the scan as soon as one is not met, which of a row comparison is true for
 * the first column only.  So jobs that were enqueued together are found by
 * their ids.
 */
static int
scan_keys(QueueScan *scan, HintKey from)
{
	bool		open = !HINT_KEY_LT(scan->until, HINT_KEY_MAX);
	ScanKey		key = scan->key;
	int			attno = 1;

	ScanKeyInit(key++, attno++, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(scan->queue_id));
	if (!scan->store->parked)
		ScanKeyInit(key++, attno++, BTEqualStrategyNumber, F_INT2EQ,
					Int16GetDatum((int16) scan->order_class));
	if (!open && scan->until.at == from.at)
	{
		ScanKeyInit(key++, attno, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(from.at));
		ScanKeyInit(key++, attno + 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from.id));
		ScanKeyInit(key++, attno + 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(scan->until.id));
		return key - scan->key;
	}
	ScanKeyEntryInitialize(&scan->row[0], SK_ROW_MEMBER, attno, BTGreaterEqualStrategyNumber,
						   InvalidOid, InvalidOid, F_BTINT8CMP, Int64GetDatum(from.at));
	ScanKeyEntryInitialize(&scan->row[1], SK_ROW_MEMBER | SK_ROW_END, attno + 1,
						   BTGreaterEqualStrategyNumber,
						   InvalidOid, InvalidOid, F_BTINT8CMP, Int64GetDatum(from.id));
	memset(key, 0, sizeof(ScanKeyData));
	key->sk_flags = SK_ROW_HEADER;
	key->sk_attno = attno;
	key->sk_strategy = BTGreaterEqualStrategyNumber;
	key->sk_argument = PointerGetDatum(scan->row);
	key++;
	if (!open)
	{
		/* the ids of until do not matter */
		scan->until.id = PG_INT64_MIN;
		ScanKeyInit(key++, attno, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(scan->until.at));
	}
	return key - scan->key;
}

void
QueueScanSeek(QueueScan *scan, HintKey from, HintKey until)
{
	QueueStore *store = scan->store;
	int			nkeys;

	scan->here = from;
	scan->until = HINT_KEY_LT(from, until) ? until : HINT_KEY_MAX;
	scan->ended = false;
	scan->ahead_count = scan->ahead_next = 0;
	nkeys = scan_keys(scan, from);
	Assert(nkeys <= lengthof(scan->key));
	if (scan->scan && scan->scan->numberOfKeys != nkeys)
	{
		index_endscan(scan->scan);
		scan->scan = NULL;
	}
	if (scan->scan == NULL)
	{
		scan->scan = queue_index_beginscan(store->heap, store->order_index, scan->snapshot, nkeys);
		scan->scan->xs_want_itup = scan->may_read_ahead;
	}
	index_rescan(scan->scan, scan->key, nkeys, NULL, 0);
}

/* the next index entry, or NULL */
static ItemPointer
next_entry(QueueScan *scan)
{
	ItemPointer entry;

	CHECK_FOR_INTERRUPTS();
	while (!scan->ended)
	{
		entry = index_getnext_tid(scan->scan, ForwardScanDirection);
		if (entry)
			return entry;
		if (HINT_KEY_LT(scan->until, HINT_KEY_MAX))
			QueueScanSeek(scan, scan->until, HINT_KEY_MAX);
		else
			scan->ended = true;		/* asked again, it would begin anew */
	}
	return NULL;
}

int
QueueScanAhead(QueueScan *scan, int count, HintKey *behind)
{
	TupleDesc	desc = RelationGetDescr(scan->store->order_index);
	HintKey		here = scan->here;
	int			n = 0;
	ItemPointer entry;
	bool		null;

	Assert(scan->may_read_ahead && !QueueScanHasAhead(scan));
	count = Min(count, SCAN_AHEAD);
	while (n < count && (entry = next_entry(scan)) != NULL)
		scan->ahead[n++] = *entry;
	if (n == count)
	{
		behind->at = DatumGetInt64(index_getattr(scan->scan->xs_itup, 3, desc, &null));
		behind->id = DatumGetInt64(index_getattr(scan->scan->xs_itup, 4, desc, &null));
		*behind = hint_key_next(*behind);
	}
	else
		*behind = HINT_KEY_MAX;
	scan->here = here;			/* of these, not of the part that the last is in */
	scan->ahead_count = n;
	scan->ahead_next = 0;
	return n;
}

/*
 * The visible row of the chain that an index entry points to, as the server's
 * own index scans fetch it.  They prune a page as soon as it could take no
 * insert, and pages of ours are made half full: that would be once for each
 * time somebody takes a job from one.  Here it is left until there is hardly
 * room for another version; the rest is for vacuum, a page at a time.
 */
static HeapTuple
fetch_row(QueueScan *scan, ItemPointer tid)
{
	Relation	heap = scan->store->heap;
	Buffer		before = scan->buffer;
	bool		all_dead = false;
	bool		found;

	scan->buffer = ReleaseAndReadBuffer(before, heap, ItemPointerGetBlockNumber(tid));
	if (scan->buffer != before)
	{
		Page		page = BufferGetPage(scan->buffer);

		/* an update that found no room has marked it full */
		if (PageIsFull(page) || PageGetHeapFreeSpace(page) < BLCKSZ / PRUNE_BELOW)
			queue_page_prune(heap, scan->buffer, &scan->map);
	}
	LockBuffer(scan->buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(tid, heap, scan->buffer, scan->snapshot, &scan->tuple,
								   &all_dead, true);
	LockBuffer(scan->buffer, BUFFER_LOCK_UNLOCK);
	if (!found)
	{
		/* nobody will ever see the entry's rows: tell the index */
		scan->scan->kill_prior_tuple = all_dead && !scan->scan->xactStartedInRecovery;
		return NULL;
	}
	pgstat_count_heap_fetch(scan->scan->indexRelation);
	scan->tuple.t_self = *tid;
	return &scan->tuple;
}

HeapTuple
QueueScanNext(QueueScan *scan, ItemPointer tid)
{
	ItemPointer entry;
	HeapTuple	row;

	while (QueueScanHasAhead(scan))
	{
		CHECK_FOR_INTERRUPTS();
		*tid = scan->ahead[scan->ahead_next++];
		row = fetch_row(scan, tid);
		if (row)
		{
			scan->here = hint_key_next(job_order_key(JOB_HEAD(row)));
			return row;
		}
		if (scan->scan->kill_prior_tuple)
		{
			/*
			 * The index can be told only entry by entry.  Where one is dead, more
			 * are likely to be: from here on, each is read when it is wanted.
			 */
			scan->scan->kill_prior_tuple = false;
			scan->may_read_ahead = false;
			QueueScanSeek(scan, scan->here, scan->until);
		}
	}

	/*
	 * Nor does it end where those end that were read ahead: the last of them may
	 * be the old entry of a row, whose new one is next, and the caller takes it
	 * that all up to its key have been tried.
	 */
	while ((entry = next_entry(scan)) != NULL)
	{
		*tid = *entry;
		row = fetch_row(scan, tid);
		if (row)
		{
			if (scan->may_read_ahead)
				scan->here = hint_key_next(job_order_key(JOB_HEAD(row)));
			return row;
		}
	}
	return NULL;
}

void
QueueScanEnd(QueueScan *scan)
{
	index_endscan(scan->scan);
	if (BufferIsValid(scan->buffer))
		ReleaseBuffer(scan->buffer);
	if (BufferIsValid(scan->map))
		ReleaseBuffer(scan->map);
}

/*
 * Who takes a job usually settles it in the same session.  So each backend
 * remembers where the jobs lie that it took last, and saves the way through
 * the index.  It is a guess: the row there must be visible and bear the id.
 */
typedef struct Remembered
{
	int64		job_id;
	ItemPointerData root;		/* of the chain of row versions */
} Remembered;

#define REMEMBERED	4096		/* a power of two */
static Remembered *remembered;

void
QueueStoreRemember(int64 job_id, ItemPointer root)
{
	Remembered *entry;

	if (remembered == NULL)
		remembered = MemoryContextAllocZero(TopMemoryContext, REMEMBERED * sizeof(Remembered));
	entry = &remembered[job_id & (REMEMBERED - 1)];
	entry->job_id = job_id;
	entry->root = *root;
}

/*
 * As an index scan fetches a row, but without pruning the page: its rows are
 * about to be deleted, and vacuum comes for all of them at once.
 */
static HeapTuple
fetch_remembered(QueueWalk *walk, int64 job_id)
{
	Remembered *entry = &remembered[job_id & (REMEMBERED - 1)];
	ItemPointerData tid = entry->root;
	Relation	heap = walk->store->heap;
	HeapTupleData tuple;
	bool		found;

	/* an empty entry has the id 0, which somebody may ask for */
	if (entry->job_id != job_id || !ItemPointerIsValid(&tid))
		return NULL;
	if (walk->blocks == 0)
		walk->blocks = RelationGetNumberOfBlocks(heap);
	/* somebody may have rewritten the table since */
	if (ItemPointerGetBlockNumber(&tid) >= walk->blocks)
		return NULL;
	walk->buffer = ReleaseAndReadBuffer(walk->buffer, heap, ItemPointerGetBlockNumber(&tid));
	LockBuffer(walk->buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&tid, heap, walk->buffer, walk->snapshot, &tuple, NULL, true);
	LockBuffer(walk->buffer, BUFFER_LOCK_UNLOCK);
	if (!found || JOB_HEAD(&tuple)->job_id != job_id)
		return NULL;
	tuple.t_self = tid;
	walk->tuple = tuple;
	return &walk->tuple;
}

void
QueueWalkBegin(QueueWalk *walk, QueueStore *store, Snapshot snapshot)
{
	walk->store = store;
	walk->snapshot = snapshot;
	walk->scan = NULL;
	walk->slot = NULL;
	walk->buffer = InvalidBuffer;
	walk->blocks = 0;
	walk->positioned = walk->have = false;
}

/*
 * The visible row of an id, or NULL.  Ascending ids are found by walking on;
 * where the gap is wide, by descending anew.
 */
HeapTuple
QueueWalkTo(QueueWalk *walk, int64 job_id, ItemPointer tid)
{
	int			steps = 0;

	CHECK_FOR_INTERRUPTS();
	if (remembered && !walk->store->parked)
	{
		HeapTuple	tuple = fetch_remembered(walk, job_id);

		if (tuple)
		{
			*tid = tuple->t_self;
			return tuple;
		}
	}
	if (walk->scan == NULL)
	{
		walk->scan = queue_index_beginscan(walk->store->heap, walk->store->id_index,
										   walk->snapshot, 1);
		walk->slot = table_slot_create(walk->store->heap, NULL);
	}
	if (!walk->positioned || (walk->have && walk->current > job_id))
	{
		/* behind us already: absent, unless the ids do not ascend */
		walk->positioned = false;
	}
	while (!(walk->positioned && walk->have && walk->current >= job_id))
	{
		if (!walk->positioned || steps++ > WALK_STEPS)
		{
			ScanKeyData key;

			ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(job_id));
			index_rescan(walk->scan, &key, 1, NULL, 0);
			walk->positioned = true;
			steps = 0;
		}
		CHECK_FOR_INTERRUPTS();
		walk->have = index_getnext_slot(walk->scan, ForwardScanDirection, walk->slot);
		if (!walk->have)
		{
			walk->positioned = false;
			return NULL;
		}
		walk->current = JOB_HEAD(slot_tuple(walk->slot))->job_id;
	}
	if (walk->current != job_id)
		return NULL;
	*tid = walk->slot->tts_tid;
	return slot_tuple(walk->slot);
}

void
QueueWalkEnd(QueueWalk *walk)
{
	if (walk->scan)
	{
		index_endscan(walk->scan);
		ExecDropSingleTupleTableSlot(walk->slot);
	}
	if (BufferIsValid(walk->buffer))
		ReleaseBuffer(walk->buffer);
}

HeapTuple
QueueStoreFind(QueueStore *store, Snapshot snapshot, int64 job_id, ItemPointer tid)
{
	QueueWalk	walk;
	HeapTuple	tuple;

	QueueWalkBegin(&walk, store, snapshot);
	tuple = QueueWalkTo(&walk, job_id, tid);
	if (tuple)
		tuple = heap_copytuple(tuple);
	QueueWalkEnd(&walk);
	return tuple;
}

bool
QueueStoreNextClass(QueueStore *store, int32 queue_id, int above, int *order_class)
{
	ScanKeyData key[2];
	IndexScanDesc scan;
	bool		found;

	Assert(!store->parked);
	if (above >= PG_INT16_MAX)
		return false;
	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyInit(&key[1], 2, BTGreaterEqualStrategyNumber, F_INT2GE, Int16GetDatum((int16) (above + 1)));
	/* index entries tell enough: an entry of a dead row costs one empty look */
	scan = queue_index_beginscan(store->heap, store->order_index, SnapshotSelf, 2);
	scan->xs_want_itup = true;
	index_rescan(scan, key, 2, NULL, 0);
	found = index_getnext_tid(scan, ForwardScanDirection) != NULL;
	if (found)
	{
		bool		null;

		*order_class = DatumGetInt16(index_getattr(scan->xs_itup, 2,
												   RelationGetDescr(store->order_index), &null));
	}
	index_endscan(scan);
	return found;
}

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
#include "access/table.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "compat.h"
#include "store.h"
#include "tree.h"

#define INSERT_CHUNK	1000	/* rows of one multi-insert */

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

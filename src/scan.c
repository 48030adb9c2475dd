/*-------------------------------------------------------------------------
 *
 * scan.c
 *		Find rows in the tables of unfinished jobs: in their order, or by id.
 *
 * Takers walk through a class of the ready index, and read heap pages their own
 * way: see fetch_row().  Who settles a job finds it by its id, if it can without
 * the index.  A row that is returned lies in its page, which is pinned, until the
 * next call; only QueueStoreFind() returns a copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/nbtree.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "scan.h"

#define WALK_STEPS		8		/* index entries to pass before descending anew */
#define PRUNE_BELOW		8		/* prune a page with less than this part of it free */

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

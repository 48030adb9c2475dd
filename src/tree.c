/*-------------------------------------------------------------------------
 *
 * tree.c
 *		Many entries into a B-tree at once.
 *
 * The server inserts entries one by one: each time it descends, searches the
 * leaf, and locks it.  That was three quarters of what it cost to enqueue a
 * thousand jobs, whose entries are neighbours in every index of ours.  Here all
 * that belong into one leaf are put there under one lock.
 *
 * A leaf is changed here only in the way that is simplest: entries are added
 * between two neighbours, on a leaf that has room for them.  What that does to
 * the page, and to the WAL, is what the server does to insert one, for each of
 * them (_bt_insertonpg()); the outcome is the same.  All else that may have to
 * happen is left to the server, for one entry, after which we go on: a page is
 * split, dead entries are removed to make room, a duplicate is reported or
 * waited for.
 *
 * Locks: the leaf's buffer, exclusively, from the search to the last entry, as
 * the server has it for one; one leaf at a time, and nothing else.  So for
 * everybody else it is as if the entries had come one by one.
 * - A duplicate cannot slip in: of two who insert the same key, each looks for
 *   it on the first page where it could be, and inserts there before it lets go
 *   of the lock.  Where the page to the right would have to be looked at, too,
 *   the server does it.
 * - Serializable transactions are checked for conflicts as the server does.
 * - Generic WAL would be less of it, but would take hints along that are not
 *   logged (entries marked dead): on a standby the page would be another one.
 *
 * A crash leaves a leaf with all entries, some or none.  An error, or an
 * interrupt, comes between two leaves.  Rows without entries are those of a
 * transaction that has not committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/nbtxlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"

#include "compat.h"
#include "tree.h"

static IndexTuple
entry_at(const QueueTreeEntries *entries, int i)
{
	return (IndexTuple) (entries->first + i * entries->size);
}

#ifdef USE_ASSERT_CHECKING
/* is it what the server would have formed? */
static bool
is_as_formed(Relation index, IndexTuple entry, Size size)
{
	TupleDesc	desc = RelationGetDescr(index);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	IndexTuple	formed;
	bool		same;

	index_deform_tuple(entry, desc, values, nulls);
	formed = index_form_tuple(desc, values, nulls);
	formed->t_tid = entry->t_tid;
	same = IndexTupleSize(formed) == size && memcmp(formed, entry, size) == 0;
	pfree(formed);
	return same;
}
#endif

/* without a TID, it is in front of all entries with the same columns */
static BTScanInsert
search_key(Relation index, IndexTuple entry)
{
	BTScanInsert key = _bt_mkscankey(index, entry);

	key->scantid = NULL;
	return key;
}

static bool
is_before(Relation index, IndexTuple entry, Page page, OffsetNumber offset)
{
	BTScanInsert key = search_key(index, entry);
	bool		before = _bt_compare(index, key, page, offset) < 0;

	pfree(key);
	return before;
}

/* how many of the first so many belong in front of what stands at offset now */
static int
count_before(Relation index, Page page, OffsetNumber offset, const QueueTreeEntries *entries,
			 int count)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);
	int			before = 0;
	int			step = 1;

	if (offset > PageGetMaxOffsetNumber(page))
	{
		if (P_RIGHTMOST(opaque))
			return count;
		offset = P_HIKEY;
	}
	/* nearly always all of them */
	if (is_before(index, entry_at(entries, count - 1), page, offset))
		return count;
	/* else ids of others come between: few of them, or a block */
	while (before + step < count && is_before(index, entry_at(entries, before + step - 1), page, offset))
	{
		before += step;
		step *= 2;
	}
	count = Min(count - 1, before + step - 1);
	while (before < count)
	{
		int			middle = before + (count - before) / 2;

		if (is_before(index, entry_at(entries, middle), page, offset))
			before = middle + 1;
		else
			count = middle;
	}
	return before;
}

static void
add_to_leaf(Relation index, Buffer leaf, OffsetNumber offset, IndexTuple entry, Size size)
{
	Page		page = BufferGetPage(leaf);
	xl_btree_insert record = {offset};
	XLogRecPtr	lsn;

	START_CRIT_SECTION();
	if (PageAddItem(page, (char *) entry, size, offset, false, false) == InvalidOffsetNumber)
		elog(PANIC, "failed to add entry to block %u of index \"%s\"",
			 BufferGetBlockNumber(leaf), RelationGetRelationName(index));
	MarkBufferDirty(leaf);
	XLogBeginInsert();
	XLogRegisterData((char *) &record, SizeOfBtreeInsert);
	XLogRegisterBuffer(0, leaf, REGBUF_STANDARD);
	XLogRegisterBufData(0, (char *) entry, size);
	lsn = XLogInsert(RM_BTREE_ID, XLOG_BTREE_INSERT_LEAF);
	PageSetLSN(page, lsn);
	END_CRIT_SECTION();
}

/* add those that belong into the leaf of the first one; 0: it is not that simple */
static int
insert_into_leaf(Relation index, Relation heap, const QueueTreeEntries *entries)
{
	BTInsertStateData state = {0};
	BTStack		stack;
	Page		page;
	int			count;

	state.itup = entry_at(entries, 0);
	state.itemsz = entries->size;
	state.itup_key = search_key(index, state.itup);
	/* makes the first page, if there is none, and ends splits that broke off */
	stack = queue_bt_search(index, heap, state.itup_key, &state.buf);
	page = BufferGetPage(state.buf);
	Assert(P_ISLEAF(BTPageGetOpaque(page)) && !P_IGNORE(BTPageGetOpaque(page)));
	Assert(!P_INCOMPLETE_SPLIT(BTPageGetOpaque(page)) && state.itup_key->heapkeyspace);

	count = Min(entries->count,
				PageGetExactFreeSpace(page) / (entries->size + sizeof(ItemIdData)));
	if (count > 0)
	{
		OffsetNumber offset = _bt_binsrch_insert(index, &state);

		count = count_before(index, page, offset, entries, count);
		if (count > 0)
			CheckForSerializableConflictIn(index, NULL, BufferGetBlockNumber(state.buf));
		for (int i = 0; i < count; i++)
			add_to_leaf(index, state.buf, offset + i, entry_at(entries, i), entries->size);
	}
	_bt_relbuf(index, state.buf);
	for (BTStack up; stack; stack = up)
	{
		up = stack->bts_parent;
		pfree(stack);
	}
	pfree(state.itup_key);
	return count;
}

void
QueueTreeInsert(Relation index, Relation heap, bool unique, QueueTreeEntries entries)
{
	Assert(entries.count == 0 || is_as_formed(index, entry_at(&entries, 0), entries.size));
	while (entries.count > 0)
	{
		int			done = 0;

		CHECK_FOR_INTERRUPTS();
		if (RelationNeedsWAL(index))
			done = insert_into_leaf(index, heap, &entries);
		if (done == 0)
		{
			_bt_doinsert(index, entry_at(&entries, 0),
						 unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, heap);
			done = 1;
		}
		entries.first += done * entries.size;
		entries.count -= done;
	}
}

/*-------------------------------------------------------------------------
 *
 * flow.c
 *		Flows: jobs that wait until other jobs are completed.
 *
 * queue.dependency has a row for each parent that a blocked job still waits
 * for.  Whoever settles a parent removes its rows and, if none is left for a
 * child, lets the child go, as part of the same transaction.
 *
 * A parent must not end unseen while a child is being enqueued that waits for
 * it.  So the enqueue locks the parent's row as a foreign key would: whoever
 * ends the parent deletes its row, waits there, and then sees the child.  The
 * claim of a locked job is skipped, not awaited; so its key is noted at the end
 * of the transaction, however it ends.
 *
 * Two last parents that end at the same instant each see the other's row, not
 * yet gone for certain.  Neither waits: who finds nothing but rows that others
 * are deleting has the maintenance worker look at the child after its own
 * commit (QueueXactCheck), and again as long as one of the others is under
 * way.  The last one in time to delete a row sees all others deleted, or being
 * deleted, so one of the two ways finds the child without parents.  It is let
 * go once, as its parked row can be deleted once.
 *
 * If a parent fails for good, or is cancelled, the child's own rule says what
 * becomes of it.  The one that takes the child's row away decides; rows of
 * other parents that are left over are harmless: who meets them finds no child.
 * Children are visited in the order of their ids, so that two parents' settlers
 * do not wait for each other.
 *
 * A plain job pays nothing: its queue's slot tells whether any job was ever
 * made to wait for one of this queue since the maintenance worker last found
 * that none does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/multixact.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "flow.h"
#include "internal.h"
#include "scan.h"
#include "side.h"

enum
{
	DEP_PARENT_ID = 1, DEP_CHILD_ID, DEP_PARENT_QUEUE_ID, DEP_CHILD_QUEUE_ID,
	DEP_ON_PARENT_FAILURE
};
#define DEP_NATTS	DEP_ON_PARENT_FAILURE

static const struct
{
	OnParentFailure rule;
	const char *name;
}			rules[] = {
	{PARENT_FAIL, "fail"},
	{PARENT_RUN, "run"},
	{PARENT_BLOCK, "block"},
};

/* ---------------------------------------------------------------------
 * A child is enqueued
 * --------------------------------------------------------------------- */

/* where the search for a parent has led */
typedef struct Parent
{
	int64		job_id;
	int32		queue_id;
	JobState	state;			/* finished, or JOB_WAITING for any other */
	bool		found;
	bool		looked;			/* among the finished ones, in vain */
} Parent;

/* some of a queue's jobs may have dependents from now on */
static void
set_dependents(QueueSlot *slot)
{
	if (slot)
		pg_atomic_write_u32(&slot->dependents, 1);
}

static bool
is_locked_by_us(HeapTupleHeader header)
{
	TransactionId xmax = HeapTupleHeaderGetRawXmax(header);
	MultiXactMember *members;
	int			count;
	bool		ours = false;

	if (header->t_infomask & HEAP_XMAX_INVALID)
		return false;
	if (!(header->t_infomask & HEAP_XMAX_IS_MULTI))
		return TransactionIdIsCurrentTransactionId(xmax);
	count = GetMultiXactIdMembers(xmax, &members, false,
								  HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask));
	for (int i = 0; i < count && !ours; i++)
		ours = TransactionIdIsCurrentTransactionId(members[i].xid);
	if (count > 0)
		pfree(members);
	return ours;
}

/*
 * Is every version of the row that is being made locked, too?  The server's
 * lock misses one if a first updater rolled back while we waited for it and a
 * second one was there before we woke.  Then returns who that is.
 */
static TransactionId
missed_updater(Relation heap, ItemPointerData tid)
{
	HeapTupleData tuple;
	Buffer		buffer;
	TransactionId missed = InvalidTransactionId;

	for (;;)
	{
		TransactionId updater = InvalidTransactionId;
		ItemPointerData next;
		bool		locked;

		tuple.t_self = tid;
		if (!heap_fetch(heap, SnapshotAny, &tuple, &buffer, false))
			return missed;		/* made by one that rolled back */
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		locked = is_locked_by_us(tuple.t_data);
		if (!(tuple.t_data->t_infomask & HEAP_XMAX_INVALID) &&
			!HEAP_XMAX_IS_LOCKED_ONLY(tuple.t_data->t_infomask))
			updater = HeapTupleHeaderGetUpdateXid(tuple.t_data);
		next = tuple.t_data->t_ctid;
		UnlockReleaseBuffer(buffer);

		if (!locked)
			return missed;
		if (!TransactionIdIsValid(updater) || TransactionIdIsCurrentTransactionId(updater) ||
			TransactionIdDidAbort(updater) || ItemPointerEquals(&next, &tid))
			return InvalidTransactionId;
		missed = updater;
		tid = next;
	}
}

/*
 * Lock a parent in one of the tables; false: not there.  *again: it was, but
 * has changed since the snapshot.
 */
static bool
lock_parent(QueueStore *store, QueueWalk *walk, Snapshot snapshot, Parent *parent, bool *again)
{
	ItemPointerData tid;
	HeapTuple	row = QueueWalkTo(walk, parent->job_id, &tid);
	JobHead		head;
	QueueSlot  *slot;
	HintSlot   *hint;
	TupleTableSlot *locked;
	TM_FailureData failure;
	TM_Result	result;

	if (row == NULL)
		return false;
	head = *JOB_HEAD(row);
	slot = QueueXactSlot(head.queue_id);
	hint = QueueStoreHint(store, &head, slot, true);
	QueueXactNoteCommit(hint, QueueStoreKey(store, &head));
	QueueXactNoteAbort(hint, QueueStoreKey(store, &head));
	locked = table_slot_create(store->heap, NULL);
	/* also the version that somebody who takes it right now is making */
	result = table_tuple_lock(store->heap, &tid, snapshot, locked, GetCurrentCommandId(true),
							  LockTupleKeyShare, LockWaitBlock,
							  TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS, &failure);
	ExecDropSingleTupleTableSlot(locked);
	if (result == TM_Ok)
	{
		TransactionId missed = missed_updater(store->heap, tid);

		if (TransactionIdIsValid(missed))
		{
			XactLockTableWait(missed, NULL, NULL, XLTW_None);
			result = TM_Updated;
		}
	}
	if (result != TM_Ok)
	{
		*again = true;
		return false;
	}
	set_dependents(slot);
	parent->found = true;
	parent->queue_id = head.queue_id;
	parent->state = JOB_WAITING;
	return true;
}

static void
lock_parents(Parent *parents, int count)
{
	int			missing = count;

	for (bool again = true; again && missing > 0;)
	{
		Snapshot	snapshot;

		again = false;
		CHECK_FOR_INTERRUPTS();
		CommandCounterIncrement();
		snapshot = QueueFreshSnapshot();
		for (int parked = 0; parked < 2; parked++)
		{
			QueueStore	store;
			QueueWalk	walk;

			QueueStoreOpen(&store, parked == 1);
			QueueWalkBegin(&walk, &store, snapshot);
			for (int i = 0; i < count; i++)
				if (!parents[i].found &&
					lock_parent(&store, &walk, snapshot, &parents[i], &again))
					missing--;
			QueueWalkEnd(&walk);
			QueueStoreClose(&store);
		}
		QueueReleaseSnapshot(snapshot);
	}
}

/*
 * Those that are over already, if they are kept.  One that a child waits for
 * all the same is locked, as it may be retried: who does that waits for us, and
 * the end of the job then finds the child.  False: one has just been retried.
 */
static bool
find_finished(Parent *parents, int count, char rule)
{
	static SPIPlanPtr plans[2];
	SPIPlanPtr	plan;
	Oid			type = INT8OID;
	bool		lock = rule == PARENT_BLOCK;
	bool		again = false;

	QueueSpiConnect();
	if (plans[lock] == NULL)
	{
		plan = SPI_prepare_cursor(lock ? "SELECT queue_id, state FROM queue.job_archive"
								  " WHERE job_id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE" :
								  "SELECT queue_id, state FROM queue.job_archive"
								  " WHERE job_id OPERATOR(pg_catalog.=) $1",
								  1, &type, CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
		plans[lock] = plan;
	}
	plan = plans[lock];
	for (int i = 0; i < count; i++)
	{
		Datum		value = Int64GetDatum(parents[i].job_id);
		bool		null;

		if (parents[i].found)
			continue;
		if (SPI_execute_plan(plan, &value, NULL, false, 1) != SPI_OK_SELECT)
			elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
		if (SPI_processed == 0)
		{
			again |= lock && !parents[i].looked;
			parents[i].looked = true;
			continue;
		}
		parents[i].found = true;
		parents[i].queue_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
														  SPI_tuptable->tupdesc, 1, &null));
		parents[i].state = (JobState) DatumGetChar(SPI_getbinval(SPI_tuptable->vals[0],
																 SPI_tuptable->tupdesc, 2, &null));
	}
	QueueSpiFinish();
	return !again;
}

static int
compare_parents(const void *a, const void *b)
{
	int64		x = ((const Parent *) a)->job_id;
	int64		y = ((const Parent *) b)->job_id;

	return x < y ? -1 : x > y;
}

/* the parents of a request in the order of their ids, without doubles */
static Parent *
find_parents(const QueueRequest *request, int *count)
{
	Parent	   *parents = palloc0(request->num_parents * sizeof(Parent));
	int			n = 0;

	for (int i = 0; i < request->num_parents; i++)
		parents[i].job_id = request->parents[i];
	qsort(parents, request->num_parents, sizeof(Parent), compare_parents);
	for (int i = 0; i < request->num_parents; i++)
		if (n == 0 || parents[n - 1].job_id != parents[i].job_id)
			parents[n++] = parents[i];
	do
		lock_parents(parents, n);
	while (!find_finished(parents, n, request->on_parent_failure));
	for (int i = 0; i < n; i++)
	{
		QueueSettings settings;

		/* who has no privilege on its queue does not learn that it exists */
		if (!parents[i].found || !QueueSettingsById(parents[i].queue_id, &settings) ||
			QueuePrivileges(&settings) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("job %lld, which depends_on names, does not exist",
							(long long) parents[i].job_id),
					 errdetail("No such job is unfinished or kept, in a queue that the caller may use."),
					 errhint("A completed job is known as long as its queue keeps it.")));
	}
	*count = n;
	return parents;
}

static const char *
rule_name(char rule)
{
	for (int i = 0; i < lengthof(rules); i++)
		if (rules[i].rule == rule)
			return rules[i].name;
	elog(ERROR, "unknown rule %d", rule);
	return NULL;				/* keep compiler quiet */
}

FlowStart
QueueFlowStart(const QueueRequest *request, int64 child_id, int32 child_queue_id,
			   int64 *failed_parent)
{
	QueueSide	side;
	int			count;
	Parent	   *parents;
	FlowStart	start = FLOW_READY;
	char		rule = request->on_parent_failure;

	/* opened first: see QueueFlowTidy() */
	QueueSideOpen(&side, QueueCatalogGet(false)->dependency);
	parents = find_parents(request, &count);
	for (int i = 0; i < count && start != FLOW_FAILED; i++)
		if ((parents[i].state == JOB_FAILED || parents[i].state == JOB_CANCELLED) &&
			rule == PARENT_FAIL)
		{
			*failed_parent = parents[i].job_id;
			start = FLOW_FAILED;
		}
	for (int i = 0; i < count && start != FLOW_FAILED; i++)
	{
		Datum		values[DEP_NATTS];
		bool		nulls[DEP_NATTS] = {0};

		if (parents[i].state == JOB_COMPLETED ||
			(parents[i].state != JOB_WAITING && rule == PARENT_RUN))
			continue;
		/* it may be over, and be retried */
		set_dependents(QueueXactSlot(parents[i].queue_id));
		values[DEP_PARENT_ID - 1] = Int64GetDatum(parents[i].job_id);
		values[DEP_CHILD_ID - 1] = Int64GetDatum(child_id);
		values[DEP_PARENT_QUEUE_ID - 1] = Int32GetDatum(parents[i].queue_id);
		values[DEP_CHILD_QUEUE_ID - 1] = Int32GetDatum(child_queue_id);
		values[DEP_ON_PARENT_FAILURE - 1] = CStringGetTextDatum(rule_name(rule));
		QueueSideInsert(&side, values, nulls);
		start = FLOW_BLOCKED;
	}
	QueueSideClose(&side);
	pfree(parents);
	return start;
}

/* ---------------------------------------------------------------------
 * Parents end
 * --------------------------------------------------------------------- */

void
QueueFlowNone(int32 queue_id)
{
	QueueSlot  *slot = QueueXactSlot(queue_id);

	if (slot)
		pg_atomic_write_u32(&slot->dependents, 0);
}

void
QueueFlowMoved(QueueSlot *from, QueueSlot *to)
{
	if (!QueueFlowHasDependents(from))
		return;
	/* opened first: see QueueFlowTidy() */
	table_close(QueueOpenTable(QueueCatalogGet(false)->dependency, RowExclusiveLock), NoLock);
	set_dependents(to);
}

bool
QueueFlowHasDependents(QueueSlot *slot)
{
	return slot == NULL || pg_atomic_read_u32(&slot->dependents) != 0;
}

/* a child of a parent that has ended */
typedef struct Child
{
	int64		job_id;
	int32		queue_id;
	bool		fails;
	int64		parent_id;
} Child;

typedef struct Children
{
	Child	   *child;
	int			count;
	int			size;
} Children;

/* remove what a child's dependency on a parent was, and remember the child */
static void
end_dependency(QueueSide *side, HeapTuple row, ItemPointer tid, JobState state,
			   Children *children)
{
	Datum		values[DEP_NATTS];
	bool		nulls[DEP_NATTS];
	char	   *rule;
	Child	   *child;

	heap_deform_tuple(row, RelationGetDescr(side->heap), values, nulls);
	rule = TextDatumGetCString(values[DEP_ON_PARENT_FAILURE - 1]);
	if (state != JOB_COMPLETED && strcmp(rule, "block") == 0)
		return;
	if (QueueSideDelete(side, tid, true) != TM_Ok)
		return;					/* the child is over */
	if (children->count >= children->size)
	{
		children->size = Max(16, children->size * 2);
		children->child = children->child == NULL ?
			palloc(children->size * sizeof(Child)) :
			repalloc(children->child, children->size * sizeof(Child));
	}
	child = &children->child[children->count++];
	child->job_id = DatumGetInt64(values[DEP_CHILD_ID - 1]);
	child->queue_id = DatumGetInt32(values[DEP_CHILD_QUEUE_ID - 1]);
	child->parent_id = DatumGetInt64(values[DEP_PARENT_ID - 1]);
	child->fails = state != JOB_COMPLETED && strcmp(rule, "fail") == 0;
}

/* are there parents left?  *unsure: only such as others are removing */
static bool
has_parents(QueueSide *side, int64 child_id, bool *unsure)
{
	QueueSideScan scan;
	ScanKeyData key;
	TransactionId writer;
	bool		left = false;

	*unsure = false;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(child_id));
	/* backwards: parents mostly end in the order of their ids */
	QueueSideScanBegin(&scan, side, QueueCatalogGet(false)->dependency_child, 1, &key, NULL,
					   BackwardScanDirection);
	while (!left && QueueSideScanNext(&scan, NULL, &writer) != NULL)
	{
		if (TransactionIdIsValid(writer))
			*unsure = true;
		else
			left = true;
	}
	QueueSideScanEnd(&scan);
	return left;
}

/* the parked row of a blocked child, taken out; NULL: it is over */
static HeapTuple
take_child(QueueStore *parked, const Child *child, QueueSlot *slot)
{
	for (;;)
	{
		Snapshot	snapshot;
		ItemPointerData tid;
		HeapTuple	row;
		TM_Result	result;

		CHECK_FOR_INTERRUPTS();
		CommandCounterIncrement();
		snapshot = QueueFreshSnapshot();
		row = QueueStoreFind(parked, snapshot, child->job_id, &tid);
		QueueReleaseSnapshot(snapshot);
		if (row == NULL || JOB_HEAD(row)->state != JOB_BLOCKED)
			return NULL;
		result = QueueStoreDelete(parked, &tid, JOB_HEAD(row), slot, true, !child->fails);
		if (result == TM_Ok)
			return row;
		heap_freetuple(row);
	}
}

static void
end_child(QueueFinish *finish, QueueSide *side, const Child *child)
{
	QueueSettings settings;
	QueueEntry	entry;
	HeapTuple	row;
	bool		unsure;

	if (!QueueSettingsById(child->queue_id, &settings))
		return;
	if (!child->fails)
	{
		if (has_parents(side, child->job_id, &unsure))
			return;
		if (unsure)
		{
			QueueXactCheck(child->job_id);
			return;
		}
	}
	QueueEntryBegin(&entry, &settings);
	row = take_child(QueueEntryStore(&entry, true), child, entry.slot);
	if (row && child->fails)
	{
		char	   *message = psprintf("parent job %lld has failed", (long long) child->parent_id);
		Datum		error = CStringGetTextDatum(message);
		TupleDesc	desc = QueueEntryDesc(&entry);

		QueueFinishLog(finish, row, desc, &settings, "failed", message, &error, entry.now);
		QueueFinishJob(finish, row, desc, &settings, entry.slot, JOB_FAILED, &error, NULL,
					   entry.now);
	}
	else if (row)
	{
		QueueXactCount(entry.slot, COUNT_BLOCKED, -1);
		QueueJobUnblock(JOB_HEAD(row));
		QueueEntryPut(&entry, row, false);
	}
	QueueEntryEnd(&entry);
}

static int
compare_children(const void *a, const void *b)
{
	int64		x = ((const Child *) a)->job_id;
	int64		y = ((const Child *) b)->job_id;

	if (x != y)
		return x < y ? -1 : 1;
	/* the one that fails it first */
	return (int) ((const Child *) b)->fails - (int) ((const Child *) a)->fails;
}

void
QueueFlowEnd(QueueFinish *finish, FlowEnd *ends, int count)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	QueueSide	side;
	QueueSideScan scan;
	Children	children = {0};
	Snapshot	snapshot;
	MemoryContext context,
				old;

	Assert(count > 0);
	CommandCounterIncrement();
	QueueSideOpen(&side, cat->dependency);
	/* opening may have processed invalidations: the index may be another one now */
	cat = QueueCatalogGet(false);
	snapshot = QueueFreshSnapshot();
	for (int i = 0; i < count; i++)
	{
		ScanKeyData key;
		HeapTuple	row;
		ItemPointerData tid;

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(ends[i].job_id));
		if (i == 0)
			QueueSideScanBegin(&scan, &side, cat->dependency_key, 1, &key, snapshot,
							   ForwardScanDirection);
		else
			QueueSideScanAgain(&scan, 1, &key);
		while ((row = QueueSideScanNext(&scan, &tid, NULL)) != NULL)
			end_dependency(&side, row, &tid, ends[i].state, &children);
	}
	QueueSideScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);

	CommandCounterIncrement();
	context = AllocSetContextCreate(CurrentMemoryContext, "queue flow", ALLOCSET_DEFAULT_SIZES);
	if (children.count > 0)
		qsort(children.child, children.count, sizeof(Child), compare_children);
	for (int i = 0; i < children.count; i++)
	{
		if (i > 0 && children.child[i].job_id == children.child[i - 1].job_id)
			continue;
		old = MemoryContextSwitchTo(context);
		end_child(finish, &side, &children.child[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	QueueSideClose(&side);
}

void
QueueFlowForget(int64 child_id)
{
	QueueSide	side;
	QueueSideScan scan;
	ScanKeyData key;
	ItemPointerData tid;
	TransactionId writer;

	CommandCounterIncrement();
	QueueSideOpen(&side, QueueCatalogGet(false)->dependency);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(child_id));
	QueueSideScanBegin(&scan, &side, QueueCatalogGet(false)->dependency_child, 1, &key, NULL,
					   ForwardScanDirection);
	while (QueueSideScanNext(&scan, &tid, &writer) != NULL)
		/* what a parent's settler is removing, it removes */
		if (!TransactionIdIsValid(writer))
			(void) QueueSideDelete(&side, &tid, false);
	QueueSideScanEnd(&scan);
	QueueSideClose(&side);
}

bool
QueueFlowCheck(QueueEntry *entry, HeapTuple row, ItemPointer tid)
{
	QueueSide	side;
	bool		left,
				unsure;

	Assert(JOB_HEAD(row)->state == JOB_BLOCKED);
	QueueSideOpen(&side, QueueCatalogGet(false)->dependency);
	left = has_parents(&side, JOB_HEAD(row)->job_id, &unsure);
	QueueSideClose(&side);
	if (left)
		return true;
	if (unsure ||
		QueueStoreDelete(QueueEntryStore(entry, true), tid, JOB_HEAD(row), entry->slot,
						 false, true) != TM_Ok)
		return false;
	QueueXactCount(entry->slot, COUNT_BLOCKED, -1);
	QueueJobUnblock(JOB_HEAD(row));
	QueueEntryPut(entry, row, false);
	return true;
}

/*
 * The lock keeps away everybody who has told a slot of dependents and has not
 * committed them: they open the table before.
 */
bool
QueueFlowTidy(void)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	Oid			type = INT4OID;
	ListCell   *lc;

	if (!ConditionalLockRelationOid(cat->dependency, ShareRowExclusiveLock))
		return false;
	QueueSpiConnect();
	(void) QueueSpiExecute("DELETE FROM queue.dependency AS d WHERE NOT EXISTS ("
						   "SELECT FROM queue.job_parked AS p WHERE p.job_id = d.child_id)",
						   0, NULL, NULL, NULL);
	foreach(lc, QueueSettingsAll())
	{
		int32		queue_id = ((QueueSettings *) lfirst(lc))->queue_id;
		QueueSlot  *slot = QueueXactSlot(queue_id);
		Datum		value = Int32GetDatum(queue_id);

		if (slot && pg_atomic_read_u32(&slot->dependents) != 0 &&
			QueueSpiExecute("SELECT FROM queue.dependency WHERE parent_queue_id"
							" OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, &type, &value, NULL) == 0 &&
			/* nor has one come from another queue: a dead letter, or one that was sent back */
			QueueSpiExecute("SELECT FROM queue.dependency AS d WHERE EXISTS (SELECT FROM"
							" queue.job_live AS j WHERE j.job_id OPERATOR(pg_catalog.=) d.parent_id"
							" AND j.queue_id OPERATOR(pg_catalog.=) $1) OR EXISTS (SELECT FROM"
							" queue.job_parked AS j WHERE j.job_id OPERATOR(pg_catalog.=) d.parent_id"
							" AND j.queue_id OPERATOR(pg_catalog.=) $1) OR EXISTS (SELECT FROM"
							" queue.job_archive AS j WHERE j.job_id OPERATOR(pg_catalog.=) d.parent_id"
							" AND j.queue_id OPERATOR(pg_catalog.=) $1) LIMIT 1",
							1, &type, &value, NULL) == 0)
			pg_atomic_write_u32(&slot->dependents, 0);
	}
	QueueSpiFinish();
	return true;
}

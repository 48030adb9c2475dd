/*-------------------------------------------------------------------------
 *
 * group.c
 *		Groups: jobs that run one at a time, in order.
 *
 * Of each group one job, the head, is where jobs without a group are: waiting,
 * delayed or active.  All others are parked as blocked, where no taker passes
 * them.  queue.group_head says who is the head; the row stays when the group
 * has run empty, with job 0.
 *
 * Who enqueues takes the place of the head if it is free, and nobody waits for
 * it; else it parks the job.  Who settles the head gives the place to the least of those who wait,
 * by due time and id, that it can see.  Neither waits for anybody: the row of
 * the head is changed without waiting, and if somebody else is changing it the
 * job is parked.  Only two who make the row of a new group wait for each
 * other, while it is being inserted.
 *
 * A transaction block may stay open for long after an enqueue.  It parks its
 * jobs, and takes the places that are free just before it commits (or when it
 * takes jobs itself), so that meanwhile others' jobs may run, which were
 * committed before.
 *
 * The races:
 *
 * - An enqueue finds the head active and parks; its settler does not see the
 *   parked job, as it is not committed, and leaves the place free.
 * - An enqueue finds the row being changed, and parks; the change is undone.
 * - A settler finds the next job being cancelled, replaced, or locked by who
 *   enqueues a child of it.  Nobody shall overtake that job, so the place stays
 *   free; if the job goes away, who removes it sees to the one behind it.
 *
 * Each leaves a group with jobs and no head.  Therefore whoever parks a job,
 * or leaves one where it is, has the maintenance worker look at it once its own
 * transaction has committed (QueueXactCheck).  Whatever the other one did is
 * then either committed, and the worker sees a free place or a head, or under
 * way, and the worker looks again until it is not.  What a crash makes it
 * forget, it finds in the tables when it starts, and every minute.
 *
 * A job that waits for parents joins its group when they are completed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "group.h"
#include "side.h"

enum
{
	HEAD_QUEUE_ID = 1, HEAD_GROUP_KEY, HEAD_JOB_ID, HEAD_AT
};
#define HEAD_NATTS	HEAD_AT

static void
group_keys(ScanKey keys, int32 queue_id, Datum group)
{
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, group);
}

static HeapTuple
find_head(QueueSide *side, int32 queue_id, Datum group, ItemPointer tid, TransactionId *writer)
{
	ScanKeyData keys[2];

	group_keys(keys, queue_id, group);
	return QueueSideFind(side, QueueCatalogGet(false)->group_head_key, 2, keys, tid, writer);
}

static int64
head_job(QueueSide *side, HeapTuple head)
{
	bool		null;

	return DatumGetInt64(heap_getattr(head, HEAD_JOB_ID, RelationGetDescr(side->heap), &null));
}

static void
form_head(Datum *values, int32 queue_id, Datum group, int64 job_id)
{
	values[HEAD_QUEUE_ID - 1] = Int32GetDatum(queue_id);
	values[HEAD_GROUP_KEY - 1] = group;
	values[HEAD_JOB_ID - 1] = Int64GetDatum(job_id);
	values[HEAD_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
}

/*
 * Give the place of the head to a job if it is free.  *writer is who has not
 * committed what becomes of it, if that is why it was not given.
 */
static bool
take_place(QueueSide *side, int32 queue_id, Datum group, int64 job_id, TransactionId *writer)
{
	Datum		values[HEAD_NATTS];
	bool		nulls[HEAD_NATTS] = {0};
	ItemPointerData tid;
	HeapTuple	head;

	/* what this command has changed is not to be changed again by it */
	CommandCounterIncrement();
	form_head(values, queue_id, group, job_id);
	head = find_head(side, queue_id, group, &tid, writer);
	if (head == NULL)
	{
		QueueSideLockKey(side, queue_id, group);
		head = find_head(side, queue_id, group, &tid, writer);
		if (head == NULL)
			QueueSideInsert(side, values, nulls);
		QueueSideUnlockKey(side, queue_id, group);
		if (head == NULL)
		{
			*writer = InvalidTransactionId;
			return true;
		}
	}
	if (TransactionIdIsValid(*writer) || head_job(side, head) != 0)
		return false;
	if (QueueSideUpdate(side, &tid, values, nulls, false) == TM_Ok)
		return true;
	*writer = FrozenTransactionId;	/* somebody; who has been lost */
	return false;
}

/* groups whose place this transaction is to take, if it is free, at its end */
typedef struct PendingJoin
{
	SubTransactionId subid;
	int32		queue_id;
	int64		job_id;			/* the first of the group */
	text	   *group;			/* in TopTransactionContext */
} PendingJoin;

#define MAX_PENDING_JOINS	64	/* further ones are not put off */
static PendingJoin pending[MAX_PENDING_JOINS];
static int	num_pending;

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* put the question off until the transaction ends; false: no */
static bool
put_off(int32 queue_id, text *group, int64 job_id)
{
	MemoryContext old;

	if (!IsTransactionBlock())
		return false;
	for (int i = num_pending - 1; i >= 0; i--)
		if (pending[i].queue_id == queue_id && same_text(pending[i].group, group))
			return true;
	if (num_pending >= MAX_PENDING_JOINS)
		return false;
	old = MemoryContextSwitchTo(TopTransactionContext);
	pending[num_pending].group = (text *) DatumGetPointer(datumCopy(PointerGetDatum(group), false, -1));
	MemoryContextSwitchTo(old);
	pending[num_pending].subid = GetCurrentSubTransactionId();
	pending[num_pending].queue_id = queue_id;
	pending[num_pending].job_id = job_id;
	num_pending++;
	return true;
}

void
QueueGroupForgetPending(void)
{
	num_pending = 0;
}

void
QueueGroupCommitSub(SubTransactionId subid, SubTransactionId parent_subid)
{
	for (int i = num_pending - 1; i >= 0 && pending[i].subid >= subid; i--)
		pending[i].subid = parent_subid;
}

void
QueueGroupAbortSub(SubTransactionId subid)
{
	while (num_pending > 0 && pending[num_pending - 1].subid >= subid)
		num_pending--;
}

/* the least job that waits in the group, of those that we can see: a copy, or NULL */
static HeapTuple
first_waiting(QueueEntry *entry, Datum group, ItemPointer tid)
{
	QueueStore *parked = QueueEntryStore(entry, true);
	Snapshot	snapshot;
	ScanKeyData keys[2];
	IndexScanDesc scan;
	TupleTableSlot *slot;
	HeapTuple	first = NULL;

	CommandCounterIncrement();
	snapshot = QueueFreshSnapshot();
	group_keys(keys, entry->settings.queue_id, group);
	scan = queue_index_beginscan(parked->heap, parked->group_index, snapshot, 2);
	slot = table_slot_create(parked->heap, NULL);
	index_rescan(scan, keys, 2, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		first = ExecCopySlotHeapTuple(slot);
		*tid = slot->tts_tid;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	QueueReleaseSnapshot(snapshot);
	return first;
}

/*
 * The same, taken out of the parked table.  *busy: somebody has it in hands,
 * and nobody shall overtake it.
 */
static HeapTuple
take_next(QueueEntry *entry, Datum group, int64 *busy)
{
	ItemPointerData tid;
	HeapTuple	next = first_waiting(entry, group, &tid);

	*busy = 0;
	if (next == NULL)
		return NULL;
	if (QueueStoreDelete(QueueEntryStore(entry, true), &tid, JOB_HEAD(next), entry->slot,
						 false, true) != TM_Ok)
	{
		*busy = JOB_HEAD(next)->job_id;
		heap_freetuple(next);
		return NULL;
	}
	QueueXactCount(entry->slot, COUNT_BLOCKED, -1);
	return next;
}

static void
let_go(QueueEntry *entry, HeapTuple next)
{
	QueueJobUnblock(JOB_HEAD(next));
	QueueEntryPutPlain(entry, &next, 1);
}

/* the place of the head is ours: who gets it next? */
static void
pass_place(QueueEntry *entry, QueueSide *side, Datum group)
{
	Datum		values[HEAD_NATTS];
	bool		nulls[HEAD_NATTS] = {0};
	ItemPointerData tid;
	TransactionId writer;
	int64		busy;
	HeapTuple	next = take_next(entry, group, &busy);

	if (busy != 0)
		QueueXactCheck(busy);
	CommandCounterIncrement();
	form_head(values, entry->settings.queue_id, group, next ? JOB_HEAD(next)->job_id : 0);
	if (find_head(side, entry->settings.queue_id, group, &tid, &writer) == NULL)
	{
		/* a superuser has removed it */
		if (next)
			QueueSideInsert(side, values, nulls);
	}
	else if (QueueSideUpdate(side, &tid, values, nulls, true) != TM_Ok)
		elog(ERROR, "head of a group was changed by somebody else");
	if (next)
		let_go(entry, next);
}

void
QueueGroupSkip(QueueEntry *entry, Datum group)
{
	ItemPointerData tid;
	HeapTuple	first = first_waiting(entry, group, &tid);

	if (first)
		QueueXactCheck(JOB_HEAD(first)->job_id);
}

GroupPlace
QueueGroupJoin(QueueEntry *entry, Datum group, int64 job_id)
{
	int32		queue_id = entry->settings.queue_id;
	QueueSide	side;
	TransactionId writer;
	ItemPointerData tid;
	bool		taken;

	if (put_off(queue_id, DatumGetTextPP(group), job_id))
		return GROUP_BEHIND;
	QueueSideOpen(&side, QueueCatalogGet(false)->group_head);
	taken = take_place(&side, queue_id, group, job_id, &writer);
	QueueSideClose(&side);
	if (!taken)
	{
		QueueXactCheck(job_id);
		return GROUP_BEHIND;
	}
	return first_waiting(entry, group, &tid) ? GROUP_PASS : GROUP_HEAD;
}

void
QueueGroupPass(QueueEntry *entry, Datum group)
{
	QueueSide	side;

	QueueSideOpen(&side, QueueCatalogGet(false)->group_head);
	pass_place(entry, &side, group);
	QueueSideClose(&side);
}

void
QueueGroupJoinPending(void)
{
	QueueSide	side;
	int			count = num_pending;

	if (count == 0)
		return;
	num_pending = 0;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	QueueSideOpen(&side, QueueCatalogGet(false)->group_head);
	for (int i = 0; i < count; i++)
	{
		QueueSettings settings;
		QueueEntry	entry;
		TransactionId writer;
		Datum		group = PointerGetDatum(pending[i].group);

		if (!QueueSettingsById(pending[i].queue_id, &settings))
			continue;
		QueueEntryBegin(&entry, &settings);
		if (take_place(&side, settings.queue_id, group, pending[i].job_id, &writer))
			pass_place(&entry, &side, group);
		else
			QueueXactCheck(pending[i].job_id);
		QueueEntryEnd(&entry);
	}
	QueueSideClose(&side);
	PopActiveSnapshot();
}

void
QueueGroupLeave(QueueEntry *entry, Datum group, int64 job_id)
{
	QueueSide	side;
	ItemPointerData tid;
	TransactionId writer;
	HeapTuple	head;

	QueueSideOpen(&side, QueueCatalogGet(false)->group_head);
	/* where the row names another job, a superuser has been at it: leave it */
	head = find_head(&side, entry->settings.queue_id, group, &tid, &writer);
	if (head && head_job(&side, head) == job_id)
		pass_place(entry, &side, group);
	QueueSideClose(&side);
}

bool
QueueGroupCheck(QueueEntry *entry, HeapTuple row)
{
	QueueSide	side;
	ItemPointerData tid;
	TransactionId writer;
	HeapTuple	head;
	HeapTuple	next = NULL;
	int64		busy = 0;
	bool		null;
	Datum		group = heap_getattr(row, JOB_GROUP_KEY, QueueEntryDesc(entry), &null);

	Assert(JOB_HEAD(row)->state == JOB_GROUPED && !null);
	QueueSideOpen(&side, QueueCatalogGet(false)->group_head);
	/* look before anything is changed: it may be often that we have to come */
	head = find_head(&side, entry->settings.queue_id, group, &tid, &writer);
	if (head != NULL && (TransactionIdIsValid(writer) || head_job(&side, head) != 0))
	{
		QueueSideClose(&side);
		return !TransactionIdIsValid(writer);
	}
	/* whoever of the group comes first gets it */
	next = take_next(entry, group, &busy);
	if (next)
	{
		if (take_place(&side, entry->settings.queue_id, group, JOB_HEAD(next)->job_id, &writer))
			let_go(entry, next);
		else
		{
			QueueJobUnblock(JOB_HEAD(next));
			QueueEntryPutBlocked(entry, next, JOB_GROUPED);
			busy = JOB_HEAD(next)->job_id;
		}
	}
	QueueSideClose(&side);
	return busy == 0;
}

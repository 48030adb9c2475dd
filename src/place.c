/*-------------------------------------------------------------------------
 *
 * place.c
 *		Places: jobs that must wait for others, those of their group and those
 *		with the same limit_key.
 *
 * Of each group one job, the head, is where jobs without a group are: waiting,
 * delayed or active.  Of each limit_key, as many jobs as max_active_per_key
 * says are in the live table, waiting or active.  All others are parked as
 * blocked, where no taker passes them.  Rows of queue.group_head and
 * queue.limit_place are the places, and say who has them; they stay when a
 * place is free, with job 0.
 *
 * Who enters takes a place that is free, and nobody waits for one; else it
 * parks the job.  Who leaves gives its place to the least of those who wait, by
 * due time and id, that it can see.  Neither waits for anybody: the row of a
 * place is changed without waiting, and if somebody else is changing it the
 * job is parked.  Only two who make the row of a new place wait for each other,
 * while it is being inserted.
 *
 * A head keeps its place until it is over, or the order of its group would be
 * lost.  A job with a limit_key has one as long as it is in the live table;
 * parked for a delay or a retry, it leaves the place to others and needs a new
 * one when it is due.  So a limit is a matter of one row for each job in the
 * live table, changed with it in one transaction: whatever is rolled back, the
 * two agree.  A job with both waits to be head first, and then, as head, for a
 * place of its limit_key.
 *
 * A transaction block may stay open for long after an enqueue.  It parks its
 * jobs, and takes the places that are free just before it commits (or when it
 * takes jobs itself), so that meanwhile others' jobs may run, which were
 * committed before.
 *
 * The races:
 *
 * - An enqueue finds all places taken and parks; the settler of one does not
 *   see the parked job, as it is not committed, and leaves the place free.
 * - An enqueue finds a row being changed, and parks; the change is undone.
 * - A settler finds the next job being cancelled, replaced, or locked by who
 *   enqueues a child of it.  In a group nobody shall overtake that job, so the
 *   place stays free; if the job goes away, who removes it sees to the one
 *   behind it.  With a limit_key the one behind gets it.
 *
 * Each leaves jobs that wait and a free place.  Therefore whoever parks a job,
 * or leaves one where it is, has the maintenance worker look at it once its own
 * transaction has committed (QueueXactCheck).  Whatever the other one did is
 * then either committed, and the worker sees a free place or none, or under
 * way, and the worker looks again until it is not.  Who leaves a place free
 * looks once more for jobs after it has changed the row: a job committed before
 * that look is seen by it, and the look at one committed later sees the row
 * being changed.  What a crash makes the worker forget, it finds in the tables
 * when it starts, and every minute.
 *
 * A place that somebody passes on is taken whether that commits or not, and
 * nobody looks again for its sake: or a busy key would keep the worker busy.
 *
 * Where the limit was lowered, places with a higher number are not passed on.
 *
 * A job that waits for parents joins its group when they are completed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "place.h"
#include "scan.h"
#include "side.h"

#define MAX_BUSY	256			/* jobs to pass that others have in hands */
#define MAX_FILL	1000		/* jobs to let go in one transaction */

/* columns of both tables; one has the number of the place between them */
enum
{
	PLACE_QUEUE_ID = 1, PLACE_KEY, PLACE_NUMBER
};
#define PLACE_MAX_NATTS	5

static const struct
{
	JobState	state;			/* of those who wait */
	int			key;			/* column of the job */
	int			job_id;			/* columns of the place */
	int			at;
}			kinds[] = {
	[PLACE_GROUP] = {JOB_GROUPED, JOB_GROUP_KEY, 3, 4},
	[PLACE_LIMIT] = {JOB_LIMITED, JOB_LIMIT_KEY, 4, 5},
};

/* the places of a key, and those who wait for one */
typedef struct Places
{
	QueueEntry *entry;
	PlaceKind	kind;
	Datum		key;
	int			limit;			/* how many there may be; -1: nobody counts */
	QueueSide	side;
} Places;

/* what a look at the places of a key has met */
typedef struct Look
{
	bool		unsure;			/* one may become free, or not */
	/* of the last number: what others have not committed */
	int			number;			/* 0: none */
	bool		made,
				unmade,
				free;
} Look;

static void
places_open(Places *places, QueueEntry *entry, PlaceKind kind, Datum key)
{
	const QueueCatalog *cat = QueueCatalogGet(false);

	places->entry = entry;
	places->kind = kind;
	places->key = key;
	places->limit = kind == PLACE_GROUP ? 1 : entry->settings.max_active_per_key;
	QueueSideOpen(&places->side, kind == PLACE_GROUP ? cat->group_head : cat->limit_place);
}

static void
places_close(Places *places)
{
	QueueSideClose(&places->side);
}

static Oid
places_index(Places *places)
{
	const QueueCatalog *cat = QueueCatalogGet(false);

	return places->kind == PLACE_GROUP ? cat->group_head_key : cat->limit_place_key;
}

/* queue and key, in the index of the places and in that of those who wait */
static void
key_scan(Places *places, ScanKey keys)
{
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(places->entry->settings.queue_id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, places->key);
}

static void
read_place(Places *places, HeapTuple row, int *number, int64 *job_id)
{
	TupleDesc	desc = RelationGetDescr(places->side.heap);
	bool		null;

	*number = places->kind == PLACE_GROUP ? 1 :
		DatumGetInt32(heap_getattr(row, PLACE_NUMBER, desc, &null));
	*job_id = DatumGetInt64(heap_getattr(row, kinds[places->kind].job_id, desc, &null));
}

static void
form_place(Places *places, Datum *values, int number, int64 job_id)
{
	values[PLACE_QUEUE_ID - 1] = Int32GetDatum(places->entry->settings.queue_id);
	values[PLACE_KEY - 1] = places->key;
	values[PLACE_NUMBER - 1] = Int32GetDatum(number);
	values[kinds[places->kind].job_id - 1] = Int64GetDatum(job_id);
	values[kinds[places->kind].at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
}

static TM_Result
change_place(Places *places, ItemPointer tid, int number, int64 job_id, bool wait)
{
	Datum		values[PLACE_MAX_NATTS];
	bool		nulls[PLACE_MAX_NATTS] = {0};

	form_place(places, values, number, job_id);
	return QueueSideUpdate(&places->side, tid, values, nulls, wait);
}

/* a place that has no row; false: it has one by now */
static bool
make_place(Places *places, int number, int64 job_id)
{
	int32		queue_id = places->entry->settings.queue_id;
	Datum		values[PLACE_MAX_NATTS];
	bool		nulls[PLACE_MAX_NATTS] = {0};
	ScanKeyData keys[3];
	HeapTuple	row;
	ItemPointerData tid;
	TransactionId writer;

	form_place(places, values, number, job_id);
	key_scan(places, keys);
	ScanKeyInit(&keys[2], PLACE_NUMBER, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(number));
	QueueSideLockKey(&places->side, queue_id, places->key);
	row = QueueSideFind(&places->side, places_index(places),
						places->kind == PLACE_GROUP ? 2 : 3, keys, &tid, &writer);
	if (row == NULL)
		QueueSideInsert(&places->side, values, nulls);
	QueueSideUnlockKey(&places->side, queue_id, places->key);
	return row == NULL;
}

/*
 * The last version of the number before has been seen.  What others have not
 * committed matters only if the place may come out free: it may be there for
 * the first time, or one of its versions may be free.
 */
static void
look_end_number(Look *look, int number)
{
	if (look->number != 0 && (look->free || (look->made && !look->unmade)))
		look->unsure = true;
	look->number = number;
	look->made = look->unmade = look->free = false;
}

/*
 * Is there a free place?  With a job, it gets the place; without one, nothing
 * is changed.
 */
static bool
seek_place(Places *places, int64 job_id, Look *look)
{
	/* what this command has changed is not to be changed again by it */
	CommandCounterIncrement();
	memset(look, 0, sizeof(*look));
	for (;;)
	{
		QueueSideScan scan;
		ScanKeyData keys[2];
		HeapTuple	row;
		ItemPointerData tid;
		TransactionId writer;
		int			above = 0,	/* the last number seen; they descend */
					gap = 0;
		bool		found = false;

		CHECK_FOR_INTERRUPTS();
		key_scan(places, keys);
		/* backwards: where old versions abound, the living one is among the last */
		QueueSideScanBegin(&scan, &places->side, places_index(places), 2, keys, NULL,
						   BackwardScanDirection);
		while (!found && (row = QueueSideScanNext(&scan, &tid, &writer)) != NULL)
		{
			int			number;
			int64		holder;

			read_place(places, row, &number, &holder);
			if (number > places->limit)
				continue;
			if (above == 0 ? number < places->limit : number < above - 1)
				gap = number + 1;
			if (number != above)
				look_end_number(look, number);
			above = number;
			if (TransactionIdIsValid(writer))
			{
				if (TransactionIdIsValid(scan.dirty.xmin))
					look->made = true;
				else
					look->unmade = true;
				look->free |= holder == 0;
			}
			else if (holder == 0)
			{
				found = job_id == 0 ||
					change_place(places, &tid, number, job_id, false) == TM_Ok;
				look->unsure |= !found;
			}
		}
		QueueSideScanEnd(&scan);
		look_end_number(look, 0);
		if (above != 1)
			gap = 1;
		if (found || gap == 0)
			return found;
		if (job_id == 0 || make_place(places, gap, job_id))
			return true;
	}
}

/* the place that a job has; false: none */
static bool
find_own(Places *places, int64 job_id, ItemPointer tid, int *number)
{
	QueueSideScan scan;
	ScanKeyData keys[2];
	HeapTuple	row;
	TransactionId writer;
	bool		found = false;

	CommandCounterIncrement();
	key_scan(places, keys);
	QueueSideScanBegin(&scan, &places->side, places_index(places), 2, keys, NULL,
					   BackwardScanDirection);
	while (!found && (row = QueueSideScanNext(&scan, tid, &writer)) != NULL)
	{
		int64		holder;

		/* nobody but who has the job in hands changes its place */
		read_place(places, row, number, &holder);
		found = holder == job_id && !TransactionIdIsValid(writer);
	}
	QueueSideScanEnd(&scan);
	return found;
}

/* ---------------------------------------------------------------------
 * Those who wait
 * --------------------------------------------------------------------- */

typedef struct Waiting
{
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} Waiting;

/* those that we can see, in their order */
static void
waiting_begin(Waiting *waiting, Places *places)
{
	QueueStore *parked = QueueEntryStore(places->entry, true);
	ScanKeyData keys[2];

	CommandCounterIncrement();
	waiting->snapshot = QueueFreshSnapshot();
	key_scan(places, keys);
	waiting->scan = queue_index_beginscan(parked->heap,
										  places->kind == PLACE_GROUP ? parked->group_index :
										  parked->limit_index, waiting->snapshot, 2);
	waiting->slot = table_slot_create(parked->heap, NULL);
	index_rescan(waiting->scan, keys, 2, NULL, 0);
}

static bool
waiting_next(Waiting *waiting)
{
	return index_getnext_slot(waiting->scan, ForwardScanDirection, waiting->slot);
}

static void
waiting_end(Waiting *waiting)
{
	index_endscan(waiting->scan);
	ExecDropSingleTupleTableSlot(waiting->slot);
	QueueReleaseSnapshot(waiting->snapshot);
}

/* the least of them; 0: none */
static int64
first_waiting(Places *places)
{
	Waiting		waiting;
	int64		job_id = 0;
	bool		null;

	waiting_begin(&waiting, places);
	if (waiting_next(&waiting))
		job_id = DatumGetInt64(slot_getattr(waiting.slot, JOB_JOB_ID, &null));
	waiting_end(&waiting);
	return job_id;
}

/*
 * The next of them, taken out of the parked table.  What somebody else has in
 * hands is passed, but in a group, where nobody shall overtake it.
 */
static HeapTuple
waiting_take(Waiting *waiting, Places *places)
{
	QueueEntry *entry = places->entry;
	int			most = places->kind == PLACE_GROUP ? 1 : MAX_BUSY;
	HeapTuple	next = NULL;

	for (int i = 0; i < most && next == NULL && waiting_next(waiting); i++)
	{
		ItemPointerData tid = waiting->slot->tts_tid;

		next = ExecCopySlotHeapTuple(waiting->slot);
		if (QueueStoreDelete(QueueEntryStore(entry, true), &tid, JOB_HEAD(next), entry->slot,
							 false, true) == TM_Ok)
			break;
		heap_freetuple(next);
		next = NULL;
	}
	if (next)
		QueueXactCount(entry->slot, COUNT_BLOCKED, -1);
	return next;
}

/* the least of them */
static HeapTuple
take_next(Places *places)
{
	Waiting		waiting;
	HeapTuple	next;

	waiting_begin(&waiting, places);
	next = waiting_take(&waiting, places);
	waiting_end(&waiting);
	return next;
}

static void
let_go(Places *places, HeapTuple next)
{
	QueueJobUnblock(JOB_HEAD(next));
	if (places->kind == PLACE_GROUP)
		QueueEntryPutHead(places->entry, next);
	else
	{
		/* a clock that was set back does not make it wait with its place */
		JOB_HEAD(next)->run_at = Min(JOB_HEAD(next)->run_at, places->entry->now);
		QueueEntryPutPlain(places->entry, &next, 1);
	}
	heap_freetuple(next);
}

/* a place is ours, or of a job of ours that leaves: who gets it next? */
static void
pass_place(Places *places, ItemPointer tid, int number)
{
	HeapTuple	next = NULL;
	int64		waits;

	if (number <= places->limit)
		next = take_next(places);
	CommandCounterIncrement();
	if (change_place(places, tid, number, next ? JOB_HEAD(next)->job_id : 0, true) != TM_Ok)
		elog(ERROR, "place of a job was changed by somebody else");
	if (next)
		let_go(places, next);
	else if ((waits = first_waiting(places)) != 0)
		QueueXactCheck(waits);
}

/*
 * Give a free place to the next of those who wait; false: there is none, or
 * nobody.  A place that nobody counts is always free.
 */
static bool
fill_place(Places *places, Waiting *waiting, bool *unsure)
{
	bool		count = places->limit >= 0;
	Look		look;
	HeapTuple	next;

	/* look before anything is changed: it may be often that we have to come */
	if (count && !seek_place(places, 0, &look))
	{
		*unsure = look.unsure;
		return false;
	}
	next = waiting_take(waiting, places);
	if (next == NULL)
	{
		/* somebody has them in hands, or they came after our scan */
		*unsure = first_waiting(places) != 0;
		return false;
	}
	if (count && !seek_place(places, JOB_HEAD(next)->job_id, &look))
	{
		QueueJobUnblock(JOB_HEAD(next));
		QueueEntryPutBlocked(places->entry, next, kinds[places->kind].state);
		*unsure = true;
		return false;
	}
	let_go(places, next);
	return true;
}

/*
 * The same with all of them; *unsure: come again.  True: nobody is left who
 * must be looked at.
 */
static bool
fill_places(Places *places, bool *unsure)
{
	Waiting		waiting;
	int			filled = 0;
	int64		waits = 0;

	*unsure = false;
	waiting_begin(&waiting, places);
	while (filled < MAX_FILL && fill_place(places, &waiting, unsure))
	{
		filled++;
		if (places->limit == 1)
			break;
	}
	waiting_end(&waiting);
	if (filled == 0)
		return false;
	/* the only place is ours: who comes after us sees all of them when we leave */
	if (places->limit == 1)
		return true;
	/* the one that we were asked to look at may be gone, and others not */
	waits = first_waiting(places);
	if (waits != 0)
		QueueXactCheck(waits);
	return waits == 0;
}

/* ---------------------------------------------------------------------
 * At the end of the transaction
 * --------------------------------------------------------------------- */

/* a key whose places, or jobs, this transaction is to look at at its end */
typedef struct Pending
{
	SubTransactionId subid;
	SubTransactionId done_subid;	/* it was done in that one, or invalid */
	PlaceKind	kind;
	int32		queue_id;
	text	   *key;			/* in TopTransactionContext */
	int64		first,			/* jobs to be looked at after the commit, if */
				last;			/* they still wait; 0: none */
	bool		skipped;		/* so is the least one that waits then */
	bool		join;			/* take what is free */
} Pending;

#define MAX_PENDING	64			/* further ones are not put off */
static Pending pending[MAX_PENDING];
static int	num_pending;

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static Pending *
find_pending(QueueEntry *entry, PlaceKind kind, text *key)
{
	for (int i = num_pending - 1; i >= 0; i--)
		if (pending[i].done_subid == InvalidSubTransactionId && pending[i].kind == kind &&
			pending[i].queue_id == entry->settings.queue_id && same_text(pending[i].key, key))
			return &pending[i];
	return NULL;
}

/* the one for this key, of this subtransaction or one around it; NULL: no room */
static Pending *
make_pending(QueueEntry *entry, PlaceKind kind, Datum key)
{
	text	   *bytes = DatumGetTextPP(key);
	Pending    *found = find_pending(entry, kind, bytes);
	MemoryContext old;

	if (found || num_pending >= MAX_PENDING)
		return found;
	old = MemoryContextSwitchTo(TopTransactionContext);
	bytes = (text *) DatumGetPointer(datumCopy(PointerGetDatum(bytes), false, -1));
	MemoryContextSwitchTo(old);
	found = &pending[num_pending];
	memset(found, 0, sizeof(*found));
	found->subid = GetCurrentSubTransactionId();
	found->kind = kind;
	found->queue_id = entry->settings.queue_id;
	found->key = bytes;
	num_pending++;
	return found;
}

/* the worker is to look at a job that was parked, if it still waits */
static void
check_later(QueueEntry *entry, PlaceKind kind, Datum key, int64 job_id)
{
	Pending    *found = make_pending(entry, kind, key);

	if (found == NULL)
	{
		QueueXactCheck(job_id);
		return;
	}
	if (found->first == 0)
		found->first = job_id;
	found->last = job_id;
}

static void
check_parked(const Pending *item)
{
	if (item->first != 0)
		QueueXactCheck(item->first);
	if (item->last != item->first)
		QueueXactCheck(item->last);
}

static void
do_pending(Pending *item)
{
	QueueSettings settings;
	QueueEntry	entry;
	Places		places;
	int64		waits;
	bool		unsure;

	if ((!item->join && !item->skipped) || !QueueSettingsById(item->queue_id, &settings))
	{
		check_parked(item);
		return;
	}
	QueueEntryBegin(&entry, &settings);
	places_open(&places, &entry, item->kind, PointerGetDatum(item->key));
	if (!item->join || !fill_places(&places, &unsure))
		check_parked(item);
	if (item->skipped && (waits = first_waiting(&places)) != 0)
		QueueXactCheck(waits);
	places_close(&places);
	QueueEntryEnd(&entry);
}

void
QueuePlaceJoinPending(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	int			kept = 0;
	bool		any = false;

	for (int i = 0; i < num_pending; i++)
		any |= pending[i].done_subid == InvalidSubTransactionId;
	if (!any)
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* a head that is let go may have to wait for a place: that adds to the list */
	for (int i = 0; i < num_pending; i++)
	{
		if (pending[i].done_subid != InvalidSubTransactionId)
			continue;
		pending[i].done_subid = subid;
		do_pending(&pending[i]);
	}
	PopActiveSnapshot();
	/* what was asked for outside of this subtransaction comes back if it aborts */
	for (int i = 0; i < num_pending; i++)
		if (pending[i].subid < subid)
			pending[kept++] = pending[i];
	num_pending = kept;
}

void
QueuePlaceForgetPending(void)
{
	num_pending = 0;
}

void
QueuePlaceCommitSub(SubTransactionId subid, SubTransactionId parent_subid)
{
	for (int i = 0; i < num_pending; i++)
	{
		if (pending[i].subid >= subid)
			pending[i].subid = parent_subid;
		if (pending[i].done_subid >= subid)
			pending[i].done_subid = parent_subid;
	}
}

void
QueuePlaceAbortSub(SubTransactionId subid)
{
	while (num_pending > 0 && pending[num_pending - 1].subid >= subid)
		num_pending--;
	for (int i = 0; i < num_pending; i++)
		if (pending[i].done_subid >= subid)
			pending[i].done_subid = InvalidSubTransactionId;
}

/* ---------------------------------------------------------------------
 * Jobs come and go
 * --------------------------------------------------------------------- */

PlaceAnswer
QueuePlaceJoin(QueueEntry *entry, PlaceKind kind, Datum key, int64 job_id)
{
	Pending    *found = find_pending(entry, kind, DatumGetTextPP(key));
	Places		places;
	Look		look;
	PlaceAnswer answer = PLACE_NONE;

	if (found == NULL && IsTransactionBlock())
	{
		found = make_pending(entry, kind, key);
		if (found)
			found->join = true;
	}
	/* where one of ours waits already, there is no place, or it is put off */
	if (found && (found->join || found->first != 0))
	{
		found->join = true;
		check_later(entry, kind, key, job_id);
		return PLACE_NONE;
	}
	places_open(&places, entry, kind, key);
	if (seek_place(&places, job_id, &look))
		answer = first_waiting(&places) != 0 ? PLACE_PASS : PLACE_TAKEN;
	/* the one that gets our place may be what others leave theirs free for */
	if (answer == PLACE_NONE || (answer == PLACE_PASS && places.limit > 1))
		check_later(entry, kind, key, job_id);
	places_close(&places);
	return answer;
}

void
QueuePlaceLeave(QueueEntry *entry, PlaceKind kind, Datum key, int64 job_id)
{
	Places		places;
	ItemPointerData tid;
	int			number;

	places_open(&places, entry, kind, key);
	/* none, if it entered without one, or a superuser has been at it */
	if (find_own(&places, job_id, &tid, &number))
		pass_place(&places, &tid, number);
	places_close(&places);
}

void
QueuePlaceSkip(QueueEntry *entry, PlaceKind kind, Datum key)
{
	Pending    *found = make_pending(entry, kind, key);
	Places		places;
	int64		waits;

	if (found)
	{
		found->skipped = true;
		return;
	}
	places_open(&places, entry, kind, key);
	if ((waits = first_waiting(&places)) != 0)
		QueueXactCheck(waits);
	places_close(&places);
}

bool
QueuePlaceHas(QueueEntry *entry, Datum limit_key, int64 job_id)
{
	Places		places;
	ItemPointerData tid;
	int			number;
	bool		found;

	places_open(&places, entry, PLACE_LIMIT, limit_key);
	found = find_own(&places, job_id, &tid, &number);
	places_close(&places);
	return found;
}

void
QueuePlaceForce(QueueEntry *entry, Datum limit_key, int64 job_id)
{
	Places		places;
	Look		look;

	places_open(&places, entry, PLACE_LIMIT, limit_key);
	if (!seek_place(&places, job_id, &look))
	{
		places.limit = PG_INT32_MAX;
		(void) seek_place(&places, job_id, &look);
	}
	places_close(&places);
}

bool
QueuePlaceCheck(QueueEntry *entry, HeapTuple row)
{
	PlaceKind	kind = JOB_HEAD(row)->state == JOB_GROUPED ? PLACE_GROUP : PLACE_LIMIT;
	Places		places;
	bool		null;
	bool		unsure;
	Datum		key = heap_getattr(row, kinds[kind].key, QueueEntryDesc(entry), &null);

	Assert(JOB_HEAD(row)->state == kinds[kind].state && !null);
	places_open(&places, entry, kind, key);
	(void) fill_places(&places, &unsure);
	places_close(&places);
	return !unsure;
}

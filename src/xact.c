/*-------------------------------------------------------------------------
 *
 * xact.c
 *		What a transaction will have to tell shared memory when it ends.
 *
 * Shared memory knows nothing of transactions: hints and counters may speak
 * only of what has ended.  So each verb records here, before it changes a row,
 * what the end of the transaction will mean: this key becomes claimable at
 * commit, that one at abort, so many jobs more wait.  The callbacks carry it
 * out once everybody can see the outcome (they run after
 * ProcArrayEndTransaction), and a subtransaction's records follow its fate.
 *
 * A prepared transaction ends in another backend, perhaps after a crash.  Its
 * records are written into queue._prepared, as part of it; whoever finishes it
 * reads them first (of a transaction that is rolled back nobody can read them
 * afterwards) and carries them out after: see the utility hook in queue.c.
 *
 * What is lost in between, by a crash, is lost with all of shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "heartbeat.h"
#include "internal.h"
#include "launcher.h"
#include "limit.h"
#include "metric.h"
#include "place.h"
#include "pool.h"
#include "progress.h"
#include "stats.h"
#include "wait.h"
#include "xact.h"

#define CLASS_ALL	60000		/* in queue._prepared: forget everything */
#define CLASS_CHECK	60001		/* there: look at all blocked jobs */
#define CLASS_BATCHES 60002		/* there: look at batches */
#define CLASS_EVENT 60100		/* there: an event, plus which */
#define CLASS_TOTAL 60003		/* there: which total, how much */
#define CLASS_TIME	60004		/* there: which time and bucket; how many, and their sum */
#define MAX_PENDING_CHECKS	1000	/* more than that means all */

typedef struct PinnedSlot
{
	Oid			live_id;
	int32		queue_id;
	QueueSlot  *slot;
	bool		wake_all;		/* at the end, all who wait for its jobs */
	int			unhinted;		/* a class that we have met without a hint, or one of these */
} PinnedSlot;

#define UNHINTED_NONE	PG_INT32_MIN
#define UNHINTED_MANY	PG_INT32_MAX

typedef struct PendingHint
{
	HintSlot   *hint;
	SubTransactionId subid;
	HintKey		on_commit;		/* HINT_KEY_MAX: nothing */
	HintKey		on_abort;
	HintKey		reserved;		/* on abort, while a look is under way: from here on */
	HintLeases	leases;			/* on commit */
	bool		swept;			/* on abort: nothing is known about leases */
} PendingHint;

typedef struct PendingCount
{
	QueueSlot  *slot;
	SubTransactionId subid;
	int64		delta[NUM_COUNTS];
	int64		total[NUM_TOTALS];
	LimitHeld	held;
} PendingCount;

/* how long jobs took, by the bucket of the histogram */
typedef struct PendingTime
{
	QueueSlot  *slot;
	SubTransactionId subid;
	QueueTime	time;
	int			bucket;
	int64		count;
	int64		usecs;			/* their sum */
} PendingTime;

typedef struct PendingCheck
{
	SubTransactionId subid;
	int64		job_id;			/* 0: all */
	bool		interrupt;		/* not to be looked at, but to be stopped */
} PendingCheck;

static PinnedSlot *pins;
static int	num_pins,
			max_pins;
static PendingHint *hints;
static int	num_hints,
			max_hints;
static PendingCount *counts;
static int	num_counts,
			max_counts;
static PendingTime *times;
static int	num_times,
			max_times;

static PendingCheck *checks;
static int	num_checks,
			max_checks;
static Installation *checks_installation;

static Installation *forget_all;	/* whose hints and counters, or NULL */
static Installation *without_slot;	/* where we have met a queue without one, or NULL */
static uint32 late_slots;		/* what it had counted before that */
static Oid	without_installation;	/* job_live of the one that had no room, or invalid */
static Installation *batches;	/* whose worker is to look at them, or NULL */
static bool batch_closed;		/* at once */
static bool announce_extension;
static bool announce_database;

/* has this transaction written nothing but claims? see QueueXactClaimBegin() */
static enum
{
	CLAIMS_NONE,				/* no claim yet */
	CLAIMS_ONLY,
	CLAIMS_AND_MORE				/* or a claim that must be flushed */
}			claims;
static int64 wal_records_after_claim;

/* room for one more, at the end of an array in TopMemoryContext */
static void *
grow(void *array, int used, int *size, Size element)
{
	if (used < *size)
		return array;
	if (array == NULL)
	{
		array = MemoryContextAlloc(TopMemoryContext, 16 * element);
		*size = 16;
	}
	else
	{
		array = repalloc(array, *size * 2 * element);
		*size *= 2;
	}
	return array;
}

QueueSlot *
QueueXactSlot(int32 queue_id)
{
	Oid			live_id = QueueCatalogGet(false)->live;
	QueueSlot  *slot;

	for (int i = num_pins - 1; i >= 0; i--)
		if (pins[i].queue_id == queue_id && pins[i].live_id == live_id)
			return pins[i].slot;

	pins = grow(pins, num_pins, &max_pins, sizeof(PinnedSlot));
	slot = QueueSlotPin(live_id, queue_id);
	if (slot == NULL && without_slot == NULL &&
		(without_slot = QueueInstallation(live_id)) != NULL)
	{
		/* a slot that is made after we have looked in vain is counted after this */
		late_slots = pg_atomic_read_u32(&without_slot->late_slots);
		slot = QueueSlotPin(live_id, queue_id);
	}
	if (slot == NULL && without_slot == NULL)
		without_installation = live_id;
	if (slot == NULL)
		return NULL;
	pins[num_pins++] = (PinnedSlot) {live_id, queue_id, slot, false, UNHINTED_NONE};
	return slot;
}

void
QueueXactWakeAll(int32 queue_id)
{
	QueueSlot  *slot = QueueXactSlot(queue_id);

	for (int i = 0; i < num_pins; i++)
		if (pins[i].slot == slot)
			pins[i].wake_all = true;
}

void
QueueXactNoHint(QueueSlot *slot, int order_class)
{
	for (int i = 0; i < num_pins; i++)
		if (pins[i].slot == slot && pins[i].unhinted != order_class)
			pins[i].unhinted = pins[i].unhinted == UNHINTED_NONE ? order_class : UNHINTED_MANY;
}

/*
 * What we have done to a class without a hint is recorded nowhere.  It may have
 * got one since, whose looks have not seen what is visible now, or nobody may
 * know that there is such a class.
 */
static void
lower_unhinted(void)
{
	for (int i = 0; i < num_pins; i++)
		if (unlikely(pins[i].unhinted != UNHINTED_NONE))
			QueueHintLowerClass(pins[i].slot, pins[i].unhinted == UNHINTED_MANY ? NULL : &pins[i].unhinted);
}

static PendingHint *
pending_hint(HintSlot *hint)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	for (int i = num_hints - 1; i >= 0; i--)
		if (hints[i].hint == hint && hints[i].subid == subid)
			return &hints[i];
	hints = grow(hints, num_hints, &max_hints, sizeof(PendingHint));
	hints[num_hints] = (PendingHint) {
		.hint = hint, .subid = subid, .on_commit = HINT_KEY_MAX,
		.on_abort = HINT_KEY_MAX, .reserved = HINT_KEY_MAX, .leases = HINT_NO_LEASES
	};
	return &hints[num_hints++];
}

/* a look has left it, and nothing in it */
static bool
is_empty(const PendingHint *pending)
{
	return !HINT_KEY_LT(pending->on_commit, HINT_KEY_MAX) &&
		!HINT_KEY_LT(pending->on_abort, HINT_KEY_MAX) &&
		!hint_has_leases(pending->leases) && !pending->swept;
}

void
QueueXactNoteCommit(HintSlot *hint, HintKey key)
{
	PendingHint *pending;

	if (hint == NULL)
		return;
	pending = pending_hint(hint);
	if (HINT_KEY_LT(key, pending->on_commit))
		pending->on_commit = key;
}

void
QueueXactNoteAbort(HintSlot *hint, HintKey key)
{
	PendingHint *pending;

	if (hint == NULL)
		return;
	pending = pending_hint(hint);
	if (HINT_KEY_LT(key, pending->on_abort))
		pending->on_abort = key;
}

void
QueueXactReserve(HintSlot *hint, HintKey key)
{
	PendingHint *pending = pending_hint(hint);

	if (HINT_KEY_LT(key, pending->reserved))
		pending->reserved = key;
}

void
QueueXactReserveEnd(HintSlot *hint)
{
	for (int i = 0; i < num_hints; i++)
		if (hints[i].hint == hint)
			hints[i].reserved = HINT_KEY_MAX;
}

void
QueueXactNoteLeases(HintSlot *hint, HintLeases leases)
{
	PendingHint *pending;

	if (hint == NULL)
		return;
	pending = pending_hint(hint);
	hint_add_leases(&pending->leases, leases);
}

void
QueueXactSweep(HintSlot *hint)
{
	pending_hint(hint)->swept = true;
}

/* what we have enqueued ourselves is visible to us before it is noted */
HintKey
QueueXactOwnKey(HintSlot *hint)
{
	HintKey		least = HINT_KEY_MAX;

	for (int i = 0; i < num_hints; i++)
		if (hints[i].hint == hint && HINT_KEY_LT(hints[i].on_commit, least))
			least = hints[i].on_commit;
	return least;
}

static PendingCount *
pending_count(QueueSlot *slot)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	for (int i = num_counts - 1; i >= 0; i--)
		if (counts[i].slot == slot && counts[i].subid == subid)
			return &counts[i];
	counts = grow(counts, num_counts, &max_counts, sizeof(PendingCount));
	memset(&counts[num_counts], 0, sizeof(PendingCount));
	counts[num_counts].slot = slot;
	counts[num_counts].subid = subid;
	return &counts[num_counts++];
}

void
QueueXactCount(QueueSlot *slot, JobCount state, int64 change)
{
	if (slot && change != 0)
		pending_count(slot)->delta[state] += change;
}

void
QueueXactTotal(QueueSlot *slot, QueueTotal total, int64 change)
{
	if (slot && change != 0)
		pending_count(slot)->total[total] += change;
}

static bool
same_time(const PendingTime *a, const PendingTime *b)
{
	return a->slot == b->slot && a->time == b->time && a->bucket == b->bucket;
}

void
QueueXactTime(QueueSlot *slot, QueueTime time, int64 usecs)
{
	PendingTime new = {
		slot, GetCurrentSubTransactionId(), time, QueueTimeBucket(usecs), 1, Max(usecs, 0)
	};

	if (slot == NULL)
		return;
	for (int i = num_times - 1; i >= 0 && times[i].subid == new.subid; i--)
		if (same_time(&times[i], &new))
		{
			times[i].count++;
			times[i].usecs += new.usecs;
			return;
		}
	times = grow(times, num_times, &max_times, sizeof(PendingTime));
	times[num_times++] = new;
}

int64
QueueXactPending(QueueSlot *slot, JobCount state)
{
	int64		change = 0;

	for (int i = 0; i < num_counts; i++)
		if (counts[i].slot == slot)
			change += counts[i].delta[state];
	return change;
}

LimitHeld *
QueueXactHeld(QueueSlot *slot)
{
	return &pending_count(slot)->held;
}

int64
QueueXactPlaces(QueueSlot *slot)
{
	int64		places = 0;

	for (int i = 0; i < num_counts; i++)
		if (counts[i].slot == slot)
			places += counts[i].held.places;
	return places;
}

void
QueueXactCompleted(QueueSlot *slot, TimestampTz taken_at)
{
	LimitHeld  *held;

	if (slot == NULL || likely(pg_atomic_read_u32(&slot->throttle_steps) == 0))
		return;
	held = QueueXactHeld(slot);
	held->completed_at = Max(held->completed_at, taken_at);
}

void
QueueXactCheck(int64 job_id)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	checks_installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (checks_installation == NULL)
		return;					/* no room: queue.maintain() looks at all */

	/* one too many: that one stands for all, also for those to come */
	if (num_checks >= MAX_PENDING_CHECKS)
	{
		if (checks[num_checks - 1].subid == subid && checks[num_checks - 1].job_id == 0 &&
			!checks[num_checks - 1].interrupt)
			return;
		job_id = 0;
	}
	checks = grow(checks, num_checks, &max_checks, sizeof(PendingCheck));
	checks[num_checks++] = (PendingCheck) {.subid = subid, .job_id = job_id};
}

void
QueueXactInterrupt(int64 job_id)
{
	checks_installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (checks_installation == NULL)
		return;
	checks = grow(checks, num_checks, &max_checks, sizeof(PendingCheck));
	checks[num_checks++] = (PendingCheck) {GetCurrentSubTransactionId(), job_id, true};
}

/* also told if the subtransaction is undone: a look more does no harm */
void
QueueXactBatches(bool closed)
{
	batch_closed |= closed;
	batches = QueueInstallation(QueueCatalogGet(false)->live);
}

void
QueueXactDead(int64 versions)
{
	Installation *installation = QueueInstallation(QueueCatalogGet(false)->live);

	/* only a reason to look whether a vacuum is worth it: not worth waiting */
	if (installation)
		pg_atomic_fetch_add_u64(&installation->dead, versions);
}

void
QueueXactForgetAll(void)
{
	const QueueCatalog *cat = QueueCatalogGet(true);

	if (cat && QueueSharedReady())
		forget_all = QueueInstallation(cat->live);
}

void
QueueXactAnnounceExtension(void)
{
	announce_extension = true;
}

void
QueueXactAnnounceDatabase(void)
{
	announce_database = true;
}

void
QueueXactClaimBegin(void)
{
	if (claims == CLAIMS_NONE)
	{
		/* with a transaction id, it has written something before */
		claims = TransactionIdIsValid(GetTopTransactionIdIfAny()) ?
			CLAIMS_AND_MORE : CLAIMS_ONLY;
	}
	else if (pgWalUsage.wal_records != wal_records_after_claim)
		claims = CLAIMS_AND_MORE;
}

void
QueueXactClaimEnd(bool must_flush)
{
	if (must_flush)
		claims = CLAIMS_AND_MORE;
	wal_records_after_claim = pgWalUsage.wal_records;
}

/*
 * A transaction that has done nothing but claim jobs need not wait for the
 * disk: if a crash undoes it, the jobs wait again, as if the lease had run
 * out.  Whatever else wrote WAL meanwhile, even the pruning of a page, makes
 * us wait as usual.
 */
static void
before_commit(void)
{
	if (claims != CLAIMS_ONLY || !queue_async_claims ||
		pgWalUsage.wal_records != wal_records_after_claim ||
		synchronous_commit <= SYNCHRONOUS_COMMIT_OFF)
		return;
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* an earlier due time or expiry than the maintenance worker reckons with? */
static void
wake_maintenance(const HintSlot *hint, int64 at)
{
	Installation *installation = &Installations[QueueSlots[hint->queue].installation];

	if ((uint64) Max(at, 0) < pg_atomic_read_u64(&installation->wake_at))
	{
		Latch	   *latch = installation->maintenance;

		if (latch)
			SetLatch(latch);
	}
}

static void
tell_commit(const PendingHint *pending)
{
	if (hint_has_leases(pending->leases))
	{
		QueueHintNoteLeases(pending->hint, pending->leases);
		wake_maintenance(pending->hint, pending->leases.expiry);
	}
	if (HINT_KEY_LT(pending->on_commit, HINT_KEY_MAX))
	{
		QueueHintNote(pending->hint, pending->on_commit);
		if (pending->hint->order_class == CLASS_PARKED)
			wake_maintenance(pending->hint, pending->on_commit.at);
	}
}

static void
tell_abort(const PendingHint *pending)
{
	if (HINT_KEY_LT(pending->on_abort, HINT_KEY_MAX) && !QUEUE_MUTATION(2))
		QueueHintNote(pending->hint, pending->on_abort);
	if (HINT_KEY_LT(pending->reserved, HINT_KEY_MAX))
		QueueHintNote(pending->hint, pending->reserved);
	if (pending->swept)
		QueueHintNoteLeases(pending->hint, HINT_ANY_LEASES);
}

/* what has happened, at commit */
static void
tell_totals(void)
{
	TimestampTz now = num_counts > 0 ? GetCurrentTransactionStopTimestamp() : 0;

	for (int i = 0; i < num_counts; i++)
		for (int t = 0; t < NUM_TOTALS; t++)
			QueueTotalsAdd(&counts[i].slot->totals, (QueueTotal) t, counts[i].total[t], now);
	for (int i = 0; i < num_times; i++)
		QueueTotalsAddTime(&times[i].slot->totals, times[i].time, times[i].bucket,
						   times[i].count, times[i].usecs);
}

/*
 * What of a queue's jobs has become claimable by a commit, or by an abort of a
 * subtransaction, or all?  At least one, if any key was noted: a waiter that
 * finds more than it wants wakes the next.
 */
static int64
claimable_jobs(QueueSlot *slot, bool commit, SubTransactionId subid)
{
	int64		jobs = 0;
	bool		noted = false;

	for (int i = 0; i < num_hints; i++)
	{
		if (&QueueSlots[hints[i].hint->queue] != slot ||
			(subid != InvalidSubTransactionId && hints[i].subid != subid))
			continue;
		if (commit)
			noted |= hints[i].hint->order_class != CLASS_PARKED &&
				HINT_KEY_LT(hints[i].on_commit, HINT_KEY_MAX);
		else
			noted |= HINT_KEY_LT(hints[i].on_abort, HINT_KEY_MAX) ||
				HINT_KEY_LT(hints[i].reserved, HINT_KEY_MAX);
	}
	for (int i = 0; i < num_counts; i++)
		if (counts[i].slot == slot &&
			(subid == InvalidSubTransactionId || counts[i].subid == subid))
			jobs += counts[i].delta[commit ? COUNT_WAITING : COUNT_ACTIVE];
	return Max(jobs, noted ? 1 : 0);
}

/*
 * What was held of a queue's limits, after the counters have changed.  Of a
 * subtransaction that is undone, or all.
 */
static void
settle_limits(bool commit, SubTransactionId subid)
{
	for (int i = 0; i < num_counts; i++)
		if (subid == InvalidSubTransactionId || counts[i].subid == subid)
			QueueLimitSettle(counts[i].slot, &counts[i].held, commit);
}

/* how many places of a queue has that made free? */
static int64
freed_places(QueueSlot *slot, bool commit, SubTransactionId subid)
{
	int64		places = 0;

	for (int i = 0; i < num_counts; i++)
		if (counts[i].slot == slot &&
			(subid == InvalidSubTransactionId || counts[i].subid == subid))
			places += counts[i].held.places - (commit ? counts[i].delta[COUNT_ACTIVE] : 0);
	return places;
}

/* after everything is noted: wake those who wait for it */
static void
wake_takers(bool commit, SubTransactionId subid)
{
	if (num_pins == 0)
		return;
	pg_memory_barrier();		/* see wait.c */
	for (int i = 0; i < num_pins; i++)
	{
		QueueSlot  *slot = pins[i].slot;
		int64		jobs;

		if (likely(!(commit && pins[i].wake_all) && !QueueHasTakers(slot)))
			continue;
		if (commit && pins[i].wake_all)
		{
			QueuePoolSettingsChanged(slot);
			QueueWaitWakeAll(slot);
			continue;
		}
		jobs = claimable_jobs(slot, commit, subid);
		if (pins[i].unhinted != UNHINTED_NONE)
			jobs = Max(jobs, 1);
		if (pg_atomic_read_u32(&slot->limited) != 0)
			jobs = Max(jobs, freed_places(slot, commit, subid));
		QueueWaitWakeListed(slot, jobs);
	}
}

/*
 * What we have done to a queue without a slot is recorded nowhere.  If it may
 * have got one meanwhile, its hints and counters know nothing of us: whoever has
 * counted has not seen what we are about to make visible.  The same goes for
 * all queues, if there was no room for the extension in this database.
 */
static void
look_for_late_slots(void)
{
	if (without_slot && pg_atomic_read_u32(&without_slot->late_slots) != late_slots)
		forget_all = without_slot;
	if (OidIsValid(without_installation) && forget_all == NULL)
		forget_all = QueueInstallationFind(without_installation);
}

/* forget everything; the arrays stay for the next transaction */
static void
end_transaction(void)
{
	for (int i = 0; i < num_pins; i++)
		QueueSlotUnpin(pins[i].slot);
	num_pins = num_hints = num_counts = num_times = num_checks = 0;
	forget_all = without_slot = batches = NULL;
	without_installation = InvalidOid;
	batch_closed = false;
	announce_extension = announce_database = false;
	claims = CLAIMS_NONE;
	QueuePlaceForgetPending();
	QueueProgressForget();
	QueueEventForget();
	QueueHeartbeatForget();
	QueueMetricForget();
}

static void
insert_prepared(Relation rel, uint64 xid, int32 queue_id, int order_class,
				HintKey on_commit, HintKey on_abort, const int64 *delta)
{
	Datum		values[7 + NUM_COUNTS];
	bool		nulls[7 + NUM_COUNTS] = {0};

	values[0] = Int64GetDatum((int64) xid);
	values[1] = Int32GetDatum(queue_id);
	values[2] = Int32GetDatum(order_class);
	values[3] = TimestampTzGetDatum(on_commit.at);
	values[4] = Int64GetDatum(on_commit.id);
	values[5] = TimestampTzGetDatum(on_abort.at);
	values[6] = Int64GetDatum(on_abort.id);
	for (int c = 0; c < NUM_COUNTS; c++)
		values[7 + c] = Int64GetDatum(delta ? delta[c] : 0);
	simple_heap_insert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
}

/*
 * Places in shared memory would not survive a crash, as the transaction does.
 * One that has none of its jobs active in the end needs none.
 */
static void
check_places(void)
{
	for (int i = 0; i < num_counts; i++)
		if (counts[i].held.places > 0 && QueueXactPending(counts[i].slot, COUNT_ACTIVE) > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that holds jobs of a queue with max_active"),
					 errdetail("A crash would forget that they count."),
					 errhint("Complete or release the jobs before PREPARE TRANSACTION, or take them in a transaction of its own.")));
}

/* what it will tell listeners: see QueuePreparedFinish() */
static void
insert_prepared_events(Relation rel, uint64 xid)
{
	QueueSlot  *slot;
	QueueEvent	event;
	SlotEvent	what;

	for (int i = 0; QueueEventPending(i, &slot, &event, &what); i++)
	{
		int64		delta[NUM_COUNTS] = {what.count};

		insert_prepared(rel, xid, slot->queue_id, CLASS_EVENT + event,
						(HintKey) {PG_INT64_MAX, what.job_id},
						(HintKey) {PG_INT64_MAX, what.state}, delta);
	}
}

/* PREPARE TRANSACTION: put what is recorded into the transaction itself */
static void
before_prepare(void)
{
	Relation	rel;
	uint64		xid;
	bool		wake = false,
				all;
	int			kept = 0;

	check_places();
	/* nobody knows who gets a slot until it is finished */
	if (without_slot)
		forget_all = without_slot;
	for (int i = 0; i < num_pins; i++)
	{
		wake |= pins[i].wake_all;
		if (pins[i].unhinted != UNHINTED_NONE)
			forget_all = &Installations[pins[i].slot->installation];
	}
	for (int i = 0; i < num_hints; i++)
		if (!is_empty(&hints[i]))
			hints[kept++] = hints[i];
	num_hints = kept;
	all = forget_all != NULL || OidIsValid(without_installation);
	if (num_hints == 0 && num_counts == 0 && num_checks == 0 && !all && !wake &&
		batches == NULL && !QueueEventAny())
		return;
	xid = U64FromFullTransactionId(GetTopFullTransactionId());
	rel = QueueOpenTable(QueueCatalogGet(false)->prepared, RowExclusiveLock);
	for (int i = 0; i < num_hints; i++)
		insert_prepared(rel, xid, QueueSlots[hints[i].hint->queue].queue_id,
						hints[i].hint->order_class, hints[i].on_commit,
						hints[i].on_abort, NULL);
	for (int i = 0; i < num_counts; i++)
		insert_prepared(rel, xid, counts[i].slot->queue_id, CLASS_NONE,
						HINT_KEY_MAX, HINT_KEY_MAX, counts[i].delta);
	for (int i = 0; i < num_counts; i++)
		for (int t = 0; t < NUM_TOTALS; t++)
			if (counts[i].total[t] != 0)
				insert_prepared(rel, xid, counts[i].slot->queue_id, CLASS_TOTAL,
								(HintKey) {t, counts[i].total[t]}, HINT_KEY_MAX, NULL);
	for (int i = 0; i < num_times; i++)
		insert_prepared(rel, xid, times[i].slot->queue_id, CLASS_TIME,
						(HintKey) {times[i].time, times[i].bucket},
						(HintKey) {times[i].usecs, times[i].count}, NULL);
	if (num_checks > 0)
		insert_prepared(rel, xid, 0, CLASS_CHECK, HINT_KEY_MAX, HINT_KEY_MAX, NULL);
	/* whoever waits for a queue that is named here is woken */
	for (int i = 0; i < num_pins; i++)
		if (pins[i].wake_all)
			insert_prepared(rel, xid, pins[i].queue_id, CLASS_NONE,
							HINT_KEY_MAX, HINT_KEY_MAX, NULL);
	if (batches)
		insert_prepared(rel, xid, 0, CLASS_BATCHES, HINT_KEY_MAX, HINT_KEY_MAX, NULL);
	insert_prepared_events(rel, xid);
	if (all)
		insert_prepared(rel, xid, 0, CLASS_ALL, HINT_KEY_MAX, HINT_KEY_MAX, NULL);
	table_close(rel, NoLock);
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			QueuePlaceJoinPending();
			before_commit();
			break;
		case XACT_EVENT_COMMIT:
			QueueHintForgetLook();
			QueueWaitForget();
			for (int i = 0; i < num_hints; i++)
				tell_commit(&hints[i]);
			lower_unhinted();
			for (int i = 0; i < num_counts; i++)
				QueueStatsApply(counts[i].slot, counts[i].delta, GetTopFullTransactionIdIfAny());
			tell_totals();
			settle_limits(true, InvalidSubTransactionId);
			wake_takers(true, InvalidSubTransactionId);
			look_for_late_slots();
			if (forget_all)
			{
				QueueHintLowerAll(forget_all);
				QueueStatsForget(forget_all);
				QueueWaitWakeInstallation(forget_all);
			}
			for (int i = 0; i < num_checks; i++)
			{
				if (checks[i].interrupt)
					QueuePoolInterrupt(checks_installation, checks[i].job_id);
				else
					QueueCheckAdd(checks_installation, checks[i].job_id);
			}
			if (batches)
				QueueBatchesNote(batches, batch_closed);
			QueueProgressCommit();
			QueueEventCommit();
			QueueHeartbeatCommit();
			QueueMetricCommit();
			if (announce_extension)
				QueueLauncherAnnounce(MyDatabaseId);
			if (announce_database)
				QueueLauncherAnnounce(InvalidOid);
			end_transaction();
			break;
		case XACT_EVENT_ABORT:
			QueueSpiForget();
			QueueHintForgetLook();
			QueueWaitForget();
			for (int i = 0; i < num_hints; i++)
				tell_abort(&hints[i]);
			lower_unhinted();
			settle_limits(false, InvalidSubTransactionId);
			wake_takers(false, InvalidSubTransactionId);
			look_for_late_slots();
			/* row locks that SQL held may have made a look skip rows */
			if (forget_all)
			{
				QueueHintLowerAll(forget_all);
				QueueWaitWakeInstallation(forget_all);
			}
			end_transaction();
			break;
		case XACT_EVENT_PRE_PREPARE:
			QueuePlaceJoinPending();
			before_prepare();
			break;
		case XACT_EVENT_PREPARE:
			QueueWaitForget();
			/* what it has made active, it has ended as well: see check_places() */
			for (int i = 0; i < num_counts; i++)
			{
				counts[i].held.completed_at = 0;	/* nobody knows yet */
				QueueLimitSettle(counts[i].slot, &counts[i].held, true);
				if (counts[i].held.places > 0)
					QueueWaitWake(counts[i].slot, counts[i].held.places);
			}
			/* its row is as good as written: the next one must not have it again */
			QueueMetricCommit();
			end_transaction();
			break;
		default:
			break;
	}
}

/*
 * A subtransaction's records become its parent's.  They are the last ones, and
 * are merged with what the parent has, or a transaction of many
 * subtransactions would search through as many records.
 */
static void
reparent_hints(SubTransactionId my_subid, SubTransactionId parent_subid)
{
	int			first = num_hints;
	int			kept;

	while (first > 0 && hints[first - 1].subid == my_subid)
		first--;
	kept = first;
	for (int i = first; i < num_hints; i++)
	{
		PendingHint *mine = &hints[i];
		PendingHint *parent = NULL;

		Assert(!HINT_KEY_LT(mine->reserved, HINT_KEY_MAX));
		for (int j = first - 1; j >= 0 && hints[j].subid >= parent_subid && parent == NULL; j--)
			if (hints[j].hint == mine->hint && hints[j].subid == parent_subid)
				parent = &hints[j];
		if (parent == NULL)
		{
			mine->subid = parent_subid;
			hints[kept++] = *mine;
			continue;
		}
		if (HINT_KEY_LT(mine->on_commit, parent->on_commit))
			parent->on_commit = mine->on_commit;
		if (HINT_KEY_LT(mine->on_abort, parent->on_abort))
			parent->on_abort = mine->on_abort;
		hint_add_leases(&parent->leases, mine->leases);
		parent->swept |= mine->swept;
	}
	num_hints = kept;
}

static void
reparent_counts(SubTransactionId my_subid, SubTransactionId parent_subid)
{
	int			first = num_counts;
	int			kept;

	while (first > 0 && counts[first - 1].subid == my_subid)
		first--;
	kept = first;
	for (int i = first; i < num_counts; i++)
	{
		PendingCount *mine = &counts[i];
		PendingCount *parent = NULL;

		for (int j = first - 1; j >= 0 && counts[j].subid >= parent_subid && parent == NULL; j--)
			if (counts[j].slot == mine->slot && counts[j].subid == parent_subid)
				parent = &counts[j];
		if (parent == NULL)
		{
			mine->subid = parent_subid;
			counts[kept++] = *mine;
			continue;
		}
		for (int c = 0; c < NUM_COUNTS; c++)
			parent->delta[c] += mine->delta[c];
		for (int t = 0; t < NUM_TOTALS; t++)
			parent->total[t] += mine->total[t];
		if (parent->held.tokens == 0)
			parent->held.tokens_at = mine->held.tokens_at;
		parent->held.places += mine->held.places;
		parent->held.tokens += mine->held.tokens;
		parent->held.completed_at = Max(parent->held.completed_at, mine->held.completed_at);
	}
	num_counts = kept;
}

static void
reparent_times(SubTransactionId my_subid, SubTransactionId parent_subid)
{
	int			first = num_times;
	int			kept;

	while (first > 0 && times[first - 1].subid == my_subid)
		first--;
	kept = first;
	for (int i = first; i < num_times; i++)
	{
		PendingTime *mine = &times[i];
		PendingTime *parent = NULL;

		for (int j = first - 1; j >= 0 && times[j].subid == parent_subid && parent == NULL; j--)
			if (same_time(&times[j], mine))
				parent = &times[j];
		if (parent == NULL)
		{
			mine->subid = parent_subid;
			times[kept++] = *mine;
			continue;
		}
		parent->count += mine->count;
		parent->usecs += mine->usecs;
	}
	num_times = kept;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId my_subid,
				 SubTransactionId parent_subid, void *arg)
{
	int			kept;

	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			reparent_hints(my_subid, parent_subid);
			reparent_counts(my_subid, parent_subid);
			reparent_times(my_subid, parent_subid);
			QueuePlaceCommitSub(my_subid, parent_subid);
			QueueProgressCommitSub(my_subid, parent_subid);
			QueueEventCommitSub(my_subid, parent_subid);
			QueueHeartbeatCommitSub(my_subid, parent_subid);
			for (int i = num_checks - 1; i >= 0 && checks[i].subid >= my_subid; i--)
				checks[i].subid = parent_subid;
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			QueueSpiForget();
			QueueHintForgetLook();
			QueueWaitForget();
			for (int i = 0; i < num_hints; i++)
				if (hints[i].subid == my_subid)
					tell_abort(&hints[i]);
			lower_unhinted();
			settle_limits(false, my_subid);
			wake_takers(false, my_subid);
			kept = 0;
			for (int i = 0; i < num_hints; i++)
				if (hints[i].subid != my_subid)
					hints[kept++] = hints[i];
			num_hints = kept;
			kept = 0;
			for (int i = 0; i < num_counts; i++)
				if (counts[i].subid != my_subid)
					counts[kept++] = counts[i];
			num_counts = kept;
			while (num_times > 0 && times[num_times - 1].subid >= my_subid)
				num_times--;
			QueueMetricForget();
			QueuePlaceAbortSub(my_subid);
			QueueProgressAbortSub(my_subid);
			QueueEventAbortSub(my_subid);
			QueueHeartbeatAbortSub(my_subid);
			while (num_checks > 0 && checks[num_checks - 1].subid >= my_subid)
				num_checks--;
			look_for_late_slots();
			/* our own looks have seen what is undone now */
			if (forget_all)
			{
				QueueHintLowerAll(forget_all);
				QueueWaitWakeInstallation(forget_all);
			}
			break;
		default:
			break;
	}
}

void
QueueXactInit(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* ---------------------------------------------------------------------
 * Prepared transactions, when they end
 * --------------------------------------------------------------------- */

typedef struct PreparedRow
{
	ItemPointerData tid;
	int32		queue_id;
	int			order_class;
	HintKey		on_commit;
	HintKey		on_abort;
	int64		delta[NUM_COUNTS];
} PreparedRow;

struct QueuePrepared
{
	Oid			live_id;
	uint64		xid;
	List	   *rows;
};

/* the 32 bits of the transaction behind a name, or invalid */
static TransactionId
prepared_xid(const char *gid)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(gid);
	TransactionId xid = InvalidTransactionId;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_execute_with_args("SELECT transaction FROM pg_catalog.pg_prepared_xacts"
							  " WHERE gid OPERATOR(pg_catalog.=) $1"
							  " AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
							  1, &type, &value, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
	{
		bool		null;

		xid = DatumGetTransactionId(SPI_getbinval(SPI_tuptable->vals[0],
												  SPI_tuptable->tupdesc, 1, &null));
	}
	PopActiveSnapshot();
	SPI_finish();
	return xid;
}

/*
 * Read what a prepared transaction will have to tell, before it is finished.
 * NULL: nothing.
 */
QueuePrepared *
QueuePreparedRead(const char *gid)
{
	const QueueCatalog *cat = QueueCatalogGet(true);
	QueuePrepared *prepared;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	TransactionId xid;

	if (cat == NULL || !QueueSharedReady())
		return NULL;
	rel = QueueOpenTable(cat->prepared, AccessShareLock);
	/* most servers never prepare what the queue has to do with */
	if (RelationGetNumberOfBlocks(rel) == 0 ||
		!TransactionIdIsValid(xid = prepared_xid(gid)))
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}

	prepared = palloc0(sizeof(QueuePrepared));
	prepared->live_id = cat->live;
	scan = queue_beginscan(rel, SnapshotAny);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[7 + NUM_COUNTS];
		bool		nulls[7 + NUM_COUNTS];
		PreparedRow *row;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		if (XidFromFullTransactionId(FullTransactionIdFromU64(DatumGetInt64(values[0]))) != xid)
			continue;
		row = palloc(sizeof(PreparedRow));
		prepared->xid = DatumGetInt64(values[0]);
		row->tid = tuple->t_self;
		row->queue_id = DatumGetInt32(values[1]);
		row->order_class = DatumGetInt32(values[2]);
		row->on_commit = (HintKey) {DatumGetTimestampTz(values[3]), DatumGetInt64(values[4])};
		row->on_abort = (HintKey) {DatumGetTimestampTz(values[5]), DatumGetInt64(values[6])};
		for (int c = 0; c < NUM_COUNTS; c++)
			row->delta[c] = DatumGetInt64(values[7 + c]);
		prepared->rows = lappend(prepared->rows, row);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return prepared->rows ? prepared : NULL;
}

/* it is finished, and everybody can see how */
void
QueuePreparedFinish(QueuePrepared *prepared, bool commit)
{
	Installation *installation = QueueInstallation(prepared->live_id);
	FullTransactionId xid = FullTransactionIdFromU64(prepared->xid);
	Relation	rel;
	ListCell   *lc;

	if (QUEUE_MUTATION(4))
		return;
	foreach(lc, prepared->rows)
	{
		PreparedRow *row = lfirst(lc);
		QueueSlot  *slot;
		HintSlot   *hint;

		if (row->order_class == CLASS_ALL)
		{
			if (installation)
			{
				QueueHintLowerAll(installation);
				QueueStatsForget(installation);
				QueueWaitWakeInstallation(installation);
			}
			continue;
		}
		if (row->order_class == CLASS_CHECK)
		{
			if (commit && installation)
				QueueCheckAdd(installation, 0);
			continue;
		}
		if (row->order_class == CLASS_BATCHES)
		{
			if (commit && installation)
				QueueBatchesNote(installation, true);
			continue;
		}
		slot = QueueXactSlot(row->queue_id);
		if (slot == NULL)
			continue;
		if (row->order_class == CLASS_NONE)
		{
			if (commit)
				QueueStatsApply(slot, row->delta, xid);
			continue;
		}
		if (row->order_class >= CLASS_EVENT)
		{
			SlotEvent	what = {
				.count = row->delta[0], .job_id = row->on_commit.id,
				.state = (char) row->on_abort.id
			};

			if (commit)
				QueueEventAdd(slot, row->order_class - CLASS_EVENT, &what, NULL);
			continue;
		}
		if (row->order_class == CLASS_TOTAL)
		{
			if (commit)
				QueueTotalsAdd(&slot->totals, (QueueTotal) row->on_commit.at, row->on_commit.id,
							   GetCurrentTimestamp());
			continue;
		}
		if (row->order_class == CLASS_TIME)
		{
			if (commit)
				QueueTotalsAddTime(&slot->totals, (QueueTime) row->on_commit.at,
								   (int) row->on_commit.id, row->on_abort.id, row->on_abort.at);
			continue;
		}
		/* no hint: then nobody has raised it past anything */
		hint = QueueHintSlot(slot, row->order_class, false);
		if (hint == NULL)
			continue;
		if (commit)
		{
			PendingHint pending = {
				.hint = hint, .on_commit = row->on_commit,
				.leases = HINT_ANY_LEASES
			};

			tell_commit(&pending);
		}
		else
		{
			PendingHint pending = {
				.hint = hint, .on_abort = row->on_abort, .reserved = HINT_KEY_MAX,
				.leases = HINT_NO_LEASES
			};

			tell_abort(&pending);
		}
	}

	foreach(lc, prepared->rows)
	{
		PreparedRow *row = lfirst(lc);
		QueueSlot  *slot = row->order_class == CLASS_ALL ? NULL : QueueXactSlot(row->queue_id);

		if (slot)
			QueueWaitWakeAll(slot);
	}

	/* of one that was rolled back, the rows are dead already */
	if (!commit)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = QueueOpenTable(QueueCatalogGet(false)->prepared, RowExclusiveLock);
	foreach(lc, prepared->rows)
	{
		TM_FailureData failure;

		/* the maintenance worker may have been here before */
		(void) queue_tuple_delete(rel, &((PreparedRow *) lfirst(lc))->tid,
								  GetCurrentCommandId(true), false, &failure, false);
	}
	table_close(rel, NoLock);
	PopActiveSnapshot();
}

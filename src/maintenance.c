/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		One worker per database: everything that nobody waits for.
 *
 * Moves parked jobs that are due into the live table, lets blocked ones go, ends
 * the leases of lost workers, sweeps for leases that have ended, closes and
 * completes batches, gives leaves to the rings and truncates them, folds counts,
 * counts anew what is not known, writes metrics, saves throttles, frees slots.
 * It also starts and buries executors (pool.c), sends events (event.c), samples
 * for health.c, and starts a vacuum of the live table when enough in it is dead
 * and the horizon lets it be removed.  Each step is a short transaction.  What
 * concerns rows, but for the vacuum, is also SQL, as queue.maintain(), for
 * pg_cron or a hand.
 *
 * No job is lost without it, but some come late: takers find due jobs
 * themselves, but of ended leases only those above the hint; and nothing is
 * cleaned up.
 *
 * When to wake next: before it looks, the worker publishes "always wake me";
 * after, the earliest time it has found.  A commit that parks a job, or leases
 * one, changes the hint first and then reads what is published.  So either the
 * look has seen the hint, or the commit sets the latch.
 *
 * A restore fills one table after the other, each in a transaction of its own.
 * What is there half way must not be mended: a job would get a group that is
 * still to come, rows of a queue that is not there yet would be rubbish.  The
 * utility hook tells who uses COPY, the trigger on the tables who inserts rows;
 * rounds wait for that process, and a round that has begun ends (is_restoring()).
 *
 * Takers that wait are woken by whoever notes a job, so by the worker, too: by
 * the commit of a move, and for each ended lease (see wait.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/vacuum.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "batch.h"
#include "calls.h"
#include "clock.h"
#include "compat.h"
#include "dequeue.h"
#include "entry.h"
#include "event.h"
#include "flow.h"
#include "health.h"
#include "heartbeat.h"
#include "internal.h"
#include "launcher.h"
#include "limit.h"
#include "mark.h"
#include "metric.h"
#include "place.h"
#include "pool.h"
#include "progress.h"
#include "ring.h"
#include "scan.h"
#include "stats.h"
#include "wait.h"
#include "worker.h"

QUEUE_FUNCTION(queue_maintain);

PGDLLEXPORT void queue_maintenance_main(Datum main_arg);
PGDLLEXPORT void queue_vacuum_main(Datum main_arg);

#define MOVE_CHUNK			1000	/* jobs moved in one transaction */
#define SWEEP_CHUNK			1000	/* stalled jobs failed in one transaction */
#define SWEEP_SPACING_MS	100		/* between two sweeps of a class */
#define SWEEP_SHARE			10		/* sweeps may take 1/10 of the time */
#define RING_EVERY_MS		10000
#define TIDY_EVERY_MS		60000
#define RESTORE_WAIT_MS		500
#define RESTORE_IDLE		"2 s"
#define SAFETY_EVERY_MS		60000
#define CHECK_EVERY_MS		60000
#define BATCH_SPACING_MS	50		/* between two passes over batches */
#define BATCH_SHARE			20		/* they may take 1/20 of the time */
#define BATCH_SPACING_MAX_MS 2000	/* who waited for a lock was not at work */
#define BATCH_OPEN_MS		1000	/* as long as none is closed */
#define BATCH_EVERY_MS		60000	/* all of them */
#define WORKERS_EVERY_MS	1000	/* or when one is lost */
#define METRIC_CHUNK		100		/* queues whose metrics are recorded in one transaction */
#define RECHECK_MS			10
#define REREAD_ROUNDS		5		/* so soon after settings have changed */
#define RECHECK_SHARE		10		/* looking again may take 1/10 of the time */
#define SAFETY_SHARE		100		/* a safety look may take 1/100 of the time */

/* what the worker remembers of the hint slot of the same index */
typedef struct Swept
{
	TimestampTz not_before;		/* next sweep */
	TimestampTz safety_at;		/* next safety look */
	bool		session_ended;	/* one that may have had a lease here */
} Swept;

static Swept *swept;

typedef enum Step
{
	STEP_COUNT,
	STEP_MOVE,
	STEP_CHECK,
	STEP_WORKERS,
	STEP_SWEEP,
	STEP_BATCH,
	STEP_METRIC,
	STEP_RING,
	STEP_TIDY
} Step;

static const char *const step_names[] = {
	[STEP_COUNT] = "counters counted anew",
	[STEP_MOVE] = "due jobs moved",
	[STEP_CHECK] = "blocked jobs let go",
	[STEP_WORKERS] = "leases of lost workers ended",
	[STEP_SWEEP] = "ended leases found",
	[STEP_BATCH] = "batches completed",
	[STEP_METRIC] = "rows of metrics written",
	[STEP_RING] = "expired leaves truncated",
	[STEP_TIDY] = "internal rows removed",
};

/* ---------------------------------------------------------------------
 * Steps.  Each runs inside a transaction that the caller brackets.
 * --------------------------------------------------------------------- */

/* a slot and a hint of due times for every queue, whoever has used it yet */
static void
make_slots(List *queues)
{
	Installation *installation = QueueInstallation(QueueCatalogGet(false)->live);
	bool		all = true;
	ListCell   *lc;

	foreach(lc, queues)
	{
		QueueSlot  *slot = QueueXactSlot(((QueueSettings *) lfirst(lc))->queue_id);

		if (slot)
			(void) QueueHintSlot(slot, CLASS_PARKED, true);
		all &= slot != NULL;
	}
	if (installation)
		installation->short_of_slots = !all;
}

/* a job may be taken that takers have left behind */
static void
note_job(QueueSlot *slot, HintSlot *hint, HintKey key)
{
	QueueHintNote(hint, key);
	QueueWaitWake(slot, 1);
}

/*
 * Look at what lies between the floor and the last active job: note the jobs
 * whose lease has ended (or give them back, if the queue has a max_active), fail
 * those whose attempts are used up, find out when the next lease ends.  A safety
 * look begins at the left edge, and notes jobs that wait below the hint, too.
 */
static int
sweep_class(const QueueSettings *settings, QueueSlot *slot, HintSlot *hint, bool safety)
{
	TimestampTz now = GetCurrentTimestamp();
	QueueFinish *finish = QueueFinishBegin();
	HintLeases	known,
				seen = HINT_NO_LEASES;
	QueueStore	live;
	HintLook	look;
	HintKey		taken_up_to,
				lowest = HINT_KEY_MAX;
	Snapshot	snapshot;
	QueueScan	scan;
	HeapTuple	row;
	ItemPointerData tid;
	int			found = 0;

	QueueStoreOpen(&live, false);
	/* forget before the snapshot: see QueueHintTakeLeases() */
	QueueXactSweep(hint);
	known = QueueHintTakeLeases(hint);
	QueueHintSweepBegin(&look, hint, &taken_up_to);
	snapshot = QueueFreshSnapshot();
	QueueScanBegin(&scan, &live, snapshot, settings->queue_id, hint->order_class,
				   safety ? HINT_KEY_MIN : look.start, HINT_KEY_MAX, false);
	while ((row = QueueScanNext(&scan, &tid)) != NULL)
	{
		JobHead    *job = JOB_HEAD(row);
		HintKey		key = job_order_key(job);
		bool		begun,
					spent;

		if (!HINT_KEY_LT(lowest, HINT_KEY_MAX))
			lowest = key;
		if (HINT_KEY_LT(known.last, key) && !HINT_KEY_LT(key, taken_up_to))
			break;
		if (!job_is_active(job))
		{
			if (safety && HINT_KEY_LT(key, taken_up_to))
				note_job(slot, hint, key);
			continue;
		}
		if (job_is_held(job, now) || QueueMarkPending(job))
		{
			hint_add_leases(&seen, job_lease(job));
			continue;
		}
		found++;
		hint_add_lease(&seen, PG_INT64_MAX, key);
		/* what an executor had claimed, and not started, was no attempt */
		begun = !job_is_reserved(job) || QueueMarkFind(job);
		spent = begun && job->attempt >= job->max_attempts;
		if (!spent && settings->max_active < 0)
		{
			note_job(slot, hint, key);
			continue;
		}
		if (found <= SWEEP_CHUNK && !spent)
		{
			/* its place must be free for takers to look: see limit.c */
			if (QueueReturnStalled(finish, &live, row, &tid, settings, slot, begun, now))
				QueueXactDead(1);
			else				/* somebody has it in hands: come again */
				hint_add_lease(&seen, now + USECS_PER_SEC, key);
		}
		else if (found <= SWEEP_CHUNK)
		{
			JobHead		before = *job;
			HeapTuple	copy = heap_copytuple(row);

			if (QueueStoreDelete(&live, &tid, &before, slot, false, false) == TM_Ok)
			{
				QueueFailStalled(finish, copy, RelationGetDescr(live.heap), settings, slot, now);
				QueueXactDead(1);
			}
			else				/* somebody has it in hands: come again */
				hint_add_lease(&seen, now + USECS_PER_SEC, key);
			heap_freetuple(copy);
		}
		else					/* the rest next time */
			hint_add_lease(&seen, now, key);
	}
	/* jobs that we have failed count as there until we have committed */
	QueueHintRaiseFloor(&look, HINT_KEY_LT(lowest, taken_up_to) ? lowest : taken_up_to);
	QueueHintLookEnd(&look);
	QueueScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);
	QueueHintNoteLeases(hint, seen);
	QueueStoreClose(&live);
	QueueFinishEnd(finish);
	return found;
}

/*
 * Look at one blocked job: may it go?  False: somebody has not committed what
 * it depends on, so look again.
 */
static bool
check_job(int64 job_id, int64 *let_go)
{
	QueueStore	parked;
	Snapshot	snapshot;
	ItemPointerData tid;
	HeapTuple	row;
	QueueSettings settings;
	QueueEntry	entry;
	JobState	state;
	bool		known = true;

	CommandCounterIncrement();
	QueueStoreOpen(&parked, true);
	snapshot = QueueFreshSnapshot();
	row = QueueStoreFind(&parked, snapshot, job_id, &tid);
	QueueReleaseSnapshot(snapshot);
	QueueStoreClose(&parked);
	state = row ? (JobState) JOB_HEAD(row)->state : JOB_DELAYED;
	if ((state != JOB_BLOCKED && state != JOB_GROUPED && state != JOB_LIMITED) ||
		!QueueSettingsById(JOB_HEAD(row)->queue_id, &settings))
		return true;
	/* whoever changes the limit has told us before it has told our cache */
	if (state == JOB_LIMITED &&
		!QueueSettingsTryLockById(settings.queue_id, AccessShareLock, &settings))
		return false;
	QueueEntryBegin(&entry, &settings);
	*let_go -= QueueXactPending(entry.slot, COUNT_BLOCKED);
	if (state == JOB_BLOCKED)
		known = QueueFlowCheck(&entry, row, &tid);
	else
		known = QueuePlaceCheck(&entry, row);
	*let_go += QueueXactPending(entry.slot, COUNT_BLOCKED);
	QueueEntryEnd(&entry);
	return known;
}

/*
 * All blocked jobs that nothing seems to block: one of each group without a
 * head, one of each limit_key with a free place, and those without parents.
 */
static int64 *
find_unblocked(uint64 *count)
{
	MemoryContext context = CurrentMemoryContext;
	int64	   *ids;

	QueueSpiConnect();
	*count = QueueSpiExecute(
		"(SELECT DISTINCT ON (p.queue_id, p.group_key) p.job_id FROM queue.job_parked AS p"
		" WHERE p.state = 'g' AND NOT EXISTS (SELECT FROM queue.group_head AS h"
		" WHERE h.queue_id = p.queue_id AND h.group_key = p.group_key AND h.job_id <> 0))"
		" UNION ALL SELECT k.job_id FROM ("
		"SELECT DISTINCT ON (p.queue_id, p.limit_key) p.queue_id, p.limit_key, p.job_id"
		" FROM queue.job_parked AS p WHERE p.state = 'k') AS k"
		" JOIN queue.queue AS q ON q.queue_id = k.queue_id"
		" WHERE q.max_active_per_key IS NULL OR q.max_active_per_key > ("
		"SELECT count(*) FROM queue.limit_place AS l WHERE l.queue_id = k.queue_id"
		" AND l.limit_key = k.limit_key AND l.job_id <> 0 AND l.place <= q.max_active_per_key)"
		" UNION ALL SELECT p.job_id FROM queue.job_parked AS p"
		" WHERE p.state = 'b' AND NOT EXISTS (SELECT FROM queue.dependency AS d"
		" WHERE d.child_id = p.job_id)", 0, NULL, NULL, NULL);
	ids = MemoryContextAllocHuge(context, (*count + 1) * sizeof(int64));
	for (uint64 i = 0; i < *count; i++)
	{
		bool		null;

		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	}
	QueueSpiFinish();
	return ids;
}

/* give leaves to retentions that are in use */
static void
ensure_leaves(List *queues)
{
	ListCell   *lc;

	foreach(lc, queues)
	{
		QueueSettings *settings = lfirst(lc);

		QueueRingEnsure(RING_ARCHIVE, settings->keep_completed, false);
		if (settings->keep_failed != settings->keep_completed)
			QueueRingEnsure(RING_ARCHIVE, settings->keep_failed, false);
	}
	QueueRingEnsure(RING_LOG, (int64) queue_log_retention * 60 * USECS_PER_SEC, false);
}

/* fold the appended counts into one row per leaf and queue */
static int64
fold_counts(void)
{
	int64		removed;

	QueueSpiConnect();
	removed = (int64) QueueSpiExecute(
		"WITH many AS ("
		"  SELECT leaf, queue_id FROM queue._archive_count"
		"  GROUP BY leaf, queue_id HAVING count(*) > 1"
		"), gone AS ("
		"  DELETE FROM queue._archive_count AS c USING many AS m"
		"  WHERE c.leaf = m.leaf AND c.queue_id = m.queue_id"
		"  RETURNING c.*"
		") INSERT INTO queue._archive_count"
		"  SELECT leaf, queue_id, sum(completed), sum(failed), sum(cancelled)"
		"  FROM gone GROUP BY leaf, queue_id", 0, NULL, NULL, NULL);
	QueueSpiFinish();
	return removed;
}

/* rows that nobody needs any more, where nobody's transaction is in the way */
static int64
tidy_rows(void)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	int64		removed = 0;

	if (!ConditionalLockRelationOid(cat->queue, RowExclusiveLock) ||
		!ConditionalLockRelationOid(cat->privilege, RowExclusiveLock))
		return 0;
	QueueSpiConnect();
	/* a finished transaction whose finisher died before it could remove them */
	removed += (int64) QueueSpiExecute(
		"DELETE FROM queue._prepared AS p WHERE NOT EXISTS ("
		"SELECT FROM pg_prepared_xacts AS x"
		" WHERE x.transaction::text::bigint = (p.xid % 4294967296))", 0, NULL, NULL, NULL);
	removed += (int64) QueueSpiExecute(
		"DELETE FROM queue.unique_key WHERE settled AND taken_until <= clock_timestamp()",
		0, NULL, NULL, NULL);
	/* a group that may come back any time costs little */
	removed += (int64) QueueSpiExecute(
		"DELETE FROM queue.group_head AS h WHERE h.job_id = 0 AND h.at < clock_timestamp() - interval '1 day'"
		" AND NOT EXISTS (SELECT FROM queue.job_parked AS p WHERE p.queue_id = h.queue_id"
		" AND p.group_key = h.group_key AND p.state = 'g')", 0, NULL, NULL, NULL);
	removed += (int64) QueueSpiExecute(
		"DELETE FROM queue.limit_place AS l WHERE l.job_id = 0 AND l.at < clock_timestamp() - interval '1 day'"
		" AND NOT EXISTS (SELECT FROM queue.job_parked AS p WHERE p.queue_id = l.queue_id"
		" AND p.limit_key = l.limit_key AND p.state = 'k')", 0, NULL, NULL, NULL);
	removed += (int64) QueueSpiExecute(
		"DELETE FROM queue.privilege AS p WHERE NOT EXISTS ("
		"SELECT FROM pg_roles AS r WHERE r.oid = p.grantee)", 0, NULL, NULL, NULL);
	if (QueueSpiExecute(
			"UPDATE queue.queue AS q SET owner = 0 WHERE q.owner <> 0 AND NOT EXISTS ("
			"SELECT FROM pg_roles AS r WHERE r.oid = q.owner)", 0, NULL, NULL, NULL) > 0)
		QueueCatalogInvalidate();
	QueueSpiFinish();
	return removed + (int64) QueueRingSweepZero(RING_ARCHIVE, 10000) +
		(int64) QueueRingSweepZero(RING_LOG, 10000) + QueueMetricPrune(10000);
}

/* does the list of queues have it?  QueueSharedFreeQueues() asks with -1 first */
static bool
known_queue(int32 queue_id, void *arg)
{
	List	  **queues = arg;
	ListCell   *lc;

	if (queue_id == -1)
	{
		*queues = QueueSettingsAll();
		return true;
	}
	foreach(lc, *queues)
		if (((QueueSettings *) lfirst(lc))->queue_id == queue_id)
			return true;
	return false;
}

/* ---------------------------------------------------------------------
 * The same for SQL, in the caller's transaction
 * --------------------------------------------------------------------- */

static void
put_step(ReturnSetInfo *rsinfo, Step step, int64 items)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = CStringGetTextDatum(step_names[step]);
	values[1] = Int64GetDatum(items);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* not marked as saved, as we may be rolled back */
static void
save_throttle(QueueSlot *slot)
{
	TimestampTz until;

	if (slot && QueueThrottleChanged(slot, &until))
		(void) QueueThrottleSave(slot->queue_id, until);
}

static int64
sweep_queue(const QueueSettings *settings)
{
	QueueSlot  *slot = QueueXactSlot(settings->queue_id);
	HintSlot  **hints;
	int			count;
	bool		known;
	int64		found = 0;

	if (slot == NULL)
		return 0;
	hints = QueueHintList(slot, &count, &known);
	if (!known)
	{
		QueueStore	live;

		QueueStoreOpen(&live, false);
		QueueLearnClasses(&live, slot);
		QueueStoreClose(&live);
		hints = QueueHintList(slot, &count, &known);
	}
	for (int i = 0; i < count; i++)
	{
		HintLeases	leases = QueueHintLeases(hints[i]);

		/* ended ones may be known from a time without max_active: see load_queues() */
		if (leases.expiry <= GetCurrentTimestamp() || leases.bound || settings->max_active >= 0)
			found += sweep_class(settings, slot, hints[i], false);
	}
	return found;
}

Datum
queue_maintain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Installation *installation;
	List	   *queues;
	ListCell   *lc;
	int64		moved = 0,
				found = 0,
				let_go = 0,
				completed,
				metrics = 0,
				truncated = 0;
	int64	   *blocked;
	int64		lost = 0;
	bool		closed,
				again;
	uint64		num_blocked;
	int			first = 0;
	TimestampTz next_due = PG_INT64_MAX;

	QueueRequireWritable("queue.maintain()");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	installation = QueueInstallation(QueueCatalogGet(false)->live);
	CommandCounterIncrement();

	if (installation && !QueueStatsKnown(installation) &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()))
	{
		QueueStatsRecount(installation);
		put_step(rsinfo, STEP_COUNT, 1);
	}
	queues = QueueSettingsAll();
	make_slots(queues);
	if (QueueHeartbeatLost(QueueCatalogGet(false)->live, &next_due))
		lost = QueueHeartbeatEndLeases(&again);
	foreach(lc, queues)
	{
		int			n;

		do
		{
			CHECK_FOR_INTERRUPTS();
			n = QueueMoveDue(lfirst(lc), MOVE_CHUNK, &next_due);
			moved += n;
			/* what we have moved must not be seen again */
			CommandCounterIncrement();
		} while (n > 0);
		found += sweep_queue(lfirst(lc));
		save_throttle(QueueXactSlot(((QueueSettings *) lfirst(lc))->queue_id));
		CommandCounterIncrement();
	}
	blocked = find_unblocked(&num_blocked);
	for (uint64 i = 0; i < num_blocked; i++)
		(void) check_job(blocked[i], &let_go);
	completed = QueueBatchPass(true, &next_due, &closed);
	if (installation)
		(void) QueueMetricRecord(installation, queues, QueueMetricTime(GetCurrentTimestamp()),
								 &first, list_length(queues), &metrics);
	ensure_leaves(queues);
	while (QueueRingTruncate(RING_ARCHIVE) || QueueRingTruncate(RING_LOG))
	{
		truncated++;
		CommandCounterIncrement();
	}
	put_step(rsinfo, STEP_MOVE, moved);
	put_step(rsinfo, STEP_CHECK, -let_go);
	put_step(rsinfo, STEP_WORKERS, lost);
	put_step(rsinfo, STEP_SWEEP, found);
	put_step(rsinfo, STEP_BATCH, completed);
	put_step(rsinfo, STEP_METRIC, metrics);
	put_step(rsinfo, STEP_RING, truncated);
	put_step(rsinfo, STEP_TIDY, fold_counts() + tidy_rows());
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * The worker
 * --------------------------------------------------------------------- */

/* the queues as of the last invalidation; those that have one, by slot */
static List *queues;
static const QueueSettings **queue_of_slot;
static int32 *limited_queue;	/* by slot, its number if it had a max_active */
static MemoryContext queues_context;
static uint64 queues_generation;

/*
 * The queue has a max_active now.  Jobs whose lease had ended before were noted
 * and forgotten; now they must be given back, so look at all that are active.
 */
static void
begin_limit(QueueSlot *slot)
{
	HintSlot  **hints;
	int			count;
	bool		known;

	hints = QueueHintList(slot, &count, &known);
	for (int i = 0; i < count; i++)
		QueueHintNoteLeases(hints[i], HINT_ANY_LEASES);
}

static void
load_queues(void)
{
	MemoryContext old;
	ListCell   *lc;

	if (queues_generation == QueueCatalogGeneration())
		return;
	queues_generation = QueueCatalogGeneration();
	MemoryContextReset(queues_context);
	queues = NIL;
	old = MemoryContextSwitchTo(queues_context);
	queues = QueueSettingsAll();
	MemoryContextSwitchTo(old);
	make_slots(queues);
	memset(queue_of_slot, 0, sizeof(*queue_of_slot) * queue_max_queues);
	foreach(lc, queues)
	{
		QueueSlot  *slot = QueueXactSlot(((QueueSettings *) lfirst(lc))->queue_id);

		if (slot)
		{
			const QueueSettings *settings = lfirst(lc);
			int			i = slot - QueueSlots;

			queue_of_slot[i] = settings;
			if (settings->max_active >= 0 && limited_queue[i] != settings->queue_id)
				begin_limit(slot);
			limited_queue[i] = settings->max_active >= 0 ? settings->queue_id : 0;
		}
	}
}

/* the queue that a hint belongs to; NULL: none of ours, or dropped since */
static const QueueSettings *
hint_settings(Installation *installation, HintSlot *hint)
{
	int			queue = hint->queue;
	const QueueSettings *settings;

	if (queue < 0 || QueueSlots[queue].installation != installation - Installations)
		return NULL;
	settings = queue_of_slot[queue];
	return settings && settings->queue_id == QueueSlots[queue].queue_id ? settings : NULL;
}

/* move what is due, queue after queue; *wake_at gets the next due time */
static void
move_due(Installation *installation, TimestampTz *wake_at)
{
	for (int i = 0; i < queue_max_hints; i++)
	{
		HintSlot   *hint = &HintSlots[i];
		const QueueSettings *settings = hint_settings(installation, hint);
		TimestampTz next_due;

		if (settings == NULL || hint->order_class != CLASS_PARKED)
			continue;
		next_due = QueueHintRead(hint, NULL).at;
		for (int chunk = 0; next_due <= GetCurrentTimestamp() && chunk < 10; chunk++)
		{
			QueueWorkerBegin("moving due jobs");
			load_queues();
			settings = hint_settings(installation, hint);
			if (settings)
				(void) QueueMoveDue(settings, MOVE_CHUNK, &next_due);
			else
				next_due = PG_INT64_MAX;
			QueueWorkerCommit();
		}
		*wake_at = Min(*wake_at, next_due);
	}
}

/* when a class is to be swept, as far as is known */
static TimestampTz
sweep_at(HintSlot *hint, const Swept *last)
{
	HintLeases	leases = QueueHintLeases(hint);

	if (last->session_ended && leases.bound)
		return last->not_before;
	return Max(leases.expiry, last->not_before);
}

/* sweep what has ended leases; *wake_at gets the next expiry */
static void
sweep_leases(Installation *installation, TimestampTz *wake_at)
{
	bool		session_ended = pg_atomic_exchange_u32(&installation->session_ended, 0) != 0;

	for (int i = 0; i < queue_max_hints; i++)
	{
		HintSlot   *hint = &HintSlots[i];
		const QueueSettings *settings = hint_settings(installation, hint);
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz due,
					took;
		bool		safety;

		swept[i].session_ended |= session_ended;

		if (settings == NULL || hint->order_class == CLASS_PARKED)
			continue;
		if (swept[i].safety_at == 0)
			swept[i].safety_at = now + (TimestampTz) SAFETY_EVERY_MS * 1000;
		safety = now >= swept[i].safety_at;
		due = sweep_at(hint, &swept[i]);
		if (due > now && !safety)
		{
			*wake_at = Min(*wake_at, Min(due, swept[i].safety_at));
			continue;
		}

		/* sessions that end from here on raise the flag of the installation again */
		swept[i].session_ended = false;
		QueueWorkerBegin(safety ? "safety look" : "looking for ended leases");
		load_queues();
		settings = hint_settings(installation, hint);
		if (settings)
		{
			/* pins the slot, and with it the hint */
			QueueSlot  *slot = QueueXactSlot(settings->queue_id);

			if (slot && hint_settings(installation, hint) == settings)
				(void) sweep_class(settings, slot, hint, safety);
		}
		QueueWorkerCommit();
		if (settings == NULL)
			continue;
		took = GetCurrentTimestamp() - now;
		swept[i].not_before = now + took + Max((TimestampTz) SWEEP_SPACING_MS * 1000,
											   took * SWEEP_SHARE);
		if (safety)
			swept[i].safety_at = now + took + Max((TimestampTz) SAFETY_EVERY_MS * 1000,
												  took * SAFETY_SHARE);
		*wake_at = Min(*wake_at, sweep_at(hint, &swept[i]));
	}
}

/* throttles live in shared memory; a restart must not forget them */
static void
save_throttles(Installation *installation)
{
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueSlot  *slot = &QueueSlots[i];
		TimestampTz until;
		bool		saved;

		if (slot->installation != installation - Installations ||
			!QueueThrottleChanged(slot, &until))
			continue;
		QueueWorkerBegin("saving a throttle");
		saved = QueueThrottleSave(slot->queue_id, until);
		QueueWorkerCommit();
		if (saved)
			QueueThrottleSaved(slot, until);
	}
}

/*
 * Where the hints say that there is a job while takers wait, somebody was woken
 * for it and has not come: one who has called queue.wait(), most likely.
 */
static void
wake_next(Installation *installation)
{
	for (int i = 0; i < queue_max_hints; i++)
	{
		HintSlot   *hint = &HintSlots[i];
		const QueueSettings *settings = hint_settings(installation, hint);

		if (settings && !settings->paused && hint->order_class != CLASS_PARKED &&
			QueueHasWaiters(&QueueSlots[hint->queue]) &&
			HINT_KEY_LT(QueueHintRead(hint, NULL), HINT_KEY_MAX) &&
			QueueLimitAllows(settings, &QueueSlots[hint->queue]))
			QueueWaitWake(&QueueSlots[hint->queue], 1);
	}
}

/* has the time come for something that is done every so often? */
static bool
every(TimestampTz *last, int ms, TimestampTz now)
{
	if (*last != 0 && !QueueHasPassed(*last, ms, now))
		return false;
	*last = now;
	return true;
}

/* jobs to look at again, as long as somebody has not committed */
static int64 *rechecks;
static int	num_rechecks;
static TimestampTz recheck_at;

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return (x > y) - (x < y);
}

static void
add_rechecks(const int64 *ids, uint64 count)
{
	int			kept = 0;

	if (count == 0)
		return;
	count = Min(count, MaxAllocSize / sizeof(int64) - num_rechecks);
	rechecks = rechecks ? repalloc(rechecks, (num_rechecks + count) * sizeof(int64)) :
		MemoryContextAlloc(TopMemoryContext, count * sizeof(int64));
	memcpy(rechecks + num_rechecks, ids, count * sizeof(int64));
	num_rechecks += (int) count;
	qsort(rechecks, num_rechecks, sizeof(int64), compare_ids);
	for (int i = 0; i < num_rechecks; i++)
		if (kept == 0 || rechecks[kept - 1] != rechecks[i])
			rechecks[kept++] = rechecks[i];
	num_rechecks = kept;
}

/*
 * Look at blocked jobs, each in a transaction of its own; returns how many, at
 * the front, must be looked at again.
 */
static uint64
check_jobs(int64 *ids, uint64 count)
{
	int64		let_go = 0;
	uint64		kept = 0;

	for (uint64 i = 0; i < count; i++)
	{
		QueueWorkerBegin("looking at a blocked job");
		if (!check_job(ids[i], &let_go))
			ids[kept++] = ids[i];
		QueueWorkerCommit();
	}
	return kept;
}

/*
 * What is new is looked at now; what waits for somebody's commit, every now and
 * then, as it may be for long.  *wake_at gets the time of the next look.
 */
static void
check_blocked(Installation *installation, TimestampTz *wake_at)
{
	static TimestampTz checked_at;
	TimestampTz now = GetCurrentTimestamp();
	int64		ids[MAX_CHECKS];
	bool		check_all;
	int			count = QueueCheckTake(installation, ids, &check_all);
	MemoryContext context = CurrentMemoryContext;

	add_rechecks(ids, check_jobs(ids, count));
	if (check_all || every(&checked_at, CHECK_EVERY_MS, now))
	{
		int64	   *all;
		uint64		num_all;

		QueueWorkerBegin("looking for blocked jobs that nothing blocks");
		MemoryContextSwitchTo(context);
		all = find_unblocked(&num_all);
		QueueWorkerCommit();
		add_rechecks(all, check_jobs(all, num_all));
	}
	if (num_rechecks > 0 && now >= recheck_at)
	{
		num_rechecks = (int) check_jobs(rechecks, num_rechecks);
		recheck_at = GetCurrentTimestamp();
		recheck_at += Max((TimestampTz) RECHECK_MS * 1000, (recheck_at - now) * RECHECK_SHARE);
	}
	if (num_rechecks > 0)
		*wake_at = Min(*wake_at, recheck_at);
}

/* when batches are looked at: not more often than spaced allows */
static TimestampTz batches_spaced,
			batches_not_before,
			batches_all_at;

/*
 * Fold the counts of batches, and complete what is due; *wake_at: look again.
 * Whoever ends jobs of a batch tells us; a grace time that ends, nobody does.
 */
static void
look_at_batches(Installation *installation, TimestampTz *wake_at)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz took;
	bool		all = now >= batches_all_at;
	bool		closed;
	uint32		changed = pg_atomic_read_u32(&installation->batches);

	if (changed == 2 || all)
		batches_not_before = Min(batches_not_before, batches_spaced);
	if (now >= batches_not_before && (all || changed != 0))
	{
		/* before the snapshot: who ends one after it tells us again */
		pg_atomic_exchange_u32(&installation->batches, 0);
		if (all)
			batches_all_at = now + (TimestampTz) BATCH_EVERY_MS * 1000;
		QueueWorkerBegin("looking at batches");
		(void) QueueBatchPass(all, &batches_all_at, &closed);
		QueueWorkerCommit();
		took = GetCurrentTimestamp() - now;
		batches_spaced = now + took + Max((TimestampTz) BATCH_SPACING_MS * 1000,
										  Min(took * BATCH_SHARE,
											  (TimestampTz) BATCH_SPACING_MAX_MS * 1000));
		/* where none can be complete yet, there is time */
		batches_not_before = closed ? batches_spaced : Max(batches_spaced, now + (TimestampTz) BATCH_OPEN_MS * 1000);
	}
	*wake_at = Min(*wake_at, Max(batches_all_at, batches_spaced));
	if (pg_atomic_read_u32(&installation->batches) != 0)
		*wake_at = Min(*wake_at, batches_not_before);
}

/* workers that are not heard of any more: end their leases, which sweeps find */
static void
look_for_lost_workers(Oid live_id, TimestampTz *wake_at)
{
	static TimestampTz looked_at,
				lost_at;		/* nobody is lost before */
	TimestampTz now = GetCurrentTimestamp();
	bool		again = false;
	int64		ended;

	/* the timeout may have been changed */
	if (every(&looked_at, WORKERS_EVERY_MS, now) || now >= lost_at)
	{
		lost_at = PG_INT64_MAX;
		if (QueueHeartbeatLost(live_id, &lost_at))
			do
			{
				QueueWorkerBegin("ending the leases of lost workers");
				ended = QueueHeartbeatEndLeases(&again);
				QueueWorkerCommit();
			} while (ended > 0);
		if (again)
			lost_at = Min(lost_at, now + (TimestampTz) WORKERS_EVERY_MS * 1000);
	}
	*wake_at = Min(*wake_at, lost_at);
}

/* parked hints have no expiry to sweep for, but need the safety look as well */
static void
lower_parked(Installation *installation)
{
	for (int i = 0; i < queue_max_hints; i++)
		if (HintSlots[i].queue >= 0 && HintSlots[i].order_class == CLASS_PARKED &&
			QueueSlots[HintSlots[i].queue].installation == installation - Installations)
			QueueHintNote(&HintSlots[i], HINT_KEY_MIN);
}

/*
 * The clock was set back: what has been put off to a time that it told before is
 * due now, or nobody would look until it is there again.
 */
static void
forget_future(TimestampTz now)
{
	static TimestampTz known;

	if (now < known)
	{
		for (int i = 0; i < queue_max_hints; i++)
			swept[i].not_before = swept[i].safety_at = 0;
		recheck_at = batches_spaced = batches_not_before = batches_all_at = 0;
	}
	known = now;
}

/* classes of queues that nobody has taken from since the start */
static void
learn_classes(Installation *installation)
{
	ListCell   *lc;

	foreach(lc, queues)
	{
		QueueSlot  *slot = QueueXactSlot(((QueueSettings *) lfirst(lc))->queue_id);

		if (slot && !slot->classes_known)
		{
			QueueStore	live;

			QueueStoreOpen(&live, false);
			QueueLearnClasses(&live, slot);
			QueueStoreClose(&live);
		}
	}
}

static void
keep_rings(void)
{
	bool		again = true;

	QueueWorkerBegin("giving leaves to the rings");
	load_queues();
	ensure_leaves(queues);
	QueueWorkerCommit();
	while (again)
	{
		QueueWorkerBegin("truncating expired leaves");
		again = QueueRingTruncate(RING_ARCHIVE) || QueueRingTruncate(RING_LOG);
		QueueWorkerCommit();
	}
}

static void
tidy_counts(void)
{
	QueueWorkerBegin("folding counts");
	(void) fold_counts();
	QueueWorkerCommit();
	QueueWorkerBegin("looking for dependencies");
	(void) QueueFlowTidy();
	QueueWorkerCommit();
}

static void
tidy(Installation *installation, Oid live_id)
{
	List	   *known;

	QueueWorkerBegin("removing what nobody needs");
	(void) tidy_rows();
	(void) QueueProgressTidy();
	QueueSharedFreeInstallations(MyDatabaseId, live_id);
	QueueSharedFreeQueues(live_id, known_queue, &known);
	load_queues();
	/* those that had to do without may have room now */
	if (installation->short_of_slots)
		queues_generation = 0;
	learn_classes(installation);
	QueueWorkerCommit();
	lower_parked(installation);
}

/* a row per queue, when an interval is full; not for the one that we begin in */
static void
record_metrics(Installation *installation, TimestampTz *wake_at)
{
	static TimestampTz recorded_at;
	static int	interval;
	TimestampTz at = QueueMetricTime(GetCurrentTimestamp());
	int64		written = 0;
	int			from = 0;
	int			looked = interval == queue_metrics_interval ? METRIC_CHUNK : 0;

	while (at != recorded_at && looked > 0)
	{
		QueueWorkerBegin("recording metrics");
		load_queues();
		looked = QueueMetricRecord(installation, queues, at, &from, METRIC_CHUNK, &written);
		QueueWorkerCommit();
	}
	recorded_at = at;
	interval = queue_metrics_interval;
	*wake_at = Min(*wake_at, at + (int64) interval * USECS_PER_SEC);
}

/*
 * Start a vacuum of the live table when enough is dead and, since an earlier
 * one could not remove it, every snapshot is younger than it.
 */
static void
start_vacuum(Installation *installation, Oid live_id)
{
	static TransactionId mark = InvalidTransactionId;
	static BackgroundWorkerHandle *handle;
	static bool short_logged;
	uint64		dead = pg_atomic_read_u64(&installation->dead);
	TransactionId horizon;
	BackgroundWorker worker;
	Relation	rel;
	pid_t		pid;

	if (handle)
	{
		if (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
			return;
		pfree(handle);
		handle = NULL;
	}
	if (dead < (uint64) queue_vacuum_threshold)
		return;

	QueueWorkerBegin("looking whether to vacuum");
	rel = QueueOpenTable(live_id, AccessShareLock);
	/*
	 * Indexes of many live rows take long to scan: not before as many entries are
	 * dead.  A job leaves two dead versions, and entries for one of them.
	 */
	if (dead / 2 < (uint64) Max(rel->rd_rel->reltuples, 0))
		horizon = mark = InvalidTransactionId;
	/* somebody has it: the vacuum would skip it, and what is dead would be forgotten */
	else if (!ConditionalLockRelationOid(live_id, ShareUpdateExclusiveLock))
		horizon = InvalidTransactionId;
	else
	{
		/* what is dead now must be old enough for everybody */
		if (!TransactionIdIsValid(mark))
			mark = XidFromFullTransactionId(ReadNextFullTransactionId());
		horizon = GetOldestNonRemovableTransactionId(rel);
	}
	table_close(rel, AccessShareLock);
	QueueWorkerCommit();
	if (!TransactionIdIsValid(horizon) || TransactionIdPrecedes(horizon, mark))
		return;

	QueueWorkerDescribe(&worker, "queue_vacuum_main", "queue vacuum", "");
	snprintf(worker.bgw_name, BGW_MAXLEN, "queue vacuum in database %u", MyDatabaseId);
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = MyProcPid;
	MemoryContextSwitchTo(TopMemoryContext);
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		mark = InvalidTransactionId;
		pg_atomic_fetch_sub_u64(&installation->dead, dead);
	}
	else
	{
		handle = NULL;
		QueueHealthWorkerDenied();
		if (!short_logged)
			ereport(LOG,
					(errmsg("no background worker slot is free to vacuum \"queue.job_live\""),
					 errdetail("Autovacuum has to do, and comes later."),
					 errhint("Consider increasing the configuration parameter \"max_worker_processes\".")));
		short_logged = true;
		return;
	}
	short_logged = false;
}

/* free what does not belong to the extension as it is now; waiters are in the way */
static void
forget_dropped(Oid live_id)
{
	for (int i = 0; i < queue_max_databases; i++)
		if (Installations[i].database_id == MyDatabaseId && Installations[i].live_id != live_id)
			QueueWaitWakeInstallation(&Installations[i]);
	QueueSharedFreeInstallations(MyDatabaseId, live_id);
}

static Installation *
find_installation(Oid *live_id)
{
	const QueueCatalog *cat;
	Installation *installation = NULL;

	*live_id = InvalidOid;
	QueueWorkerBegin("looking for the extension");
	cat = QueueCatalogGet(true);
	if (cat)
	{
		*live_id = cat->live;
		installation = QueueInstallation(cat->live);
	}
	QueueWorkerCommit();
	return installation;
}

/*
 * Is a restore under way?  It fills one table after the other, and a job whose
 * group or limit is not there yet must not get a new one.  It is over when who
 * has put in rows last is idle for some seconds, or gone, and nobody uses COPY.
 */
static bool
is_restoring(Installation *installation)
{
	Oid			type = INT4OID;
	uint32		restorer = pg_atomic_read_u32(&installation->restorer);
	Datum		value = Int32GetDatum((int32) restorer);
	bool		active;

	if (restorer == 0)
		return false;
	QueueWorkerBegin("waiting for the end of a restore");
	QueueSpiConnect();
	active = QueueSpiExecute("SELECT FROM pg_stat_activity AS a WHERE a.pid OPERATOR(pg_catalog.=) $1"
							 " AND a.datname OPERATOR(pg_catalog.=) current_database() AND (a.state"
							 " OPERATOR(pg_catalog.<>) 'idle' OR a.state_change OPERATOR(pg_catalog.>)"
							 " (clock_timestamp() OPERATOR(pg_catalog.-) interval '" RESTORE_IDLE "'))"
							 " UNION ALL SELECT FROM pg_stat_progress_copy AS p JOIN pg_class AS c"
							 " ON c.oid OPERATOR(pg_catalog.=) p.relid"
							 " WHERE p.datname OPERATOR(pg_catalog.=) current_database()"
							 " AND p.command OPERATOR(pg_catalog.=) 'COPY FROM'"
							 " AND c.relnamespace OPERATOR(pg_catalog.=) 'queue'::regnamespace",
							 1, &type, &value, NULL) > 0;
	QueueSpiFinish();
	QueueWorkerCommit();
	/* unless it was another one meanwhile */
	if (!active && pg_atomic_compare_exchange_u32(&installation->restorer, &restorer, 0))
	{
		/* a round of ours may have begun before, and found less than there is now */
		for (int i = 0; i < queue_max_queues; i++)
			if (QueueSlots[i].installation == installation - Installations)
				pg_atomic_write_u32(&QueueSlots[i].dependents, 1);
		pg_atomic_write_u32(&installation->recount, 1);
		installation->check_all = true;
	}
	return active;
}

void
queue_maintenance_main(Datum main_arg)
{
	DatabaseEntry *entry;
	Oid			live_id = InvalidOid,
				known_live_id = InvalidOid;
	TimestampTz rings_at = 0,
				tidied_at = 0;
	int			rereads = 0;	/* rounds that are to follow soon */
	MemoryContext context;

	QueueWorkerConnect(DatumGetObjectId(main_arg), true);
	QueueCallsLimit();
	entry = QueueLauncherAttach(MyDatabaseId);
	if (entry == NULL)
		proc_exit(0);
	queue_of_slot = MemoryContextAllocZero(TopMemoryContext,
										   sizeof(*queue_of_slot) * queue_max_queues);
	limited_queue = MemoryContextAllocZero(TopMemoryContext,
										   sizeof(*limited_queue) * queue_max_queues);
	swept = MemoryContextAllocZero(TopMemoryContext, sizeof(Swept) * queue_max_hints);
	queues_context = AllocSetContextCreate(TopMemoryContext, "queue settings list",
										   ALLOCSET_DEFAULT_SIZES);
	context = AllocSetContextCreate(TopMemoryContext, "queue maintenance",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz wake_at = now + (TimestampTz) queue_maintenance_interval * 1000;
		Installation *installation = find_installation(&live_id);

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		QueueLauncherFound(entry, installation != NULL);
		/* dropped, and perhaps created anew */
		if (live_id != known_live_id)
			forget_dropped(live_id);
		known_live_id = live_id;
		if (installation == NULL || entry->leave)
			proc_exit(0);

		forget_future(now);
		QueueHealthRound(installation, live_id);
		installation->maintenance = MyLatch;
		pg_atomic_write_u64(&installation->wake_at, PG_INT64_MAX);
		pg_memory_barrier();	/* before we look: see the top */

		if (is_restoring(installation))
		{
			QueueWorkerWait(RESTORE_WAIT_MS);
			continue;
		}
		if (!QueueStatsKnown(installation))
		{
			QueueWorkerBegin("counting jobs");
			QueueStatsRecount(installation);
			QueueWorkerCommit();
		}
		QueueWorkerBegin("reading settings");
		load_queues();
		QueueWorkerCommit();

		/* a restore may begin during a round: no step is for what is there half way */
#define STEP(call) \
		do \
			if (pg_atomic_read_u32(&installation->restorer) == 0) \
				call; \
		while (0)
		STEP(move_due(installation, &wake_at));
		STEP(check_blocked(installation, &wake_at));
		/* attempts of executors that have ended fail by the rules, before the sweep meets them */
		STEP(QueuePoolManage(installation, queue_of_slot, &wake_at));
		STEP(look_for_lost_workers(live_id, &wake_at));
		STEP(sweep_leases(installation, &wake_at));
		wake_next(installation);
		save_throttles(installation);
		STEP(look_at_batches(installation, &wake_at));
		QueueEventSend(installation, queue_of_slot, &wake_at);
		STEP(record_metrics(installation, &wake_at));
		if (every(&rings_at, RING_EVERY_MS, now))
			STEP(keep_rings());
		if (every(&tidied_at, TIDY_EVERY_MS, now))
		{
			STEP(tidy_counts());
			STEP(tidy(installation, live_id));
		}
#undef STEP
		start_vacuum(installation, live_id);

		/* a commit wakes us before its invalidations are sent */
		if (pg_atomic_exchange_u32(&installation->settings_changed, 0) != 0)
			rereads = REREAD_ROUNDS;
		if (rereads > 0)
			wake_at = Min(wake_at, GetCurrentTimestamp() + RECHECK_MS * 1000);
		rereads -= rereads > 0;

		/* what should have been done already is done at once */
		now = GetCurrentTimestamp();
		wake_at = Max(wake_at, now);
		pg_atomic_write_u64(&installation->wake_at, (uint64) wake_at);
		QueueWorkerWait(Min((wake_at - now) / 1000 + 1, queue_maintenance_interval));
	}
}

/* the server's own vacuum, of the live table, and nobody waits for it */
void
queue_vacuum_main(Datum main_arg)
{
	VacuumStmt *stmt;
	const QueueCatalog *cat;

	QueueWorkerConnect(DatumGetObjectId(main_arg), true);
	QueueWorkerBegin("looking for the extension");
	cat = QueueCatalogGet(true);
	QueueWorkerCommit();
	if (cat == NULL)
		proc_exit(0);

	/* vacuum() keeps its own things there */
	PortalContext = AllocSetContextCreate(TopMemoryContext, "queue vacuum",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(PortalContext);
	stmt = makeNode(VacuumStmt);
	stmt->is_vacuumcmd = true;
	stmt->options = list_make3(makeDefElem("skip_locked", (Node *) makeBoolean(true), -1),
							   makeDefElem("truncate", (Node *) makeBoolean(false), -1),
							   makeDefElem("parallel", (Node *) makeInteger(0), -1));
	stmt->rels = list_make1(makeVacuumRelation(makeRangeVar(QUEUE_SCHEMA, "job_live", -1),
											   InvalidOid, NIL));
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	pgstat_report_activity(STATE_RUNNING, "vacuuming queue.job_live");
	MemoryContextSwitchTo(PortalContext);
	ExecVacuum(make_parsestate(NULL), stmt, true);
	CommitTransactionCommand();
	proc_exit(0);
}

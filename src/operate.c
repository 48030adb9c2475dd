/*-------------------------------------------------------------------------
 *
 * operate.c
 *		Unfinished jobs, from outside: queue.cancel(), queue.purge_queue(), and
 *		what administration does to all jobs of a queue.
 *
 * Whoever holds a job that is cancelled learns it when its settling verb says
 * that the job is not held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "finish.h"
#include "internal.h"
#include "operate.h"
#include "place.h"
#include "scan.h"

QUEUE_FUNCTION(queue_cancel);
QUEUE_FUNCTION(queue_purge_queue);

/* cancel it if it is in this table; *again: it was, but has changed */
static bool
cancel_in(bool parked, Snapshot snapshot, int64 job_id, bool *again)
{
	QueueStore	store;
	ItemPointerData tid;
	HeapTuple	row;
	bool		done = false;

	QueueStoreOpen(&store, parked);
	row = QueueStoreFind(&store, snapshot, job_id, &tid);
	if (row)
	{
		QueueSettings settings;
		QueueSlot  *slot;

		if (!QueueSettingsById(JOB_HEAD(row)->queue_id, &settings))
			elog(ERROR, "job %lld belongs to no queue", (long long) job_id);
		/* who has no privilege on it does not learn that there is such a job */
		if (QueuePrivileges(&settings) == 0)
		{
			QueueStoreClose(&store);
			return false;
		}
		QueueRequirePrivilege(&settings, PRIVILEGE_ENQUEUE);
		slot = QueueXactSlot(settings.queue_id);
		if (QueueStoreDelete(&store, &tid, JOB_HEAD(row), slot, true, false) == TM_Ok)
		{
			QueueFinish *finish = QueueFinishBegin();

			QueueFinishJob(finish, row, RelationGetDescr(store.heap), &settings, slot,
						   JOB_CANCELLED, NULL, NULL, GetCurrentTimestamp());
			QueueFinishEnd(finish);
			QueueXactDead(parked ? 0 : 1);
			if (job_is_reserved(JOB_HEAD(row)))
				QueueXactInterrupt(job_id);
			done = true;
		}
		else
			*again = true;
	}
	QueueStoreClose(&store);
	return done;
}

Datum
queue_cancel(PG_FUNCTION_ARGS)
{
	int64		job_id;
	bool		again,
				done;

	QueueRequireWritable("queue.cancel()");
	if (PG_ARGISNULL(0))
		QueueErrorNull("job_id", "Give the number that queue.enqueue() returned.");
	job_id = PG_GETARG_INT64(0);
	do
	{
		Snapshot	snapshot;

		again = false;
		CommandCounterIncrement();
		snapshot = QueueFreshSnapshot();
		done = cancel_in(false, snapshot, job_id, &again) ||
			cancel_in(true, snapshot, job_id, &again);

		/*
		 * To a snapshot, a job is in one of the tables.  SnapshotSelf is none:
		 * the job may have moved to the first after we looked there.
		 */
		if (!done && snapshot == SnapshotSelf)
			done = cancel_in(false, snapshot, job_id, &again);
		QueueReleaseSnapshot(snapshot);
		CHECK_FOR_INTERRUPTS();
	} while (!done && again);
	PG_RETURN_BOOL(done);
}

typedef enum Action
{
	ACTION_COUNT,
	ACTION_DELETE,
	ACTION_REORDER,				/* this and the next: of the live table */
	ACTION_LIMIT_ACTIVE,
	ACTION_LIMIT
} Action;

typedef struct Sweep
{
	Action		action;
	const QueueSettings *settings;
	QueueSlot  *slot;
	Snapshot	snapshot;		/* of this pass */
	QueueFinish *finish;		/* of jobs that are deleted */
	QueueEntry	entry;			/* of jobs that need a place */
	bool		all;			/* wait for those who are changing a row, and
								 * pass again until none has */
	int64		limit;
	int64		done;
	int64		missed;			/* rows that somebody changed in this pass */
} Sweep;

/*
 * A job of the live table gets a place: one that is running any, one that waits
 * one within the limit, or it is parked.
 */
static TM_Result
limit_row(Sweep *sweep, QueueStore *store, HeapTuple row, ItemPointer tid)
{
	JobHead		before = *JOB_HEAD(row);
	bool		null;
	Datum		key;
	TM_Result	result;

	if (!job_has(row, JOB_LIMIT_KEY) ||
		(sweep->action == ACTION_LIMIT_ACTIVE && !job_is_active(&before)))
		return TM_Ok;
	row = heap_copytuple(row);
	key = heap_getattr(row, JOB_LIMIT_KEY, QueueEntryDesc(&sweep->entry), &null);
	if (QueuePlaceHas(&sweep->entry, key, before.job_id))
		return TM_Ok;
	if (job_is_active(&before))
	{
		/* who settles it waits for us, and then finds its place */
		QueueXactNoteLeases(QueueStoreHint(store, &before, sweep->slot, true),
							job_lease(&before));
		result = QueueStoreUpdate(store, tid, &before, sweep->slot, row, true);
		if (result == TM_Ok)
			QueuePlaceForce(&sweep->entry, key, before.job_id);
	}
	else
	{
		result = QueueStoreDelete(store, tid, &before, sweep->slot, true, true);
		if (result == TM_Ok)
		{
			QueueXactCount(sweep->slot, QueueJobCount(QueueJobState(&before)), -1);
			QueueEntryPutHead(&sweep->entry, row);
		}
	}
	if (result == TM_Ok)
		sweep->done++;
	return result;
}

static void
sweep_row(Sweep *sweep, QueueStore *store, HeapTuple row, ItemPointer tid)
{
	JobHead		before = *JOB_HEAD(row);
	JobHead		after = before;
	HeapTuple	copy;
	TM_Result	result = TM_Ok;

	switch (sweep->action)
	{
		case ACTION_COUNT:
			sweep->done++;
			break;
		case ACTION_DELETE:
			if (job_is_active(&before) && !sweep->all)
				break;
			copy = heap_copytuple(row);
			result = QueueStoreDelete(store, tid, &before, sweep->slot, sweep->all, false);
			if (result == TM_Ok)
			{
				QueueFinishRemove(sweep->finish, copy, RelationGetDescr(store->heap),
								  sweep->settings, sweep->slot);
				sweep->done++;
			}
			break;
		case ACTION_REORDER:
			/* a running job too: it may come back by a rollback or a lease's end */
			QueueJobSetOrder(&after, sweep->settings);
			if (after.order_class == before.order_class && after.order_at == before.order_at)
				break;
			copy = heap_copytuple(row);
			JOB_HEAD(copy)->order_class = after.order_class;
			JOB_HEAD(copy)->order_at = after.order_at;
			QueueXactNoteCommit(QueueStoreHint(store, &after, sweep->slot, true),
								job_order_key(&after));
			if (job_is_active(&after))
				QueueXactNoteLeases(QueueStoreHint(store, &after, sweep->slot, true),
									job_lease(&after));
			result = QueueStoreUpdate(store, tid, &before, sweep->slot, copy, sweep->all);
			if (result == TM_Ok)
				sweep->done++;
			break;
		case ACTION_LIMIT_ACTIVE:
		case ACTION_LIMIT:
			result = limit_row(sweep, store, row, tid);
			break;
	}
	if (result != TM_Ok)
		sweep->missed++;
}

/* one class of the live table, or the parked one, from end to end */
static void
sweep_class(Sweep *sweep, QueueStore *store, int order_class)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue sweep",
												  ALLOCSET_DEFAULT_SIZES);
	QueueScan	scan;
	ItemPointerData tid;
	HeapTuple	row;

	QueueScanBegin(&scan, store, sweep->snapshot, sweep->settings->queue_id, order_class,
				   HINT_KEY_MIN, HINT_KEY_MAX, false);
	while (sweep->done < sweep->limit && (row = QueueScanNext(&scan, &tid)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		sweep_row(sweep, store, row, &tid);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	QueueScanEnd(&scan);
	MemoryContextDelete(context);
}

/*
 * Both tables under one snapshot, in which a job is in one of them, whoever
 * moves it meanwhile; a row that has moved on since is met in the next pass.
 * Nobody can enqueue while the caller holds the queue's lock, so there is a
 * last pass.
 */
static int64
sweep_queue(Sweep *sweep)
{
	QueueStore	store;

	sweep->slot = QueueXactSlot(sweep->settings->queue_id);
	sweep->finish = QueueFinishBegin();
	do
	{
		CommandCounterIncrement();
		sweep->missed = 0;
		sweep->snapshot = RegisterSnapshot(GetLatestSnapshot());
		QueueStoreOpen(&store, false);
		for (int order_class = PG_INT16_MIN - 1;
			 QueueStoreNextClass(&store, sweep->settings->queue_id, order_class, &order_class);)
			sweep_class(sweep, &store, order_class);
		QueueStoreClose(&store);
		if (sweep->action < ACTION_REORDER)
		{
			QueueStoreOpen(&store, true);
			sweep_class(sweep, &store, 0);
			QueueStoreClose(&store);
		}
		UnregisterSnapshot(sweep->snapshot);
	} while (sweep->all && sweep->missed > 0);
	QueueFinishEnd(sweep->finish);
	if (sweep->action != ACTION_COUNT)
		QueueXactDead(sweep->done);
	return sweep->done;
}

int64
QueueDeleteJobs(const QueueSettings *settings, bool active)
{
	Sweep		sweep = {
		.action = ACTION_DELETE, .settings = settings, .all = active,
		.limit = PG_INT64_MAX
	};

	return sweep_queue(&sweep);
}

int64
QueueCountJobs(const QueueSettings *settings, int64 limit)
{
	Sweep		sweep = {.action = ACTION_COUNT, .settings = settings, .limit = limit};

	return sweep_queue(&sweep);
}

void
QueueReorder(const QueueSettings *settings)
{
	Sweep		sweep = {
		.action = ACTION_REORDER, .settings = settings, .all = true,
		.limit = PG_INT64_MAX
	};

	(void) sweep_queue(&sweep);
}

void
QueueLimitJobs(const QueueSettings *settings)
{
	Sweep		sweep = {
		.action = ACTION_LIMIT_ACTIVE, .settings = settings, .all = true,
		.limit = PG_INT64_MAX
	};

	if (settings->max_active_per_key >= 0)
	{
		QueueEntryBegin(&sweep.entry, settings);
		(void) sweep_queue(&sweep);
		sweep.action = ACTION_LIMIT;
		(void) sweep_queue(&sweep);
		QueueEntryEnd(&sweep.entry);
	}
	/* there may be more places than before */
	QueueXactCheck(0);
}

Datum
queue_purge_queue(PG_FUNCTION_ARGS)
{
	QueueSettings settings;

	QueueRequireWritable("queue.purge_queue()");
	QueueSettingsRequire(QueueArgText(fcinfo, 0, "queue_name"), PRIVILEGE_ADMIN, &settings);
	PG_RETURN_INT64(QueueDeleteJobs(&settings, false));
}

/*-------------------------------------------------------------------------
 *
 * entry.c
 *		How a job enters a queue, as part of the caller's transaction.
 *
 * The hint of a row's class exists before the row does; the row's key is noted
 * when the transaction commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "entry.h"
#include "operate.h"
#include "place.h"
#include "stats.h"

void
QueueEntryBegin(QueueEntry *entry, const QueueSettings *settings)
{
	entry->settings = *settings;
	entry->slot = QueueXactSlot(settings->queue_id);
	entry->now = GetCurrentTimestamp();
	entry->open[0] = entry->open[1] = false;
	entry->context = CurrentMemoryContext;
}

QueueStore *
QueueEntryStore(QueueEntry *entry, bool parked)
{
	if (!entry->open[parked])
	{
		MemoryContext old = MemoryContextSwitchTo(entry->context);

		QueueStoreOpen(&entry->store[parked], parked);
		entry->open[parked] = true;
		MemoryContextSwitchTo(old);
	}
	return &entry->store[parked];
}

TupleDesc
QueueEntryDesc(QueueEntry *entry)
{
	return RelationGetDescr(QueueEntryStore(entry, entry->open[1] && !entry->open[0])->heap);
}

void
QueueEntryEnd(QueueEntry *entry)
{
	for (int parked = 0; parked < 2; parked++)
		if (entry->open[parked])
			QueueStoreClose(&entry->store[parked]);
}

/* rows of the same state; the first has the least key */
static void
put(QueueEntry *entry, HeapTuple *rows, int count)
{
	JobHead    *first = JOB_HEAD(rows[0]);
	QueueStore *store = QueueEntryStore(entry, first->state != JOB_WAITING);
	HintSlot   *hint = QueueStoreHint(store, first, entry->slot, true);

	/* what is blocked has no due time to be noted */
	if (first->state == JOB_WAITING || first->state == JOB_DELAYED)
		QueueXactNoteCommit(hint, QueueStoreKey(store, first));
	QueueXactCount(entry->slot, QueueJobCount((JobState) first->state), count);
	QueueStoreInsert(store, rows, count);
}

void
QueueEntryPutPlain(QueueEntry *entry, HeapTuple *rows, int count)
{
	for (int i = 0; i < count; i++)
		QueueJobEnter(JOB_HEAD(rows[i]), &entry->settings, entry->now);
	put(entry, rows, count);
}

void
QueueEntryPutBlocked(QueueEntry *entry, HeapTuple row, JobState state)
{
	JOB_HEAD(row)->queue_id = entry->settings.queue_id;
	QueueJobBlock(JOB_HEAD(row), state);
	put(entry, &row, 1);
}

/* join those who share a group or a limit_key; false: it had to be parked */
static bool
join(QueueEntry *entry, HeapTuple row, PlaceKind kind, int att, JobState state)
{
	bool		null;
	Datum		key = heap_getattr(row, att, QueueEntryDesc(entry), &null);
	int64		job_id = JOB_HEAD(row)->job_id;
	PlaceAnswer answer = QueuePlaceJoin(entry, kind, key, job_id);

	if (answer == PLACE_TAKEN)
		return true;
	QueueEntryPutBlocked(entry, row, state);
	if (answer == PLACE_PASS)
		QueuePlaceLeave(entry, kind, key, job_id);
	return false;
}

void
QueueEntryPutHead(QueueEntry *entry, HeapTuple row)
{
	/* who waits for its time waits without a place */
	if (job_has(row, JOB_LIMIT_KEY) && JOB_HEAD(row)->run_at <= entry->now)
	{
		/* producers have the lock; others must not go by a limit of yesterday */
		if (!QueueSettingsTryLockById(entry->settings.queue_id, AccessShareLock, &entry->settings))
		{
			QueueEntryPutBlocked(entry, row, JOB_LIMITED);
			QueueXactCheck(JOB_HEAD(row)->job_id);
			return;
		}
		if (entry->settings.max_active_per_key >= 0 &&
			!join(entry, row, PLACE_LIMIT, JOB_LIMIT_KEY, JOB_LIMITED))
			return;
	}
	QueueEntryPutPlain(entry, &row, 1);
}

void
QueueEntryPut(QueueEntry *entry, HeapTuple row, bool has_parents)
{
	if (has_parents)
		QueueEntryPutBlocked(entry, row, JOB_BLOCKED);
	else if (!job_has(row, JOB_GROUP_KEY) ||
			 join(entry, row, PLACE_GROUP, JOB_GROUP_KEY, JOB_GROUPED))
		QueueEntryPutHead(entry, row);
}

bool
QueueEntryIsFull(QueueEntry *entry, int64 more)
{
	const QueueSettings *settings = &entry->settings;
	Installation *installation;
	int64		count[NUM_COUNTS];
	int64		depth = 0;

	if (settings->max_depth < 0)
		return false;
	installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (installation && entry->slot && QueueStatsRead(installation, entry->slot, count))
	{
		for (int c = 0; c < COUNT_COMPLETED; c++)
			depth += count[c] + QueueXactPending(entry->slot, (JobCount) c);
	}
	else
		depth = QueueCountJobs(settings, settings->max_depth + 1);
	return depth + more > settings->max_depth;
}

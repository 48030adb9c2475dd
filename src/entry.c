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
#include "group.h"
#include "operate.h"
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

void
QueueEntryPut(QueueEntry *entry, HeapTuple row, bool has_parents)
{
	Datum		group;
	bool		null;
	GroupPlace	place = GROUP_HEAD;

	group = heap_getattr(row, JOB_GROUP_KEY, QueueEntryDesc(entry), &null);
	if (has_parents)
	{
		QueueEntryPutBlocked(entry, row, JOB_BLOCKED);
		return;
	}
	if (!null)
		place = QueueGroupJoin(entry, group, JOB_HEAD(row)->job_id);
	if (place == GROUP_HEAD)
		QueueEntryPutPlain(entry, &row, 1);
	else
		QueueEntryPutBlocked(entry, row, JOB_GROUPED);
	if (place == GROUP_PASS)
		QueueGroupPass(entry, group);
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

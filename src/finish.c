/*-------------------------------------------------------------------------
 *
 * finish.c
 *		The end of jobs and of attempts: archive, log, counts.
 *
 * A finished job is put into the leaf of queue.job_archive that its retention
 * asks for, together with the other jobs of the call.  How many were put there
 * goes into queue._archive_count, one appended row per call, leaf and queue:
 * so that nobody has to count a hundred million rows after a crash, and nobody
 * waits for anybody to update a sum.
 *
 * What the end of a job means for others (its key, its group, its children) is
 * done after all jobs of the call have ended, when no scan of theirs is open;
 * it may end more jobs, so that it goes in rounds.  What it means for a batch
 * is a count, and written at the very end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "batch.h"
#include "compat.h"
#include "deadletter.h"
#include "event.h"
#include "finish.h"
#include "flow.h"
#include "onfailed.h"
#include "place.h"
#include "progress.h"
#include "ring.h"
#include "unique.h"

#define FLUSH_ROWS	1000		/* QueueInsertSlots() takes no more */
#define FLUSH_BYTES	(4 * 1024 * 1024)

/* rows collected for one leaf */
typedef struct LeafRows
{
	Relation	rel;			/* NULL: not opened */
	QueueRowKind kind;
	QueueIndexes indexes;
	HeapTuple  *rows;
	int			count;
	Size		bytes;
} LeafRows;

typedef struct LeafCount
{
	int			leaf;
	int32		queue_id;
	int64		change[3];		/* completed, failed, cancelled */
} LeafCount;

/* a job that has ended, and whose end others must learn */
typedef struct Ended
{
	HeapTuple	row;			/* its last version; NULL: only its id counts */
	int64		job_id;
	int32		queue_id;
	JobState	before;
	JobState	state;
	bool		has_dependents;
	bool		dead_letter;	/* to be moved, instead of being archived */
} Ended;

struct QueueFinish
{
	MemoryContext context;		/* everything here */
	MemoryContext rows;			/* the collected rows */
	LeafRows	archive[ARCHIVE_LEAVES];
	LeafRows	log[LOG_LEAVES];
	LeafCount  *counts;
	int			num_counts;
	int			max_counts;
	Ended	   *ended;
	int			num_ended;
	int			max_ended;
	QueueBatchChanges batches;
	List	   *failed;			/* rows of jobs, for on_failed */
};

QueueFinish *
QueueFinishBegin(void)
{
	QueueFinish *finish = palloc0(sizeof(QueueFinish));

	finish->context = finish->batches.context = CurrentMemoryContext;
	return finish;
}

static void
flush(QueueFinish *finish, LeafRows *leaf)
{
	TupleTableSlot **slots;

	if (leaf->count == 0)
		return;
	slots = QueueInsertSlots(leaf->kind, leaf->rel, leaf->rows, leaf->count);
	table_multi_insert(leaf->rel, slots, leaf->count, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < leaf->count; i++)
		QueueIndexesInsert(&leaf->indexes, leaf->rel, slots[i]);
	for (int i = 0; i < leaf->count; i++)
	{
		ExecClearTuple(slots[i]);
		heap_freetuple(leaf->rows[i]);
	}
	leaf->count = 0;
	leaf->bytes = 0;
}

static LeafRows *
open_leaf(QueueFinish *finish, LeafRows *leaf, QueueRing ring, int number)
{
	if (leaf->rel == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(finish->context);

		leaf->rel = QueueOpenTable(QueueLeafRelation(ring, number), RowExclusiveLock);
		leaf->kind = ring == RING_ARCHIVE ? ROW_ARCHIVE : ROW_LOG;
		QueueIndexesOpen(&leaf->indexes, leaf->rel);
		leaf->rows = palloc(FLUSH_ROWS * sizeof(HeapTuple));
		MemoryContextSwitchTo(old);
	}
	return leaf;
}

static void
add_row(QueueFinish *finish, LeafRows *leaf, Datum *values, bool *nulls)
{
	MemoryContext old;

	if (finish->rows == NULL)
		finish->rows = AllocSetContextCreate(finish->context, "queue finished rows",
											 ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(finish->rows);
	leaf->rows[leaf->count] = heap_form_tuple(RelationGetDescr(leaf->rel), values, nulls);
	leaf->bytes += leaf->rows[leaf->count]->t_len;
	leaf->count++;
	MemoryContextSwitchTo(old);
	if (leaf->count >= FLUSH_ROWS || leaf->bytes >= FLUSH_BYTES)
		flush(finish, leaf);
}

static void
count_leaf(QueueFinish *finish, int leaf, int32 queue_id, JobState state, int64 change)
{
	LeafCount  *count = NULL;

	for (int i = 0; i < finish->num_counts; i++)
		if (finish->counts[i].leaf == leaf && finish->counts[i].queue_id == queue_id)
			count = &finish->counts[i];
	if (count == NULL)
	{
		if (finish->num_counts >= finish->max_counts)
		{
			finish->max_counts = Max(8, finish->max_counts * 2);
			if (finish->counts)
				finish->counts = repalloc(finish->counts, finish->max_counts * sizeof(LeafCount));
			else
				finish->counts = MemoryContextAlloc(finish->context,
													finish->max_counts * sizeof(LeafCount));
		}
		count = &finish->counts[finish->num_counts++];
		memset(count, 0, sizeof(LeafCount));
		count->leaf = leaf;
		count->queue_id = queue_id;
	}
	count->change[QueueJobCount(state) - COUNT_COMPLETED] += change;
}

/* remember an end that concerns others */
static Ended *
remember_end(QueueFinish *finish, HeapTuple row, QueueSlot *slot, JobState state, bool need_row)
{
	JobHead    *job = JOB_HEAD(row);
	Ended	   *ended;
	bool		has_dependents = QueueFlowHasDependents(slot);
	MemoryContext old;

	need_row |= job_has(row, JOB_GROUP_KEY) || job_has(row, JOB_LIMIT_KEY) ||
		job_has(row, JOB_UNIQUE_KEY);
	if (!need_row && !has_dependents && job->state != JOB_BLOCKED)
		return NULL;
	old = MemoryContextSwitchTo(finish->context);
	if (finish->num_ended >= finish->max_ended)
	{
		finish->max_ended = Max(16, finish->max_ended * 2);
		finish->ended = finish->ended == NULL ?
			palloc(finish->max_ended * sizeof(Ended)) :
			repalloc(finish->ended, finish->max_ended * sizeof(Ended));
	}
	ended = &finish->ended[finish->num_ended++];
	ended->row = need_row ? heap_copytuple(row) : NULL;
	ended->job_id = job->job_id;
	ended->queue_id = job->queue_id;
	ended->before = (JobState) job->state;
	ended->state = state;
	ended->has_dependents = has_dependents;
	ended->dead_letter = false;
	MemoryContextSwitchTo(old);
	return ended;
}

/* a dead letter has failed as far as its batch is concerned, whatever follows */
static void
count_in_batch(QueueFinish *finish, HeapTuple row, JobState state)
{
	JobHead    *job = JOB_HEAD(row);
	Datum		tail[JOB_TAIL];
	bool		nulls[JOB_TAIL];

	if (!job_has(row, JOB_BATCH_ID) || job_has(row, JOB_ORIGIN))
		return;
	QueueJobTail(row, tail, nulls);
	QueueBatchCount(&finish->batches, tail[JOB_BATCH_ID - JOB_STATE - 1], job->queue_id, state, 1,
					job->attempt > 0 ? job->taken_at : DT_NOEND);
}

static void
remember_failed(QueueFinish *finish, HeapTuple row)
{
	MemoryContext old = MemoryContextSwitchTo(finish->context);

	finish->failed = lappend(finish->failed, heap_copytuple(row));
	MemoryContextSwitchTo(old);
}

/* put the row of a job that has ended into the archive, if it is kept */
static void
archive_job(QueueFinish *finish, HeapTuple row, TupleDesc desc, const QueueSettings *settings,
			QueueSlot *slot, JobState state, const Datum *error, const Datum *result,
			TimestampTz now)
{
	JobHead    *job = JOB_HEAD(row);
	JobOptions	options;
	int64		keep;
	Datum		old[JOB_NATTS];
	bool		old_null[JOB_NATTS];
	Datum		new[ARCHIVE_NATTS];
	bool		new_null[ARCHIVE_NATTS] = {0};
	LeafRows   *leaf;
	TimestampTz expires_at;
	int			number;

	QueueJobOptions(row, desc, settings, &options);
	keep = state == JOB_COMPLETED ? options.keep_completed : options.keep_failed;
	if (keep == 0)
		return;

	expires_at = QueueTimeAfter(now, keep);
	number = QueueLeafFor(RING_ARCHIVE, expires_at);
	leaf = open_leaf(finish, &finish->archive[number], RING_ARCHIVE, number);

	heap_deform_tuple(row, desc, old, old_null);
#define COPY(to, from) \
	(new[(to) - 1] = old[(from) - 1], new_null[(to) - 1] = old_null[(from) - 1])
	COPY(ARCHIVE_JOB_ID, JOB_JOB_ID);
	new[ARCHIVE_FINISHED_AT - 1] = TimestampTzGetDatum(now);
	new[ARCHIVE_EXPIRES_AT - 1] = TimestampTzGetDatum(expires_at);
	COPY(ARCHIVE_ENQUEUED_AT, JOB_ENQUEUED_AT);
	COPY(ARCHIVE_RUN_AT, job->run_at == DT_NOEND ? JOB_ORDER_AT : JOB_RUN_AT);
	COPY(ARCHIVE_TAKEN_AT, JOB_TAKEN_AT);
	COPY(ARCHIVE_QUEUE_ID, JOB_QUEUE_ID);
	COPY(ARCHIVE_ATTEMPT, JOB_ATTEMPT);
	COPY(ARCHIVE_PRIORITY, JOB_PRIORITY);
	COPY(ARCHIVE_MAX_ATTEMPTS, JOB_MAX_ATTEMPTS);
	new[ARCHIVE_LEAF - 1] = Int16GetDatum(number);
	new[ARCHIVE_STATE - 1] = CharGetDatum(state);
	COPY(ARCHIVE_WORKER, JOB_WORKER);
	COPY(ARCHIVE_BATCH_ID, JOB_BATCH_ID);
	COPY(ARCHIVE_GROUP_KEY, JOB_GROUP_KEY);
	COPY(ARCHIVE_LIMIT_KEY, JOB_LIMIT_KEY);
	COPY(ARCHIVE_UNIQUE_KEY, JOB_UNIQUE_KEY);
	COPY(ARCHIVE_SOURCE, JOB_SOURCE);
	COPY(ARCHIVE_HEADERS, JOB_HEADERS);
	COPY(ARCHIVE_OPTIONS, JOB_OPTIONS);
	COPY(ARCHIVE_ORIGIN, JOB_ORIGIN);
	COPY(ARCHIVE_ERROR, JOB_LAST_ERROR);
	if (error)
	{
		new[ARCHIVE_ERROR - 1] = *error;
		new_null[ARCHIVE_ERROR - 1] = false;
	}
	new_null[ARCHIVE_RESULT - 1] = result == NULL;
	if (result)
		new[ARCHIVE_RESULT - 1] = *result;
	COPY(ARCHIVE_PROGRESS, JOB_PROGRESS);
	COPY(ARCHIVE_PAYLOAD, JOB_PAYLOAD);
#undef COPY
	add_row(finish, leaf, new, new_null);
	count_leaf(finish, number, job->queue_id, state, 1);
	QueueXactCount(slot, QueueJobCount(state), 1);
}

static void
note_cancelled(QueueFinish *finish, HeapTuple row, TupleDesc desc,
			   const QueueSettings *settings, const char *outcome, TimestampTz now)
{
	if (settings->log_all)
		QueueFinishNote(finish, row, desc, settings, "cancelled",
						psprintf("was %s; %s", QueueStateName(QueueJobState(JOB_HEAD(row))), outcome),
						now);
}

void
QueueFinishJob(QueueFinish *finish, HeapTuple row, TupleDesc desc,
			   const QueueSettings *settings, QueueSlot *slot, JobState state,
			   const Datum *error, const Datum *result, TimestampTz now)
{
	bool		dead_letter = state == JOB_FAILED && settings->dead_letter_queue[0] != '\0' &&
		!job_has(row, JOB_ORIGIN);
	bool		call_on_failed = state == JOB_FAILED && settings->has_on_failed &&
		QueueOnFailedAllowed();
	Ended	   *ended;

	Assert(state == JOB_COMPLETED || state == JOB_FAILED || state == JOB_CANCELLED);
	Assert(settings->queue_id == JOB_HEAD(row)->queue_id);

	QueueXactCount(slot, QueueJobCount(QueueJobState(JOB_HEAD(row))), -1);
	if (state == JOB_COMPLETED)
	{
		QueueXactTotal(slot, TOTAL_COMPLETED, 1);
		QueueFinishNote(finish, row, desc, settings, "completed", NULL, now);
	}
	else if (state == JOB_FAILED)
		QueueXactTotal(slot, TOTAL_FAILED, 1);
	else
		note_cancelled(finish, row, desc, settings, "kept as cancelled", now);
	row = QueueProgressKeep(row, desc, JOB_HEAD(row));
	QueueProgressEnd(JOB_HEAD(row));
	if ((dead_letter || call_on_failed) && error)
		row = QueueJobWithError(row, desc, *error);
	count_in_batch(finish, row, state);
	if (settings->notify)
		QueueEventRecord(slot, state == JOB_COMPLETED ? EVENT_COMPLETED :
						 state == JOB_FAILED ? EVENT_FAILED : EVENT_CANCELLED,
						 JOB_HEAD(row)->job_id, state, 1);
	if (call_on_failed)
		remember_failed(finish, row);
	ended = remember_end(finish, row, slot, state, dead_letter);
	if (dead_letter)
		ended->dead_letter = true;
	else
		archive_job(finish, row, desc, settings, slot, state, error, result, now);
}

void
QueueFinishRemove(QueueFinish *finish, HeapTuple row, TupleDesc desc,
				  const QueueSettings *settings, QueueSlot *slot)
{
	QueueXactCount(slot, QueueJobCount(QueueJobState(JOB_HEAD(row))), -1);
	note_cancelled(finish, row, desc, settings, "removed", GetCurrentTimestamp());
	QueueProgressEnd(JOB_HEAD(row));
	count_in_batch(finish, row, JOB_CANCELLED);
	(void) remember_end(finish, row, slot, JOB_CANCELLED, false);
}

void
QueueFinishMove(QueueFinish *finish, HeapTuple row, QueueSlot *slot)
{
	Ended	   *ended;

	QueueXactCount(slot, QueueJobCount(QueueJobState(JOB_HEAD(row))), -1);
	ended = remember_end(finish, row, slot, JOB_WAITING, false);
	if (ended)
		ended->has_dependents = false;
}

void
QueueFinishPause(QueueFinish *finish, HeapTuple row, QueueSlot *slot)
{
	Ended	   *ended;

	if (!job_has(row, JOB_LIMIT_KEY))
		return;
	ended = remember_end(finish, row, slot, JOB_DELAYED, true);
	ended->before = JOB_ACTIVE;
	ended->has_dependents = false;
}

void
QueueFinishUncount(QueueFinish *finish, int leaf, int32 queue_id, QueueSlot *slot,
				   JobState state, int64 jobs)
{
	count_leaf(finish, leaf, queue_id, state, -jobs);
	QueueXactCount(slot, QueueJobCount(state), -jobs);
}

void
QueueFinishReopen(QueueFinish *finish, Datum batch_id, int32 queue_id, JobState state)
{
	QueueBatchCount(&finish->batches, batch_id, queue_id, state, -1, DT_NOEND);
}

void
QueueFinishLog(QueueFinish *finish, HeapTuple row, TupleDesc desc,
			   const QueueSettings *settings, const char *event, const char *message,
			   const Datum *error, TimestampTz now)
{
	JobHead    *job = JOB_HEAD(row);
	LeafRows   *leaf;
	int			number;
	Datum		values[9];
	bool		nulls[9] = {0};

	if (!settings->log_errors)
		return;
	number = QueueLeafFor(RING_LOG, QueueTimeAfter(now, (int64) queue_log_retention * 60 * USECS_PER_SEC));
	leaf = open_leaf(finish, &finish->log[number], RING_LOG, number);
	values[0] = TimestampTzGetDatum(now);
	values[1] = Int64GetDatum(job->job_id);
	values[2] = Int32GetDatum(job->queue_id);
	values[3] = Int32GetDatum(job->attempt);
	values[4] = Int16GetDatum(number);
	values[5] = CStringGetTextDatum(event);
	values[6] = heap_getattr(row, JOB_WORKER, desc, &nulls[6]);
	nulls[7] = message == NULL;
	values[7] = message ? CStringGetTextDatum(message) : (Datum) 0;
	nulls[8] = error == NULL;
	values[8] = error ? *error : (Datum) 0;
	add_row(finish, leaf, values, nulls);
}

void
QueueFinishNote(QueueFinish *finish, HeapTuple row, TupleDesc desc,
				const QueueSettings *settings, const char *event, const char *message,
				TimestampTz now)
{
	if (unlikely(settings->log_all))
		QueueFinishLog(finish, row, desc, settings, event, message, NULL, now);
}

static void
close_leaf(QueueFinish *finish, LeafRows *leaf)
{
	if (leaf->rel == NULL)
		return;
	flush(finish, leaf);
	QueueIndexesClose(&leaf->indexes);
	table_close(leaf->rel, NoLock);
	pfree(leaf->rows);
	leaf->rel = NULL;
}

/* move a job that has failed to the dead-letter queue, or say why not */
static void
bury(QueueFinish *finish, QueueEntry *entry, const Ended *ended)
{
	TupleDesc	desc = QueueEntryDesc(entry);
	char	   *reason = QueueDeadLetterMove(&entry->settings, ended->row, desc);
	Datum		error;
	bool		null;

	if (reason == NULL)
	{
		if (entry->settings.log_all)
			QueueFinishNote(finish, ended->row, desc, &entry->settings, "moved",
							psprintf("to dead-letter queue \"%s\"", entry->settings.dead_letter_queue),
							entry->now);
		return;
	}
	error = heap_getattr(ended->row, JOB_LAST_ERROR, desc, &null);
	QueueFinishLog(finish, ended->row, desc, &entry->settings, "failed", reason,
				   null ? NULL : &error, entry->now);
	reason = null ? reason : psprintf("%s (%s)", TextDatumGetCString(error), reason);
	error = CStringGetTextDatum(reason);
	archive_job(finish, ended->row, desc, &entry->settings, entry->slot, JOB_FAILED, &error,
				NULL, entry->now);
}

/* its key is free, its group goes on, its place is another's */
static void
leave(const Ended *ended, QueueEntry *entry)
{
	Datum		tail[JOB_TAIL];
	bool		nulls[JOB_TAIL];

	QueueJobTail(ended->row, tail, nulls);
#define TAIL(att)	((att) - JOB_STATE - 1)
	/* before the group goes on: its next may have the same limit_key */
	if (!nulls[TAIL(JOB_LIMIT_KEY)])
	{
		if (ended->before == JOB_LIMITED)
			QueuePlaceSkip(entry, PLACE_LIMIT, tail[TAIL(JOB_LIMIT_KEY)]);
		else if (ended->before == JOB_WAITING || ended->before == JOB_ACTIVE)
			QueuePlaceLeave(entry, PLACE_LIMIT, tail[TAIL(JOB_LIMIT_KEY)], ended->job_id);
	}
	if (ended->state == JOB_DELAYED)
		return;					/* it is not over */
	if (!nulls[TAIL(JOB_UNIQUE_KEY)])
		QueueUniqueFree(ended->queue_id, tail[TAIL(JOB_UNIQUE_KEY)], ended->job_id);
	if (!nulls[TAIL(JOB_GROUP_KEY)] && ended->before != JOB_BLOCKED)
	{
		if (ended->before == JOB_GROUPED)
			QueuePlaceSkip(entry, PLACE_GROUP, tail[TAIL(JOB_GROUP_KEY)]);
		else
			QueuePlaceLeave(entry, PLACE_GROUP, tail[TAIL(JOB_GROUP_KEY)], ended->job_id);
	}
#undef TAIL
}

/* a round: what the ends of jobs mean for others; it may end more of them */
static void
spread_ends(QueueFinish *finish)
{
	Ended	   *ended = finish->ended;
	int			count = finish->num_ended;
	FlowEnd    *ends = palloc(count * sizeof(FlowEnd));
	int			num_ends = 0;
	QueueEntry	entry;
	bool		entered = false;

	finish->ended = NULL;
	finish->num_ended = finish->max_ended = 0;
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ended[i].before == JOB_BLOCKED)
			QueueFlowForget(ended[i].job_id);
		if (ended[i].has_dependents)
			ends[num_ends++] = (FlowEnd) {ended[i].job_id, ended[i].state};
		if (ended[i].row == NULL)
			continue;
		if (!entered || entry.settings.queue_id != ended[i].queue_id)
		{
			QueueSettings settings;

			if (entered)
				QueueEntryEnd(&entry);
			entered = QueueSettingsById(ended[i].queue_id, &settings);
			if (!entered)
				continue;
			QueueEntryBegin(&entry, &settings);
		}
		leave(&ended[i], &entry);
		if (ended[i].dead_letter)
			bury(finish, &entry, &ended[i]);
		heap_freetuple(ended[i].row);
	}
	if (entered)
		QueueEntryEnd(&entry);
	if (num_ends > 0)
		QueueFlowEnd(finish, ends, num_ends);
	pfree(ends);
	pfree(ended);
}

void
QueueFinishEnd(QueueFinish *finish)
{
	List	   *failed;

	while (finish->num_ended > 0)
		spread_ends(finish);
	for (int i = 0; i < ARCHIVE_LEAVES; i++)
		close_leaf(finish, &finish->archive[i]);
	for (int i = 0; i < LOG_LEAVES; i++)
		close_leaf(finish, &finish->log[i]);
	if (finish->num_counts > 0)
	{
		Relation	rel = QueueOpenTable(QueueCatalogGet(false)->archive_count, RowExclusiveLock);

		for (int i = 0; i < finish->num_counts; i++)
		{
			LeafCount  *count = &finish->counts[i];
			Datum		values[5];
			bool		nulls[5] = {0};
			HeapTuple	tuple;

			if (count->change[0] == 0 && count->change[1] == 0 && count->change[2] == 0)
				continue;
			values[0] = Int16GetDatum(count->leaf);
			values[1] = Int32GetDatum(count->queue_id);
			values[2] = Int64GetDatum(count->change[0]);
			values[3] = Int64GetDatum(count->change[1]);
			values[4] = Int64GetDatum(count->change[2]);
			tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
			heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);
			heap_freetuple(tuple);
		}
		table_close(rel, NoLock);
	}
	QueueBatchWrite(&finish->batches);
	if (finish->rows)
		MemoryContextDelete(finish->rows);
	if (finish->counts)
		pfree(finish->counts);
	failed = finish->failed;
	pfree(finish);
	/* at last, functions of users, which may do anything */
	if (failed != NIL)
		QueueOnFailedCall(failed);
	list_free_deep(failed);
}

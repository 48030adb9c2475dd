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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "finish.h"
#include "ring.h"

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

struct QueueFinish
{
	MemoryContext context;		/* everything here */
	MemoryContext rows;			/* the collected rows */
	LeafRows	archive[ARCHIVE_LEAVES];
	LeafRows	log[LOG_LEAVES];
	LeafCount  *counts;
	int			num_counts;
	int			max_counts;
};

QueueFinish *
QueueFinishBegin(void)
{
	QueueFinish *finish = palloc0(sizeof(QueueFinish));

	finish->context = CurrentMemoryContext;
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

void
QueueFinishJob(QueueFinish *finish, HeapTuple row, TupleDesc desc,
			   const QueueSettings *settings, QueueSlot *slot, JobState state,
			   const Datum *error, const Datum *result, TimestampTz now)
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

	Assert(state == JOB_COMPLETED || state == JOB_FAILED || state == JOB_CANCELLED);
	Assert(settings->queue_id == job->queue_id);

	QueueXactCount(slot, QueueJobCount(QueueJobState(job)), -1);
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
	COPY(ARCHIVE_RUN_AT, JOB_RUN_AT);
	COPY(ARCHIVE_TAKEN_AT, JOB_TAKEN_AT);
	COPY(ARCHIVE_QUEUE_ID, JOB_QUEUE_ID);
	COPY(ARCHIVE_ATTEMPT, JOB_ATTEMPT);
	COPY(ARCHIVE_PRIORITY, JOB_PRIORITY);
	COPY(ARCHIVE_MAX_ATTEMPTS, JOB_MAX_ATTEMPTS);
	new[ARCHIVE_LEAF - 1] = Int16GetDatum(number);
	new[ARCHIVE_STATE - 1] = CharGetDatum(state);
	COPY(ARCHIVE_WORKER, JOB_WORKER);
	COPY(ARCHIVE_BATCH_ID, JOB_BATCH_ID);
	COPY(ARCHIVE_SOURCE, JOB_SOURCE);
	COPY(ARCHIVE_HEADERS, JOB_HEADERS);
	COPY(ARCHIVE_OPTIONS, JOB_OPTIONS);
	COPY(ARCHIVE_ERROR, JOB_LAST_ERROR);
	if (error)
	{
		new[ARCHIVE_ERROR - 1] = *error;
		new_null[ARCHIVE_ERROR - 1] = false;
	}
	new_null[ARCHIVE_RESULT - 1] = result == NULL;
	if (result)
		new[ARCHIVE_RESULT - 1] = *result;
	COPY(ARCHIVE_PAYLOAD, JOB_PAYLOAD);
#undef COPY
	add_row(finish, leaf, new, new_null);
	count_leaf(finish, number, job->queue_id, state, 1);
	QueueXactCount(slot, QueueJobCount(state), 1);
}

void
QueueFinishUncount(QueueFinish *finish, int leaf, int32 queue_id, QueueSlot *slot,
				   JobState state, int64 jobs)
{
	count_leaf(finish, leaf, queue_id, state, -jobs);
	QueueXactCount(slot, QueueJobCount(state), -jobs);
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
	values[7] = CStringGetTextDatum(message);
	nulls[8] = error == NULL;
	values[8] = error ? *error : (Datum) 0;
	add_row(finish, leaf, values, nulls);
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

void
QueueFinishEnd(QueueFinish *finish)
{
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
	if (finish->rows)
		MemoryContextDelete(finish->rows);
	if (finish->counts)
		pfree(finish->counts);
	pfree(finish);
}

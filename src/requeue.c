/*-------------------------------------------------------------------------
 *
 * requeue.c
 *		Finished jobs, once more: queue.requeue_failed(), queue.retry_job(),
 *		queue.clean().
 *
 * These are an administrator's verbs, and pick rows of queue.job_archive by
 * SQL, locked, so that two of them at work share the rows.  What was picked is
 * deleted from its leaf and, if it is to run again, put into the live table
 * with its old id and fresh attempts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "entry.h"
#include "finish.h"
#include "internal.h"
#include "ring.h"
#include "unique.h"

QUEUE_FUNCTION(queue_requeue_failed);
QUEUE_FUNCTION(queue_retry_job);
QUEUE_FUNCTION(queue_clean);

#define FETCH_ROWS	1000

/*
 * Pick rows with a query whose first columns are tableoid and ctid and whose
 * others are all columns of queue.job_archive, and take them out of the
 * archive; requeue them or not.
 */
typedef struct Picker
{
	bool		requeue;
	QueueFinish *finish;
	QueueSettings settings;		/* of the last row's queue */
	QueueSlot  *slot;
	QueueEntry	entry;			/* if requeue, of the same queue */
	bool		entered;
	bool		known;			/* the queue exists */
	int64		in_the_way;		/* a job that has the unique key of the last
								 * one that was left */
	int64		left;			/* how many were, for such a reason */
	MemoryContext call;
	Relation	leaf;			/* the last row's, or NULL */
	TimestampTz now;
	int64		done;
} Picker;

/* a job of the archive as it enters the live table again */
static HeapTuple
form_requeued(Picker *picker, Datum *old, bool *old_null)
{
	Datum		new[JOB_NATTS];
	bool		new_null[JOB_NATTS] = {0};

#define COPY(to, from) \
	(new[(to) - 1] = old[(from) - 1], new_null[(to) - 1] = old_null[(from) - 1])
	COPY(JOB_JOB_ID, ARCHIVE_JOB_ID);
	new[JOB_ORDER_AT - 1] = TimestampTzGetDatum(picker->now);
	new[JOB_RUN_AT - 1] = TimestampTzGetDatum(picker->now);
	COPY(JOB_ENQUEUED_AT, ARCHIVE_ENQUEUED_AT);
	COPY(JOB_TAKEN_AT, ARCHIVE_TAKEN_AT);
	new[JOB_LEASE_EXPIRES_AT - 1] = TimestampTzGetDatum(DT_NOBEGIN);
	new[JOB_LEASE_OWNER - 1] = Int64GetDatum(0);
	COPY(JOB_QUEUE_ID, ARCHIVE_QUEUE_ID);
	new[JOB_ATTEMPT - 1] = Int32GetDatum(0);
	new[JOB_ORDER_CLASS - 1] = Int16GetDatum(0);
	COPY(JOB_PRIORITY, ARCHIVE_PRIORITY);
	COPY(JOB_MAX_ATTEMPTS, ARCHIVE_MAX_ATTEMPTS);
	new[JOB_STATE - 1] = CharGetDatum(JOB_WAITING);
	COPY(JOB_WORKER, ARCHIVE_WORKER);
	COPY(JOB_BATCH_ID, ARCHIVE_BATCH_ID);
	COPY(JOB_GROUP_KEY, ARCHIVE_GROUP_KEY);
	COPY(JOB_LIMIT_KEY, ARCHIVE_LIMIT_KEY);
	COPY(JOB_UNIQUE_KEY, ARCHIVE_UNIQUE_KEY);
	COPY(JOB_SOURCE, ARCHIVE_SOURCE);
	COPY(JOB_HEADERS, ARCHIVE_HEADERS);
	COPY(JOB_OPTIONS, ARCHIVE_OPTIONS);
	COPY(JOB_ORIGIN, ARCHIVE_ORIGIN);
	COPY(JOB_LAST_ERROR, ARCHIVE_ERROR);
	new_null[JOB_PROGRESS - 1] = true;
	COPY(JOB_PAYLOAD, ARCHIVE_PAYLOAD);
#undef COPY
	return heap_form_tuple(QueueEntryDesc(&picker->entry), new, new_null);
}

/* settings and slot of a row's queue, kept from being dropped if we add to it */
static void
enter_queue(Picker *picker, int32 queue_id)
{
	if (picker->settings.queue_id == queue_id)
		return;
	picker->known = picker->requeue ?
		QueueSettingsLockById(queue_id, AccessShareLock, &picker->settings) :
		QueueSettingsById(queue_id, &picker->settings);
	picker->settings.queue_id = queue_id;
	picker->slot = QueueXactSlot(queue_id);
	if (picker->entered)
		QueueEntryEnd(&picker->entry);
	picker->entered = picker->requeue && picker->known;
	if (picker->entered)
	{
		MemoryContext old = MemoryContextSwitchTo(picker->call);

		QueueEntryBegin(&picker->entry, &picker->settings);
		MemoryContextSwitchTo(old);
	}
}

/* its unique key may be another job's by now: then it stays */
static bool
take_key(Picker *picker, Datum *row, bool *null)
{
	int64		holder;

	if (null[ARCHIVE_UNIQUE_KEY - 1])
		return true;
	holder = QueueUniqueTake(picker->settings.queue_id, row[ARCHIVE_UNIQUE_KEY - 1],
							 DatumGetInt64(row[ARCHIVE_JOB_ID - 1]), 0);
	if (holder == 0)
		return true;
	picker->in_the_way = holder;
	picker->left++;
	return false;
}

static void
take_out(Picker *picker, HeapTuple picked, TupleDesc desc)
{
	Datum		all[2 + ARCHIVE_NATTS];
	bool		all_null[2 + ARCHIVE_NATTS];
	Datum	   *row = all + 2;
	Oid			relid;
	JobState	state;
	HeapTuple	requeued;

	heap_deform_tuple(picked, desc, all, all_null);
	relid = DatumGetObjectId(all[0]);
	enter_queue(picker, DatumGetInt32(row[ARCHIVE_QUEUE_ID - 1]));
	if (picker->requeue && !picker->known)
		return;					/* of a queue that was dropped since */
	if (picker->requeue && !take_key(picker, row, all_null + 2))
		return;

	if (picker->leaf && RelationGetRelid(picker->leaf) != relid)
	{
		table_close(picker->leaf, NoLock);
		picker->leaf = NULL;
	}
	if (picker->leaf == NULL)
		picker->leaf = table_open(relid, RowExclusiveLock);

	/* the query has locked the row: this cannot find it changed */
	simple_heap_delete(picker->leaf, (ItemPointer) DatumGetPointer(all[1]));
	state = (JobState) DatumGetChar(row[ARCHIVE_STATE - 1]);
	QueueFinishUncount(picker->finish, DatumGetInt16(row[ARCHIVE_LEAF - 1]),
					   DatumGetInt32(row[ARCHIVE_QUEUE_ID - 1]), picker->slot, state, 1);
	if (picker->requeue)
	{
		/* of a dead letter, its batch counts that it has failed once */
		if (!all_null[2 + ARCHIVE_BATCH_ID - 1] && all_null[2 + ARCHIVE_ORIGIN - 1])
			QueueFinishReopen(picker->finish, row[ARCHIVE_BATCH_ID - 1],
							  picker->settings.queue_id, state);
		CommandCounterIncrement();
		requeued = form_requeued(picker, row, all_null + 2);
		QueueEntryPut(&picker->entry, requeued, false);
		QueueXactTotal(picker->slot, TOTAL_ENQUEUED, 1);
		if (picker->settings.log_all)
			QueueFinishNote(picker->finish, requeued, QueueEntryDesc(&picker->entry),
							&picker->settings, "requeued",
							psprintf("was %s", QueueStateName(state)), picker->now);
	}
	picker->done++;
}

static int64
pick(bool requeue, const char *where, int nargs, Oid *types, Datum *values, const char *nulls)
{
	Picker		picker;
	char	   *sql = psprintf("SELECT a.tableoid, a.ctid, a.* FROM queue.job_archive AS a %s", where);
	SPIPlanPtr	plan;
	Portal		portal;
	MemoryContext context;

	memset(&picker, 0, sizeof(picker));
	picker.requeue = requeue;
	picker.now = GetCurrentTimestamp();
	context = AllocSetContextCreate(CurrentMemoryContext, "queue requeue", ALLOCSET_DEFAULT_SIZES);
	picker.finish = QueueFinishBegin();
	picker.call = CurrentMemoryContext;

	QueueSpiConnect();
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, values, nulls, false);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			CHECK_FOR_INTERRUPTS();
			take_out(&picker, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
			MemoryContextSwitchTo(old);
			MemoryContextReset(context);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	QueueSpiFinish();

	if (picker.leaf)
		table_close(picker.leaf, NoLock);
	if (picker.entered)
		QueueEntryEnd(&picker.entry);
	QueueFinishEnd(picker.finish);
	MemoryContextDelete(context);
	if (picker.left > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld job stays: job %lld has its unique key",
							   "%lld jobs stay: others, such as job %lld, have their unique keys",
							   (unsigned long) picker.left, (long long) picker.left,
							   (long long) picker.in_the_way)));
	return picker.done;
}

/* the queue an argument names, for its administrators */
static int32
administered_queue(FunctionCallInfo fcinfo, int arg)
{
	QueueSettings settings;

	QueueSettingsRequire(PG_GETARG_TEXT_PP(arg), PRIVILEGE_ADMIN, &settings);
	return settings.queue_id;
}

/* every queue that the caller administers, as an int4[] datum */
static Datum
administered_queues(void)
{
	List	   *all = QueueSettingsAll();
	Datum	   *ids = palloc((list_length(all) + 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, all)
		if (QueuePrivileges(lfirst(lc)) & PRIVILEGE_ADMIN)
			ids[n++] = Int32GetDatum(((QueueSettings *) lfirst(lc))->queue_id);
	return PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
}

/* LIKE would refuse it only when it meets a failed job */
static void
check_pattern(text *pattern)
{
	const char *p = VARDATA_ANY(pattern);
	const char *end = p + VARSIZE_ANY_EXHDR(pattern);
	bool		escaped = false;

	/* in every server encoding a backslash byte is a backslash */
	for (; p < end; p++)
		escaped = !escaped && *p == '\\';
	if (escaped)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ESCAPE_SEQUENCE),
				 errmsg("error_pattern must not end with an escape character"),
				 errdetail("It is \"%s\".", text_to_cstring(pattern)),
				 errhint("Write two backslashes for one.")));
}

Datum
queue_requeue_failed(PG_FUNCTION_ARGS)
{
	Oid			types[5] = {INT4ARRAYOID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[5] = {0};
	char		nulls[6] = "nnnnn";

	QueueRequireWritable("queue.requeue_failed()");
	if (PG_ARGISNULL(0))
		values[0] = administered_queues();
	else
	{
		Datum		id = Int32GetDatum(administered_queue(fcinfo, 0));

		values[0] = PointerGetDatum(construct_array(&id, 1, INT4OID, 4, true, TYPALIGN_INT));
	}
	nulls[0] = ' ';
	for (int i = 1; i <= 3; i++)
		if (!PG_ARGISNULL(i))
		{
			values[i] = PG_GETARG_DATUM(i);
			nulls[i] = ' ';
		}
	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) < 0)
		QueueErrorRange("max_jobs", PG_GETARG_INT64(1), 0, PG_INT64_MAX);
	if (!PG_ARGISNULL(3))
		check_pattern(PG_GETARG_TEXT_PP(3));
	if (!PG_ARGISNULL(4))
	{
		values[4] = TimestampTzGetDatum(QueueArgAge(PG_GETARG_DATUM(4), "older_than"));
		nulls[4] = ' ';
	}
	PG_RETURN_INT64(pick(true,
						 "WHERE a.queue_id OPERATOR(pg_catalog.=) ANY ($1)"
						 " AND a.state OPERATOR(pg_catalog.=) 'f'"
						 " AND ($3 IS NULL OR a.batch_id OPERATOR(pg_catalog.=) $3)"
						 " AND ($4 IS NULL OR a.error OPERATOR(pg_catalog.~~) $4)"
						 " AND ($5 IS NULL OR a.finished_at OPERATOR(pg_catalog.<=) $5)"
						 " ORDER BY a.finished_at, a.job_id LIMIT $2 FOR UPDATE SKIP LOCKED",
						 5, types, values, nulls));
}

Datum
queue_retry_job(PG_FUNCTION_ARGS)
{
	Oid			types[2] = {INT8OID, INT4ARRAYOID};
	Datum		values[2];

	QueueRequireWritable("queue.retry_job()");
	if (PG_ARGISNULL(0))
		QueueErrorNull("job_id", "Give the number that queue.enqueue() returned.");
	values[0] = PG_GETARG_DATUM(0);
	values[1] = administered_queues();
	PG_RETURN_BOOL(pick(true,
						"WHERE a.job_id OPERATOR(pg_catalog.=) $1"
						" AND a.queue_id OPERATOR(pg_catalog.=) ANY ($2)"
						" AND a.state IN ('f', 'x') FOR UPDATE",
						2, types, values, NULL) > 0);
}

Datum
queue_clean(PG_FUNCTION_ARGS)
{
	Oid			types[3] = {INT4ARRAYOID, TIMESTAMPTZOID, CHAROID};
	Datum		values[3] = {0};
	char		nulls[4] = " nn";
	JobState	state;

	QueueRequireWritable("queue.clean()");
	if (PG_ARGISNULL(0))
		values[0] = administered_queues();
	else
	{
		Datum		id = Int32GetDatum(administered_queue(fcinfo, 0));

		values[0] = PointerGetDatum(construct_array(&id, 1, INT4OID, 4, true, TYPALIGN_INT));
	}
	if (!PG_ARGISNULL(1))
	{
		values[1] = TimestampTzGetDatum(QueueArgAge(PG_GETARG_DATUM(1), "older_than"));
		nulls[1] = ' ';
	}
	if (!PG_ARGISNULL(2))
	{
		char	   *word = text_to_cstring(PG_GETARG_TEXT_PP(2));

		if (!QueueStateFromName(word, &state) ||
			QueueJobCount(state) < COUNT_COMPLETED)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("state must be completed, failed or cancelled"),
					 errdetail("It is \"%s\".", word),
					 errhint("Unfinished jobs are removed by queue.purge_queue() or queue.cancel().")));
		values[2] = CharGetDatum(state);
		nulls[2] = ' ';
	}
	PG_RETURN_INT64(pick(false,
						 "WHERE a.queue_id OPERATOR(pg_catalog.=) ANY ($1)"
						 " AND CASE WHEN $2 IS NULL"
						 " THEN a.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()"
						 " ELSE a.finished_at OPERATOR(pg_catalog.<=) $2 END"
						 " AND ($3 IS NULL OR a.state OPERATOR(pg_catalog.=) $3)"
						 " FOR UPDATE SKIP LOCKED",
						 3, types, values, nulls));
}

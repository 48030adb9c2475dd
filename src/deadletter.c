/*-------------------------------------------------------------------------
 *
 * deadletter.c
 *		Dead letters: jobs that failed for good move to another queue.
 *
 * The job keeps its id, its attempts and its error, and gets as many attempts
 * more as the dead-letter queue allows.  Where it comes from stands in its
 * column origin.  A job that has moved once does not move again: it fails for
 * good where it is, so two queues cannot send it to and fro for ever.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "compat.h"
#include "deadletter.h"
#include "finish.h"
#include "flow.h"
#include "internal.h"
#include "scan.h"
#include "unique.h"

QUEUE_FUNCTION(queue_redrive);

/* {"queue": its queue, "failed_at": when, "max_attempts": what it was allowed} */
static Datum
form_origin(const QueueSettings *settings, const JobHead *job, TimestampTz now)
{
	StringInfoData json;
	char		at[MAXDATELEN + 1];

	JsonEncodeDateTime(at, TimestampTzGetDatum(now), TIMESTAMPTZOID, NULL);
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"queue\": ");
	escape_json(&json, settings->name);
	appendStringInfo(&json, ", \"failed_at\": \"%s\", \"attempts\": %d, \"max_attempts\": %d}",
					 at, job->attempt, job->max_attempts);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

static HeapTuple
form_dead_letter(QueueEntry *entry, const QueueSettings *from, HeapTuple row, TupleDesc desc)
{
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS] = {0};
	bool		replace[JOB_NATTS] = {0};
	JobHead    *job;

	values[JOB_ORIGIN - 1] = form_origin(from, JOB_HEAD(row), entry->now);
	replace[JOB_ORIGIN - 1] = true;
	row = heap_modify_tuple(row, desc, values, nulls, replace);
	job = JOB_HEAD(row);
	job->max_attempts = Min(job->attempt + entry->settings.max_attempts, QUEUE_MAX_ATTEMPTS);
	job->run_at = entry->now;
	job->lease_owner = 0;
	job->lease_expires_at = DT_NOBEGIN;
	return row;
}

char *
QueueDeadLetterMove(const QueueSettings *settings, HeapTuple row, TupleDesc desc)
{
	const char *name = settings->dead_letter_queue;
	QueueSettings target;
	QueueEntry	entry;
	Datum		key;
	bool		null;

	if (!QueueSettingsByName(name, strlen(name), &target) ||
		!QueueSettingsLockById(target.queue_id, AccessShareLock, &target))
		return psprintf("not moved: dead-letter queue \"%s\" does not exist", name);
	QueueEntryBegin(&entry, &target);
	if (QueueEntryIsFull(&entry, 1))
		return psprintf("not moved: dead-letter queue \"%s\" is full", name);
	key = heap_getattr(row, JOB_UNIQUE_KEY, desc, &null);
	if (!null)
	{
		int64		holder = QueueUniqueTake(target.queue_id, key, JOB_HEAD(row)->job_id, 0);

		if (holder != 0)
			return psprintf("not moved: in dead-letter queue \"%s\", job %lld has its unique key",
							name, (long long) holder);
	}
	QueueFlowMoved(QueueXactSlot(settings->queue_id), entry.slot);
	QueueEntryPut(&entry, form_dead_letter(&entry, settings, row, desc), false);
	QueueXactTotal(entry.slot, TOTAL_ENQUEUED, 1);
	QueueEntryEnd(&entry);
	return NULL;
}

/* ---------------------------------------------------------------------
 * Redrive
 * --------------------------------------------------------------------- */

typedef struct Redrive
{
	QueueSettings from;
	QueueSlot  *slot;
	QueueStore	store[2];		/* live and parked */
	QueueFinish *finish;
	int64		done;
} Redrive;

/* where a dead letter comes from; NULL: nobody knows */
static char *
origin_queue(HeapTuple row, TupleDesc desc, int *max_attempts)
{
	bool		null;
	Datum		datum = heap_getattr(row, JOB_ORIGIN, desc, &null);
	Jsonb	   *origin;
	JsonbValue	value;
	char	   *name = NULL;

	*max_attempts = 0;
	if (null)
		return NULL;
	origin = DatumGetJsonbP(datum);
	if (getKeyJsonValueFromContainer(&origin->root, "queue", 5, &value) &&
		value.type == jbvString)
		name = pnstrdup(value.val.string.val, value.val.string.len);
	if (getKeyJsonValueFromContainer(&origin->root, "max_attempts", 12, &value) &&
		value.type == jbvNumeric)
		*max_attempts = DatumGetInt32(DirectFunctionCall1(numeric_int4,
														  NumericGetDatum(value.val.numeric)));
	return name;
}

/* put a dead letter, already out of its queue, back to where it came from */
static void
put_back(QueueEntry *entry, HeapTuple row, TupleDesc desc, int max_attempts)
{
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS] = {0};
	bool		replace[JOB_NATTS] = {0};
	JobHead    *job;

	nulls[JOB_ORIGIN - 1] = replace[JOB_ORIGIN - 1] = true;
	row = heap_modify_tuple(row, desc, values, nulls, replace);
	job = JOB_HEAD(row);
	job->attempt = 0;
	job->max_attempts = max_attempts > 0 && max_attempts <= QUEUE_MAX_ATTEMPTS ?
		max_attempts : entry->settings.max_attempts;
	job->run_at = entry->now;
	job->lease_owner = 0;
	QueueEntryPut(entry, row, false);
}

/* the job as it was picked may have been taken since; false: it stays */
static bool
redrive_job(Redrive *redrive, int64 job_id)
{
	TupleDesc	desc = RelationGetDescr(redrive->store[0].heap);
	Snapshot	snapshot;
	QueueStore *store = NULL;
	ItemPointerData tid;
	HeapTuple	row = NULL;
	QueueSettings target;
	QueueEntry	entry;
	char	   *name;
	int			max_attempts;
	Datum		key,
				batch_id;
	bool		null;

	CommandCounterIncrement();
	snapshot = QueueFreshSnapshot();
	for (int parked = 0; parked < 2 && row == NULL; parked++)
	{
		store = &redrive->store[parked];
		row = QueueStoreFind(store, snapshot, job_id, &tid);
	}
	QueueReleaseSnapshot(snapshot);
	if (row == NULL || job_is_active(JOB_HEAD(row)))
		return false;
	name = origin_queue(row, desc, &max_attempts);
	if (name == NULL || !QueueSettingsByName(name, strlen(name), &target) ||
		!QueueSettingsLockById(target.queue_id, AccessShareLock, &target))
	{
		ereport(NOTICE,
				(errmsg("job %lld stays: its queue \"%s\" does not exist",
						(long long) job_id, name ? name : "")));
		return false;
	}
	QueueRequirePrivilege(&target, PRIVILEGE_ENQUEUE);
	QueueEntryBegin(&entry, &target);
	if (QueueEntryIsFull(&entry, 1))
	{
		ereport(NOTICE,
				(errmsg("job %lld stays: its queue \"%s\" is full", (long long) job_id, name)));
		return false;
	}
	key = heap_getattr(row, JOB_UNIQUE_KEY, desc, &null);
	if (!null)
	{
		int64		holder = QueueUniqueTake(target.queue_id, key, job_id, 0);

		if (holder != 0)
		{
			ereport(NOTICE,
					(errmsg("job %lld stays: in its queue \"%s\", job %lld has its unique key",
							(long long) job_id, name, (long long) holder)));
			return false;
		}
	}
	if (QueueStoreDelete(store, &tid, JOB_HEAD(row), redrive->slot, false, true) != TM_Ok)
	{
		if (!null)
			QueueUniqueFree(target.queue_id, key, job_id);
		return false;
	}
	QueueFinishMove(redrive->finish, row, redrive->slot);
	QueueFlowMoved(redrive->slot, entry.slot);
	if (redrive->from.log_all)
		QueueFinishNote(redrive->finish, row, desc, &redrive->from, "moved",
						psprintf("back to queue \"%s\"", name), entry.now);
	batch_id = heap_getattr(row, JOB_BATCH_ID, desc, &null);
	if (!null)
		QueueFinishReopen(redrive->finish, batch_id, target.queue_id, JOB_FAILED);
	put_back(&entry, row, desc, max_attempts);
	QueueXactTotal(entry.slot, TOTAL_ENQUEUED, 1);
	QueueEntryEnd(&entry);
	return true;
}

Datum
queue_redrive(PG_FUNCTION_ARGS)
{
	Redrive		redrive;
	Oid			types[2] = {INT4OID, INT8OID};
	Datum		values[2] = {0};
	char		nulls[3] = " n";
	uint64		count;
	int64	   *ids;
	MemoryContext context;

	QueueRequireWritable("queue.redrive()");
	memset(&redrive, 0, sizeof(redrive));
	QueueSettingsRequire(QueueArgText(fcinfo, 0, "queue_name"), PRIVILEGE_ADMIN, &redrive.from);
	if (!PG_ARGISNULL(1))
	{
		if (PG_GETARG_INT64(1) < 0)
			QueueErrorRange("max_jobs", PG_GETARG_INT64(1), 0, PG_INT64_MAX);
		values[1] = PG_GETARG_DATUM(1);
		nulls[1] = ' ';
	}
	values[0] = Int32GetDatum(redrive.from.queue_id);
	context = CurrentMemoryContext;
	QueueSpiConnect();
	count = QueueSpiExecute("SELECT job_id FROM (SELECT * FROM queue.job_live"
							" UNION ALL SELECT * FROM queue.job_parked) AS j"
							" WHERE queue_id OPERATOR(pg_catalog.=) $1 AND origin IS NOT NULL"
							" AND queue._state(state, lease_owner) OPERATOR(pg_catalog.<>) 'active'"
							" ORDER BY origin OPERATOR(pg_catalog.->>) 'failed_at', job_id LIMIT $2",
							2, types, values, nulls);
	ids = MemoryContextAllocHuge(context, (count + 1) * sizeof(int64));
	for (uint64 i = 0; i < count; i++)
	{
		bool		null;

		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	}
	QueueSpiFinish();

	redrive.slot = QueueXactSlot(redrive.from.queue_id);
	redrive.finish = QueueFinishBegin();
	QueueStoreOpen(&redrive.store[0], false);
	QueueStoreOpen(&redrive.store[1], true);
	context = AllocSetContextCreate(CurrentMemoryContext, "queue redrive", ALLOCSET_DEFAULT_SIZES);
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		if (redrive_job(&redrive, ids[i]))
			redrive.done++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	QueueStoreClose(&redrive.store[1]);
	QueueStoreClose(&redrive.store[0]);
	QueueXactDead(redrive.done);
	QueueFinishEnd(redrive.finish);
	PG_RETURN_INT64(redrive.done);
}

/*-------------------------------------------------------------------------
 *
 * status.c
 *		What people and programs read: queue.job_status(), queue.list_jobs(),
 *		queue.queue_stats(), and the functions under the views.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "health.h"
#include "internal.h"
#include "limit.h"
#include "scan.h"
#include "stats.h"
#include "store.h"

QUEUE_FUNCTION(queue_job_status);
QUEUE_FUNCTION(queue_list_jobs);
QUEUE_FUNCTION(queue_queue_stats);
QUEUE_FUNCTION(queue__may);
QUEUE_FUNCTION(queue__state);
QUEUE_FUNCTION(queue__hints);

/* the columns that both functions return, from either kind of table */
#define UNFINISHED_COLUMNS \
	"SELECT j.job_id, q.queue_name, queue._state(j.state, j.lease_owner)," \
	" COALESCE(queue._progress(j.queue_id, j.job_id, j.attempt, j.taken_at), j.progress), null::jsonb," \
	" j.last_error, j.attempt, j.max_attempts::int, j.priority::int, j.worker, j.batch_id," \
	" j.group_key, j.limit_key, j.unique_key, j.source, j.headers, j.origin, j.payload, j.enqueued_at," \
	" CASE WHEN j.run_at = 'infinity' THEN j.order_at ELSE j.run_at END," \
	" CASE WHEN j.attempt > 0 THEN j.taken_at END," \
	" CASE WHEN queue._state(j.state, j.lease_owner) = 'active' THEN j.lease_expires_at END," \
	" null::timestamptz, null::timestamptz" \
	" FROM %s AS j JOIN queue.queue AS q ON q.queue_id = j.queue_id WHERE "
#define FINISHED_COLUMNS \
	"SELECT j.job_id, q.queue_name, queue._state(j.state, 0), j.progress, j.result," \
	" j.error, j.attempt, j.max_attempts::int, j.priority::int, j.worker, j.batch_id," \
	" j.group_key, j.limit_key, j.unique_key, j.source, j.headers, j.origin, j.payload, j.enqueued_at, j.run_at," \
	" CASE WHEN j.attempt > 0 THEN j.taken_at END, null::timestamptz," \
	" j.finished_at, j.expires_at" \
	" FROM queue.job_archive AS j JOIN queue.queue AS q ON q.queue_id = j.queue_id WHERE "

/* add the rows of a query to the result; returns how many */
static int64
put_rows(ReturnSetInfo *rsinfo)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		Datum		values[32];
		bool		nulls[32];

		Assert(SPI_tuptable->tupdesc->natts <= lengthof(values));
		heap_deform_tuple(tuple, SPI_tuptable->tupdesc, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (int64) SPI_processed;
}

/* not read-only, if possible: a fresh snapshot, so that who polls sees news */
static bool
read_only(void)
{
	return RecoveryInProgress() || XactReadOnly;
}

static void
execute(const char *sql, int nargs, Oid *types, Datum *values)
{
	int			result = SPI_execute_with_args(sql, nargs, types, values, NULL, read_only(), 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(result));
}

/* may the caller, who is not who we are now, browse the queue of that row? */
static bool
may_browse(HeapTuple tuple, TupleDesc desc)
{
	char	   *name = SPI_getvalue(tuple, desc, 2);
	QueueSettings settings;
	Oid			user;
	int			context;
	int			privileges;

	if (!QueueSettingsByName(name, strlen(name), &settings))
		return false;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(QueueSpiCaller(), context);
	privileges = QueuePrivileges(&settings);
	SetUserIdAndSecContext(user, context);
	return (privileges & PRIVILEGE_BROWSE) != 0;
}

Datum
queue_job_status(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan;		/* planning it takes longer than running it */
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		value;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	value = PG_GETARG_DATUM(0);

	QueueSpiConnect();
	if (plan == NULL)
	{
		Oid			type = INT8OID;
		char	   *sql = psprintf(UNFINISHED_COLUMNS "j.job_id = $1 UNION ALL " UNFINISHED_COLUMNS
								   "j.job_id = $1 UNION ALL " FINISHED_COLUMNS
								   "j.job_id = $1 LIMIT 1",
								   "queue.job_live", "queue.job_parked");

		plan = SPI_prepare_cursor(sql, 1, &type, CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, &value, NULL, read_only(), 1) != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_processed > 0 && may_browse(SPI_tuptable->vals[0], SPI_tuptable->tupdesc))
		(void) put_rows(rsinfo);
	QueueSpiFinish();
	return (Datum) 0;
}

Datum
queue_list_jobs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[3] = {INT4OID, INT8OID, TEXTOID};
	Datum		values[3];
	QueueSettings settings;
	JobState	state = JOB_WAITING;
	bool		all = PG_ARGISNULL(1);
	int64		left;

	if (!all)
	{
		char	   *word = text_to_cstring(PG_GETARG_TEXT_PP(1));

		if (!QueueStateFromName(word, &state))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown job state \"%s\"", word),
					 errdetail("No job can be in that state."),
					 errhint("States are waiting, delayed, blocked, active, completed, failed and cancelled.")));
	}
	if (PG_ARGISNULL(2))
		QueueErrorNull("max_jobs", "Leave it out to get 100 jobs.");
	if (PG_GETARG_INT32(2) < 0)
		QueueErrorRange("max_jobs", PG_GETARG_INT32(2), 0, PG_INT32_MAX);
	left = PG_GETARG_INT32(2);
	QueueSettingsRequire(QueueArgText(fcinfo, 0, "queue_name"), PRIVILEGE_BROWSE, &settings);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	values[0] = Int32GetDatum(settings.queue_id);
	values[2] = CStringGetTextDatum(all ? "" : QueueStateName(state));
	QueueSpiConnect();
	if (all || state == JOB_WAITING || state == JOB_ACTIVE)
	{
		values[1] = Int64GetDatum(left);
		execute(psprintf(UNFINISHED_COLUMNS "j.queue_id = $1"
						 " AND ($3 = '' OR queue._state(j.state, j.lease_owner) = $3)"
						 " ORDER BY j.order_class, j.order_at, j.job_id LIMIT $2",
						 "queue.job_live"), 3, types, values);
		left -= put_rows(rsinfo);
	}
	if (left > 0 && (all || state == JOB_DELAYED || state == JOB_BLOCKED))
	{
		values[1] = Int64GetDatum(left);
		execute(psprintf(UNFINISHED_COLUMNS "j.queue_id = $1"
						 " AND ($3 = '' OR queue._state(j.state, j.lease_owner) = $3)"
						 " ORDER BY j.run_at, j.job_id LIMIT $2",
						 "queue.job_parked"), 3, types, values);
		left -= put_rows(rsinfo);
	}
	if (left > 0 && (all || QueueJobCount(state) >= COUNT_COMPLETED))
	{
		values[1] = Int64GetDatum(left);
		values[2] = CharGetDatum(state);
		types[2] = CHAROID;
		execute(all ? FINISHED_COLUMNS "j.queue_id = $1 AND ($3 IS NOT NULL)"
				" ORDER BY j.finished_at DESC, j.job_id DESC LIMIT $2" :
				FINISHED_COLUMNS "j.queue_id = $1 AND j.state = $3"
				" ORDER BY j.finished_at DESC, j.job_id DESC LIMIT $2",
				3, types, values);
		(void) put_rows(rsinfo);
	}
	QueueSpiFinish();
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * Counts
 * --------------------------------------------------------------------- */

#define OLDEST_LOOK_ROWS	1000

/*
 * Due time of the oldest waiting job of a class, from its hint on.  With strict
 * priority it is the first; with aging it is searched among the first ones.
 */
static TimestampTz
oldest_in_class(QueueStore *live, const QueueSettings *settings, HintSlot *hint)
{
	HintKey		from = QueueHintRead(hint, NULL);
	Snapshot	snapshot;
	QueueScan	scan;
	ItemPointerData tid;
	HeapTuple	row;
	TimestampTz oldest = PG_INT64_MAX;

	if (!HINT_KEY_LT(from, HINT_KEY_MAX))
		return oldest;
	snapshot = QueueFreshSnapshot();
	QueueScanBegin(&scan, live, snapshot, settings->queue_id, hint->order_class, from, HINT_KEY_MAX, false);
	for (int i = 0; i < OLDEST_LOOK_ROWS && (row = QueueScanNext(&scan, &tid)) != NULL; i++)
		if (QueueJobState(JOB_HEAD(row)) == JOB_WAITING)
		{
			oldest = Min(oldest, JOB_HEAD(row)->run_at);
			if (!settings->aging)
				break;
		}
	QueueScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);
	return oldest;
}

/* one index descent, or a short walk, per class of the queue */
TimestampTz
QueueOldestWaiting(QueueStore *live, const QueueSettings *settings, QueueSlot *slot)
{
	TimestampTz oldest = PG_INT64_MAX;
	HintSlot  **hints;
	int			count;
	bool		known;

	hints = QueueHintList(slot, &count, &known);
	for (int i = 0; i < count; i++)
		oldest = Min(oldest, oldest_in_class(live, settings, hints[i]));
	return oldest;
}

/* the limits of a queue, and what is left of them; slot may be NULL */
static void
put_limits(const QueueSettings *settings, QueueSlot *slot, Datum *values, bool *nulls)
{
	int64		available = -1;
	TimestampTz throttled = settings->throttled_until > GetCurrentTimestamp() ?
		settings->throttled_until : 0;

	if (slot)
		throttled = QueueLimitRead(slot, settings, &available);
	nulls[0] = throttled == 0;
	values[0] = TimestampTzGetDatum(throttled);
	nulls[1] = settings->max_active < 0;
	values[1] = Int32GetDatum(settings->max_active);
	nulls[2] = nulls[3] = settings->rate_limit < 0;
	if (!nulls[2])
	{
		Interval   *period = palloc0(sizeof(Interval));

		period->time = settings->rate_period;
		values[2] = Int32GetDatum(settings->rate_limit);
		values[3] = DirectFunctionCall1(interval_justify_hours, IntervalPGetDatum(period));
	}
	nulls[4] = available < 0;
	values[4] = Int32GetDatum((int32) available);
}

static void
put_stats(ReturnSetInfo *rsinfo, QueueStore *live, Installation *installation,
		  const QueueSettings *settings)
{
	QueueSlot  *slot = NULL;
	Datum		values[16 + TOTALS_COLUMNS] = {0};
	bool		nulls[16 + TOTALS_COLUMNS];
	int64		count[NUM_COUNTS];
	int64		total = 0;

	memset(nulls, true, sizeof(nulls));
	values[0] = CStringGetTextDatum(settings->name);
	values[10] = BoolGetDatum(settings->paused);
	nulls[0] = nulls[10] = false;
	if (installation)
		slot = QueueXactSlot(settings->queue_id);
	put_limits(settings, slot, values + 11, nulls + 11);
	if (slot)
		QueueTotalsPut(&slot->totals, values + 16, nulls + 16);
	if (slot && QueueStatsEnsure(installation) && QueueStatsRead(installation, slot, count))
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz oldest = PG_INT64_MAX;

		for (int c = 0; c < NUM_COUNTS; c++)
		{
			values[1 + c] = Int64GetDatum(count[c]);
			nulls[1 + c] = false;
			total += count[c];
		}
		values[8] = Int64GetDatum(total);
		nulls[8] = false;
		if (count[COUNT_WAITING] > 0)
			oldest = QueueOldestWaiting(live, settings, slot);
		if (oldest != PG_INT64_MAX)
		{
			Interval   *age = palloc0(sizeof(Interval));

			age->time = Max(now - oldest, 0);
			values[9] = DirectFunctionCall1(interval_justify_hours, IntervalPGetDatum(age));
			nulls[9] = false;
		}
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
queue_queue_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Installation *installation = NULL;
	QueueStore	live;
	List	   *queues;
	ListCell   *lc;

	queues = QueueSettingsOf(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), PRIVILEGE_BROWSE);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	/* a standby has no counters: their columns are null there */
	if (QueueSharedReady() && !RecoveryInProgress())
		installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (installation)
	{
		CommandCounterIncrement();
		QueueStoreOpen(&live, false);
	}
	foreach(lc, queues)
		put_stats(rsinfo, &live, installation, lfirst(lc));
	if (installation)
		QueueStoreClose(&live);
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * Under the views
 * --------------------------------------------------------------------- */

Datum
queue__may(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	char	   *word = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			privilege = PRIVILEGE_ADMIN;

	if (strcmp(word, "browse") == 0)
		privilege |= PRIVILEGE_BROWSE;
	else if (strcmp(word, "enqueue") == 0)
		privilege |= PRIVILEGE_ENQUEUE;
	else if (strcmp(word, "dequeue") == 0)
		privilege |= PRIVILEGE_DEQUEUE;
	if (!QueueSettingsById(PG_GETARG_INT32(0), &settings))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL((QueuePrivileges(&settings) & privilege) != 0);
}

Datum
queue__state(PG_FUNCTION_ARGS)
{
	JobHead		job = {0};

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	job.state = PG_GETARG_CHAR(0);
	if (!QueueStateKnown((JobState) job.state))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown job state %d", (int) job.state),
				 errdetail("No row of a table of jobs has that state."),
				 errhint("Give the column \"state\" of such a row.")));
	job.lease_owner = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1);
	PG_RETURN_TEXT_P(cstring_to_text(QueueStateName(QueueJobState(&job))));
}

Datum
queue__hints(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Installation *installation;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (!QueueSharedReady())
		return (Datum) 0;
	installation = QueueInstallation(QueueCatalogGet(false)->live);
	for (int i = 0; installation && i < queue_max_hints; i++)
	{
		HintSlot   *hint = &HintSlots[i];
		int			queue = hint->queue;
		Datum		values[9];
		bool		nulls[9] = {0};
		HintKey		key,
					floor;

		if (queue < 0 || QueueSlots[queue].installation != installation - Installations)
			continue;
		key = QueueHintRead(hint, &floor);
		values[0] = Int32GetDatum(QueueSlots[queue].queue_id);
		values[1] = Int32GetDatum(hint->order_class);
		values[2] = TimestampTzGetDatum(key.at);
		values[3] = Int64GetDatum(key.id);
		values[4] = TimestampTzGetDatum(floor.at);
		values[5] = Int64GetDatum(floor.id);
		values[6] = TimestampTzGetDatum(QueueHintLeases(hint).expiry);
		values[7] = Int64GetDatum((int64) hint->generation);
		values[8] = Int32GetDatum(pg_popcount32(hint->cells_used));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

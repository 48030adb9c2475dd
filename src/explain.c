/*-------------------------------------------------------------------------
 *
 * explain.c
 *		queue.explain_job(): why a job has not run yet.
 *
 * Reads the job's row, and the rows beside it that keep it back, as the owner
 * of the extension, once it is known that the caller may browse its queue.  What
 * it tells is a picture of one moment: nothing is locked.
 *
 * A job that does not exist, and one that the caller may not see, are told in
 * the same words.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "executor.h"
#include "health.h"
#include "internal.h"
#include "job.h"
#include "limit.h"
#include "pool.h"
#include "stats.h"
#include "wait.h"
#include "xact.h"

QUEUE_FUNCTION(queue_explain_job);

#define TELL_MOST	10			/* jobs by their numbers */
#define COUNT_MOST	10000		/* jobs before it */
#define ERROR_MOST	200			/* bytes of an error */

typedef struct Explain
{
	ReturnSetInfo *rsinfo;
	int64		job_id;
	QueueSettings settings;
	QueueSlot  *slot;			/* NULL: none, or a standby */
	TimestampTz now;

	/* its row */
	bool		live;			/* in queue.job_live */
	JobHead		head;
	char	   *worker;			/* or NULL, as those that follow */
	char	   *error;
	char	   *group_key;
	char	   *limit_key;
} Explain;

static void
tell(Explain *explain, const char *line)
{
	Datum		value = CStringGetTextDatum(line);
	bool		null = false;

	tuplestore_putvalues(explain->rsinfo->setResult, explain->rsinfo->setDesc, &value, &null);
}

#define TELL(...)	tell(explain, psprintf(__VA_ARGS__))

static uint64
execute(const char *sql, int nargs, Oid *types, Datum *values)
{
	int			result = SPI_execute_with_args(sql, nargs, types, values, NULL,
											   RecoveryInProgress() || XactReadOnly, 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

static Datum
value_of(uint64 row, int column)
{
	bool		null;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);
}

static char *
text_of(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static char *
at(TimestampTz time)
{
	return pstrdup(timestamptz_to_str(time));
}

/* may the caller, who is not who we are now, browse that queue? */
static bool
may_browse(int32 queue_id, QueueSettings *settings)
{
	Oid			user;
	int			context;
	int			privileges;

	if (!QueueSettingsById(queue_id, settings))
		return false;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(QueueSpiCaller(), context);
	privileges = QueuePrivileges(settings);
	SetUserIdAndSecContext(user, context);
	return (privileges & PRIVILEGE_BROWSE) != 0;
}

/* an error in one line, and not too long */
static char *
shorten(const char *error)
{
	int			length = pg_mbcliplen(error, strlen(error), ERROR_MOST);
	char	   *line = pnstrdup(error, length);

	for (char *c = line; *c; c++)
		if (*c == '\n' || *c == '\r' || *c == '\t')
			*c = ' ';
	return length < strlen(error) ? psprintf("%s...", line) : line;
}

/* ---------------------------------------------------------------------
 * What is over
 * --------------------------------------------------------------------- */

static bool
explain_finished(Explain *explain)
{
	Oid			type = INT8OID;
	Datum		id = Int64GetDatum(explain->job_id);
	char	   *state,
			   *error;

	if (execute("SELECT a.queue_id, queue._state(a.state, 0), a.finished_at, a.attempt, a.max_attempts::int, a.error"
				" FROM queue.job_archive AS a WHERE a.job_id = $1", 1, &type, &id) == 0 ||
		!may_browse(DatumGetInt32(value_of(0, 1)), &explain->settings))
		return false;
	state = text_of(0, 2);
	error = text_of(0, 6);
	TELL("It %s at %s, in queue \"%s\", after %d of %d attempts%s%s",
		 strcmp(state, "completed") == 0 ? "was completed" :
		 strcmp(state, "failed") == 0 ? "failed for good" : "was cancelled",
		 at(DatumGetTimestampTz(value_of(0, 3))), explain->settings.name,
		 DatumGetInt32(value_of(0, 4)), DatumGetInt32(value_of(0, 5)),
		 error ? "; the error: " : ".", error ? shorten(error) : "");
	return true;
}

/* ---------------------------------------------------------------------
 * What keeps all jobs of a queue from being taken
 * --------------------------------------------------------------------- */

static int
count_executors(const Explain *explain)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	int			count = 0;

	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];

		SpinLockAcquire(&executor->mutex);
		if (executor->live_id == cat->live && executor->database_id == MyDatabaseId &&
			executor->owner == explain->settings.owner &&
			(executor->state == EXECUTOR_IDLE || executor->state == EXECUTOR_BUSY))
			count++;
		SpinLockRelease(&executor->mutex);
	}
	return count;
}

/* returns how many reasons there were */
static int
explain_queue(Explain *explain)
{
	const QueueSettings *settings = &explain->settings;
	int64		available = -1;
	int64		count[NUM_COUNTS];
	TimestampTz throttled = settings->throttled_until > explain->now ? settings->throttled_until : 0;
	int			reasons = 0;

	if (explain->slot)
		throttled = QueueLimitRead(explain->slot, settings, &available);
	if (settings->paused)
	{
		TELL("Queue \"%s\" is paused: nothing is taken from it until queue.resume_queue().", settings->name);
		reasons++;
	}
	if (throttled != 0)
	{
		TELL("Queue \"%s\" is throttled until %s.", settings->name, at(throttled));
		reasons++;
	}
	if (settings->has_handler && !settings->processing)
	{
		TELL("Processing of queue \"%s\" is stopped: its handler does not run until queue.start_processing().",
			 settings->name);
		reasons++;
	}
	else if (settings->has_handler && queue_max_executors == 0)
	{
		TELL("Queue \"%s\" has a handler, but the server may start no executor: queue.max_executors is 0.",
			 settings->name);
		reasons++;
	}
	if (explain->slot && settings->max_active >= 0 &&
		QueueStatsRead(&Installations[explain->slot->installation], explain->slot, count) &&
		count[COUNT_ACTIVE] >= settings->max_active)
	{
		TELL("%lld %s of queue \"%s\" %s active, as many as max_active allows.",
			 (long long) count[COUNT_ACTIVE], count[COUNT_ACTIVE] == 1 ? "job" : "jobs", settings->name,
			 count[COUNT_ACTIVE] == 1 ? "is" : "are");
		reasons++;
	}
	if (available == 0)
	{
		TELL("The rate_limit of queue \"%s\" is used up for the moment: %d in %s.", settings->name,
			 settings->rate_limit, QueueSpell(settings->rate_period));
		reasons++;
	}
	return reasons;
}

static void
explain_order(Explain *explain)
{
	const JobHead *job = &explain->head;
	Oid			types[] = {INT4OID, INT2OID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		values[] = {
		Int32GetDatum(job->queue_id), Int16GetDatum(job->order_class),
		TimestampTzGetDatum(job->order_at), Int64GetDatum(job->job_id), Int64GetDatum(COUNT_MOST + 1)
	};
	int64		before;

	(void) execute("SELECT count(*) FROM (SELECT FROM queue.job_live AS j WHERE j.queue_id = $1"
				   " AND (j.order_class, j.order_at, j.job_id) < ($2, $3, $4)"
				   " AND queue._state(j.state, j.lease_owner) = 'waiting'"
				   " ORDER BY j.queue_id, j.order_class, j.order_at, j.job_id LIMIT $5) AS before",
				   5, types, values);
	before = DatumGetInt64(value_of(0, 1));
	if (before == 0)
		TELL("It is the next to be taken from queue \"%s\".", explain->settings.name);
	else if (before > COUNT_MOST)
		TELL("More than %d jobs of queue \"%s\" are before it.", COUNT_MOST, explain->settings.name);
	else
		TELL("%lld %s of queue \"%s\" %s before it.", (long long) before, before == 1 ? "job" : "jobs",
			 explain->settings.name, before == 1 ? "is" : "are");
}

/* who would take it? */
static void
explain_takers(Explain *explain)
{
	QueueSlot  *slot = explain->slot;
	TimestampTz taker_at;
	uint32		waiters;

	if (slot == NULL)
		return;
	taker_at = (TimestampTz) pg_atomic_read_u64(&slot->taker_at);
	waiters = pg_atomic_read_u32(&slot->waiters);
	if (explain->settings.has_handler && explain->settings.processing && queue_max_executors > 0)
	{
		int			count = count_executors(explain);

		TELL("%d %s of the queue's owner, of at most %d, %s its handler.", count,
			 count == 1 ? "executor" : "executors", queue_max_executors, count == 1 ? "runs" : "run");
	}
	else if (waiters > 0)
		TELL("%u %s for a job of the queue.", waiters, waiters == 1 ? "taker waits" : "takers wait");
	else if (taker_at == 0)
		TELL("Nobody has come to take a job of the queue since %s, when the %s.",
			 at(QueueHealthKnownSince(&explain->settings)),
			 QueueHealthKnownSince(&explain->settings) == explain->settings.created_at ?
			 "queue was created" : "server started");
	else if (taker_at < explain->head.run_at)
		TELL("Nobody has come to take a job of the queue since it became due: the last came at %s.", at(taker_at));
	else
		TELL("The last taker came at %s.", at(taker_at));
}

/* ---------------------------------------------------------------------
 * What is held
 * --------------------------------------------------------------------- */

/* the executor that holds it; 0: none; begun: its handler has been called */
static pid_t
find_executor(const JobHead *job, bool *begun)
{
	pid_t		pid = 0;

	for (int i = 0; i < queue_num_executors && pid == 0; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];

		SpinLockAcquire(&executor->mutex);
		if (executor->state != EXECUTOR_FREE && executor->session == job_session(job))
		{
			pid = executor->pid;
			*begun = executor->job_id == job->job_id;
		}
		SpinLockRelease(&executor->mutex);
	}
	return pid;
}

/* true: it is running, and there is nothing more to say */
static bool
explain_active(Explain *explain)
{
	const JobHead *job = &explain->head;
	bool		begun = false;
	pid_t		pid = RecoveryInProgress() || job_session(job) == 0 ? 0 : find_executor(job, &begun);
	char	   *by = explain->worker ? psprintf(" by worker \"%s\"", explain->worker) : "";

	/* a standby knows no sessions */
	if (!RecoveryInProgress() && !job_is_held(job, explain->now))
	{
		TELL("It was taken%s at %s, for attempt %d of %d, but %s: the next taker may have it.", by,
			 at(job->taken_at), job->attempt, job->max_attempts,
			 job->lease_expires_at <= explain->now ? psprintf("its lease ended at %s", at(job->lease_expires_at)) :
			 "the session that held it has ended");
		return false;
	}
	if (pid != 0 && !begun)
		TELL("Executor %d has taken it at %s, and runs other jobs before it.", (int) pid, at(job->taken_at));
	else if (pid != 0)
		TELL("It is running in executor %d, since %s, attempt %d of %d.", (int) pid, at(job->taken_at),
			 job->attempt, job->max_attempts);
	else
		TELL("It is running: taken%s at %s, attempt %d of %d, %s.", by, at(job->taken_at), job->attempt,
			 job->max_attempts, job->lease_expires_at == DT_NOEND ? "held by an executor" :
			 psprintf("lease until %s%s", at(job->lease_expires_at),
					  job_session(job) != 0 ? " or the end of its session" : ""));
	return true;
}

/* ---------------------------------------------------------------------
 * What is parked
 * --------------------------------------------------------------------- */

/* the state of a job, wherever it is */
#define STATE_OF(job) \
	"COALESCE((SELECT queue._state(s1.state, s1.lease_owner) FROM queue.job_live AS s1 WHERE s1.job_id = " job ")," \
	" (SELECT queue._state(s2.state, s2.lease_owner) FROM queue.job_parked AS s2 WHERE s2.job_id = " job ")," \
	" (SELECT queue._state(s3.state, 0) FROM queue.job_archive AS s3 WHERE s3.job_id = " job " LIMIT 1), 'gone')"

static void
explain_parents(Explain *explain)
{
	Oid			type = INT8OID;
	Datum		id = Int64GetDatum(explain->job_id);
	uint64		count = execute("SELECT d.parent_id, d.parent_queue_id, d.on_parent_failure, " STATE_OF("d.parent_id")
								" FROM queue.dependency AS d WHERE d.child_id = $1 ORDER BY d.parent_id",
								1, &type, &id);

	if (count == 0)
		TELL("It waited for other jobs, which are completed: it is about to be let go.");
	for (uint64 i = 0; i < Min(count, TELL_MOST); i++)
	{
		QueueSettings settings;
		bool		may = may_browse(DatumGetInt32(value_of(i, 2)), &settings);
		char	   *failure = text_of(i, 3);
		char	   *state = text_of(i, 4);

		if (strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0)
			TELL("It waits for job %s, which %s; it stays blocked until that is retried, or it is cancelled itself.",
				 text_of(i, 1), !may ? "is not yours to see" :
				 strcmp(state, "failed") == 0 ? "has failed for good" : "was cancelled");
		else
			TELL("It waits for job %s, which is %s; if that fails for good, %s.", text_of(i, 1),
				 may ? psprintf("%s in queue \"%s\"", state, settings.name) : "not yours to see",
				 strcmp(failure, "fail") == 0 ? "this one fails, too" :
				 strcmp(failure, "run") == 0 ? "this one runs all the same" : "this one stays blocked");
	}
	if (count > TELL_MOST)
		TELL("It waits for %lld jobs more.", (long long) count - TELL_MOST);
}

static int64
count_before(Explain *explain, const char *column, char *key)
{
	Oid			types[] = {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID, INT4OID};
	Datum		values[] = {
		Int32GetDatum(explain->head.queue_id), CStringGetTextDatum(key),
		TimestampTzGetDatum(explain->head.order_at), Int64GetDatum(explain->job_id), Int32GetDatum(COUNT_MOST)
	};

	(void) execute(psprintf("SELECT count(*) FROM (SELECT FROM queue.job_parked AS p"
							" WHERE p.queue_id = $1 AND p.%s = $2 AND p.state = '%c'"
							" AND (p.order_at, p.job_id) < ($3, $4) LIMIT $5) AS before",
							column, explain->head.state), 5, types, values);
	return DatumGetInt64(value_of(0, 1));
}

static void
explain_group(Explain *explain)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(explain->head.queue_id), CStringGetTextDatum(explain->group_key)};
	int64		before;

	if (execute("SELECT h.job_id, " STATE_OF("h.job_id") ", h.at FROM queue.group_head AS h"
				" WHERE h.queue_id = $1 AND h.group_key = $2 AND h.job_id <> 0", 2, types, values) == 0)
		TELL("Its group \"%s\" is free: it is about to be let go.", explain->group_key);
	else
		TELL("Its group \"%s\" is held by job %s, which is %s, since %s.", explain->group_key, text_of(0, 1),
			 text_of(0, 2), at(DatumGetTimestampTz(value_of(0, 3))));
	before = count_before(explain, "group_key", explain->group_key);
	if (before > 0)
		TELL("%lld %s of the group %s before it.", (long long) before, before == 1 ? "job" : "jobs",
			 before == 1 ? "is" : "are");
}

static void
explain_places(Explain *explain)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(explain->head.queue_id), CStringGetTextDatum(explain->limit_key)};
	uint64		count = execute("SELECT l.job_id, " STATE_OF("l.job_id") " FROM queue.limit_place AS l"
								" WHERE l.queue_id = $1 AND l.limit_key = $2 AND l.job_id <> 0 ORDER BY l.place",
								2, types, values);
	StringInfoData list;
	int64		before;

	initStringInfo(&list);
	for (uint64 i = 0; i < Min(count, TELL_MOST); i++)
		appendStringInfo(&list, "%s%s (%s)", i > 0 ? ", " : "", text_of(i, 1), text_of(i, 2));
	if (explain->settings.max_active_per_key >= 0 && count < explain->settings.max_active_per_key)
		TELL("There is a free place for limit_key \"%s\": it is about to be let go.", explain->limit_key);
	else
		TELL("All %lld places of limit_key \"%s\" are taken, by jobs %s%s.", (long long) count,
			 explain->limit_key, list.data, count > TELL_MOST ? " and others" : "");
	before = count_before(explain, "limit_key", explain->limit_key);
	if (before > 0)
		TELL("%lld %s with that limit_key %s before it.", (long long) before, before == 1 ? "job" : "jobs",
			 before == 1 ? "is" : "are");
}

static void
explain_delay(Explain *explain)
{
	const JobHead *job = &explain->head;

	if (job->run_at <= explain->now)
		TELL("It is due since %s.", at(job->run_at));
	else if (job->attempt > 0 && explain->error)
		TELL("It is delayed until %s, when it is retried: attempt %d of %d has failed; the error: %s",
			 at(job->run_at), job->attempt, job->max_attempts, shorten(explain->error));
	else
		TELL("It is delayed until %s.", at(job->run_at));
}

/* ---------------------------------------------------------------------
 * The function
 * --------------------------------------------------------------------- */

static bool
read_row(Explain *explain)
{
	JobHead    *head = &explain->head;
	Oid			type = INT8OID;
	Datum		id = Int64GetDatum(explain->job_id);

	if (execute("SELECT j.queue_id, j.live, j.state, j.run_at, j.taken_at, j.lease_expires_at, j.lease_owner,"
				" j.attempt, j.max_attempts, j.order_class, j.order_at, j.worker, j.last_error, j.group_key, j.limit_key"
				" FROM (SELECT l.*, true AS live FROM queue.job_live AS l WHERE l.job_id = $1"
				" UNION ALL SELECT p.*, false FROM queue.job_parked AS p WHERE p.job_id = $1) AS j",
				1, &type, &id) == 0 ||
		!may_browse(DatumGetInt32(value_of(0, 1)), &explain->settings))
		return false;
	head->job_id = explain->job_id;
	head->queue_id = DatumGetInt32(value_of(0, 1));
	explain->live = DatumGetBool(value_of(0, 2));
	head->state = DatumGetChar(value_of(0, 3));
	head->run_at = DatumGetTimestampTz(value_of(0, 4));
	head->taken_at = DatumGetTimestampTz(value_of(0, 5));
	head->lease_expires_at = DatumGetTimestampTz(value_of(0, 6));
	head->lease_owner = DatumGetInt64(value_of(0, 7));
	head->attempt = DatumGetInt32(value_of(0, 8));
	head->max_attempts = DatumGetInt16(value_of(0, 9));
	head->order_class = DatumGetInt16(value_of(0, 10));
	head->order_at = DatumGetTimestampTz(value_of(0, 11));
	explain->worker = text_of(0, 12);
	explain->error = text_of(0, 13);
	explain->group_key = text_of(0, 14);
	explain->limit_key = text_of(0, 15);
	return true;
}

static void
explain_unfinished(Explain *explain)
{
	const JobHead *job = &explain->head;
	int			reasons;
	bool		may_run = explain->live;

	if (explain->live && job_is_active(job))
	{
		if (explain_active(explain))
			return;
	}
	else if (job->state == JOB_BLOCKED)
		explain_parents(explain);
	else if (job->state == JOB_GROUPED)
		explain_group(explain);
	else if (job->state == JOB_LIMITED)
		explain_places(explain);
	else if (!explain->live)
	{
		explain_delay(explain);
		may_run = job->run_at <= explain->now;
	}
	/* what keeps it back will be followed by what keeps its queue back */
	reasons = explain_queue(explain);
	if (!may_run)
		return;
	if (explain->live)
		explain_order(explain);
	if (reasons == 0)
		explain_takers(explain);
	if (job->attempt > 0 && explain->error && !job_is_active(job))
		TELL("Attempt %d of %d has failed; the error: %s", job->attempt, job->max_attempts,
			 shorten(explain->error));
}

Datum
queue_explain_job(PG_FUNCTION_ARGS)
{
	Explain    *explain = palloc0(sizeof(Explain));

	explain->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	explain->job_id = PG_GETARG_INT64(0);
	explain->now = GetCurrentTimestamp();
	QueueSpiConnect();
	if (read_row(explain))
	{
		if (QueueSharedReady() && !RecoveryInProgress())
			explain->slot = QueueXactSlot(explain->settings.queue_id);
		explain_unfinished(explain);
	}
	else if (!explain_finished(explain))
		TELL("There is no job %lld that you may see.", (long long) explain->job_id);
	QueueSpiFinish();
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		Put jobs in: queue.enqueue(), queue.enqueue_batch().
 *
 * The SQL functions turn their arguments into a QueueRequest; what follows
 * from it is the same for every way to enqueue.
 *
 * The queue's object lock, shared, keeps drop_queue() and a change of the
 * order away until then; it is not held against other producers or takers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "batch.h"
#include "compat.h"
#include "entry.h"
#include "event.h"
#include "finish.h"
#include "flow.h"
#include "function.h"
#include "internal.h"
#include "mode.h"
#include "place.h"
#include "scan.h"
#include "unique.h"
#include "validate.h"

QUEUE_FUNCTION(queue_enqueue);
QUEUE_FUNCTION(queue_enqueue_batch);

/* where the arguments stand; -1: there is none */
typedef struct ArgMap
{
	int			unique_key,
				group_key,
				batch_id,
				source,
				headers,
				on_conflict,
				depends_on,
				on_parent_failure,
				options;
} ArgMap;

/* the first ones are the same for all functions */
enum
{
	ARG_QUEUE_NAME, ARG_PAYLOAD, ARG_PRIORITY, ARG_DELAY, ARG_RUN_AT, ARG_MAX_ATTEMPTS
};

static const ArgMap enqueue_args = {6, 7, 8, 9, 10, 11, 12, 13, 14};
static const ArgMap enqueue_batch_args = {-1, -1, 6, 7, 8, -1, -1, -1, 9};

#define MAX_DELAY_DAYS	(INT64CONST(10000) * 366)
#define CHUNK_ROWS		1000

/* the columns that all jobs of a call share */
typedef struct NewJobs
{
	const QueueRequest *request;
	QueueEntry	entry;
	int64		added;			/* what no unique key kept out */
	int64		last_id;		/* of the last of them */
	QueueFinish *log;			/* if every job is to be logged, else NULL */
	QueueFunction *handler;		/* runs them now; NULL: they are put in */
	List	   *done;			/* what it has run: DoneJob */
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS];
} NewJobs;

/* a job that its queue's handler has run in mode direct */
typedef struct DoneJob
{
	HeapTuple	row;
	TimestampTz ended_at;
	Datum		result;
	bool		no_result;
} DoneJob;

/* ---------------------------------------------------------------------
 * Arguments
 * --------------------------------------------------------------------- */

TimestampTz
QueueDelayUntil(Interval *delay, TimestampTz now)
{
	TimestampTz run_at;

	/* far enough for anybody, and near enough not to overflow */
	if (delay->month > MAX_DELAY_DAYS / 31 || delay->day > MAX_DELAY_DAYS ||
		delay->time > MAX_DELAY_DAYS * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay is too long"),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(delay)))),
				 errhint("At most 10000 years are allowed.")));
	if (delay->month < -MAX_DELAY_DAYS / 31 || delay->day < -MAX_DELAY_DAYS ||
		delay->time < -MAX_DELAY_DAYS * USECS_PER_DAY)
		run_at = DT_NOBEGIN;
	else
		run_at = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														 TimestampTzGetDatum(now),
														 IntervalPGetDatum(delay)));
	if (run_at < now || TIMESTAMP_NOT_FINITE(run_at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay must be finite and not negative"),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(delay)))),
				 errhint("Give an interval such as '5 minutes'.")));
	return run_at;
}

/* when the job is due, by at most one of two arguments */
static TimestampTz
due_time(FunctionCallInfo fcinfo, TimestampTz now)
{
	if (!PG_ARGISNULL(ARG_DELAY) && !PG_ARGISNULL(ARG_RUN_AT))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay and run_at must not both be given"),
				 errdetail("Each of them says when the job is due."),
				 errhint("Give delay as an interval from now, or run_at as a time.")));
	if (!PG_ARGISNULL(ARG_DELAY))
		return QueueDelayUntil(PG_GETARG_INTERVAL_P(ARG_DELAY), now);
	if (!PG_ARGISNULL(ARG_RUN_AT))
	{
		TimestampTz run_at = PG_GETARG_TIMESTAMPTZ(ARG_RUN_AT);

		if (TIMESTAMP_NOT_FINITE(run_at))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("run_at must be finite"),
					 errdetail("It is %s.", timestamptz_to_str(run_at)),
					 errhint("A time in the past means as soon as possible, before younger jobs.")));
		return run_at;
	}
	return now;
}

static text *
label_arg(FunctionCallInfo fcinfo, int arg, const char *name)
{
	text	   *label;

	if (arg < 0 || PG_ARGISNULL(arg))
		return NULL;
	label = PG_GETARG_TEXT_PP(arg);
	QueueCheckLabel(label, name);
	return label;
}

static bool
word_is_replace(const char *word)
{
	if (strcmp(word, "replace") != 0 && strcmp(word, "ignore") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("on_conflict must be \"ignore\" or \"replace\""),
				 errdetail("It is \"%s\".", word),
				 errhint("\"ignore\" leaves the job that has the unique key as it is, \"replace\" gives it the new payload.")));
	return word[0] == 'r';
}

static bool
on_conflict_arg(FunctionCallInfo fcinfo, int arg)
{
	return !PG_ARGISNULL(arg) && word_is_replace(text_to_cstring(PG_GETARG_TEXT_PP(arg)));
}

static void
parents_args(FunctionCallInfo fcinfo, const ArgMap *args, QueueRequest *request)
{
	const char *rule = PG_ARGISNULL(args->on_parent_failure) ? "fail" :
		text_to_cstring(PG_GETARG_TEXT_PP(args->on_parent_failure));
	Datum	   *ids;
	bool	   *nulls;

	if (strcmp(rule, "fail") == 0)
		request->on_parent_failure = PARENT_FAIL;
	else if (strcmp(rule, "run") == 0)
		request->on_parent_failure = PARENT_RUN;
	else if (strcmp(rule, "block") == 0)
		request->on_parent_failure = PARENT_BLOCK;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("on_parent_failure must be \"fail\", \"run\" or \"block\""),
				 errdetail("It is \"%s\".", rule),
				 errhint("It says what becomes of the job if one of depends_on fails for good.")));
	if (PG_ARGISNULL(args->depends_on))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(args->depends_on), INT8OID, 8, FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &ids, &nulls, &request->num_parents);
	request->parents = palloc(Max(request->num_parents, 1) * sizeof(int64));
	for (int i = 0; i < request->num_parents; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("depends_on must not contain null"),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Give the numbers of jobs.")));
		request->parents[i] = DatumGetInt64(ids[i]);
	}
}

/* a list of texts, or nulls, in the options: one for each job of the call */
static text **
key_list(JsonbContainer *options, const char *name, int *count)
{
	JsonbValue	value;
	JsonbIterator *it;
	JsonbIteratorToken token;
	text	  **list;
	int			n = 0;

	if (getKeyJsonValueFromContainer(options, name, strlen(name), &value) == NULL)
		return NULL;
	if (value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be an array", name),
				 errdetail("It has another type."),
				 errhint("Give one key, or null, for each payload.")));
	*count = JsonContainerSize(value.val.binary.data);
	list = palloc0(Max(*count, 1) * sizeof(text *));
	it = JsonbIteratorInit(value.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (value.type == jbvString)
		{
			list[n] = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
			QueueCheckLabel(list[n], name);
		}
		else if (value.type != jbvNull)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must be an array of strings", name),
					 errdetail("Element %d is none.", n + 1),
					 errhint("Give one key, or null, for each payload.")));
		n++;
	}
	return list;
}

/* what concerns single jobs of the call is taken out of its options */
static void
take_key_lists(QueueRequest *request)
{
	static const char *const names[] = {"unique_keys", "group_keys", "limit_keys", "on_conflict"};
	Jsonb	   *options = DatumGetJsonbP(request->options);
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(options))
		return;
	request->unique_keys = key_list(&options->root, names[0], &request->num_unique_keys);
	request->group_keys = key_list(&options->root, names[1], &request->num_group_keys);
	request->limit_keys = key_list(&options->root, names[2], &request->num_limit_keys);
	for (int i = 0; i < request->num_limit_keys; i++)
		if (request->limit_keys[i])
			QueueCheckLimitKey(request->limit_keys[i], names[2]);
	if (getKeyJsonValueFromContainer(&options->root, names[3], strlen(names[3]), &value))
		request->replace = word_is_replace(value.type != jbvString ? "" :
										   pnstrdup(value.val.string.val, value.val.string.len));
	for (int i = 0; i < lengthof(names); i++)
		request->options = DirectFunctionCall2(jsonb_delete, request->options,
											   CStringGetTextDatum(names[i]));
	if (JB_ROOT_COUNT(DatumGetJsonbP(request->options)) == 0)
		request->options = (Datum) 0;
}

/* all that the caller asks for but the payload, checked as far as it can be */
static void
read_request(FunctionCallInfo fcinfo, const ArgMap *args, QueueRequest *request)
{
	memset(request, 0, sizeof(*request));
	/* the clock, not now(): a long transaction's jobs are not older than it */
	request->now = GetCurrentTimestamp();
	if (!PG_ARGISNULL(ARG_PRIORITY))
	{
		request->has_priority = true;
		request->priority = PG_GETARG_INT32(ARG_PRIORITY);
		if (request->priority < PG_INT16_MIN || request->priority > PG_INT16_MAX)
			QueueErrorRange("priority", request->priority, PG_INT16_MIN, PG_INT16_MAX);
	}
	if (!PG_ARGISNULL(ARG_MAX_ATTEMPTS))
	{
		request->has_max_attempts = true;
		request->max_attempts = PG_GETARG_INT32(ARG_MAX_ATTEMPTS);
		if (request->max_attempts < 1 || request->max_attempts > QUEUE_MAX_ATTEMPTS)
			QueueErrorRange("max_attempts", request->max_attempts, 1, QUEUE_MAX_ATTEMPTS);
	}
	if (!PG_ARGISNULL(ARG_DELAY) || !PG_ARGISNULL(ARG_RUN_AT))
	{
		request->has_run_at = true;
		request->run_at = due_time(fcinfo, request->now);
	}
	request->batch_id = label_arg(fcinfo, args->batch_id, "batch_id");
	request->source = label_arg(fcinfo, args->source, "source");
	if (!PG_ARGISNULL(args->headers))
	{
		request->headers = PG_GETARG_DATUM(args->headers);
		QueueCheckJsonbSize(request->headers, "headers", 0);
	}
	request->group_key = label_arg(fcinfo, args->group_key, "group_key");
	request->unique_key = label_arg(fcinfo, args->unique_key, "unique_key");
	if (args->on_conflict >= 0)
		request->replace = on_conflict_arg(fcinfo, args->on_conflict);
	if (args->depends_on >= 0)
		parents_args(fcinfo, args, request);
	if (!PG_ARGISNULL(args->options))
	{
		request->options = PG_GETARG_DATUM(args->options);
		if (args->unique_key < 0)
			take_key_lists(request);
		if (request->options != (Datum) 0)
			request->limit_key = QueueJobTakeLimitKey(&request->options);
		if (request->options != (Datum) 0)
			request->unique_for = QueueJobCheckOptions(request->options);
	}
}

void
QueueReadRequest(FunctionCallInfo fcinfo, QueueRequest *request)
{
	read_request(fcinfo, &enqueue_args, request);
}

/* ---------------------------------------------------------------------
 * Enqueue
 * --------------------------------------------------------------------- */

static void
begin_jobs(NewJobs *new, const QueueSettings *settings, const QueueRequest *request)
{
	TimestampTz run_at;

	new->request = request;
	new->added = 0;
	new->log = settings->log_all ? QueueFinishBegin() : NULL;
	new->handler = NULL;
	new->done = NIL;
	QueueEntryBegin(&new->entry, settings);
	new->entry.now = request->now;
	run_at = request->has_run_at ? request->run_at : new->entry.now;
	memset(new->nulls, 0, sizeof(new->nulls));
	memset(new->values, 0, sizeof(new->values));

#define V(att)	new->values[(att) - 1]
#define OPTIONAL(att, value) \
	(V(att) = (Datum) (value), new->nulls[(att) - 1] = V(att) == (Datum) 0)
	V(JOB_RUN_AT) = TimestampTzGetDatum(run_at);
	V(JOB_ENQUEUED_AT) = TimestampTzGetDatum(new->entry.now);
	V(JOB_TAKEN_AT) = TimestampTzGetDatum(DT_NOBEGIN);
	V(JOB_LEASE_EXPIRES_AT) = TimestampTzGetDatum(DT_NOBEGIN);
	V(JOB_QUEUE_ID) = Int32GetDatum(settings->queue_id);
	V(JOB_PRIORITY) = Int16GetDatum((int16) (request->has_priority ? request->priority :
											 settings->default_priority));
	V(JOB_MAX_ATTEMPTS) = Int16GetDatum((int16) (request->has_max_attempts ?
												 request->max_attempts : settings->max_attempts));
	OPTIONAL(JOB_WORKER, 0);
	OPTIONAL(JOB_BATCH_ID, request->batch_id);
	OPTIONAL(JOB_GROUP_KEY, request->group_key);
	OPTIONAL(JOB_LIMIT_KEY, request->limit_key);
	OPTIONAL(JOB_UNIQUE_KEY, request->unique_key);
	OPTIONAL(JOB_SOURCE, request->source);
	OPTIONAL(JOB_HEADERS, request->headers);
	OPTIONAL(JOB_OPTIONS, request->options);
	OPTIONAL(JOB_ORIGIN, 0);
	OPTIONAL(JOB_LAST_ERROR, 0);
	OPTIONAL(JOB_PROGRESS, 0);
#undef OPTIONAL
#undef V
}

static HeapTuple
form_job(NewJobs *new, int64 job_id, Datum payload)
{
	new->values[JOB_JOB_ID - 1] = Int64GetDatum(job_id);
	new->values[JOB_PAYLOAD - 1] = payload;
	return heap_form_tuple(QueueEntryDesc(&new->entry), new->values, new->nulls);
}

/* what all rows of a call have in common */
static HeapTuple
form_pattern(NewJobs *new)
{
	HeapTuple	pattern;

	new->nulls[JOB_PAYLOAD - 1] = true;
	pattern = form_job(new, 0, (Datum) 0);
	new->nulls[JOB_PAYLOAD - 1] = false;
	return pattern;
}

/* a job has been put in, or run at once */
static void
log_enqueued(NewJobs *new, HeapTuple row, JobState state)
{
	QueueEntry *entry = &new->entry;

	if (new->log)
		QueueFinishNote(new->log, row, QueueEntryDesc(entry), &entry->settings, "enqueued",
						QueueStateName(state), entry->now);
}

/* do all jobs of the call go the same way, beside each other? */
static bool
is_plain(const QueueRequest *request, const QueueSettings *settings)
{
	return request->unique_key == NULL && request->group_key == NULL &&
		request->unique_keys == NULL && request->group_keys == NULL &&
		(request->limit_key == NULL || settings->max_active_per_key < 0) &&
		request->limit_keys == NULL && request->num_parents == 0;
}

static void
set_optional(NewJobs *new, int att, text *value)
{
	new->values[att - 1] = PointerGetDatum(value);
	new->nulls[att - 1] = value == NULL;
}

static void
check_key_count(const char *name, bool given, int keys, int jobs)
{
	if (given && keys != jobs)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("option \"%s\" must have as many elements as there are payloads", name),
				 errdetail("They are %d and %d.", keys, jobs),
				 errhint("Give one key, or null, for each payload.")));
}

/* a function of a user has run: it may have changed the queue, or dropped it */
static void
read_settings_anew(QueueEntry *entry)
{
	if (!QueueSettingsById(entry->settings.queue_id, &entry->settings))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("queue \"%s\" does not exist", entry->settings.name),
				 errdetail("It was dropped by a function that it names."),
				 errhint("Its handler and on_failed must leave the queue there.")));
}

/* a row that has not been put in anywhere, because a parent has failed */
static void
fail_at_once(NewJobs *new, HeapTuple row, int64 parent_id)
{
	QueueEntry *entry = &new->entry;
	TupleDesc	desc = QueueEntryDesc(entry);
	QueueFinish *finish = QueueFinishBegin();
	char	   *message = psprintf("parent job %lld has failed", (long long) parent_id);
	Datum		error = CStringGetTextDatum(message);

	QueueXactCount(entry->slot, COUNT_BLOCKED, 1);
	QueueJobBlock(JOB_HEAD(row), JOB_BLOCKED);
	QueueFinishLog(finish, row, desc, &entry->settings, "failed", message, &error, entry->now);
	QueueFinishJob(finish, row, desc, &entry->settings, entry->slot, JOB_FAILED, &error, NULL,
				   entry->now);
	QueueFinishEnd(finish);
	read_settings_anew(entry);
}

/* a job's row with the new payload, priority and due time */
static HeapTuple
form_replacement(NewJobs *new, HeapTuple row, Datum payload)
{
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS] = {0};
	bool		replace[JOB_NATTS] = {0};
	static const int columns[] = {JOB_RUN_AT, JOB_PRIORITY, JOB_PAYLOAD};

	new->values[JOB_PAYLOAD - 1] = payload;
	for (int i = 0; i < lengthof(columns); i++)
	{
		values[columns[i] - 1] = new->values[columns[i] - 1];
		replace[columns[i] - 1] = true;
	}
	return heap_modify_tuple(row, QueueEntryDesc(&new->entry), values, nulls, replace);
}

/* put it in again, where the job was, if its new due time lets it */
static void
put_replacement(NewJobs *new, HeapTuple row, JobState before, bool was_parked)
{
	QueueEntry *entry = &new->entry;
	bool		null = true;
	Datum		key = (Datum) 0;

	if (before == JOB_BLOCKED || before == JOB_GROUPED)
	{
		QueueEntryPutBlocked(entry, row, before);
		return;
	}
	if (job_has(row, JOB_LIMIT_KEY))
		key = heap_getattr(row, JOB_LIMIT_KEY, QueueEntryDesc(entry), &null);
	if (null || (!was_parked && JOB_HEAD(row)->run_at <= entry->now))
	{
		QueueEntryPutPlain(entry, &row, 1);
		return;
	}
	/* it comes from the live table, or goes there, or has waited to */
	if (!was_parked)
		QueuePlaceLeave(entry, PLACE_LIMIT, key, JOB_HEAD(row)->job_id);
	else if (before == JOB_LIMITED)
		QueuePlaceSkip(entry, PLACE_LIMIT, key);
	QueueEntryPutHead(entry, row);
}

/*
 * A unique key is taken by this job.  Give it the new payload, priority and due
 * time if it is not running, and not over (then its key is kept for a time).
 */
static void
replace_job(NewJobs *new, int64 job_id, Datum payload)
{
	QueueEntry *entry = &new->entry;

	for (;;)
	{
		HeapTuple	row = NULL;
		ItemPointerData tid;
		JobHead		before;
		QueueStore *store = NULL;
		Snapshot	snapshot;

		CHECK_FOR_INTERRUPTS();
		CommandCounterIncrement();
		snapshot = QueueFreshSnapshot();
		for (int parked = 0; parked < 2 && row == NULL; parked++)
		{
			store = QueueEntryStore(entry, parked == 1);
			row = QueueStoreFind(store, snapshot, job_id, &tid);
		}
		QueueReleaseSnapshot(snapshot);
		if (row == NULL)
			return;
		before = *JOB_HEAD(row);
		if (job_is_active(&before))
		{
			ereport(NOTICE,
					(errmsg("job %lld, which has the unique key, is running and was left as it is",
							(long long) job_id)));
			return;
		}
		row = form_replacement(new, row, payload);
		if (QueueStoreDelete(store, &tid, &before, entry->slot, true, true) != TM_Ok)
			continue;
		QueueXactCount(entry->slot, QueueJobCount(QueueJobState(&before)), -1);
		put_replacement(new, row, (JobState) before.state, store->parked);
		return;
	}
}

/*
 * Must the jobs of the call not wait: for a time, for others, for the end of a
 * pause?  Then mode direct runs them.
 */
static bool
runs_now(const NewJobs *new)
{
	const QueueRequest *request = new->request;

	return request->direct && !new->entry.settings.paused && request->num_parents == 0 &&
		request->group_key == NULL && request->group_keys == NULL &&
		(!request->has_run_at || request->run_at <= new->entry.now);
}

/* mode direct: as if the job had been taken at once; it is over if no error comes */
static void
run_job(NewJobs *new, HeapTuple row)
{
	QueueEntry *entry = &new->entry;
	TupleDesc	desc = QueueEntryDesc(entry);
	TimestampTz now = GetCurrentTimestamp();
	DoneJob    *done;
	Datum		result;
	bool		null;
	MemoryContext old;

	QueueJobEnter(JOB_HEAD(row), &entry->settings, entry->now);
	log_enqueued(new, row, JOB_WAITING);
	QueueJobTake(JOB_HEAD(row), now,
				 QueueTimeAfter(now, entry->settings.visibility_timeout), 0);
	result = QueueFunctionRun(new->handler, row, desc, &null);
	read_settings_anew(entry);
	old = MemoryContextSwitchTo(entry->context);
	done = palloc(sizeof(DoneJob));
	done->row = heap_copytuple(row);
	done->ended_at = GetCurrentTimestamp();
	done->result = null ? (Datum) 0 : datumCopy(result, false, -1);
	done->no_result = null;
	new->done = lappend(new->done, done);
	MemoryContextSwitchTo(old);
}

/* what was run is recorded when no function of a user is called any more */
static void
finish_done(NewJobs *new)
{
	QueueEntry *entry = &new->entry;
	QueueFinish *finish = QueueFinishBegin();
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, new->done)
	{
		DoneJob    *done = lfirst(lc);

		QueueXactCount(entry->slot, COUNT_ACTIVE, 1);
		QueueXactTotal(entry->slot, TOTAL_TAKEN, 1);
		QueueXactTime(entry->slot, TIME_PROCESSING, done->ended_at - JOB_HEAD(done->row)->taken_at);
		QueueFinishNote(finish, done->row, QueueEntryDesc(entry), &entry->settings, "taken",
						"by its producer, in mode direct", JOB_HEAD(done->row)->taken_at);
		QueueFinishJob(finish, done->row, QueueEntryDesc(entry), &entry->settings, entry->slot,
					   JOB_COMPLETED, NULL, done->no_result ? NULL : &done->result, now);
	}
	QueueFinishEnd(finish);
}

/* a job with a key, a group or parents, or to be run; returns its id */
static int64
enqueue_one(NewJobs *new, Datum payload)
{
	const QueueRequest *request = new->request;
	int64		job_id = QueueJobNextId();
	int64		parent_id;
	FlowStart	start = FLOW_READY;
	HeapTuple	row;

	if (!new->nulls[JOB_UNIQUE_KEY - 1])
	{
		int64		holder = QueueUniqueTake(new->entry.settings.queue_id,
											 new->values[JOB_UNIQUE_KEY - 1], job_id,
											 request->unique_for);

		if (holder != 0)
		{
			if (request->replace)
				replace_job(new, holder, payload);
			return holder;
		}
	}
	new->added++;
	new->last_id = job_id;
	if (request->num_parents > 0)
		start = QueueFlowStart(request, job_id, new->entry.settings.queue_id, &parent_id);
	row = form_job(new, job_id, payload);
	if (new->handler)
		run_job(new, row);
	else if (start == FLOW_FAILED)
		fail_at_once(new, row, parent_id);
	else
		QueueEntryPut(&new->entry, row, start == FLOW_BLOCKED);
	if (new->handler == NULL)
		log_enqueued(new, row, QueueJobState(JOB_HEAD(row)));
	return job_id;
}

static int
compare_keys(const void *a, const void *b, void *arg)
{
	text	  **keys = arg;
	text	   *x = keys[*(const int *) a];
	text	   *y = keys[*(const int *) b];
	int			order;

	if (x == NULL || y == NULL)
		return (x != NULL) - (y != NULL);
	order = memcmp(VARDATA_ANY(x), VARDATA_ANY(y),
				   Min(VARSIZE_ANY_EXHDR(x), VARSIZE_ANY_EXHDR(y)));
	if (order == 0)
		order = (int) VARSIZE_ANY_EXHDR(x) - (int) VARSIZE_ANY_EXHDR(y);
	return order != 0 ? order : *(const int *) a - *(const int *) b;
}

/*
 * Jobs one by one.  Unique keys are taken in their own order, so that two
 * calls do not wait for each other.
 */
static void
enqueue_special(NewJobs *new, Datum *payloads, int count, int64 *ids)
{
	const QueueRequest *request = new->request;
	int		   *order = palloc(count * sizeof(int));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue enqueue",
												  ALLOCSET_DEFAULT_SIZES);

	check_key_count("unique_keys", request->unique_keys != NULL, request->num_unique_keys, count);
	check_key_count("group_keys", request->group_keys != NULL, request->num_group_keys, count);
	check_key_count("limit_keys", request->limit_keys != NULL, request->num_limit_keys, count);
	for (int i = 0; i < count; i++)
		order[i] = i;
	if (request->unique_keys)
		qsort_arg(order, count, sizeof(int), compare_keys, request->unique_keys);
	for (int i = 0; i < count; i++)
	{
		int			n = order[i];
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (request->unique_keys)
			set_optional(new, JOB_UNIQUE_KEY, request->unique_keys[n]);
		if (request->group_keys)
			set_optional(new, JOB_GROUP_KEY, request->group_keys[n]);
		if (request->limit_keys)
			set_optional(new, JOB_LIMIT_KEY, request->limit_keys[n]);
		old = MemoryContextSwitchTo(context);
		ids[n] = enqueue_one(new, payloads[n]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

static void
enqueue_plain(NewJobs *new, Datum *payloads, int count, int64 *ids)
{
	HeapTuple	chunk[CHUNK_ROWS];
	HeapTuple	pattern = NULL;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue enqueue",
												  ALLOCSET_DEFAULT_SIZES);

	if (count > 1)
		pattern = form_pattern(new);
	for (int done = 0; done < count;)
	{
		int			n = Min(count - done, CHUNK_ROWS);
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(context);
		for (int i = 0; i < n; i++)
		{
			ids[done + i] = QueueJobNextId();
			if (pattern && !VARATT_IS_EXTERNAL(DatumGetPointer(payloads[done + i])))
				chunk[i] = QueueJobWithPayload(pattern, ids[done + i], payloads[done + i]);
			else
				chunk[i] = form_job(new, ids[done + i], payloads[done + i]);
		}
		QueueEntryPutPlain(&new->entry, chunk, n);
		for (int i = 0; i < n && new->log; i++)
			log_enqueued(new, chunk[i], QueueJobState(JOB_HEAD(chunk[i])));
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		done += n;
	}
	new->added += count;
	new->last_id = ids[count - 1];
	MemoryContextDelete(context);
}

void
QueueEnqueueMany(const QueueSettings *settings, const QueueRequest *request, Datum *payloads,
				 int count, int64 *ids)
{
	NewJobs		new;
	QueueSettings current;
	QueueFunction handler;

	for (int i = 0; i < count; i++)
		QueueCheckJsonbSize(payloads[i], "payload", request->many ? i + 1 : 0);
	if (count == 0)
		return;
	if (settings->has_rules)
	{
		current = *settings;
		QueueValidate(&current, payloads, count, request->many);
		settings = &current;
	}

	begin_jobs(&new, settings, request);
	if (runs_now(&new))
	{
		QueueFunctionOpen(&handler, FUNCTION_HANDLER, settings);
		new.handler = &handler;
	}
	else if (QueueEntryIsFull(&new.entry, count))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("queue \"%s\" is full", settings->name),
				 errdetail("It may have %lld unfinished jobs at most.",
						   (long long) settings->max_depth),
				 errhint("Try again later, or raise max_depth with queue.alter_queue().")));
	if (request->batch_id)
		QueueBatchJoin(request->batch_id, request->source);
	if (is_plain(request, settings) && new.handler == NULL)
		enqueue_plain(&new, payloads, count, ids);
	else
	{
		enqueue_special(&new, payloads, count, ids);
		finish_done(&new);
	}
	if (settings->notify && new.added > 0)
		QueueEventRecord(new.entry.slot, EVENT_ENQUEUED, new.last_id, 0, new.added);
	QueueXactTotal(new.entry.slot, TOTAL_ENQUEUED, new.added);
	if (new.log)
		QueueFinishEnd(new.log);
	QueueEntryEnd(&new.entry);
	if (request->batch_id)
		QueueBatchAdd(request->batch_id, settings->queue_id, new.added);
}

Datum
queue_enqueue(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	QueueRequest request;
	Datum		payload;
	int64		job_id;

	QueueRequireWritable("queue.enqueue()");
	if (PG_ARGISNULL(ARG_PAYLOAD))
		QueueErrorNull("payload", "An empty payload is '{}' or 'null'::jsonb.");
	QueueSettingsLock(QueueArgText(fcinfo, ARG_QUEUE_NAME, "queue_name"), PRIVILEGE_ENQUEUE,
					  AccessShareLock, &settings);
	read_request(fcinfo, &enqueue_args, &request);
	payload = PG_GETARG_DATUM(ARG_PAYLOAD);
	QueueProduce(&settings, &request, &payload, 1, &job_id);
	PG_RETURN_INT64(job_id);
}

Datum
queue_enqueue_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	QueueSettings settings;
	QueueRequest request;
	Datum	   *payloads;
	bool	   *nulls;
	int			count;
	int64	   *ids;

	QueueRequireWritable("queue.enqueue_batch()");
	if (PG_ARGISNULL(ARG_PAYLOAD))
		QueueErrorNull("payloads", "Give an array of jsonb, one element per job.");
	QueueSettingsLock(QueueArgText(fcinfo, ARG_QUEUE_NAME, "queue_name"), PRIVILEGE_ENQUEUE,
					  AccessShareLock, &settings);
	read_request(fcinfo, &enqueue_batch_args, &request);
	request.many = true;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_PAYLOAD), JSONBOID, -1, false, TYPALIGN_INT,
					  &payloads, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("payload must not be null"),
					 errdetail("Element %d of payloads is null.", i + 1),
					 errhint("An empty payload is '{}' or 'null'::jsonb.")));
	ids = palloc(Max(count, 1) * sizeof(int64));
	QueueProduce(&settings, &request, payloads, count, ids);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < count; i++)
	{
		Datum		value = Int64GetDatum(ids[i]);
		bool		null = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	return (Datum) 0;
}

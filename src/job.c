/*-------------------------------------------------------------------------
 *
 * job.c
 *		One job row: its layout, its states, its settings, its id.
 *
 * A job is in exactly one of three places, and its place tells most of its
 * state: queue.job_live (waiting, active), queue.job_parked (delayed,
 * blocked), queue.job_archive (completed, failed, cancelled).  The states are
 * drawn in doc/architecture.md.
 *
 * An active job is held by whom lease_owner names: the installation, a number
 * made of this cluster's identity, this database and this job_live.  A copy of
 * the row somewhere else (a restored dump, a database made from this one as
 * template) bears a foreign number: nobody there holds the job, so it counts
 * as waiting.  A crash, a restart or the promotion of a standby change nothing
 * in the number, so leases live on.  The lower half of lease_owner is zero, or
 * names the session that the lease is bound to: see session.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "compat.h"
#include "internal.h"
#include "job.h"

#define JOB_ID_BLOCK	64		/* ids per value of queue._job_id_block */

StaticAssertDecl(offsetof(JobHead, job_id) == 0, "JobHead must match the columns");
StaticAssertDecl(offsetof(JobHead, lease_owner) == 48, "JobHead must match the columns");
StaticAssertDecl(offsetof(JobHead, queue_id) == 56, "JobHead must match the columns");
StaticAssertDecl(offsetof(JobHead, order_class) == 64, "JobHead must match the columns");
StaticAssertDecl(offsetof(JobHead, state) == 70, "JobHead must match the columns");

/* the finalizer of splitmix64: every bit of the result depends on every bit */
static uint64
mix(uint64 h)
{
	h = (h ^ (h >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	h = (h ^ (h >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return h ^ (h >> 31);
}

int64
QueueLeaseOwner(void)
{
	static int64 owner;
	static Oid	owner_live_id;
	Oid			live_id = QueueCatalogGet(false)->live;

	if (owner == 0 || owner_live_id != live_id)
	{
		uint64		h = GetSystemIdentifier();

		h = hash_combine64(h, MyDatabaseId);
		h = hash_combine64(h, live_id);
		/* the low half is for sessions that bind a lease; zero means unbound */
		owner = (int64) (mix(h) & ~UINT64CONST(0xFFFFFFFF));
		if (owner == 0)
			owner = INT64CONST(1) << 32;
		owner_live_id = live_id;
	}
	return owner;
}

JobState
QueueJobState(const JobHead *job)
{
	if (job->state == JOB_ACTIVE && !job_is_active(job))
		return JOB_WAITING;
	return (JobState) job->state;
}

static const struct
{
	JobState	state;
	JobCount	count;
	const char *name;
}			states[] = {
	{JOB_WAITING, COUNT_WAITING, "waiting"},
	{JOB_DELAYED, COUNT_DELAYED, "delayed"},
	{JOB_BLOCKED, COUNT_BLOCKED, "blocked"},
	{JOB_ACTIVE, COUNT_ACTIVE, "active"},
	{JOB_COMPLETED, COUNT_COMPLETED, "completed"},
	{JOB_FAILED, COUNT_FAILED, "failed"},
	{JOB_CANCELLED, COUNT_CANCELLED, "cancelled"},
	/* the first of a name is the one that is meant by it */
	{JOB_GROUPED, COUNT_BLOCKED, "blocked"},
	{JOB_LIMITED, COUNT_BLOCKED, "blocked"},
};

JobCount
QueueJobCount(JobState state)
{
	for (int i = 0; i < lengthof(states); i++)
		if (states[i].state == state)
			return states[i].count;
	elog(ERROR, "unknown job state %d", (int) state);
	return COUNT_WAITING;		/* keep compiler quiet */
}

bool
QueueStateKnown(JobState state)
{
	for (int i = 0; i < lengthof(states); i++)
		if (states[i].state == state)
			return true;
	return false;
}

const char *
QueueStateName(JobState state)
{
	return states[QueueJobCount(state)].name;
}

bool
QueueStateFromName(const char *name, JobState *state)
{
	for (int i = 0; i < lengthof(states); i++)
		if (strcmp(states[i].name, name) == 0)
		{
			*state = states[i].state;
			return true;
		}
	return false;
}

TimestampTz
QueueTimeAfter(TimestampTz now, int64 usecs)
{
	TimestampTz result;

	if (TIMESTAMP_NOT_FINITE(now))
		return now;
	if (pg_add_s64_overflow(now, usecs, &result) || !IS_VALID_TIMESTAMP(result))
		return usecs < 0 ? MIN_TIMESTAMP : END_TIMESTAMP - 1;
	return result;
}

/*
 * With strict priority a class is a priority, and its order the due time.
 * With aging there is one class; all jobs age at the same speed, so the order
 * of two of them never changes, and the key can be computed once.
 */
void
QueueJobSetOrder(JobHead *job, const QueueSettings *settings)
{
	if (settings->aging)
	{
		int64		handicap;

		if (pg_mul_s64_overflow(job->priority, settings->aging_interval, &handicap))
			handicap = job->priority < 0 ? PG_INT64_MIN : PG_INT64_MAX;
		job->order_class = 0;
		job->order_at = QueueTimeAfter(job->run_at, handicap);
	}
	else
	{
		job->order_class = job->priority;
		job->order_at = job->run_at;
	}
}

/* it is put into a queue: where to, its due time says */
void
QueueJobEnter(JobHead *job, const QueueSettings *settings, TimestampTz now)
{
	Assert(!TIMESTAMP_NOT_FINITE(job->run_at));

	job->queue_id = settings->queue_id;
	job->state = job->run_at > now ? JOB_DELAYED : JOB_WAITING;
	QueueJobSetOrder(job, settings);
}

/* it must wait for something else than a time; remember when it would be due */
void
QueueJobBlock(JobHead *job, JobState state)
{
	Assert(state == JOB_BLOCKED || state == JOB_GROUPED || state == JOB_LIMITED);
	Assert(!TIMESTAMP_NOT_FINITE(job->run_at));

	job->state = state;
	job->order_class = 0;
	job->order_at = job->run_at;
	job->run_at = DT_NOEND;
}

/* nothing blocks it any more; it is to enter its queue again */
void
QueueJobUnblock(JobHead *job)
{
	Assert(job->state == JOB_BLOCKED || job->state == JOB_GROUPED || job->state == JOB_LIMITED);

	job->run_at = job->order_at;
}

/* a taker gets it, or takes it over from one whose lease has run out */
void
QueueJobTake(JobHead *job, TimestampTz now, TimestampTz expires_at, uint32 session)
{
	Assert(job->state != JOB_ACTIVE || !job_is_held(job, now));
	Assert(expires_at > now);

	job->state = JOB_ACTIVE;
	job->attempt++;
	job->taken_at = now;
	job->lease_expires_at = expires_at;
	job->lease_owner = QueueLeaseOwner() + session;
}

/* its holder gives it back, to run again at run_at */
void
QueueJobReturn(JobHead *job, const QueueSettings *settings, TimestampTz run_at,
			   TimestampTz now)
{
	job->state = run_at > now ? JOB_DELAYED : JOB_WAITING;
	job->run_at = run_at;
	job->lease_owner = 0;
	job->lease_expires_at = DT_NOBEGIN;
	QueueJobSetOrder(job, settings);
}

/* its lease has ended; it waits again, where it stood */
void
QueueJobStall(JobHead *job)
{
	Assert(job->state == JOB_ACTIVE);

	job->state = JOB_WAITING;
	job->lease_owner = 0;
	job->lease_expires_at = DT_NOBEGIN;
}

/* a parked job may run */
void
QueueJobDue(JobHead *job, const QueueSettings *settings)
{
	Assert(job->state == JOB_DELAYED);

	job->state = JOB_WAITING;
	QueueJobSetOrder(job, settings);
}

void
QueueJobTail(HeapTuple tuple, Datum *values, bool *nulls)
{
	HeapTupleHeader header = tuple->t_data;
	char	   *base = (char *) header + header->t_hoff;
	uint32		offset = offsetof(JobHead, state) + 1;

	for (int i = 0; i < JOB_TAIL; i++)
	{
		nulls[i] = !job_has(tuple, JOB_STATE + 1 + i);
		values[i] = (Datum) 0;
		if (nulls[i])
			continue;
		offset = att_align_pointer(offset, TYPALIGN_INT, -1, base + offset);
		values[i] = PointerGetDatum(base + offset);
		offset = att_addlength_pointer(offset, -1, base + offset);
	}
}

bool
QueueJobIsOf(HeapTuple tuple, const text *worker)
{
	Datum		tail[JOB_TAIL];
	bool		nulls[JOB_TAIL];
	text	   *name;

	if (!job_has(tuple, JOB_WORKER))
		return false;
	QueueJobTail(tuple, tail, nulls);
	name = DatumGetTextPP(tail[JOB_WORKER - JOB_STATE - 1]);
	return VARSIZE_ANY_EXHDR(name) == VARSIZE_ANY_EXHDR(worker) &&
		memcmp(VARDATA_ANY(name), VARDATA_ANY(worker), VARSIZE_ANY_EXHDR(name)) == 0;
}

HeapTuple
QueueJobWithError(HeapTuple tuple, TupleDesc desc, Datum error)
{
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS];
	bool		replace[JOB_NATTS] = {0};

	values[JOB_LAST_ERROR - 1] = error;
	nulls[JOB_LAST_ERROR - 1] = error == (Datum) 0;
	replace[JOB_LAST_ERROR - 1] = true;
	return heap_modify_tuple(tuple, desc, values, nulls, replace);
}

/*
 * Rows of one call differ in little.  A copy of one with a payload at its end, as
 * heap_form_tuple() would lay it out, costs a quarter of forming each anew.
 */
HeapTuple
QueueJobWithPayload(HeapTuple row, int64 job_id, Datum payload)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(payload);
	Size		size = VARSIZE_ANY(value);
	Size		start = row->t_len;
	bool		make_short = VARATT_CAN_MAKE_SHORT(value);
	HeapTuple	copy;
	HeapTupleHeader header;
	char	   *to;

	Assert(!VARATT_IS_EXTERNAL(value));
	Assert(HeapTupleHasNulls(row) && !job_has(row, JOB_PAYLOAD));
	Assert(HeapTupleHeaderGetNatts(row->t_data) == JOB_NATTS);
	if (make_short)
		size = VARATT_CONVERTED_SHORT_SIZE(value);
	else if (!VARATT_IS_SHORT(value))
		start = row->t_data->t_hoff + att_align_nominal(start - row->t_data->t_hoff, TYPALIGN_INT);
	copy = palloc(HEAPTUPLESIZE + start + size);
	copy->t_len = start + size;
	ItemPointerSetInvalid(&copy->t_self);
	copy->t_tableOid = InvalidOid;
	copy->t_data = header = (HeapTupleHeader) ((char *) copy + HEAPTUPLESIZE);
	memcpy(header, row->t_data, row->t_len);
	memset((char *) header + row->t_len, 0, start - row->t_len);
	to = (char *) header + start;
	if (make_short)
	{
		SET_VARSIZE_SHORT(to, size);
		memcpy(to + 1, VARDATA(value), size - 1);
	}
	else
		memcpy(to, value, size);
	header->t_infomask |= HEAP_HASVARWIDTH;
	header->t_bits[(JOB_PAYLOAD - 1) / BITS_PER_BYTE] |= 1 << (JOB_PAYLOAD - 1) % BITS_PER_BYTE;
	JOB_HEAD(copy)->job_id = job_id;
	return copy;
}

/* ---------------------------------------------------------------------
 * Settings of one job
 * --------------------------------------------------------------------- */

static void
bad_option(const char *key, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid option \"%s\"", key),
			 errdetail("%s", detail),
			 errhint("Options are backoff, backoff_base, backoff_max, backoff_jitter, "
					 "visibility_timeout, job_timeout, keep_completed, keep_failed, unique_for and limit_key.")));
}

/* an interval, as a JSON string ('30 s') or a number of seconds */
static int64
option_usecs(const char *key, JsonbValue *value, bool retention)
{
	int64		usecs = 0;

	if (value->type == jbvString)
	{
		char	   *text = pnstrdup(value->val.string.val, value->val.string.len);
		Interval   *interval = QueueIntervalFromText(key, text);

		usecs = retention ? QueueRetentionUsecs(interval, key) : QueueIntervalUsecs(interval, key);
	}
	else if (value->type == jbvNumeric)
	{
		double		seconds = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
																 NumericGetDatum(value->val.numeric)));

		if (isnan(seconds) || fabs(seconds) > 1e11)
			bad_option(key, "The number of seconds is out of range.");
		usecs = (int64) rint(seconds * 1e6);
	}
	else
		bad_option(key, "It must be an interval in a string, or a number of seconds.");
	if (usecs < 0)
		bad_option(key, "It must not be negative.");
	return usecs;
}

/* overlay what the options say; unknown keys and bad values are errors */
static void
apply_options(Jsonb *jsonb, JobOptions *options)
{
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		if (strcmp(key, "backoff") == 0)
		{
			if (value.type == jbvString && value.val.string.len == 11 &&
				memcmp(value.val.string.val, "exponential", 11) == 0)
				options->exponential = true;
			else if (value.type == jbvString && value.val.string.len == 5 &&
					 memcmp(value.val.string.val, "fixed", 5) == 0)
				options->exponential = false;
			else
				bad_option(key, "It must be \"exponential\" or \"fixed\".");
		}
		else if (strcmp(key, "backoff_jitter") == 0)
		{
			double		jitter = -1;

			if (value.type == jbvNumeric)
				jitter = DatumGetFloat8(DirectFunctionCall1(numeric_float8,
															NumericGetDatum(value.val.numeric)));
			if (!(jitter >= 0 && jitter <= 1))
				bad_option(key, "It must be a number from 0 to 1.");
			options->backoff_jitter = (float4) jitter;
		}
		else if (strcmp(key, "backoff_base") == 0)
			options->backoff_base = option_usecs(key, &value, false);
		else if (strcmp(key, "backoff_max") == 0)
			options->backoff_max = option_usecs(key, &value, false);
		else if (strcmp(key, "keep_completed") == 0)
			options->keep_completed = option_usecs(key, &value, true);
		else if (strcmp(key, "keep_failed") == 0)
			options->keep_failed = option_usecs(key, &value, true);
		else if (strcmp(key, "unique_for") == 0)
			options->unique_for = option_usecs(key, &value, false);
		else if (strcmp(key, "visibility_timeout") == 0 || strcmp(key, "job_timeout") == 0)
		{
			int64		timeout = option_usecs(key, &value, false);

			if (timeout == 0)
				bad_option(key, "It must be longer than nothing.");
			if (strcmp(key, "job_timeout") == 0)
				options->job_timeout = timeout;
			else
				options->visibility_timeout = timeout;
		}
		else
			bad_option(key, "There is no option of that name.");
		pfree(key);
	}
}

int64
QueueJobCheckOptions(Datum options)
{
	Jsonb	   *jsonb = DatumGetJsonbP(options);
	JobOptions	given = {0};

	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errdetail("It is an array, or a single value."),
				 errhint("For example: {\"backoff\": \"fixed\", \"backoff_base\": \"30 s\"}.")));
	apply_options(jsonb, &given);
	return given.unique_for;
}

void
QueueCheckLimitKey(text *key, const char *name)
{
	QueueCheckLabel(key, name);
	if (VARSIZE_ANY_EXHDR(key) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name),
				 errdetail("It has 0 bytes; 1 to %d are allowed.", QUEUE_LABEL_MAX),
				 errhint("Leave it out, or give null in a list, for a job that has none.")));
}

text *
QueueJobTakeLimitKey(Datum *options)
{
	static const char *const name = "limit_key";
	Jsonb	   *jsonb = DatumGetJsonbP(*options);
	JsonbValue	value;
	text	   *key;

	if (!JB_ROOT_IS_OBJECT(jsonb) ||
		getKeyJsonValueFromContainer(&jsonb->root, name, strlen(name), &value) == NULL)
		return NULL;
	if (value.type != jbvString)
		bad_option(name, "It must be a string.");
	key = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	QueueCheckLimitKey(key, name);
	jsonb = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, *options, CStringGetTextDatum(name)));
	*options = JB_ROOT_COUNT(jsonb) > 0 ? JsonbPGetDatum(jsonb) : (Datum) 0;
	return key;
}

void
QueueJobOptions(HeapTuple tuple, TupleDesc desc, const QueueSettings *settings,
				JobOptions *options)
{
	Datum		value;
	bool		null = true;

	options->exponential = settings->exponential;
	options->backoff_jitter = settings->backoff_jitter;
	options->backoff_base = settings->backoff_base;
	options->backoff_max = settings->backoff_max;
	options->visibility_timeout = settings->visibility_timeout;
	options->keep_completed = settings->keep_completed;
	options->keep_failed = settings->keep_failed;
	options->job_timeout = settings->job_timeout;

	if (job_has(tuple, JOB_OPTIONS))
	{
		value = heap_getattr(tuple, JOB_OPTIONS, desc, &null);
		if (!null)
			apply_options(DatumGetJsonbP(value), options);
	}
}

int64
QueueBackoff(const JobOptions *options, int attempt)
{
	int64		delay = options->backoff_base;
	double		jitter = options->backoff_jitter;

	if (options->exponential)
		for (int i = 1; i < attempt && delay < options->backoff_max; i++)
			if (pg_mul_s64_overflow(delay, 2, &delay))
				delay = options->backoff_max;
	delay = Min(delay, options->backoff_max);
	return delay - (int64) (delay * jitter * queue_random_double());
}

/*
 * Blocks of ids from a sequence.  A block that a rolled back transaction began
 * is used on: ids need be unique, not dense.
 */
int64
QueueJobNextId(void)
{
	static Oid	sequence;
	static int64 next,
				end;
	Oid			current = QueueCatalogGet(false)->job_id_block;

	if (next >= end || sequence != current)
	{
		int64		block;

		/* nextval_internal() would call a dropped one an internal error */
		relation_close(QueueOpenTable(current, RowExclusiveLock), NoLock);
		block = nextval_internal(current, false);
		sequence = current;
		next = block * JOB_ID_BLOCK;
		end = next + JOB_ID_BLOCK;
	}
	return next++;
}

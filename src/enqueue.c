/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		Put jobs in: queue.enqueue(), queue.enqueue_batch().
 *
 * A job that is due goes to queue.job_live, any other to queue.job_parked, as
 * part of the caller's transaction.  Its key is noted when that commits.
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
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "internal.h"
#include "store.h"

QUEUE_FUNCTION(queue_enqueue);
QUEUE_FUNCTION(queue_enqueue_batch);

/* the arguments that all jobs of a call share */
enum
{
	ARG_QUEUE_NAME, ARG_PAYLOAD, ARG_PRIORITY, ARG_DELAY, ARG_RUN_AT,
	ARG_MAX_ATTEMPTS, ARG_BATCH_ID, ARG_SOURCE, ARG_HEADERS, ARG_OPTIONS
};

#define MAX_DELAY_DAYS	(INT64CONST(10000) * 366)

typedef struct NewJobs
{
	QueueSettings settings;
	QueueStore	store;
	QueueSlot  *slot;
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS];
} NewJobs;

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
	{
		Interval   *delay = PG_GETARG_INTERVAL_P(ARG_DELAY);
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

/*
 * Check what all jobs of the call share, before anything is changed, and fill
 * in their columns but for id and payload.
 */
static void
begin_jobs(FunctionCallInfo fcinfo, NewJobs *new)
{
	text	   *name = QueueArgText(fcinfo, ARG_QUEUE_NAME, "queue_name");
	TimestampTz now;
	JobHead		head;
	int			priority,
				max_attempts;

	memset(new->nulls, 0, sizeof(new->nulls));
	memset(&head, 0, sizeof(head));

	QueueSettingsLock(name, PRIVILEGE_ENQUEUE, AccessShareLock, &new->settings);

	priority = PG_ARGISNULL(ARG_PRIORITY) ? new->settings.default_priority :
		PG_GETARG_INT32(ARG_PRIORITY);
	if (priority < PG_INT16_MIN || priority > PG_INT16_MAX)
		QueueErrorRange("priority", priority, PG_INT16_MIN, PG_INT16_MAX);
	max_attempts = PG_ARGISNULL(ARG_MAX_ATTEMPTS) ? new->settings.max_attempts :
		PG_GETARG_INT32(ARG_MAX_ATTEMPTS);
	if (max_attempts < 1 || max_attempts > QUEUE_MAX_ATTEMPTS)
		QueueErrorRange("max_attempts", max_attempts, 1, QUEUE_MAX_ATTEMPTS);

	/* the clock, not now(): a long transaction's jobs are not older than it */
	now = GetCurrentTimestamp();
	head.run_at = due_time(fcinfo, now);
	head.priority = (int16) priority;
	head.state = head.run_at > now ? JOB_DELAYED : JOB_WAITING;
	QueueJobSetOrder(&head, &new->settings);

#define V(att)	new->values[(att) - 1]
#define N(att)	new->nulls[(att) - 1]
	V(JOB_ORDER_AT) = TimestampTzGetDatum(head.order_at);
	V(JOB_RUN_AT) = TimestampTzGetDatum(head.run_at);
	V(JOB_ENQUEUED_AT) = TimestampTzGetDatum(now);
	V(JOB_TAKEN_AT) = TimestampTzGetDatum(DT_NOBEGIN);
	V(JOB_LEASE_EXPIRES_AT) = TimestampTzGetDatum(DT_NOBEGIN);
	V(JOB_LEASE_OWNER) = Int64GetDatum(0);
	V(JOB_QUEUE_ID) = Int32GetDatum(new->settings.queue_id);
	V(JOB_ATTEMPT) = Int32GetDatum(0);
	V(JOB_ORDER_CLASS) = Int16GetDatum(head.order_class);
	V(JOB_PRIORITY) = Int16GetDatum(head.priority);
	V(JOB_MAX_ATTEMPTS) = Int16GetDatum((int16) max_attempts);
	V(JOB_STATE) = CharGetDatum(head.state);
	N(JOB_WORKER) = N(JOB_LAST_ERROR) = true;
	V(JOB_WORKER) = V(JOB_LAST_ERROR) = (Datum) 0;

	N(JOB_BATCH_ID) = PG_ARGISNULL(ARG_BATCH_ID);
	if (!N(JOB_BATCH_ID))
	{
		V(JOB_BATCH_ID) = PointerGetDatum(PG_GETARG_TEXT_PP(ARG_BATCH_ID));
		QueueCheckLabel((text *) DatumGetPointer(V(JOB_BATCH_ID)), "batch_id");
	}
	N(JOB_SOURCE) = PG_ARGISNULL(ARG_SOURCE);
	if (!N(JOB_SOURCE))
	{
		V(JOB_SOURCE) = PointerGetDatum(PG_GETARG_TEXT_PP(ARG_SOURCE));
		QueueCheckLabel((text *) DatumGetPointer(V(JOB_SOURCE)), "source");
	}
	N(JOB_HEADERS) = PG_ARGISNULL(ARG_HEADERS);
	if (!N(JOB_HEADERS))
	{
		V(JOB_HEADERS) = PG_GETARG_DATUM(ARG_HEADERS);
		QueueCheckJsonbSize(V(JOB_HEADERS), "headers", 0);
	}
	N(JOB_OPTIONS) = PG_ARGISNULL(ARG_OPTIONS);
	if (!N(JOB_OPTIONS))
	{
		V(JOB_OPTIONS) = PG_GETARG_DATUM(ARG_OPTIONS);
		QueueJobCheckOptions(V(JOB_OPTIONS));
	}
#undef V
#undef N
}

static HeapTuple
form_job(NewJobs *new, Datum payload)
{
	new->values[JOB_JOB_ID - 1] = Int64GetDatum(QueueJobNextId());
	new->values[JOB_PAYLOAD - 1] = payload;
	return heap_form_tuple(RelationGetDescr(new->store.heap), new->values, new->nulls);
}

/* open the table and make sure that a hint is there before the row is */
static void
open_jobs(NewJobs *new)
{
	char		state = DatumGetChar(new->values[JOB_STATE - 1]);

	QueueStoreOpen(&new->store, state == JOB_DELAYED);
	new->slot = QueueXactSlot(new->settings.queue_id);
}

/* rows were inserted, the first of them with the least key */
static void
note_jobs(NewJobs *new, const JobHead *first, int64 count)
{
	QueueXactNoteCommit(QueueStoreHint(&new->store, first, new->slot, true),
						QueueStoreKey(&new->store, first));
	QueueXactCount(new->slot, QueueJobCount((JobState) first->state), count);
}

Datum
queue_enqueue(PG_FUNCTION_ARGS)
{
	NewJobs		new;
	HeapTuple	tuple;
	int64		job_id;

	QueueRequireWritable("queue.enqueue()");
	if (PG_ARGISNULL(ARG_PAYLOAD))
		QueueErrorNull("payload", "An empty payload is '{}' or 'null'::jsonb.");
	begin_jobs(fcinfo, &new);
	QueueCheckJsonbSize(PG_GETARG_DATUM(ARG_PAYLOAD), "payload", 0);

	open_jobs(&new);
	tuple = form_job(&new, PG_GETARG_DATUM(ARG_PAYLOAD));
	job_id = JOB_HEAD(tuple)->job_id;
	note_jobs(&new, JOB_HEAD(tuple), 1);
	QueueStoreInsert(&new.store, &tuple, 1);
	heap_freetuple(tuple);
	QueueStoreClose(&new.store);
	PG_RETURN_INT64(job_id);
}

Datum
queue_enqueue_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	NewJobs		new;
	Datum	   *payloads;
	bool	   *nulls;
	int			count;
	HeapTuple	chunk[1000];
	MemoryContext context,
				old;

	QueueRequireWritable("queue.enqueue_batch()");
	if (PG_ARGISNULL(ARG_PAYLOAD))
		QueueErrorNull("payloads", "Give an array of jsonb, one element per job.");
	begin_jobs(fcinfo, &new);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_PAYLOAD), JSONBOID, -1, false, TYPALIGN_INT,
					  &payloads, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("payload must not be null"),
					 errdetail("Element %d of payloads is null.", i + 1),
					 errhint("An empty payload is '{}' or 'null'::jsonb.")));
		QueueCheckJsonbSize(payloads[i], "payload", i + 1);
	}
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (count == 0)
		return (Datum) 0;

	open_jobs(&new);
	context = AllocSetContextCreate(CurrentMemoryContext, "queue enqueue", ALLOCSET_DEFAULT_SIZES);
	for (int done = 0; done < count;)
	{
		int			n = Min(count - done, (int) lengthof(chunk));

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(context);
		for (int i = 0; i < n; i++)
			chunk[i] = form_job(&new, payloads[done + i]);
		note_jobs(&new, JOB_HEAD(chunk[0]), n);
		QueueStoreInsert(&new.store, chunk, n);
		MemoryContextSwitchTo(old);
		for (int i = 0; i < n; i++)
		{
			Datum		value = Int64GetDatum(JOB_HEAD(chunk[i])->job_id);
			bool		null = false;

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
		}
		MemoryContextReset(context);
		done += n;
	}
	MemoryContextDelete(context);
	QueueStoreClose(&new.store);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * settle.c
 *		The holder's verbs: complete, fail, extend, release.
 *
 * A job is held while its row is active, also after its lease has run out, as
 * long as nobody has taken it over.  Whoever settles it shows the attempt that
 * it was given; a job that has been taken over since bears another one, and
 * the verb answers that it is not held.  Without an attempt there is no fence.
 *
 * Rows are found by ascending id under a fresh snapshot and changed there and
 * then.  If somebody else has changed a row since (extended or taken over the
 * lease, moved the job), it is looked for again under a new snapshot and judged
 * anew.  Waiting for such a transaction to end happens in the order of ids, so
 * that settlers do not deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "compat.h"
#include "event.h"
#include "finish.h"
#include "health.h"
#include "heartbeat.h"
#include "internal.h"
#include "progress.h"
#include "scan.h"
#include "settle.h"

QUEUE_FUNCTION(queue_complete);
QUEUE_FUNCTION(queue_complete_many);
QUEUE_FUNCTION(queue_fail);
QUEUE_FUNCTION(queue_fail_many);
QUEUE_FUNCTION(queue_extend);
QUEUE_FUNCTION(queue_release);

typedef enum Verb
{
	VERB_COMPLETE,
	VERB_FAIL,
	VERB_EXTEND,
	VERB_RELEASE
} Verb;

typedef struct Held
{
	int64		job_id;
	int32		attempt;		/* 0: not fenced */
} Held;

typedef struct Settler
{
	Verb		verb;
	QueueStore	live;
	TupleDesc	desc;
	QueueFinish *finish;
	QueueSettings settings;		/* of the last row's queue */
	QueueSlot  *slot;
	TimestampTz now;
	MemoryContext call;			/* for the whole call */
	int64		settled;
	int64		dead;			/* row versions */

	/* arguments of the verbs */
	uint32		session;		/* that must hold them; 0: whichever */
	const text *worker;			/* whose name they must bear; NULL: whichever */
	const Datum *result;		/* complete */
	const Datum *error;			/* fail */
	bool		retry;
	bool		has_delay;		/* fail: retry_in was given */
	int64		delay;			/* fail, release */
	int64		timeout;		/* extend */

	/* what became of the last one */
	JobState	state;
	TimestampTz expires_at;
} Settler;

static void
settler_begin(Settler *settler, Verb verb)
{
	memset(settler, 0, sizeof(*settler));
	settler->verb = verb;
	/* what was taken in this statement must be seen as taken */
	CommandCounterIncrement();
	QueueStoreOpen(&settler->live, false);
	settler->desc = RelationGetDescr(settler->live.heap);
	settler->call = CurrentMemoryContext;
	settler->now = GetCurrentTimestamp();
	settler->finish = QueueFinishBegin();
}

static void
settler_end(Settler *settler)
{
	QueueStoreClose(&settler->live);
	QueueFinishEnd(settler->finish);
	if (settler->dead > 0)
		QueueXactDead(settler->dead);
}

/*
 * The queue of a row: settings, slot, and may we?  Who has no privilege on it
 * at all does not learn that there is such a job.
 */
static bool
enter_queue(Settler *settler, const JobHead *job)
{
	if (settler->settings.queue_id == job->queue_id)
		return true;
	if (!QueueSettingsById(job->queue_id, &settler->settings))
		elog(ERROR, "job %lld belongs to no queue", (long long) job->job_id);
	if (QueuePrivileges(&settler->settings) == 0)
	{
		settler->settings.queue_id = 0;
		return false;
	}
	QueueRequirePrivilege(&settler->settings, PRIVILEGE_DEQUEUE);
	settler->slot = QueueXactSlot(job->queue_id);
	return true;
}

/* put a job back, with its new version: here if it is due, else parked */
static TM_Result
give_back(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	JobHead    *job;
	TM_Result	result;

	row = QueueProgressKeep(row, settler->desc, before);
	job = JOB_HEAD(row);
	if (job->state == JOB_WAITING)
	{
		/* before the row is there, the hint of its class must be */
		QueueXactNoteCommit(QueueStoreHint(&settler->live, job, settler->slot, true),
							job_order_key(job));
		result = QueueStoreUpdate(&settler->live, tid, before, settler->slot, row, true);
	}
	else
	{
		QueueStore	parked;

		result = QueueStoreDelete(&settler->live, tid, before, settler->slot, true, true);
		if (result == TM_Ok)
		{
			QueueStoreOpen(&parked, true);
			QueueXactNoteCommit(QueueStoreHint(&parked, job, settler->slot, true),
								job_due_key(job));
			QueueStoreInsert(&parked, &row, 1);
			QueueStoreClose(&parked);
			QueueFinishPause(settler->finish, row, settler->slot);
		}
	}
	if (result == TM_Ok)
	{
		QueueXactCount(settler->slot, QueueJobCount(QueueJobState(before)), -1);
		QueueXactCount(settler->slot, QueueJobCount((JobState) job->state), 1);
		QueueProgressEnd(before);
		settler->state = (JobState) job->state;
	}
	return result;
}

static TM_Result
complete_row(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	HeapTuple	copy = row;
	TM_Result	result;

	/* the archive wants the row after it is gone */
	if (settler->settings.keep_completed > 0 || !job_is_plain(row))
		copy = heap_copytuple(row);
	result = QueueStoreDelete(&settler->live, tid, before, settler->slot, true, false);
	if (result == TM_Ok)
	{
		QueueFinishJob(settler->finish, copy, settler->desc, &settler->settings, settler->slot,
					   JOB_COMPLETED, NULL, settler->result, settler->now);
		QueueHeartbeatSettled(row, true, settler->now);
		QueueXactTime(settler->slot, TIME_PROCESSING, settler->now - before->taken_at);
		QueueXactCompleted(settler->slot, before->taken_at);
		QueueHealthCompleted(settler->slot, settler->now);
		settler->state = JOB_COMPLETED;
	}
	return result;
}

static TM_Result
fail_row(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	HeapTuple	copy = QueueJobWithError(row, settler->desc,
										 settler->error ? *settler->error : (Datum) 0);
	TM_Result	result;
	JobOptions	options;
	int64		delay;

	if (!settler->retry || before->attempt >= before->max_attempts)
	{
		result = QueueStoreDelete(&settler->live, tid, before, settler->slot, true, false);
		if (result == TM_Ok)
		{
			QueueFinishLog(settler->finish, copy, settler->desc, &settler->settings, "failed",
						   settler->retry ? "failed for good: attempts are used up" :
						   "failed for good: not to be retried",
						   settler->error, settler->now);
			QueueFinishJob(settler->finish, copy, settler->desc, &settler->settings,
						   settler->slot, JOB_FAILED, NULL, NULL, settler->now);
			QueueHeartbeatSettled(copy, false, settler->now);
			QueueXactTime(settler->slot, TIME_PROCESSING, settler->now - before->taken_at);
			settler->state = JOB_FAILED;
		}
		return result;
	}

	QueueJobOptions(row, settler->desc, &settler->settings, &options);
	delay = settler->has_delay ? settler->delay : QueueBackoff(&options, before->attempt);
	QueueJobReturn(JOB_HEAD(copy), &settler->settings, QueueTimeAfter(settler->now, delay),
				   settler->now);
	result = give_back(settler, copy, tid, before);
	if (result == TM_Ok)
	{
		QueueFinishLog(settler->finish, copy, settler->desc, &settler->settings, "retried",
					   psprintf("runs again at %s", timestamptz_to_str(JOB_HEAD(copy)->run_at)),
					   settler->error, settler->now);
		if (settler->settings.notify)
			QueueEventRecord(settler->slot, EVENT_RETRIED, before->job_id, settler->state, 1);
		QueueHeartbeatSettled(copy, false, settler->now);
		QueueXactTotal(settler->slot, TOTAL_RETRIED, 1);
		QueueXactTime(settler->slot, TIME_PROCESSING, settler->now - before->taken_at);
	}
	return result;
}

static TM_Result
extend_row(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	HeapTuple	copy = heap_copytuple(row);

	/* the lease of an executor does not run out */
	if (job_is_reserved(before))
		settler->expires_at = before->lease_expires_at;
	JOB_HEAD(copy)->lease_expires_at = settler->expires_at;
	QueueXactNoteLeases(QueueStoreHint(&settler->live, before, settler->slot, true),
						job_lease(JOB_HEAD(copy)));
	return QueueStoreUpdate(&settler->live, tid, before, settler->slot, copy, true);
}

static TM_Result
release_row(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	HeapTuple	copy = heap_copytuple(row);
	HeapTuple	old = settler->settings.log_all ? heap_copytuple(row) : NULL;
	TM_Result	result;

	JOB_HEAD(copy)->attempt--;
	QueueJobReturn(JOB_HEAD(copy), &settler->settings,
				   QueueTimeAfter(settler->now, settler->delay), settler->now);
	result = give_back(settler, copy, tid, before);
	if (result == TM_Ok && old)
		QueueFinishNote(settler->finish, old, settler->desc, &settler->settings, "released",
						psprintf("runs again at %s", timestamptz_to_str(JOB_HEAD(copy)->run_at)),
						settler->now);
	return result;
}

static TM_Result
settle_row(Settler *settler, HeapTuple row, ItemPointer tid, const JobHead *before)
{
	switch (settler->verb)
	{
		case VERB_COMPLETE:
			return complete_row(settler, row, tid, before);
		case VERB_FAIL:
			return fail_row(settler, row, tid, before);
		case VERB_EXTEND:
			return extend_row(settler, row, tid, before);
		case VERB_RELEASE:
			return release_row(settler, row, tid, before);
	}
	return TM_Invisible;		/* keep compiler quiet */
}

/* settle what is held of count jobs, in ascending order of their ids */
static void
settle_held(Settler *settler, Held *held, int count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue settle",
												  ALLOCSET_DEFAULT_SIZES);

	while (count > 0)
	{
		Snapshot	snapshot = QueueFreshSnapshot();
		QueueWalk	walk;
		int			again = 0;

		QueueWalkBegin(&walk, &settler->live, snapshot);
		for (int i = 0; i < count; i++)
		{
			ItemPointerData tid;
			HeapTuple	row = QueueWalkTo(&walk, held[i].job_id, &tid);
			JobHead		before;
			MemoryContext old;
			TM_Result	result;

			if (row == NULL)
				continue;
			before = *JOB_HEAD(row);
			if (!job_is_active(&before) ||
				(held[i].attempt != 0 && held[i].attempt != before.attempt) ||
				(settler->session != 0 && settler->session != job_session(&before)) ||
				(settler->worker && !QueueJobIsOf(row, settler->worker)))
				continue;
			if (!enter_queue(settler, &before))
				continue;

			old = MemoryContextSwitchTo(context);
			result = settle_row(settler, row, &tid, &before);
			MemoryContextSwitchTo(old);
			MemoryContextReset(context);
			if (result == TM_Ok)
			{
				settler->settled++;
				settler->dead++;
			}
			else
				held[again++] = held[i];	/* look again */
		}
		QueueWalkEnd(&walk);
		QueueReleaseSnapshot(snapshot);
		if (again > 0)
		{
			CHECK_FOR_INTERRUPTS();
			CommandCounterIncrement();
			/* we have waited: the settings may have changed, too */
			AcceptInvalidationMessages();
			settler->settings.queue_id = 0;
		}
		count = again;
	}
	MemoryContextDelete(context);
}

static int
compare_held(const void *a, const void *b)
{
	int64		x = ((const Held *) a)->job_id;
	int64		y = ((const Held *) b)->job_id;

	if (x != y)
		return x < y ? -1 : 1;
	return ((const Held *) a)->attempt - ((const Held *) b)->attempt;
}

/* job_ids and attempts as an ascending array without doubles */
static Held *
held_array(ArrayType *job_ids, ArrayType *attempts, int *count)
{
	Datum	   *ids,
			   *numbers = NULL;
	bool	   *id_nulls,
			   *number_nulls = NULL;
	int			n,
				m,
				kept = 0;
	Held	   *held;

	deconstruct_array(job_ids, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, &id_nulls, &n);
	if (attempts)
	{
		deconstruct_array(attempts, INT4OID, 4, true, TYPALIGN_INT, &numbers, &number_nulls, &m);
		if (n != m)
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("attempts must have as many elements as job_ids"),
					 errdetail("They have %d and %d.", m, n),
					 errhint("Give the attempt of each job, in the order of job_ids.")));
	}
	held = palloc(Max(n, 1) * sizeof(Held));
	for (int i = 0; i < n; i++)
	{
		if (id_nulls[i])
			continue;			/* no job: not held */
		held[kept].job_id = DatumGetInt64(ids[i]);
		held[kept].attempt = 0;
		if (attempts && !number_nulls[i])
		{
			/* no attempt has the number 0: whoever shows it holds nothing */
			if (DatumGetInt32(numbers[i]) <= 0)
				continue;
			held[kept].attempt = DatumGetInt32(numbers[i]);
		}
		kept++;
	}
	qsort(held, kept, sizeof(Held), compare_held);
	n = kept;
	kept = 0;
	for (int i = 0; i < n; i++)
		if (kept == 0 || compare_held(&held[kept - 1], &held[i]) != 0)
			held[kept++] = held[i];
	*count = kept;
	return held;
}

int64
QueueCompleteMany(ArrayType *job_ids, ArrayType *attempts)
{
	Settler		settler;
	int			count;
	Held	   *held = held_array(job_ids, attempts, &count);

	if (count == 0)
		return 0;
	settler_begin(&settler, VERB_COMPLETE);
	settle_held(&settler, held, count);
	settler_end(&settler);
	return settler.settled;
}

/* an error text, cut where it is too long to be kept in the row */
static Datum
cut_error(text *error)
{
	int			length = VARSIZE_ANY_EXHDR(error);

	if (length > QUEUE_ERROR_MAX)
		length = pg_mbcliplen(VARDATA_ANY(error), length, QUEUE_ERROR_MAX);
	return PointerGetDatum(cstring_to_text_with_len(VARDATA_ANY(error), length));
}

HeapTuple
QueueHeldJob(int64 job_id, int32 attempt, uint32 session)
{
	QueueStore	live;
	Snapshot	snapshot;
	QueueWalk	walk;
	ItemPointerData tid;
	HeapTuple	row;

	CommandCounterIncrement();
	QueueStoreOpen(&live, false);
	snapshot = QueueFreshSnapshot();
	QueueWalkBegin(&walk, &live, snapshot);
	row = QueueWalkTo(&walk, job_id, &tid);
	if (row && job_is_active(JOB_HEAD(row)) && JOB_HEAD(row)->attempt == attempt &&
		(session == 0 || session == job_session(JOB_HEAD(row))))
		row = heap_copytuple(row);
	else
		row = NULL;
	QueueWalkEnd(&walk);
	QueueReleaseSnapshot(snapshot);
	QueueStoreClose(&live);
	return row;
}

bool
QueueHeldComplete(int64 job_id, int32 attempt, uint32 session, const Datum *result)
{
	Settler		settler;
	Held		held = {job_id, attempt};

	settler_begin(&settler, VERB_COMPLETE);
	settler.session = session;
	settler.result = result;
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	return settler.settled == 1;
}

bool
QueueHeldFail(int64 job_id, int32 attempt, uint32 session, text *error, bool retry,
			  JobState *state)
{
	Settler		settler;
	Held		held = {job_id, attempt};
	Datum		cut = cut_error(error);

	settler_begin(&settler, VERB_FAIL);
	settler.session = session;
	settler.error = &cut;
	settler.retry = retry;
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	*state = settler.state;
	return settler.settled == 1;
}

bool
QueueHeldRelease(int64 job_id, int32 attempt, uint32 session)
{
	Settler		settler;
	Held		held = {job_id, attempt};

	settler_begin(&settler, VERB_RELEASE);
	settler.session = session;
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	return settler.settled == 1;
}

int64
QueueReleaseOf(const text *worker, const int64 *job_ids, int count)
{
	Settler		settler;
	Held	   *held;

	if (count == 0)
		return 0;
	held = palloc_extended(count * sizeof(Held), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
		held[i] = (Held) {job_ids[i], 0};
	qsort(held, count, sizeof(Held), compare_held);
	settler_begin(&settler, VERB_RELEASE);
	settler.worker = worker;
	settle_held(&settler, held, count);
	settler_end(&settler);
	return settler.settled;
}

/* one job by its first argument, with the attempt at another; false: no job */
static bool
one_held(FunctionCallInfo fcinfo, int attempt_arg, Held *held)
{
	if (PG_ARGISNULL(0))
		QueueErrorNull("job_id", "Give the number that queue.enqueue() returned.");
	held->job_id = PG_GETARG_INT64(0);
	held->attempt = 0;
	if (!PG_ARGISNULL(attempt_arg))
	{
		held->attempt = PG_GETARG_INT32(attempt_arg);
		return held->attempt > 0;
	}
	return true;
}

Datum
queue_complete(PG_FUNCTION_ARGS)
{
	Settler		settler;
	Held		held;
	Datum		result;

	QueueRequireWritable("queue.complete()");
	if (!PG_ARGISNULL(1))
		QueueCheckJsonbSize(PG_GETARG_DATUM(1), "result", 0);
	if (!one_held(fcinfo, 2, &held))
		PG_RETURN_BOOL(false);
	settler_begin(&settler, VERB_COMPLETE);
	if (!PG_ARGISNULL(1))
	{
		result = PG_GETARG_DATUM(1);
		settler.result = &result;
	}
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	PG_RETURN_BOOL(settler.settled == 1);
}

Datum
queue_complete_many(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.complete_many()");
	if (PG_ARGISNULL(0))
		PG_RETURN_INT64(0);
	PG_RETURN_INT64(QueueCompleteMany(PG_GETARG_ARRAYTYPE_P(0),
									  PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1)));
}

Datum
queue_fail(PG_FUNCTION_ARGS)
{
	Settler		settler;
	Held		held;
	Datum		error;
	int64		delay = 0;

	QueueRequireWritable("queue.fail()");
	if (PG_ARGISNULL(2))
		QueueErrorNull("retry", "Give true or false.");
	if (!PG_ARGISNULL(3))
		delay = QueueArgDuration(PG_GETARG_DATUM(3), "retry_in", true);
	if (!one_held(fcinfo, 4, &held))
		PG_RETURN_NULL();
	settler_begin(&settler, VERB_FAIL);
	if (!PG_ARGISNULL(1))
	{
		error = cut_error(PG_GETARG_TEXT_PP(1));
		settler.error = &error;
	}
	settler.retry = PG_GETARG_BOOL(2);
	settler.has_delay = !PG_ARGISNULL(3);
	settler.delay = delay;
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	if (settler.settled == 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(QueueStateName(settler.state)));
}

Datum
queue_fail_many(PG_FUNCTION_ARGS)
{
	Settler		settler;
	Held	   *held;
	int			count;
	Datum		error;

	QueueRequireWritable("queue.fail_many()");
	if (PG_ARGISNULL(0))
		PG_RETURN_INT64(0);
	held = held_array(PG_GETARG_ARRAYTYPE_P(0), PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
					  &count);
	settler_begin(&settler, VERB_FAIL);
	if (!PG_ARGISNULL(1))
	{
		error = cut_error(PG_GETARG_TEXT_PP(1));
		settler.error = &error;
	}
	settler.retry = true;
	settle_held(&settler, held, count);
	settler_end(&settler);
	PG_RETURN_INT64(settler.settled);
}

bool
QueueExtend(int64 job_id, int32 attempt, int64 timeout, TimestampTz *expires_at)
{
	Settler		settler;
	Held		held = {job_id, attempt};

	settler_begin(&settler, VERB_EXTEND);
	settler.expires_at = QueueTimeAfter(settler.now, timeout);
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	if (expires_at)
		*expires_at = settler.expires_at;
	return settler.settled == 1;
}

Datum
queue_extend(PG_FUNCTION_ARGS)
{
	Held		held;
	TimestampTz expires_at;
	int64		timeout;

	QueueRequireWritable("queue.extend()");
	if (PG_ARGISNULL(1))
		QueueErrorNull("visibility_timeout", "Give an interval such as '30 s'.");
	timeout = QueueArgDuration(PG_GETARG_DATUM(1), "visibility_timeout", false);
	if (!one_held(fcinfo, 2, &held))
		PG_RETURN_NULL();
	if (!QueueExtend(held.job_id, held.attempt, timeout, &expires_at))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(expires_at);
}

Datum
queue_release(PG_FUNCTION_ARGS)
{
	Settler		settler;
	Held		held;
	int64		delay = 0;

	QueueRequireWritable("queue.release()");
	if (!PG_ARGISNULL(1))
		delay = QueueArgDuration(PG_GETARG_DATUM(1), "delay", true);
	if (!one_held(fcinfo, 2, &held))
		PG_RETURN_BOOL(false);
	settler_begin(&settler, VERB_RELEASE);
	settler.delay = delay;
	settle_held(&settler, &held, 1);
	settler_end(&settler);
	PG_RETURN_BOOL(settler.settled == 1);
}

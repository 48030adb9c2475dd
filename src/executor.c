/*-------------------------------------------------------------------------
 *
 * executor.c
 *		An executor: a worker that runs the handlers of queues.
 *
 * It chooses a queue of its owner that may have jobs, in turn, so that a queue
 * with a million of them does not keep one with three waiting; claims a few in
 * a transaction of their own, which is flushed; and runs them one by one, each in
 * one transaction that holds what the handler does and the completion of the
 * job.  So the effects of a job are there exactly once, whatever happens.  How
 * many it claims follows from how long jobs of the queue have taken: enough for
 * some milliseconds.
 *
 * Leases of an executor have no end but that of the process.  What becomes of
 * them then is told in pool.c and mark.c.
 *
 * The handler is a stranger in the house of a superuser.  The executor becomes
 * the owner of the queues that it serves when it starts, and the handler runs with
 * SECURITY_LOCAL_USERID_CHANGE, so it cannot become anybody else.  What
 * it leaves for later runs as the owner, too: deferred triggers, ON COMMIT actions
 * and cursors WITH HOLD are carried out by the commit, and the owner's identity is
 * kept until that is over.  What outlives the transaction is cleared away before
 * the next job: settings, temporary tables, prepared statements, cursors, advisory
 * locks, listening, sequences, the series of random numbers.  What cannot be
 * cleared away (connections of dblink, variables of a procedural language) is met
 * by jobs of the same owner only, as an executor serves no other.
 *
 * An error of the handler undoes all that it did; the attempt is failed in a
 * transaction of its own.  A job that runs for longer than its timeout is
 * cancelled; one that goes on for five seconds more is ended with its executor.
 * A handler that reaches no point where interrupts are served cannot be ended
 * without a crash of the server: it is left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/tuplestore.h"

#include "calls.h"
#include "clock.h"
#include "compat.h"
#include "dequeue.h"
#include "function.h"
#include "internal.h"
#include "mark.h"
#include "pool.h"
#include "session.h"
#include "settle.h"
#include "worker.h"
#include "xact.h"

PGDLLEXPORT void queue_executor_main(Datum main_arg);

QUEUE_FUNCTION(queue_process_next);

#define CLAIM_USECS		10000	/* work for so long is claimed at once */
#define TURN_MS			50		/* then it is another queue's turn */
#define LIMIT_USECS		1000000 /* a limited queue is looked at so often */
#define KILL_AFTER_MS	5000	/* from the cancel of a job to the end of its executor */

/* what this executor knows of a queue that it serves */
typedef struct Served
{
	int			slot;			/* index of its QueueSlot */
	double		mean_usecs;		/* of a job; 0: not known */
	TimestampTz not_before;		/* a limit forbids to take more until then */

	/* its handler, as long as nothing has changed */
	int32		queue_id;
	uint64		generation;		/* of the settings */
	uint64		checked;		/* of what the check of the function looked at */
	QueueFunction function;
	MemoryContext context;		/* NULL: not looked up */
} Served;

static QueueExecutor *me;
static int	my_number;
static Installation *installation;

static Served *served;
static int	num_served;
static uint32 served_generation;
static int	turn;				/* index of the one served last */

/* the queue that is being served, for the end of the process */
static QueueSlot *serving;
static bool idle;

/* counts invalidations of functions, schemas, roles */
static uint64 checked_generation = 1;

static TimeoutId cancel_timeout;
static TimeoutId kill_timeout;
static volatile sig_atomic_t timed_out;

static MemoryContext job_context;

/* ---------------------------------------------------------------------
 * Process
 * --------------------------------------------------------------------- */

/* runs after the transaction has been rolled back, however the process ends */
static void
detach(int code, Datum arg)
{
	if (idle)
		pg_atomic_fetch_sub_u32(&installation->idle, 1);
	idle = false;
	SpinLockAcquire(&me->mutex);
	me->died = code != 0;
	me->state = EXECUTOR_ENDED;
	SpinLockRelease(&me->mutex);
	if (serving)
	{
		pg_atomic_fetch_sub_u32(&serving->running, 1);
		QueuePoolWake(serving, 1);
		QueueSlotUnpin(serving);
		serving = NULL;
	}
	if (installation->maintenance)
		SetLatch(installation->maintenance);
}

static bool
attach(int number)
{
	const QueueCatalog *cat;
	uint32		session;
	bool		attached;

	if (number < 0 || number >= queue_num_executors)
		return false;
	me = &QueueExecutors[number];
	my_number = number;
	QueueWorkerConnect(me->database_id, false);
	QueueWorkerBegin("looking for the extension");
	cat = QueueCatalogGet(true);
	installation = cat ? QueueInstallation(cat->live) : NULL;
	QueueWorkerCommit();
	if (installation == NULL || installation->live_id != me->live_id)
		return false;

	/* before detach is registered: the slot says that we have ended before the session does */
	session = QueueSessionNumber();
	SpinLockAcquire(&me->mutex);
	attached = me->state == EXECUTOR_STARTING && me->database_id == MyDatabaseId;
	if (attached)
	{
		me->state = EXECUTOR_BUSY;
		me->session = session;
		me->pid = MyProcPid;
		me->process = QueueMyBackend() ? QueueMyBackend() - QueueBackends : -1;
	}
	SpinLockRelease(&me->mutex);
	if (!attached)
		return false;
	on_shmem_exit(detach, (Datum) 0);
	return true;
}

/* from here on we are the owner, for good; false: there is no such role */
static bool
become_owner(void)
{
	bool		exists;
	bool		super;

	QueueWorkerBegin("becoming the owner of the queues");
	exists = SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(me->owner));
	super = superuser_arg(me->owner);
	QueueWorkerCommit();
	if (exists)
		SetSessionAuthorization(me->owner, super);
	return exists;
}

static void
note_change(Datum arg, int cacheid, uint32 hashvalue)
{
	checked_generation++;
}

/* pg_cancel_backend(), or queue.cancel() of one job, which may be over by now */
static void
handle_interrupt(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (me->job_id != 0 &&
		(me->interrupt_job_id == 0 || me->interrupt_job_id == me->job_id))
	{
		QueryCancelPending = true;
		InterruptPending = true;
		SetLatch(MyLatch);
	}
	me->interrupt_job_id = 0;
	errno = save_errno;
}

static void
cancel_job(void)
{
	timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
end_process(void)
{
	me->timed_out = true;
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* ---------------------------------------------------------------------
 * The queues to serve
 * --------------------------------------------------------------------- */

/* the slots of our owner's queues; what is known of them is kept */
static void
list_served(void)
{
	uint32		generation = pg_atomic_read_u32(&installation->served_generation);
	Served	   *old = served;
	int			num_old = num_served;
	int			count = 0;

	if (served && generation == served_generation)
		return;
	served_generation = generation;
	pg_memory_barrier();
	for (int i = 0; i < queue_max_queues; i++)
		count += QueueSlots[i].installation == installation - Installations &&
			QueueSlots[i].served == me->owner;
	served = MemoryContextAllocZero(TopMemoryContext, sizeof(Served) * (count + 1));
	num_served = 0;
	for (int i = 0; i < queue_max_queues && num_served < count; i++)
	{
		if (QueueSlots[i].installation != installation - Installations ||
			QueueSlots[i].served != me->owner)
			continue;
		for (int j = 0; j < num_old; j++)
			if (old[j].slot == i)
			{
				served[num_served].mean_usecs = old[j].mean_usecs;
				served[num_served].not_before = old[j].not_before;
			}
		served[num_served++].slot = i;
	}
	/* what a function has remembered must stay where it is, so it is looked up anew */
	for (int j = 0; j < num_old; j++)
		if (old[j].context)
			MemoryContextDelete(old[j].context);
	if (old)
		pfree(old);
}

/* does a limit forbid to take more?  Not for longer, should the clock have been set back. */
static bool
is_put_off(const Served *queue, TimestampTz now)
{
	return queue->not_before > now && queue->not_before <= now + LIMIT_USECS;
}

/* may a job of it be there for us? */
static bool
is_ready(const Served *queue, TimestampTz now)
{
	QueueSlot  *slot = &QueueSlots[queue->slot];

	return slot->installation == installation - Installations && slot->served == me->owner &&
		pg_atomic_read_u32(&slot->ready) != 0 && !is_put_off(queue, now) &&
		pg_atomic_read_u32(&slot->running) < slot->concurrency;
}

/* the next queue to serve, with a place in it; NULL: none */
static Served *
choose_queue(void)
{
	TimestampTz now = GetCurrentTimestamp();

	list_served();
	for (int i = 1; i <= num_served; i++)
	{
		Served	   *queue = &served[(turn + i) % num_served];
		QueueSlot  *slot;

		if (!is_ready(queue, now))
			continue;
		slot = QueueSlotPin(me->live_id, QueueSlots[queue->slot].queue_id);
		if (slot == NULL)
			continue;
		serving = slot;
		if (slot == &QueueSlots[queue->slot] &&
			pg_atomic_fetch_add_u32(&slot->running, 1) < slot->concurrency)
		{
			turn = queue - served;
			return queue;
		}
		if (slot == &QueueSlots[queue->slot])
			pg_atomic_fetch_sub_u32(&slot->running, 1);
		serving = NULL;
		QueueSlotUnpin(slot);
	}
	return NULL;
}

/* ---------------------------------------------------------------------
 * One job
 * --------------------------------------------------------------------- */

/* the handler of a queue, looked up and checked if anything has changed since */
static QueueFunction *
handler_of(Served *queue, const QueueSettings *settings)
{
	MemoryContext old;

	if (queue->context && queue->queue_id == settings->queue_id &&
		queue->generation == QueueCatalogGeneration() && queue->checked == checked_generation)
		return &queue->function;
	if (queue->context)
		MemoryContextDelete(queue->context);
	queue->context = AllocSetContextCreate(TopMemoryContext, "queue handler",
										   ALLOCSET_SMALL_SIZES);
	/* an error leaves what is not to be used */
	queue->queue_id = 0;
	old = MemoryContextSwitchTo(queue->context);
	QueueFunctionOpen(&queue->function, FUNCTION_HANDLER, settings);
	MemoryContextSwitchTo(old);
	queue->function.own_session = true;
	queue->queue_id = settings->queue_id;
	queue->generation = QueueCatalogGeneration();
	queue->checked = checked_generation;
	return &queue->function;
}

static void
error_not_held(int64 job_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("job %lld is not held any more", (long long) job_id),
			 errdetail("It was cancelled, or somebody else has settled it, while its handler ran."),
			 errhint("What the handler did is undone.")));
}

static void
error_timeout(int64 timeout)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("job timeout"),
			 errdetail("The handler ran for longer than %s.",
					   DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(
						   &((Interval) {.time = timeout}))))),
			 errhint("Raise the job_timeout of the queue or of the job, or let the job do less.")));
}

/*
 * Commit as the owner, as the handler's deferred triggers run now.  An error
 * brings the old identity back with the abort.
 */
static void
commit_as_owner(const QueueFunction *function)
{
	Oid			save_user;
	int			save_context;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(function->owner, save_context | SECURITY_LOCAL_USERID_CHANGE);
	/* what it sees as it does in the handler */
	(void) set_config_option("search_path", function->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	CommitTransactionCommand();
	SetUserIdAndSecContext(save_user, save_context);
}

/* the handler and the completion; false: there is no such job any more */
static bool
run_handler(Served *queue, const ExecutorClaim *claim, QueueSettings *settings)
{
	HeapTuple	row;
	JobOptions	options;
	QueueFunction *function;
	Relation	live;
	Datum		result;
	bool		null;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(job_context);
	row = QueueHeldJob(claim->job_id, claim->attempt, me->session);
	if (row && QueueSettingsById(JOB_HEAD(row)->queue_id, settings) &&
		(!settings->has_handler || settings->owner != me->owner))
	{
		/* no longer ours to run */
		(void) QueueHeldRelease(claim->job_id, claim->attempt, me->session);
		row = NULL;
	}
	if (row == NULL || settings->queue_id == 0)
	{
		PopActiveSnapshot();
		CommitTransactionCommand();
		return false;
	}
	live = QueueOpenTable(me->live_id, AccessShareLock);
	function = handler_of(queue, settings);
	QueueJobOptions(row, RelationGetDescr(live), settings, &options);
	if (options.job_timeout > 0)
	{
		int			timeout_ms = (int) Min((options.job_timeout + 999) / 1000,
										   INT_MAX - KILL_AFTER_MS);

		enable_timeout_after(cancel_timeout, timeout_ms);
		enable_timeout_after(kill_timeout, timeout_ms + KILL_AFTER_MS);
	}
	pgstat_report_activity(STATE_RUNNING, function->name);
	result = QueueFunctionRun(function, row, RelationGetDescr(live), &null);
	if (timed_out)
		error_timeout(options.job_timeout);
	if (!QueueHeldComplete(claim->job_id, claim->attempt, me->session, null ? NULL : &result))
		error_not_held(claim->job_id);
	table_close(live, NoLock);
	Async_UnlistenAll();
	PopActiveSnapshot();
	commit_as_owner(function);
	return true;
}

/* what the handler has raised, as it is kept; in the job's memory */
static text *
catch_error(bool *final, const QueueSettings *settings)
{
	ErrorData  *error;
	text	   *result;

	MemoryContextSwitchTo(job_context);
	error = CopyErrorData();
	FlushErrorState();
	/* whatever the cancel looked like */
	if (timed_out)
	{
		error->message = "job timeout";
		error->sqlerrcode = ERRCODE_QUERY_CANCELED;
	}
	AbortCurrentTransaction();
	MemoryContextSwitchTo(job_context);
	result = QueueErrorText(error);
	*final = error->sqlerrcode != 0 && settings->queue_id != 0;
	if (*final)
	{
		QueueWorkerBegin("looking whether to retry");
		*final = QueueErrorIsFinal(settings, error->sqlerrcode);
		QueueWorkerCommit();
		MemoryContextSwitchTo(job_context);
	}
	return result;
}

static void
stop_timeouts(void)
{
	disable_timeout(cancel_timeout, false);
	disable_timeout(kill_timeout, false);
	/* one that came too late would hit the next job */
	QueryCancelPending = false;
	timed_out = false;
}

/* what a handler may have left in the session, but for what its owner alone will meet */
static void
clean_session(void)
{
	Oid			temp_namespace,
				temp_toast;

	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
	ResetAllOptions();
	/* the series that setseed() has begun would go on; there is no way to see whether it has */
	(void) DirectFunctionCall1(setseed, Float8GetDatum(queue_random_double()));
	GetTempNamespaceState(&temp_namespace, &temp_toast);
	if (OidIsValid(temp_namespace))
	{
		QueueWorkerBegin("removing temporary tables");
		ResetTempTableNamespace();
		QueueWorkerCommit();
	}
}

/* run one job that is claimed; returns the time it took */
static int64
run_job(Served *queue, const ExecutorClaim *claim)
{
	TimestampTz began = GetCurrentTimestamp();
	QueueSettings settings = {0};
	text	   *volatile error = NULL;
	volatile bool there = true;
	bool		final = false;
	int64		took;

	MemoryContextSwitchTo(job_context);
	QueueMarkSet(my_number, claim->job_id, claim->attempt);
	me->job_started_at = began;
	timed_out = false;
	QueryCancelPending = false;
	PG_TRY();
	{
		there = run_handler(queue, claim, &settings);
		stop_timeouts();
	}
	PG_CATCH();
	{
		disable_timeout(cancel_timeout, false);
		disable_timeout(kill_timeout, false);
		error = catch_error(&final, &settings);
		stop_timeouts();
	}
	PG_END_TRY();
	if (error)
	{
		JobState	state;

		QueueWorkerBegin("failing an attempt");
		/* not if somebody has cancelled it */
		there = QueueHeldFail(claim->job_id, claim->attempt, me->session, error, !final, &state);
		QueueWorkerCommit();
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(job_context);
	took = Max(GetCurrentTimestamp() - began, 1);
	SpinLockAcquire(&me->mutex);
	me->job_id = 0;
	if (there && error == NULL)
		me->done++;
	else if (there)
		me->failed++;
	me->busy_usecs += took;
	SpinLockRelease(&me->mutex);
	clean_session();
	pgstat_report_stat(false);
	return took;
}

/* ---------------------------------------------------------------------
 * A queue's turn
 * --------------------------------------------------------------------- */

/* how many jobs to claim: enough for some milliseconds, if they are short */
static int
claim_size(const Served *queue, const QueueSettings *settings)
{
	/* places and tokens must not be kept by what has not begun */
	if (settings->max_active >= 0 || settings->rate_limit >= 0)
		return 1;
	if (queue->mean_usecs == 0)
		return 1;
	return Max(1, (int) Min(CLAIM_USECS / queue->mean_usecs, EXECUTOR_CLAIMS));
}

/* claim jobs; returns how many, and whether there may be more */
static int
claim(Served *queue, bool *more)
{
	QueueSettings settings;
	ExecutorClaim claims[EXECUTOR_CLAIMS];
	TimestampTz retry_at = PG_INT64_MAX;
	int			want;
	int			got = 0;

	*more = false;
	pg_atomic_write_u32(&serving->ready, 0);
	pg_memory_barrier();
	QueueWorkerBegin("claiming jobs");
	/* losing it would lose whose attempt a crash was */
	(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	MemoryContextSwitchTo(job_context);
	if (QueueSettingsById(serving->queue_id, &settings) && settings.has_handler &&
		settings.processing && !settings.paused && settings.owner == me->owner)
	{
		want = claim_size(queue, &settings);
		got = QueueTakeForExecutor(&settings, want, claims, &retry_at);
		*more = got == want;
	}
	QueueWorkerCommit();
	/* a limit of time: come again, now and then in case it is lifted */
	if (retry_at != PG_INT64_MAX)
	{
		queue->not_before = Min(retry_at, GetCurrentTimestamp() + LIMIT_USECS);
		pg_atomic_write_u32(&serving->ready, 1);
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(job_context);

	SpinLockAcquire(&me->mutex);
	me->queue_id = serving->queue_id;
	memcpy(me->claims, claims, got * sizeof(ExecutorClaim));
	me->next_claim = 0;
	me->num_claims = got;
	SpinLockRelease(&me->mutex);
	return got;
}

/* the next claim to start; false: none, or they are being taken back */
static bool
next_claim(ExecutorClaim *claim)
{
	bool		there;

	SpinLockAcquire(&me->mutex);
	there = !me->revoked && me->next_claim < me->num_claims;
	if (there)
	{
		*claim = me->claims[me->next_claim++];
		/* from here on a death of ours is its fault; the mark follows */
		me->job_id = claim->job_id;
		me->attempt = claim->attempt;
		me->job_started_at = GetCurrentTimestamp();
	}
	SpinLockRelease(&me->mutex);
	return there;
}

/* somebody is giving back what we have not started: wait for the end of it */
static void
wait_until_taken_back(void)
{
	for (;;)
	{
		bool		revoked;

		SpinLockAcquire(&me->mutex);
		revoked = me->revoked;
		SpinLockRelease(&me->mutex);
		if (!revoked)
			return;
		QueueWorkerWait(100);
	}
}

static void
serve(Served *queue)
{
	TimestampTz began = GetCurrentTimestamp();
	bool		more;

	do
	{
		ExecutorClaim claimed;
		int			got = claim(queue, &more);

		/* is there one for others, too? */
		if (more)
			QueuePoolWake(serving, 1);
		while (got > 0 && next_claim(&claimed))
		{
			int64		took = run_job(queue, &claimed);

			queue->mean_usecs = queue->mean_usecs == 0 ? took :
				queue->mean_usecs * 0.8 + took * 0.2;
			CHECK_FOR_INTERRUPTS();
		}
		wait_until_taken_back();
	} while (more && !me->leave && !QueueHasPassed(began, TURN_MS, GetCurrentTimestamp()));

	pg_atomic_fetch_sub_u32(&serving->running, 1);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&serving->ready) != 0)
		QueuePoolWake(serving, 1);
	QueueSlotUnpin(serving);
	serving = NULL;
}

/* ---------------------------------------------------------------------
 * Idle
 * --------------------------------------------------------------------- */

/* are there enough others to keep what the queues of our owner want at least? */
static bool
is_spare(void)
{
	int			least = 0;
	int			there = 0;

	for (int i = 0; i < num_served; i++)
		least += QueueSlots[served[i].slot].min_workers;
	for (int i = 0; i < queue_num_executors; i++)
		there += QueueExecutors[i].live_id == me->live_id &&
			QueueExecutors[i].database_id == me->database_id &&
			QueueExecutors[i].owner == me->owner && !QueueExecutors[i].leave &&
			(QueueExecutors[i].state == EXECUTOR_IDLE || QueueExecutors[i].state == EXECUTOR_BUSY);
	return there > least;
}

/* until there may be a job; false: leave */
static bool
wait_for_job(void)
{
	TimestampTz since = GetCurrentTimestamp();
	bool		stay = true;

	SpinLockAcquire(&me->mutex);
	me->woken = false;
	me->queue_id = 0;
	me->state = EXECUTOR_IDLE;
	SpinLockRelease(&me->mutex);
	idle = true;
	pg_atomic_fetch_add_u32(&installation->idle, 1);
	pg_memory_barrier();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until;
		bool		ready = me->woken;

		since = Min(since, now);	/* the clock may have been set back */
		until = since + (TimestampTz) queue_executor_idle_timeout * 1000;

		list_served();
		for (int i = 0; i < num_served && !ready; i++)
		{
			ready = is_ready(&served[i], now);
			if (is_put_off(&served[i], now) &&
				pg_atomic_read_u32(&QueueSlots[served[i].slot].ready) != 0)
				until = Min(until, served[i].not_before);
		}
		if (ready)
			break;
		stay = !me->leave && installation->live_id == me->live_id &&
			(num_served > 0 || now - since < 1000000);
		if (stay && now - since >= (TimestampTz) queue_executor_idle_timeout * 1000)
		{
			stay = !is_spare();
			until = now + (TimestampTz) queue_executor_idle_timeout * 1000;
		}
		if (!stay)
			break;
		QueryCancelPending = false;
		QueueWorkerWait(Max(1, (until - now) / 1000 + 1));
	}
	idle = false;
	pg_atomic_fetch_sub_u32(&installation->idle, 1);
	SpinLockAcquire(&me->mutex);
	me->state = EXECUTOR_BUSY;
	me->woken = false;
	SpinLockRelease(&me->mutex);
	return stay;
}

void
queue_executor_main(Datum main_arg)
{
	if (!attach(DatumGetInt32(main_arg)) || !become_owner())
		proc_exit(0);
	job_context = AllocSetContextCreate(TopMemoryContext, "queue job", ALLOCSET_DEFAULT_SIZES);
	pqsignal(SIGINT, handle_interrupt);
	cancel_timeout = RegisterTimeout(USER_TIMEOUT, cancel_job);
	kill_timeout = RegisterTimeout(USER_TIMEOUT, end_process);
	QueueCallsLimit();
	CacheRegisterSyscacheCallback(PROCOID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, note_change, (Datum) 0);

	for (;;)
	{
		Served	   *queue;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			QueueWorkerReload();
		if (me->leave)
			proc_exit(0);
		queue = choose_queue();
		if (queue)
			serve(queue);
		else if (!wait_for_job())
			proc_exit(0);
	}
}

/* ---------------------------------------------------------------------
 * By hand: in the session and the transaction of the caller
 * --------------------------------------------------------------------- */

typedef struct ByHand
{
	const QueueSettings *settings;
	HeapTuple	row;
	TupleDesc	desc;
	Datum		result;
	bool		null;
} ByHand;

/* the handler and the completion */
static void
run_by_hand(void *arg)
{
	ByHand	   *job = arg;
	JobHead    *head = JOB_HEAD(job->row);
	QueueFunction function;

	QueueFunctionOpen(&function, FUNCTION_HANDLER, job->settings);
	job->result = QueueFunctionRun(&function, job->row, job->desc, &job->null);
	if (!QueueHeldComplete(head->job_id, head->attempt, 0, job->null ? NULL : &job->result))
		error_not_held(head->job_id);
}

Datum
queue_process_next(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	QueueSettings settings;
	ByHand		job = {.settings = &settings, .null = true};
	JobHead    *head;
	Relation	live;
	ErrorData  *error;
	Datum		values[4] = {0};
	bool		nulls[4] = {false, false, true, true};
	JobState	state = JOB_COMPLETED;

	QueueRequireWritable("queue.process_next()");
	QueueSettingsRequire(QueueArgText(fcinfo, 0, "queue_name"), PRIVILEGE_DEQUEUE, &settings);
	if (!settings.has_handler)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("queue \"%s\" has no handler", settings.name),
				 errdetail("There is no function to run its jobs."),
				 errhint("Set one with queue.set_handler(), or take jobs with queue.dequeue_batch().")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	job.row = QueueTakeOne(&settings);
	if (job.row == NULL)
		return (Datum) 0;
	head = JOB_HEAD(job.row);
	live = QueueOpenTable(QueueCatalogGet(false)->live, AccessShareLock);
	job.desc = RelationGetDescr(live);
	error = QueueTry(run_by_hand, &job);
	table_close(live, NoLock);
	values[0] = Int64GetDatum(head->job_id);
	if (error)
	{
		text	   *kept = QueueErrorText(error);

		(void) QueueHeldFail(head->job_id, head->attempt, 0, kept,
							 !QueueErrorIsFinal(&settings, error->sqlerrcode), &state);
		values[3] = PointerGetDatum(kept);
		nulls[3] = false;
	}
	else if (!job.null)
	{
		values[2] = job.result;
		nulls[2] = false;
	}
	values[1] = CStringGetTextDatum(QueueStateName(state));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * pool.c
 *		The pool of executors: who wakes them, who starts and buries them.
 *
 * The executors of a database are one pool for all of its queues.  An executor
 * runs the jobs of one owner all its life, so that nothing that a handler leaves
 * in its process (a connection of dblink, a variable of a procedural language)
 * is ever met by somebody else's.  The maintenance worker starts as many as the
 * backlog asks for, within the concurrency of each queue and
 * queue.max_executors; one that has been idle for a while leaves.  If the pool
 * is full and some owner has jobs and no executor, the owner with the most is
 * asked for one: so all have their turn.
 *
 * A slot in QueueExecutors goes through FREE, STARTING (the worker is
 * registered), IDLE and BUSY in turn, ENDED, FREE.  It is the maintenance
 * worker that makes it STARTING and FREE, the executor that does the rest;
 * every change is made under the slot's spinlock.
 *
 * Waking.  A queue that is served has its owner in QueueSlot.served.  Whoever
 * makes a job of it claimable raises QueueSlot.ready and then looks for an idle
 * executor of that owner; if there is none, the maintenance worker is asked to
 * think about it (Installation.grow).  No job is left behind:
 *
 * 1. An executor lowers ready before it looks.  If it finds as many jobs as it
 *	  wants, or may take no more for now, or fails, it raises it again.
 * 2. It goes idle by saying so first and reading every ready flag after.  A
 *	  waker raises the flag first and looks for idle executors after.  With a
 *	  full barrier in between on both sides, one sees the other.
 * 3. A queue that runs at its concurrency is passed over: whoever ends serving
 *	  it gives the place back first and reads ready after.
 * 4. An executor that was woken and ends before it has looked is seen by the
 *	  maintenance worker, which wakes or starts another for every flag that is
 *	  up.  The maintenance worker itself raises all flags when it starts.
 *
 * Burying.  However an executor ends, its slot says what it held.  Claims that
 * were not started go back as they were.  The attempt that was under way is
 * failed as by its own handler: the job is retried by the rules of its queue.
 * After a crash of the server the slots are gone: then the marks speak (mark.c),
 * and claims are met by the sweep for leases of ended sessions.
 *
 * Taking back.  When a queue is stopped or paused, or a job turns out to take
 * long, claims that the executor has not started are taken from it: they are
 * revoked in its slot, which keeps it from starting them, and then given back.
 * Should the maintenance worker die in between, the next one sees that they are
 * revoked and does it again; rows that are no longer held are passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"

#include "clock.h"
#include "compat.h"
#include "function.h"
#include "health.h"
#include "mark.h"
#include "pool.h"
#include "settle.h"
#include "stats.h"
#include "worker.h"

#define GROW_EVERY_MS	50		/* the pool is looked at no more often */
#define START_MS		10000	/* a worker that has not attached by then never will */
#define LONG_JOB_MS		200		/* claims behind such a job are taken back */
#define TURN_MS			1000	/* an executor keeps its place at least that long */
#define BACK_OFF_MS		100		/* after an executor died */
#define BACK_OFF_MAX_MS	30000
#define LOCK_FILE		"postmaster.pid"

/* the errors of those whose executor ended, the same for all, to group by */
#define ENDED_ERROR		"the worker process ended while it ran the job"
#define CRASHED_ERROR	"the server crashed while it ran the job"
#define TIMEOUT_ERROR	"job timeout: the handler went on after it was cancelled"

QueueExecutor *QueueExecutors;
int			queue_num_executors;
int			queue_max_executors;
int			queue_executor_idle_timeout;

/* ---------------------------------------------------------------------
 * Waking: from transaction callbacks
 * --------------------------------------------------------------------- */

static void
ask_to_grow(Installation *installation)
{
	if (pg_atomic_read_u32(&installation->grow) == 0 &&
		pg_atomic_exchange_u32(&installation->grow, 1) == 0)
	{
		Latch	   *latch = installation->maintenance;

		if (latch)
			SetLatch(latch);
	}
}

void
QueuePoolWake(QueueSlot *slot, int64 jobs)
{
	int			number = slot->installation;
	Oid			owner = slot->served;
	Installation *installation;

	if (number < 0 || !OidIsValid(owner))
		return;
	installation = &Installations[number];
	pg_atomic_write_u32(&slot->ready, 1);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->running) >= slot->concurrency)
		return;
	for (int i = 0; i < queue_num_executors && jobs > 0 &&
		 pg_atomic_read_u32(&installation->idle) > 0; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];
		int			process = -1;

		if (executor->state != EXECUTOR_IDLE || executor->woken)
			continue;
		SpinLockAcquire(&executor->mutex);
		if (executor->state == EXECUTOR_IDLE && !executor->woken && executor->owner == owner &&
			executor->database_id == installation->database_id &&
			executor->live_id == installation->live_id)
		{
			executor->woken = true;
			process = executor->process;
		}
		SpinLockRelease(&executor->mutex);
		if (process >= 0)
		{
			SetLatch(&GetPGProcByNumber(process)->procLatch);
			jobs--;
		}
	}
	if (jobs > 0)
		ask_to_grow(installation);
}

void
QueuePoolSettingsChanged(QueueSlot *slot)
{
	if (slot->installation >= 0)
	{
		Installation *installation = &Installations[slot->installation];
		Latch	   *latch = installation->maintenance;

		pg_atomic_write_u32(&installation->settings_changed, 1);
		if (latch)
			SetLatch(latch);
	}
}

void
QueuePoolInterrupt(Installation *installation, int64 job_id)
{
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];
		pid_t		pid = 0;

		SpinLockAcquire(&executor->mutex);
		if (executor->state == EXECUTOR_BUSY && executor->job_id == job_id &&
			executor->database_id == installation->database_id &&
			executor->live_id == installation->live_id)
		{
			/* should it be at another when the signal arrives, it ignores it */
			executor->interrupt_job_id = job_id;
			pid = executor->pid;
		}
		SpinLockRelease(&executor->mutex);
		if (pid != 0)
			kill(pid, SIGINT);
	}
}

static void
wake_executor(const QueueExecutor *executor)
{
	if (executor->process >= 0 && executor->process < queue_num_backends)
		SetLatch(&GetPGProcByNumber(executor->process)->procLatch);
}

bool
QueuePoolLeave(Oid database_id)
{
	bool		gone = true;

	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];
		bool		there;

		SpinLockAcquire(&executor->mutex);
		there = executor->database_id == database_id &&
			(executor->state == EXECUTOR_IDLE || executor->state == EXECUTOR_BUSY);
		if (there)
			executor->leave = true;
		SpinLockRelease(&executor->mutex);
		if (there)
			wake_executor(executor);
		gone &= !there;
	}
	return gone;
}

/* ---------------------------------------------------------------------
 * Burying and taking back: the maintenance worker
 * --------------------------------------------------------------------- */

/* workers that this process has started, by slot */
static BackgroundWorkerHandle **handles;

/* when the next one may be started, and the delay after the next death */
static TimestampTz not_before;
static long back_off_ms = BACK_OFF_MS;
static bool death_logged;

static bool
is_ours(const QueueExecutor *executor, const Installation *installation)
{
	return executor->state != EXECUTOR_FREE &&
		executor->database_id == installation->database_id &&
		executor->live_id == installation->live_id;
}

/* an attempt was under way, and nobody will end it */
static void
fail_begun(int64 job_id, int32 attempt, uint32 session, const char *error)
{
	HeapTuple	row;
	JobState	state;

	QueueWorkerBegin("failing an attempt whose executor has ended");
	row = QueueHeldJob(job_id, attempt, session);
	if (row && job_is_reserved(JOB_HEAD(row)))
		(void) QueueHeldFail(job_id, attempt, session, cstring_to_text(error), true, &state);
	QueueWorkerCommit();
}

static void
release_claims(const ExecutorClaim *claims, int count, uint32 session)
{
	if (count == 0)
		return;
	QueueWorkerBegin("giving back jobs that an executor has not started");
	for (int i = 0; i < count; i++)
		(void) QueueHeldRelease(claims[i].job_id, claims[i].attempt, session);
	QueueWorkerCommit();
}

/* one that has died, or never came to life: do not start the next at once */
static void
back_off(const QueueExecutor *executor)
{
	TimestampTz now = GetCurrentTimestamp();

	/* it did some good, or all has been well for a while */
	if (executor->done > 0 || now - not_before > (TimestampTz) BACK_OFF_MAX_MS * 1000)
	{
		back_off_ms = BACK_OFF_MS;
		death_logged = false;
	}
	/* its own error is in the log already */
	if (!death_logged && executor->job_id != 0)
		ereport(LOG,
				(errmsg("executor of queue %d ended while it ran job %lld", executor->queue_id,
						(long long) executor->job_id),
				 errdetail("The attempt has failed; others are started more and more slowly."),
				 errhint("See what the handler does with this job: queue.job_status(%lld).",
						 (long long) executor->job_id)));
	death_logged |= executor->job_id != 0;
	not_before = TimestampTzPlusMilliseconds(now, back_off_ms);
	back_off_ms = Min(back_off_ms * 2, BACK_OFF_MAX_MS);
}

/*
 * Has the server been asked to stop?  The postmaster says so in its file before
 * it tells anybody, so an executor that it has ended is no fault of a job's.
 */
static bool
server_is_stopping(void)
{
	char		line[MAXPGPATH];
	FILE	   *file = fopen(LOCK_FILE, "r");
	bool		stopping = false;

	if (file == NULL)
		return true;			/* it has gone further */
	for (int i = 1; i <= LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file); i++)
		if (i == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	fclose(file);
	return stopping;
}

/* false: not now */
static bool
bury(int number)
{
	QueueExecutor *executor = &QueueExecutors[number];
	QueueExecutor dead;

	SpinLockAcquire(&executor->mutex);
	dead = *executor;
	SpinLockRelease(&executor->mutex);

	if (dead.job_id != 0 && server_is_stopping())
		return false;
	if (dead.job_id != 0 || dead.died || dead.state == EXECUTOR_STARTING)
		back_off(&dead);
	if (dead.job_id != 0)
		fail_begun(dead.job_id, dead.attempt, dead.session,
				   dead.timed_out ? TIMEOUT_ERROR : ENDED_ERROR);
	release_claims(&dead.claims[dead.next_claim], dead.num_claims - dead.next_claim,
				   dead.session);
	QueueMarkClear(number);
	SpinLockAcquire(&executor->mutex);
	executor->state = EXECUTOR_FREE;
	SpinLockRelease(&executor->mutex);
	return true;
}

/* is there a process behind the slot, or will there be one? */
static bool
is_alive(int number, TimestampTz now)
{
	QueueExecutor *executor = &QueueExecutors[number];
	pid_t		pid;

	if (handles[number])
	{
		if (GetBackgroundWorkerPid(handles[number], &pid) != BGWH_STOPPED)
			return true;
		pfree(handles[number]);
		handles[number] = NULL;
		return false;
	}
	/* started by a maintenance worker before us */
	if (executor->state == EXECUTOR_STARTING)
		return !QueueHasPassed(executor->started_at, START_MS, now);
	return QueueSessionAlive(executor->session);
}

static void
bury_ended(Installation *installation)
{
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];
		bool		alive;

		if (!is_ours(executor, installation))
			continue;
		alive = executor->state != EXECUTOR_ENDED && is_alive(i, GetCurrentTimestamp());
		if (alive)
			continue;
		if (handles[i])
		{
			pfree(handles[i]);
			handles[i] = NULL;
		}
		/* what it was woken for, somebody else must do */
		if (bury(i))
			pg_atomic_write_u32(&installation->grow, 1);
	}
}

/* what executors were doing when the server crashed */
static void
act_on_marks(Installation *installation)
{
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueMark	mark;

		LWLockAcquire(Shared->lock, LW_SHARED);
		mark = QueueMarks[i];
		LWLockRelease(Shared->lock);
		if (mark.database_id != installation->database_id ||
			mark.live_id != installation->live_id)
			continue;
		fail_begun(mark.job_id, mark.attempt, 0, CRASHED_ERROR);
		QueueMarkClear(i);
		not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), back_off_ms);
	}
}

/* its claims that are not started, if it must not keep them */
static void
take_back(int number, bool all, TimestampTz now)
{
	QueueExecutor *executor = &QueueExecutors[number];
	ExecutorClaim claims[EXECUTOR_CLAIMS];
	int			count = 0;
	bool		revoke;

	SpinLockAcquire(&executor->mutex);
	revoke = executor->state == EXECUTOR_BUSY && executor->next_claim < executor->num_claims &&
		(executor->revoked || all ||
		 (executor->job_id != 0 &&
		  QueueHasPassed(executor->job_started_at, LONG_JOB_MS, now)));
	if (revoke)
	{
		executor->revoked = true;
		count = executor->num_claims - executor->next_claim;
		memcpy(claims, &executor->claims[executor->next_claim], count * sizeof(ExecutorClaim));
	}
	SpinLockRelease(&executor->mutex);
	if (!revoke)
		return;
	release_claims(claims, count, executor->session);
	SpinLockAcquire(&executor->mutex);
	executor->num_claims = executor->next_claim;
	executor->revoked = false;
	SpinLockRelease(&executor->mutex);
	wake_executor(executor);
}

/* ---------------------------------------------------------------------
 * Which queues are served, and by how many
 * --------------------------------------------------------------------- */

static bool
is_to_be_served(const QueueSettings *settings)
{
	return settings->has_handler && settings->processing && !settings->paused &&
		OidIsValid(settings->owner) && queue_max_executors > 0;
}

static const QueueSettings *
slot_settings(const Installation *installation, int i, const QueueSettings *const *settings)
{
	if (QueueSlots[i].installation != installation - Installations || settings[i] == NULL ||
		settings[i]->queue_id != QueueSlots[i].queue_id)
		return NULL;
	return settings[i];
}

/* executors wait for these: they may have been woken when there was none */
static void
wake_ready(Installation *installation)
{
	for (int i = 0; i < queue_max_queues; i++)
		if (QueueSlots[i].installation == installation - Installations &&
			OidIsValid(QueueSlots[i].served) && pg_atomic_read_u32(&installation->idle) > 0 &&
			pg_atomic_read_u32(&QueueSlots[i].ready) != 0)
			QueuePoolWake(&QueueSlots[i], 1);
}

static void
serve_queues(Installation *installation, const QueueSettings *const *settings)
{
	bool		changed = false;

	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueSlot  *slot = &QueueSlots[i];
		const QueueSettings *queue = slot_settings(installation, i, settings);
		Oid			owner;

		if (queue == NULL)
			continue;
		owner = is_to_be_served(queue) ? queue->owner : InvalidOid;
		if (owner == slot->served &&
			(!OidIsValid(owner) || (queue->concurrency == slot->concurrency &&
									queue->min_workers == slot->min_workers)))
			continue;
		changed = true;
		slot->concurrency = queue->concurrency;
		slot->min_workers = queue->min_workers;
		slot->served = owner;
		/* jobs that came before it was served */
		pg_atomic_write_u32(&slot->ready, OidIsValid(owner) ? 1 : 0);
	}
	if (!changed)
		return;
	/* first they are told of the queues, then woken */
	pg_atomic_fetch_add_u32(&installation->served_generation, 1);
	pg_atomic_write_u32(&installation->grow, 1);
	pg_memory_barrier();
	wake_ready(installation);
}

/* an owner with queues that are served */
typedef struct Demand
{
	Oid			owner;
	int			wanted;			/* executors, without a limit */
	int			least;			/* of these, to be kept while idle */
	int			there;
	int			idle;
	bool		ready;			/* some queue may have a job */
} Demand;

static Demand *
find_demand(Demand *demands, int *count, Oid owner)
{
	for (int i = 0; i < *count; i++)
		if (demands[i].owner == owner)
			return &demands[i];
	memset(&demands[*count], 0, sizeof(Demand));
	demands[*count].owner = owner;
	return &demands[(*count)++];
}

/* how many executors does a queue have work for? */
static int
wanted_executors(Installation *installation, QueueSlot *slot, const QueueSettings *queue)
{
	int64		count[NUM_COUNTS];
	int64		wanted = pg_atomic_read_u32(&slot->running);

	if (pg_atomic_read_u32(&slot->ready) != 0)
	{
		if (QueueStatsRead(installation, slot, count))
			wanted += Max(count[COUNT_WAITING], 1);
		else
			wanted += 1;
	}
	return (int) Min(Max(wanted, queue->min_workers), queue->concurrency);
}

/* returns how many there are; every queue that is served counts */
static int
measure(Installation *installation, const QueueSettings *const *settings, Demand *demands)
{
	int			count = 0;

	for (int i = 0; i < queue_max_queues; i++)
	{
		const QueueSettings *queue = slot_settings(installation, i, settings);
		Demand	   *demand;

		if (queue == NULL || !OidIsValid(QueueSlots[i].served))
			continue;
		demand = find_demand(demands, &count, queue->owner);
		demand->wanted += wanted_executors(installation, &QueueSlots[i], queue);
		demand->least += Min(queue->min_workers, queue->concurrency);
		demand->ready |= pg_atomic_read_u32(&QueueSlots[i].ready) != 0 &&
			pg_atomic_read_u32(&QueueSlots[i].running) < queue->concurrency;
	}
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];

		if (!is_ours(executor, installation) || executor->leave)
			continue;
		for (int d = 0; d < count; d++)
			if (demands[d].owner == executor->owner)
			{
				demands[d].there++;
				if (executor->state == EXECUTOR_IDLE)
					demands[d].idle++;
			}
	}
	return count;
}

/* false: no worker slot is free */
static bool
start_executor(Installation *installation, int number, Oid owner)
{
	QueueExecutor *executor = &QueueExecutors[number];
	BackgroundWorker worker;
	MemoryContext old;
	bool		registered;

	SpinLockAcquire(&executor->mutex);
	executor->database_id = installation->database_id;
	executor->live_id = installation->live_id;
	executor->owner = owner;
	executor->pid = 0;
	executor->process = -1;
	executor->session = 0;
	executor->started_at = GetCurrentTimestamp();
	executor->leave = executor->woken = executor->revoked = executor->timed_out = executor->died = false;
	executor->queue_id = 0;
	executor->num_claims = executor->next_claim = 0;
	executor->job_id = executor->interrupt_job_id = 0;
	executor->done = executor->failed = executor->busy_usecs = 0;
	executor->state = EXECUTOR_STARTING;
	SpinLockRelease(&executor->mutex);

	QueueWorkerDescribe(&worker, "queue_executor_main", "queue executor", "");
	snprintf(worker.bgw_name, BGW_MAXLEN, "queue executor %d in database %u", number, MyDatabaseId);
	worker.bgw_main_arg = Int32GetDatum(number);
	worker.bgw_notify_pid = MyProcPid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &handles[number]);
	MemoryContextSwitchTo(old);
	if (registered)
		return true;
	handles[number] = NULL;
	SpinLockAcquire(&executor->mutex);
	executor->state = EXECUTOR_FREE;
	SpinLockRelease(&executor->mutex);
	return false;
}

/* a slot for one more; -1: none, or there are as many as may be */
static int
free_slot(Installation *installation)
{
	int			free = -1;
	int			used = 0;

	for (int i = 0; i < queue_num_executors; i++)
	{
		if (QueueExecutors[i].state == EXECUTOR_FREE)
			free = free < 0 ? i : free;
		else if (is_ours(&QueueExecutors[i], installation))
			used++;
	}
	return used < queue_max_executors ? free : -1;
}

/* ask an executor of the owner with the most for its place */
static void
make_room(Installation *installation, Demand *demands, int count, TimestampTz now)
{
	Demand	   *most = NULL;
	QueueExecutor *oldest = NULL;

	for (int i = 0; i < count; i++)
		if (most == NULL || demands[i].there > most->there ||
			(demands[i].there == most->there && demands[i].idle > most->idle))
			most = &demands[i];
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];

		if (!is_ours(executor, installation))
			continue;
		if (executor->leave || executor->state == EXECUTOR_STARTING)
			return;				/* one is on its way already */
		if (most && executor->owner == most->owner &&
			QueueHasPassed(executor->started_at, TURN_MS, now) &&
			(oldest == NULL || executor->started_at < oldest->started_at))
			oldest = executor;
	}
	if (oldest == NULL)
		return;
	SpinLockAcquire(&oldest->mutex);
	oldest->leave = true;
	SpinLockRelease(&oldest->mutex);
	wake_executor(oldest);
}

/* the owner that is served worst, of those that want more; NULL: none does */
static Demand *
neediest(Demand *demands, int count)
{
	Demand	   *worst = NULL;

	for (int i = 0; i < count; i++)
	{
		Demand	   *demand = &demands[i];

		if (demand->there >= demand->wanted ||
			(demand->idle > 0 && demand->there >= demand->least))
			continue;
		if (worst == NULL || demand->there < worst->there)
			worst = demand;
	}
	return worst;
}

static void
grow(Installation *installation, const QueueSettings *const *settings, TimestampTz *wake_at)
{
	static bool short_logged;
	TimestampTz now = GetCurrentTimestamp();
	Demand	   *demands = palloc(sizeof(Demand) * (queue_max_queues + 1));
	int			count = measure(installation, settings, demands);
	Demand	   *demand;

	while ((demand = neediest(demands, count)) != NULL)
	{
		int			number = free_slot(installation);

		/* unless the clock was set back */
		if (now < not_before && not_before <= TimestampTzPlusMilliseconds(now, BACK_OFF_MAX_MS))
		{
			*wake_at = Min(*wake_at, not_before);
			pg_atomic_write_u32(&installation->grow, 1);
			break;
		}
		if (number < 0)
		{
			if (demand->there == 0)
			{
				make_room(installation, demands, count, now);
				*wake_at = Min(*wake_at, TimestampTzPlusMilliseconds(now, GROW_EVERY_MS));
				pg_atomic_write_u32(&installation->grow, 1);
			}
			break;
		}
		if (!start_executor(installation, number, demand->owner))
		{
			QueueHealthWorkerDenied();
			if (!short_logged)
				ereport(LOG,
						(errmsg("no background worker slot is free for an executor"),
						 errdetail("Handlers run in fewer executors, or in none, until one is."),
						 errhint("Consider increasing the configuration parameter \"max_worker_processes\".")));
			short_logged = true;
			*wake_at = Min(*wake_at, TimestampTzPlusMilliseconds(now, 1000));
			not_before = TimestampTzPlusMilliseconds(now, 1000);
			pg_atomic_write_u32(&installation->grow, 1);
			break;
		}
		short_logged = false;
		demand->there++;
	}
	pfree(demands);
}

void
QueuePoolManage(Installation *installation, const QueueSettings *const *settings,
				TimestampTz *wake_at)
{
	static TimestampTz grown_at;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next;

	if (handles == NULL)
	{
		handles = MemoryContextAllocZero(TopMemoryContext,
										 sizeof(*handles) * queue_num_executors);
		act_on_marks(installation);
		/* one before us may have died with something left to do */
		for (int i = 0; i < queue_max_queues; i++)
			if (QueueSlots[i].installation == installation - Installations &&
				OidIsValid(QueueSlots[i].served))
				pg_atomic_write_u32(&QueueSlots[i].ready, 1);
		pg_atomic_write_u32(&installation->grow, 1);
	}
	bury_ended(installation);
	serve_queues(installation, settings);
	for (int i = 0; i < queue_num_executors; i++)
	{
		QueueExecutor *executor = &QueueExecutors[i];
		bool		served = false;

		if (!is_ours(executor, installation) || executor->state != EXECUTOR_BUSY)
			continue;
		for (int q = 0; q < queue_max_queues && !served; q++)
			served = QueueSlots[q].installation == installation - Installations &&
				QueueSlots[q].queue_id == executor->queue_id &&
				QueueSlots[q].served == executor->owner;
		take_back(i, !served, now);
		if (executor->next_claim < executor->num_claims)
			*wake_at = Min(*wake_at, TimestampTzPlusMilliseconds(now, LONG_JOB_MS));
	}

	next = grown_at + (TimestampTz) GROW_EVERY_MS * 1000;
	if (pg_atomic_read_u32(&installation->grow) != 0 && now < next && now >= grown_at)
		*wake_at = Min(*wake_at, next);
	else if (pg_atomic_exchange_u32(&installation->grow, 0) != 0)
	{
		grown_at = now;
		wake_ready(installation);
		grow(installation, settings, wake_at);
	}
}

/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		One per cluster: keeps each database's maintenance worker running.
 *
 * The launcher cannot see into other databases, so it sends a maintenance
 * worker into each once; one that finds no extension says so and leaves.
 * CREATE EXTENSION announces itself at commit.  A worker that ends for any
 * other reason is started again, later and later if it does not live long.
 *
 * Only the launcher is registered with the postmaster for ever.  It exits with
 * code 1 when told to terminate: the postmaster would take 0 for "never again".
 *
 * Commands that want a database to themselves (DROP, RENAME, SET TABLESPACE,
 * CREATE DATABASE ... TEMPLATE) wait five seconds for others to leave.  The
 * utility hook asks our worker to go before, and puts a hold on the database
 * that expires by itself, should the command not get to its end.
 *
 * Where worker slots are fewer than databases, databases take turns: if one
 * cannot be served, the worker that has run longest elsewhere is asked to go.
 *
 * Everything shared is in DatabaseEntry, under Shared->lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "clock.h"
#include "compat.h"
#include "health.h"
#include "launcher.h"
#include "limit.h"
#include "pool.h"
#include "wait.h"
#include "worker.h"

#define LOOK_EVERY_MS		60000	/* for new databases */
#define HOLD_MS				10000	/* a hold that nobody releases */
#define LEAVE_WAIT_MS		5000	/* for the worker to go */
#define TURN_MS				30000	/* of a database, if others wait */
#define RETRY_MS			1000	/* first delay before a worker is restarted */
#define RETRY_MAX_MS		60000
#define MAX_STARTING		4		/* workers that have not reported yet */

PGDLLEXPORT void queue_launcher_main(Datum main_arg);

/* what the launcher alone knows about the entry of the same index */
typedef struct Started
{
	BackgroundWorkerHandle *handle; /* NULL: none running */
	TimestampTz at;
	uint32		looks;			/* of its database before it was started */
	long		delay_ms;		/* before the next start */
} Started;

static Started *started;

void
QueueLauncherRegister(void)
{
	BackgroundWorker worker;

	QueueWorkerDescribe(&worker, "queue_launcher_main", "queue launcher", "queue launcher");
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

/* caller holds Shared->lock */
static DatabaseEntry *
find_entry(Oid database_id)
{
	for (int i = 0; i < queue_max_databases; i++)
		if (DatabaseEntries[i].database_id == database_id)
			return &DatabaseEntries[i];
	return NULL;
}

/* caller holds Shared->lock exclusively; NULL: no room */
static DatabaseEntry *
make_entry(Oid database_id)
{
	DatabaseEntry *entry = find_entry(database_id);

	for (int i = 0; entry == NULL && i < queue_max_databases; i++)
	{
		if (OidIsValid(DatabaseEntries[i].database_id))
			continue;
		entry = &DatabaseEntries[i];
		memset(entry, 0, sizeof(*entry));
		entry->database_id = database_id;
	}
	return entry;
}

void
QueueLauncherAnnounce(Oid database_id)
{
	DatabaseEntry *entry;

	if (!QueueSharedReady())
		return;
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	entry = OidIsValid(database_id) ? make_entry(database_id) : NULL;
	if (!OidIsValid(database_id))
		Shared->new_database = true;
	if (entry)
	{
		entry->has_extension = true;
		entry->looked = false;
		if (entry->latch)
			SetLatch(entry->latch);
	}
	if (Shared->launcher)
		SetLatch(Shared->launcher);
	LWLockRelease(Shared->lock);
}

void
QueueLauncherHold(Oid database_id)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_MS);
	int64		give_up = QueueMonotonicUsecs() + (int64) LEAVE_WAIT_MS * 1000;

	if (!QueueSharedReady())
		return;
	for (;;)
	{
		DatabaseEntry *entry;
		bool		gone = true;

		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		entry = find_entry(database_id);
		if (entry)
		{
			entry->hold_until = until;
			if (entry->pid != 0)
			{
				gone = false;
				entry->leave = true;
				if (entry->latch)
					SetLatch(entry->latch);
			}
		}
		LWLockRelease(Shared->lock);
		gone &= QueuePoolLeave(database_id);
		if (gone || QueueMonotonicUsecs() > give_up)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
QueueLauncherRelease(Oid database_id)
{
	DatabaseEntry *entry;

	if (!QueueSharedReady())
		return;
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	entry = find_entry(database_id);
	if (entry)
	{
		entry->hold_until = 0;
		entry->leave = false;
	}
	if (Shared->launcher)
		SetLatch(Shared->launcher);
	LWLockRelease(Shared->lock);
}

/* ---------------------------------------------------------------------
 * The maintenance worker's side
 * --------------------------------------------------------------------- */

static void
detach(int code, Datum arg)
{
	DatabaseEntry *entry = &DatabaseEntries[DatumGetInt32(arg)];

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	if (entry->pid == MyProcPid)
	{
		entry->pid = 0;
		entry->latch = NULL;
		entry->leave = false;
	}
	for (int i = 0; i < queue_max_databases; i++)
		if (Installations[i].maintenance == MyLatch)
			Installations[i].maintenance = NULL;
	LWLockRelease(Shared->lock);
	/* they must look for due jobs by themselves from now on */
	for (int i = 0; i < queue_max_databases; i++)
		if (Installations[i].database_id == MyDatabaseId)
			QueueWaitWakeInstallation(&Installations[i]);
}

DatabaseEntry *
QueueLauncherAttach(Oid database_id)
{
	DatabaseEntry *entry;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	entry = find_entry(database_id);
	if (entry && entry->pid == 0 && entry->hold_until <= GetCurrentTimestamp())
	{
		entry->pid = MyProcPid;
		entry->latch = MyLatch;
		entry->leave = false;
	}
	else
		entry = NULL;
	LWLockRelease(Shared->lock);
	if (entry)
		before_shmem_exit(detach, Int32GetDatum(entry - DatabaseEntries));
	return entry;
}

void
QueueLauncherFound(DatabaseEntry *entry, bool has_extension)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	entry->has_extension = has_extension;
	entry->looked = true;
	entry->looks++;
	LWLockRelease(Shared->lock);
}

/* ---------------------------------------------------------------------
 * The launcher
 * --------------------------------------------------------------------- */

static void
forget_launcher(int code, Datum arg)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	if (Shared->launcher == MyLatch)
		Shared->launcher = NULL;
	LWLockRelease(Shared->lock);
}

/* enter new databases, forget those that are gone */
static void
look_for_databases(void)
{
	Oid		   *oids = palloc(sizeof(Oid) * queue_max_databases);
	int			count = 0;
	bool		full = false;
	static bool full_logged;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		/* a negative limit other than -1 marks one whose DROP was interrupted */
		if (!database->datallowconn || database->datconnlimit < -1)
			continue;
		if (count < queue_max_databases)
			oids[count++] = database->oid;
		else
			full = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_databases; i++)
	{
		DatabaseEntry *entry = &DatabaseEntries[i];
		bool		known = !OidIsValid(entry->database_id);

		for (int j = 0; j < count && !known; j++)
			known = oids[j] == entry->database_id;
		if (!known && entry->pid == 0 && started[i].handle == NULL)
		{
			Oid			gone = entry->database_id;

			entry->database_id = InvalidOid;
			LWLockRelease(Shared->lock);
			QueueSharedFreeInstallations(gone, InvalidOid);
			LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		}
	}
	for (int j = 0; j < count; j++)
		if (make_entry(oids[j]) == NULL)
			full = true;
	LWLockRelease(Shared->lock);
	if (full && !full_logged)
		ereport(LOG,
				(errmsg("queue serves at most %d databases", queue_max_databases),
				 errhint("Consider increasing the configuration parameter \"queue.max_databases\".")));
	full_logged = full;
	pfree(oids);
}

/* which of our workers have ended? */
static void
reap(TimestampTz now)
{
	for (int i = 0; i < queue_max_databases; i++)
	{
		pid_t		pid;
		BgwHandleStatus status;

		if (started[i].handle == NULL)
			continue;
		status = GetBackgroundWorkerPid(started[i].handle, &pid);
		if (status != BGWH_STOPPED && status != BGWH_POSTMASTER_DIED)
			continue;
		pfree(started[i].handle);
		started[i].handle = NULL;

		/*
		 * One that failed before it could look (the library is newer than the
		 * SQL objects, say) would fail again: take it that there is something
		 * to do, but not at once.
		 */
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		if (DatabaseEntries[i].looks == started[i].looks)
			DatabaseEntries[i].looked = DatabaseEntries[i].has_extension = true;
		LWLockRelease(Shared->lock);
		/* one that lived long may come back soon */
		if (now - started[i].at > (TimestampTz) RETRY_MAX_MS * 1000)
			started[i].delay_ms = RETRY_MS;
		else
			started[i].delay_ms = Min(Max(started[i].delay_ms * 2, RETRY_MS), RETRY_MAX_MS);
	}
}

/* the index of the database that should get a worker next, or -1 */
static int
next_to_start(TimestampTz now, long *wait_ms)
{
	int			best = -1;
	int			starting = 0;

	LWLockAcquire(Shared->lock, LW_SHARED);
	for (int i = 0; i < queue_max_databases; i++)
	{
		DatabaseEntry *entry = &DatabaseEntries[i];
		TimestampTz earliest;

		if (!OidIsValid(entry->database_id))
			continue;
		if (started[i].handle != NULL)
		{
			if (!entry->looked)
				starting++;
			continue;
		}
		if (entry->looked && !entry->has_extension)
			continue;
		earliest = entry->hold_until;
		/* an announcement, or a first look, need not wait */
		if (entry->looked)
			earliest = Max(earliest, started[i].at + started[i].delay_ms * 1000);
		if (earliest > now)
		{
			*wait_ms = Min(*wait_ms, Max(1, (earliest - now) / 1000));
			continue;
		}
		if (best < 0 || started[i].at < started[best].at)
			best = i;
	}
	LWLockRelease(Shared->lock);
	return starting < MAX_STARTING ? best : -1;
}

/* ask the worker that has run longest to let another database have its turn */
static void
take_turns(TimestampTz now)
{
	int			longest = -1;

	for (int i = 0; i < queue_max_databases; i++)
		if (started[i].handle != NULL &&
			(longest < 0 || started[i].at < started[longest].at))
			longest = i;
	if (longest < 0 || !QueueHasPassed(started[longest].at, TURN_MS, now))
		return;
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	DatabaseEntries[longest].leave = true;
	if (DatabaseEntries[longest].latch)
		SetLatch(DatabaseEntries[longest].latch);
	LWLockRelease(Shared->lock);
}

static void
start_workers(TimestampTz now, long *wait_ms)
{
	static bool short_logged;
	int			i;

	while ((i = next_to_start(now, wait_ms)) >= 0)
	{
		BackgroundWorker worker;
		MemoryContext old;
		bool		registered;

		QueueWorkerDescribe(&worker, "queue_maintenance_main", "queue maintenance", "");
		snprintf(worker.bgw_name, BGW_MAXLEN, "queue maintenance in database %u",
				 DatabaseEntries[i].database_id);
		worker.bgw_main_arg = ObjectIdGetDatum(DatabaseEntries[i].database_id);
		worker.bgw_notify_pid = MyProcPid;
		old = MemoryContextSwitchTo(TopMemoryContext);
		started[i].looks = DatabaseEntries[i].looks;
		registered = RegisterDynamicBackgroundWorker(&worker, &started[i].handle);
		MemoryContextSwitchTo(old);
		if (!registered)
		{
			started[i].handle = NULL;
			QueueHealthWorkerDenied();
			if (!short_logged)
				ereport(LOG,
						(errmsg("no background worker slot is free for queue maintenance"),
						 errdetail("Databases take turns."),
						 errhint("Consider increasing the configuration parameter \"max_worker_processes\".")));
			short_logged = true;
			take_turns(now);
			*wait_ms = Min(*wait_ms, RETRY_MS);
			return;
		}
		started[i].at = now;
	}
	/* nobody is denied any more; while databases take turns, it is told once */
	short_logged = false;
}

/* the clock was set back: what was begun later than now has begun now */
static void
forget_future(TimestampTz now)
{
	TimestampTz latest = TimestampTzPlusMilliseconds(now, HOLD_MS);

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_databases; i++)
	{
		started[i].at = Min(started[i].at, now);
		DatabaseEntries[i].hold_until = Min(DatabaseEntries[i].hold_until, latest);
	}
	LWLockRelease(Shared->lock);
}

/* has somebody announced a new database? */
static bool
take_new_database(void)
{
	bool		announced;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	announced = Shared->new_database;
	Shared->new_database = false;
	LWLockRelease(Shared->lock);
	return announced;
}

void
queue_launcher_main(Datum main_arg)
{
	TimestampTz looked_at = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	started = MemoryContextAllocZero(TopMemoryContext, sizeof(Started) * queue_max_databases);
	QueueLimitStart();
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	Shared->launcher = MyLatch;
	LWLockRelease(Shared->lock);
	before_shmem_exit(forget_launcher, (Datum) 0);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long		wait_ms = LOOK_EVERY_MS;

		/* 1: start me again */
		if (ShutdownRequestPending)
			proc_exit(1);

		forget_future(now);
		reap(now);
		if (take_new_database() || looked_at == 0 || QueueHasPassed(looked_at, LOOK_EVERY_MS, now))
		{
			look_for_databases();
			looked_at = now;
		}
		start_workers(now, &wait_ms);
		QueueWorkerWait(wait_ms);
	}
}

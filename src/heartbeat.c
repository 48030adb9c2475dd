/*-------------------------------------------------------------------------
 *
 * heartbeat.c
 *		Outside workers, as far as they tell that they live:
 *		queue.heartbeat(), queue.sign_off(), and the view queue.worker.
 *
 * A heartbeat changes an entry in shared memory, found by installation, role
 * and name, and nothing else: no row, no WAL, no transaction id.  The table is
 * guarded as table.h says.
 *
 * A worker that was not heard of for queue.worker_timeout is *stale*.  The
 * maintenance worker marks it so and ends its leases: of each active job that
 * bears the worker's name, in the queues that the worker may have taken from,
 * lease_expires_at becomes the clock's time.  All that follows is what follows
 * from any lease that ends.  What protects the others:
 *
 *		- the queues are those that the role of the entry may dequeue from, so
 *		  nobody ends leases whose jobs he could not settle as well;
 *		- a job is spared if another entry of the same name, of another role,
 *		  that may have taken it as well, is not stale;
 *		- leases that are bound to a session end with it, not before.
 *
 *		a worker						meanwhile
 *		is heard of again while its		it is live again; the leases that have
 *		leases are being ended			been ended stay so, and the attempt
 *										number fences it off
 *		has a job's row in hands		nobody waits for it: the job is looked at
 *										again until that is over
 *		takes jobs without any			those have ordinary leases; it is marked
 *		heartbeat, being stale			once, not again
 *		lives on, but the server was	nothing is known of it: leases end by
 *		restarted						their own time
 *
 * A worker that stops signs off: the jobs that bear its name are given back as by
 * queue.release(), and the commit of that removes its entry, unless it has been
 * heard of since.  It is the same walk, under the same rules, but as the caller,
 * and nothing is done again: a job whose claim becomes visible during the walk
 * is missed, and so is one above the hint of its class while that is being swept.
 * Their leases end by their own time.
 *
 * What a worker has done is counted by the sessions that settle its jobs: if
 * the role that settles has an entry of the name in the row, its counts change
 * when the settling transaction commits.  Where no worker sends heartbeats that
 * costs one read of shared memory, and nothing if it was prepared: then it is
 * not counted.  Which job a worker is at, the reader of the view finds out: the
 * one that it took last, among those that are active.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "compat.h"
#include "executor.h"
#include "heartbeat.h"
#include "internal.h"
#include "scan.h"
#include "settle.h"
#include "store.h"

QUEUE_FUNCTION(queue_heartbeat);
QUEUE_FUNCTION(queue_sign_off);
QUEUE_FUNCTION(queue__workers);

#define NAME_MAX_BYTES		100
#define INFO_MAX			1000	/* bytes of jsonb */
#define FORGET_AFTER		USECS_PER_DAY
#define END_CHUNK			1000	/* leases ended in one transaction */

typedef struct Heartbeat
{
	QueueTableLink link;

	/* set once */
	Oid			database_id;
	Oid			live_id;
	Oid			role;
	char		name[NAME_MAX_BYTES + 1];

	/* what follows is guarded by link.mutex */
	int32		queue_id;		/* 0: it did not say */
	pid_t		pid;			/* of its last session */
	TimestampTz first_at;
	TimestampTz last_at;
	int64		heard;			/* the same by the monotonic clock, which nobody sets */
	bool		stale;
	bool		ended;			/* it is, and its leases have ended */
	uint64		done;
	uint64		failed;			/* attempts */
	uint64		usecs;			/* all of them took */
	int			info_size;		/* with its header; 0: none */
	char		info[VARHDRSZ + INFO_MAX];
} Heartbeat;

/* what a worker has done, when its (sub)transaction commits */
typedef struct PendingWork
{
	SubTransactionId subid;
	int			number;			/* of the entry */
	uint32		use;			/* the life of it */
	uint64		done;
	uint64		failed;
	uint64		usecs;
	int64		left;			/* when it signed off, by the monotonic clock; 0: it has not */
} PendingWork;

static QueueTable table;

static PendingWork *pending;
static int	num_pending,
			max_pending;

Size
QueueHeartbeatSize(void)
{
	return QueueTableSize(queue_max_workers, sizeof(Heartbeat));
}

void
QueueHeartbeatInit(char *at, LWLock *lock, bool found)
{
	QueueTableInit(&table, at, queue_max_workers, sizeof(Heartbeat), lock, found);
}

static uint32
hash_of(Oid live_id, Oid role, const char *name, int length)
{
	uint32		hash = hash_combine(murmurhash32(MyDatabaseId), murmurhash32(live_id));

	hash = hash_combine(hash, murmurhash32(role));
	return hash_combine(hash, hash_bytes((const unsigned char *) name, length));
}

/* caller holds the lock of the table */
static Heartbeat *
find(uint32 hash, Oid live_id, Oid role, const char *name, int length)
{
	Heartbeat  *entry = QueueTableFirst(&table, hash);

	while (entry && (entry->database_id != MyDatabaseId || entry->live_id != live_id ||
					 entry->role != role || strncmp(entry->name, name, length) != 0 ||
					 entry->name[length] != '\0'))
		entry = QueueTableNext(&table, entry);
	return entry;
}

/* ---------------------------------------------------------------------
 * What a worker has done
 * --------------------------------------------------------------------- */

/* are both of the same worker and subtransaction?  Then one has it all. */
static bool
merge_work(PendingWork *last, const PendingWork *work)
{
	if (last->subid != work->subid || last->number != work->number || last->use != work->use)
		return false;
	last->done += work->done;
	last->failed += work->failed;
	last->usecs += work->usecs;
	last->left = Max(last->left, work->left);
	return true;
}

static void
add_work(const PendingWork *work)
{
	if (num_pending > 0 && merge_work(&pending[num_pending - 1], work))
		return;
	if (num_pending >= max_pending)
	{
		int			size = Max(16, max_pending * 2);

		pending = pending ? repalloc_huge(pending, size * sizeof(PendingWork)) :
			MemoryContextAlloc(TopMemoryContext, size * sizeof(PendingWork));
		max_pending = size;
	}
	pending[num_pending++] = *work;
}

/* the entry of a worker of the current role, for what it has done; false: there is none */
static bool
find_work(uint32 hash, Oid live_id, const char *name, int length, PendingWork *work)
{
	Heartbeat  *entry;

	LWLockAcquire(table.lock, LW_SHARED);
	entry = find(hash, live_id, GetUserId(), name, length);
	if (entry)
	{
		work->number = QueueTableNumber(&table, entry);
		work->use = entry->link.use;
	}
	LWLockRelease(table.lock);
	return entry != NULL;
}

void
QueueHeartbeatSettled(HeapTuple row, bool completed, TimestampTz now)
{
	Datum		tail[JOB_TAIL];
	bool		nulls[JOB_TAIL];
	Oid			live_id;
	text	   *worker;
	int			length;
	uint32		hash;
	PendingWork work = {.subid = GetCurrentSubTransactionId()};

	if (likely(pg_atomic_read_u32(table.count) == 0) || !job_has(row, JOB_WORKER))
		return;
	QueueJobTail(row, tail, nulls);
	worker = DatumGetTextPP(tail[JOB_WORKER - JOB_STATE - 1]);
	length = VARSIZE_ANY_EXHDR(worker);
	live_id = QueueCatalogGet(false)->live;
	hash = hash_of(live_id, GetUserId(), VARDATA_ANY(worker), length);
	if (length > NAME_MAX_BYTES || !QueueTableMayHave(&table, hash))
		return;

	if (!find_work(hash, live_id, VARDATA_ANY(worker), length, &work))
		return;
	work.done = completed ? 1 : 0;
	work.failed = completed ? 0 : 1;
	work.usecs = (uint64) Max(now - JOB_HEAD(row)->taken_at, 0);

	add_work(&work);
}

void
QueueHeartbeatCommit(void)
{
	bool		left = false;

	if (num_pending == 0)
		return;
	for (int i = 0; i < num_pending; i++)
		left |= pending[i].left != 0;
	LWLockAcquire(table.lock, left ? LW_EXCLUSIVE : LW_SHARED);
	for (int i = 0; i < num_pending; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, pending[i].number);

		if (entry == NULL || entry->link.use != pending[i].use)
			continue;
		SpinLockAcquire(&entry->link.mutex);
		entry->done += pending[i].done;
		entry->failed += pending[i].failed;
		entry->usecs += pending[i].usecs;
		SpinLockRelease(&entry->link.mutex);
		if (entry->heard <= pending[i].left)
			QueueTableRemove(&table, entry);
	}
	LWLockRelease(table.lock);
}

void
QueueHeartbeatForget(void)
{
	num_pending = 0;
}

/* as many subtransactions as jobs would leave as many records: one of each worker */
void
QueueHeartbeatCommitSub(SubTransactionId subid, SubTransactionId parent_subid)
{
	int			first = num_pending;
	int			kept;

	while (first > 0 && pending[first - 1].subid >= subid)
		first--;
	kept = first;
	for (int i = first; i < num_pending; i++)
	{
		PendingWork *last = kept > 0 ? &pending[kept - 1] : NULL;

		pending[i].subid = parent_subid;
		if (last == NULL || !merge_work(last, &pending[i]))
			pending[kept++] = pending[i];
	}
	num_pending = kept;
}

void
QueueHeartbeatAbortSub(SubTransactionId subid)
{
	while (num_pending > 0 && pending[num_pending - 1].subid >= subid)
		num_pending--;
}

/* ---------------------------------------------------------------------
 * queue.heartbeat()
 * --------------------------------------------------------------------- */

static void
check_name(text *name)
{
	int			length = VARSIZE_ANY_EXHDR(name);

	if (length == 0 || length > NAME_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 length == 0 ? errmsg("worker must not be empty") :
				 errmsg("worker must not be longer than %d bytes", NAME_MAX_BYTES),
				 errdetail("It has %d bytes; 1 to %d are allowed.", length, NAME_MAX_BYTES),
				 errhint("Give the name that the worker shows to queue.dequeue_batch().")));
}

/* a worker that does not say for which queue must have one to work for */
static void
require_some_queue(void)
{
	ListCell   *lc;

	if (superuser())
		return;
	foreach(lc, QueueSettingsAll())
		if (QueuePrivileges(lfirst(lc)) & (PRIVILEGE_DEQUEUE | PRIVILEGE_ADMIN))
			return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to tell of a worker"),
			 errdetail("Role \"%s\" has the privilege \"dequeue\" on no queue.",
					   GetUserNameFromId(GetUserId(), false)),
			 errhint("The owner of a queue can grant it with queue.grant_queue().")));
}

/* caller holds the lock of the table, and the spinlock unless exclusively */
static void
change_entry(Heartbeat *entry, int32 queue_id, Jsonb *info, TimestampTz now)
{
	entry->queue_id = queue_id;
	entry->pid = MyProcPid;
	entry->last_at = now;
	entry->heard = QueueMonotonicUsecs();
	entry->stale = entry->ended = false;
	entry->info_size = info ? VARSIZE(info) : 0;
	if (info)
		memcpy(entry->info, info, entry->info_size);
}

/*
 * Caller holds the lock exclusively: one silent worker is forgotten, if there
 * is one.  Where no maintenance worker runs, nobody has marked it.
 */
static void
make_room(void)
{
	int64		timeout = queue_worker_timeout > 0 ? (int64) queue_worker_timeout * 1000 :
		FORGET_AFTER;
	int64		now = QueueMonotonicUsecs();
	Heartbeat  *oldest = NULL;

	for (int i = 0; i < table.size; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, i);

		if (entry && (entry->stale || now - entry->heard >= timeout) &&
			(oldest == NULL || entry->heard < oldest->heard))
			oldest = entry;
	}
	if (oldest)
		QueueTableRemove(&table, oldest);
}

/* caller holds the lock exclusively; NULL: the table is full of living workers */
static Heartbeat *
add_entry(uint32 hash, Oid live_id, const char *name, int length, TimestampTz now)
{
	Heartbeat  *entry = QueueTableAdd(&table, hash);

	if (entry == NULL)
	{
		make_room();
		entry = QueueTableAdd(&table, hash);
	}
	if (entry == NULL)
		return NULL;
	entry->database_id = MyDatabaseId;
	entry->live_id = live_id;
	entry->role = GetUserId();
	memcpy(entry->name, name, length);
	entry->name[length] = '\0';
	entry->first_at = now;
	entry->done = entry->failed = entry->usecs = 0;
	return entry;
}

Datum
queue_heartbeat(PG_FUNCTION_ARGS)
{
	Oid			live_id;
	text	   *worker;
	char	   *name;
	int			length;
	int32		queue_id = 0;
	Jsonb	   *info = NULL;
	TimestampTz now;
	uint32		hash;
	Heartbeat  *entry;

	QueueRequireRunning("queue.heartbeat()");
	worker = QueueArgText(fcinfo, 0, "worker");
	check_name(worker);
	if (!PG_ARGISNULL(2))
	{
		QueueCheckSmallJsonb(PG_GETARG_DATUM(2), "info", INFO_MAX);
		info = PG_GETARG_JSONB_P(2);
	}
	if (PG_ARGISNULL(1))
		require_some_queue();
	else
	{
		QueueSettings settings;

		QueueSettingsRequire(PG_GETARG_TEXT_PP(1), PRIVILEGE_DEQUEUE, &settings);
		queue_id = settings.queue_id;
	}

	name = VARDATA_ANY(worker);
	length = VARSIZE_ANY_EXHDR(worker);
	live_id = QueueCatalogGet(false)->live;
	hash = hash_of(live_id, GetUserId(), name, length);
	now = GetCurrentTimestamp();
	LWLockAcquire(table.lock, LW_SHARED);
	entry = find(hash, live_id, GetUserId(), name, length);
	if (entry)
	{
		SpinLockAcquire(&entry->link.mutex);
		change_entry(entry, queue_id, info, now);
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);
	if (entry)
		PG_RETURN_VOID();

	LWLockAcquire(table.lock, LW_EXCLUSIVE);
	entry = find(hash, live_id, GetUserId(), name, length);
	if (entry == NULL)
		entry = add_entry(hash, live_id, name, length, now);
	if (entry)
		change_entry(entry, queue_id, info, now);
	LWLockRelease(table.lock);
	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many workers"),
				 errdetail("There is room for %d, over all databases, and all of them live.",
						   queue_max_workers),
				 errhint("Consider increasing the configuration parameter \"queue.max_workers\".")));
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------------
 * The workers of this installation, and the jobs that they hold
 * --------------------------------------------------------------------- */

typedef struct Roster
{
	Heartbeat  *workers;		/* copies, ordered by name */
	int			count;

	/* the jobs that each is at, for the view */
	int64	   *job_id;
	TimestampTz *job_since;

	/* the queue that is being walked, and what roles may do with it */
	const QueueSettings *settings;
	Oid		   *roles;
	bool	   *may;
	int			num_roles;

	/* the jobs of one that signs off */
	text	   *leaver;
	int64	   *held;
	int			num_held;
	int			max_held;

	/* to end leases */
	TimestampTz now;
	QueueSlot  *slot;
	int64		ended;
	bool		missed;			/* somebody has the row in hands */
} Roster;

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const Heartbeat *) a)->name, ((const Heartbeat *) b)->name);
}

static void
read_roster(Roster *roster)
{
	Oid			live_id = QueueCatalogGet(false)->live;
	int			room = (int) pg_atomic_read_u32(table.count);

	memset(roster, 0, sizeof(*roster));
	roster->workers = palloc_extended(sizeof(Heartbeat) * Max(room, 1), MCXT_ALLOC_HUGE);
	LWLockAcquire(table.lock, LW_SHARED);
	/* one that is new by now is for the next time */
	for (int i = 0; i < table.size && roster->count < room; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, i);

		if (entry == NULL || entry->database_id != MyDatabaseId || entry->live_id != live_id)
			continue;
		SpinLockAcquire(&entry->link.mutex);
		roster->workers[roster->count] = *entry;
		SpinLockRelease(&entry->link.mutex);
		/* what the copy has no use for: where it comes from */
		roster->workers[roster->count++].link.next = i;
	}
	LWLockRelease(table.lock);
	qsort(roster->workers, roster->count, sizeof(Heartbeat), compare_names);
	roster->roles = palloc(sizeof(Oid) * Max(roster->count, 1));
	roster->may = palloc(sizeof(bool) * Max(roster->count, 1));
}

/* may the worker have taken jobs from the queue that is being walked? */
static bool
serves(Roster *roster, const Heartbeat *worker)
{
	if (worker->queue_id != 0 && worker->queue_id != roster->settings->queue_id)
		return false;
	for (int i = 0; i < roster->num_roles; i++)
		if (roster->roles[i] == worker->role)
			return roster->may[i];
	roster->roles[roster->num_roles] = worker->role;
	roster->may[roster->num_roles] = (QueuePrivilegesOf(roster->settings, worker->role) &
									  (PRIVILEGE_DEQUEUE | PRIVILEGE_ADMIN)) != 0;
	return roster->may[roster->num_roles++];
}

/* the first worker of the name that a row bears; -1: none */
static int
first_of_name(const Roster *roster, HeapTuple row)
{
	Datum		tail[JOB_TAIL];
	bool		nulls[JOB_TAIL];
	text	   *worker;
	char		name[NAME_MAX_BYTES + 1];
	int			length,
				low = 0,
				high = roster->count;

	if (!job_has(row, JOB_WORKER))
		return -1;
	QueueJobTail(row, tail, nulls);
	worker = DatumGetTextPP(tail[JOB_WORKER - JOB_STATE - 1]);
	length = VARSIZE_ANY_EXHDR(worker);
	if (length > NAME_MAX_BYTES)
		return -1;
	memcpy(name, VARDATA_ANY(worker), length);
	name[length] = '\0';
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (strcmp(roster->workers[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < roster->count && strcmp(roster->workers[low].name, name) == 0 ? low : -1;
}

#define EACH_OF_NAME(roster, i, first) \
	for (int i = (first); i >= 0 && i < (roster)->count && \
		 strcmp((roster)->workers[i].name, (roster)->workers[first].name) == 0; i++)

typedef void (*VisitJob) (Roster *roster, QueueStore *live, HeapTuple row, ItemPointer tid);

/*
 * Visit the held jobs of a queue: of each class, what lies from the floor to
 * the last active job.  One whose claim becomes visible meanwhile is missed.
 */
static void
walk_held(Roster *roster, const QueueSettings *settings, VisitJob visit)
{
	QueueStore	live;
	TimestampTz now = GetCurrentTimestamp();

	roster->settings = settings;
	roster->num_roles = 0;
	roster->slot = QueueXactSlot(settings->queue_id);
	QueueStoreOpen(&live, false);
	for (int order_class = PG_INT16_MIN - 1;
		 QueueStoreNextClass(&live, settings->queue_id, order_class, &order_class);)
	{
		HintSlot   *hint = roster->slot ? QueueHintSlot(roster->slot, order_class, false) : NULL;
		HintKey		from = HINT_KEY_MIN,
					to = HINT_KEY_MAX;
		Snapshot	snapshot;
		QueueScan	scan;
		HeapTuple	row;
		ItemPointerData tid;

		if (hint)
		{
			HintLeases	leases = QueueHintLeases(hint);

			to = QueueHintRead(hint, &from);
			if (HINT_KEY_LT(to, leases.last))
				to = leases.last;
		}
		snapshot = QueueFreshSnapshot();
		QueueScanBegin(&scan, &live, snapshot, settings->queue_id, order_class, from, HINT_KEY_MAX, false);
		while ((row = QueueScanNext(&scan, &tid)) != NULL &&
			   !HINT_KEY_LT(to, job_order_key(JOB_HEAD(row))))
		{
			CHECK_FOR_INTERRUPTS();
			if (job_is_held(JOB_HEAD(row), now))
				visit(roster, &live, row, &tid);
		}
		QueueScanEnd(&scan);
		QueueReleaseSnapshot(snapshot);
	}
	if (roster->ended > 0 || roster->missed)
		QueueStoreClose(&live);
	else
		QueueStoreCloseUnused(&live);
}

/* ---------------------------------------------------------------------
 * Workers that are lost
 * --------------------------------------------------------------------- */

/* one of an extension that was dropped, or of days ago */
static bool
is_forgotten(const Heartbeat *entry, Oid live_id, int64 usecs)
{
	return entry->database_id == MyDatabaseId &&
		(entry->live_id != live_id || (entry->stale && usecs - entry->heard > FORGET_AFTER));
}

bool
QueueHeartbeatLost(Oid live_id, TimestampTz *wake_at)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		usecs = QueueMonotonicUsecs();
	int64		timeout = (int64) queue_worker_timeout * 1000;
	bool		lost = false,
				forget = false;

	if (pg_atomic_read_u32(table.count) == 0)
		return false;
	LWLockAcquire(table.lock, LW_SHARED);
	for (int i = 0; i < table.size; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, i);

		if (entry == NULL || entry->database_id != MyDatabaseId)
			continue;
		SpinLockAcquire(&entry->link.mutex);
		if (!entry->stale && timeout > 0)
		{
			if (usecs - entry->heard >= timeout)
				entry->stale = true;
			else
				*wake_at = Min(*wake_at, now + (timeout - (usecs - entry->heard)));
		}
		lost |= entry->stale && !entry->ended && entry->live_id == live_id;
		forget |= is_forgotten(entry, live_id, usecs);
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);
	if (!forget)
		return lost;

	LWLockAcquire(table.lock, LW_EXCLUSIVE);
	for (int i = 0; i < table.size; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, i);

		if (entry && is_forgotten(entry, live_id, usecs))
			QueueTableRemove(&table, entry);
	}
	LWLockRelease(table.lock);
	return lost;
}

static bool
is_lost(const Heartbeat *worker)
{
	return worker->stale && !worker->ended;
}

/* end the lease of a job if its worker is lost, and no living one may have it */
static void
end_lease(Roster *roster, QueueStore *live, HeapTuple row, ItemPointer tid)
{
	JobHead		before = *JOB_HEAD(row);
	int			first;
	bool		lost = false;
	HeapTuple	copy;

	if (roster->ended >= END_CHUNK || job_session(&before) != 0)
		return;
	first = first_of_name(roster, row);
	EACH_OF_NAME(roster, i, first)
	{
		if (!serves(roster, &roster->workers[i]))
			continue;
		if (!roster->workers[i].stale)
			return;
		lost |= is_lost(&roster->workers[i]);
	}
	if (!lost)
		return;
	copy = heap_copytuple(row);
	JOB_HEAD(copy)->lease_expires_at = roster->now;
	QueueXactNoteLeases(QueueStoreHint(live, &before, roster->slot, true),
						job_lease(JOB_HEAD(copy)));
	if (QueueStoreUpdate(live, tid, &before, roster->slot, copy, false) == TM_Ok)
		roster->ended++;
	else
		roster->missed = true;
	heap_freetuple(copy);
}

/* nothing is left to end: remember it, unless they have been heard of since */
static void
mark_ended(const Roster *roster)
{
	LWLockAcquire(table.lock, LW_SHARED);
	for (int i = 0; i < roster->count; i++)
	{
		const Heartbeat *worker = &roster->workers[i];
		Heartbeat  *entry = QueueTableEntry(&table, worker->link.next);

		if (!is_lost(worker) || entry == NULL || entry->link.use != worker->link.use)
			continue;
		SpinLockAcquire(&entry->link.mutex);
		entry->ended = entry->stale;
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);
}

int64
QueueHeartbeatEndLeases(bool *again)
{
	Roster		roster;
	ListCell   *lc;

	*again = false;
	CommandCounterIncrement();
	read_roster(&roster);
	roster.now = GetCurrentTimestamp();
	foreach(lc, QueueSettingsAll())
	{
		bool		concerned = false;

		roster.settings = lfirst(lc);
		roster.num_roles = 0;
		for (int i = 0; i < roster.count && !concerned; i++)
			concerned = is_lost(&roster.workers[i]) && serves(&roster, &roster.workers[i]);
		if (concerned)
			walk_held(&roster, lfirst(lc), end_lease);
	}
	if (roster.ended > 0)
		QueueXactDead(roster.ended);
	else if (roster.missed)
		*again = true;
	else
		mark_ended(&roster);
	return roster.ended;
}

void
QueueHeartbeatCount(int32 queue_id, int *live, int *stale)
{
	Oid			live_id = QueueCatalogGet(false)->live;

	*live = *stale = 0;
	if (pg_atomic_read_u32(table.count) == 0)
		return;
	LWLockAcquire(table.lock, LW_SHARED);
	for (int i = 0; i < table.size; i++)
	{
		Heartbeat  *entry = QueueTableEntry(&table, i);

		if (entry == NULL || entry->database_id != MyDatabaseId || entry->live_id != live_id)
			continue;
		SpinLockAcquire(&entry->link.mutex);
		if (entry->queue_id == queue_id)
			(*(entry->stale ? stale : live))++;
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);
}

/* ---------------------------------------------------------------------
 * queue.sign_off()
 * --------------------------------------------------------------------- */

/* remember a job of the one that signs off, unless it may be a namesake's, who lives */
static void
collect_held(Roster *roster, QueueStore *live, HeapTuple row, ItemPointer tid)
{
	int			first;

	if (job_is_reserved(JOB_HEAD(row)) || !QueueJobIsOf(row, roster->leaver))
		return;
	first = first_of_name(roster, row);
	EACH_OF_NAME(roster, i, first)
		if (!roster->workers[i].stale && roster->workers[i].role != GetUserId() &&
			serves(roster, &roster->workers[i]))
			return;
	if (roster->num_held >= roster->max_held)
	{
		roster->max_held = Max(64, roster->max_held * 2);
		roster->held = roster->held == NULL ?
			palloc(roster->max_held * sizeof(int64)) :
			repalloc_huge(roster->held, roster->max_held * sizeof(int64));
	}
	roster->held[roster->num_held++] = JOB_HEAD(row)->job_id;
}

Datum
queue_sign_off(PG_FUNCTION_ARGS)
{
	Roster		roster;
	text	   *worker;
	Oid			live_id;
	PendingWork work = {.subid = GetCurrentSubTransactionId(),.left = QueueMonotonicUsecs()};
	ListCell   *lc;

	QueueRequireWritable("queue.sign_off()");
	worker = QueueArgText(fcinfo, 0, "worker");
	check_name(worker);
	require_some_queue();

	live_id = QueueCatalogGet(false)->live;
	if (find_work(hash_of(live_id, GetUserId(), VARDATA_ANY(worker), VARSIZE_ANY_EXHDR(worker)),
				  live_id, VARDATA_ANY(worker), VARSIZE_ANY_EXHDR(worker), &work))
		add_work(&work);
	/* what was taken in this statement must be seen as taken */
	CommandCounterIncrement();
	read_roster(&roster);
	roster.leaver = worker;
	foreach(lc, QueueSettingsAll())
		if (QueuePrivileges(lfirst(lc)) & (PRIVILEGE_DEQUEUE | PRIVILEGE_ADMIN))
			walk_held(&roster, lfirst(lc), collect_held);
	PG_RETURN_INT64(QueueReleaseOf(worker, roster.held, roster.num_held));
}

/* ---------------------------------------------------------------------
 * Under the view queue.worker
 * --------------------------------------------------------------------- */

static bool
may_browse(int32 queue_id)
{
	QueueSettings settings;

	return queue_id != 0 && QueueSettingsById(queue_id, &settings) &&
		(QueuePrivileges(&settings) & PRIVILEGE_BROWSE) != 0;
}

static bool
may_see(Oid role, int32 queue_id)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		has_privs_of_role(GetUserId(), role) || may_browse(queue_id);
}

/* the job that a worker has taken last is the one that it is at */
static void
find_job(Roster *roster, QueueStore *live, HeapTuple row, ItemPointer tid)
{
	JobHead    *job = JOB_HEAD(row);
	int			first = first_of_name(roster, row);

	EACH_OF_NAME(roster, i, first)
		if (!roster->workers[i].stale && serves(roster, &roster->workers[i]) &&
			(roster->job_id[i] == 0 || roster->job_since[i] < job->taken_at))
		{
			roster->job_id[i] = job->job_id;
			roster->job_since[i] = job->taken_at;
		}
}

enum
{
	W_WORKER, W_KIND, W_PID, W_ROLE, W_QUEUE_NAME, W_STATE, W_JOB_ID, W_JOB_SINCE,
	W_STARTED_AT, W_DONE, W_FAILED, W_MEAN_MS, W_LAST_HEARTBEAT, W_INFO
};
#define W_NATTS	(W_INFO + 1)

/* what both kinds have; the others are null until they are set */
static void
fill_worker(Datum *values, bool *nulls, const char *kind, Oid role, int32 queue_id,
			uint64 done, uint64 failed, uint64 usecs)
{
	char	   *role_name = GetUserNameFromId(role, true);
	QueueSettings settings;

	memset(nulls, true, sizeof(bool) * W_NATTS);
#define SET(att, value)	(values[att] = (value), nulls[att] = false)
	SET(W_KIND, CStringGetTextDatum(kind));
	if (role_name)
		SET(W_ROLE, DirectFunctionCall1(namein, CStringGetDatum(role_name)));
	if (queue_id != 0 && QueueSettingsById(queue_id, &settings))
		SET(W_QUEUE_NAME, CStringGetTextDatum(settings.name));
	SET(W_DONE, Int64GetDatum((int64) done));
	SET(W_FAILED, Int64GetDatum((int64) failed));
	if (done + failed > 0)
		SET(W_MEAN_MS, Float8GetDatum((double) usecs / 1000.0 / (double) (done + failed)));
}

static void
put_outside(ReturnSetInfo *rsinfo, const Roster *roster, int i)
{
	const Heartbeat *worker = &roster->workers[i];
	bool		busy = roster->job_id[i] != 0;
	Datum		values[W_NATTS];
	bool		nulls[W_NATTS];

	fill_worker(values, nulls, "outside", worker->role, worker->queue_id, worker->done,
				worker->failed, worker->usecs);
	SET(W_WORKER, CStringGetTextDatum(worker->name));
	SET(W_PID, Int32GetDatum((int32) worker->pid));
	SET(W_STATE, CStringGetTextDatum(worker->stale ? "stale" : busy ? "busy" : "idle"));
	if (busy)
	{
		SET(W_JOB_ID, Int64GetDatum(roster->job_id[i]));
		SET(W_JOB_SINCE, TimestampTzGetDatum(roster->job_since[i]));
	}
	SET(W_STARTED_AT, TimestampTzGetDatum(worker->first_at));
	SET(W_LAST_HEARTBEAT, TimestampTzGetDatum(worker->last_at));
	if (worker->info_size > 0)
	{
		/* where it is a jsonb's, memory is aligned */
		void	   *info = palloc(worker->info_size);

		memcpy(info, worker->info, worker->info_size);
		SET(W_INFO, PointerGetDatum(info));
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_outside_workers(ReturnSetInfo *rsinfo)
{
	Roster		roster;
	int			kept = 0;
	ListCell   *lc;

	if (pg_atomic_read_u32(table.count) == 0)
		return;
	read_roster(&roster);
	for (int i = 0; i < roster.count; i++)
		if (may_see(roster.workers[i].role, roster.workers[i].queue_id))
		{
			if (kept < i)
				roster.workers[kept] = roster.workers[i];
			kept++;
		}
	roster.count = kept;
	if (kept == 0)
		return;
	roster.job_id = palloc0(sizeof(int64) * kept);
	roster.job_since = palloc0(sizeof(TimestampTz) * kept);
	CommandCounterIncrement();
	foreach(lc, QueueSettingsAll())
	{
		bool		concerned = false;

		roster.settings = lfirst(lc);
		roster.num_roles = 0;
		for (int i = 0; i < kept && !concerned; i++)
			concerned = !roster.workers[i].stale && serves(&roster, &roster.workers[i]);
		if (concerned)
			walk_held(&roster, lfirst(lc), find_job);
	}
	for (int i = 0; i < kept; i++)
		put_outside(rsinfo, &roster, i);
}

static const char *const executor_states[] = {
	[EXECUTOR_FREE] = NULL,
	[EXECUTOR_STARTING] = "starting",
	[EXECUTOR_IDLE] = "idle",
	[EXECUTOR_BUSY] = "busy",
	[EXECUTOR_ENDED] = NULL,
};

static void
put_executor(ReturnSetInfo *rsinfo, QueueExecutor *executor, Oid live_id)
{
	QueueExecutor copy;
	Datum		values[W_NATTS];
	bool		nulls[W_NATTS];

	/* not the claims, which are many */
	SpinLockAcquire(&executor->mutex);
	copy.state = executor->state;
	copy.database_id = executor->database_id;
	copy.live_id = executor->live_id;
	copy.owner = executor->owner;
	copy.pid = executor->pid;
	copy.started_at = executor->started_at;
	copy.queue_id = executor->queue_id;
	copy.job_id = executor->job_id;
	copy.job_started_at = executor->job_started_at;
	copy.done = executor->done;
	copy.failed = executor->failed;
	copy.busy_usecs = executor->busy_usecs;
	SpinLockRelease(&executor->mutex);

	if (executor_states[copy.state] == NULL || copy.database_id != MyDatabaseId ||
		copy.live_id != live_id || !may_see(copy.owner, copy.queue_id))
		return;
	fill_worker(values, nulls, "executor", copy.owner, copy.queue_id, copy.done, copy.failed,
				copy.busy_usecs);
	SET(W_WORKER, CStringGetTextDatum(copy.pid != 0 ? psprintf("executor %d", (int) copy.pid) :
									  "executor"));
	if (copy.pid != 0)
		SET(W_PID, Int32GetDatum((int32) copy.pid));
	SET(W_STATE, CStringGetTextDatum(executor_states[copy.state]));
	if (copy.job_id != 0)
	{
		SET(W_JOB_ID, Int64GetDatum(copy.job_id));
		SET(W_JOB_SINCE, TimestampTzGetDatum(copy.job_started_at));
	}
	SET(W_STARTED_AT, TimestampTzGetDatum(copy.started_at));
	SET(W_LAST_HEARTBEAT, TimestampTzGetDatum(GetCurrentTimestamp()));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}
#undef SET

Datum
queue__workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (!QueueSharedReady())
		return (Datum) 0;
	for (int i = 0; i < queue_num_executors; i++)
		put_executor(rsinfo, &QueueExecutors[i], QueueCatalogGet(false)->live);
	put_outside_workers(rsinfo);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * shared.c
 *		Our shared memory: who gets which slot of it, and for how long.
 *
 * There are arrays of fixed size: installations (the extension in one
 * database), queues, hints (one class of one queue), databases (for the
 * launcher) and the server's processes.  Nothing in them is truth.  When an array is used up, its user
 * does without: no hint means that a look starts at the left edge of the
 * index, no queue slot means that there are no counters.  Both are slow and
 * right; the log says so once.  Behind them lie the tables of heartbeat.c and
 * progress.c, which look after themselves.
 *
 * Slots are found by walking their keys under Shared->lock, which happens
 * once per backend and queue; after that a backend remembers index and life
 * number.  The keys are an array of their own: slots are large, and to walk ten
 * thousand of them would take a millisecond.
 *
 * A slot is given back only when no transaction has it pinned: who
 * pins first counts itself in and then compares the life number, who frees
 * first changes the life number and then looks at the count, so at least one
 * of the two notices the other.  Hint slots live and die with their queue.
 *
 * A crash of any backend reinitialises all of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "miscadmin.h"
#include "postmaster/autovacuum.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"

#include "compat.h"
#include "executor.h"
#include "heartbeat.h"
#include "mark.h"
#include "progress.h"
#include "shared.h"

QueueShared *Shared;
Installation *Installations;
QueueSlot  *QueueSlots;
HintSlot   *HintSlots;
DatabaseEntry *DatabaseEntries;
QueueBackend *QueueBackends;
int			queue_num_backends;

/* who has the slot of the same index; changed with it, under Shared->lock */
typedef struct SlotKey
{
	int			installation;	/* -1: free */
	int32		queue_id;
} SlotKey;

static SlotKey *SlotKeys;
static TransactionId *CountedXips;
static LWLockPadded *Locks;

#define NUM_LOCKS	(1 + queue_max_databases + CLASS_LOCKS + 2)

/* what this backend remembers of the slots that it has used */
#define LOCAL_SLOTS		64
typedef struct LocalSlot
{
	Oid			live_id;
	int32		queue_id;
	int			slot;
	uint32		use;
} LocalSlot;
static LocalSlot local_slots[LOCAL_SLOTS];

#ifdef QUEUE_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook;
#endif
static shmem_startup_hook_type prev_shmem_startup_hook;

/* entries that a snapshot can have at most: a process or prepared each */
int
QueueMaxSnapshotXids(void)
{
	/* MaxBackends is not known yet when PostgreSQL 14 asks; some to spare */
	return MaxConnections + queue_autovacuum_slots + max_worker_processes +
		max_wal_senders + max_prepared_xacts + 32;
}

static Size
shared_size(void)
{
	Size		size = MAXALIGN(sizeof(QueueShared));

	size = add_size(size, mul_size(queue_max_databases, sizeof(Installation)));
	size = add_size(size, mul_size(queue_max_databases, sizeof(DatabaseEntry)));
	size = add_size(size, mul_size(queue_max_queues, sizeof(QueueSlot)));
	size = add_size(size, mul_size(queue_max_queues, sizeof(SlotKey)));
	size = add_size(size, mul_size(queue_max_hints, sizeof(HintSlot)));
	size = add_size(size, mul_size(mul_size(queue_max_databases, QueueMaxSnapshotXids()),
								   sizeof(TransactionId)));
	size = add_size(size, mul_size(QueueMaxSnapshotXids(), sizeof(QueueBackend)));
	size = add_size(size, mul_size(max_worker_processes, sizeof(QueueExecutor)));
	size = add_size(size, mul_size(max_worker_processes, sizeof(QueueMark)));
	size = add_size(size, QueueHeartbeatSize());
	size = add_size(size, QueueProgressSize());
	return add_size(size, 16 * MAXIMUM_ALIGNOF);
}

static void
request_shared(void)
{
#ifdef QUEUE_HAVE_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("queue", NUM_LOCKS);
}

/* the next piece of the segment */
static void *
carve(char **at, Size size)
{
	void	   *piece = *at;

	*at += MAXALIGN(size);
	return piece;
}

static void
startup_shared(void)
{
	bool		found;
	char	   *at;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	at = ShmemInitStruct("queue", shared_size(), &found);
	Locks = GetNamedLWLockTranche("queue");
	if (!found)
		memset(at, 0, shared_size());
	Shared = carve(&at, sizeof(QueueShared));
	Installations = carve(&at, sizeof(Installation) * queue_max_databases);
	DatabaseEntries = carve(&at, sizeof(DatabaseEntry) * queue_max_databases);
	QueueSlots = carve(&at, sizeof(QueueSlot) * queue_max_queues);
	SlotKeys = carve(&at, sizeof(SlotKey) * queue_max_queues);
	HintSlots = carve(&at, sizeof(HintSlot) * queue_max_hints);
	CountedXips = carve(&at, sizeof(TransactionId) * QueueMaxSnapshotXids() *
						queue_max_databases);
	/* ordinary processes come first in the server's array, and bear its numbers */
	queue_num_backends = QueueMaxSnapshotXids();
	QueueBackends = carve(&at, sizeof(QueueBackend) * queue_num_backends);
	queue_num_executors = max_worker_processes;
	QueueExecutors = carve(&at, sizeof(QueueExecutor) * queue_num_executors);
	QueueMarks = carve(&at, sizeof(QueueMark) * queue_num_executors);
	QueueHeartbeatInit(carve(&at, QueueHeartbeatSize()), &Locks[NUM_LOCKS - 2].lock, found);
	QueueProgressInit(carve(&at, QueueProgressSize()), &Locks[NUM_LOCKS - 1].lock, found);
	if (!found)
	{
		Shared->lock = &Locks[0].lock;
		pg_atomic_init_u64(&Shared->started_at, 0);
		pg_atomic_init_u64(&Shared->worker_denied_at, 0);
#ifdef QUEUE_TESTING
		pg_atomic_init_u32(&Shared->mutation, 0);
#endif
		for (int i = 0; i < queue_max_databases; i++)
		{
			Installation *installation = &Installations[i];

			pg_atomic_init_u64(&installation->wake_at, 0);
			pg_atomic_init_u64(&installation->dead, 0);
			pg_atomic_init_u32(&installation->restorer, 0);
			pg_atomic_init_u32(&installation->recount, 0);
			pg_atomic_init_u32(&installation->late_slots, 0);
			pg_atomic_init_u32(&installation->batches, 0);
			pg_atomic_init_u32(&installation->events, 0);
			pg_atomic_init_u32(&installation->idle, 0);
			pg_atomic_init_u32(&installation->grow, 0);
			pg_atomic_init_u32(&installation->served_generation, 0);
			pg_atomic_init_u32(&installation->settings_changed, 0);
			SpinLockInit(&installation->check_mutex);
			pg_atomic_init_u64(&installation->round_at, 0);
			pg_atomic_init_u64(&installation->clock_jumped_at, 0);
			pg_atomic_init_u64(&installation->clock_jump, 0);
			SpinLockInit(&installation->sample_mutex);
			pg_atomic_init_u32(&installation->session_ended, 0);
			for (int r = 0; r < 2; r++)
				for (int leaf = 0; leaf < lengthof(installation->leaf_mark[r]); leaf++)
					pg_atomic_init_u64(&installation->leaf_mark[r][leaf], 0);
		}
		for (int i = 0; i < queue_max_queues; i++)
		{
			QueueSlot  *slot = &QueueSlots[i];

			slot->installation = SlotKeys[i].installation = -1;
			slot->first_hint = -1;
			pg_atomic_init_u32(&slot->pins, 0);
			pg_atomic_init_u32(&slot->use, 0);
			pg_atomic_init_u32(&slot->touched, 0);
			pg_atomic_init_u32(&slot->dependents, 0);
			pg_atomic_init_u32(&slot->classes_generation, 0);
			pg_atomic_init_u32(&slot->waiters, 0);
			SpinLockInit(&slot->wait_mutex);
			slot->first_waiter = slot->last_waiter = -1;
			pg_atomic_init_u32(&slot->running, 0);
			pg_atomic_init_u32(&slot->ready, 0);
			pg_atomic_init_u64(&slot->no_calls_until, 0);
			slot->alarm = PG_INT64_MAX;
			SpinLockInit(&slot->limit_mutex);
			SpinLockInit(&slot->event_mutex);
			pg_atomic_init_u32(&slot->limited, 0);
			pg_atomic_init_u64(&slot->throttled_until, 0);
			pg_atomic_init_u64(&slot->throttle_saved, 0);
			pg_atomic_init_u32(&slot->throttle_steps, 0);
			pg_atomic_init_u64(&slot->taker_at, 0);
			pg_atomic_init_u64(&slot->completed_at, 0);
			SpinLockInit(&slot->sample_mutex);
			for (int c = 0; c < NUM_COUNTS; c++)
				pg_atomic_init_u64(&slot->count[c], 0);
			QueueTotalsInit(&slot->totals, true);
		}
		for (int i = 0; i < queue_max_hints; i++)
		{
			SpinLockInit(&HintSlots[i].mutex);
			HintSlots[i].queue = -1;
		}
		for (int i = 0; i < queue_num_backends; i++)
			pg_atomic_init_u32(&QueueBackends[i].session, 0);
		for (int i = 0; i < queue_num_executors; i++)
			SpinLockInit(&QueueExecutors[i].mutex);
		QueueTotalsLoad();
		QueueMarksRead();
	}
	LWLockRelease(AddinShmemInitLock);
	QueueTotalsSaveAtExit();
}

void
QueueSharedInit(void)
{
#ifdef QUEUE_HAVE_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared;
#else
	request_shared();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared;
}

QueueBackend *
QueueMyBackend(void)
{
	int			number = MyProc - ProcGlobal->allProcs;

	return number < queue_num_backends ? &QueueBackends[number] : NULL;
}

LWLock *
QueueCountLock(const Installation *installation)
{
	return &Locks[1 + (installation - Installations)].lock;
}

TransactionId *
QueueCountedXip(const Installation *installation)
{
	return &CountedXips[(installation - Installations) * QueueMaxSnapshotXids()];
}

LWLock *
QueueClassLock(const QueueSlot *slot)
{
	return &Locks[1 + queue_max_databases + (slot - QueueSlots) % CLASS_LOCKS].lock;
}

/* say once, until a slot is freed, that an array is used up */
static void
log_full(const char *setting)
{
	Assert(LWLockHeldByMeInMode(Shared->lock, LW_EXCLUSIVE));

	if (Shared->full_logged)
		return;
	Shared->full_logged = true;
	ereport(LOG,
			(errmsg("queue has no room left in shared memory"),
			 errdetail("Some queues go without counters or hints and are slower."),
			 errhint("Consider increasing the configuration parameter \"%s\".", setting)));
}

static Installation *
find_installation(Oid live_id)
{
	for (int i = 0; i < queue_max_databases; i++)
		if (Installations[i].database_id == MyDatabaseId &&
			Installations[i].live_id == live_id)
			return &Installations[i];
	return NULL;
}

Installation *
QueueInstallationFind(Oid live_id)
{
	Installation *installation;

	LWLockAcquire(Shared->lock, LW_SHARED);
	installation = find_installation(live_id);
	LWLockRelease(Shared->lock);
	return installation;
}

Installation *
QueueInstallation(Oid live_id)
{
	static Installation *known;
	Installation *installation;

	/*
	 * Installations are freed only after DROP EXTENSION or DROP DATABASE, so
	 * a stale pointer fails this test, or serves the same extension again.
	 */
	if (known && known->database_id == MyDatabaseId && known->live_id == live_id)
		return known;

	installation = QueueInstallationFind(live_id);
	if (installation)
		return known = installation;

	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	installation = find_installation(live_id);
	for (int i = 0; installation == NULL && i < queue_max_databases; i++)
	{
		if (OidIsValid(Installations[i].database_id))
			continue;
		installation = &Installations[i];
		installation->maintenance = NULL;
		installation->counted = false;
		installation->incomplete = installation->short_of_slots = false;
		installation->check_all = true;
		installation->num_checks = 0;
		installation->num_samples = 0;
		pg_atomic_write_u64(&installation->round_at, 0);
		for (int r = 0; r < 2; r++)
			for (int leaf = 0; leaf < lengthof(installation->leaf_mark[r]); leaf++)
				pg_atomic_write_u64(&installation->leaf_mark[r][leaf], 0);
		pg_atomic_write_u64(&installation->wake_at, PG_INT64_MAX);
		pg_atomic_write_u64(&installation->dead, 0);
		pg_atomic_write_u32(&installation->restorer, 0);
		pg_atomic_write_u32(&installation->recount, 1);
		pg_atomic_write_u32(&installation->batches, 2);
		installation->live_id = live_id;
		installation->database_id = MyDatabaseId;
	}
	if (installation == NULL)
		log_full("queue.max_databases");
	LWLockRelease(Shared->lock);
	return known = installation;
}

void
QueueCheckAdd(Installation *installation, int64 job_id)
{
	Latch	   *latch = installation->maintenance;

	SpinLockAcquire(&installation->check_mutex);
	if (job_id != 0 && installation->num_checks < MAX_CHECKS)
		installation->checks[installation->num_checks++] = job_id;
	else
		installation->check_all = true;
	SpinLockRelease(&installation->check_mutex);
	if (latch)
		SetLatch(latch);
}

int
QueueCheckTake(Installation *installation, int64 *job_ids, bool *all)
{
	int			count;

	SpinLockAcquire(&installation->check_mutex);
	count = installation->num_checks;
	memcpy(job_ids, installation->checks, count * sizeof(int64));
	*all = installation->check_all;
	installation->num_checks = 0;
	installation->check_all = false;
	SpinLockRelease(&installation->check_mutex);
	return count;
}

void
QueueBatchesNote(Installation *installation, bool closed)
{
	Latch	   *latch = installation->maintenance;
	uint32		old = 0;

	/* one that has not looked since it was woken will look */
	if (closed)
		old = pg_atomic_exchange_u32(&installation->batches, 2) == 2;
	else
		(void) pg_atomic_compare_exchange_u32(&installation->batches, &old, 1);
	if (old == 0 && latch)
		SetLatch(latch);
}

static QueueSlot *
find_slot(int installation, int32 queue_id)
{
	for (int i = 0; i < queue_max_queues; i++)
		if (SlotKeys[i].installation == installation && SlotKeys[i].queue_id == queue_id)
			return &QueueSlots[i];
	return NULL;
}

/* is it free, and are the totals in it those of this queue before the start? */
static bool
is_saved(const QueueSlot *slot, const Installation *installation, int32 queue_id)
{
	return slot->installation == -1 && slot->queue_id == queue_id &&
		OidIsValid(slot->saved_database_id) &&
		slot->saved_database_id == installation->database_id &&
		slot->saved_live_id == installation->live_id;
}

/* a free slot: the one with the queue's totals, or one with nobody's, or any */
static QueueSlot *
free_slot_for(const Installation *installation, int32 queue_id)
{
	QueueSlot  *best = NULL;
	int			first = queue_max_queues;

	for (int i = Shared->first_free_queue; i < queue_max_queues; i++)
	{
		QueueSlot  *slot = &QueueSlots[i];

		if (SlotKeys[i].installation != -1)
			continue;
		first = Min(first, i);
		if (!Shared->any_saved || is_saved(slot, installation, queue_id))
		{
			best = slot;
			break;
		}
		if (best == NULL ||
			(OidIsValid(best->saved_database_id) && !OidIsValid(slot->saved_database_id)))
			best = slot;
	}
	Shared->first_free_queue = first;
	return best;
}

/* caller holds Shared->lock exclusively */
static QueueSlot *
make_slot(int installation, int32 queue_id)
{
	QueueSlot  *slot = free_slot_for(&Installations[installation], queue_id);

	if (slot)
	{
		Assert(slot->first_hint == -1);
		if (!is_saved(slot, &Installations[installation], queue_id))
			QueueTotalsInit(&slot->totals, false);
		slot->saved_database_id = InvalidOid;
		slot->classes_known = false;
		slot->served = InvalidOid;
		pg_atomic_write_u32(&slot->ready, 0);
		pg_atomic_write_u64(&slot->no_calls_until, 0);
		pg_atomic_write_u32(&slot->dependents, 1);	/* nobody knows */
		for (int c = 0; c < NUM_COUNTS; c++)
			pg_atomic_write_u64(&slot->count[c], 0);
		/* who held places has pinned it, so all are back */
		Assert(slot->places == 0);
		slot->rate_full_at = PG_INT64_MIN;
		slot->throttle_loaded = false;
		pg_atomic_write_u32(&slot->limited, 0);
		pg_atomic_write_u64(&slot->throttled_until, 0);
		pg_atomic_write_u64(&slot->throttle_saved, 0);
		pg_atomic_write_u32(&slot->throttle_steps, 0);
		memset(slot->event, 0, sizeof(slot->event));
		slot->event_batch_id[0] = '\0';
		pg_atomic_write_u64(&slot->taker_at, 0);
		pg_atomic_write_u64(&slot->completed_at, 0);
		slot->num_samples = 0;
		slot->queue_id = queue_id;
		slot->installation = installation;
		SlotKeys[slot - QueueSlots] = (SlotKey) {installation, queue_id};
		/*
		 * A queue that had to do without until now was not counted.  Transactions
		 * that have changed it meanwhile tell so: see QueueXactSlot().
		 */
		if (Installations[installation].incomplete)
		{
			Installations[installation].incomplete = false;
			pg_atomic_fetch_add_u32(&Installations[installation].late_slots, 1);
			pg_atomic_write_u32(&Installations[installation].recount, 1);
		}
		return slot;
	}
	Installations[installation].incomplete = true;
	log_full("queue.max_queues");
	return NULL;
}

/* count ourselves in; false if the slot has begun another life meanwhile */
static bool
pin_slot(QueueSlot *slot, uint32 use)
{
	pg_atomic_fetch_add_u32(&slot->pins, 1);
	if (pg_atomic_read_u32(&slot->use) == use)
	{
		if (pg_atomic_read_u32(&slot->touched) == 0)
			pg_atomic_write_u32(&slot->touched, 1);
		return true;
	}
	pg_atomic_fetch_sub_u32(&slot->pins, 1);
	return false;
}

QueueSlot *
QueueSlotPin(Oid live_id, int32 queue_id)
{
	LocalSlot  *local = &local_slots[(uint32) queue_id % LOCAL_SLOTS];
	Installation *installation;
	QueueSlot  *slot;

	if (local->live_id == live_id && local->queue_id == queue_id &&
		pin_slot(&QueueSlots[local->slot], local->use))
		return &QueueSlots[local->slot];

	installation = QueueInstallation(live_id);
	if (installation == NULL)
		return NULL;

	LWLockAcquire(Shared->lock, LW_SHARED);
	slot = find_slot(installation - Installations, queue_id);
	if (slot == NULL)
	{
		LWLockRelease(Shared->lock);
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		slot = find_slot(installation - Installations, queue_id);
		if (slot == NULL)
			slot = make_slot(installation - Installations, queue_id);
	}
	if (slot)
	{
		local->live_id = live_id;
		local->queue_id = queue_id;
		local->slot = slot - QueueSlots;
		local->use = pg_atomic_read_u32(&slot->use);
		/* nobody frees a slot while we hold the lock */
		if (!pin_slot(slot, local->use))
			Assert(false);
	}
	LWLockRelease(Shared->lock);
	return slot;
}

void
QueueSlotUnpin(QueueSlot *slot)
{
	pg_atomic_fetch_sub_u32(&slot->pins, 1);
}

/* caller holds Shared->lock exclusively */
static HintSlot *
make_hint(QueueSlot *slot, int order_class)
{
	for (int i = Shared->first_free_hint; i < queue_max_hints; i++)
	{
		HintSlot   *hint = &HintSlots[i];

		Shared->first_free_hint = i;
		if (hint->queue != -1)
			continue;
		hint->order_class = order_class;
		hint->hint = HINT_KEY_MIN;
		hint->floor = HINT_KEY_MIN;
		hint->generation = 0;
		hint->cells_used = 0;
		hint->leases = HINT_ANY_LEASES;
		hint->queue = slot - QueueSlots;
		hint->next = -1;
		return hint;
	}
	log_full("queue.max_hints");
	return NULL;
}

/* what this backend remembers of them: hints live as long as their queue's slot */
#define LOCAL_HINTS		16
typedef struct LocalHint
{
	QueueSlot  *slot;
	uint32		use;
	int			order_class;
	HintSlot   *hint;
} LocalHint;
static LocalHint local_hints[LOCAL_HINTS];

HintSlot *
QueueHintSlot(QueueSlot *slot, int order_class, bool create)
{
	LocalHint  *local = &local_hints[((slot - QueueSlots) + (uint32) order_class) % LOCAL_HINTS];
	uint32		use = pg_atomic_read_u32(&slot->use);
	LWLock	   *lock = QueueClassLock(slot);
	HintSlot   *hint = NULL;
	int		   *link;

	Assert(pg_atomic_read_u32(&slot->pins) > 0);

	if (local->slot == slot && local->use == use && local->order_class == order_class)
		return local->hint;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = slot->first_hint; i >= 0 && hint == NULL; i = HintSlots[i].next)
		if (HintSlots[i].order_class == order_class)
			hint = &HintSlots[i];
	LWLockRelease(lock);
	if (hint)
		*local = (LocalHint) {slot, use, order_class, hint};
	if (hint || !create)
		return hint;

	/* lock order: Shared->lock, then a class lock */
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (link = &slot->first_hint; *link >= 0; link = &HintSlots[*link].next)
		if (HintSlots[*link].order_class >= order_class)
			break;
	if (*link >= 0 && HintSlots[*link].order_class == order_class)
		hint = &HintSlots[*link];
	else
	{
		hint = make_hint(slot, order_class);
		if (hint)
		{
			hint->next = *link;
			*link = hint - HintSlots;
		}
		else
			slot->classes_known = false;
		pg_atomic_fetch_add_u32(&slot->classes_generation, 1);
	}
	LWLockRelease(lock);
	LWLockRelease(Shared->lock);
	return hint;
}

/* caller holds Shared->lock exclusively; false if the slot is in use */
static bool
free_slot(QueueSlot *slot)
{
	/* first change the life number, then look at the count: see the top */
	pg_atomic_fetch_add_u32(&slot->use, 1);
	if (pg_atomic_read_u32(&slot->pins) != 0)
		return false;

	while (slot->first_hint >= 0)
	{
		HintSlot   *hint = &HintSlots[slot->first_hint];

		slot->first_hint = hint->next;
		Assert(hint->cells_used == 0);
		hint->queue = -1;
		Shared->first_free_hint = Min(Shared->first_free_hint, (int) (hint - HintSlots));
	}
	/* who waits has pinned it */
	Assert(slot->first_waiter == -1 && pg_atomic_read_u32(&slot->waiters) == 0);
	slot->installation = SlotKeys[slot - QueueSlots].installation = -1;
	Shared->first_free_queue = Min(Shared->first_free_queue, (int) (slot - QueueSlots));
	Shared->full_logged = false;
	return true;
}

/*
 * Free the slots of queues that are gone.  known() tells, under a snapshot
 * taken after it was first called with -1, whether a queue exists.
 *
 * A slot that no transaction held before that snapshot, nor has touched
 * since, belongs to no queue that was created meanwhile.
 */
void
QueueSharedFreeQueues(Oid live_id, bool (*known) (int32 queue_id, void *arg), void *arg)
{
	Installation *installation = QueueInstallation(live_id);
	bool	   *candidate = palloc0(sizeof(bool) * queue_max_queues);

	if (installation == NULL)
		return;
	LWLockAcquire(Shared->lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueSlot  *slot = &QueueSlots[i];

		if (slot->installation != installation - Installations)
			continue;
		pg_atomic_write_u32(&slot->touched, 0);
		pg_memory_barrier();
		candidate[i] = pg_atomic_read_u32(&slot->pins) == 0;
	}
	LWLockRelease(Shared->lock);

	(void) known(-1, arg);
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueSlot  *slot = &QueueSlots[i];

		if (!candidate[i] || known(slot->queue_id, arg))
			continue;
		LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
		if (pg_atomic_read_u32(&slot->touched) == 0)
			(void) free_slot(slot);
		LWLockRelease(Shared->lock);
	}
	pfree(candidate);
}

/*
 * Free what belongs to the extension in a database, but not to the one whose
 * job_live is keep_live_id, if any.
 */
void
QueueSharedFreeInstallations(Oid database_id, Oid keep_live_id)
{
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_databases; i++)
	{
		Installation *installation = &Installations[i];
		bool		free = true;

		if (installation->database_id != database_id ||
			installation->live_id == keep_live_id)
			continue;
		for (int q = 0; q < queue_max_queues; q++)
			if (QueueSlots[q].installation == i && !free_slot(&QueueSlots[q]))
				free = false;
		if (free)
			installation->database_id = installation->live_id = InvalidOid;
	}
	LWLockRelease(Shared->lock);
}

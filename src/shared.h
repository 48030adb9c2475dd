/*-------------------------------------------------------------------------
 *
 * shared.h
 *		The layout of our shared memory.
 *
 * Only shared.c allocates and frees slots; hint.c works on HintSlot,
 * stats.c on the counters, total.c on what has happened, wait.c on the lists of waiters, limit.c on what
 * may be taken, launcher.c on DatabaseEntry.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SHARED_H
#define QUEUE_SHARED_H

#include "access/transam.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "queue.h"
#include "total.h"

/* classes beside those of the priorities, which are smallints */
#define CLASS_PARKED	40000	/* the due times of parked jobs */
#define CLASS_NONE		50000	/* in queue._prepared: counters only */

#define MAX_CHECKS		256

#define HINT_RING		64
#define HINT_CELLS		16

/* position of a job in the order of its class */
typedef struct HintKey
{
	int64		at;
	int64		id;
} HintKey;

#define HINT_KEY_MIN	((HintKey) {PG_INT64_MIN, PG_INT64_MIN})
#define HINT_KEY_MAX	((HintKey) {PG_INT64_MAX, PG_INT64_MAX})

static inline int
hint_key_cmp(HintKey a, HintKey b)
{
	if (a.at != b.at)
		return a.at < b.at ? -1 : 1;
	if (a.id != b.id)
		return a.id < b.id ? -1 : 1;
	return 0;
}

#define HINT_KEY_LT(a, b)	(hint_key_cmp(a, b) < 0)

/* what is known about the leases in a class */
typedef struct HintLeases
{
	TimestampTz expiry;			/* none ends before it */
	HintKey		last;			/* no active job sorts behind it */
	bool		bound;			/* one may end with a session */
} HintLeases;

#define HINT_NO_LEASES		((HintLeases) {PG_INT64_MAX, HINT_KEY_MIN, false})
#define HINT_ANY_LEASES		((HintLeases) {PG_INT64_MIN, HINT_KEY_MAX, true})

/* is there any? */
static inline bool
hint_has_leases(HintLeases leases)
{
	return leases.expiry != PG_INT64_MAX || leases.bound;
}

static inline void
hint_add_lease(HintLeases *leases, TimestampTz expires_at, HintKey key)
{
	if (expires_at < leases->expiry)
		leases->expiry = expires_at;
	if (HINT_KEY_LT(leases->last, key))
		leases->last = key;
}

static inline void
hint_add_leases(HintLeases *leases, HintLeases more)
{
	hint_add_lease(leases, more.expiry, more.last);
	leases->bound |= more.bound;
}

/* where the next look at one class of a queue may begin; see hint.c */
typedef struct HintSlot
{
	slock_t		mutex;			/* guards all below but the first three */
	int			queue;			/* index of its QueueSlot; set once */
	int			order_class;	/* set once */
	int			next;			/* slot of the next class, or -1; class lock */
	HintKey		hint;			/* no claimable job sorts before it */
	HintKey		floor;			/* no unfinished job sorts before it */
	uint64		generation;		/* counts notes */
	uint32		cells_used;		/* bit per cell */
	HintLeases	leases;
	HintKey		cell[HINT_CELLS];	/* least key noted since the look began */
	HintKey		ring[HINT_RING];	/* the last keys noted */
} HintSlot;

/* what is told of a queue by NOTIFY; see event.c */
typedef enum QueueEvent
{
	EVENT_ENQUEUED,
	EVENT_COMPLETED,
	EVENT_FAILED,
	EVENT_CANCELLED,
	EVENT_RETRIED,
	EVENT_STALLED,
	EVENT_BATCH_COMPLETED
} QueueEvent;
#define NUM_EVENTS	(EVENT_BATCH_COMPLETED + 1)

typedef struct SlotEvent
{
	int64		count;			/* how often it has happened */
	int64		job_id;			/* the last one's; 0: none */
	char		state;			/* and what it was left in; 0: not told */
} SlotEvent;

#define EVENT_BATCH_ID	128		/* bytes of a batch's name that is told, with its end */

/* what health.c keeps of the last minutes of a queue, and of an installation */
#define HEALTH_SAMPLES	16

typedef enum AttemptEnd
{
	ATTEMPT_COMPLETED,
	ATTEMPT_FAILED,
	ATTEMPT_STALLED
} AttemptEnd;
#define NUM_ATTEMPT_ENDS	(ATTEMPT_STALLED + 1)

typedef struct QueueSample
{
	TimestampTz at;
	int64		waiting;		/* -1: not known */
	uint64		ended[NUM_ATTEMPT_ENDS];	/* since a reset */
} QueueSample;

typedef struct InstallationSample
{
	TimestampTz at;
	FullTransactionId next_xid;
	int64		updates;		/* of job_live, since its statistics were reset */
	int64		hot_updates;
} InstallationSample;

/* a queue as shared memory knows it */
typedef struct QueueSlot
{
	pg_atomic_uint32 pins;		/* transactions that hold a pointer */
	pg_atomic_uint32 touched;	/* pinned since the maintenance worker looked */
	int			installation;	/* index, or -1: free; Shared->lock */
	int32		queue_id;		/* same lock */
	pg_atomic_uint32 use;		/* counts the lives of this slot */
	pg_atomic_uint32 classes_generation;	/* counts changes of the list */
	bool		classes_known;	/* every class in the index has a slot; class
								 * lock */
	int			first_hint;		/* its classes, ascending, or -1; class lock */
	pg_atomic_uint32 dependents;	/* other jobs may wait for some of it; see
									 * flow.c */
	pg_atomic_uint64 count[NUM_COUNTS]; /* jobs by state; see stats.c */

	/* takers that wait for a job; see wait.c */
	pg_atomic_uint32 waiters;	/* how many are in the list */
	slock_t		wait_mutex;		/* guards the list, and those who are in it */
	int			first_waiter;	/* numbers of processes, or -1 */
	int			last_waiter;
	uint64		arrivals;		/* counts them */
	uint64		wake_ups;		/* of all of them, so many so far */
	TimestampTz alarm;			/* the first looks then, or infinity */

	/* how many may be taken; see limit.c */
	pg_atomic_uint32 limited;	/* 1: there has been a max_active */
	slock_t		limit_mutex;	/* guards the next three, and who writes on */
	int64		places;			/* of claims whose transactions have not ended */
	int64		rate_full_at;	/* when the bucket is full, nanoseconds */
	bool		throttle_loaded;	/* false: the row may know of one */
	pg_atomic_uint64 throttled_until;	/* 0: not */
	pg_atomic_uint64 throttle_saved;	/* what the row says */
	pg_atomic_uint32 throttle_steps;	/* how often it has doubled */

	/* executors that run its jobs; see pool.c */
	Oid			served;			/* the owner whose executors do, or invalid */
	int			concurrency;	/* how many may at once */
	int			min_workers;	/* how many are kept for it */
	pg_atomic_uint32 running;	/* how many do */
	pg_atomic_uint32 ready;		/* there may be a job for them */

	pg_atomic_uint64 no_calls_until;	/* by workers; see calls.c */

	/* what has not been told yet; see event.c */
	slock_t		event_mutex;
	SlotEvent	event[NUM_EVENTS];
	char		event_batch_id[EVENT_BATCH_ID]; /* of the last batch; empty: none, or too long */

	QueueTotals totals;			/* see total.c */
	/* of a free slot: whose totals these are, with queue_id; Shared->lock */
	Oid			saved_database_id;	/* InvalidOid: nobody's */
	Oid			saved_live_id;

	/* how it does; see health.c */
	pg_atomic_uint64 taker_at;	/* when a taker came last; 0: none has */
	pg_atomic_uint64 completed_at;	/* when a job was completed last; 0: none was */
	slock_t		sample_mutex;	/* guards the next two */
	uint64		num_samples;	/* taken so far; the last ones are kept */
	QueueSample samples[HEALTH_SAMPLES];
} QueueSlot;

typedef enum WaitState
{
	WAIT_NOT,
	WAIT_LISTED,
	WAIT_WOKEN					/* taken off the list by a waker */
} WaitState;

/* one process of the server, by its number */
typedef struct QueueBackend
{
	pg_atomic_uint32 session;	/* its leases bear this number; see session.c */

	/* its wait, under wait_mutex of the queue that it waits for */
	WaitState	state;
	int			previous;		/* in the list, or -1 */
	int			next;
	int			want;			/* how many jobs */
	uint64		arrival;
	uint64		wake_ups;		/* of the list, when it was put there */
} QueueBackend;

/* the extension in one database, from CREATE EXTENSION to DROP EXTENSION */
typedef struct Installation
{
	Oid			database_id;	/* InvalidOid: free; Shared->lock */
	Oid			live_id;		/* OID of its job_live; same lock */
	Latch	   *maintenance;	/* of the maintenance worker; same lock */
	pg_atomic_uint64 wake_at;	/* when it means to look at due times again */
	pg_atomic_uint64 dead;		/* row versions of job_live that died */
	pg_atomic_uint32 recount;	/* the counters are not to be trusted */
	pg_atomic_uint32 session_ended; /* one that may have had bound leases */
	bool		incomplete;		/* some queue got no slot, so is not counted; Shared->lock */
	pg_atomic_uint32 late_slots;	/* counts slots of queues that may have gone without */
	bool		short_of_slots;	/* some queue has none, as the maintenance worker found last */
	pg_atomic_uint32 restorer;	/* process that has put rows into our tables by SQL, or 0 */
	pg_atomic_uint32 batches;	/* 1: jobs of batches have ended, look at them;
								 * 2: one was closed, look at once */
	pg_atomic_uint32 events;	/* there is something to tell; see event.c */

	/* see pool.c */
	pg_atomic_uint32 idle;		/* executors that wait for a job */
	pg_atomic_uint32 grow;		/* there is a job, but no executor for it */
	pg_atomic_uint32 served_generation; /* counts changes of which queues are served */
	pg_atomic_uint32 settings_changed;	/* those of a queue have */

	/* see health.c */
	pg_atomic_uint64 round_at;	/* when the maintenance worker began its round */
	pg_atomic_uint64 clock_jumped_at;	/* 0: never */
	pg_atomic_uint64 clock_jump;	/* by how much, microseconds, with a sign */
	slock_t		sample_mutex;	/* guards the next two */
	uint64		num_samples;
	InstallationSample samples[HEALTH_SAMPLES];

	/* blocked jobs that the maintenance worker is to look at; see place.c */
	slock_t		check_mutex;	/* guards the next three */
	bool		check_all;		/* all there are */
	int			num_checks;
	int64		checks[MAX_CHECKS];

	/* who found a leaf of ring.c expired: full transaction ids, 0: nobody */
	pg_atomic_uint64 leaf_mark[2][16];

	/* the snapshot that the counters were counted under; count lock */
	bool		counted;		/* false: not yet */
	FullTransactionId counted_xmin;
	FullTransactionId counted_xmax;
	int			counted_xcnt;
} Installation;

/* what launcher and utility hook know about a database; Shared->lock */
typedef struct DatabaseEntry
{
	Oid			database_id;	/* InvalidOid: free */
	bool		has_extension;	/* as far as known */
	bool		looked;			/* a worker has been there to see */
	uint32		looks;			/* how often */
	bool		leave;			/* the worker is asked to go */
	pid_t		pid;			/* the maintenance worker, 0: none */
	Latch	   *latch;			/* its latch */
	TimestampTz started_at;		/* when it was started */
	TimestampTz hold_until;		/* start none before */
} DatabaseEntry;

typedef struct QueueShared
{
	LWLock	   *lock;			/* allocation of everything here */
	Latch	   *launcher;		/* its latch, or NULL; lock */
	bool		new_database;	/* the launcher should look; lock */
	bool		full_logged;	/* said once that the slots are used up; lock */
	bool		any_saved;		/* free slots may have totals of before the start; lock */
	int			first_free_queue;	/* no slot below is free; lock */
	int			first_free_hint;	/* likewise */
	pg_atomic_uint64 started_at;	/* when the server began to write; see
									 * limit.c */
	pg_atomic_uint64 worker_denied_at;	/* when a worker found no slot; 0: never */
#ifdef QUEUE_TESTING
	pg_atomic_uint32 mutation;	/* 0: none */
#endif
} QueueShared;

#define CLASS_LOCKS		64

extern QueueShared *Shared;

/* the storm test breaks the hint protocol on purpose, one place at a time */
#ifdef QUEUE_TESTING
#define QUEUE_MUTATION(n)	(pg_atomic_read_u32(&Shared->mutation) == (n))
#else
#define QUEUE_MUTATION(n)	false
#endif

extern Installation *Installations;
extern QueueSlot *QueueSlots;
extern HintSlot *HintSlots;
extern DatabaseEntry *DatabaseEntries;
extern QueueBackend *QueueBackends;
extern int	queue_num_backends;

/* called from _PG_init only */
extern void QueueSharedInit(void);

/* false in a server that did not preload the library */
static inline bool
QueueSharedReady(void)
{
	return Shared != NULL;
}

extern LWLock *QueueCountLock(const Installation *installation);
extern TransactionId *QueueCountedXip(const Installation *installation);
extern int	QueueMaxSnapshotXids(void);

/* this process; NULL: no room, which the count of processes should rule out */
extern QueueBackend *QueueMyBackend(void);
extern LWLock *QueueClassLock(const QueueSlot *slot);

/* our installation in this database, made on demand; NULL: no room */
extern Installation *QueueInstallation(Oid live_id);
/* the same, if there is one; throws nothing */
extern Installation *QueueInstallationFind(Oid live_id);

/* ask the maintenance worker to look at a blocked job; 0: at all */
extern void QueueCheckAdd(Installation *installation, int64 job_id);
/* what is to be looked at: returns how many; *all: all there are */
extern int	QueueCheckTake(Installation *installation, int64 *job_ids, bool *all);

/* jobs of batches have ended, or a batch was closed: wake the worker for it */
extern void QueueBatchesNote(Installation *installation, bool closed);

/*
 * The slot of a queue, pinned, made on demand; NULL: no room.  The caller
 * unpins it at the end of the transaction, and must not lose it before: it
 * records it where the callbacks find it first, see xact.c.
 */
extern QueueSlot *QueueSlotPin(Oid live_id, int32 queue_id);
extern void QueueSlotUnpin(QueueSlot *slot);

/* the hint of one class, made on demand if create; NULL: none, or no room */
extern HintSlot *QueueHintSlot(QueueSlot *slot, int order_class, bool create);

/* free what belongs to dropped queues, extensions and databases */
extern void QueueSharedFreeQueues(Oid live_id, bool (*known) (int32 queue_id, void *arg), void *arg);
extern void QueueSharedFreeInstallations(Oid database_id, Oid keep_live_id);

#endif							/* QUEUE_SHARED_H */

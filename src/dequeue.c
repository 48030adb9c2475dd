/*-------------------------------------------------------------------------
 *
 * dequeue.c
 *		Take jobs: queue.dequeue_batch(), queue.complete_and_dequeue(), and
 *		wait for them: CALL queue.wait().
 *
 * For each class that the queue has jobs in, in order, a look from its hint on
 * takes what nobody holds.  The update that grants the lease is the lock, the
 * claim and the fence in one: if it does not succeed at once, the job is
 * somebody else's and is skipped.  Takers never wait for each other; they
 * raise the hint behind what they are about to look at, or have looked at, so
 * that the next one starts there.
 *
 * An active job whose lease has run out is taken over like any other; if its
 * attempts are used up, it is failed here instead.
 *
 * Before a row is claimed, the limits of the queue are asked (limit.c).  The
 * first that is denied ends the look, and the hint stays there.
 *
 * When the live table has nothing more, due jobs are taken straight out of the
 * parked table.  Usually the maintenance worker has moved them before.
 *
 * A taker that finds nothing may wait; see wait.c.  Until then it holds as
 * little as it can: if the hints say that there is nothing, the tables are not
 * opened, and if nothing was changed in them, their locks are let go.
 * CALL queue.wait() is a taker that takes nothing and holds nothing.
 *
 * The snapshot of a look is taken after its hint was read (see hint.c), and is
 * fresh at every isolation level.  The command counter is advanced before, so
 * that what this transaction has just enqueued, or taken in the same
 * statement, is seen as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "event.h"
#include "dequeue.h"
#include "health.h"
#include "internal.h"
#include "limit.h"
#include "mark.h"
#include "place.h"
#include "progress.h"
#include "scan.h"
#include "settle.h"
#include "wait.h"

QUEUE_FUNCTION(queue_dequeue_batch);
QUEUE_FUNCTION(queue_complete_and_dequeue);
QUEUE_FUNCTION(queue_wait);

#define RAISE_EVERY		16		/* rows between two raises of the hint */
#define PEEK_ROWS		16		/* rows to pass in search of a job for a waiter */

/* the errors of stalled jobs, the same for all, to group by */
#define STALLED_ERROR	"lease expired"
#define ENDED_ERROR		"session ended"
#define REREAD_AFTER	4		/* skipped rows before the hint is read again */
#define RESERVE_TRIES	4		/* while others are quicker */

typedef struct Taker
{
	text	   *name;			/* of the queue */
	QueueSettings settings;
	QueueStore	live;
	QueueSlot  *slot;
	QueueLimit	limit;			/* of what may be taken */
	QueueFinish *finish;		/* made when something is to be logged */
	TimestampTz now;
	int64		visibility_timeout; /* 0: the job's or the queue's */
	text	   *worker;			/* or NULL */
	int64		wait;			/* at most; 0: not */
	bool		only_look;		/* find out whether there is one to take */
	bool		spare_xid;		/* we may wait without a transaction id */
	uint32		session;		/* to bind leases to; 0: none */
	ExecutorClaim *claims;		/* what an executor gets, else NULL */
	int			want;
	int			got;
	bool		took_over;		/* a lease of somebody else */
	bool		entered;		/* due jobs that may need a place */
	HintLeases	taken;			/* in this class */
	HintLeases	held;			/* by others in it */
	Tuplestorestate *result;
	MemoryContext call;			/* for the whole call */
	MemoryContext context;		/* for one job */
} Taker;

static QueueFinish *
taker_finish(Taker *taker)
{
	if (taker->finish == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(taker->call);

		taker->finish = QueueFinishBegin();
		MemoryContextSwitchTo(old);
	}
	return taker->finish;
}

/* the columns of a result */
enum
{
	TAKEN_JOB_ID, TAKEN_PAYLOAD, TAKEN_PRIORITY, TAKEN_ATTEMPT, TAKEN_MAX_ATTEMPTS,
	TAKEN_ENQUEUED_AT, TAKEN_LEASE_EXPIRES_AT, TAKEN_BATCH_ID, TAKEN_GROUP_KEY,
	TAKEN_SOURCE, TAKEN_HEADERS, TAKEN_NATTS
};

/* append a value to a tuple */
static inline char *
put_fixed(char *to, const void *value, Size size, char align)
{
	to = (char *) att_align_nominal((uintptr_t) to, align);
	memcpy(to, value, size);
	return to + size;
}

static inline char *
put_column(char *to, HeapTupleHeader header, int column, HeapTuple row, int att, const Datum *tail)
{
	Datum		value = tail[att - JOB_STATE - 1];
	Size		size;

	if (!job_has(row, att))
	{
		header->t_infomask |= HEAP_HASNULL;
		return to;
	}
	header->t_bits[column / BITS_PER_BYTE] |= 1 << (column % BITS_PER_BYTE);
	if (VARATT_IS_EXTERNAL(DatumGetPointer(value)))
		header->t_infomask |= HEAP_HASEXTERNAL;
	size = VARSIZE_ANY(DatumGetPointer(value));
	to = (char *) att_align_datum((uintptr_t) to, TYPALIGN_INT, -1, value);
	memcpy(to, DatumGetPointer(value), size);
	return to + size;
}

/*
 * A row of the result, formed by hand: the server's way, which looks up each
 * column, costs a tenth of all that there is to do for a job.  In the current
 * context.
 */
static void
form_result(HeapTuple row, HeapTuple result)
{
	JobHead    *job = JOB_HEAD(row);
	int32		priority = job->priority,
				max_attempts = job->max_attempts;
	Datum		tail[JOB_TAIL];
	bool		tail_nulls[JOB_TAIL];
	/* all of it is in the row as well, but for some padding */
	HeapTupleHeader header = palloc0(row->t_len + 64);
	char	   *to;

	QueueJobTail(row, tail, tail_nulls);
	header->t_infomask = HEAP_HASVARWIDTH;
	HeapTupleHeaderSetNatts(header, TAKEN_NATTS);
	header->t_hoff = MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(TAKEN_NATTS));
	header->t_bits[0] = 1 << TAKEN_JOB_ID | 1 << TAKEN_PRIORITY | 1 << TAKEN_ATTEMPT |
		1 << TAKEN_MAX_ATTEMPTS | 1 << TAKEN_ENQUEUED_AT | 1 << TAKEN_LEASE_EXPIRES_AT;
	StaticAssertStmt(TAKEN_LEASE_EXPIRES_AT < BITS_PER_BYTE, "these are in the first byte");

	to = (char *) header + header->t_hoff;
	to = put_fixed(to, &job->job_id, sizeof(int64), TYPALIGN_DOUBLE);
	to = put_column(to, header, TAKEN_PAYLOAD, row, JOB_PAYLOAD, tail);
	to = put_fixed(to, &priority, sizeof(int32), TYPALIGN_INT);
	to = put_fixed(to, &job->attempt, sizeof(int32), TYPALIGN_INT);
	to = put_fixed(to, &max_attempts, sizeof(int32), TYPALIGN_INT);
	to = put_fixed(to, &job->enqueued_at, sizeof(int64), TYPALIGN_DOUBLE);
	to = put_fixed(to, &job->lease_expires_at, sizeof(int64), TYPALIGN_DOUBLE);
	to = put_column(to, header, TAKEN_BATCH_ID, row, JOB_BATCH_ID, tail);
	to = put_column(to, header, TAKEN_GROUP_KEY, row, JOB_GROUP_KEY, tail);
	to = put_column(to, header, TAKEN_SOURCE, row, JOB_SOURCE, tail);
	to = put_column(to, header, TAKEN_HEADERS, row, JOB_HEADERS, tail);

	result->t_data = header;
	result->t_len = to - (char *) header;
	Assert(result->t_len <= row->t_len + 64);
	ItemPointerSetInvalid(&result->t_self);
	result->t_tableOid = InvalidOid;
}

static void
emit(Taker *taker, HeapTuple row)
{
	JobHead    *job = JOB_HEAD(row);
	HeapTupleData result;

	Assert(job->state == JOB_ACTIVE);
	if (taker->claims)
	{
		taker->claims[taker->got++] = (ExecutorClaim) {job->job_id, job->attempt};
		return;
	}
	form_result(row, &result);
	tuplestore_puttuple(taker->result, &result);
	taker->got++;
}

/* a copy of the row, taken; in the taker's context for one job */
static HeapTuple
form_taken(Taker *taker, HeapTuple row)
{
	TupleDesc	desc = RelationGetDescr(taker->live.heap);
	JobOptions	options;
	HeapTuple	copy;
	int64		timeout = taker->visibility_timeout;

	if (timeout == 0 && taker->claims == NULL)
	{
		QueueJobOptions(row, desc, &taker->settings, &options);
		timeout = options.visibility_timeout;
	}
	if (taker->worker || job_has(row, JOB_WORKER))
	{
		Datum		values[JOB_NATTS];
		bool		nulls[JOB_NATTS];
		bool		replace[JOB_NATTS] = {0};

		values[JOB_WORKER - 1] = PointerGetDatum(taker->worker);
		nulls[JOB_WORKER - 1] = taker->worker == NULL;
		replace[JOB_WORKER - 1] = true;
		copy = heap_modify_tuple(row, desc, values, nulls, replace);
	}
	else
		copy = heap_copytuple(row);
	QueueJobTake(JOB_HEAD(copy), taker->now,
				 timeout == 0 ? DT_NOEND : QueueTimeAfter(taker->now, timeout), taker->session);
	return copy;
}

/* an attempt begins: its row has been written */
static void
taken(Taker *taker, HeapTuple row)
{
	QueueXactTotal(taker->slot, TOTAL_TAKEN, 1);
	if (taker->settings.log_all)
		QueueFinishNote(taker_finish(taker), row, RelationGetDescr(taker->live.heap),
						&taker->settings, "taken", NULL, taker->now);
	emit(taker, row);
}

/*
 * The lease of an active job has ended, which leaves it in that state: log it,
 * and return the error to show.
 */
static Datum
log_stalled(QueueFinish *finish, HeapTuple row, TupleDesc desc,
			const QueueSettings *settings, QueueSlot *slot, JobState state,
			TimestampTz now, const char *outcome)
{
	JobHead    *job = JOB_HEAD(row);
	bool		expired = job->lease_expires_at <= now;
	Datum		error = CStringGetTextDatum(expired ? STALLED_ERROR : ENDED_ERROR);

	QueueFinishLog(finish, row, desc, settings, "stalled",
				   expired ? psprintf("its lease ended at %s; %s",
									  timestamptz_to_str(job->lease_expires_at), outcome) :
				   psprintf("the session that its lease was bound to has ended; %s", outcome),
				   &error, now);
	if (settings->notify)
		QueueEventRecord(slot, EVENT_STALLED, job->job_id, state, 1);
	QueueXactTotal(slot, TOTAL_STALLED, 1);
	return error;
}

void
QueueFailStalled(QueueFinish *finish, HeapTuple row, TupleDesc desc,
				 const QueueSettings *settings, QueueSlot *slot, TimestampTz now)
{
	Datum		error = log_stalled(finish, row, desc, settings, slot, JOB_FAILED, now,
									"failed for good: attempts are used up");

	if (settings->log_all)
		QueueFinishLog(finish, row, desc, settings, "failed",
					   "failed for good: attempts are used up", &error, now);
	QueueFinishJob(finish, row, desc, settings, slot, JOB_FAILED, &error, NULL, now);
}

bool
QueueReturnStalled(QueueFinish *finish, QueueStore *live, HeapTuple row, ItemPointer tid,
				   const QueueSettings *settings, QueueSlot *slot, bool begun, TimestampTz now)
{
	JobHead		before = *JOB_HEAD(row);
	HeapTuple	copy = QueueProgressKeep(heap_copytuple(row), RelationGetDescr(live->heap), &before);

	QueueJobStall(JOB_HEAD(copy));
	if (!begun)
		JOB_HEAD(copy)->attempt--;
	QueueXactNoteCommit(QueueStoreHint(live, &before, slot, true), job_order_key(&before));
	if (QueueStoreUpdate(live, tid, &before, slot, copy, false) != TM_Ok)
		return false;
	QueueXactCount(slot, COUNT_ACTIVE, -1);
	QueueXactCount(slot, COUNT_WAITING, 1);
	if (begun)
		(void) log_stalled(finish, row, RelationGetDescr(live->heap), settings, slot,
						   JOB_WAITING, now, "given back");
	else
		QueueFinishNote(finish, row, RelationGetDescr(live->heap), settings, "released",
						"its executor has ended before it began", now);
	QueueProgressEnd(&before);
	heap_freetuple(copy);
	return true;
}

/*
 * Is somebody changing this row, so that we need not try?  Trying takes a
 * transaction id, which one who may have to wait does without.
 */
static bool
is_changing(HeapTuple row)
{
	uint16		infomask = row->t_data->t_infomask;
	TransactionId xmax = HeapTupleHeaderGetRawXmax(row->t_data);

	if ((infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) ||
		TransactionIdIsCurrentTransactionId(xmax))
		return false;
	if (TransactionIdIsInProgress(xmax))
		return true;
	return !HEAP_XMAX_IS_LOCKED_ONLY(infomask) && TransactionIdDidCommit(xmax);
}

/* take one row of the live table; false: it is somebody else's */
static bool
take_live(Taker *taker, HeapTuple row, ItemPointer tid)
{
	TupleDesc	desc = RelationGetDescr(taker->live.heap);
	JobHead    *job = JOB_HEAD(row);
	JobHead		before = *job;
	ItemPointerData root = *tid;	/* unless the row is heap-only */
	bool		active = job_is_active(job);
	bool		begun;			/* its last attempt */
	HeapTuple	copy;

	if (job_is_held(job, taker->now) || QueueMarkPending(job))
	{
		hint_add_leases(&taker->held, job_lease(job));
		return false;
	}
	if ((taker->spare_xid || taker->limit.applies) && is_changing(row))
		return false;
	if (taker->only_look)
	{
		taker->got++;
		return true;
	}
	begun = active && (!job_is_reserved(job) || QueueMarkFind(job));
	if (begun && job->attempt >= job->max_attempts)
	{
		copy = heap_copytuple(row);
		if (QueueStoreDelete(&taker->live, tid, &before, taker->slot, false, false) == TM_Ok)
		{
			QueueFailStalled(taker_finish(taker), copy, desc, &taker->settings, taker->slot,
							 taker->now);
			taker->took_over = true;
		}
		return false;
	}
	if (!QueueLimitTake(&taker->limit, active))
		return false;

	copy = form_taken(taker, row);
	if (active)
		copy = QueueProgressKeep(copy, desc, &before);
	/* what an executor has claimed, and not started, was no attempt */
	if (active && !begun)
		JOB_HEAD(copy)->attempt--;
	if (QueueStoreUpdate(&taker->live, tid, &before, taker->slot, copy, false) != TM_Ok)
		return false;
	QueueLimitUsed(&taker->limit, active);
	hint_add_leases(&taker->taken, job_lease(JOB_HEAD(copy)));
	if (!HeapTupleIsHeapOnly(copy))
		QueueStoreRemember(before.job_id, &copy->t_self);
	else if (!HeapTupleIsHeapOnly(row))
		QueueStoreRemember(before.job_id, &root);
	if (begun)
	{
		/* the old version, with the attempt and the worker that stalled */
		(void) log_stalled(taker_finish(taker), row, desc, &taker->settings, taker->slot, JOB_ACTIVE,
						   taker->now, "taken over");
		QueueProgressEnd(&before);
		taker->took_over = true;
	}
	else if (!active)
	{
		QueueXactCount(taker->slot, QueueJobCount(QueueJobState(&before)), -1);
		QueueXactCount(taker->slot, COUNT_ACTIVE, 1);
		QueueXactTime(taker->slot, TIME_WAIT, taker->now - before.run_at);
	}
	taken(taker, copy);
	return true;
}

/*
 * Raise the hint behind what was seen.  Jobs that others hold stay behind it,
 * so the sweep must know when to look for them; after a restart, nobody but us
 * may have told.
 */
static void
raise_behind(Taker *taker, HintLook *look, HintKey seen)
{
	if (look->slot && hint_has_leases(taker->held))
		QueueHintNoteLeases(look->slot, taker->held);
	QueueHintRaise(look, seen);
}

/*
 * We have what we want, and others wait: is there a job for them behind seen?
 * Returns where we have got to.  Who is woken for nothing wakes nobody after.
 */
static HintKey
peek(Taker *taker, QueueScan *scan, HintKey seen)
{
	for (int i = 0; i < PEEK_ROWS; i++)
	{
		ItemPointerData tid;
		HeapTuple	row = QueueScanNext(scan, &tid);

		if (row == NULL)
			return HINT_KEY_MAX;
		if (!job_is_held(JOB_HEAD(row), taker->now))
			break;
		hint_add_leases(&taker->held, job_lease(JOB_HEAD(row)));
		seen = hint_key_next(job_order_key(JOB_HEAD(row)));
	}
	return seen;
}

/*
 * Has the last row been denied, so that there is nothing more for us?  Without a
 * hint nobody sweeps the class: then a lease that has ended may stand behind it,
 * and to take that over needs no place.
 */
static bool
limit_reached(Taker *taker, HintSlot *hint)
{
	if (taker->limit.denied && hint == NULL && taker->limit.retry_at == PG_INT64_MAX)
		taker->limit.denied = false;
	return taker->limit.denied;
}

/*
 * How far apart jobs lie, learned from each look: the next one is likely to be
 * of the same class, and finds what it wants before this many keys.  A wrong
 * guess costs one more descent of the index.
 */
typedef struct Pace
{
	int32		queue_id;
	int			order_class;
	int64		at;				/* per row; 0: they were enqueued together, */
	int64		id;				/* and then their ids tell */
} Pace;

#define PACE_SPARE		8		/* rows more than are wanted: others take some */

static Pace pace;

static HintKey
guess_end(const Taker *taker, int order_class, HintKey from)
{
	int64		rows = (int64) taker->want - taker->got + PACE_SPARE;
	HintKey		far;

	if (pace.queue_id != taker->settings.queue_id || pace.order_class != order_class ||
		pg_mul_s64_overflow(pace.at, rows, &far.at) ||
		pg_mul_s64_overflow(pace.id, rows, &far.id) ||
		pg_add_s64_overflow(from.at, far.at, &far.at) ||
		pg_add_s64_overflow(from.id, far.id, &far.id))
		return HINT_KEY_MAX;
	return far;
}

static void
learn_pace(const Taker *taker, int order_class, HintKey from, HintKey last, int rows)
{
	int64		at,
				id;

	pace.queue_id = 0;			/* no queue's */
	if (pg_sub_s64_overflow(last.at, from.at, &at) || at < 0 ||
		pg_sub_s64_overflow(last.id, from.id, &id) || (at == 0 && id < 0))
		return;
	pace.queue_id = taker->settings.queue_id;
	pace.order_class = order_class;
	/* rounded up; at least one */
	pace.at = at == 0 ? 0 : (at - 1) / rows + 1;
	pace.id = at == 0 ? Max(id - 1, 0) / rows + 1 : 0;
}

/*
 * Reserve what we want, from *here on, where the scan stands; *here is then
 * behind it.  If others reserve faster, or somebody has lowered the hint, the
 * scan goes on without.
 */
static void
reserve(Taker *taker, HintLook *look, QueueScan *scan, HintKey *here)
{
	HintKey		behind,
				hint;

	for (int tries = 0; tries < RESERVE_TRIES; tries++)
	{
		if (QueueScanAhead(scan, taker->want - taker->got, &behind) == 0)
			return;
		QueueXactReserve(look->slot, *here);
		if (QueueHintReserve(look, *here, behind, &hint))
		{
			*here = behind;
			while (QUEUE_MUTATION(10))	/* for a test to step in */
			{
				CHECK_FOR_INTERRUPTS();
				pg_usleep(1000);
			}
			return;
		}
		if (HINT_KEY_LT(hint, *here))
			break;
		*here = hint;
		QueueScanSeek(scan, hint, guess_end(taker, scan->order_class, hint));
	}
	scan->may_read_ahead = false;
	QueueScanSeek(scan, *here, guess_end(taker, scan->order_class, *here));
}

/*
 * A look through one class; hint is NULL if shared memory has no room.
 *
 * Rows that we have reserved are all tried, unless an error ends the
 * transaction: so who may be denied a row by a limit, or wants to look only,
 * reserves none.  Nor does who would have to go back from the hint, to what it
 * has made claimable itself.
 */
static void
take_class(Taker *taker, HintSlot *hint, int order_class)
{
	HintKey		own = hint ? QueueXactOwnKey(hint) : HINT_KEY_MAX;
	HintLook	look;
	Snapshot	snapshot;
	QueueScan	scan;
	HintKey		before = HINT_KEY_MIN,
				seen = HINT_KEY_MIN,
				from,			/* the last stretch began, of so many rows */
				reserved;
	int			looked = 0,
				skipped = 0;

	if (!QueueHintLookBegin(&look, hint, own))
		return;
	taker->taken = taker->held = HINT_NO_LEASES;
	snapshot = QueueFreshSnapshot();
	QueueScanBegin(&scan, &taker->live, snapshot, taker->settings.queue_id, order_class,
				   look.start, guess_end(taker, order_class, look.start),
				   hint && !HINT_KEY_LT(own, HINT_KEY_MAX) && !taker->only_look &&
				   !taker->limit.applies && IsMVCCSnapshot(snapshot));
	from = reserved = look.start;
	while (taker->got < taker->want)
	{
		ItemPointerData tid;
		HeapTuple	row;
		MemoryContext old;
		bool		took;

		if (scan.may_read_ahead && !QueueScanHasAhead(&scan))
		{
			reserve(taker, &look, &scan, &reserved);
			from = scan.here;
			looked = 0;
		}
		row = QueueScanNext(&scan, &tid);
		if (row == NULL)
		{
			seen = HINT_KEY_MAX;
			break;
		}
		before = job_order_key(JOB_HEAD(row));
		seen = hint_key_next(before);
		old = MemoryContextSwitchTo(taker->context);
		took = take_live(taker, row, &tid);
		MemoryContextSwitchTo(old);
		MemoryContextReset(taker->context);

		if (limit_reached(taker, hint) || (took && taker->only_look))
		{
			seen = before;		/* it is there for others */
			break;
		}
		looked++;
		if (HINT_KEY_LT(seen, reserved) || scan.may_read_ahead)
			continue;			/* the hint is there already */
		if (looked % RAISE_EVERY == 0)
			raise_behind(taker, &look, seen);
		if (took)
			skipped = 0;
		else if (hint && ++skipped % REREAD_AFTER == 0)
		{
			/* others are ahead of us: go to where they have got to */
			HintKey		ahead = QueueHintRead(hint, NULL);

			if (HINT_KEY_LT(seen, ahead))
				QueueScanSeek(&scan, ahead, HINT_KEY_MAX);
		}
	}
	/* what is promised is kept, also by what cannot be */
	Assert(!HINT_KEY_LT(seen, reserved));
	if (unlikely(HINT_KEY_LT(seen, reserved)))
		QueueHintNote(hint, seen);
	QueueXactReserveEnd(hint);
	if (taker->got == taker->want && !taker->only_look &&
		taker->slot && QueueHasWaiters(taker->slot))
		seen = peek(taker, &scan, seen);
	if (HINT_KEY_LT(reserved, seen) || hint_has_leases(taker->held))
		raise_behind(taker, &look, seen);
	if (looked > 0)
		learn_pace(taker, order_class, from, before, looked);
	QueueHintLookEnd(&look);
	QueueScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);
	if (hint_has_leases(taker->taken))
		QueueXactNoteLeases(hint, taker->taken);
}

/*
 * Insert into the live table what was just deleted from the parked one, with
 * its new head.  The hint of its class must know: not only because the job
 * may wait there, but because the sweep must find it when its lease ends.
 */
static void
insert_moved(QueueStore *live, HeapTuple *rows, int count, QueueSlot *slot)
{
	for (int i = 0; i < count; i++)
	{
		HintSlot   *hint = QueueStoreHint(live, JOB_HEAD(rows[i]), slot, true);

		QueueXactNoteCommit(hint, job_order_key(JOB_HEAD(rows[i])));
		if (JOB_HEAD(rows[i])->state == JOB_ACTIVE)
			QueueXactNoteLeases(hint, job_lease(JOB_HEAD(rows[i])));
	}
	QueueStoreInsert(live, rows, count);
}

/*
 * Jobs that may need a place before they run, taken out of the parked table,
 * enter the queue: the last first.
 */
static void
enter_due(const QueueSettings *settings, HeapTuple *rows, int count)
{
	QueueEntry	entry;

	QueueEntryBegin(&entry, settings);
	for (int i = count - 1; i >= 0; i--)
		QueueEntryPutHead(&entry, rows[i]);
	QueueEntryEnd(&entry);
}

/* take due jobs straight out of the parked table */
static void
take_parked(Taker *taker)
{
	HintSlot   *hint = taker->slot ? QueueHintSlot(taker->slot, CLASS_PARKED, true) : NULL;
	QueueStore	parked;
	HintLook	look;
	Snapshot	snapshot;
	QueueScan	scan;
	HintKey		seen = HINT_KEY_MIN;
	bool		changed = false;

	if (hint)
	{
		/* most of the time the next due time is known, and ahead */
		HintKey		own = QueueXactOwnKey(hint);

		if (QueueHintRead(hint, NULL).at > taker->now && own.at > taker->now)
			return;
		if (!QueueHintLookBegin(&look, hint, own))
			return;
	}
	else
		(void) QueueHintLookBegin(&look, NULL, HINT_KEY_MAX);

	QueueStoreOpen(&parked, true);
	snapshot = QueueFreshSnapshot();
	QueueScanBegin(&scan, &parked, snapshot, taker->settings.queue_id, 0, look.start, HINT_KEY_MAX,
				   false);
	while (taker->got < taker->want)
	{
		ItemPointerData tid;
		HeapTuple	row = QueueScanNext(&scan, &tid);
		JobHead		before;
		MemoryContext old;

		if (row == NULL)
		{
			seen = HINT_KEY_MAX;
			break;
		}
		before = *JOB_HEAD(row);
		if (before.run_at > taker->now)
		{
			seen = job_due_key(&before);
			break;
		}
		seen = hint_key_next(job_due_key(&before));
		if (taker->spare_xid && is_changing(row))
			continue;
		if (taker->only_look)
		{
			seen = job_due_key(&before);
			taker->got++;
			break;
		}
		if (taker->limit.applies && is_changing(row))
			continue;
		if (!QueueLimitTake(&taker->limit, false))
		{
			seen = job_due_key(&before);
			break;
		}
		changed = true;
		old = MemoryContextSwitchTo(taker->context);
		row = heap_copytuple(row);
		if (QueueStoreDelete(&parked, &tid, &before, taker->slot, false, true) != TM_Ok)
			;					/* somebody else's */
		else if (job_has(row, JOB_LIMIT_KEY))
		{
			QueueXactCount(taker->slot, QueueJobCount((JobState) before.state), -1);
			enter_due(&taker->settings, &row, 1);
			taker->entered = true;
		}
		else
		{
			QueueJobDue(JOB_HEAD(row), &taker->settings);
			row = form_taken(taker, row);
			insert_moved(&taker->live, &row, 1, taker->slot);
			QueueXactCount(taker->slot, QueueJobCount((JobState) before.state), -1);
			QueueXactCount(taker->slot, COUNT_ACTIVE, 1);
			QueueXactTime(taker->slot, TIME_WAIT, taker->now - before.run_at);
			QueueLimitUsed(&taker->limit, false);
			taken(taker, row);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(taker->context);
	}
	if (HINT_KEY_LT(HINT_KEY_MIN, seen))
		QueueHintRaise(&look, seen);
	QueueHintLookEnd(&look);
	QueueScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);
	if (changed)
		QueueStoreClose(&parked);
	else
		QueueStoreCloseUnused(&parked);
}

int
QueueMoveDue(const QueueSettings *settings, int limit, TimestampTz *next_due)
{
	QueueSlot  *slot = QueueXactSlot(settings->queue_id);
	HintSlot   *hint = slot ? QueueHintSlot(slot, CLASS_PARKED, true) : NULL;
	TimestampTz now = GetCurrentTimestamp();
	QueueStore	parked,
				live;
	HintLook	look;
	Snapshot	snapshot;
	QueueScan	scan;
	HintKey		seen = HINT_KEY_MIN;
	HeapTuple  *moved;
	int			looked = 0,
				count = 0,
				entering = 0;

	*next_due = hint ? QueueHintRead(hint, NULL).at : PG_INT64_MIN;
	if (*next_due > now)
		return 0;
	if (!QueueHintLookBegin(&look, hint, HINT_KEY_MAX))
		return 0;

	moved = palloc(limit * sizeof(HeapTuple));
	QueueStoreOpen(&parked, true);
	snapshot = QueueFreshSnapshot();
	QueueScanBegin(&scan, &parked, snapshot, settings->queue_id, 0, look.start, HINT_KEY_MAX, false);
	while (looked < limit)
	{
		ItemPointerData tid;
		HeapTuple	row = QueueScanNext(&scan, &tid);
		JobHead		before;

		if (row == NULL)
		{
			seen = HINT_KEY_MAX;
			break;
		}
		before = *JOB_HEAD(row);
		if (before.run_at > now)
		{
			seen = job_due_key(&before);
			break;
		}
		looked++;
		seen = hint_key_next(job_due_key(&before));
		row = heap_copytuple(row);
		if (QueueStoreDelete(&parked, &tid, &before, slot, false, true) != TM_Ok)
			continue;
		QueueXactCount(slot, QueueJobCount((JobState) before.state), -1);
		if (job_has(row, JOB_LIMIT_KEY))
		{
			/* from the end, where there is room, and later back */
			moved[limit - ++entering] = row;
			continue;
		}
		QueueXactCount(slot, COUNT_WAITING, 1);
		QueueJobDue(JOB_HEAD(row), settings);
		moved[count++] = row;
	}
	if (HINT_KEY_LT(HINT_KEY_MIN, seen))
		QueueHintRaise(&look, seen);
	*next_due = hint ? QueueHintRead(hint, NULL).at : seen.at;
	QueueHintLookEnd(&look);
	QueueScanEnd(&scan);
	QueueReleaseSnapshot(snapshot);
	QueueStoreClose(&parked);
	if (count > 0)
	{
		QueueStoreOpen(&live, false);
		insert_moved(&live, moved, count, slot);
		QueueStoreClose(&live);
	}
	enter_due(settings, moved + limit - entering, entering);
	pfree(moved);
	return count + entering;
}

/* find out which classes the index holds, and give each a hint */
void
QueueLearnClasses(QueueStore *live, QueueSlot *slot)
{
	for (;;)
	{
		uint32		generation = pg_atomic_read_u32(&slot->classes_generation);
		int			order_class = PG_INT16_MIN - 1;
		bool		made = false;

		while (QueueStoreNextClass(live, slot->queue_id, order_class, &order_class))
		{
			CHECK_FOR_INTERRUPTS();
			if (QueueHintSlot(slot, order_class, false))
				continue;
			if (QueueHintSlot(slot, order_class, true) == NULL)
				return;			/* no room: take_all_classes() does without */
			made = true;
		}
		if (!made)
		{
			QueueHintSetClassesKnown(slot, generation);
			return;
		}
	}
}

static inline bool
wants_more(const Taker *taker)
{
	return taker->got < taker->want && !taker->limit.denied;
}

static void
take_all_classes(Taker *taker)
{
	HintSlot  **hints;
	int			count;
	bool		known;

	if (taker->slot)
	{
		hints = QueueHintList(taker->slot, &count, &known);
		if (!known)
		{
			QueueLearnClasses(&taker->live, taker->slot);
			hints = QueueHintList(taker->slot, &count, &known);
		}
		if (known)
		{
			for (int i = 0; i < count && wants_more(taker); i++)
				take_class(taker, hints[i], hints[i]->order_class);
			return;
		}
	}

	/* without a complete list: class by class through the index */
	for (int order_class = PG_INT16_MIN - 1; wants_more(taker) &&
		 QueueStoreNextClass(&taker->live, taker->settings.queue_id, order_class, &order_class);)
		take_class(taker, taker->slot ? QueueHintSlot(taker->slot, order_class, false) : NULL,
				   order_class);
}

/* check the arguments from the one at first on; nothing is changed before */
static void
taker_init(FunctionCallInfo fcinfo, int first, Taker *taker)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *name = QueueArgText(fcinfo, first, "queue_name");

	memset(taker, 0, sizeof(*taker));
	if (PG_ARGISNULL(first + 1))
		QueueErrorNull("batch_size", "Leave it out to take one job.");
	taker->want = PG_GETARG_INT32(first + 1);
	if (taker->want < 1 || taker->want > QUEUE_BATCH_MAX)
		QueueErrorRange("batch_size", taker->want, 1, QUEUE_BATCH_MAX);
	if (!PG_ARGISNULL(first + 2))
		taker->visibility_timeout = QueueArgDuration(PG_GETARG_DATUM(first + 2),
													 "visibility_timeout", false);
	if (!PG_ARGISNULL(first + 3))
	{
		taker->worker = PG_GETARG_TEXT_PP(first + 3);
		QueueCheckLabel(taker->worker, "worker");
	}
	if (PG_ARGISNULL(first + 4))
		QueueErrorNull("wait", "Leave it out, or give '0', not to wait.");
	taker->wait = Min(QueueArgDuration(PG_GETARG_DATUM(first + 4), "wait", true),
					  (int64) queue_max_wait * 1000);
	if (PG_ARGISNULL(first + 5))
		QueueErrorNull("bind_session", "Give true or false.");
	taker->name = name;
	QueueSettingsRequire(name, PRIVILEGE_DEQUEUE, &taker->settings);
	if (PG_GETARG_BOOL(first + 5))
		taker->session = QueueSessionNumber();

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	taker->result = rsinfo->setResult;
	Assert(rsinfo->setDesc->natts == TAKEN_NATTS);
}

/* one look at all that there is */
static void
take(Taker *taker)
{
	bool		known;

	if (taker->settings.paused)
		return;
	/* what we have enqueued ourselves may be taken by us */
	QueuePlaceJoinPending();
	CommandCounterIncrement();
	taker->now = GetCurrentTimestamp();
	taker->slot = QueueXactSlot(taker->settings.queue_id);
	QueueHealthTaker(taker->slot, taker->now);
	if (!QueueMayHaveJob(taker->slot, taker->now, &known))
		return;
	if (!QueueLimitBegin(&taker->limit, &taker->settings, taker->slot) &&
		(known || taker->only_look || taker->limit.retry_at != PG_INT64_MAX))
	{
		/* who waits, and we may, sleeps until then */
		QueueLimitPass(&taker->limit);
		return;
	}
	/* denied a place, but what is active may be takable: see limit_reached() */
	taker->limit.denied = false;
	taker->spare_xid = taker->only_look ||
		(taker->wait > 0 && !TransactionIdIsValid(GetTopTransactionIdIfAny()));
	taker->call = CurrentMemoryContext;
	taker->context = AllocSetContextCreate(CurrentMemoryContext, "queue dequeue",
										   ALLOCSET_DEFAULT_SIZES);
	QueueStoreOpen(&taker->live, false);
	take_all_classes(taker);
	if (wants_more(taker))
		take_parked(taker);
	if (taker->entered)
	{
		/* those that have got a place may be taken by us */
		taker->entered = false;
		QueuePlaceJoinPending();
		CommandCounterIncrement();
		take_all_classes(taker);
	}
	QueueLimitEnd(&taker->limit);
	if (taker->got > 0 && !taker->only_look)
		QueueXactDead(taker->got);
	if ((taker->got > 0 && !taker->only_look) || taker->took_over)
		QueueStoreClose(&taker->live);
	else
		QueueStoreCloseUnused(&taker->live);
	if (taker->finish)
		QueueFinishEnd(taker->finish);
	taker->finish = NULL;
	MemoryContextDelete(taker->context);

	/* a waiter that was woken for several jobs may be gone: see wait.c */
	if ((taker->got == taker->want || taker->limit.denied) && !taker->only_look &&
		taker->slot && QueueHasWaiters(taker->slot) &&
		QueueMayHaveJob(taker->slot, taker->now, &known))
		QueueLimitPass(&taker->limit);
}

/* take, and wait as long as there is nothing; see wait.h */
static void
take_or_wait(Taker *taker)
{
	QueueWait	wait;
	bool		served = false;

	take(taker);
	if (taker->got > 0 || taker->wait == 0)
		return;
	QueueWaitBegin(&wait, taker->want, taker->wait);
	for (;;)
	{
		int32		queue_id = taker->settings.queue_id;
		QueueWake	wake;

		QUEUE_LINGER();
		QueueWaitEnter(&wait, QueueXactSlot(queue_id));
		QueueSettingsReread(taker->name, PRIVILEGE_DEQUEUE, &taker->settings);
		if (taker->settings.queue_id != queue_id)
			continue;
		if (!QUEUE_MUTATION(6))
			take(taker);
		if (taker->got > 0)
			break;
		/* what the settings were read with must not be held as well */
		InvalidateCatalogSnapshot();
		wake = QueueWaitSleep(&wait);
		if (wake == WAKE_OVER)
			break;
		if (wake == WAKE_LOOK)
			continue;
		AcceptInvalidationMessages();
		QueueSettingsRequire(taker->name, PRIVILEGE_DEQUEUE, &taker->settings);
		take(taker);
		served = taker->got > 0;
		if (served)
			break;
	}
	QueueWaitEnd(served);
}

int
QueueTakeForExecutor(const QueueSettings *settings, int want, ExecutorClaim *claims,
					 TimestampTz *retry_at)
{
	Taker		taker = {.settings = *settings, .want = want, .claims = claims};

	taker.session = QueueSessionNumber();
	taker.worker = cstring_to_text(psprintf("executor %d", MyProcPid));
	take(&taker);
	*retry_at = taker.limit.denied ? taker.limit.retry_at : PG_INT64_MAX;
	return taker.got;
}

HeapTuple
QueueTakeOne(const QueueSettings *settings)
{
	ExecutorClaim claim;
	Taker		taker = {.settings = *settings, .want = 1, .claims = &claim};

	taker.visibility_timeout = settings->visibility_timeout;
	take(&taker);
	return taker.got > 0 ? QueueHeldJob(claim.job_id, claim.attempt, 0) : NULL;
}

Datum
queue_dequeue_batch(PG_FUNCTION_ARGS)
{
	Taker		taker;

	QueueRequireWritable("queue.dequeue_batch()");
	taker_init(fcinfo, 0, &taker);
	QueueXactClaimBegin();
	take_or_wait(&taker);
	QueueXactClaimEnd(taker.took_over);
	return (Datum) 0;
}

Datum
queue_complete_and_dequeue(PG_FUNCTION_ARGS)
{
	Taker		taker;

	QueueRequireWritable("queue.complete_and_dequeue()");
	taker_init(fcinfo, 1, &taker);
	if (!PG_ARGISNULL(0))
		(void) QueueCompleteMany(PG_GETARG_ARRAYTYPE_P(0),
								 PG_ARGISNULL(7) ? NULL : PG_GETARG_ARRAYTYPE_P(7));
	take_or_wait(&taker);
	return (Datum) 0;
}

/* a procedure, as it ends the transaction that it is called in */
Datum
queue_wait(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	Taker		taker = {.want = 1, .only_look = true};
	text	   *name;

	QueueRequireWritable("queue.wait()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	if (PG_ARGISNULL(1))
		QueueErrorNull("timeout", "Give an interval such as '30 s'.");
	taker.wait = QueueArgDuration(PG_GETARG_DATUM(1), "timeout", true);
	QueueSettingsRequire(name, PRIVILEGE_DEQUEUE, &taker.settings);
	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("queue.wait() cannot run inside a transaction block"),
				 errdetail("It would hold the snapshot of the transaction while it waits."),
				 errhint("Call it by itself, before BEGIN, or wait in the call that takes: "
						 "queue.dequeue_batch(..., wait => '30 s').")));

	/* this memory outlives the commit, the snapshots of the call do not */
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	taker.name = cstring_to_text_with_len(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	SPI_commit();
	SPI_start_transaction();
	/* a higher level would keep the snapshot of the first look */
	XactIsoLevel = XACT_READ_COMMITTED;
	take_or_wait(&taker);
	SPI_finish();
	PG_RETURN_VOID();
}

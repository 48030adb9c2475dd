/*-------------------------------------------------------------------------
 *
 * limit.c
 *		How many jobs of a queue may be taken: max_active, rate_limit, throttle.
 *
 * All of it is in the queue's slot in shared memory, and each claim asks there,
 * whoever takes.  What is asked for is recorded in xact.c before it is given,
 * so a (sub)transaction that aborts gives it back, however it ends.
 *
 * Places (max_active).  What must hold is: jobs that are active, and claims of
 * transactions that have not ended, are never more than max_active.
 *
 *		active	count[COUNT_ACTIVE] of stats.c: by transactions that have ended
 *		places	given to transactions that have not
 *
 *	 1. A place is given, under limit_mutex, if active + places < max_active.
 *		Whose claim commits first adds it to active, then gives the place back;
 *		who takes active down does so after its commit is visible.  So for
 *		every claim one of the two numbers has it at any moment, and read
 *		under the mutex, which a place cannot leave meanwhile, their sum is
 *		never too small.
 *	 2. It may be too large for a moment: between the end of a transaction and
 *		its callback.  A taker that is denied for that is woken by the callback.
 *	 3. active is reliable as long as the counters are known.  That is read
 *		together with it under the count lock, which counting anew takes
 *		exclusively before it sets them to zero.  While they are not known,
 *		nothing is taken: a taker counts if it may, else the maintenance worker
 *		does, and wakes the waiters.
 *	 4. A transaction that has completed jobs uses their places for its own
 *		claims: if it commits, both happen, and if it aborts, neither.  It needs
 *		as many places as it makes jobs active on balance.  That holds for
 *		savepoints, too: what a subtransaction relies on is its own, or that of
 *		one above it, whose abort undoes it as well.  After max_active has been
 *		lowered, the balance must fit below it all the same, or those who
 *		always complete one and take one would keep the number up for ever.
 *	 5. A transaction that is prepared could not keep places over a crash, so it
 *		must not have jobs active on balance.
 *	 6. A lease that has ended still has its place.  Takers at the limit do not
 *		look for one, so in such queues the maintenance worker gives the job
 *		back (maintenance.c).  To take over an active job needs no place.
 *
 * Whoever frees places wakes as many waiters: it changes the numbers, then reads
 * the list.  A waiter enters the list, then is denied.  So one sees the other,
 * as in wait.c.  That is done in queues in which somebody has met the limit
 * (limited), so that others are not woken for nothing.
 *
 * Tokens (rate_limit) are in a bucket that holds rate_limit of them and gets
 * them back evenly, all in rate_period.  It is one number, the time when it will
 * be full: a token is a stretch of time that moves it ahead.  So in any stretch
 * of time t, no more than rate_limit * (1 + t / rate_period) jobs are taken.
 *
 *	 7. To give back a token of an aborted claim must not break that: the bucket
 *		may have been full since, and lost what it would have had more with the
 *		token in it.  The longer ago, the more: at most the time passed, which is
 *		therefore subtracted.
 *	 8. After a start nobody knows what was taken before, so buckets of queues
 *		older than that begin empty, also on a standby that was promoted.
 *	 9. A clock that is set back makes no one wait longer than for a full bucket.
 *
 * A throttle is a time before which nothing is taken.  It is not transactional:
 * who calls throttle() has met an overload, and will often fail its job, and
 * roll back, for that.  It is written to queue.queue by the maintenance worker,
 * later, and read from there when the slot is new.
 *
 * Who is denied by time (tokens, throttle) sets the alarm of the list of
 * waiters: see wait.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "internal.h"
#include "limit.h"
#include "stats.h"
#include "wait.h"

QUEUE_FUNCTION(queue_throttle);

#define NSECS_PER_USEC		1000
#define PERIOD_MOST			(50 * 366 * USECS_PER_DAY)	/* twice in nanoseconds, and the time until 2190, fit */
#define THROTTLE_FIRST		USECS_PER_SEC
#define THROTTLE_MOST		(5 * USECS_PER_MINUTE)
#define THROTTLE_STEPS		10	/* doubled so often, it is more than that */
#define THROTTLE_LONGEST	USECS_PER_DAY	/* by a duration that is given */

/* in nanoseconds: one token, and all that the bucket holds */
typedef struct Rate
{
	int64		token;
	int64		bucket;
} Rate;

static Rate
rate_of(const QueueSettings *settings)
{
	int64		period = Min(settings->rate_period, PERIOD_MOST) * NSECS_PER_USEC;
	Rate		rate;

	/* rounded up: rather too slow by a hair than too fast */
	rate.token = (period - 1) / settings->rate_limit + 1;
	rate.bucket = rate.token * settings->rate_limit;
	return rate;
}

/* a time in shared memory that is not to be later than most, even if the clock was set back */
static TimestampTz
read_time(pg_atomic_uint64 *time, TimestampTz most)
{
	uint64		at = pg_atomic_read_u64(time);

	if (likely((TimestampTz) at <= most))
		return (TimestampTz) at;
	(void) pg_atomic_compare_exchange_u64(time, &at, (uint64) most);
	return most;
}

/* when the server began to write */
static TimestampTz
started_at(TimestampTz now)
{
	uint64		never = 0;

	(void) pg_atomic_compare_exchange_u64(&Shared->started_at, &never, (uint64) now);
	return read_time(&Shared->started_at, now);
}

void
QueueLimitStart(void)
{
	(void) started_at(GetCurrentTimestamp());
}

/*
 * When will the bucket be full?  Caller holds limit_mutex.  It cannot be more
 * than empty, whatever its size was before.
 */
static int64
full_at(QueueSlot *slot, const QueueSettings *settings, Rate rate, int64 now, TimestampTz started)
{
	if (settings->created_at <= started)
		slot->rate_full_at = Max(slot->rate_full_at, started * NSECS_PER_USEC + rate.bucket);
	slot->rate_full_at = Min(slot->rate_full_at, now + rate.bucket);
	return Max(slot->rate_full_at, now);
}

/* the end of the throttle, 0: none */
static inline TimestampTz
throttled_until(QueueSlot *slot, TimestampTz now)
{
	TimestampTz until = read_time(&slot->throttled_until, now + THROTTLE_LONGEST);

	return until <= now ? 0 : until;
}

/* the first who comes to a new slot brings what its row says */
static void
load_throttle(QueueSlot *slot, const QueueSettings *settings)
{
	if (likely(slot->throttle_loaded))
		return;
	SpinLockAcquire(&slot->limit_mutex);
	if (!slot->throttle_loaded)
	{
		pg_atomic_write_u64(&slot->throttled_until, (uint64) settings->throttled_until);
		pg_atomic_write_u64(&slot->throttle_saved, (uint64) settings->throttled_until);
		slot->throttle_loaded = true;
	}
	SpinLockRelease(&slot->limit_mutex);
}

/*
 * Get what a job needs and is not in hand; without held, only look whether it
 * is to be had.
 */
static bool
get(QueueLimit *limit, bool active, LimitHeld *held)
{
	const QueueSettings *settings = limit->settings;
	QueueSlot  *slot = limit->slot;
	Installation *installation = &Installations[slot->installation];
	bool		place = settings->max_active >= 0 && !active && !limit->place;
	bool		token = settings->rate_limit >= 0 && limit->token == 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz started = token ? started_at(now) : 0;
	TimestampTz throttled = throttled_until(slot, now);
	Rate		rate = token ? rate_of(settings) : (Rate) {0, 0};
	int64		places = 0;
	int64		balance = 0;
	int64		full = 0;
	bool		known = true;

	limit->denied = throttled != 0;
	limit->retry_at = throttled;
	if (limit->denied || !(place || token))
		return !limit->denied;

	if (place)
	{
		/* what we have, and what we would make active on balance */
		places = QueueXactPlaces(slot);
		balance = QueueXactPending(slot, COUNT_ACTIVE) + 1;
		LWLockAcquire(QueueCountLock(installation), LW_SHARED);
		known = QueueStatsKnown(installation);
	}
	SpinLockAcquire(&slot->limit_mutex);
	if (place && (!known || (int64) pg_atomic_read_u64(&slot->count[COUNT_ACTIVE]) +
				  (slot->places - places) + balance > settings->max_active))
	{
		limit->denied = true;
		limit->retry_at = PG_INT64_MAX;
	}
	if (token && !limit->denied)
	{
		full = full_at(slot, settings, rate, now * NSECS_PER_USEC, started);
		if (full + rate.token > now * NSECS_PER_USEC + rate.bucket)
		{
			limit->denied = true;
			limit->retry_at = (full + rate.token - rate.bucket) / NSECS_PER_USEC + 1;
		}
	}
	if (held && !limit->denied)
	{
		if (place && balance > places)
		{
			slot->places++;
			held->places++;
			limit->place = true;
		}
		if (token)
		{
			slot->rate_full_at = full + rate.token;
			if (held->tokens == 0)
				held->tokens_at = now;
			held->tokens += rate.token;
			limit->token = rate.token;
			limit->token_at = now;
		}
	}
	SpinLockRelease(&slot->limit_mutex);
	if (place)
		LWLockRelease(QueueCountLock(installation));
	return !limit->denied;
}

bool
QueueLimitBegin(QueueLimit *limit, const QueueSettings *settings, QueueSlot *slot)
{
	memset(limit, 0, sizeof(*limit));
	limit->settings = settings;
	limit->slot = slot;
	limit->applies = settings->max_active >= 0 || settings->rate_limit >= 0;
	if (slot == NULL)
	{
		if (limit->applies)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no room in shared memory to keep the limits of queue \"%s\"", settings->name),
					 errdetail("The queue has a max_active or a rate_limit."),
					 errhint("Consider increasing the configuration parameter \"%s\".",
							 "queue.max_queues")));
		return true;
	}
	load_throttle(slot, settings);
	if (likely(!limit->applies && pg_atomic_read_u64(&slot->throttled_until) == 0))
		return true;
	if (settings->max_active >= 0)
	{
		if (pg_atomic_read_u32(&slot->limited) == 0)
		{
			pg_atomic_write_u32(&slot->limited, 1);
			pg_memory_barrier();	/* before any number is read: see the top */
		}
		(void) QueueStatsEnsure(&Installations[slot->installation]);
	}
	return get(limit, false, NULL);
}

bool
QueueLimitAllows(const QueueSettings *settings, QueueSlot *slot)
{
	QueueLimit	limit = {.settings = settings, .slot = slot};

	return get(&limit, false, NULL);
}

bool
QueueLimitTake(QueueLimit *limit, bool active)
{
	if (likely(!limit->applies))
		return true;
	return get(limit, active, QueueXactHeld(limit->slot));
}

void
QueueLimitUsed(QueueLimit *limit, bool active)
{
	if (!active)
		limit->place = false;
	limit->token = 0;
}

/* what is left of tokens that were taken a while ago: see 7. at the top */
static int64
returnable(int64 tokens, TimestampTz taken_at, TimestampTz now)
{
	return Max(tokens - Max(now - taken_at, 0) * NSECS_PER_USEC, 0);
}

void
QueueLimitEnd(QueueLimit *limit)
{
	QueueSlot  *slot = limit->slot;
	LimitHeld  *held;
	TimestampTz now;

	if (likely(!limit->place && limit->token == 0))
		return;
	held = QueueXactHeld(slot);
	now = GetCurrentTimestamp();
	SpinLockAcquire(&slot->limit_mutex);
	if (limit->place)
	{
		slot->places--;
		held->places--;
	}
	slot->rate_full_at -= returnable(limit->token, limit->token_at, now);
	held->tokens -= limit->token;
	SpinLockRelease(&slot->limit_mutex);
	limit->place = false;
	limit->token = 0;
	/* somebody may have been denied meanwhile */
	QueueWaitWake(slot, 1);
}

void
QueueLimitPass(QueueLimit *limit)
{
	QueueSlot  *slot = limit->slot;

	if (limit->applies && !limit->denied)
		(void) get(limit, false, NULL);
	if (!limit->denied)
		QueueWaitWake(slot, 1);
	else if (limit->retry_at != PG_INT64_MAX)
		QueueWaitAlarm(slot, limit->retry_at);
}

void
QueueLimitSettle(QueueSlot *slot, const LimitHeld *held, bool commit)
{
	TimestampTz now;

	if (likely(held->places == 0 && held->tokens == 0 && held->completed_at == 0))
		return;
	now = GetCurrentTimestamp();
	SpinLockAcquire(&slot->limit_mutex);
	slot->places -= held->places;
	if (!commit)
		slot->rate_full_at -= returnable(held->tokens, held->tokens_at, now);
	else if (held->completed_at != 0 &&
			 held->completed_at >= (TimestampTz) pg_atomic_read_u64(&slot->throttled_until))
		pg_atomic_write_u32(&slot->throttle_steps, 0);
	SpinLockRelease(&slot->limit_mutex);
}

TimestampTz
QueueLimitRead(QueueSlot *slot, const QueueSettings *settings, int64 *available)
{
	TimestampTz now = GetCurrentTimestamp();

	load_throttle(slot, settings);
	*available = -1;
	if (settings->rate_limit >= 0)
	{
		Rate		rate = rate_of(settings);
		TimestampTz started = started_at(now);
		int64		full;

		SpinLockAcquire(&slot->limit_mutex);
		full = full_at(slot, settings, rate, now * NSECS_PER_USEC, started);
		SpinLockRelease(&slot->limit_mutex);
		*available = (now * NSECS_PER_USEC + rate.bucket - full) / rate.token;
	}
	return throttled_until(slot, now);
}

/* ---------------------------------------------------------------------
 * Throttle
 * --------------------------------------------------------------------- */

Datum
queue_throttle(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	QueueSlot  *slot;
	text	   *name;
	int64		duration = -1;
	TimestampTz now;
	TimestampTz until;
	uint32		steps;
	Latch	   *latch;

	QueueRequireWritable("queue.throttle()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	if (!PG_ARGISNULL(1))
		duration = QueueArgDuration(PG_GETARG_DATUM(1), "duration", true);
	if (duration > THROTTLE_LONGEST)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("duration is too long"),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(1)))),
				 errhint("At most one day is allowed; queue.pause_queue() lasts until it is ended.")));
	QueueSettingsRequire(name, PRIVILEGE_DEQUEUE, &settings);
	slot = QueueXactSlot(settings.queue_id);
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room in shared memory to throttle queue \"%s\"", settings.name),
				 errdetail("The throttle is kept there."),
				 errhint("Consider increasing the configuration parameter \"%s\", or pause the queue.",
						 "queue.max_queues")));
	load_throttle(slot, &settings);

	now = GetCurrentTimestamp();
	SpinLockAcquire(&slot->limit_mutex);
	until = throttled_until(slot, now);
	if (duration == 0)
	{
		until = 0;
		pg_atomic_write_u32(&slot->throttle_steps, 0);
	}
	else if (duration > 0)
		until = Max(until, now + duration);
	else if (until == 0)		/* else somebody was faster with the same news */
	{
		steps = pg_atomic_read_u32(&slot->throttle_steps);
		until = now + Min(THROTTLE_FIRST << steps, THROTTLE_MOST);
		pg_atomic_write_u32(&slot->throttle_steps, Min(steps + 1, THROTTLE_STEPS));
	}
	pg_atomic_write_u64(&slot->throttled_until, (uint64) until);
	SpinLockRelease(&slot->limit_mutex);

	if (until == 0)
		QueueWaitWakeAll(slot);
	latch = Installations[slot->installation].maintenance;
	if (latch)
		SetLatch(latch);		/* to save it */
	if (until == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(until);
}

bool
QueueThrottleChanged(QueueSlot *slot, TimestampTz *until)
{
	TimestampTz saved = (TimestampTz) pg_atomic_read_u64(&slot->throttle_saved);

	*until = (TimestampTz) pg_atomic_read_u64(&slot->throttled_until);
	return *until != saved && Max(*until, saved) > GetCurrentTimestamp();
}

bool
QueueThrottleSave(int32 queue_id, TimestampTz until)
{
	Oid			types[2] = {INT4OID, TIMESTAMPTZOID};
	Datum		values[2];
	bool		saved;

	values[0] = Int32GetDatum(queue_id);
	values[1] = TimestampTzGetDatum(until);
	QueueSpiConnect();
	saved = QueueSpiExecute("UPDATE queue.queue AS q SET throttled_until = $2"
							" FROM (SELECT queue_id FROM queue.queue"
							" WHERE queue_id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED) AS l"
							" WHERE q.queue_id OPERATOR(pg_catalog.=) l.queue_id",
							2, types, values, until == 0 ? " n" : NULL) > 0;
	QueueSpiFinish();
	return saved;
}

void
QueueThrottleSaved(QueueSlot *slot, TimestampTz until)
{
	pg_atomic_write_u64(&slot->throttle_saved, (uint64) until);
}

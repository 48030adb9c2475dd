/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Wait for a job: the lists of waiting takers.
 *
 * A taker that finds nothing sleeps on its latch, in a list that belongs to
 * the queue's slot in shared memory.  Whoever makes a job claimable wakes as
 * many from the head of the list as the jobs need.  Nobody polls, nobody is
 * woken for somebody else's job, and an idle waiter costs nothing.
 *
 * No wake-up is lost.  What must not happen is that a taker sleeps while there
 * is a claimable job that nobody is about to look for.
 *
 * 1. A waiter enters the list, which counts it, and then looks again.  A waker
 *	  makes the job visible, notes it in the hint, and then reads the count.
 *	  Both pass a full memory barrier in between.  So at least one of the two
 *	  notices the other: either the waker sees a waiter in the list, or the look
 *	  of the waiter begins after the note, and by what hint.c proves it finds
 *	  the job, unless somebody else has it in hands.
 *
 * 2. So if the waker saw an empty list, whoever enters later finds the job by
 *	  itself.  If it did not, it has taken somebody off the list.  A waiter that
 *	  has been taken off owes a look, which begins after the note.  If the look
 *	  finds less than the waiter wants, then nothing is left for others.  If the
 *	  look is full, the next waiter is woken if the hints say that there is
 *	  more.  If the waiter never gets to the end of its look (it is cancelled,
 *	  terminated, meets an error), or was woken while it found something by
 *	  itself, it wakes the next one in its place.  So a wake-up ends only with a
 *	  look that was made to its end, or with an empty list.
 *
 * 3. A job that a look passes over because somebody else has it in hands comes
 *	  back with a note of its own (hint.c: abort of whatever changed it, sweep of
 *	  the leases, safety look), and whoever notes wakes.
 *
 * 4. Pause, resume, drop, a privilege that is revoked and changes of settings
 *	  wake everybody when they have committed.  A commit is visible shortly
 *	  before its invalidations are sent, so a waiter that enters the list reads
 *	  the settings anew, past the cache; by the argument of 1, it sees the change
 *	  or is woken by it.  Who is woken first may be back in its place before
 *	  others have been: it is not woken again in their stead.
 *
 * 5. What becomes claimable by the passing of time is noted by the maintenance
 *	  worker.  Where none is running, waiters look by themselves, every second
 *	  and when the next job is due.  A worker that leaves wakes everybody, so
 *	  that they notice.
 *
 * 6. CALL queue.wait() returns to a client, and whether that comes back to take
 *	  the job cannot be known here.  If it does not, the job waits, and so do
 *	  others who would take it: so the worker wakes one waiter in each round in
 *	  which the hints say that there is a job in a queue that has waiters.
 *
 * 7. A look may be denied what it finds (limit.c).  By max_active: whoever frees
 *	  places wakes as many.  By time (a rate, a throttle): who is denied sets the
 *	  alarm of the list to when it may have more, and the head of the list, and
 *	  only that, sleeps no longer than to the alarm.  It then takes itself off
 *	  the list, as if it had been woken, and owes a look like any other.  If that
 *	  is denied, it sets the alarm again; if it is full, it passes on: it wakes
 *	  the next, or sets the alarm for it.  So as long as somebody waits, a denied
 *	  job ends with an alarm that is set, or with a look.
 *
 *	  Whoever sets the alarm, or changes the head of the list while it is set,
 *	  sets the latch of the head, which reads the alarm before it sleeps.  One
 *	  that comes back in front of the head is awake, and reads it, too.  An alarm
 *	  that rings too early costs a look.  Who enters an empty list stops it: it
 *	  looks next, and sets its own.
 *
 * Places in the list are those of arrival: a waiter that was woken and found
 * nothing goes back to where it was.
 *
 * The list and what hangs in it are under the spinlock of the slot; the latch
 * is set after the waiter has been taken off, and the waiter looks at its state
 * before it sleeps.  A latch belongs to a process slot and outlives the
 * process: a wake-up that comes late disturbs somebody else once.
 *
 * While it sleeps, a taker holds the snapshot of its statement and what its
 * transaction held before, but no lock on our tables, no transaction id of its
 * own, and no look.  CALL queue.wait() commits first and holds no snapshot
 * either.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"

#include "clock.h"
#include "compat.h"
#include "job.h"
#include "pool.h"
#include "wait.h"
#include "xact.h"

#define POLL_MS			100		/* without room in shared memory */
#define LOOK_MS			1000	/* without a maintenance worker */
#define PLACES_PASSED	64		/* at most, on the way back to one's place */
#define WOKEN_AT_ONCE	32		/* of all who are to be */

/* the slot in whose list this process is, or was when it was woken, or NULL */
static QueueSlot *waiting;

/* it has been told that it was woken, and is looking */
static bool serving;

/* ---------------------------------------------------------------------
 * The list
 * --------------------------------------------------------------------- */

/* caller holds the spinlock; next is who we go in front of, or -1 */
static inline void
list_insert(QueueSlot *slot, QueueBackend *me, int next)
{
	int			number = me - QueueBackends;

	if (slot->first_waiter < 0)
		slot->alarm = PG_INT64_MAX;
	me->next = next;
	me->previous = next >= 0 ? QueueBackends[next].previous : slot->last_waiter;
	*(me->previous >= 0 ? &QueueBackends[me->previous].next : &slot->first_waiter) = number;
	*(next >= 0 ? &QueueBackends[next].previous : &slot->last_waiter) = number;
	me->state = WAIT_LISTED;
	me->wake_ups = slot->wake_ups;
	pg_atomic_fetch_add_u32(&slot->waiters, 1);
}

/* caller holds the spinlock */
static inline void
list_remove(QueueSlot *slot, QueueBackend *backend, WaitState state)
{
	*(backend->previous >= 0 ? &QueueBackends[backend->previous].next : &slot->first_waiter) = backend->next;
	*(backend->next >= 0 ? &QueueBackends[backend->next].previous : &slot->last_waiter) = backend->previous;
	backend->state = state;
	pg_atomic_fetch_sub_u32(&slot->waiters, 1);
}

/* who is to be told of the alarm?  A number, or -1; caller holds the spinlock */
static inline int
list_head_alarmed(QueueSlot *slot)
{
	return slot->alarm == PG_INT64_MAX ? -1 : slot->first_waiter;
}

static inline void
set_latch(int number)
{
	if (number >= 0)
		SetLatch(&GetPGProcByNumber(number)->procLatch);
}

void
QueueWaitBegin(QueueWait *wait, int want, int64 usecs)
{
	Assert(waiting == NULL);

	wait->slot = NULL;
	wait->want = want;
	if (pg_add_s64_overflow(QueueMonotonicUsecs(), usecs, &wait->deadline))
		wait->deadline = PG_INT64_MAX;
}

void
QueueWaitEnter(QueueWait *wait, QueueSlot *slot)
{
	QueueBackend *me = QueueMyBackend();
	int			next = -1;

	/* the queue was dropped, and there is a new one of its name */
	if (waiting && waiting != slot)
		QueueWaitEnd(false);
	if (slot == NULL || me == NULL)
		return;

	waiting = slot;
	SpinLockAcquire(&slot->wait_mutex);
	/* if woken unawares, stay so: it is a look that is owed */
	if (me->state == WAIT_NOT || serving)
	{
		if (wait->slot != slot)
		{
			wait->slot = slot;
			wait->arrival = ++slot->arrivals;
		}
		else
		{
			next = slot->first_waiter;
			for (int i = 0; i < PLACES_PASSED && next >= 0 &&
				 QueueBackends[next].arrival < wait->arrival; i++)
				next = QueueBackends[next].next;
		}
		me->arrival = wait->arrival;
		me->want = wait->want;
		list_insert(slot, me, next);
	}
	SpinLockRelease(&slot->wait_mutex);
	serving = false;
	/* on to the look; what was counted above is seen before it begins */
	pg_memory_barrier();
}

/* leave the list; true: somebody has taken us off it already */
static bool
leave(void)
{
	QueueSlot  *slot = waiting;
	QueueBackend *me = QueueMyBackend();
	bool		woken;
	int			head = -1;

	SpinLockAcquire(&slot->wait_mutex);
	woken = me->state == WAIT_WOKEN;
	if (me->state == WAIT_LISTED)
	{
		list_remove(slot, me, WAIT_NOT);
		head = list_head_alarmed(slot);
	}
	me->state = WAIT_NOT;
	SpinLockRelease(&slot->wait_mutex);
	set_latch(head);
	waiting = NULL;
	serving = false;
	return woken;
}

void
QueueWaitEnd(bool served)
{
	QueueSlot  *slot = waiting;

	if (slot == NULL)
		return;
	QUEUE_LINGER();
	if (QUEUE_MUTATION(7) || QUEUE_MUTATION(9))
		pg_usleep(2000000);		/* long enough for a test to step in */
	if (leave() && !served && !QUEUE_MUTATION(7))
		QueueWaitWake(slot, 1);
}

/* the same after an error: what we were woken for, somebody else must look for */
void
QueueWaitForget(void)
{
	QueueWaitEnd(false);
}

/* ---------------------------------------------------------------------
 * Waking
 * --------------------------------------------------------------------- */

void
QueueWaitWakeListed(QueueSlot *slot, int64 jobs)
{
	/* who arrives from here on will look */
	uint32		most = pg_atomic_read_u32(&slot->waiters);
	int			head = -1;

	if (OidIsValid(slot->served) && jobs > 0)
		QueuePoolWake(slot, jobs);
	for (; jobs > 0 && most > 0; most--)
	{
		int			number;

		SpinLockAcquire(&slot->wait_mutex);
		number = slot->first_waiter;
		if (number >= 0)
		{
			jobs -= QueueBackends[number].want;
			list_remove(slot, &QueueBackends[number], WAIT_WOKEN);
		}
		head = list_head_alarmed(slot);
		SpinLockRelease(&slot->wait_mutex);
		set_latch(number);
		if (number < 0)
			return;
	}
	set_latch(head);
}

void
QueueWaitAlarm(QueueSlot *slot, TimestampTz at)
{
	int			head = -1;

	SpinLockAcquire(&slot->wait_mutex);
	if (at < slot->alarm && slot->first_waiter >= 0)
	{
		slot->alarm = at;
		head = slot->first_waiter;
	}
	SpinLockRelease(&slot->wait_mutex);
	set_latch(head);
}

/*
 * Take off the list those who were there before a wake-up of all, but no more
 * than there is room for; returns how many.  One that is back already, in front
 * of others, has looked since.
 */
static int
take_off(QueueSlot *slot, uint64 wake_up, int *numbers, int room)
{
	int			count = 0;
	int			next;

	for (int i = slot->first_waiter; i >= 0 && count < room; i = next)
	{
		next = QueueBackends[i].next;
		if (QueueBackends[i].wake_ups >= wake_up)
			continue;
		list_remove(slot, &QueueBackends[i], WAIT_WOKEN);
		numbers[count++] = i;
	}
	return count;
}

void
QueueWaitWakeAll(QueueSlot *slot)
{
	int			numbers[WOKEN_AT_ONCE];
	uint64		wake_up;
	int			count,
				head;

	pg_memory_barrier();		/* as in QueueWaitWake() */
	if (OidIsValid(slot->served))
		QueuePoolWake(slot, PG_INT64_MAX);
	if (!QueueHasWaiters(slot))
		return;
	SpinLockAcquire(&slot->wait_mutex);
	wake_up = ++slot->wake_ups;
	SpinLockRelease(&slot->wait_mutex);
	do
	{
		SpinLockAcquire(&slot->wait_mutex);
		count = take_off(slot, wake_up, numbers, lengthof(numbers));
		head = list_head_alarmed(slot);
		SpinLockRelease(&slot->wait_mutex);
		for (int i = 0; i < count; i++)
		{
			set_latch(numbers[i]);
			if (QUEUE_MUTATION(11))
				pg_usleep(200000);	/* for the woken one to be back */
		}
	} while (count == lengthof(numbers));
	set_latch(head);
}

void
QueueWaitWakeInstallation(Installation *installation)
{
	LWLockAcquire(Shared->lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues; i++)
		if (QueueSlots[i].installation == installation - Installations)
			QueueWaitWakeAll(&QueueSlots[i]);
	LWLockRelease(Shared->lock);
}

/* ---------------------------------------------------------------------
 * Sleeping
 * --------------------------------------------------------------------- */

bool
QueueMayHaveJob(QueueSlot *slot, TimestampTz now, bool *known)
{
	HintSlot  **hints;
	HintSlot   *parked;
	int			count;

	*known = false;
	if (slot == NULL)
		return true;
	hints = QueueHintList(slot, &count, known);
	parked = QueueHintSlot(slot, CLASS_PARKED, true);
	if (parked == NULL)
		*known = false;
	if (!*known)
		return true;
	for (int i = 0; i < count; i++)
		if (HINT_KEY_LT(QueueHintRead(hints[i], NULL), HINT_KEY_MAX) ||
			HINT_KEY_LT(QueueXactOwnKey(hints[i]), HINT_KEY_MAX))
			return true;
	return QueueHintRead(parked, NULL).at <= now || QueueXactOwnKey(parked).at <= now;
}

/* when to look without having been woken */
static TimestampTz
look_at(TimestampTz now)
{
	HintSlot   *parked;
	int			count;
	bool		known = false;
	TimestampTz due;

	if (waiting)
		(void) QueueHintList(waiting, &count, &known);
	parked = known ? QueueHintSlot(waiting, CLASS_PARKED, false) : NULL;
	if (parked == NULL)
		return TimestampTzPlusMilliseconds(now, POLL_MS);

	/* what we have parked ourselves, the worker cannot see yet */
	due = QueueXactOwnKey(parked).at;
	if (Installations[waiting->installation].maintenance == NULL)
	{
		due = Min(due, QueueHintRead(parked, NULL).at);
		/* due already: the look that we have just made has left it to somebody */
		due = Min(due > now ? due : PG_INT64_MAX, TimestampTzPlusMilliseconds(now, LOOK_MS));
	}
	return due > now ? due : PG_INT64_MAX;
}

/* by others, or by the alarm; *until is when it goes off, if it is ours */
static bool
was_woken(TimestampTz now, TimestampTz *until)
{
	QueueSlot  *slot = waiting;
	QueueBackend *me = QueueMyBackend();
	bool		woken;

	*until = PG_INT64_MAX;
	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->wait_mutex);
	if (me->state == WAIT_LISTED && slot->first_waiter == me - QueueBackends)
	{
		*until = slot->alarm;
		if (slot->alarm <= now)
		{
			slot->alarm = PG_INT64_MAX;
			list_remove(slot, me, WAIT_WOKEN);
		}
	}
	woken = me->state == WAIT_WOKEN;
	SpinLockRelease(&slot->wait_mutex);
	return woken;
}

QueueWake
QueueWaitSleep(QueueWait *wait)
{
	static uint32 wait_event = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz look = look_at(now);
	int64		until = wait->deadline;

	/* a clock that is set meanwhile makes nobody sleep for longer */
	if (look != PG_INT64_MAX)
		until = Min(until, QueueMonotonicUsecs() + (look - now));

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("QueueWait");
	for (;;)
	{
		TimestampTz alarm;
		int64		left;

		now = GetCurrentTimestamp();
		if (was_woken(now, &alarm))
		{
			serving = true;
			return WAKE_WOKEN;
		}
		left = until - QueueMonotonicUsecs();
		if (left <= 0)
			return until == wait->deadline ? WAKE_OVER : WAKE_LOOK;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(Min(left, alarm - now) / 1000 + 1, INT_MAX), wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

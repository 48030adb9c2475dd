/*-------------------------------------------------------------------------
 *
 * calls.c
 *		How long a worker waits for what a queue names: on_failed, a validator.
 *
 * The maintenance worker fails jobs whose lease has ended, which calls
 * on_failed, and enqueues the callbacks of batches, which calls a validator,
 * or in mode direct a handler.  An executor fails jobs, too.  Nobody would
 * cancel such a call, and everything that the worker does for others would wait
 * for it.  So it is cancelled after the job_timeout of the queue, a minute at
 * most; one that catches the cancel and goes on is ended with its worker five
 * seconds later, by an error that cannot be caught.
 *
 * The end of the worker undoes what led to the call, so the next one would meet
 * it again; and many calls of a minute each would stop it as well.  So until ten
 * times the time of the call have passed, workers make no calls for the queue:
 * they end with an error at once, as the one that took too long.  When that is
 * over stands in the queue's slot in shared memory, is written before the worker
 * ends, and is forgotten by a crash: then the worker is stopped once more.
 *
 * Sessions are not limited: whoever calls there can cancel, and has
 * statement_timeout.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timeout.h"

#include "calls.h"
#include "clock.h"
#include "compat.h"
#include "xact.h"

#define LIMIT_MS		60000
#define KILL_AFTER_MS	5000	/* from the cancel to the end of the worker */
#define REST			10		/* times the time of the call */

typedef struct Limited
{
	void		(*body) (void *arg);
	void	   *arg;
	const QueueSettings *settings;
	int			limit_ms;
} Limited;

static bool limits;
static TimeoutId cancel_timeout;
static TimeoutId kill_timeout;

/* the call that is being made */
static QueueSlot *calling;		/* pinned by this transaction */
static int64 called_at;			/* by the monotonic clock, as all times here */
static volatile sig_atomic_t timed_out;

static void
cancel_call(void)
{
	timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
rest_from_calls(QueueSlot *slot)
{
	int64		now = QueueMonotonicUsecs();

	pg_atomic_write_u64(&slot->no_calls_until, (uint64) (now + REST * (now - called_at)));
}

static void
end_worker(void)
{
	rest_from_calls(calling);
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

void
QueueCallsLimit(void)
{
	cancel_timeout = RegisterTimeout(USER_TIMEOUT, cancel_call);
	kill_timeout = RegisterTimeout(USER_TIMEOUT, end_worker);
	limits = true;
}

static void
error_too_long(void *arg)
{
	const Limited *limited = arg;

	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("function of queue \"%s\" took too long", limited->settings->name),
			 errdetail("It was cancelled after %d ms; workers call none of the queue for %d times as long.",
					   limited->limit_ms, REST),
			 errhint("Let the function put a job into another queue, and do the work there.")));
}

static void
error_rest(void *arg)
{
	const Limited *limited = arg;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("function of queue \"%s\" was not called", limited->settings->name),
			 errdetail("A function of the queue took too long a short time ago."),
			 errhint("Let the function put a job into another queue, and do the work there.")));
}

static void
run_limited(void *arg)
{
	const Limited *limited = arg;

	limited->body(limited->arg);
	/* it has caught the cancel */
	if (timed_out)
		error_too_long(arg);
}

ErrorData *
QueueTryCall(void (*body) (void *arg), void *arg, const QueueSettings *settings)
{
	/* body may change what the settings say */
	QueueSettings copy = *settings;
	Limited		limited = {body, arg, &copy, LIMIT_MS};
	QueueSlot  *slot = limits && calling == NULL ? QueueXactSlot(settings->queue_id) : NULL;
	ErrorData  *volatile error = NULL;

	if (slot == NULL)
		return QueueTry(body, arg);
	called_at = QueueMonotonicUsecs();
	if ((int64) pg_atomic_read_u64(&slot->no_calls_until) > called_at)
		return QueueTry(error_rest, &limited);
	if (settings->job_timeout > 0)
		limited.limit_ms = (int) Min((settings->job_timeout + 999) / 1000, LIMIT_MS);
	calling = slot;
	timed_out = false;
	enable_timeout_after(cancel_timeout, limited.limit_ms);
	enable_timeout_after(kill_timeout, limited.limit_ms + KILL_AFTER_MS);
	PG_TRY();
	{
		error = QueueTry(run_limited, &limited);
	}
	PG_FINALLY();
	{
		disable_timeout(cancel_timeout, false);
		disable_timeout(kill_timeout, false);
		calling = NULL;
	}
	PG_END_TRY();
	if (timed_out)
	{
		/* one that came too late would hit what follows */
		QueryCancelPending = false;
		rest_from_calls(slot);
		/* whatever the cancel looked like */
		if (error)
			error = QueueTry(error_too_long, &limited);
	}
	return error;
}

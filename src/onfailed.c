/*-------------------------------------------------------------------------
 *
 * onfailed.c
 *		Call the function that a queue names for jobs that failed for good.
 *
 * It is called in the transaction that fails the job, after everything else
 * that follows from the failure: it sees the job as it is now, and may use
 * any function of the queue.  Each call is a subtransaction.  An error undoes
 * what the call has done, and goes to the server's log and to queue.job_log;
 * the job has failed all the same, and so do the others.
 *
 * Cancelling the statement must work, so that error goes on.  In a worker, where
 * nobody would cancel, calls.c limits the time of a call.  A function that
 * fails jobs itself could go round for ever: for these nothing is called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "calls.h"
#include "compat.h"
#include "finish.h"
#include "function.h"
#include "internal.h"
#include "onfailed.h"

static bool running;

bool
QueueOnFailedAllowed(void)
{
	return !running;
}

typedef struct Call
{
	const QueueSettings *settings;
	HeapTuple	row;
	TupleDesc	desc;
} Call;

static void
call(void *arg)
{
	Call	   *job = arg;
	QueueFunction function;
	bool		null;

	QueueFunctionOpen(&function, FUNCTION_ON_FAILED, job->settings);
	(void) QueueFunctionRun(&function, job->row, job->desc, &null);
}

/* one call; NULL, or the error that it ended with */
static ErrorData *
try_call(const QueueSettings *settings, HeapTuple row, TupleDesc desc)
{
	Call		job = {settings, row, desc};
	ErrorData  *error = NULL;

	running = true;
	PG_TRY();
	{
		error = QueueTryCall(call, &job, settings);
	}
	PG_FINALLY();
	{
		running = false;
	}
	PG_END_TRY();
	return error;
}

/* the error of a call, for those who look for it */
static void
log_error(const QueueSettings *settings, HeapTuple row, TupleDesc desc, ErrorData *error)
{
	QueueFinish *finish = QueueFinishBegin();
	Datum		text = CStringGetTextDatum(error->message ? error->message : "");

	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("on_failed of queue \"%s\" raised an error for job %lld", settings->name,
					(long long) JOB_HEAD(row)->job_id),
			 errdetail("%s", error->message ? error->message : ""),
			 errhint("The job has failed all the same; what on_failed did for it was undone.")));
	QueueFinishLog(finish, row, desc, settings, "failed", "on_failed raised an error", &text,
				   GetCurrentTimestamp());
	QueueFinishEnd(finish);
}

void
QueueOnFailedCall(List *rows)
{
	Relation	live = QueueOpenTable(QueueCatalogGet(false)->live, AccessShareLock);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue on_failed",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ListCell   *lc;

	foreach(lc, rows)
	{
		HeapTuple	row = lfirst(lc);
		QueueSettings settings;
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		/* another call may have changed that */
		if (QueueSettingsById(JOB_HEAD(row)->queue_id, &settings) && settings.has_on_failed)
		{
			error = try_call(&settings, row, RelationGetDescr(live));
			if (error)
				log_error(&settings, row, RelationGetDescr(live), error);
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_close(live, NoLock);
}

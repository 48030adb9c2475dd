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
 * Cancelling the statement must work, so that error goes on.  A function that
 * fails jobs itself could go round for ever: for these nothing is called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "compat.h"
#include "finish.h"
#include "function.h"
#include "onfailed.h"

static bool running;

bool
QueueOnFailedAllowed(void)
{
	return !running;
}

/* one call; NULL, or the error that it ended with */
static ErrorData *
call_in_subtransaction(const QueueSettings *settings, HeapTuple row, TupleDesc desc)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		QueueFunction function;
		bool		null;

		running = true;
		QueueFunctionOpen(&function, FUNCTION_ON_FAILED, settings);
		(void) QueueFunctionRun(&function, row, desc, &null);
		running = false;
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		running = false;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		/*
		 * Whoever cancels means the caller.  But a worker has none, and must not
		 * be ended by a function that raises these codes by itself: it would be
		 * ended by the same job again and again.
		 */
		if (MyBackendType != B_BG_WORKER &&
			(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			 error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN))
			ReThrowError(error);
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
			error = call_in_subtransaction(&settings, row, RelationGetDescr(live));
			if (error)
				log_error(&settings, row, RelationGetDescr(live), error);
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_close(live, NoLock);
}

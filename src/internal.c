/*-------------------------------------------------------------------------
 *
 * internal.c
 *		SQL on our own tables, outside the hot path, and checks of arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "internal.h"
#include "shared.h"

static int	depth;				/* calls of QueueSpiConnect() that are open */
static Oid	saved_user[8];
static int	saved_context[8];
static int	saved_nest_level[8];

/*
 * Whoever cancels means the call.  But a worker has no caller, and must not be
 * ended by code that raises these errors by itself: it would meet it again and
 * again.  What ends a worker in earnest is no error that could be caught.
 */
ErrorData *
QueueTry(void (*body) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		body(arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		/* this also makes us who we were */
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (MyBackendType != B_BG_WORKER &&
			(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			 error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN))
			ReThrowError(error);
	}
	PG_END_TRY();
	return error;
}

Oid
QueueExtensionOwner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(QueueCatalogGet(false)->schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema \"%s\"", QUEUE_SCHEMA);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
QueueSpiConnect(void)
{
	Oid			owner = QueueExtensionOwner();

	if (depth >= lengthof(saved_user))
		elog(ERROR, "internal SQL is nested too deep");
	SPI_connect();
	GetUserIdAndSecContext(&saved_user[depth], &saved_context[depth]);
	SetUserIdAndSecContext(owner, saved_context[depth] | SECURITY_LOCAL_USERID_CHANGE);

	/* nobody's operators but the system's, whatever the caller's path */
	saved_nest_level[depth] = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	depth++;
}

void
QueueSpiFinish(void)
{
	Assert(depth > 0);
	depth--;
	AtEOXact_GUC(true, saved_nest_level[depth]);
	SetUserIdAndSecContext(saved_user[depth], saved_context[depth]);
	SPI_finish();
}

uint64
QueueSpiExecute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			result;

	Assert(depth > 0);
	result = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

Oid
QueueSpiCaller(void)
{
	Assert(depth > 0);
	return saved_user[0];
}

bool
QueueSpiActive(void)
{
	return depth > 0;
}

/* after an error, which has restored the user and ended SPI */
void
QueueSpiForget(void)
{
	depth = 0;
}

/* ---------------------------------------------------------------------
 * Arguments
 * --------------------------------------------------------------------- */

void
QueueErrorNull(const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name),
			 errdetail("The argument \"%s\" has no value.", name),
			 errhint("%s", hint)));
}

void
QueueErrorRange(const char *name, int64 value, int64 least, int64 most)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s must be between %lld and %lld", name, (long long) least, (long long) most),
			 errdetail("It is %lld.", (long long) value),
			 value < least ? errhint("The smallest value is %lld.", (long long) least) :
			 errhint("The largest value is %lld.", (long long) most)));
}

text *
QueueArgText(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		QueueErrorNull(name, "Give a text.");
	return PG_GETARG_TEXT_PP(arg);
}

/* worker, source, batch_id: short texts that stand in every row */
void
QueueCheckLabel(text *label, const char *name)
{
	if (VARSIZE_ANY_EXHDR(label) > QUEUE_LABEL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be longer than %d bytes", name, QUEUE_LABEL_MAX),
				 errdetail("It has %d bytes; at most %d are allowed.",
						   (int) VARSIZE_ANY_EXHDR(label), QUEUE_LABEL_MAX),
				 errhint("Put long texts into the payload or the headers.")));
}

void
QueueCheckJsonbSize(Datum jsonb, const char *name, int element)
{
	Size		size = toast_raw_datum_size(jsonb) - VARHDRSZ;

	if (size <= (Size) queue_max_payload_size * 1024)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("%s must not be larger than %d kB", name, queue_max_payload_size),
			 element > 0 ?
			 errdetail("Element %d has %zu bytes; at most %zu are allowed.",
					   element, size, (Size) queue_max_payload_size * 1024) :
			 errdetail("It has %zu bytes; at most %zu are allowed.",
					   size, (Size) queue_max_payload_size * 1024),
			 errhint("Store large data elsewhere and enqueue a reference to it, "
					 "or raise queue.max_payload_size.")));
}

int64
QueueArgDuration(Datum interval, const char *name, bool allow_zero)
{
	int64		usecs = QueueIntervalUsecs(DatumGetIntervalP(interval), name);

	if (usecs < 0 || (usecs == 0 && !allow_zero))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(allow_zero ? "%s must not be negative" : "%s must be longer than nothing", name),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out, interval))),
				 errhint("Give an interval such as '30 s'.")));
	return usecs;
}

TimestampTz
QueueArgAge(Datum interval, const char *name)
{
	Interval   *age = DatumGetIntervalP(interval);
	TimestampTz now = GetCurrentTimestamp();

	if (age->month < 0 || age->day < 0 || age->time < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", name),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out, interval))),
				 errhint("Give an interval such as '30 days'.")));
	/* older than everything */
	if ((int64) age->month * 31 + age->day + age->time / USECS_PER_DAY > 366 * 6000)
		return DT_NOBEGIN;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(now), interval));
}

/* info and detail: what stands in shared memory */
void
QueueCheckSmallJsonb(Datum jsonb, const char *name, int most)
{
	Size		size = toast_raw_datum_size(jsonb) - VARHDRSZ;

	if (size > (Size) most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not be larger than %d bytes", name, most),
				 errdetail("It has %zu bytes; at most %d are allowed.", size, most),
				 errhint("Store large data elsewhere.")));
}

/* the error is the server's, which knows no more than the text */
static void
tell_option(void *arg)
{
	if (geterrcode() == ERRCODE_INVALID_DATETIME_FORMAT || geterrcode() == ERRCODE_DATETIME_VALUE_OUT_OF_RANGE)
	{
		errdetail("It is the option \"%s\".", (const char *) arg);
		errhint("Give an interval such as '5 minutes'.");
	}
}

Interval *
QueueIntervalFromText(const char *name, const char *text)
{
	ErrorContextCallback context = {error_context_stack, tell_option, unconstify(char *, name)};
	Datum		interval;

	error_context_stack = &context;
	interval = DirectFunctionCall3(interval_in, CStringGetDatum(text),
								   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	error_context_stack = context.previous;
	return DatumGetIntervalP(interval);
}

static void
require_preload(void)
{
	if (!QueueSharedReady())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the library \"queue\" is not preloaded"),
				 errdetail("It works in shared memory that it gets when the server starts."),
				 errhint("Add shared_preload_libraries = 'queue' to postgresql.conf and restart the server.")));
}

/* the errors of PreventCommandDuringRecovery() and its kin, which do not say what to do */
static void
require_primary(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s during recovery", function),
				 errdetail("This server is a standby."),
				 errhint("Connect to the primary.")));
}

void
QueueRequireRunning(const char *function)
{
	require_preload();
	PreventCommandIfParallelMode(function);
	require_primary(function);
}

void
QueueRequireWritable(const char *function)
{
	require_preload();
	require_primary(function);
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s in a read-only transaction", function),
				 errdetail("It writes."),
				 errhint("Begin the transaction with READ WRITE, and look at default_transaction_read_only.")));
	PreventCommandIfParallelMode(function);
}

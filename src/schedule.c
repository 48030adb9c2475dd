/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		Jobs by the clock, on pg_cron.
 *
 * A schedule is a row of queue.schedule, which says what to enqueue, and a job
 * of pg_cron, which calls queue._fire() with its name and nothing else.  So a
 * payload never stands in a command, and what fires cannot ask for more than
 * the row.
 *
 * pg_cron is looked up when it is needed.  Its functions exist in one database
 * of the server, cron.database_name; in others, the row is made here and the
 * cron job there, by hand.  Only what belongs to the extension pg_cron is
 * called: anybody who may create a schema could have one named cron.
 *
 * pg_cron may fire twice: after a failover, or because two cron jobs were
 * made.  The row remembers when it was fired last, and is locked from looking
 * at that until the end of the transaction that enqueues; of the firings of one
 * minute (of one second, if the schedule is in seconds), the first enqueues and
 * the others return its job.
 *
 * Locks: the queue, then the row, as everywhere.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "entry.h"
#include "internal.h"
#include "schedule.h"
#include "validate.h"

QUEUE_FUNCTION(queue_schedule);
QUEUE_FUNCTION(queue_unschedule);
QUEUE_FUNCTION(queue__fire);

extern Datum queue_enqueue(PG_FUNCTION_ARGS);

/* the arguments of queue.schedule() */
enum
{
	ARG_SCHEDULE_NAME, ARG_CRON, ARG_QUEUE_NAME, ARG_PAYLOAD, ARG_PRIORITY, ARG_MAX_ATTEMPTS,
	ARG_GROUP_KEY, ARG_SOURCE, ARG_HEADERS, ARG_OPTIONS, ARG_CREATE_CRON_JOB
};

/* what is asked for at each firing: in the row, in this order, and of enqueue() */
#define NUM_ASKED	(ARG_OPTIONS - ARG_PAYLOAD + 1)
#define ENQUEUE_ARGS	15
static const int enqueue_arg[NUM_ASKED] = {1, 2, 5, 7, 9, 10, 14};
static const Oid asked_types[NUM_ASKED] = {
	JSONBOID, INT4OID, INT4OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID
};
#define ASKED_COLUMNS "payload, priority, max_attempts, group_key, source, headers, options"

typedef struct Schedule
{
	int32		queue_id;
	Oid			owner;
	bool		fired;
	TimestampTz fired_at;
	int64		job_id;			/* that it enqueued last */
	bool		has_cron_job;
	int64		cron_job_id;
	char	   *cron;
	NullableDatum asked[NUM_ASKED];
} Schedule;

/* ---------------------------------------------------------------------
 * pg_cron
 * --------------------------------------------------------------------- */

/* is pg_cron in this database? */
static bool
cron_is_here(void)
{
	Oid			extension = get_extension_oid("pg_cron", true);
	Oid			schema = get_namespace_oid("cron", true);

	return OidIsValid(extension) && OidIsValid(schema) &&
		getExtensionOfObject(NamespaceRelationId, schema) == extension;
}

static const char *
fire_command(const char *name)
{
	return psprintf("SELECT queue._fire(%s)", quote_literal_cstr(name));
}

/* a command reads better between dollars */
static const char *
quote_command(const char *command)
{
	return strchr(command, '$') ? quote_literal_cstr(command) : psprintf("$$%s$$", command);
}

/* what to call in another database, which may have schedules of that name as well */
static const char *
elsewhere_name(const char *name, const char *database)
{
	return quote_literal_cstr(psprintf("queue: %s in %s", name, database));
}

static void
require_cron(const char *name, const char *cron)
{
	const char *home = GetConfigOption("cron.database_name", true, false);
	const char *here = get_database_name(MyDatabaseId);

	if (cron_is_here())
		return;
	if (home == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cron is not installed"),
				 errdetail("Schedules are fired by the extension pg_cron."),
				 errhint("Install its package, add pg_cron to shared_preload_libraries, restart the server, "
						 "and call CREATE EXTENSION pg_cron; or give create_cron_job => false, "
						 "and let something else call %s.", fire_command(name))));
	if (strcmp(home, here) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cron is not installed in database \"%s\"", here),
				 errdetail("The server has its library, for this database."),
				 errhint("Call CREATE EXTENSION pg_cron.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pg_cron is in database \"%s\", not in \"%s\"", home, here),
			 errdetail("Its functions can be called only there."),
			 errhint("Give create_cron_job => false here; then call in database \"%s\", as a superuser: "
					 "SELECT cron.schedule_in_database(%s, %s, %s, %s, %s)", home,
					 elsewhere_name(name, here), quote_literal_cstr(cron),
					 quote_command(fire_command(name)), quote_literal_cstr(here),
					 quote_literal_cstr(GetUserNameFromId(GetUserId(), false)))));
}

static void
name_schedule(void *arg)
{
	errcontext("pg_cron, for the queue schedule \"%s\"", (const char *) arg);
}

/* as the current user, whom pg_cron will fire it as */
static int64
create_cron_job(char *name, const char *cron)
{
	ErrorContextCallback callback = {error_context_stack, name_schedule, name};
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3];
	bool		null;
	int64		cron_job_id;

	values[0] = CStringGetTextDatum(psprintf("queue: %s", name));
	values[1] = CStringGetTextDatum(cron);
	values[2] = CStringGetTextDatum(fire_command(name));
	SPI_connect();
	error_context_stack = &callback;
	if (SPI_execute_with_args("SELECT cron.schedule($1, $2, $3)", 3, types, values, NULL, false,
							  1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "pg_cron did not return a job");
	cron_job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											  &null));
	error_context_stack = callback.previous;
	SPI_finish();
	return cron_job_id;
}

/*
 * Remove the cron job of a schedule that is no more; say so if it cannot be.
 * Only the very one: in a restored database, the number may be another's.
 * Between QueueSpiConnect() and QueueSpiFinish(): whoever may remove the
 * schedule need not be its owner.
 */
static void
remove_cron_job(const char *name, bool has_cron_job, int64 cron_job_id)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2];
	const char *home = GetConfigOption("cron.database_name", true, false);
	const char *here = get_database_name(MyDatabaseId);

	if (!has_cron_job)
	{
		if (home && strcmp(home, here) != 0)
			ereport(NOTICE,
					(errmsg("the cron job of schedule \"%s\" is not removed", name),
					 errdetail("pg_cron is in database \"%s\".", home),
					 errhint("If one was made there, call there: SELECT cron.unschedule(%s)",
							 elsewhere_name(name, here))));
		return;
	}
	if (!cron_is_here())
		return;
	values[0] = Int64GetDatum(cron_job_id);
	values[1] = CStringGetTextDatum(fire_command(name));
	(void) QueueSpiExecute("SELECT cron.unschedule(jobid) FROM cron.job"
						   " WHERE jobid OPERATOR(pg_catalog.=) $1"
						   " AND command OPERATOR(pg_catalog.=) $2"
						   " AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
						   2, types, values, NULL);
}

/* ---------------------------------------------------------------------
 * Rows
 * --------------------------------------------------------------------- */

static Datum
copy_datum(Datum value, Oid type, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		copy = type == INT4OID ? value :
		PointerGetDatum(PG_DETOAST_DATUM_COPY(value));

	MemoryContextSwitchTo(old);
	return copy;
}

/* the row of that name, locked if so asked; false: there is none */
static bool
read_schedule(text *name, bool lock, Schedule *schedule)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			type = TEXTOID;
	Datum		value = PointerGetDatum(name);
	bool		found;
	bool		null;

	memset(schedule, 0, sizeof(*schedule));
	QueueSpiConnect();
	found = QueueSpiExecute(psprintf("SELECT queue_id, owner::pg_catalog.oid, last_fired_at,"
									 " last_job_id, cron_job_id, cron, " ASKED_COLUMNS
									 " FROM queue.schedule"
									 " WHERE schedule_name OPERATOR(pg_catalog.=) $1%s",
									 lock ? " FOR UPDATE" : ""), 1, &type, &value, NULL) > 0;
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		schedule->queue_id = DatumGetInt32(SPI_getbinval(row, desc, 1, &null));
		schedule->owner = DatumGetObjectId(SPI_getbinval(row, desc, 2, &null));
		schedule->fired_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 3, &null));
		schedule->fired = !null;
		schedule->job_id = DatumGetInt64(SPI_getbinval(row, desc, 4, &null));
		schedule->cron_job_id = DatumGetInt64(SPI_getbinval(row, desc, 5, &null));
		schedule->has_cron_job = !null;
		schedule->cron = MemoryContextStrdup(context,
											 TextDatumGetCString(SPI_getbinval(row, desc, 6, &null)));
		for (int i = 0; i < NUM_ASKED; i++)
		{
			NullableDatum *asked = &schedule->asked[i];

			asked->value = SPI_getbinval(row, desc, 7 + i, &asked->isnull);
			if (!asked->isnull)
				asked->value = copy_datum(asked->value, asked_types[i], context);
		}
	}
	QueueSpiFinish();
	return found;
}

QUEUE_NORETURN static void
error_no_schedule(text *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("schedule \"%s\" does not exist", text_to_cstring(name)),
			 errdetail("No row of queue.schedule has that name."),
			 errhint("Create it with queue.schedule().")));
}

static bool
is_owner(const Schedule *schedule)
{
	return has_privs_of_role(GetUserId(), schedule->owner);
}

/* the arguments of queue.enqueue() that a schedule asks for, behind the queue's name */
static void
set_enqueue_args(FunctionCallInfo fcinfo, const NullableDatum *asked)
{
	for (int i = 0; i < ENQUEUE_ARGS; i++)
		fcinfo->args[i] = (NullableDatum) {(Datum) 0, true};
	for (int i = 0; i < NUM_ASKED; i++)
		fcinfo->args[enqueue_arg[i]] = asked[i];
}

/* ---------------------------------------------------------------------
 * Schedules come and go
 * --------------------------------------------------------------------- */

static text *
name_arg(FunctionCallInfo fcinfo)
{
	text	   *name = QueueArgText(fcinfo, ARG_SCHEDULE_NAME, "schedule_name");
	int			length = VARSIZE_ANY_EXHDR(name);

	if (length == 0 || length > QUEUE_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 length == 0 ? errmsg("schedule name must not be empty") :
				 errmsg("schedule name is too long"),
				 errdetail("It has %d bytes.", length),
				 errhint("A schedule name has 1 to %d bytes.", QUEUE_NAME_MAX)));
	return name;
}

/* what would be refused at each firing is refused now */
static void
check_asked(FunctionCallInfo fcinfo, QueueSettings *settings)
{
	LOCAL_FCINFO(enqueue, ENQUEUE_ARGS);
	QueueRequest request;
	Datum		payload;

	if (PG_ARGISNULL(ARG_PAYLOAD))
		QueueErrorNull("payload", "An empty payload is '{}' or 'null'::jsonb.");
	InitFunctionCallInfoData(*enqueue, NULL, ENQUEUE_ARGS, InvalidOid, NULL, NULL);
	set_enqueue_args(enqueue, &fcinfo->args[ARG_PAYLOAD]);
	QueueReadRequest(enqueue, &request);
	payload = PG_GETARG_DATUM(ARG_PAYLOAD);
	QueueCheckJsonbSize(payload, "payload", 0);
	if (settings->has_rules)
		QueueValidate(settings, &payload, 1, false);
}

/* insert the row, or replace what it says, but not its cron job */
static void
put_schedule(FunctionCallInfo fcinfo, text *name, int32 queue_id)
{
	Oid			types[4 + NUM_ASKED] = {TEXTOID, TEXTOID, INT4OID, OIDOID};
	Datum		values[4 + NUM_ASKED];
	char		nulls[4 + NUM_ASKED + 1];
	uint64		put;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = PointerGetDatum(name);
	values[1] = PG_GETARG_DATUM(ARG_CRON);
	values[2] = Int32GetDatum(queue_id);
	values[3] = ObjectIdGetDatum(GetUserId());
	for (int i = 0; i < NUM_ASKED; i++)
	{
		types[4 + i] = asked_types[i];
		values[4 + i] = fcinfo->args[ARG_PAYLOAD + i].value;
		nulls[4 + i] = fcinfo->args[ARG_PAYLOAD + i].isnull ? 'n' : ' ';
	}
	QueueSpiConnect();
	put = QueueSpiExecute("INSERT INTO queue.schedule AS s (schedule_name, cron, queue_id, owner, "
						  ASKED_COLUMNS ", created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8,"
						  " $9, $10, $11, pg_catalog.clock_timestamp())"
						  " ON CONFLICT (schedule_name) DO UPDATE SET cron = $2, queue_id = $3,"
						  " payload = $5, priority = $6, max_attempts = $7, group_key = $8,"
						  " source = $9, headers = $10, options = $11"
						  " WHERE s.owner OPERATOR(pg_catalog.=) $4",
						  lengthof(types), types, values, nulls);
	CommandCounterIncrement();
	QueueSpiFinish();
	if (put == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of schedule \"%s\"", text_to_cstring(name)),
				 errdetail("Its cron job runs as another role."),
				 errhint("Choose another name, or remove that schedule first with queue.unschedule().")));
}

static void
set_cron_job(text *name, bool has_cron_job, int64 cron_job_id)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2] = {PointerGetDatum(name), Int64GetDatum(cron_job_id)};

	QueueSpiConnect();
	(void) QueueSpiExecute("UPDATE queue.schedule SET cron_job_id = $2"
						   " WHERE schedule_name OPERATOR(pg_catalog.=) $1",
						   2, types, values, has_cron_job ? "  " : " n");
	QueueSpiFinish();
}

Datum
queue_schedule(PG_FUNCTION_ARGS)
{
	text	   *name;
	char	   *cron;
	bool		with_cron_job = PG_ARGISNULL(ARG_CREATE_CRON_JOB) ||
		PG_GETARG_BOOL(ARG_CREATE_CRON_JOB);
	QueueSettings settings;
	Schedule	schedule;
	int64		cron_job_id = 0;

	QueueRequireWritable("queue.schedule()");
	name = name_arg(fcinfo);
	cron = text_to_cstring(QueueArgText(fcinfo, ARG_CRON, "cron"));
	QueueSettingsLock(QueueArgText(fcinfo, ARG_QUEUE_NAME, "queue_name"), PRIVILEGE_ENQUEUE,
					  AccessShareLock, &settings);
	check_asked(fcinfo, &settings);
	if (with_cron_job)
		require_cron(text_to_cstring(name), cron);

	put_schedule(fcinfo, name, settings.queue_id);
	if (!read_schedule(name, false, &schedule))
		elog(ERROR, "schedule \"%s\" vanished", text_to_cstring(name));
	if (with_cron_job)
		cron_job_id = create_cron_job(text_to_cstring(name), cron);
	if (schedule.has_cron_job && (!with_cron_job || schedule.cron_job_id != cron_job_id))
	{
		QueueSpiConnect();
		remove_cron_job(text_to_cstring(name), true, schedule.cron_job_id);
		QueueSpiFinish();
	}
	set_cron_job(name, with_cron_job, cron_job_id);
	if (!with_cron_job)
		PG_RETURN_NULL();
	PG_RETURN_INT64(cron_job_id);
}

/* its owner may, and who administers its queue */
static void
require_removable(text *name, const Schedule *schedule)
{
	QueueSettings settings;

	if (is_owner(schedule))
		return;
	if (!QueueSettingsById(schedule->queue_id, &settings) ||
		!(QueuePrivileges(&settings) & PRIVILEGE_ADMIN))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of schedule \"%s\"", text_to_cstring(name)),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(schedule->owner, true)),
				 errhint("Its owner can remove it, and who has admin on its queue.")));
}

Datum
queue_unschedule(PG_FUNCTION_ARGS)
{
	text	   *name;
	Schedule	schedule;
	Oid			type = TEXTOID;
	Datum		value;

	QueueRequireWritable("queue.unschedule()");
	name = name_arg(fcinfo);
	if (!read_schedule(name, true, &schedule))
		PG_RETURN_BOOL(false);
	require_removable(name, &schedule);
	value = PointerGetDatum(name);
	QueueSpiConnect();
	(void) QueueSpiExecute("DELETE FROM queue.schedule"
						   " WHERE schedule_name OPERATOR(pg_catalog.=) $1",
						   1, &type, &value, NULL);
	remove_cron_job(text_to_cstring(name), schedule.has_cron_job, schedule.cron_job_id);
	QueueSpiFinish();
	PG_RETURN_BOOL(true);
}

void
QueueScheduleDrop(const QueueSettings *settings, bool cascade)
{
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(settings->queue_id);
	uint64		count;
	SPITupleTable *table;

	QueueSpiConnect();
	count = QueueSpiExecute("SELECT schedule_name, cron_job_id FROM queue.schedule"
							" WHERE queue_id OPERATOR(pg_catalog.=) $1 ORDER BY schedule_name",
							1, &type, &value, NULL);
	table = SPI_tuptable;
	if (count > 0 && !cascade)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop queue \"%s\" because it has schedules", settings->name),
				 errdetail("The first one is \"%s\".", SPI_getvalue(table->vals[0], table->tupdesc, 1)),
				 errhint("Remove them with queue.unschedule(), or drop them too with cascade => true.")));
	(void) QueueSpiExecute("DELETE FROM queue.schedule WHERE queue_id OPERATOR(pg_catalog.=) $1",
						   1, &type, &value, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		bool		null;
		Datum		cron_job_id = SPI_getbinval(table->vals[i], table->tupdesc, 2, &null);

		remove_cron_job(SPI_getvalue(table->vals[i], table->tupdesc, 1), !null,
						DatumGetInt64(cron_job_id));
	}
	QueueSpiFinish();
}

/* ---------------------------------------------------------------------
 * Firing
 * --------------------------------------------------------------------- */

/* the row, locked, and its queue before it, which may be another one by then */
static void
lock_schedule(text *name, Schedule *schedule, QueueSettings *settings)
{
	int32		queue_id;

	for (;;)
	{
		if (!read_schedule(name, false, schedule))
			error_no_schedule(name);
		/* before anybody waits for a lock of ours */
		if (!is_owner(schedule))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of schedule \"%s\"", text_to_cstring(name)),
					 errdetail("Its owner is \"%s\".", GetUserNameFromId(schedule->owner, true)),
					 errhint("Its cron job must run as that role.")));
		queue_id = schedule->queue_id;
		if (QueueSettingsLockById(queue_id, AccessShareLock, settings) &&
			read_schedule(name, true, schedule) && schedule->queue_id == queue_id)
			return;
		/* its snapshot would show the same row for ever */
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("schedule \"%s\" was changed while it was fired",
							text_to_cstring(name)),
					 errdetail("The transaction does not see the change."),
					 errhint("Try again.")));
		CHECK_FOR_INTERRUPTS();
	}
}

/* in the same minute, or second? */
static bool
same_time(const Schedule *schedule, TimestampTz now)
{
	int64		period = strstr(schedule->cron, "second") ? USECS_PER_SEC : USECS_PER_MINUTE;

	return schedule->fired && schedule->fired_at / period == now / period;
}

/* with the rights of the schedule's owner, whoever fires */
static int64
enqueue_scheduled(const Schedule *schedule, const QueueSettings *settings, const char *name)
{
	LOCAL_FCINFO(enqueue, ENQUEUE_ARGS);
	Oid			user;
	int			context;
	int64		job_id;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(schedule->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of schedule \"%s\" does not exist any more", name),
				 errdetail("Its number is %u.", schedule->owner),
				 errhint("Remove the schedule with queue.unschedule(), and create it again.")));
	InitFunctionCallInfoData(*enqueue, NULL, ENQUEUE_ARGS, InvalidOid, NULL, NULL);
	set_enqueue_args(enqueue, schedule->asked);
	enqueue->args[0] = (NullableDatum) {CStringGetTextDatum(settings->name), false};
	/* so that a job tells where it comes from */
	if (enqueue->args[9].isnull)
		enqueue->args[9] = (NullableDatum) {CStringGetTextDatum(psprintf("schedule %s", name)), false};

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(schedule->owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	job_id = DatumGetInt64(queue_enqueue(enqueue));
	SetUserIdAndSecContext(user, context);
	return job_id;
}

Datum
queue__fire(PG_FUNCTION_ARGS)
{
	text	   *name;
	Schedule	schedule;
	QueueSettings settings;
	TimestampTz now;
	Oid			types[3] = {TEXTOID, TIMESTAMPTZOID, INT8OID};
	Datum		values[3];
	int64		job_id;

	QueueRequireWritable("queue._fire()");
	name = name_arg(fcinfo);
	lock_schedule(name, &schedule, &settings);
	now = GetCurrentTimestamp();
	if (same_time(&schedule, now))
		PG_RETURN_INT64(schedule.job_id);

	job_id = enqueue_scheduled(&schedule, &settings, text_to_cstring(name));
	values[0] = PointerGetDatum(name);
	values[1] = TimestampTzGetDatum(now);
	values[2] = Int64GetDatum(job_id);
	QueueSpiConnect();
	(void) QueueSpiExecute("UPDATE queue.schedule SET last_fired_at = $2, last_job_id = $3"
						   " WHERE schedule_name OPERATOR(pg_catalog.=) $1",
						   3, types, values, NULL);
	QueueSpiFinish();
	PG_RETURN_INT64(job_id);
}

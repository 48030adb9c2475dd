/*-------------------------------------------------------------------------
 *
 * admin.c
 *		Queues: create, alter, drop, pause, and who may use them.
 *
 * All of it is SQL on queue.queue and queue.privilege, as the owner of the
 * extension, after the caller's right to it has been checked.  Every change
 * ends with an invalidation, so that other sessions read the settings anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "compat.h"
#include "flow.h"
#include "function.h"
#include "health.h"
#include "internal.h"
#include "operate.h"
#include "ring.h"
#include "schedule.h"
#include "xact.h"

QUEUE_FUNCTION(queue_create_queue);
QUEUE_FUNCTION(queue_alter_queue);
QUEUE_FUNCTION(queue_reset_queue_setting);
QUEUE_FUNCTION(queue_drop_queue);
QUEUE_FUNCTION(queue_pause_queue);
QUEUE_FUNCTION(queue_resume_queue);
QUEUE_FUNCTION(queue_start_processing);
QUEUE_FUNCTION(queue_stop_processing);
QUEUE_FUNCTION(queue_grant_queue);
QUEUE_FUNCTION(queue_revoke_queue);
QUEUE_FUNCTION(queue__upgraded);

/* the settings, in the order of the arguments of create_queue() */
typedef enum Setting
{
	SET_MAX_ATTEMPTS, SET_BACKOFF, SET_BACKOFF_BASE, SET_BACKOFF_MAX,
	SET_BACKOFF_JITTER, SET_VISIBILITY_TIMEOUT, SET_JOB_TIMEOUT, SET_DEFAULT_PRIORITY,
	SET_AGING_INTERVAL, SET_MAX_ACTIVE, SET_RATE_LIMIT, SET_RATE_PERIOD, SET_MAX_DEPTH,
	SET_KEEP_COMPLETED, SET_KEEP_FAILED, SET_DEAD_LETTER_QUEUE, SET_REQUIRED_KEYS,
	SET_VALIDATOR, SET_LOG_LEVEL, SET_NOTIFY, SET_ON_FAILED, SET_BATCH_GRACE, SET_MAX_ACTIVE_PER_KEY,
	SET_NO_RETRY_SQLSTATES, SET_HEALTH_THRESHOLDS
} Setting;
#define NUM_SETTINGS	(SET_HEALTH_THRESHOLDS + 1)

static const struct
{
	const char *name;
	Oid			type;
	bool		nullable;
	const char *reset;			/* its default, as in the SQL signature */
}			settings_info[NUM_SETTINGS] = {
	[SET_MAX_ATTEMPTS] = {"max_attempts", INT4OID, false, "3"},
	[SET_BACKOFF] = {"backoff", TEXTOID, false, "'exponential'"},
	[SET_BACKOFF_BASE] = {"backoff_base", INTERVALOID, false, "'2s'::interval"},
	[SET_BACKOFF_MAX] = {"backoff_max", INTERVALOID, false, "'1h'::interval"},
	[SET_BACKOFF_JITTER] = {"backoff_jitter", FLOAT4OID, false, "0.1"},
	[SET_VISIBILITY_TIMEOUT] = {"visibility_timeout", INTERVALOID, false, "'30s'::interval"},
	[SET_JOB_TIMEOUT] = {"job_timeout", INTERVALOID, true, "NULL"},
	[SET_DEFAULT_PRIORITY] = {"default_priority", INT4OID, false, "5"},
	[SET_AGING_INTERVAL] = {"aging_interval", INTERVALOID, true, "NULL"},
	[SET_MAX_ACTIVE] = {"max_active", INT4OID, true, "NULL"},
	[SET_RATE_LIMIT] = {"rate_limit", INT4OID, true, "NULL"},
	[SET_RATE_PERIOD] = {"rate_period", INTERVALOID, false, "'1s'::interval"},
	[SET_MAX_DEPTH] = {"max_depth", INT8OID, true, "NULL"},
	[SET_KEEP_COMPLETED] = {"keep_completed", INTERVALOID, false, "'7d'::interval"},
	[SET_KEEP_FAILED] = {"keep_failed", INTERVALOID, false, "'7d'::interval"},
	[SET_DEAD_LETTER_QUEUE] = {"dead_letter_queue", TEXTOID, true, "NULL"},
	[SET_REQUIRED_KEYS] = {"required_keys", TEXTARRAYOID, true, "NULL"},
	[SET_VALIDATOR] = {"validator", TEXTOID, true, "NULL"},
	[SET_LOG_LEVEL] = {"log_level", TEXTOID, false, "'errors'"},
	[SET_NOTIFY] = {"notify", BOOLOID, false, "false"},
	[SET_ON_FAILED] = {"on_failed", TEXTOID, true, "NULL"},
	[SET_BATCH_GRACE] = {"batch_grace", INTERVALOID, false, "'1min'::interval"},
	[SET_MAX_ACTIVE_PER_KEY] = {"max_active_per_key", INT4OID, true, "NULL"},
	[SET_NO_RETRY_SQLSTATES] = {"no_retry_sqlstates", TEXTARRAYOID, true, "NULL"},
	[SET_HEALTH_THRESHOLDS] = {"health_thresholds", JSONBOID, true, "NULL"},
};

#define MAX_AGING_DAYS	INT64CONST(1000)

/* functions that a role must be able to call for a privilege to be of use */
static const char *const enqueue_functions = "queue.enqueue, queue.enqueue_batch, queue.publish,"
" queue.enqueue_trigger, queue.cancel, queue.create_batch, queue.close_batch, queue.batch_status,"
" queue.schedule, queue.unschedule, queue._fire";
static const char *const dequeue_functions = "queue.dequeue_batch, queue.complete, queue.complete_many,"
" queue.complete_and_dequeue, queue.fail, queue.fail_many, queue.extend, queue.release, queue.wait,"
" queue.process_next, queue.throttle, queue.set_progress, queue.heartbeat, queue.sign_off,"
" queue._workers";
static const char *const browse_functions = "queue.job_status, queue.list_jobs, queue.queue_stats,"
" queue.batch_status, queue.job_history, queue.queue_health, queue.health_alerts,"
" queue.explain_job, queue._may, queue._state, queue._progress, queue._workers, queue._metrics,"
" queue.report, queue.top, queue.version";
static const char *const admin_functions = "queue.alter_queue, queue.reset_queue_setting,"
" queue.drop_queue, queue.pause_queue, queue.resume_queue, queue.purge_queue, queue.grant_queue,"
" queue.revoke_queue, queue.requeue_failed, queue.retry_job, queue.redrive, queue.clean,"
" queue.set_handler, queue.set_mode, queue.bind, queue.unbind, queue.start_processing,"
" queue.stop_processing, queue.unschedule, queue.stats_reset";
static const char *const browse_tables = "queue.job, queue.job_finished, queue.queue, queue.privilege,"
" queue.job_archive, queue.job_log, queue.binding, queue.batch_progress_view,"
" queue.worker, queue.schedule, queue.metric_history, queue.metrics";
static const char *const dequeue_tables = "queue.worker";

static void
check_int(const char *name, int value, int least, int most)
{
	if (value < least || value > most)
		QueueErrorRange(name, value, least, most);
}

static void
check_word(const char *name, Datum value, const char *first, const char *second, const char *third)
{
	char	   *word = TextDatumGetCString(value);

	if (strcmp(word, first) != 0 && strcmp(word, second) != 0 &&
		(third == NULL || strcmp(word, third) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 third ? errmsg("%s must be \"%s\", \"%s\" or \"%s\"", name, first, second, third) :
				 errmsg("%s must be \"%s\" or \"%s\"", name, first, second),
				 errdetail("It is \"%s\".", word),
				 errhint("Write it in small letters.")));
}

static void
check_keys(const char *name, ArrayType *keys)
{
	if (ARR_NDIM(keys) > 1 || array_contains_nulls(keys))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list of keys", name),
				 ARR_NDIM(keys) > 1 ? errdetail("It has %d dimensions.", ARR_NDIM(keys)) :
				 errdetail("One of them is null."),
				 errhint("For example: ARRAY['order_id', 'amount'].")));
}

/* each one a code, or the two characters of a class */
static void
check_sqlstates(const char *name, ArrayType *codes)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(codes, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const char *code = nulls[i] ? "" : TextDatumGetCString(elements[i]);
		Size		length = strlen(code);

		if ((length == 2 || length == 5) &&
			strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == length)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list of SQLSTATE codes", name),
				 nulls[i] ? errdetail("One of them is null.") : errdetail("\"%s\" is none.", code),
				 errhint("A code has five digits or capital letters, a class of codes two: "
						 "ARRAY['22012', '23'].")));
	}
}

static void
check_setting(Setting setting, Datum value)
{
	const char *name = settings_info[setting].name;
	float4		jitter;

	switch (setting)
	{
		case SET_MAX_ATTEMPTS:
			check_int(name, DatumGetInt32(value), 1, QUEUE_MAX_ATTEMPTS);
			break;
		case SET_DEFAULT_PRIORITY:
			check_int(name, DatumGetInt32(value), PG_INT16_MIN, PG_INT16_MAX);
			break;
		case SET_BACKOFF:
			check_word(name, value, "exponential", "fixed", NULL);
			break;
		case SET_LOG_LEVEL:
			check_word(name, value, "errors", "none", "all");
			break;
		case SET_BACKOFF_JITTER:
			jitter = DatumGetFloat4(value);
			if (!(jitter >= 0 && jitter <= 1))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("%s must be between 0 and 1", name),
						 errdetail("It is %g.", jitter),
						 errhint("0 means that delays are exact, 1 that they are all random.")));
			break;
		case SET_BACKOFF_BASE:
		case SET_BACKOFF_MAX:
			(void) QueueArgDuration(value, name, true);
			break;
		case SET_VISIBILITY_TIMEOUT:
		case SET_JOB_TIMEOUT:
		case SET_RATE_PERIOD:
			(void) QueueArgDuration(value, name, false);
			break;
		case SET_AGING_INTERVAL:
			/* times any priority, it must still be a time */
			if (QueueArgDuration(value, name, false) > MAX_AGING_DAYS * USECS_PER_DAY)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("%s is too long", name),
						 errdetail("It is %s.",
								   DatumGetCString(DirectFunctionCall1(interval_out, value))),
						 errhint("At most %d days are allowed.", (int) MAX_AGING_DAYS)));
			break;
		case SET_KEEP_COMPLETED:
		case SET_KEEP_FAILED:
			(void) QueueRetentionUsecs(DatumGetIntervalP(value), name);
			break;
		case SET_BATCH_GRACE:
			(void) QueueArgDuration(value, name, true);
			break;
		case SET_MAX_ACTIVE:
		case SET_RATE_LIMIT:
		case SET_MAX_ACTIVE_PER_KEY:
			check_int(name, DatumGetInt32(value), 1, PG_INT32_MAX);
			break;
		case SET_NO_RETRY_SQLSTATES:
			check_sqlstates(name, DatumGetArrayTypeP(value));
			break;
		case SET_MAX_DEPTH:
			if (DatumGetInt64(value) < 1)
				QueueErrorRange(name, DatumGetInt64(value), 1, PG_INT64_MAX);
			break;
		case SET_REQUIRED_KEYS:
			check_keys(name, DatumGetArrayTypeP(value));
			break;
		case SET_HEALTH_THRESHOLDS:
			QueueHealthCheckThresholds(value);
			break;
		case SET_NOTIFY:
			break;
		case SET_DEAD_LETTER_QUEUE:
		case SET_VALIDATOR:
		case SET_ON_FAILED:
			break;				/* against the queue: check_references() */
	}
}

static void
check_dead_letter_queue(text *target, const char *queue_name)
{
	QueueSettings settings;

	if (strcmp(text_to_cstring(target), queue_name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a queue cannot be its own dead-letter queue"),
				 errdetail("It is \"%s\".", queue_name),
				 errhint("Create another queue for the jobs that have failed for good.")));
	QueueSettingsRequire(target, PRIVILEGE_ENQUEUE, &settings);
}

/*
 * What a setting names must be there, and may be used: by the caller, and a
 * function by the owner of the queue.  Returns the value to store.
 */
static Datum
check_references(Setting setting, Datum value, const char *queue_name, Oid owner)
{
	switch (setting)
	{
		case SET_VALIDATOR:
			return PointerGetDatum(QueueFunctionCheck(FUNCTION_VALIDATOR, DatumGetTextPP(value),
													  owner));
		case SET_ON_FAILED:
			return PointerGetDatum(QueueFunctionCheck(FUNCTION_ON_FAILED, DatumGetTextPP(value),
													  owner));
		case SET_DEAD_LETTER_QUEUE:
			check_dead_letter_queue(DatumGetTextPP(value), queue_name);
			return value;
		default:
			return value;
	}
}

/* a leaf must be there before the first job expires into it */
static void
ensure_leaf(Setting setting, Datum value)
{
	if (setting == SET_KEEP_COMPLETED || setting == SET_KEEP_FAILED)
		QueueRingEnsure(RING_ARCHIVE, QueueRetentionUsecs(DatumGetIntervalP(value),
														  settings_info[setting].name), true);
}

/* of a list of objects, those that are there, if the SQL objects are older than the library */
static const char *
existing(const char *list)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(list);

	if (!QueueCatalogGet(false)->outdated)
		return list;
	(void) QueueSpiExecute("SELECT string_agg(name, ', ') FROM unnest(string_to_array($1, ', ')) AS name"
						   " WHERE to_regclass(name) IS NOT NULL OR EXISTS (SELECT FROM pg_proc"
						   " WHERE pronamespace = 'queue'::regnamespace AND 'queue.' || proname = name)",
						   1, &type, &value, NULL);
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/*
 * Let a role call functions of ours.  Whether it may do something with a queue
 * is decided by queue.privilege; EXECUTE alone gives nothing away.
 */
static void
grant_usage(Oid role, int privileges)
{
	const char *name = quote_identifier(GetUserNameFromId(role, false));

	if (superuser_arg(role))
		return;
	/* concurrent GRANTs of the same object fail: one at a time */
	LockRelationOid(QueueCatalogGet(false)->privilege, ShareRowExclusiveLock);
#define GRANT(sql, what) \
	QueueSpiExecute(psprintf(sql, what, name), 0, NULL, NULL, NULL)
	GRANT("GRANT USAGE ON SCHEMA %s TO %s", "queue");
	if (privileges & (PRIVILEGE_ENQUEUE | PRIVILEGE_ADMIN))
		GRANT("GRANT EXECUTE ON FUNCTION %s TO %s", existing(enqueue_functions));
	if (privileges & (PRIVILEGE_DEQUEUE | PRIVILEGE_ADMIN))
	{
		GRANT("GRANT EXECUTE ON ROUTINE %s TO %s", existing(dequeue_functions));
		GRANT("GRANT SELECT ON %s TO %s", existing(dequeue_tables));
	}
	if (privileges & (PRIVILEGE_BROWSE | PRIVILEGE_ADMIN))
	{
		GRANT("GRANT EXECUTE ON FUNCTION %s TO %s", existing(browse_functions));
		GRANT("GRANT SELECT ON %s TO %s", existing(browse_tables));
	}
	if (privileges & PRIVILEGE_ADMIN)
		GRANT("GRANT EXECUTE ON FUNCTION %s TO %s", existing(admin_functions));
}

static void
revoke_usage(Oid role)
{
	const char *name = quote_identifier(GetUserNameFromId(role, false));
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(role);

	LockRelationOid(QueueCatalogGet(false)->privilege, ShareRowExclusiveLock);
	GRANT("REVOKE EXECUTE ON FUNCTION %s FROM %s", existing(enqueue_functions));
	GRANT("REVOKE EXECUTE ON ROUTINE %s FROM %s", existing(dequeue_functions));
	GRANT("REVOKE EXECUTE ON FUNCTION %s FROM %s", existing(browse_functions));
	GRANT("REVOKE EXECUTE ON FUNCTION %s FROM %s", existing(admin_functions));
	GRANT("REVOKE SELECT ON %s FROM %s", existing(browse_tables));
	/* one that may create queues, or call maintain(), needs the schema for it */
	if (QueueSpiExecute("SELECT FROM pg_proc WHERE pronamespace = 'queue'::regnamespace"
						" AND proname IN ('create_queue', 'maintain') AND has_function_privilege($1, oid, 'EXECUTE')",
						1, &type, &value, NULL) == 0)
		GRANT("REVOKE USAGE ON SCHEMA %s FROM %s", "queue");
#undef GRANT
}

/*
 * With its last privilege and its last queue, a role loses what would keep it
 * from being dropped.  A predefined role cannot be dropped, and pg_monitor has
 * rights from the extension itself, which no owner of a queue may take away.  Of
 * its own objects, the extension's owner keeps what an owner has.
 */
static void
revoke_unused(Oid role)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(role);

	if (role < FirstNormalObjectId || !SearchSysCacheExists1(AUTHOID, value) ||
		role == QueueExtensionOwner())
		return;
	if (QueueSpiExecute("SELECT FROM queue.privilege WHERE grantee OPERATOR(pg_catalog.=) $1"
						" UNION ALL SELECT FROM queue.queue WHERE owner OPERATOR(pg_catalog.=) $1",
						1, &type, &value, NULL) == 0)
		revoke_usage(role);
}

static void
settings_changed(void)
{
	QueueCatalogInvalidate();
	CommandCounterIncrement();
}

static void
check_name(text *name)
{
	int			length = VARSIZE_ANY_EXHDR(name);

	if (length == 0 || length > QUEUE_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 length == 0 ? errmsg("queue name must not be empty") :
				 errmsg("queue name is too long"),
				 errdetail("It has %d bytes.", length),
				 errhint("A queue name has 1 to %d bytes.", QUEUE_NAME_MAX)));
}

Datum
queue_create_queue(PG_FUNCTION_ARGS)
{
	StringInfoData sql;
	Oid			types[2 + NUM_SETTINGS] = {TEXTOID, OIDOID};
	Datum		values[2 + NUM_SETTINGS];
	char		nulls[2 + NUM_SETTINGS + 1];
	text	   *name;
	QueueSettings existing;

	QueueRequireWritable("queue.create_queue()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	check_name(name);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = PointerGetDatum(name);
	values[1] = ObjectIdGetDatum(GetUserId());
	for (int i = 0; i < NUM_SETTINGS; i++)
	{
		types[2 + i] = settings_info[i].type;
		values[2 + i] = PG_GETARG_DATUM(1 + i);
		if (!PG_ARGISNULL(1 + i))
		{
			check_setting((Setting) i, values[2 + i]);
			values[2 + i] = check_references((Setting) i, values[2 + i], text_to_cstring(name),
											 GetUserId());
		}
		else if (settings_info[i].nullable)
			nulls[2 + i] = 'n';
		else
			QueueErrorNull(settings_info[i].name, "Leave the argument out to get its default.");
	}

	/* one at a time, so that a second one of the name sees the first */
	LockRelationOid(QueueCatalogGet(false)->queue, ShareRowExclusiveLock);
	if (QueueSettingsByName(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), &existing))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("queue \"%s\" already exists", text_to_cstring(name)),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(existing.owner, true)),
				 errhint("Change its settings with queue.alter_queue().")));

	initStringInfo(&sql);
	appendStringInfoString(&sql, "INSERT INTO queue.queue (queue_id, queue_name, owner, paused, created_at,"
						   " mode, concurrency, min_workers, processing");
	for (int i = 0; i < NUM_SETTINGS; i++)
		appendStringInfo(&sql, ", %s", settings_info[i].name);
	appendStringInfoString(&sql, ") VALUES (pg_catalog.nextval('queue._queue_id'), $1, $2, false,"
						   " pg_catalog.clock_timestamp(), 'queued', 1, 0, true");
	for (int i = 0; i < NUM_SETTINGS; i++)
		appendStringInfo(&sql, ", $%d", 3 + i);
	appendStringInfoChar(&sql, ')');

	QueueSpiConnect();
	(void) QueueSpiExecute(sql.data, lengthof(types), types, values, nulls);
	settings_changed();
	if (QueueSettingsByName(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), &existing))
		QueueFlowNone(existing.queue_id);
	for (int i = 0; i < NUM_SETTINGS; i++)
		ensure_leaf((Setting) i, values[2 + i]);
	QueueRingEnsure(RING_LOG, (int64) queue_log_retention * 60 * USECS_PER_SEC, true);
	grant_usage(DatumGetObjectId(values[1]), PRIVILEGE_ALL);
	QueueSpiFinish();
	PG_RETURN_VOID();
}

static Oid
role_arg(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		QueueErrorNull("role", "Give the name of a role.");
	/* a regrole may be any number */
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(PG_GETARG_OID(arg))))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role %u does not exist", PG_GETARG_OID(arg)),
				 errdetail("No role has that number."),
				 errhint("Give the name of a role.")));
	return PG_GETARG_OID(arg);
}

/*
 * May the caller give the queue to somebody else, and to this role?  What the
 * queue names will run as the new owner.
 */
static void
check_new_owner(const QueueSettings *settings, Oid owner)
{
	if (superuser())
		return;
	if (!has_privs_of_role(GetUserId(), settings->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of queue \"%s\"", settings->name),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(settings->owner, true)),
				 errhint("Only the owner of a queue can give it to another role.")));
	if (!queue_can_set_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\"", GetUserNameFromId(owner, false)),
				 errdetail("Role \"%s\" is not.", GetUserNameFromId(GetUserId(), false)),
				 errhint("A queue can be given to a role that one is a member of.")));
}

/* does it decide where jobs stand?  Then producers of the queue must wait */
static bool
concerns_jobs(Setting setting)
{
	return setting == SET_AGING_INTERVAL || setting == SET_MAX_ACTIVE_PER_KEY;
}

static void
update_jobs(QueueSettings *settings, Setting setting)
{
	int32		queue_id = settings->queue_id;

	if (!QueueSettingsById(queue_id, settings))
		elog(ERROR, "queue %d vanished", queue_id);
	if (setting == SET_AGING_INTERVAL)
		QueueReorder(settings);
	else
		QueueLimitJobs(settings);
}

Datum
queue_alter_queue(PG_FUNCTION_ARGS)
{
	StringInfoData sql;
	Oid			types[2 + NUM_SETTINGS] = {INT4OID};
	Datum		values[2 + NUM_SETTINGS];
	int			n = 1;
	QueueSettings settings;
	text	   *name;
	bool		exclusive = false;
	Oid			owner = InvalidOid;

	QueueRequireWritable("queue.alter_queue()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	if (!PG_ARGISNULL(1 + NUM_SETTINGS))
		owner = role_arg(fcinfo, 1 + NUM_SETTINGS);
	for (int i = 0; i < NUM_SETTINGS; i++)
		if (!PG_ARGISNULL(1 + i))
		{
			check_setting((Setting) i, PG_GETARG_DATUM(1 + i));
			exclusive |= concerns_jobs((Setting) i);
		}
	QueueSettingsLock(name, PRIVILEGE_ADMIN,
					  exclusive ? AccessExclusiveLock : ShareUpdateExclusiveLock, &settings);

	if (OidIsValid(owner))
		check_new_owner(&settings, owner);
	if (!PG_ARGISNULL(1 + SET_VALIDATOR))
		QueueFunctionRequireOwner(FUNCTION_VALIDATOR, &settings);
	if (!PG_ARGISNULL(1 + SET_ON_FAILED))
		QueueFunctionRequireOwner(FUNCTION_ON_FAILED, &settings);

	initStringInfo(&sql);
	for (int i = 0; i < NUM_SETTINGS; i++)
	{
		if (PG_ARGISNULL(1 + i))
			continue;
		types[n] = settings_info[i].type;
		values[n] = check_references((Setting) i, PG_GETARG_DATUM(1 + i), settings.name,
									 OidIsValid(owner) ? owner : settings.owner);
		n++;
		appendStringInfo(&sql, "%s%s = $%d", sql.len > 0 ? ", " : "", settings_info[i].name, n);
	}
	if (OidIsValid(owner))
	{
		types[n] = OIDOID;
		values[n++] = ObjectIdGetDatum(owner);
		appendStringInfo(&sql, "%sowner = $%d", sql.len > 0 ? ", " : "", n);
	}
	if (sql.len == 0)
		PG_RETURN_VOID();		/* nothing to change */

	values[0] = Int32GetDatum(settings.queue_id);
	QueueSpiConnect();
	(void) QueueSpiExecute(psprintf("UPDATE queue.queue SET %s"
									" WHERE queue_id OPERATOR(pg_catalog.=) $1", sql.data),
						   n, types, values, NULL);
	settings_changed();
	for (int i = 0; i < NUM_SETTINGS; i++)
		if (!PG_ARGISNULL(1 + i))
			ensure_leaf((Setting) i, PG_GETARG_DATUM(1 + i));
	QueueXactWakeAll(settings.queue_id);
	if (OidIsValid(owner))
	{
		grant_usage(owner, PRIVILEGE_ALL);
		revoke_unused(settings.owner);
	}
	QueueSpiFinish();
	for (int i = 0; i < NUM_SETTINGS; i++)
		if (!PG_ARGISNULL(1 + i) && concerns_jobs((Setting) i))
			update_jobs(&settings, (Setting) i);
	PG_RETURN_VOID();
}

Datum
queue_reset_queue_setting(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	char	   *word;
	int			setting = -1;
	Oid			type = INT4OID;
	Datum		value;

	QueueRequireWritable("queue.reset_queue_setting()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	word = text_to_cstring(QueueArgText(fcinfo, 1, "setting"));
	for (int i = 0; i < NUM_SETTINGS; i++)
		if (strcmp(settings_info[i].name, word) == 0)
			setting = i;
	if (setting < 0)
	{
		StringInfoData list;

		initStringInfo(&list);
		for (int i = 0; i < NUM_SETTINGS; i++)
			appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", settings_info[i].name);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown queue setting \"%s\"", word),
				 errdetail("A queue has no setting of that name."),
				 errhint("Settings are %s.", list.data)));
	}
	QueueSettingsLock(name, PRIVILEGE_ADMIN,
					  concerns_jobs((Setting) setting) ? AccessExclusiveLock : ShareUpdateExclusiveLock,
					  &settings);
	value = Int32GetDatum(settings.queue_id);
	QueueSpiConnect();
	(void) QueueSpiExecute(psprintf("UPDATE queue.queue SET %s = %s"
									" WHERE queue_id OPERATOR(pg_catalog.=) $1",
									settings_info[setting].name, settings_info[setting].reset),
						   1, &type, &value, NULL);
	settings_changed();
	QueueXactWakeAll(settings.queue_id);
	QueueSpiFinish();
	if (concerns_jobs((Setting) setting))
		update_jobs(&settings, (Setting) setting);
	PG_RETURN_VOID();
}

/* rows beside jobs that go with a queue */
static const struct
{
	const char *table;
	const char *column;
}			side_tables[] = {
	{"unique_key", "queue_id"},
	{"group_head", "queue_id"},
	{"limit_place", "queue_id"},
	{"binding", "queue_id"},
	{"dependency", "child_queue_id"},
	{"metric_history", "queue_id"},
};

Datum
queue_drop_queue(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	bool		cascade = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	Oid			type = INT4OID;
	Datum		value;
	uint64		grantees;
	SPITupleTable *table;

	QueueRequireWritable("queue.drop_queue()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	/* waits for the producers that have jobs on the way into it */
	QueueSettingsLock(name, PRIVILEGE_ADMIN, AccessExclusiveLock, &settings);
	if (!cascade && QueueCountJobs(&settings, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop queue \"%s\" because it has unfinished jobs", settings.name),
				 errdetail("They would be lost."),
				 errhint("Let them finish, remove them with queue.purge_queue(), "
						 "or drop them too with cascade => true.")));
	QueueScheduleDrop(&settings, cascade);
	if (cascade)
		(void) QueueDeleteJobs(&settings, true);

	value = Int32GetDatum(settings.queue_id);
	QueueSpiConnect();
	grantees = QueueSpiExecute("DELETE FROM queue.privilege"
							   " WHERE queue_id OPERATOR(pg_catalog.=) $1 RETURNING grantee",
							   1, &type, &value, NULL);
	table = SPI_tuptable;
	for (int i = 0; i < lengthof(side_tables); i++)
		(void) QueueSpiExecute(psprintf("DELETE FROM queue.%s WHERE %s OPERATOR(pg_catalog.=) $1",
										side_tables[i].table, side_tables[i].column),
							   1, &type, &value, NULL);
	(void) QueueSpiExecute("DELETE FROM queue.queue WHERE queue_id OPERATOR(pg_catalog.=) $1",
						   1, &type, &value, NULL);
	for (uint64 i = 0; i < grantees; i++)
	{
		bool		null;

		revoke_unused(DatumGetObjectId(SPI_getbinval(table->vals[i], table->tupdesc, 1, &null)));
	}
	revoke_unused(settings.owner);
	settings_changed();
	QueueXactWakeAll(settings.queue_id);
	QueueSpiFinish();
	PG_RETURN_VOID();
}

/* a setting that is true or false, of one queue or of all */
static void
set_flag(FunctionCallInfo fcinfo, const char *name, bool flag)
{
	Oid			types[2] = {INT4OID, BOOLOID};
	Datum		values[2];
	List	   *queues;
	ListCell   *lc;

	queues = QueueSettingsOf(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), PRIVILEGE_ADMIN);
	QueueSpiConnect();
	foreach(lc, queues)
	{
		values[0] = Int32GetDatum(((QueueSettings *) lfirst(lc))->queue_id);
		values[1] = BoolGetDatum(flag);
		(void) QueueSpiExecute(psprintf("UPDATE queue.queue SET %s = $2"
										" WHERE queue_id OPERATOR(pg_catalog.=) $1"
										" AND %s IS DISTINCT FROM $2", name, name),
							   2, types, values, NULL);
		QueueXactWakeAll(((QueueSettings *) lfirst(lc))->queue_id);
	}
	settings_changed();
	QueueSpiFinish();
}

Datum
queue_pause_queue(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.pause_queue()");
	set_flag(fcinfo, "paused", true);
	PG_RETURN_VOID();
}

Datum
queue_resume_queue(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.resume_queue()");
	set_flag(fcinfo, "paused", false);
	PG_RETURN_VOID();
}

Datum
queue_start_processing(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.start_processing()");
	set_flag(fcinfo, "processing", true);
	PG_RETURN_VOID();
}

Datum
queue_stop_processing(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.stop_processing()");
	set_flag(fcinfo, "processing", false);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------------
 * Privileges
 * --------------------------------------------------------------------- */

static const struct
{
	const char *name;
	QueuePrivilege privilege;
}			privilege_words[] = {
	{"enqueue", PRIVILEGE_ENQUEUE},
	{"dequeue", PRIVILEGE_DEQUEUE},
	{"browse", PRIVILEGE_BROWSE},
	{"admin", PRIVILEGE_ADMIN},
};

/* 'enqueue, browse' as a set; the list must name something */
static int
parse_privileges(text *list)
{
	char	   *words = text_to_cstring(list);
	int			privileges = 0;

	for (char *word = strtok(words, ", \t\n"); word; word = strtok(NULL, ", \t\n"))
	{
		int			privilege = 0;

		for (int i = 0; i < lengthof(privilege_words); i++)
			if (pg_strcasecmp(word, privilege_words[i].name) == 0)
				privilege = privilege_words[i].privilege;
		if (privilege == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown queue privilege \"%s\"", word),
					 errdetail("The list is \"%s\".", text_to_cstring(list)),
					 errhint("Privileges are enqueue, dequeue, browse and admin.")));
		privileges |= privilege;
	}
	if (privileges == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("privileges must not be empty"),
				 errdetail("The list names no privilege."),
				 errhint("Privileges are enqueue, dequeue, browse and admin.")));
	return privileges;
}

/*
 * Run an SQL command with queue, role and word for each privilege of a set;
 * returns how many rows they have changed.
 */
static uint64
for_each_privilege(const char *sql, int32 queue_id, Oid role, int privileges)
{
	Oid			types[3] = {INT4OID, OIDOID, TEXTOID};
	Datum		values[3];
	uint64		changed = 0;

	values[0] = Int32GetDatum(queue_id);
	values[1] = ObjectIdGetDatum(role);
	for (int i = 0; i < lengthof(privilege_words); i++)
	{
		if (!(privileges & privilege_words[i].privilege))
			continue;
		values[2] = CStringGetTextDatum(privilege_words[i].name);
		changed += QueueSpiExecute(sql, 3, types, values, NULL);
	}
	return changed;
}

Datum
queue_grant_queue(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	Oid			role;
	int			privileges;

	QueueRequireWritable("queue.grant_queue()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	role = role_arg(fcinfo, 1);
	privileges = parse_privileges(QueueArgText(fcinfo, 2, "privileges"));
	QueueSettingsLock(name, PRIVILEGE_ADMIN, ShareUpdateExclusiveLock, &settings);

	QueueSpiConnect();
	(void) for_each_privilege("INSERT INTO queue.privilege (queue_id, grantee, privilege)"
							  " VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
							  settings.queue_id, role, privileges);
	grant_usage(role, privileges);
	settings_changed();
	QueueSpiFinish();
	PG_RETURN_VOID();
}

Datum
queue_revoke_queue(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	Oid			role;
	int			privileges;

	QueueRequireWritable("queue.revoke_queue()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	role = role_arg(fcinfo, 1);
	privileges = parse_privileges(QueueArgText(fcinfo, 2, "privileges"));
	QueueSettingsLock(name, PRIVILEGE_ADMIN, ShareUpdateExclusiveLock, &settings);

	QueueSpiConnect();
	/* of who had none, nothing is taken that somebody has granted by hand */
	if (for_each_privilege("DELETE FROM queue.privilege WHERE queue_id OPERATOR(pg_catalog.=) $1"
						   " AND grantee OPERATOR(pg_catalog.=) $2"
						   " AND privilege OPERATOR(pg_catalog.=) $3",
						   settings.queue_id, role, privileges) > 0)
		revoke_unused(role);
	settings_changed();
	QueueSpiFinish();
	/* whoever waits may not be allowed to any more */
	QueueXactWakeAll(settings.queue_id);
	PG_RETURN_VOID();
}

/*
 * What the library lets roles do may have become more with an upgrade, which
 * is when this is called.
 */
static void
grant_anew(void)
{
	uint64		count;
	SPITupleTable *roles;

	count = QueueSpiExecute("SELECT grantee::oid, privilege FROM queue.privilege"
							" UNION SELECT owner::oid, 'admin' FROM queue.queue ORDER BY 1, 2",
							0, NULL, NULL, NULL);
	roles = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		bool		null;
		Datum		role = SPI_getbinval(roles->vals[i], roles->tupdesc, 1, &null);
		Datum		privilege = SPI_getbinval(roles->vals[i], roles->tupdesc, 2, &null);

		if (SearchSysCacheExists1(AUTHOID, role))
			grant_usage(DatumGetObjectId(role), parse_privileges(DatumGetTextPP(privilege)));
	}
}

/*
 * The end of a script that upgrades the extension: roles get what is new for
 * them, and everybody looks at the objects anew.
 */
Datum
queue__upgraded(PG_FUNCTION_ARGS)
{
	bool		script = creating_extension;

	if (!script)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function \"queue._upgraded\" can be called by a script of the extension only"),
				 errdetail("It ends an upgrade."),
				 errhint("Run ALTER EXTENSION queue UPDATE.")));
	QueueRequireWritable("queue._upgraded()");
	settings_changed();

	/* what is granted in a script counts as the extension's own, and is not in dumps */
	creating_extension = false;
	PG_TRY();
	{
		QueueSpiConnect();
		grant_anew();
		QueueSpiFinish();
	}
	PG_FINALLY();
	{
		creating_extension = script;
	}
	PG_END_TRY();
	QueueXactAnnounceExtension();
	PG_RETURN_VOID();
}

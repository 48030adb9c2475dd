/*-------------------------------------------------------------------------
 *
 * queue.c
 *		Load the library: settings, shared memory, callbacks, hooks, launcher.
 *
 * _PG_init never fails, or the server would not start.  Without preloading it
 * does nothing; CREATE EXTENSION then says what is missing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "function.h"
#include "internal.h"
#include "launcher.h"
#include "pool.h"
#include "stats.h"
#include "xact.h"

PG_MODULE_MAGIC;

QUEUE_FUNCTION(queue__require_preload);
QUEUE_FUNCTION(queue__announce);
QUEUE_FUNCTION(queue_version);
QUEUE_FUNCTION(queue__dml_trigger);

PGDLLEXPORT void _PG_init(void);

int			queue_max_databases = 64;
int			queue_max_queues = 1024;
int			queue_max_hints = 4096;
int			queue_max_payload_size = 16 * 1024;
int			queue_log_retention = 7 * 24 * 60;
int			queue_batch_retention = 30 * 24 * 60;
int			queue_maintenance_interval = 1000;
int			queue_vacuum_threshold = 100000;
int			queue_health_interval = 60000;
bool		queue_async_claims = true;
int			queue_max_wait = 60000;
int			queue_max_workers = 1000;
int			queue_worker_timeout = 60000;
int			queue_max_progress = 1000;
int			queue_metrics_interval = 60;
int			queue_metrics_retention = 30 * 24 * 60;

static ProcessUtility_hook_type prev_process_utility;

static void
define_settings(void)
{
	DefineCustomIntVariable("queue.max_databases",
							"Sets the maximum number of databases that have the extension.",
							NULL, &queue_max_databases, 64, 1, 10000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_queues",
							"Sets the maximum number of queues, over all databases, that have counters in shared memory.",
							NULL, &queue_max_queues, 1024, 16, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_hints",
							"Sets the maximum number of hints in shared memory.",
							"A queue needs one for delayed jobs and one for each priority in use.",
							&queue_max_hints, 4096, 32, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_payload_size",
							"Sets the maximum size of a payload, and of headers.",
							NULL, &queue_max_payload_size, 16 * 1024, 1, MAX_KILOBYTES / 4,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.log_retention",
							"Sets how long rows of queue.job_log are kept.",
							NULL, &queue_log_retention, 7 * 24 * 60, 1, 10 * 366 * 24 * 60,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.batch_retention",
							"Sets how long complete batches are kept.",
							NULL, &queue_batch_retention, 30 * 24 * 60, 1, 10 * 366 * 24 * 60,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.metrics_interval",
							"Sets the time between two rows of a queue in queue.metric_history.",
							NULL, &queue_metrics_interval, 60, 1, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.metrics_retention",
							"Sets how long rows of queue.metric_history are kept.",
							NULL, &queue_metrics_retention, 30 * 24 * 60, 1, 10 * 366 * 24 * 60,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.maintenance_interval",
							"Sets the longest time between two rounds of the maintenance worker.",
							NULL, &queue_maintenance_interval, 1000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.vacuum_threshold",
							"Sets the number of dead row versions after which queue.job_live is vacuumed.",
							NULL, &queue_vacuum_threshold, 100000, 100, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.health_interval",
							"Sets the time between two samples that queue.queue_health() compares.",
							"Shares and growth are those of the last fifteen.",
							&queue_health_interval, 60000, 100, 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("queue.async_claims",
							 "Lets a transaction that only took jobs commit without waiting for the disk.",
							 "A crash may undo such a claim; the jobs then wait again.",
							 &queue_async_claims, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_wait",
							"Sets the longest time that a call which takes jobs waits for one.",
							"Its snapshot is held meanwhile, so vacuum removes nothing that is newer.",
							&queue_max_wait, 60000, 0, 24 * 60 * 60 * 1000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_executors",
							"Sets the maximum number of workers in a database that run handlers.",
							"They count against max_worker_processes.",
							&queue_max_executors, 4, 0, 1024,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.executor_idle_timeout",
							"Sets how long a worker that runs handlers is kept without a job.",
							NULL, &queue_executor_idle_timeout, 10000, 10, 24 * 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_workers",
							"Sets the maximum number of outside workers, over all databases, that tell that they live.",
							NULL, &queue_max_workers, 1000, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.worker_timeout",
							"Sets the time after which an outside worker that is not heard of counts as lost.",
							"Its leases end then. 0 means never.",
							&queue_worker_timeout, 60000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.notify_interval",
							"Sets the shortest time between two notifications of the same event of a queue.",
							"What happens meanwhile is told by one.",
							&queue_notify_interval, 1000, 10, 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_progress",
							"Sets the maximum number of running jobs, over all databases, whose progress is known.",
							NULL, &queue_max_progress, 1000, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved("queue");
#else
	EmitWarningsOnPlaceholders("queue");
#endif
}

/* ---------------------------------------------------------------------
 * Utility commands that concern us
 * --------------------------------------------------------------------- */

static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		may = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may;
}

/* may the user do that to the database anyhow?  Else nobody need leave. */
static bool
owns_database(Oid database_id)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database_id));
	bool		owns;

	if (!HeapTupleIsValid(tuple))
		return false;
	owns = superuser() ||
		has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba) ||
		(((Form_pg_database) GETSTRUCT(tuple))->datistemplate && may_create_databases());
	ReleaseSysCache(tuple);
	return owns;
}

/* the database that a command wants to itself, or invalid */
static Oid
wanted_database(Node *node)
{
	const char *name = NULL;
	ListCell   *lc;
	Oid			database_id;

	switch (nodeTag(node))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) node)->dbname;
			break;
		case T_CreatedbStmt:
			name = "template1";
			foreach(lc, ((CreatedbStmt *) node)->options)
			{
				DefElem    *option = lfirst(lc);

				if (strcmp(option->defname, "template") == 0 && option->arg)
					name = defGetString(option);
			}
			break;
		case T_RenameStmt:
			if (((RenameStmt *) node)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) node)->subname;
			break;
		case T_AlterDatabaseStmt:
			foreach(lc, ((AlterDatabaseStmt *) node)->options)
				if (strcmp(((DefElem *) lfirst(lc))->defname, "tablespace") == 0)
					name = ((AlterDatabaseStmt *) node)->dbname;
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	database_id = get_database_oid(name, true);
	return OidIsValid(database_id) && owns_database(database_id) ? database_id : InvalidOid;
}

/* who fills our tables: see _dml_trigger */
static void
note_restorer(const QueueCatalog *cat)
{
	Installation *installation = QueueInstallation(cat->live);

	if (installation)
		pg_atomic_write_u32(&installation->restorer, MyProcPid);
}

/*
 * Does a command fill one of our tables?  Whoever may not, is told so by the
 * server, and nobody waits for him.  Nor does the state of our tables concern
 * who fills another.
 */
static bool
fills_our_table(Node *node)
{
	CopyStmt   *copy = (CopyStmt *) node;
	const QueueCatalog *cat;
	Oid			table_id;

	if (!IsA(node, CopyStmt) || !copy->is_from || copy->relation == NULL || !QueueSharedReady())
		return false;
	table_id = RangeVarGetRelid(copy->relation, NoLock, true);
	if (!OidIsValid(table_id) || get_rel_namespace(table_id) != get_namespace_oid(QUEUE_SCHEMA, true) ||
		pg_class_aclcheck(table_id, GetUserId(), ACL_INSERT) != ACLCHECK_OK ||
		(cat = QueueCatalogGet(true)) == NULL)
		return false;
	note_restorer(cat);
	return true;
}

/* whatever is cached or counted may be wrong from the end of the transaction */
static void
forget_all(void)
{
	QueueXactForgetAll();
	QueueCatalogInvalidate();
}

/* call what comes after us */
static void
next_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					 ProcessUtilityContext context, ParamListInfo params,
					 QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *node = pstmt->utilityStmt;
	QueuePrepared *prepared = NULL;
	bool		commit = false;
	bool		fills = fills_our_table(node);
	Oid			wanted = InvalidOid;

	if (IsA(node, TransactionStmt) && context == PROCESS_UTILITY_TOPLEVEL)
	{
		TransactionStmt *stmt = (TransactionStmt *) node;

		commit = stmt->kind == TRANS_STMT_COMMIT_PREPARED;
		if ((commit || stmt->kind == TRANS_STMT_ROLLBACK_PREPARED) && !IsTransactionBlock())
			prepared = QueuePreparedRead(stmt->gid);
	}
	else
		wanted = wanted_database(node);

	QueueFunctionGuard(node);
	if (OidIsValid(wanted))
		QueueLauncherHold(wanted);
	next_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	if (prepared)
		QueuePreparedFinish(prepared, commit);
	if (IsA(node, CreatedbStmt))
		QueueXactAnnounceDatabase();
	/* the trigger may be switched off */
	if (fills)
		forget_all();
	/* after an error the hold expires by itself */
	if (OidIsValid(wanted))
		QueueLauncherRelease(wanted);
}

/* ---------------------------------------------------------------------
 * Functions of the install script
 * --------------------------------------------------------------------- */

Datum
queue__require_preload(PG_FUNCTION_ARGS)
{
	if (!QueueSharedReady())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the library \"queue\" is not preloaded"),
				 errdetail("It needs shared memory and background workers, which exist only from the start of the server."),
				 errhint("Add shared_preload_libraries = 'queue' to postgresql.conf and restart the server.")));
	QueueRequireVersion();
	PG_RETURN_VOID();
}

Datum
queue_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(QUEUE_VERSION));
}

Datum
queue__announce(PG_FUNCTION_ARGS)
{
	QueueXactAnnounceExtension();
	PG_RETURN_VOID();
}

/*
 * Somebody has changed one of our tables by SQL: a superuser, or a restore.
 * A restore fills one table after the other, each in its own transaction; what
 * is there in between would be mended, against what is still to come.  So the
 * maintenance worker waits for who inserts rows, or uses COPY, which the hook
 * sees as it begins, of tables without this trigger, too: see maintenance.c.
 */
Datum
queue__dml_trigger(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"queue._dml_trigger\" must be called as a trigger"),
				 errdetail("It belongs to the triggers on the extension's own tables."),
				 errhint("Do not call it.")));
	if (!QueueSpiActive())
	{
		if (TRIGGER_FIRED_BY_INSERT(((TriggerData *) fcinfo->context)->tg_event) && !creating_extension)
			note_restorer(QueueCatalogGet(false));
		forget_all();
	}
	PG_RETURN_POINTER(NULL);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_settings();
	QueueSharedInit();
	QueueCatalogInit();
	QueueXactInit();
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	/* pg_upgrade must find nothing running */
	if (!IsBinaryUpgrade)
		QueueLauncherRegister();
}

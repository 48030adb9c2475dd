/*-------------------------------------------------------------------------
 *
 * mode.c
 *		What an enqueue into a queue does, and who handles its jobs:
 *		queue.set_mode(), queue.set_handler().
 *
 * A mode leads at most one hop further: the target's own mode does not count,
 * so queues that lead to each other end nowhere, but at each other.
 *
 * The producer needs a privilege on the first queue only.  Into the target, the
 * owner of the first queue enqueues, and must be allowed to whenever it happens.
 *
 * The target is locked after the queue.  Both locks are shared, so producers do
 * not wait for each other, whatever leads where.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "function.h"
#include "internal.h"
#include "mode.h"

QUEUE_FUNCTION(queue_set_handler);
QUEUE_FUNCTION(queue_set_mode);

#define MAX_CONCURRENCY	1024

/* ---------------------------------------------------------------------
 * Enqueue
 * --------------------------------------------------------------------- */

/* may the owner of the queue enqueue into its target? */
static void
require_owner_privilege(const QueueSettings *settings, const QueueSettings *target)
{
	Oid			save_user;
	int			save_context;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(settings->owner, save_context | SECURITY_LOCAL_USERID_CHANGE);
	QueueRequirePrivilege(target, PRIVILEGE_ENQUEUE);
	SetUserIdAndSecContext(save_user, save_context);
}

static void
lock_target(const QueueSettings *settings, QueueSettings *target)
{
	const char *name = settings->target_queue;

	if (!QueueSettingsByName(name, strlen(name), target) ||
		!QueueSettingsLockById(target->queue_id, AccessShareLock, target))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("queue \"%s\", the target of queue \"%s\", does not exist", name,
						settings->name),
				 errdetail("The mode of queue \"%s\" is %s.", settings->name,
						   QueueModeName(settings->mode)),
				 errhint("Create the target, or change the mode with queue.set_mode().")));
	require_owner_privilege(settings, target);
}

static bool
is_full(const QueueSettings *settings, int count)
{
	QueueEntry	entry;
	bool		full;

	QueueEntryBegin(&entry, settings);
	full = QueueEntryIsFull(&entry, count);
	QueueEntryEnd(&entry);
	return full;
}

/* the copies are nobody's business but the target's: their ids are not told */
static void
enqueue_copies(const QueueSettings *settings, const QueueRequest *request, Datum *payloads,
			   int count)
{
	QueueSettings target;
	QueueRequest copy = *request;

	/* a batch is complete when the jobs that it was made for are */
	copy.batch_id = NULL;
	lock_target(settings, &target);
	QueueEnqueueMany(&target, &copy, payloads, count, palloc(Max(count, 1) * sizeof(int64)));
}

void
QueueProduce(const QueueSettings *settings, const QueueRequest *request, Datum *payloads,
			 int count, int64 *ids)
{
	QueueRequest direct;
	QueueSettings target;

	switch (settings->mode)
	{
		case MODE_QUEUED:
			QueueEnqueueMany(settings, request, payloads, count, ids);
			break;
		case MODE_DIRECT:
			direct = *request;
			direct.direct = true;
			QueueEnqueueMany(settings, &direct, payloads, count, ids);
			break;
		case MODE_MIRROR:
			QueueEnqueueMany(settings, request, payloads, count, ids);
			enqueue_copies(settings, request, payloads, count);
			break;
		case MODE_FALLBACK:
			if (settings->paused || is_full(settings, count))
			{
				lock_target(settings, &target);
				QueueEnqueueMany(&target, request, payloads, count, ids);
			}
			else
				QueueEnqueueMany(settings, request, payloads, count, ids);
			break;
	}
}

/* ---------------------------------------------------------------------
 * Settings
 * --------------------------------------------------------------------- */

/* change the row of a queue: the first value is its number, $1 */
static void
update_queue(const char *assignments, int nargs, Oid *types, Datum *values, const char *nulls)
{
	QueueSpiConnect();
	(void) QueueSpiExecute(psprintf("UPDATE queue.queue SET %s"
									" WHERE queue_id OPERATOR(pg_catalog.=) $1", assignments),
						   nargs, types, values, nulls);
	QueueCatalogInvalidate();
	QueueXactWakeAll(DatumGetInt32(values[0]));
	CommandCounterIncrement();
	QueueSpiFinish();
}

static int
int_arg(FunctionCallInfo fcinfo, int arg, const char *name, int least, int most)
{
	if (PG_ARGISNULL(arg))
		QueueErrorNull(name, "Leave the argument out to get its default.");
	if (PG_GETARG_INT32(arg) < least || PG_GETARG_INT32(arg) > most)
		QueueErrorRange(name, PG_GETARG_INT32(arg), least, most);
	return PG_GETARG_INT32(arg);
}

Datum
queue_set_handler(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	int			concurrency;
	Oid			types[4] = {INT4OID, TEXTOID, INT4OID, INT4OID};
	Datum		values[4] = {0};
	char		nulls[5] = "    ";

	QueueRequireWritable("queue.set_handler()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	concurrency = int_arg(fcinfo, 2, "concurrency", 1, MAX_CONCURRENCY);
	values[2] = Int32GetDatum(concurrency);
	values[3] = Int32GetDatum(int_arg(fcinfo, 3, "min_workers", 0, concurrency));
	QueueSettingsLock(name, PRIVILEGE_ADMIN, ShareUpdateExclusiveLock, &settings);
	if (PG_ARGISNULL(1))
	{
		if (settings.mode == MODE_DIRECT)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("queue \"%s\" needs its handler", settings.name),
					 errdetail("Its mode is direct."),
					 errhint("Change the mode with queue.set_mode() first.")));
		nulls[1] = 'n';
		values[2] = Int32GetDatum(1);
		values[3] = Int32GetDatum(0);
	}
	else
	{
		QueueFunctionRequireOwner(FUNCTION_HANDLER, &settings);
		values[1] = PointerGetDatum(QueueFunctionCheck(FUNCTION_HANDLER, PG_GETARG_TEXT_PP(1),
													   settings.owner));
	}
	values[0] = Int32GetDatum(settings.queue_id);
	update_queue("handler = $2, concurrency = $3, min_workers = $4", 4, types, values, nulls);
	PG_RETURN_VOID();
}

static QueueMode
mode_arg(text *word)
{
	char	   *name = text_to_cstring(word);

	for (QueueMode mode = MODE_QUEUED; mode <= MODE_FALLBACK; mode++)
		if (strcmp(name, QueueModeName(mode)) == 0)
			return mode;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown queue mode \"%s\"", name),
			 errdetail("A queue has no mode of that name."),
			 errhint("Modes are queued, direct, mirror and fallback.")));
	return MODE_QUEUED;			/* keep compiler quiet */
}

/* who sets the target, and the owner, must be allowed to enqueue into it */
static void
check_target(const QueueSettings *settings, text *name)
{
	QueueSettings target;

	QueueSettingsRequire(name, PRIVILEGE_ENQUEUE, &target);
	require_owner_privilege(settings, &target);
	if (target.queue_id == settings->queue_id)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a queue cannot be its own target"),
				 errdetail("It is \"%s\".", settings->name),
				 errhint("Give the name of another queue.")));
}

Datum
queue_set_mode(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	text	   *name;
	QueueMode	mode;
	bool		has_target = !PG_ARGISNULL(2);
	Oid			types[3] = {INT4OID, TEXTOID, TEXTOID};
	Datum		values[3] = {0};
	char		nulls[4] = "   ";

	QueueRequireWritable("queue.set_mode()");
	name = QueueArgText(fcinfo, 0, "queue_name");
	mode = mode_arg(QueueArgText(fcinfo, 1, "mode"));
	if (has_target != (mode == MODE_MIRROR || mode == MODE_FALLBACK))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 has_target ? errmsg("mode \"%s\" has no target_queue", QueueModeName(mode)) :
				 errmsg("mode \"%s\" needs a target_queue", QueueModeName(mode)),
				 has_target ? errdetail("The jobs stay in the queue.") :
				 errdetail("Jobs are put into another queue, too."),
				 errhint("Modes mirror and fallback have a target, queued and direct have none.")));
	QueueSettingsLock(name, PRIVILEGE_ADMIN, ShareUpdateExclusiveLock, &settings);
	if (mode == MODE_DIRECT && !settings.has_handler)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("queue \"%s\" has no handler", settings.name),
				 errdetail("Mode direct runs the handler at each enqueue."),
				 errhint("Set one with queue.set_handler().")));
	nulls[2] = 'n';
	if (has_target)
	{
		check_target(&settings, PG_GETARG_TEXT_PP(2));
		values[2] = PG_GETARG_DATUM(2);
		nulls[2] = ' ';
	}
	values[0] = Int32GetDatum(settings.queue_id);
	values[1] = CStringGetTextDatum(QueueModeName(mode));
	update_queue("mode = $2, target_queue = $3", 3, types, values, nulls);
	PG_RETURN_VOID();
}

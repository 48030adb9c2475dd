/*-------------------------------------------------------------------------
 *
 * function.c
 *		Functions that a queue names: its validator, on_failed and handler.
 *
 * Their names are texts, because a dump and pg_upgrade carry texts, and
 * because a function may be dropped and made anew without the queue's noticing.
 * So a name is looked up at each use, among functions with one argument of one
 * of two types: three probes of the system caches.
 *
 * They run as the owner of the queue, in the session and the transaction of
 * whoever enqueues or settles, who may be a superuser and need not know that
 * there is a function.  Neither may gain anything by it:
 *
 * - The owner must not act as the caller.  SET ROLE is refused
 *   (SECURITY_LOCAL_USERID_CHANGE), and whatever the function SETs is undone
 *   when it returns.  A trigger that is deferred to the commit would run as
 *   the caller, a cursor WITH HOLD and a temporary table would outlive the call:
 *   SECURITY_RESTRICTED_OPERATION refuses them, as in ANALYZE and in index
 *   expressions, and we refuse what it forgets: functions, types and operators
 *   in the caller's temporary schema, where a name of the caller's may lead to
 *   them afterwards (QueueFunctionGuard).  A validator needs nothing of that.  A handler, or on_failed,
 *   writes tables, which may have deferred constraints: it is let off if the
 *   owner has all privileges of the caller anyhow, so that a handler of one's
 *   own may do what one may do oneself.
 *
 * - The caller must not act as the owner.  Nothing of the caller's search_path
 *   counts, temporary tables come last; whoever names a function must be able
 *   to act as the owner, since the function does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "mb/pg_wchar.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "function.h"
#include "internal.h"
#include "job.h"

#define JOB_CONTEXT		"job_context"

static const struct
{
	const char *name;
	QueueSetting setting;
	bool		may_take_context;
	Oid			results[4];
	const char *hint;
}			kinds[] = {
	[FUNCTION_VALIDATOR] = {"validator", SETTING_VALIDATOR, false, {BOOLOID, TEXTOID, VOIDOID},
	"A validator is a function (payload jsonb) that returns boolean, text or void."},
	[FUNCTION_ON_FAILED] = {"on_failed", SETTING_ON_FAILED, true, {JSONBOID, JSONOID, TEXTOID, VOIDOID},
	"on_failed is a function (payload jsonb) or (job queue.job_context) that returns jsonb, json, text or void."},
	[FUNCTION_HANDLER] = {"handler", SETTING_HANDLER, true, {JSONBOID, JSONOID, TEXTOID, VOIDOID},
	"A handler is a function (payload jsonb) or (job queue.job_context) that returns jsonb, json, text or void."},
};

/* a name as it was given */
typedef struct FunctionName
{
	QueueFunctionKind kind;
	char	   *given;
	char	   *schema;			/* NULL: as the search_path has it */
	char	   *name;
	Oid			argument;		/* invalid: whichever there is */
} FunctionName;

/* ---------------------------------------------------------------------
 * Names
 * --------------------------------------------------------------------- */

static Oid
context_type(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(JOB_CONTEXT),
						   ObjectIdGetDatum(QueueCatalogGet(false)->schema));
}

static void
bad_name(const FunctionName *function, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("invalid name of a function: \"%s\"", function->given),
			 errdetail("%s", detail),
			 errhint("Write name, schema.name, or schema.name(argument type).")));
}

static void
bad_signature(const FunctionName *function, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("function %s cannot be a queue's %s", function->given,
					kinds[function->kind].name),
			 errdetail("%s", detail),
			 errhint("%s", kinds[function->kind].hint)));
}

/* the type between the parentheses; there are only two */
static Oid
parse_argument(const FunctionName *function, char *text)
{
	List	   *words;
	char	   *schema = NULL;
	char	   *name;

	if (!SplitIdentifierString(text, '.', &words) || words == NIL || list_length(words) > 2)
		bad_signature(function, "It does not take one argument.");
	name = llast(words);
	if (list_length(words) == 2)
		schema = linitial(words);
	if (strcmp(name, "jsonb") == 0 && (schema == NULL || strcmp(schema, "pg_catalog") == 0))
		return JSONBOID;
	if (strcmp(name, JOB_CONTEXT) == 0 && (schema == NULL || strcmp(schema, QUEUE_SCHEMA) == 0) &&
		kinds[function->kind].may_take_context)
		return context_type();
	bad_signature(function, psprintf("Its argument is of type %s.", name));
	return InvalidOid;			/* keep compiler quiet */
}

static void
parse_name(FunctionName *function, QueueFunctionKind kind, text *given)
{
	char	   *raw = text_to_cstring(given);
	Size		length;
	char	   *open = NULL;
	bool		quoted = false;
	List	   *words;

	memset(function, 0, sizeof(*function));
	function->kind = kind;
	function->given = pstrdup(raw);
	for (char *c = raw; *c != '\0' && open == NULL; c++)
	{
		if (*c == '"')
			quoted = !quoted;
		else if (*c == '(' && !quoted)
			open = c;
	}
	if (open)
	{
		*open++ = '\0';
		for (length = strlen(open); length > 0 && isspace((unsigned char) open[length - 1]);)
			length--;
		if (length == 0 || open[length - 1] != ')')
			bad_name(function, "The closing parenthesis is missing.");
		open[length - 1] = '\0';
		function->argument = parse_argument(function, open);
	}
	if (!SplitIdentifierString(raw, '.', &words) || words == NIL || list_length(words) > 2)
		bad_name(function, "It is no name, with or without a schema.");
	function->name = llast(words);
	if (list_length(words) == 2)
		function->schema = linitial(words);
}

/* where to look for it: its schema, or those of the search_path */
static List *
namespaces(const FunctionName *function)
{
	Oid			schema;
	List	   *list;
	ListCell   *lc;

	if (function->schema)
	{
		schema = get_namespace_oid(function->schema, true);
		return OidIsValid(schema) && !isAnyTempNamespace(schema) ? list_make1_oid(schema) : NIL;
	}
	list = fetch_search_path(true);
	foreach(lc, list)
		if (isAnyTempNamespace(lfirst_oid(lc)))	/* gone with the session */
			list = foreach_delete_current(list, lc);
	return list;
}

static Oid
find_in(Oid schema, const char *name, Oid argument)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(&argument, 1)),
						   ObjectIdGetDatum(schema));
}

/* none was found: is there one of the name at all? */
static void
undefined_function(const FunctionName *function, List *schemas)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(function->name));
	bool		other = false;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		other |= list_member_oid(schemas, proc->pronamespace);
	}
	ReleaseSysCacheList(list);
	if (other && !OidIsValid(function->argument))
		bad_signature(function, "It takes other arguments.");
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("function %s does not exist", function->given),
			 schemas == NIL ? errdetail("There is no such schema.") :
			 function->schema ? errdetail("Its schema has no such function.") :
			 errdetail("No schema of the search_path has such a function."),
			 errhint("%s", kinds[function->kind].hint)));
}

static Oid
find_function(const FunctionName *function)
{
	List	   *schemas = namespaces(function);
	ListCell   *lc;

	foreach(lc, schemas)
	{
		Oid			plain = InvalidOid;
		Oid			context = InvalidOid;

		if (OidIsValid(function->argument))
			plain = find_in(lfirst_oid(lc), function->name, function->argument);
		else
		{
			plain = find_in(lfirst_oid(lc), function->name, JSONBOID);
			if (kinds[function->kind].may_take_context)
				context = find_in(lfirst_oid(lc), function->name, context_type());
		}
		if (OidIsValid(plain) && OidIsValid(context))
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
					 errmsg("function name \"%s\" is not unique", function->given),
					 errdetail("There is one for the payload, and one for queue.job_context."),
					 errhint("Add the type of the argument: %s(jsonb) or %s(queue.job_context).",
							 function->given, function->given)));
		if (OidIsValid(plain) || OidIsValid(context))
			return OidIsValid(plain) ? plain : context;
	}
	undefined_function(function, schemas);
	return InvalidOid;			/* keep compiler quiet */
}

/* what the catalog says of a function that was found */
static char *
check_function(const FunctionName *function, Oid oid, Oid *argument, Oid *result)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	Form_pg_proc proc;
	char	   *name;
	bool		fits = false;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", oid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION)
		bad_signature(function, proc->prokind == PROKIND_PROCEDURE ? "It is a procedure." :
					  "It is an aggregate or a window function.");
	if (proc->proretset)
		bad_signature(function, "It returns a set.");
	for (int i = 0; i < lengthof(kinds[0].results); i++)
		fits |= proc->prorettype == kinds[function->kind].results[i];
	if (!fits)
		bad_signature(function, psprintf("It returns %s.", format_type_be(proc->prorettype)));
	*argument = proc->proargtypes.values[0];
	*result = proc->prorettype;
	name = psprintf("%s(%s)",
					quote_qualified_identifier(get_namespace_name(proc->pronamespace),
											   NameStr(proc->proname)),
					*argument == JSONBOID ? "jsonb" : QUEUE_SCHEMA "." JOB_CONTEXT);
	ReleaseSysCache(tuple);
	return name;
}

/* may a role call it, by name? */
static void
require_execute(const char *name, Oid oid, Oid role)
{
	Oid			schema = get_func_namespace(oid);
	bool		execute = queue_function_aclcheck(oid, role) == ACLCHECK_OK;
	char	   *role_name = GetUserNameFromId(role, false);

	if (!execute)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", name),
				 errdetail("Role \"%s\" lacks the privilege EXECUTE.", role_name),
				 errhint("Whoever names the function and the owner of the queue must be allowed to call it: GRANT EXECUTE ON FUNCTION %s TO %s.",
						 name, quote_identifier(role_name))));
	if (queue_schema_aclcheck(schema, role) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", name),
				 errdetail("Role \"%s\" lacks the privilege USAGE on its schema.", role_name),
				 errhint("Whoever names the function and the owner of the queue must be allowed to call it: GRANT USAGE ON SCHEMA %s TO %s.",
						 quote_identifier(get_namespace_name(schema)), quote_identifier(role_name))));
}

text *
QueueFunctionCheck(QueueFunctionKind kind, text *given, Oid owner)
{
	FunctionName function;
	Oid			oid;
	Oid			argument;
	Oid			result;
	char	   *name;

	parse_name(&function, kind, given);
	oid = find_function(&function);
	name = check_function(&function, oid, &argument, &result);
	require_execute(name, oid, GetUserId());
	require_execute(name, oid, owner);
	return cstring_to_text(name);
}

void
QueueFunctionRequireOwner(QueueFunctionKind kind, const QueueSettings *settings)
{
	if (has_privs_of_role(GetUserId(), settings->owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of queue \"%s\" to name its %s", settings->name,
					kinds[kind].name),
			 errdetail("The function runs as the owner, \"%s\".",
					   GetUserNameFromId(settings->owner, true)),
			 errhint("Let the owner of the queue name the function.")));
}

/* ---------------------------------------------------------------------
 * Calls
 * --------------------------------------------------------------------- */

void
QueueFunctionOpen(QueueFunction *function, QueueFunctionKind kind, const QueueSettings *settings)
{
	FunctionName parsed;
	Datum		setting;
	bool		null;
	Oid			oid;
	Oid			argument;

	setting = QueueSettingRead(settings->queue_id, kinds[kind].setting, &null);
	if (null)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("queue \"%s\" has no %s", settings->name, kinds[kind].name),
				 errdetail("It was taken away a moment ago."),
				 errhint("Try again.")));
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(settings->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of queue \"%s\" does not exist", settings->name),
				 errdetail("Its functions run as the owner, who has been dropped."),
				 errhint("Give the queue an owner: queue.alter_queue(%s, owner => ...).",
						 quote_literal_cstr(settings->name))));
	parse_name(&parsed, kind, DatumGetTextPP(setting));
	oid = find_function(&parsed);
	memset(function, 0, sizeof(*function));
	function->kind = kind;
	function->name = check_function(&parsed, oid, &argument, &function->result_type);
	function->search_path = psprintf("pg_catalog, %s, pg_temp",
									 quote_identifier(get_namespace_name(get_func_namespace(oid))));
	function->queue_name = pstrdup(settings->name);
	function->owner = settings->owner;
	function->takes_context = argument != JSONBOID;
	require_execute(function->name, oid, settings->owner);
	fmgr_info(oid, &function->flinfo);
}

/* has the owner nothing to gain from acting as the caller, or later in its session? */
static bool
owner_is_trusted(Oid owner)
{
	return has_privs_of_role(owner, GetUserId()) && has_privs_of_role(owner, GetOuterUserId());
}

/* has such a call been made in this session?  Else what core restricts is core's */
static bool restricted;

/* the name of what a command makes in a schema, unless core looks at that by itself */
static List *
created_name(Node *node)
{
	switch (nodeTag(node))
	{
		case T_CreateFunctionStmt:
			return ((CreateFunctionStmt *) node)->funcname;
		case T_CreateDomainStmt:
			return ((CreateDomainStmt *) node)->domainname;
		case T_CreateEnumStmt:
			return ((CreateEnumStmt *) node)->typeName;
		case T_CreateRangeStmt:
			return ((CreateRangeStmt *) node)->typeName;
		case T_DefineStmt:
			return ((DefineStmt *) node)->defnames;
		case T_CreateOpClassStmt:
			return ((CreateOpClassStmt *) node)->opclassname;
		case T_CreateOpFamilyStmt:
			return ((CreateOpFamilyStmt *) node)->opfamilyname;
		case T_CreateConversionStmt:
			return ((CreateConversionStmt *) node)->conversion_name;
		default:
			return NIL;
	}
}

/* before a command runs: nothing of the owner's stays in the caller's temporary schema */
void
QueueFunctionGuard(Node *node)
{
	List	   *name;
	char	   *object;

	if (!restricted || !InSecurityRestrictedOperation() || (name = created_name(node)) == NIL)
		return;
	if (isAnyTempNamespace(QualifiedNameGetCreationNamespace(name, &object)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot create \"%s\" in a temporary schema within security-restricted operation",
						object),
				 errdetail("The session is that of whoever enqueues or settles, not of the queue's owner."),
				 errhint("Create it in a schema of your own, beforehand.")));
}

void
QueueFunctionEnter(QueueFunction *function)
{
	int			context = SECURITY_LOCAL_USERID_CHANGE;

	if (function->kind == FUNCTION_VALIDATOR ||
		(!function->own_session && !owner_is_trusted(function->owner)))
	{
		context |= SECURITY_RESTRICTED_OPERATION;
		restricted = true;
	}
	GetUserIdAndSecContext(&function->save_user, &function->save_context);
	SetUserIdAndSecContext(function->owner, function->save_context | context);

	/* as core does in ANALYZE and the like; workers have row_security off */
	function->save_nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", function->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	/* it sees what the transaction has done so far */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
QueueFunctionLeave(QueueFunction *function)
{
	PopActiveSnapshot();
	/* false: whatever else it has SET is undone as well */
	AtEOXact_GUC(false, function->save_nest_level);
	SetUserIdAndSecContext(function->save_user, function->save_context);
}

static void
name_function(void *arg)
{
	QueueFunction *function = arg;

	errcontext("%s %s of queue \"%s\"", kinds[function->kind].name, function->name,
			   function->queue_name);
}

Datum
QueueFunctionCall(QueueFunction *function, Datum argument, bool *null)
{
	LOCAL_FCINFO(fcinfo, 1);
	PgStat_FunctionCallUsage usage;
	ErrorContextCallback context = {error_context_stack, name_function, function};
	Datum		result;

	/* a handler may enqueue into a queue whose handler does so, and so on */
	check_stack_depth();
	error_context_stack = &context;
	InitFunctionCallInfoData(*fcinfo, &function->flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	result = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
	error_context_stack = context.previous;
	*null = fcinfo->isnull || function->result_type == VOIDOID;
	/* it may still lie in a table that nobody holds */
	if (!*null && function->result_type != BOOLOID)
		result = PointerGetDatum(PG_DETOAST_DATUM(result));
	return result;
}

/* the columns of queue.job_context */
enum
{
	CONTEXT_JOB_ID, CONTEXT_QUEUE_NAME, CONTEXT_PAYLOAD, CONTEXT_ATTEMPT, CONTEXT_MAX_ATTEMPTS,
	CONTEXT_PRIORITY, CONTEXT_ENQUEUED_AT, CONTEXT_TAKEN_AT, CONTEXT_BATCH_ID, CONTEXT_GROUP_KEY,
	CONTEXT_SOURCE, CONTEXT_HEADERS, CONTEXT_ERROR, CONTEXT_NATTS
};

static Datum
form_context(QueueFunction *function, HeapTuple row, TupleDesc desc)
{
	TupleDesc	context = lookup_rowtype_tupdesc(context_type(), -1);
	JobHead    *job = JOB_HEAD(row);
	Datum		values[CONTEXT_NATTS];
	bool		nulls[CONTEXT_NATTS] = {0};
	Datum		result;

	if (context->natts != CONTEXT_NATTS)
		elog(ERROR, "type \"queue.job_context\" has %d columns, expected %d", context->natts,
			 CONTEXT_NATTS);
#define COPY(to, from) values[to] = heap_getattr(row, from, desc, &nulls[to])
	values[CONTEXT_JOB_ID] = Int64GetDatum(job->job_id);
	values[CONTEXT_QUEUE_NAME] = CStringGetTextDatum(function->queue_name);
	COPY(CONTEXT_PAYLOAD, JOB_PAYLOAD);
	values[CONTEXT_ATTEMPT] = Int32GetDatum(job->attempt);
	values[CONTEXT_MAX_ATTEMPTS] = Int32GetDatum(job->max_attempts);
	values[CONTEXT_PRIORITY] = Int32GetDatum(job->priority);
	values[CONTEXT_ENQUEUED_AT] = TimestampTzGetDatum(job->enqueued_at);
	values[CONTEXT_TAKEN_AT] = TimestampTzGetDatum(job->taken_at);
	nulls[CONTEXT_TAKEN_AT] = job->taken_at == DT_NOBEGIN;
	COPY(CONTEXT_BATCH_ID, JOB_BATCH_ID);
	COPY(CONTEXT_GROUP_KEY, JOB_GROUP_KEY);
	COPY(CONTEXT_SOURCE, JOB_SOURCE);
	COPY(CONTEXT_HEADERS, JOB_HEADERS);
	COPY(CONTEXT_ERROR, JOB_LAST_ERROR);
#undef COPY
	result = heap_copy_tuple_as_datum(heap_form_tuple(context, values, nulls), context);
	ReleaseTupleDesc(context);
	return result;
}

/* what a handler returns, as it is kept */
static Datum
result_as_jsonb(QueueFunction *function, Datum result)
{
	StringInfoData json;

	if (function->result_type == JSONBOID)
		return result;
	if (function->result_type == JSONOID)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(result)));
	initStringInfo(&json);
	escape_json(&json, TextDatumGetCString(result));
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

Datum
QueueFunctionRun(QueueFunction *function, HeapTuple row, TupleDesc desc, bool *null)
{
	Datum		argument;
	Datum		result;
	bool		none;

	QueueFunctionEnter(function);
	argument = function->takes_context ? form_context(function, row, desc) :
		heap_getattr(row, JOB_PAYLOAD, desc, &none);
	result = QueueFunctionCall(function, argument, null);
	QueueFunctionLeave(function);
	if (*null)
		return (Datum) 0;
	result = result_as_jsonb(function, result);
	QueueCheckJsonbSize(result, "result", 0);
	return result;
}

/* ---------------------------------------------------------------------
 * Errors
 * --------------------------------------------------------------------- */

#define PART_MAX	8192		/* bytes of each part that are kept */

static void
append_part(StringInfo text, const char *label, const char *part)
{
	if (part == NULL || *part == '\0')
		return;
	appendStringInfo(text, "%s%s", text->len > 0 ? "\n" : "", label);
	appendBinaryStringInfo(text, part, pg_mbcliplen(part, strlen(part), PART_MAX));
}

/* the message comes first, so that errors can be searched and grouped by it */
text *
QueueErrorText(const ErrorData *error)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_part(&buf, "", error->message ? error->message : "unknown error");
	appendStringInfo(&buf, " (SQLSTATE %s)", unpack_sql_state(error->sqlerrcode));
	append_part(&buf, "DETAIL: ", error->detail);
	append_part(&buf, "HINT: ", error->hint);
	append_part(&buf, "CONTEXT: ", error->context);
	return cstring_to_text_with_len(buf.data, buf.len);
}

bool
QueueErrorIsFinal(const QueueSettings *settings, int sqlerrcode)
{
	const char *code = unpack_sql_state(sqlerrcode);
	Datum		setting;
	bool		null;
	Datum	   *codes;
	bool	   *nulls;
	int			count;

	if (!settings->has_no_retry)
		return false;
	setting = QueueSettingRead(settings->queue_id, SETTING_NO_RETRY_SQLSTATES, &null);
	if (null)
		return false;
	deconstruct_array(DatumGetArrayTypeP(setting), TEXTOID, -1, false, TYPALIGN_INT,
					  &codes, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const char *listed = TextDatumGetCString(codes[i]);

		/* a class is the first two characters */
		if (strncmp(listed, code, strlen(listed)) == 0)
			return true;
	}
	return false;
}

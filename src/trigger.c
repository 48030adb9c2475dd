/*-------------------------------------------------------------------------
 *
 * trigger.c
 *		queue.enqueue_trigger(): every change of a row becomes a job.
 *
 * The job is part of the transaction that changes the row: both are there, or
 * neither is.
 *
 * The owner of the table enqueues, not whoever changes it: who may write the
 * table need know nothing of the queue, and cannot put anything else into it.
 * As anybody with the privilege TRIGGER may make the trigger, the owner of a
 * table that others may do that with answers for what they enqueue.  The
 * payload is made as whoever changes the row, like any expression of theirs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "internal.h"
#include "mode.h"

QUEUE_FUNCTION(queue_enqueue_trigger);

/* what the trigger's second argument asks for */
typedef struct TriggerOptions
{
	QueueRequest request;
	bool		group_by_keys;
	bool	   *columns;		/* which ones, by attribute number from 0; NULL: all */
} TriggerOptions;

/* ---------------------------------------------------------------------
 * Options
 * --------------------------------------------------------------------- */

static void
bad_option(const char *key, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid option \"%s\" of trigger function queue.enqueue_trigger()", key),
			 errdetail("%s", detail),
			 errhint("Options are priority, delay, max_attempts, source, batch_id, limit_key, group_by_keys and columns.")));
}

static char *
option_string(const char *key, const JsonbValue *value)
{
	if (value->type != jbvString)
		bad_option(key, "It must be a string.");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static int
option_int(const char *key, const JsonbValue *value, int least, int most)
{
	double		number;

	if (value->type != jbvNumeric)
		bad_option(key, "It must be a number.");
	number = rint(DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													 NumericGetDatum(value->val.numeric))));
	if (!(number >= least && number <= most))
		QueueErrorRange(key, number < PG_INT32_MAX && number > PG_INT32_MIN ? (int64) number :
						number < 0 ? PG_INT32_MIN : PG_INT32_MAX, least, most);
	return (int) number;
}

static text *
option_label(const char *key, const JsonbValue *value)
{
	text	   *label = cstring_to_text(option_string(key, value));

	QueueCheckLabel(label, key);
	return label;
}

/* the columns of the list, as a set */
static bool *
option_columns(const char *key, const JsonbValue *value, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool	   *columns = palloc0(desc->natts * sizeof(bool));
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		bad_option(key, "It must be an array of names of columns.");
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &name, true)) != WJB_DONE)
	{
		AttrNumber	att;

		if (token != WJB_ELEM)
			continue;
		att = get_attnum(RelationGetRelid(rel), option_string(key, &name));
		if (att <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist",
							option_string(key, &name), RelationGetRelationName(rel)),
					 errdetail("Option \"columns\" of queue.enqueue_trigger() names it."),
					 errhint("Create the trigger anew with the names of the table's columns.")));
		columns[att - 1] = true;
	}
	return columns;
}

static void
read_option(TriggerOptions *options, const char *key, const JsonbValue *value, Relation rel)
{
	QueueRequest *request = &options->request;
	char	   *delay;

	if (strcmp(key, "priority") == 0)
	{
		request->has_priority = true;
		request->priority = option_int(key, value, PG_INT16_MIN, PG_INT16_MAX);
	}
	else if (strcmp(key, "max_attempts") == 0)
	{
		request->has_max_attempts = true;
		request->max_attempts = option_int(key, value, 1, QUEUE_MAX_ATTEMPTS);
	}
	else if (strcmp(key, "delay") == 0)
	{
		if (value->type == jbvNumeric)
			delay = psprintf("%s s", DatumGetCString(DirectFunctionCall1(numeric_out,
																		  NumericGetDatum(value->val.numeric))));
		else
			delay = option_string(key, value);
		request->has_run_at = true;
		request->run_at = QueueDelayUntil(QueueIntervalFromText(key, delay), request->now);
	}
	else if (strcmp(key, "source") == 0)
		request->source = option_label(key, value);
	else if (strcmp(key, "batch_id") == 0)
		request->batch_id = option_label(key, value);
	else if (strcmp(key, "limit_key") == 0)
	{
		request->limit_key = option_label(key, value);
		QueueCheckLimitKey(request->limit_key, key);
	}
	else if (strcmp(key, "group_by_keys") == 0)
	{
		if (value->type != jbvBool)
			bad_option(key, "It must be true or false.");
		options->group_by_keys = value->val.boolean;
	}
	else if (strcmp(key, "columns") == 0)
		options->columns = option_columns(key, value, rel);
	else
		bad_option(key, "There is no option of that name.");
}

static void
read_options(TriggerOptions *options, Trigger *trigger, Relation rel)
{
	Jsonb	   *jsonb;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	memset(options, 0, sizeof(*options));
	options->request.now = GetCurrentTimestamp();
	if (trigger->tgnargs < 2)
		return;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(trigger->tgargs[1])));
	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the second argument of queue.enqueue_trigger() must be a JSON object"),
				 errdetail("It is an array, or a single value."),
				 errhint("For example: '{\"priority\": 1, \"group_by_keys\": true}'.")));
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		read_option(options, key, &value, rel);
	}
}

/* ---------------------------------------------------------------------
 * Payload
 * --------------------------------------------------------------------- */

/* a row as JSON text: of the columns in a set, or all */
static char *
row_to_text(HeapTuple row, TupleDesc desc, const bool *columns)
{
	Datum		json = DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(row, desc));
	Datum	   *others;
	int			num_others = 0;
	Jsonb	   *jsonb;

	if (columns == NULL)
		return TextDatumGetCString(json);
	others = palloc(desc->natts * sizeof(Datum));
	for (int i = 0; i < desc->natts; i++)
		if (!columns[i] && !TupleDescAttr(desc, i)->attisdropped)
			others[num_others++] = CStringGetTextDatum(NameStr(TupleDescAttr(desc, i)->attname));
	jsonb = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete_array,
											   DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json))),
											   PointerGetDatum(construct_array(others, num_others, TEXTOID, -1, false,
																			   TYPALIGN_INT))));
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* the columns of the primary key, or else of the replica identity; NULL: none */
static bool *
key_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *keys = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	bool	   *columns;

	if (bms_is_empty(keys))
		keys = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	if (bms_is_empty(keys))
		return NULL;
	columns = palloc0(desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
		columns[i] = bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, keys);
	return columns;
}

static const char *
operation(TriggerEvent event)
{
	return TRIGGER_FIRED_BY_INSERT(event) ? "INSERT" :
		TRIGGER_FIRED_BY_UPDATE(event) ? "UPDATE" : "DELETE";
}

/* {"op", "schema", "table", "new", "old", "keys"} */
static Datum
form_payload(TriggerData *trigger, TriggerOptions *options, const char *keys)
{
	Relation	rel = trigger->tg_relation;
	TupleDesc	desc = RelationGetDescr(rel);
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	bool		update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	new = insert ? trigger->tg_trigtuple : update ? trigger->tg_newtuple : NULL;
	HeapTuple	old = insert ? NULL : trigger->tg_trigtuple;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"op\": \"%s\", \"schema\": ", operation(trigger->tg_event));
	escape_json(&json, get_namespace_name(RelationGetNamespace(rel)));
	appendStringInfoString(&json, ", \"table\": ");
	escape_json(&json, RelationGetRelationName(rel));
	appendStringInfo(&json, ", \"new\": %s", new ? row_to_text(new, desc, options->columns) : "null");
	appendStringInfo(&json, ", \"old\": %s", old ? row_to_text(old, desc, options->columns) : "null");
	appendStringInfo(&json, ", \"keys\": %s}", keys ? keys : "null");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* the changes of one row go into one group */
static void
group_by_keys(TriggerOptions *options, Relation rel, const char *keys)
{
	if (keys == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errdetail("Option \"group_by_keys\" of queue.enqueue_trigger() groups by it."),
				 errhint("Add a primary key, or set a replica identity index.")));
	options->request.group_key = cstring_to_text(psprintf("%s.%s %s",
														  get_namespace_name(RelationGetNamespace(rel)),
														  RelationGetRelationName(rel), keys));
	QueueCheckLabel(options->request.group_key, "group_key");
}

/* ---------------------------------------------------------------------
 * The trigger
 * --------------------------------------------------------------------- */

static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"queue.enqueue_trigger\" must be called as a trigger"),
				 errdetail("It enqueues a change of a row."),
				 errhint("Name it in CREATE TRIGGER, or call queue.enqueue().")));
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"queue.enqueue_trigger\" must be fired for each row"),
				 errdetail("Trigger \"%s\" is fired for each statement.", trigger->tg_trigger->tgname),
				 errhint("Create the trigger FOR EACH ROW, for INSERT, UPDATE or DELETE.")));
	if (trigger->tg_trigger->tgnargs < 1 || trigger->tg_trigger->tgnargs > 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"queue.enqueue_trigger\" must have one or two arguments"),
				 errdetail("Trigger \"%s\" gives it %d.", trigger->tg_trigger->tgname,
						   trigger->tg_trigger->tgnargs),
				 errhint("The arguments are the name of the queue and a JSON object with options.")));
}

/* as the owner of the table */
static void
enqueue_payload(TriggerData *trigger, const QueueRequest *request, Datum payload)
{
	QueueSettings settings;
	Oid			save_user;
	int			save_context;
	int64		job_id;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(trigger->tg_relation->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	QueueSettingsLock(cstring_to_text(trigger->tg_trigger->tgargs[0]), PRIVILEGE_ENQUEUE,
					  AccessShareLock, &settings);
	QueueProduce(&settings, request, &payload, 1, &job_id);
	SetUserIdAndSecContext(save_user, save_context);
}

Datum
queue_enqueue_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	HeapTuple	row;
	TriggerOptions options;
	bool	   *columns;
	char	   *keys = NULL;

	QueueRequireWritable("queue.enqueue_trigger()");
	check_trigger(fcinfo);
	rel = trigger->tg_relation;
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	read_options(&options, trigger->tg_trigger, rel);
	columns = key_columns(rel);
	if (columns)
		keys = row_to_text(row, RelationGetDescr(rel), columns);
	if (options.group_by_keys)
		group_by_keys(&options, rel, keys);
	/* types may have casts to json, which are no business of the owner's */
	enqueue_payload(trigger, &options.request, form_payload(trigger, &options, keys));
	return PointerGetDatum(row);
}

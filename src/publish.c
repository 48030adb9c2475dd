/*-------------------------------------------------------------------------
 *
 * publish.c
 *		Topics: queue.bind(), queue.unbind(), queue.publish().
 *
 * queue.binding is the truth.  A backend remembers all of it until anything in
 * the catalog of the queues changes (QueueCatalogGeneration): whoever changes a
 * binding sends an invalidation, as for a setting.
 *
 * The queues that a topic reaches are locked in the order of their numbers.
 * A queue that is dropped meanwhile gets nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "internal.h"
#include "mode.h"
#include "scan.h"
#include "topic.h"

QUEUE_FUNCTION(queue_bind);
QUEUE_FUNCTION(queue_unbind);
QUEUE_FUNCTION(queue_publish);

typedef struct Binding
{
	char	   *pattern;
	Size		length;
	int32		queue_id;
} Binding;

static MemoryContext bindings_context;
static Binding *bindings;
static int	num_bindings;
static uint64 bindings_generation;	/* 0: not read */

static text *
topic_arg(FunctionCallInfo fcinfo, const char *name, bool pattern)
{
	text	   *topic = QueueArgText(fcinfo, 0, name);
	const char *problem = QueueTopicProblem(VARDATA_ANY(topic), VARSIZE_ANY_EXHDR(topic), pattern);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", name,
						VARSIZE_ANY_EXHDR(topic) > TOPIC_MAX ? "..." : text_to_cstring(topic)),
				 errdetail("%s", problem),
				 pattern ?
				 errhint("It has words separated by dots, %d bytes at most; * stands for one word, # for any number.",
						 TOPIC_MAX) :
				 errhint("It has words separated by dots, %d bytes at most.", TOPIC_MAX)));
	return topic;
}

/* ---------------------------------------------------------------------
 * Bindings
 * --------------------------------------------------------------------- */

static uint64
change_binding(FunctionCallInfo fcinfo, const char *sql)
{
	text	   *pattern = topic_arg(fcinfo, "topic_pattern", true);
	QueueSettings settings;
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2];
	uint64		changed;

	QueueSettingsLock(QueueArgText(fcinfo, 1, "queue_name"), PRIVILEGE_ADMIN,
					  ShareUpdateExclusiveLock, &settings);
	values[0] = PointerGetDatum(pattern);
	values[1] = Int32GetDatum(settings.queue_id);
	QueueSpiConnect();
	changed = QueueSpiExecute(sql, 2, types, values, NULL);
	CacheInvalidateRelcacheByRelid(QueueCatalogGet(false)->binding);
	CommandCounterIncrement();
	QueueSpiFinish();
	return changed;
}

Datum
queue_bind(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.bind()");
	(void) change_binding(fcinfo, "INSERT INTO queue.binding (topic_pattern, queue_id)"
						  " VALUES ($1, $2) ON CONFLICT DO NOTHING");
	PG_RETURN_VOID();
}

Datum
queue_unbind(PG_FUNCTION_ARGS)
{
	QueueRequireWritable("queue.unbind()");
	PG_RETURN_BOOL(change_binding(fcinfo, "DELETE FROM queue.binding"
								  " WHERE topic_pattern OPERATOR(pg_catalog.=) $1"
								  " AND queue_id OPERATOR(pg_catalog.=) $2") > 0);
}

/* read all bindings into an own context, which an error leaves to be replaced */
static void
read_bindings(void)
{
	Relation	rel = QueueOpenTable(QueueCatalogGet(false)->binding, AccessShareLock);
	uint64		generation = QueueCatalogGeneration();
	Snapshot	snapshot = QueueFreshSnapshot();
	TableScanDesc scan = queue_beginscan(rel, snapshot);
	HeapTuple	tuple;
	int			room = 16;

	bindings_generation = 0;
	if (bindings_context == NULL)
		bindings_context = AllocSetContextCreate(CacheMemoryContext, "queue bindings",
												 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(bindings_context);
	bindings = MemoryContextAlloc(bindings_context, room * sizeof(Binding));
	num_bindings = 0;
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		null;
		Binding    *binding;

		if (num_bindings >= room)
		{
			room *= 2;
			bindings = repalloc_huge(bindings, room * sizeof(Binding));
		}
		binding = &bindings[num_bindings++];
		binding->pattern = MemoryContextStrdup(bindings_context,
											   TextDatumGetCString(heap_getattr(tuple, 1, RelationGetDescr(rel), &null)));
		binding->length = strlen(binding->pattern);
		binding->queue_id = DatumGetInt32(heap_getattr(tuple, 2, RelationGetDescr(rel), &null));
	}
	table_endscan(scan);
	QueueReleaseSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	bindings_generation = generation;
}

/* the queues that a topic reaches, each once, in ascending order */
static List *
find_queues(text *topic)
{
	List	   *queues = NIL;

	/* as a lock would do, but one that is held already does not */
	AcceptInvalidationMessages();
	(void) QueueCatalogGet(false);
	if (bindings_generation != QueueCatalogGeneration())
		read_bindings();
	for (int i = 0; i < num_bindings; i++)
		if (QueueTopicMatches(bindings[i].pattern, bindings[i].length, VARDATA_ANY(topic),
							  VARSIZE_ANY_EXHDR(topic)))
			queues = list_append_unique_int(queues, bindings[i].queue_id);
	list_sort(queues, list_int_cmp);
	return queues;
}

/* ---------------------------------------------------------------------
 * Publish
 * --------------------------------------------------------------------- */

/* the headers with the topic, unless the producer has given one */
static Datum
add_topic(Datum headers, text *topic)
{
	StringInfoData json;
	Datum		with_topic;

	if (headers != (Datum) 0 && !JB_ROOT_IS_OBJECT(DatumGetJsonbP(headers)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers of a topic must be a JSON object"),
				 errdetail("They are an array, or a single value."),
				 errhint("The topic is added to them.")));
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"topic\": ");
	escape_json(&json, text_to_cstring(topic));
	appendStringInfoChar(&json, '}');
	with_topic = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	if (headers == (Datum) 0)
		return with_topic;
	return DirectFunctionCall2(jsonb_concat, with_topic, headers);
}

Datum
queue_publish(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *topic;
	Datum		payload;
	QueueRequest request;
	List	   *queues;
	List	   *reached = NIL;
	ListCell   *lc;

	QueueRequireWritable("queue.publish()");
	topic = topic_arg(fcinfo, "topic", false);
	if (PG_ARGISNULL(1))
		QueueErrorNull("payload", "An empty payload is '{}' or 'null'::jsonb.");
	payload = PG_GETARG_DATUM(1);
	QueueReadRequest(fcinfo, &request);
	request.headers = add_topic(request.headers, topic);

	queues = find_queues(topic);
	foreach(lc, queues)
	{
		QueueSettings *settings = palloc(sizeof(QueueSettings));

		if (!QueueSettingsLockById(lfirst_int(lc), AccessShareLock, settings))
			continue;
		QueueRequirePrivilege(settings, PRIVILEGE_ENQUEUE);
		reached = lappend(reached, settings);
	}
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	foreach(lc, reached)
	{
		int64		job_id;
		Datum		value;
		bool		null = false;

		CHECK_FOR_INTERRUPTS();
		QueueProduce(lfirst(lc), &request, &payload, 1, &job_id);
		value = Int64GetDatum(job_id);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Batches: jobs whose progress is counted together.
 *
 * The counts of a batch are the sum of the rows that it has in
 * queue.batch_progress.  Every call that adds jobs, or ends some, appends a row
 * for each batch and queue concerned, as part of its transaction; nobody
 * updates a row that others want.  So the sum is exact under any snapshot, and
 * takers of one batch never wait for each other.  The maintenance worker folds
 * many rows into one.  What is not folded yet is what it has not seen yet: it
 * need not look at other batches, and nothing that it must know is in shared
 * memory only.
 *
 * queue.batch has what else is to be known: whose the batch is, whether it is
 * closed, its callback.  create_batch() makes the row, else the first enqueue
 * does.  Who finds that somebody else has inserted it and not committed does
 * not wait: if that one rolls back, the next enqueue or the worker makes it.
 *
 * Who adds jobs holds a shared lock on the batch until its transaction ends;
 * who closes it holds it exclusively.  So a closed batch gets no more jobs, and
 * whoever sees that it is closed sees all that it got.  Those who end jobs
 * take no lock.
 *
 * One process at a time makes a pass (fold, close, complete): its lock is taken
 * only if free, like all that a pass needs, as the worker must not wait for
 * somebody's open transaction.  What it had to leave it comes back for.
 *
 * The races:
 *
 * - The last two jobs end at once: neither sees the other's row.  The worker,
 *   woken by either commit, sees both, or the first and is woken again.
 * - Jobs are added while the grace time ends: the adder's lock keeps the batch
 *   open; or the adder waits and finds it closed.  The counts are read anew
 *   once the lock is there.
 * - Two passes at once: one goes without.  completed_at is set once, in the
 *   transaction that enqueues the callback.
 * - A crash between the last end and the pass: the rows are there, not folded,
 *   and the worker looks at them when it starts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "batch.h"
#include "calls.h"
#include "compat.h"
#include "entry.h"
#include "event.h"
#include "internal.h"
#include "scan.h"
#include "side.h"

QUEUE_FUNCTION(queue_create_batch);
QUEUE_FUNCTION(queue_close_batch);
QUEUE_FUNCTION(queue_batch_status);

enum
{
	BATCH_ID = 1, BATCH_SOURCE, BATCH_OWNER, BATCH_IMPLICIT, BATCH_CREATED_AT,
	BATCH_CLOSED_AT, BATCH_CLOSED_BY, BATCH_COMPLETED_AT, BATCH_CALLBACK_QUEUE,
	BATCH_CALLBACK_PAYLOAD, BATCH_CALLBACK_JOB_ID, BATCH_CALLBACK_ERROR
};
#define BATCH_NATTS	BATCH_CALLBACK_ERROR

/* in the arrays values and nulls */
#define SET(att, value) \
	(values[(att) - 1] = (value), nulls[(att) - 1] = false)

enum
{
	PROGRESS_BATCH_ID = 1, PROGRESS_QUEUE_ID, PROGRESS_ADDED, PROGRESS_COMPLETED,
	PROGRESS_FAILED, PROGRESS_CANCELLED, PROGRESS_STARTED_AT, PROGRESS_AT, PROGRESS_FOLDED
};
#define PROGRESS_NATTS	PROGRESS_FOLDED

#define PASS_BATCHES	10000	/* with something new, looked at in one pass */
#define PASS_ENDS		200		/* closed or completed in one: each holds locks */
#define RETRY_USECS		USECS_PER_SEC	/* when something was locked */

/* ---------------------------------------------------------------------
 * Rows and locks
 * --------------------------------------------------------------------- */

static bool
lock_object(Oid relid, Oid object, uint16 subobject, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, relid, object, subobject);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* the seed sets it apart from QueueSideLockKey() */
static bool
lock_batch(text *batch_id, LOCKMODE mode, bool wait)
{
	uint64		h = hash_bytes_extended((unsigned char *) VARDATA_ANY(batch_id),
										VARSIZE_ANY_EXHDR(batch_id), PG_UINT64_MAX);

	return lock_object(QueueCatalogGet(false)->batch, (Oid) (h >> 16), (uint16) h, mode, wait);
}

static void
batch_key(ScanKey key, int column, Datum batch_id)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, batch_id);
}

/* its row, committed or not: a copy, or NULL */
static HeapTuple
find_batch(text *batch_id, ItemPointer tid, TransactionId *writer)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	QueueSide	side = {.heap = QueueOpenTable(cat->batch, AccessShareLock)};
	ScanKeyData key;
	HeapTuple	row;

	batch_key(&key, 1, PointerGetDatum(batch_id));
	/* opening may have processed invalidations: the index may be another one now */
	row = QueueSideFind(&side, QueueCatalogGet(false)->batch_key, 1, &key, tid, writer);
	table_close(side.heap, NoLock);
	return row;
}

static void
form_batch(Datum *values, bool *nulls, text *batch_id, text *source, Oid owner, bool implicit)
{
	memset(values, 0, BATCH_NATTS * sizeof(Datum));
	memset(nulls, true, BATCH_NATTS);
	SET(BATCH_ID, PointerGetDatum(batch_id));
	if (source)
		SET(BATCH_SOURCE, PointerGetDatum(source));
	SET(BATCH_OWNER, ObjectIdGetDatum(owner));
	SET(BATCH_IMPLICIT, BoolGetDatum(implicit));
	SET(BATCH_CREATED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
}

/* the row that is there, or NULL if it was inserted */
static HeapTuple
find_or_insert(text *batch_id, Datum *values, bool *nulls, TransactionId *writer)
{
	QueueSide	side;
	HeapTuple	row = find_batch(batch_id, NULL, writer);

	if (row)
		return row;
	QueueSideOpen(&side, QueueCatalogGet(false)->batch);
	QueueSideLockKey(&side, 0, PointerGetDatum(batch_id));
	row = find_batch(batch_id, NULL, writer);
	if (row == NULL)
		QueueSideInsert(&side, values, nulls);
	QueueSideUnlockKey(&side, 0, PointerGetDatum(batch_id));
	QueueSideClose(&side);
	return row;
}

static Datum
batch_value(HeapTuple row, int att, bool *null)
{
	Relation	rel = QueueOpenTable(QueueCatalogGet(false)->batch, AccessShareLock);
	Datum		value = heap_getattr(row, att, RelationGetDescr(rel), null);

	table_close(rel, NoLock);
	return value;
}

/* ---------------------------------------------------------------------
 * Changes of the counts
 * --------------------------------------------------------------------- */

static void
append(QueueSide *side, text *batch_id, int32 queue_id, int64 added, const int64 *ended,
	   TimestampTz started_at, TimestampTz now)
{
	Datum		values[PROGRESS_NATTS];
	bool		nulls[PROGRESS_NATTS] = {0};

	values[PROGRESS_BATCH_ID - 1] = PointerGetDatum(batch_id);
	values[PROGRESS_QUEUE_ID - 1] = Int32GetDatum(queue_id);
	values[PROGRESS_ADDED - 1] = Int64GetDatum(added);
	for (int i = 0; i < 3; i++)
		values[PROGRESS_COMPLETED - 1 + i] = Int64GetDatum(ended ? ended[i] : 0);
	values[PROGRESS_STARTED_AT - 1] = TimestampTzGetDatum(started_at);
	nulls[PROGRESS_STARTED_AT - 1] = started_at == DT_NOEND;
	values[PROGRESS_AT - 1] = TimestampTzGetDatum(now);
	values[PROGRESS_FOLDED - 1] = BoolGetDatum(false);
	QueueSideInsert(side, values, nulls);
}

static void
append_one(text *batch_id, int32 queue_id, int64 added)
{
	QueueSide	side;

	QueueSideOpen(&side, QueueCatalogGet(false)->batch_progress);
	append(&side, batch_id, queue_id, added, NULL, DT_NOEND, GetCurrentTimestamp());
	QueueSideClose(&side);
}

/* closed by whom, as the error says it */
static void
error_closed(text *batch_id, HeapTuple row)
{
	bool		null;
	Datum		by = batch_value(row, BATCH_CLOSED_BY, &null);
	bool		grace = !null && strcmp(TextDatumGetCString(by), "grace") == 0;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("batch \"%s\" is closed", text_to_cstring(batch_id)),
			 grace ? errdetail("All its jobs had ended, and the grace time of its queues had passed.") :
			 errdetail("It was closed with queue.close_batch()."),
			 grace ? errhint("Begin another batch, or create one with queue.create_batch(): no grace time closes that.") :
			 errhint("Begin another batch, or close a batch after its last enqueue.")));
}

void
QueueBatchJoin(text *batch_id, text *source)
{
	Datum		values[BATCH_NATTS];
	bool		nulls[BATCH_NATTS];
	TransactionId writer;
	HeapTuple	row;
	bool		null;

	(void) lock_batch(batch_id, AccessShareLock, true);
	form_batch(values, nulls, batch_id, source, GetUserId(), true);
	row = find_or_insert(batch_id, values, nulls, &writer);
	if (row == NULL)
		return;
	(void) batch_value(row, BATCH_CLOSED_AT, &null);
	if (!null)
		error_closed(batch_id, row);
	heap_freetuple(row);
}

void
QueueBatchAdd(text *batch_id, int32 queue_id, int64 jobs)
{
	append_one(batch_id, queue_id, jobs);
}

void
QueueBatchCount(QueueBatchChanges *changes, Datum batch_id, int32 queue_id, JobState state,
				int64 jobs, TimestampTz taken_at)
{
	text	   *id = DatumGetTextPP(batch_id);
	QueueBatchChange *change = changes->count > 0 ? &changes->change[changes->count - 1] : NULL;
	MemoryContext old;

	/* mostly it is the batch of the job before; others are merged later */
	if (change == NULL || change->queue_id != queue_id ||
		VARSIZE_ANY_EXHDR(change->batch_id) != VARSIZE_ANY_EXHDR(id) ||
		memcmp(VARDATA_ANY(change->batch_id), VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)) != 0)
	{
		old = MemoryContextSwitchTo(changes->context);
		if (changes->count >= changes->size)
		{
			changes->size = Max(4, changes->size * 2);
			changes->change = changes->change == NULL ?
				palloc(changes->size * sizeof(QueueBatchChange)) :
				repalloc(changes->change, changes->size * sizeof(QueueBatchChange));
		}
		change = &changes->change[changes->count++];
		memset(change, 0, sizeof(*change));
		change->batch_id = DatumGetTextPCopy(PointerGetDatum(id));
		change->queue_id = queue_id;
		change->started_at = DT_NOEND;
		MemoryContextSwitchTo(old);
	}
	change->count[QueueJobCount(state) - COUNT_COMPLETED] += jobs;
	change->started_at = Min(change->started_at, taken_at);
}

static int
compare_changes(const void *a, const void *b)
{
	const QueueBatchChange *x = a;
	const QueueBatchChange *y = b;
	int			length = VARSIZE_ANY_EXHDR(x->batch_id);
	int			order = length - (int) VARSIZE_ANY_EXHDR(y->batch_id);

	if (order == 0)
		order = memcmp(VARDATA_ANY(x->batch_id), VARDATA_ANY(y->batch_id), length);
	if (order == 0)
		order = (x->queue_id > y->queue_id) - (x->queue_id < y->queue_id);
	return order;
}

void
QueueBatchWrite(QueueBatchChanges *changes)
{
	QueueSide	side;
	TimestampTz now;
	QueueBatchChange *sum = changes->change;

	if (changes->count == 0)
		return;
	now = GetCurrentTimestamp();
	QueueXactBatches(false);
	QueueSideOpen(&side, QueueCatalogGet(false)->batch_progress);
	if (changes->count > 1)
		qsort(changes->change, changes->count, sizeof(QueueBatchChange), compare_changes);
	for (int i = 1; i <= changes->count; i++)
	{
		QueueBatchChange *next = &changes->change[i];

		if (i < changes->count && compare_changes(sum, next) == 0)
		{
			for (int c = 0; c < lengthof(sum->count); c++)
				sum->count[c] += next->count[c];
			sum->started_at = Min(sum->started_at, next->started_at);
			continue;
		}
		append(&side, sum->batch_id, sum->queue_id, 0, sum->count, sum->started_at, now);
		sum = next;
	}
	QueueSideClose(&side);
	changes->count = 0;
}

/* ---------------------------------------------------------------------
 * SQL
 * --------------------------------------------------------------------- */

static bool
is_owner(Oid owner)
{
	return superuser() || (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner));
}

/* a name that no other batch has */
static text *
new_batch_id(void)
{
	Datum		uuid = OidFunctionCall0(F_GEN_RANDOM_UUID);

	return cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, uuid)));
}

Datum
queue_create_batch(PG_FUNCTION_ARGS)
{
	Datum		values[BATCH_NATTS];
	bool		nulls[BATCH_NATTS];
	text	   *batch_id,
			   *source = NULL;
	QueueSettings settings;
	HeapTuple	row;
	TransactionId writer;

	QueueRequireWritable("queue.create_batch()");
	batch_id = PG_ARGISNULL(0) ? new_batch_id() : PG_GETARG_TEXT_PP(0);
	QueueCheckLabel(batch_id, "batch_id");
	if (!PG_ARGISNULL(1))
	{
		source = PG_GETARG_TEXT_PP(1);
		QueueCheckLabel(source, "source");
	}
	form_batch(values, nulls, batch_id, source, GetUserId(), false);
	if (!PG_ARGISNULL(2))
	{
		QueueSettingsRequire(PG_GETARG_TEXT_PP(2), PRIVILEGE_ENQUEUE, &settings);
		SET(BATCH_CALLBACK_QUEUE, PG_GETARG_DATUM(2));
	}
	if (!PG_ARGISNULL(3))
	{
		if (PG_ARGISNULL(2))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("callback_payload needs a callback_queue"),
					 errdetail("It is the payload of a job that is enqueued when the batch is complete."),
					 errhint("Say with callback_queue where to.")));
		QueueCheckJsonbSize(PG_GETARG_DATUM(3), "callback_payload", 0);
		SET(BATCH_CALLBACK_PAYLOAD, PG_GETARG_DATUM(3));
	}

	(void) lock_batch(batch_id, AccessShareLock, true);
	while ((row = find_or_insert(batch_id, values, nulls, &writer)) != NULL)
	{
		if (!TransactionIdIsValid(writer))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("batch \"%s\" already exists", text_to_cstring(batch_id)),
					 errdetail("Somebody has created it, or enqueued jobs with that batch_id."),
					 errhint("Leave batch_id out to get a new one.")));
		/* whoever is inserting or removing it must end first */
		XactLockTableWait(writer, NULL, NULL, XLTW_None);
		CHECK_FOR_INTERRUPTS();
		heap_freetuple(row);
	}
	PG_RETURN_TEXT_P(batch_id);
}

/* what may the caller do with queues that have jobs of the batch? */
static int
queue_privileges(text *batch_id, QueueSettings *settings)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	QueueSide	side = {.heap = QueueOpenTable(cat->batch_progress, AccessShareLock)};
	Snapshot	snapshot = QueueFreshSnapshot();
	int32		last = 0;
	int			privileges = 0;

	cat = QueueCatalogGet(false);
	for (int folded = 0; folded < 2; folded++)
	{
		QueueSideScan scan;
		ScanKeyData keys[2];
		HeapTuple	row;

		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(folded == 1));
		batch_key(&keys[1], 2, PointerGetDatum(batch_id));
		QueueSideScanBegin(&scan, &side, cat->batch_progress_id, 2, keys, snapshot,
						   ForwardScanDirection);
		while ((row = QueueSideScanNext(&scan, NULL, NULL)) != NULL)
		{
			bool		null;
			int32		queue_id = DatumGetInt32(heap_getattr(row, PROGRESS_QUEUE_ID,
															  RelationGetDescr(side.heap), &null));

			if (queue_id == last || !QueueSettingsById(queue_id, settings))
				continue;
			last = queue_id;
			privileges |= QueuePrivileges(settings);
		}
		QueueSideScanEnd(&scan);
	}
	QueueReleaseSnapshot(snapshot);
	table_close(side.heap, NoLock);
	return privileges;
}

/*
 * An error unless the caller may close the batch.  Its row, or NULL if nobody
 * has made one; then *owner is that of a queue which has jobs of it.
 */
static HeapTuple
require_batch(text *batch_id, ItemPointer tid, Oid *owner)
{
	TransactionId writer;
	HeapTuple	row = find_batch(batch_id, tid, &writer);
	QueueSettings settings = {0};
	int			privileges;
	bool		null;

	if (row)
	{
		*owner = DatumGetObjectId(batch_value(row, BATCH_OWNER, &null));
		if (is_owner(*owner))
			return row;
	}
	privileges = queue_privileges(batch_id, &settings);
	if (privileges & PRIVILEGE_ADMIN)
	{
		if (row == NULL)
			*owner = settings.owner;
		return row;
	}
	/* who has no privilege on any does not learn that it exists */
	if (privileges == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("batch \"%s\" does not exist", text_to_cstring(batch_id)),
				 errdetail("There is none of that name that the caller may see."),
				 errhint("An enqueue with that batch_id, or queue.create_batch(), makes one.")));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for batch \"%s\"", text_to_cstring(batch_id)),
			 errdetail("Role \"%s\" neither owns it nor administers a queue that has jobs of it.",
					   GetUserNameFromId(GetUserId(), false)),
			 errhint("The role that created it, or enqueued its first jobs, can close it.")));
	return NULL;				/* keep compiler quiet */
}

/* false: somebody has changed the row */
static bool
close_row(QueueSide *side, HeapTuple row, ItemPointer tid)
{
	Datum		values[BATCH_NATTS];
	bool		nulls[BATCH_NATTS];

	heap_deform_tuple(row, RelationGetDescr(side->heap), values, nulls);
	if (!nulls[BATCH_CLOSED_AT - 1])
		return true;
	SET(BATCH_CLOSED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	SET(BATCH_CLOSED_BY, CStringGetTextDatum("close_batch"));
	return QueueSideUpdate(side, tid, values, nulls, true) == TM_Ok;
}

Datum
queue_close_batch(PG_FUNCTION_ARGS)
{
	text	   *batch_id;
	QueueSide	side;
	ItemPointerData tid;
	Oid			owner = InvalidOid;
	HeapTuple	row;

	QueueRequireWritable("queue.close_batch()");
	batch_id = QueueArgText(fcinfo, 0, "batch_id");
	CommandCounterIncrement();
	/* nobody keeps producers waiting who may not */
	(void) require_batch(batch_id, &tid, &owner);
	(void) lock_batch(batch_id, AccessExclusiveLock, true);
	QueueSideOpen(&side, QueueCatalogGet(false)->batch);
	do
	{
		CHECK_FOR_INTERRUPTS();
		row = require_batch(batch_id, &tid, &owner);
		if (row == NULL)
		{
			Datum		values[BATCH_NATTS];
			bool		nulls[BATCH_NATTS];

			form_batch(values, nulls, batch_id, NULL, owner, true);
			QueueSideInsert(&side, values, nulls);
			CommandCounterIncrement();
		}
	} while (row == NULL || !close_row(&side, row, &tid));
	QueueSideClose(&side);
	/* a change that changes nothing: it makes the worker look */
	append_one(batch_id, 0, 0);
	QueueXactBatches(true);
	PG_RETURN_VOID();
}

/*
 * SQL that goes from batch to batch by their indexes, whatever the statistics
 * say: they may be missing, and nobody wants to read all that is kept.
 */
static void
spi_connect(void)
{
	static const char *const off[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin"};

	QueueSpiConnect();
	/* QueueSpiFinish() undoes it */
	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
}

/* privileges on the queues in an int4[], together */
static int
array_privileges(Datum queue_ids)
{
	Datum	   *ids;
	bool	   *nulls;
	int			count;
	int			privileges = 0;

	deconstruct_array(DatumGetArrayTypeP(queue_ids), INT4OID, 4, true, TYPALIGN_INT,
					  &ids, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		QueueSettings settings;

		if (QueueSettingsById(DatumGetInt32(ids[i]), &settings))
			privileges |= QueuePrivileges(&settings);
	}
	return privileges;
}

Datum
queue_batch_status(PG_FUNCTION_ARGS)
{
	enum
	{
		COLUMNS = 16
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			type = TEXTOID;
	Datum		value;
	Datum		values[COLUMNS + 2];
	bool		nulls[COLUMNS + 2];
	Oid			user;
	int			context;
	bool		may;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	value = PG_GETARG_DATUM(0);

	spi_connect();
	if (SPI_execute_with_args("SELECT batch_id, source, total, processed, failed, status, started_at,"
							  " completed_at, cancelled, open, created_at, closed_at, closed_by,"
							  " callback_queue, callback_job_id, callback_error,"
							  " owner::oid, queue_ids FROM queue._batch WHERE batch_id = $1",
							  1, &type, &value, NULL,
							  RecoveryInProgress() || XactReadOnly, 0) != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_processed > 0)
	{
		heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, nulls);
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(QueueSpiCaller(), context);
		may = is_owner(DatumGetObjectId(values[COLUMNS])) ||
			(!nulls[COLUMNS + 1] && (array_privileges(values[COLUMNS + 1]) & PRIVILEGE_BROWSE));
		SetUserIdAndSecContext(user, context);
		if (may)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	QueueSpiFinish();
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * A pass
 * --------------------------------------------------------------------- */

/* a batch all of whose jobs have ended */
typedef struct Candidate
{
	text	   *batch_id;
	Oid			owner;
	bool		closed;
	int64		total;
	int64		processed;
	int64		failed;
	int64		cancelled;
	TimestampTz at;				/* last change */
	int64		grace;			/* the longest of its queues */
	ArrayType  *queue_ids;		/* NULL: none */
	text	   *source;
	text	   *callback_queue; /* NULL: none */
} Candidate;

/* run a query with one text argument, or none */
static uint64
run(const char *sql, text *argument)
{
	Oid			type = TEXTOID;
	Datum		value = PointerGetDatum(argument);

	return QueueSpiExecute(sql, argument ? 1 : 0, &type, &value, NULL);
}

static Datum
column(uint64 row, int att, bool *null)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, att, null);
}

static text *
copy_text(Datum value, bool null, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	text	   *copy = null ? NULL : DatumGetTextPCopy(value);

	MemoryContextSwitchTo(old);
	return copy;
}

/* the first column of what a query returned, in that context, as an array */
static ArrayType *
column_array(uint64 rows, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum	   *values = MemoryContextAllocHuge(context, (rows + 1) * sizeof(Datum));
	ArrayType  *array;
	bool		null;

	for (uint64 i = 0; i < rows; i++)
		values[i] = column(i, 1, &null);
	array = construct_array(values, (int) rows, TEXTOID, -1, false, TYPALIGN_INT);
	MemoryContextSwitchTo(old);
	return array;
}

/*
 * Make the rows of batches whose first enqueue has been rolled back after
 * others had joined it; forget changes of batches that are gone.
 */
static void
make_missing(MemoryContext context)
{
	uint64		count;
	text	  **ids;
	int32	   *queue_ids;
	bool		null;

	spi_connect();
	(void) run("DELETE FROM queue.batch_progress WHERE NOT folded AND batch_id = ANY (ARRAY("
			   "SELECT p.batch_id FROM queue.batch_progress AS p WHERE NOT p.folded"
			   " AND NOT EXISTS (SELECT FROM queue.batch AS b WHERE b.batch_id = p.batch_id)"
			   " GROUP BY p.batch_id HAVING sum(p.added) <= 0))", NULL);
	count = run("SELECT p.batch_id, max(p.queue_id) FROM queue.batch_progress AS p WHERE NOT p.folded"
				" AND NOT EXISTS (SELECT FROM queue.batch AS b WHERE b.batch_id = p.batch_id)"
				" GROUP BY p.batch_id HAVING sum(p.added) > 0", NULL);
	ids = MemoryContextAlloc(context, (count + 1) * sizeof(text *));
	queue_ids = MemoryContextAlloc(context, (count + 1) * sizeof(int32));
	for (uint64 i = 0; i < count; i++)
	{
		ids[i] = copy_text(column(i, 1, &null), false, context);
		queue_ids[i] = DatumGetInt32(column(i, 2, &null));
	}
	QueueSpiFinish();
	for (uint64 i = 0; i < count; i++)
	{
		Datum		values[BATCH_NATTS];
		bool		nulls[BATCH_NATTS];
		QueueSettings settings;
		TransactionId writer;

		form_batch(values, nulls, ids[i], NULL,
				   QueueSettingsById(queue_ids[i], &settings) ? settings.owner : InvalidOid, true);
		(void) find_or_insert(ids[i], values, nulls, &writer);
	}
}

/* fold what is new; returns the names of the batches to look at */
static ArrayType *
fold(bool all, bool *more, MemoryContext context)
{
	Oid			type = TEXTARRAYOID;
	ArrayType  *touched;
	Datum		value;
	uint64		count;

	spi_connect();
	count = run(psprintf("SELECT DISTINCT p.batch_id FROM queue.batch_progress AS p"
						 " JOIN queue.batch AS b ON b.batch_id = p.batch_id"
						 " WHERE NOT p.folded LIMIT %d", PASS_BATCHES), NULL);
	*more = count >= PASS_BATCHES;
	touched = column_array(count, context);
	value = PointerGetDatum(touched);
	if (count > 0)
		(void) QueueSpiExecute(
			"WITH gone AS ("
			"  DELETE FROM queue.batch_progress AS p"
			"  WHERE p.batch_id = ANY ($1) AND p.folded IN (false, true) RETURNING p.*"
			") INSERT INTO queue.batch_progress"
			"  SELECT batch_id, queue_id, sum(added), sum(completed), sum(failed), sum(cancelled),"
			"    min(started_at), max(at), true"
			"  FROM gone WHERE queue_id <> 0 GROUP BY batch_id, queue_id", 1, &type, &value, NULL);
	if (all)
	{
		count = run("SELECT batch_id FROM queue.batch WHERE completed_at IS NULL", NULL);
		touched = column_array(count, context);
	}
	QueueSpiFinish();
	return touched;
}

/* the longest grace time of the queues in an int4[] */
static int64
longest_grace(Datum queue_ids)
{
	Datum	   *ids;
	bool	   *nulls;
	int			count;
	int64		grace = 0;

	deconstruct_array(DatumGetArrayTypeP(queue_ids), INT4OID, 4, true, TYPALIGN_INT,
					  &ids, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		QueueSettings settings;

		if (QueueSettingsById(DatumGetInt32(ids[i]), &settings))
			grace = Max(grace, settings.batch_grace);
	}
	return grace;
}

/* those of the batches all of whose jobs have ended, if that means something */
static List *
find_candidates(ArrayType *batch_ids, MemoryContext context)
{
	Oid			type = TEXTARRAYOID;
	Datum		value = PointerGetDatum(batch_ids);
	List	   *candidates = NIL;
	uint64		count;

	spi_connect();
	count = QueueSpiExecute("SELECT v.batch_id, v.owner::oid, v.closed_at IS NOT NULL, v.total,"
							" v.processed, v.failed, v.cancelled, coalesce(v.at, v.created_at),"
							" v.queue_ids, v.source, v.callback_queue FROM queue._batch AS v"
							" WHERE v.batch_id = ANY ($1) AND v.open <= 0 AND v.completed_at IS NULL"
							" AND (v.closed_at IS NOT NULL OR v.implicit)",
							1, &type, &value, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		Candidate  *batch = MemoryContextAllocZero(context, sizeof(Candidate));
		MemoryContext old;
		Datum		datum;
		bool		null;

		batch->batch_id = copy_text(column(i, 1, &null), false, context);
		batch->owner = DatumGetObjectId(column(i, 2, &null));
		batch->closed = DatumGetBool(column(i, 3, &null));
		batch->total = DatumGetInt64(column(i, 4, &null));
		batch->processed = DatumGetInt64(column(i, 5, &null));
		batch->failed = DatumGetInt64(column(i, 6, &null));
		batch->cancelled = DatumGetInt64(column(i, 7, &null));
		batch->at = DatumGetTimestampTz(column(i, 8, &null));
		datum = column(i, 9, &null);
		batch->grace = null ? 0 : longest_grace(datum);
		old = MemoryContextSwitchTo(context);
		batch->queue_ids = null ? NULL : DatumGetArrayTypePCopy(datum);
		MemoryContextSwitchTo(old);
		datum = column(i, 10, &null);
		batch->source = copy_text(datum, null, context);
		datum = column(i, 11, &null);
		batch->callback_queue = copy_text(datum, null, context);
		old = MemoryContextSwitchTo(context);
		candidates = lappend(candidates, batch);
		MemoryContextSwitchTo(old);
	}
	QueueSpiFinish();
	return candidates;
}

/* nobody has closed it, and it is time; false: somebody is adding to it, or has */
static bool
close_by_grace(Candidate *batch)
{
	Oid			types[2] = {TEXTOID, TIMESTAMPTZOID};
	Datum		values[2];
	uint64		closed;

	/* a snapshot from before the lock may not see who has just added */
	if (IsolationUsesXactSnapshot() || !lock_batch(batch->batch_id, AccessExclusiveLock, false))
		return false;
	values[0] = PointerGetDatum(batch->batch_id);
	values[1] = TimestampTzGetDatum(batch->at);
	spi_connect();
	closed = QueueSpiExecute("UPDATE queue.batch SET closed_at = clock_timestamp(), closed_by = 'grace'"
							 " WHERE batch_id = $1 AND closed_at IS NULL AND (SELECT v.open <= 0"
							 " AND coalesce(v.at, v.created_at) = $2"
							 " FROM queue._batch AS v WHERE v.batch_id = $1)",
							 2, types, values, NULL);
	QueueSpiFinish();
	return closed > 0;
}

static Datum
callback_headers(const Candidate *batch)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"batch_id\": ");
	escape_json(&json, text_to_cstring(batch->batch_id));
	appendStringInfo(&json, ", \"total\": %lld, \"processed\": %lld, \"failed\": %lld,"
					 " \"cancelled\": %lld}", (long long) batch->total,
					 (long long) batch->processed, (long long) batch->failed,
					 (long long) batch->cancelled);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* with the rights of the batch's owner */
static int64
enqueue_callback(const Candidate *batch, Datum payload)
{
	QueueSettings settings;
	QueueRequest request = {0};
	Oid			user;
	int			context;
	int64		job_id;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(batch->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of the batch does not exist any more"),
				 errdetail("Its callback is enqueued with the rights of the owner, who has been dropped."),
				 errhint("Drop the role when its batches are complete; enqueue what the callback was to do.")));
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(batch->owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	QueueSettingsLock(batch->callback_queue, PRIVILEGE_ENQUEUE, AccessShareLock, &settings);
	request.now = GetCurrentTimestamp();
	request.source = batch->source;
	request.headers = callback_headers(batch);
	QueueEnqueueMany(&settings, &request, &payload, 1, &job_id);
	SetUserIdAndSecContext(user, context);
	return job_id;
}

typedef struct Callback
{
	const Candidate *batch;
	Datum		payload;
	int64		job_id;
} Callback;

static void
run_callback(void *arg)
{
	Callback   *callback = arg;

	callback->job_id = enqueue_callback(callback->batch, callback->payload);
}

/* would an enqueue call functions of the queue? */
static bool
enqueue_calls(const QueueSettings *settings)
{
	return settings->has_rules || settings->mode == MODE_DIRECT;
}

/* the job's number, or 0 and why not: the batch is complete all the same */
static int64
try_callback(const Candidate *batch, Datum payload, char **message)
{
	Callback	callback = {batch, payload, 0};
	QueueSettings settings;
	ErrorData  *error;

	/* a queue that is gone has no functions, either */
	if (QueueSettingsByName(VARDATA_ANY(batch->callback_queue),
							VARSIZE_ANY_EXHDR(batch->callback_queue), &settings) &&
		enqueue_calls(&settings))
		error = QueueTryCall(run_callback, &callback, &settings);
	else
		error = QueueTry(run_callback, &callback);
	if (error == NULL)
		return callback.job_id;
	/* what is no fault of the callback is tried again */
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		error->sqlerrcode == ERRCODE_DISK_FULL || error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
		ReThrowError(error);
	*message = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	return 0;
}

/* may the callback be enqueued without waiting for whoever changes its queue? */
static bool
lock_callback_queue(const Candidate *batch)
{
	QueueSettings settings;

	return batch->callback_queue == NULL ||
		!QueueSettingsByName(VARDATA_ANY(batch->callback_queue),
							 VARSIZE_ANY_EXHDR(batch->callback_queue), &settings) ||
		lock_object(QueueCatalogGet(false)->queue, (Oid) settings.queue_id, 0, AccessShareLock,
					false);
}

/* those who listen to one of its queues are told */
static void
tell_listeners(const Candidate *batch)
{
	Datum	   *ids;
	bool	   *nulls;
	int			count = 0;

	if (batch->queue_ids)
		deconstruct_array(batch->queue_ids, INT4OID, 4, true, TYPALIGN_INT, &ids, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		QueueSettings settings;

		if (QueueSettingsById(DatumGetInt32(ids[i]), &settings) && settings.notify)
			QueueEventBatch(QueueXactSlot(settings.queue_id), text_to_cstring(batch->batch_id));
	}
}

static bool
complete(const Candidate *batch)
{
	Oid			types[3] = {TEXTOID, INT8OID, TEXTOID};
	Datum		values[3];
	char		nulls[4] = "   ";
	MemoryContext context = CurrentMemoryContext;
	Datum		payload = (Datum) 0;
	uint64		completed;
	int64		job_id;
	char	   *error = NULL;
	bool		null;

	spi_connect();
	completed = run("UPDATE queue.batch SET completed_at = clock_timestamp()"
					" WHERE batch_id = $1 AND completed_at IS NULL"
					" RETURNING coalesce(callback_payload, '{}')", batch->batch_id);
	if (completed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		payload = PointerGetDatum(PG_DETOAST_DATUM_COPY(column(0, 1, &null)));
		MemoryContextSwitchTo(old);
	}
	QueueSpiFinish();
	if (completed > 0)
		tell_listeners(batch);
	if (completed == 0 || batch->callback_queue == NULL)
		return completed > 0;

	job_id = try_callback(batch, payload, &error);
	values[0] = PointerGetDatum(batch->batch_id);
	values[1] = Int64GetDatum(job_id);
	nulls[1] = error ? 'n' : ' ';
	values[2] = error ? CStringGetTextDatum(error) : (Datum) 0;
	nulls[2] = error ? ' ' : 'n';
	spi_connect();
	(void) QueueSpiExecute("UPDATE queue.batch SET callback_job_id = $2, callback_error = $3"
						   " WHERE batch_id = $1", 3, types, values, nulls);
	QueueSpiFinish();
	return true;
}

/* complete batches that have been kept long enough, unless a job of theirs runs again */
static void
remove_old(MemoryContext context)
{
	Oid			type = TEXTARRAYOID;
	Datum		value;
	uint64		count;

	spi_connect();
	count = run(psprintf("SELECT batch_id FROM queue.batch"
						 " WHERE completed_at < clock_timestamp() - %d * interval '1 minute' LIMIT %d",
						 queue_batch_retention, PASS_BATCHES), NULL);
	value = PointerGetDatum(column_array(count, context));
	if (count > 0)
	{
		count = QueueSpiExecute("SELECT batch_id FROM queue._batch"
								" WHERE batch_id = ANY ($1) AND open <= 0", 1, &type, &value, NULL);
		value = PointerGetDatum(column_array(count, context));
		(void) QueueSpiExecute("DELETE FROM queue.batch WHERE batch_id = ANY ($1)",
							   1, &type, &value, NULL);
		(void) QueueSpiExecute("DELETE FROM queue.batch_progress"
							   " WHERE batch_id = ANY ($1) AND folded IN (false, true)",
							   1, &type, &value, NULL);
	}
	QueueSpiFinish();

	/* the number of a role that was dropped may be somebody else's after a restore */
	QueueSpiConnect();
	(void) run("UPDATE queue.batch AS b SET owner = 0 WHERE b.owner <> 0 AND NOT EXISTS ("
			   "SELECT FROM pg_roles AS r WHERE r.oid = b.owner)", NULL);
	QueueSpiFinish();
}

/* does a batch only wait for the end of its jobs? */
static bool
any_closed(void)
{
	bool		found;

	spi_connect();
	found = run("SELECT FROM queue.batch WHERE completed_at IS NULL AND closed_at IS NOT NULL LIMIT 1",
				NULL) > 0;
	QueueSpiFinish();
	return found;
}

int64
QueueBatchPass(bool all, TimestampTz *next_at, bool *closed)
{
	MemoryContext context;
	TimestampTz now = GetCurrentTimestamp();
	List	   *candidates;
	ListCell   *lc;
	bool		more;
	int64		ended = 0;

	*closed = true;
	/* one at a time */
	if (!lock_object(QueueCatalogGet(false)->batch_progress, InvalidOid, 0, ExclusiveLock, false))
	{
		*next_at = Min(*next_at, now + RETRY_USECS);
		return 0;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "queue batches", ALLOCSET_DEFAULT_SIZES);
	make_missing(context);
	candidates = find_candidates(fold(all, &more, context), context);
	if (more)
		*next_at = Min(*next_at, now);
	foreach(lc, candidates)
	{
		Candidate  *batch = lfirst(lc);
		TimestampTz grace_ends = QueueTimeAfter(batch->at, batch->grace);

		CHECK_FOR_INTERRUPTS();
		if (ended >= PASS_ENDS)
			*next_at = Min(*next_at, now);
		else if (!batch->closed && grace_ends > now)
			*next_at = Min(*next_at, grace_ends);
		else if (!lock_callback_queue(batch) || (!batch->closed && !close_by_grace(batch)))
			*next_at = Min(*next_at, now + RETRY_USECS);
		else if (complete(batch))
			ended++;
	}
	if (all)
		remove_old(context);
	*closed = any_closed();
	MemoryContextDelete(context);
	return ended;
}

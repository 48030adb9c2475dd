/*-------------------------------------------------------------------------
 *
 * progress.c
 *		How far jobs are: queue.set_progress(), and what becomes of it.
 *
 * What is told of a job while it runs must be seen by others before its
 * transaction ends, so it is in shared memory only: a table of entries, one per
 * job, guarded as table.h says.  When the attempt ends, whoever ends it copies
 * the entry into the row that it writes; the entry goes when that has become
 * visible.  So a reader looks at the entry first, and at the row if there is
 * none: one of the two has it at any time, whatever aborts.
 *
 * An entry is about one taking of a job: it bears the attempt and the time of
 * it, and counts for a row that bears both.  So entries that are left over harm
 * nobody: those of jobs that were taken over, or whose taking was rolled back,
 * or which a prepared transaction has settled.  The maintenance worker removes
 * them every minute; so does whoever finds the table full.  If all that are
 * left are in use, the oldest has to go.
 *
 *		who ends an attempt			who tells its progress
 *		copies the entry			changes it: not copied, but the attempt is
 *									over anyway
 *		commits						looks at the row before that, and adds an
 *		removes the entry			entry after it: left over
 *		somebody takes the job		tells of the new taking before the old entry
 *		again						is removed: the remover compares the times
 *
 * A taking that has not committed, by the transaction that tells progress, is
 * one that nobody else can see.  The entry bears the transaction's id, and stays
 * as long as that is in progress.
 *
 * A crash or a restart forgets all of it, as it ends the sessions that were at
 * work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "internal.h"
#include "progress.h"
#include "scan.h"
#include "settle.h"
#include "store.h"

QUEUE_FUNCTION(queue_set_progress);
QUEUE_FUNCTION(queue__progress);

#define STEP_MAX			200		/* bytes */
#define DETAIL_MAX			1000	/* bytes of jsonb */
#define TIDY_SPACING_MS		1000	/* of one session that finds the table full */

typedef struct Progress
{
	QueueTableLink link;

	/* set once */
	Oid			database_id;
	Oid			live_id;
	int64		job_id;

	/* what follows is guarded by link.mutex */
	int32		queue_id;
	int32		attempt;		/* with the next: which taking it is about */
	TimestampTz taken_at;
	TransactionId xid;			/* of who told it, if it had written something */
	TimestampTz at;				/* when */
	bool		has_percent;
	float4		percent;
	int			step_length;	/* 0: none */
	int			detail_size;	/* with its header; 0: none */
	char		step[STEP_MAX];
	char		detail[VARHDRSZ + DETAIL_MAX];
} Progress;

/* an attempt that is over when its (sub)transaction commits */
typedef struct PendingEnd
{
	SubTransactionId subid;
	Oid			live_id;
	int64		job_id;
	TimestampTz taken_at;
} PendingEnd;

static QueueTable table;

static PendingEnd *pending;
static int	num_pending,
			max_pending;

Size
QueueProgressSize(void)
{
	return QueueTableSize(queue_max_progress, sizeof(Progress));
}

void
QueueProgressInit(char *at, LWLock *lock, bool found)
{
	QueueTableInit(&table, at, queue_max_progress, sizeof(Progress), lock, found);
}

static uint32
hash_of(Oid live_id, int64 job_id)
{
	uint32		hash = hash_combine(murmurhash32(MyDatabaseId), murmurhash32(live_id));

	hash = hash_combine(hash, murmurhash32((uint32) ((uint64) job_id >> 32)));
	return hash_combine(hash, murmurhash32((uint32) job_id));
}

static inline bool
may_have(int64 job_id)
{
	return pg_atomic_read_u32(table.count) != 0 &&
		QueueTableMayHave(&table, hash_of(QueueCatalogGet(false)->live, job_id));
}

/* caller holds the lock of the table */
static Progress *
find(Oid live_id, int64 job_id)
{
	Progress   *entry = QueueTableFirst(&table, hash_of(live_id, job_id));

	while (entry && (entry->database_id != MyDatabaseId || entry->live_id != live_id ||
					 entry->job_id != job_id))
		entry = QueueTableNext(&table, entry);
	return entry;
}

/* a copy of what was told of one taking of a job, or NULL */
static Progress *
read_progress(int64 job_id, int32 attempt, TimestampTz taken_at)
{
	Progress   *copy = palloc(sizeof(Progress));
	Oid			live_id = QueueCatalogGet(false)->live;
	Progress   *entry;

	LWLockAcquire(table.lock, LW_SHARED);
	entry = find(live_id, job_id);
	if (entry)
	{
		SpinLockAcquire(&entry->link.mutex);
		*copy = *entry;
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);
	if (entry && copy->attempt == attempt && copy->taken_at == taken_at)
		return copy;
	pfree(copy);
	return NULL;
}

/* {"percent": 50, "step": ..., "detail": ..., "at": when}, without what was not told */
static Datum
form_jsonb(const Progress *progress)
{
	StringInfoData json;
	char		at[MAXDATELEN + 1];

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	if (progress->has_percent)
		appendStringInfo(&json, "\"percent\": %.6g, ", progress->percent);
	if (progress->step_length > 0)
	{
		appendStringInfoString(&json, "\"step\": ");
		escape_json(&json, pnstrdup(progress->step, progress->step_length));
		appendStringInfoString(&json, ", ");
	}
	if (progress->detail_size > 0)
	{
		/* where it is a jsonb's, memory is aligned */
		Jsonb	   *detail = palloc(progress->detail_size);

		memcpy(detail, progress->detail, progress->detail_size);
		appendStringInfo(&json, "\"detail\": %s, ",
						 JsonbToCString(NULL, &detail->root, VARSIZE(detail)));
	}
	JsonEncodeDateTime(at, TimestampTzGetDatum(progress->at), TIMESTAMPTZOID, NULL);
	appendStringInfo(&json, "\"at\": \"%s\"}", at);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* ---------------------------------------------------------------------
 * The end of an attempt
 * --------------------------------------------------------------------- */

HeapTuple
QueueProgressKeep(HeapTuple row, TupleDesc desc, const JobHead *before)
{
	Progress   *progress;
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS] = {0};
	bool		replace[JOB_NATTS] = {0};

	if (likely(!may_have(before->job_id)))
		return row;
	progress = read_progress(before->job_id, before->attempt, before->taken_at);
	if (progress == NULL)
		return row;
	values[JOB_PROGRESS - 1] = form_jsonb(progress);
	replace[JOB_PROGRESS - 1] = true;
	return heap_modify_tuple(row, desc, values, nulls, replace);
}

void
QueueProgressEnd(const JobHead *before)
{
	Oid			live_id;
	bool		found;

	if (likely(!may_have(before->job_id)))
		return;
	live_id = QueueCatalogGet(false)->live;
	LWLockAcquire(table.lock, LW_SHARED);
	found = find(live_id, before->job_id) != NULL;
	LWLockRelease(table.lock);
	if (!found)
		return;
	if (num_pending >= max_pending)
	{
		int			size = Max(16, max_pending * 2);

		pending = pending ? repalloc(pending, size * sizeof(PendingEnd)) :
			MemoryContextAlloc(TopMemoryContext, size * sizeof(PendingEnd));
		max_pending = size;
	}
	pending[num_pending++] = (PendingEnd) {
		GetCurrentSubTransactionId(), live_id, before->job_id, before->taken_at
	};
}

void
QueueProgressCommit(void)
{
	if (num_pending == 0)
		return;
	LWLockAcquire(table.lock, LW_EXCLUSIVE);
	for (int i = 0; i < num_pending; i++)
	{
		Progress   *entry = find(pending[i].live_id, pending[i].job_id);

		/* unless the job has been taken again, and told of, since */
		if (entry && entry->taken_at <= pending[i].taken_at)
			QueueTableRemove(&table, entry);
	}
	LWLockRelease(table.lock);
}

void
QueueProgressForget(void)
{
	num_pending = 0;
}

void
QueueProgressCommitSub(SubTransactionId subid, SubTransactionId parent_subid)
{
	for (int i = num_pending - 1; i >= 0 && pending[i].subid >= subid; i--)
		pending[i].subid = parent_subid;
}

void
QueueProgressAbortSub(SubTransactionId subid)
{
	while (num_pending > 0 && pending[num_pending - 1].subid >= subid)
		num_pending--;
}

/* ---------------------------------------------------------------------
 * Room
 * --------------------------------------------------------------------- */

/* the entries of this installation: copies of their fixed part; returns how many */
static int
list_entries(Progress **entries)
{
	Oid			live_id = QueueCatalogGet(false)->live;
	int			room = (int) pg_atomic_read_u32(table.count);
	int			count = 0;

	*entries = palloc(sizeof(Progress) * Max(room, 1));
	LWLockAcquire(table.lock, LW_EXCLUSIVE);
	/* if there are more by now, the others are for the next time */
	for (int i = 0; i < table.size && count < room; i++)
	{
		Progress   *entry = QueueTableEntry(&table, i);

		if (entry == NULL || entry->database_id != MyDatabaseId)
			continue;
		/* of an extension that was dropped */
		if (entry->live_id != live_id)
			QueueTableRemove(&table, entry);
		else
			memcpy(&(*entries)[count++], entry, offsetof(Progress, step));
	}
	LWLockRelease(table.lock);
	return count;
}

int
QueueProgressTidy(void)
{
	Progress   *entries;
	int			count,
				removed = 0;
	QueueStore	live;
	Snapshot	snapshot;

	if (pg_atomic_read_u32(table.count) == 0)
		return 0;
	count = list_entries(&entries);

	/* before the snapshot: what has ended by now, it sees the end of */
	for (int i = 0; i < count; i++)
		if (TransactionIdIsValid(entries[i].xid) && TransactionIdIsInProgress(entries[i].xid))
			entries[i].job_id = 0;
	CommandCounterIncrement();
	QueueStoreOpen(&live, false);
	snapshot = QueueFreshSnapshot();
	for (int i = 0; i < count; i++)
	{
		ItemPointerData tid;
		HeapTuple	row;
		Progress   *entry;

		CHECK_FOR_INTERRUPTS();
		if (entries[i].job_id == 0)
			continue;
		row = QueueStoreFind(&live, snapshot, entries[i].job_id, &tid);
		if (row && job_is_active(JOB_HEAD(row)) && JOB_HEAD(row)->attempt == entries[i].attempt &&
			JOB_HEAD(row)->taken_at == entries[i].taken_at)
			continue;
		LWLockAcquire(table.lock, LW_EXCLUSIVE);
		entry = find(entries[i].live_id, entries[i].job_id);
		if (entry && entry->attempt == entries[i].attempt &&
			entry->taken_at == entries[i].taken_at && entry->xid == entries[i].xid)
		{
			QueueTableRemove(&table, entry);
			removed++;
		}
		LWLockRelease(table.lock);
	}
	QueueReleaseSnapshot(snapshot);
	QueueStoreCloseUnused(&live);
	pfree(entries);
	return removed;
}

/* the table is full: make room for one */
static void
make_room(void)
{
	static TimestampTz tidied_at;
	TimestampTz now = GetCurrentTimestamp();
	Progress   *oldest = NULL;

	if (QueueHasPassed(tidied_at, TIDY_SPACING_MS, now))
	{
		tidied_at = now;
		if (QueueProgressTidy() > 0)
			return;
	}
	LWLockAcquire(table.lock, LW_EXCLUSIVE);
	for (int i = 0; *table.first_free < 0 && i < table.size; i++)
	{
		Progress   *entry = QueueTableEntry(&table, i);

		if (entry && (oldest == NULL || entry->at < oldest->at))
			oldest = entry;
	}
	if (oldest)
		QueueTableRemove(&table, oldest);
	LWLockRelease(table.lock);
}

/* ---------------------------------------------------------------------
 * queue.set_progress()
 * --------------------------------------------------------------------- */

typedef struct Told
{
	bool		has_percent;
	float4		percent;
	text	   *step;			/* NULL: as before */
	Jsonb	   *detail;			/* likewise */
	TransactionId xid;
	TimestampTz at;
} Told;

/* caller holds the lock of the table and the spinlock of the entry */
static void
change_entry(Progress *entry, const JobHead *job, const Told *told)
{
	if (entry->attempt != job->attempt || entry->taken_at != job->taken_at)
	{
		entry->attempt = job->attempt;
		entry->taken_at = job->taken_at;
		entry->has_percent = false;
		entry->step_length = entry->detail_size = 0;
	}
	entry->queue_id = job->queue_id;
	entry->xid = told->xid;
	entry->at = told->at;
	if (told->has_percent)
	{
		entry->has_percent = true;
		entry->percent = told->percent;
	}
	if (told->step)
	{
		entry->step_length = VARSIZE_ANY_EXHDR(told->step);
		memcpy(entry->step, VARDATA_ANY(told->step), entry->step_length);
	}
	if (told->detail)
	{
		entry->detail_size = VARSIZE(told->detail);
		memcpy(entry->detail, told->detail, entry->detail_size);
	}
}

static void
tell(const JobHead *job, const Told *told)
{
	Oid			live_id = QueueCatalogGet(false)->live;
	Progress   *entry;

	LWLockAcquire(table.lock, LW_SHARED);
	entry = find(live_id, job->job_id);
	if (entry)
	{
		SpinLockAcquire(&entry->link.mutex);
		change_entry(entry, job, told);
		SpinLockRelease(&entry->link.mutex);
	}
	LWLockRelease(table.lock);

	while (entry == NULL)
	{
		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(table.lock, LW_EXCLUSIVE);
		entry = find(live_id, job->job_id);
		if (entry == NULL)
		{
			entry = QueueTableAdd(&table, hash_of(live_id, job->job_id));
			if (entry)
			{
				entry->database_id = MyDatabaseId;
				entry->live_id = live_id;
				entry->job_id = job->job_id;
				entry->attempt = 0;
			}
		}
		if (entry)
			change_entry(entry, job, told);
		LWLockRelease(table.lock);
		if (entry == NULL)
			make_room();
	}
}

/* is the job held, by that attempt if it is not 0?  Then *job is its head. */
static bool
find_held(int64 job_id, int32 attempt, JobHead *job)
{
	QueueStore	live;
	QueueWalk	walk;
	Snapshot	snapshot;
	ItemPointerData tid;
	HeapTuple	row;
	QueueSettings settings;
	bool		held = false;

	/* what was taken in this statement must be seen as taken */
	CommandCounterIncrement();
	QueueStoreOpen(&live, false);
	snapshot = QueueFreshSnapshot();
	QueueWalkBegin(&walk, &live, snapshot);
	row = QueueWalkTo(&walk, job_id, &tid);
	if (row)
	{
		*job = *JOB_HEAD(row);
		held = job_is_active(job) && (attempt == 0 || attempt == job->attempt);
	}
	QueueWalkEnd(&walk);
	QueueReleaseSnapshot(snapshot);
	QueueStoreCloseUnused(&live);

	if (!held)
		return false;
	if (!QueueSettingsById(job->queue_id, &settings))
		elog(ERROR, "job %lld belongs to no queue", (long long) job_id);
	/* who has no privilege on it does not learn that there is such a job */
	if (QueuePrivileges(&settings) == 0)
		return false;
	QueueRequirePrivilege(&settings, PRIVILEGE_DEQUEUE);
	return true;
}

static void
check_percent(float4 percent)
{
	if (!(percent >= 0 && percent <= 100))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("percent must be between 0 and 100"),
				 errdetail("It is %g.", percent),
				 errhint("Give null if it is not known.")));
}

static void
check_step(text *step)
{
	int			length = VARSIZE_ANY_EXHDR(step);

	if (length > STEP_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("step must not be longer than %d bytes", STEP_MAX),
				 errdetail("It has %d bytes; at most %d are allowed.", length, STEP_MAX),
				 errhint("Name the step in a few words.")));
}

Datum
queue_set_progress(PG_FUNCTION_ARGS)
{
	Told		told = {0};
	int64		job_id,
				extend_by = 0;
	int32		attempt = 0;
	JobHead		job;

	if (PG_ARGISNULL(4))
		QueueRequireRunning("queue.set_progress()");
	else
		QueueRequireWritable("queue.set_progress()");
	if (PG_ARGISNULL(0))
		QueueErrorNull("job_id", "Give the number that queue.enqueue() returned.");
	job_id = PG_GETARG_INT64(0);
	told.has_percent = !PG_ARGISNULL(1);
	if (told.has_percent)
		check_percent(told.percent = PG_GETARG_FLOAT4(1));
	if (!PG_ARGISNULL(2))
		check_step(told.step = PG_GETARG_TEXT_PP(2));
	if (!PG_ARGISNULL(3))
	{
		QueueCheckSmallJsonb(PG_GETARG_DATUM(3), "detail", DETAIL_MAX);
		told.detail = PG_GETARG_JSONB_P(3);
	}
	if (!PG_ARGISNULL(4))
		extend_by = QueueArgDuration(PG_GETARG_DATUM(4), "extend_by", false);
	if (!PG_ARGISNULL(5))
	{
		attempt = PG_GETARG_INT32(5);
		if (attempt <= 0)
			PG_RETURN_BOOL(false);
	}

	if (extend_by > 0 && !QueueExtend(job_id, attempt, extend_by, NULL))
		PG_RETURN_BOOL(false);
	if (!find_held(job_id, attempt, &job))
		PG_RETURN_BOOL(false);
	told.xid = GetTopTransactionIdIfAny();
	told.at = GetCurrentTimestamp();
	tell(&job, &told);
	PG_RETURN_BOOL(true);
}

/* for the views, which pass what the row says */
Datum
queue__progress(PG_FUNCTION_ARGS)
{
	QueueSettings settings;
	Progress   *progress;

	if (!QueueSharedReady() || !may_have(PG_GETARG_INT64(1)))
		PG_RETURN_NULL();
	progress = read_progress(PG_GETARG_INT64(1), PG_GETARG_INT32(2), PG_GETARG_TIMESTAMPTZ(3));
	if (progress == NULL || progress->queue_id != PG_GETARG_INT32(0))
		PG_RETURN_NULL();
	/* our own SQL asks for others, and has checked it */
	if (!QueueSpiActive() && (!QueueSettingsById(progress->queue_id, &settings) ||
							  !(QueuePrivileges(&settings) & PRIVILEGE_BROWSE)))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(form_jsonb(progress));
}

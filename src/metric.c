/*-------------------------------------------------------------------------
 *
 * metric.c
 *		The numbers of each queue over time: queue.metric_history; as they are
 *		now, under the view queue.metrics; and queue.stats_reset().
 *
 * The maintenance worker writes a row per queue at each full interval
 * (queue.metrics_interval, a minute), with the counts of then and what has
 * happened since the row before.  What that row knew, the base, is in the
 * queue's slot, and is replaced when the new row has committed; if it is rolled
 * back, the next row has it all.  Writers hold a lock from looking at bases
 * until then, and one that does not get it at once leaves it to the other.
 * What a prepared transaction writes replaces it when that is prepared: nobody
 * else writes a row before it is finished, and if that is a rollback, its row
 * is missed.
 *
 * A queue where nothing has changed gets a row every hour only.
 *
 * The table is a plain one: a busy queue has 1440 rows a day, some 200 kB, so
 * the rows that expire are few beside the jobs, and what they leave is used
 * again by the rows of the next hours, at the pace at which they were deleted.
 * A ring of leaves as that of the log would cost a truncate, and its exclusive
 * lock, to save less than it takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "heartbeat.h"
#include "internal.h"
#include "limit.h"
#include "metric.h"
#include "stats.h"
#include "xact.h"

QUEUE_FUNCTION(queue_stats_reset);
QUEUE_FUNCTION(queue__metrics);		/* of the objects of 0.1.0 */
QUEUE_FUNCTION(queue__metrics_2);

#define REST_USECS	(INT64CONST(3600) * USECS_PER_SEC)	/* between rows of a queue at rest */

/* bases that are to be replaced at commit */
typedef struct PendingBase
{
	QueueSlot  *slot;			/* pinned by this transaction */
	QueueMetricBase base;
} PendingBase;

static PendingBase *pending;
static int	num_pending;

void
QueueMetricCommit(void)
{
	for (int i = 0; i < num_pending; i++)
		pending[i].slot->totals.base = pending[i].base;
	QueueMetricForget();
}

void
QueueMetricForget(void)
{
	if (pending)
		pfree(pending);
	pending = NULL;
	num_pending = 0;
}

TimestampTz
QueueMetricTime(TimestampTz now)
{
	return now - now % ((int64) queue_metrics_interval * USECS_PER_SEC);
}

/* what there is now, and what has happened since the base */
static void
read_numbers(QueueSlot *slot, const int64 *count, TimestampTz at, QueueMetricBase *new,
			 QueueTotalsRead *change)
{
	const QueueMetricBase *old = &slot->totals.base;

	QueueTotalsGet(&slot->totals, change);
	memset(new, 0, sizeof(*new));
	new->at = new->looked_at = at;
	memcpy(new->count, count, sizeof(new->count));
	/* somebody may be resetting them */
#define LESS(now_value, old_value) ((now_value) >= (old_value) ? (now_value) - (old_value) : 0)
	for (int t = 0; t < NUM_TOTALS; t++)
	{
		new->total[t] = change->total[t];
		change->total[t] = LESS(new->total[t], old->total[t]);
	}
	for (int t = 0; t < NUM_TIMES; t++)
	{
		new->time_sum[t] = change->time_sum[t];
		change->time_sum[t] = LESS(new->time_sum[t], old->time_sum[t]);
		for (int b = 0; b < TIME_BUCKETS; b++)
		{
			new->time_count[t][b] = (uint32) change->time_count[t][b];
			change->time_count[t][b] = new->time_count[t][b] - old->time_count[t][b];
		}
	}
#undef LESS
}

static bool
is_at_rest(const QueueMetricBase *old, const QueueMetricBase *new)
{
	return old->at != 0 && new->at - old->at < REST_USECS &&
		memcmp(old->count, new->count, sizeof(old->count)) == 0 &&
		memcmp(old->total, new->total, sizeof(old->total)) == 0;
}

static void
write_row(const QueueSettings *settings, const QueueMetricBase *new,
		  const QueueTotalsRead *change, int64 seconds, int64 oldest_ms, int64 live_bytes)
{
	Oid			types[23] = {INT4OID, TIMESTAMPTZOID, INT4OID};
	Datum		values[23];
	char		nulls[24];
	int			column = 0;
	double		ms;

	memset(nulls, ' ', sizeof(nulls));
	values[column++] = Int32GetDatum(settings->queue_id);
	values[column++] = TimestampTzGetDatum(new->at);
	values[column++] = Int32GetDatum((int32) Min(seconds, PG_INT32_MAX));
#define BIGINT(value) (types[column] = INT8OID, values[column++] = Int64GetDatum(value))
	for (int c = 0; c < NUM_COUNTS; c++)
		BIGINT(new->count[c]);
	nulls[column] = oldest_ms < 0 ? 'n' : ' ';
	BIGINT(oldest_ms);
	for (int t = 0; t < NUM_TOTALS; t++)
		BIGINT((int64) change->total[t]);
	for (QueueTime t = TIME_WAIT; t <= TIME_PROCESSING; t++)
	{
		bool		known = QueueTimeMean(change, t, &ms);

		types[column] = types[column + 1] = FLOAT8OID;
		nulls[column] = nulls[column + 1] = known ? ' ' : 'n';
		values[column++] = known ? Float8GetDatum(ms) : (Datum) 0;
		known = QueueTimePercentile(change, t, 0.95, &ms);
		values[column++] = known ? Float8GetDatum(ms) : (Datum) 0;
	}
	BIGINT(live_bytes);
	values[column] = BoolGetDatum(settings->paused);
	types[column++] = BOOLOID;
	Assert(column == lengthof(values));
#undef BIGINT
	(void) QueueSpiExecute("INSERT INTO queue.metric_history VALUES ($1, $2, $3, $4, $5, $6, $7,"
						   " $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,"
						   " $22, $23) ON CONFLICT DO NOTHING", 23, types, values, nulls);
}

/* the milliseconds for which the oldest has waited; -1: none does */
static int64
oldest_waiting_ms(QueueStore *live, const QueueSettings *settings, QueueSlot *slot,
				  const int64 *count)
{
	TimestampTz oldest = count[COUNT_WAITING] > 0 ?
		QueueOldestWaiting(live, settings, slot) : PG_INT64_MAX;

	return oldest == PG_INT64_MAX ? -1 : Max(GetCurrentTimestamp() - oldest, 0) / 1000;
}

/* of an open one: of a table that is gone, there would be no answer */
static int64
table_bytes(QueueStore *store)
{
	return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											 ObjectIdGetDatum(RelationGetRelid(store->heap))));
}

/* of one queue; false: it has been looked at for that time, or is not known */
static bool
record_queue(Installation *installation, QueueStore *live, const QueueSettings *settings,
			 TimestampTz at, int64 live_bytes, int64 *written)
{
	QueueSlot  *slot = QueueXactSlot(settings->queue_id);
	QueueMetricBase *base = slot ? &slot->totals.base : NULL;
	int64		count[NUM_COUNTS];
	QueueTotalsRead change;
	PendingBase *next = &pending[num_pending];
	int64		seconds;

	/* a clock that was set back far is no reason to stop */
	if (slot == NULL ||
		(base->looked_at >= at && base->looked_at < at + REST_USECS) ||
		!QueueStatsRead(installation, slot, count))
		return false;
	seconds = base->looked_at != 0 && base->looked_at < at ?
		(at - base->looked_at) / USECS_PER_SEC : queue_metrics_interval;
	read_numbers(slot, count, at, &next->base, &change);
	if (is_at_rest(base, &next->base))
	{
		base->looked_at = at;
		return true;
	}
	write_row(settings, &next->base, &change, seconds,
			  oldest_waiting_ms(live, settings, slot, count), live_bytes);
	next->slot = slot;
	num_pending++;
	(*written)++;
	return true;
}

int
QueueMetricRecord(Installation *installation, List *queues, TimestampTz at, int *from,
				  int limit, int64 *written)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	int64		live_bytes;
	QueueStore	live;
	LOCKTAG		tag;
	int			looked = 0;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cat->queue, InvalidOid, 2);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return 0;
	/* if it is ours already, of an earlier call in this transaction */
	if (num_pending > 0 || queues == NIL)
		return 0;
	QueueMetricForget();
	limit = Min(limit, list_length(queues));
	pending = MemoryContextAllocHuge(TopMemoryContext, limit * sizeof(PendingBase));
	CommandCounterIncrement();
	QueueStoreOpen(&live, false);
	live_bytes = table_bytes(&live);
	QueueSpiConnect();
	for (; *from < list_length(queues) && looked < limit; (*from)++)
		if (record_queue(installation, &live, list_nth(queues, *from), at, live_bytes, written))
			looked++;
	QueueSpiFinish();
	QueueStoreClose(&live);
	return looked;
}

/*
 * Queue by queue, from the oldest row on, by the primary key.  A queue that was
 * dropped while its row was being written may have left some.
 */
int64
QueueMetricPrune(int limit)
{
	Oid			types[2] = {TIMESTAMPTZOID, INT4OID};
	Datum		values[2];
	int64		removed;

	values[0] = TimestampTzGetDatum(GetCurrentTimestamp() -
									(int64) queue_metrics_retention * 60 * USECS_PER_SEC);
	values[1] = Int32GetDatum(limit);
	QueueSpiConnect();
	removed = (int64) QueueSpiExecute(
		"WITH RECURSIVE ids AS ("
		"(SELECT h.queue_id FROM queue.metric_history AS h ORDER BY h.queue_id LIMIT 1)"
		" UNION ALL SELECT (SELECT h.queue_id FROM queue.metric_history AS h"
		" WHERE h.queue_id > i.queue_id ORDER BY h.queue_id LIMIT 1)"
		" FROM ids AS i WHERE i.queue_id IS NOT NULL"
		") DELETE FROM queue.metric_history WHERE ctid = ANY (ARRAY("
		"SELECT m.ctid FROM ids AS i LEFT JOIN queue.queue AS q USING (queue_id), LATERAL ("
		"SELECT h.ctid FROM queue.metric_history AS h WHERE h.queue_id = i.queue_id"
		" AND h.at < CASE WHEN q.queue_id IS NULL THEN 'infinity' ELSE $1 END"
		" ORDER BY h.at LIMIT $2) AS m LIMIT $2))",
		2, types, values, NULL);
	QueueSpiFinish();
	return removed;
}

/* ---------------------------------------------------------------------
 * Functions
 * --------------------------------------------------------------------- */

/* not undone by a rollback, as it would take a lock to be */
Datum
queue_stats_reset(PG_FUNCTION_ARGS)
{
	List	   *queues;
	ListCell   *lc;

	QueueRequireRunning("queue.stats_reset()");
	queues = QueueSettingsOf(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), PRIVILEGE_ADMIN);
	foreach(lc, queues)
	{
		QueueSlot  *slot = QueueXactSlot(((QueueSettings *) lfirst(lc))->queue_id);

		if (slot)
			QueueTotalsReset(&slot->totals);
	}
	PG_RETURN_VOID();
}

#define TIME_COLUMNS	5
#define METRICS_COLUMNS	(1 + NUM_COUNTS + 1 + NUM_TOTALS + TIME_COLUMNS * NUM_TIMES + 10)

/*
 * Histograms for Prometheus: how many times were below 2^10 us, 2^11 us, ...
 * These are ends of buckets of ours, so the counts are exact.
 */
#define LEAST_POWER		10
#define NUM_BOUNDS		25		/* up to 4.8 hours */

static Datum
histogram_bounds(void)
{
	Datum		bounds[NUM_BOUNDS];

	for (int i = 0; i < NUM_BOUNDS; i++)
		bounds[i] = Float8GetDatum((double) (INT64CONST(1) << (LEAST_POWER + i)) / USECS_PER_SEC);
	return PointerGetDatum(construct_array(bounds, NUM_BOUNDS, FLOAT8OID, sizeof(float8),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static Datum
histogram(const QueueTotalsRead *read, QueueTime time)
{
	Datum		counts[NUM_BOUNDS];

	for (int i = 0; i < NUM_BOUNDS; i++)
		counts[i] = Int64GetDatum((int64) QueueTimeCountBelow(read, time, LEAST_POWER + i));
	return PointerGetDatum(construct_array(counts, NUM_BOUNDS, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static void
put_times(const QueueTotalsRead *read, QueueTime time, Datum *values, bool *nulls)
{
	static const double shares[] = {0.5, 0.95, 0.99};
	double		ms;

	for (int s = 0; s < lengthof(shares); s++)
	{
		nulls[s] = !QueueTimePercentile(read, time, shares[s], &ms);
		values[s] = nulls[s] ? (Datum) 0 : Float8GetDatum(ms / 1000);
	}
	nulls[3] = nulls[4] = false;
	values[3] = Float8GetDatum((double) read->time_sum[time] / USECS_PER_SEC);
	values[4] = Int64GetDatum((int64) QueueTimeCount(read, time));
}

static void
put_metrics(ReturnSetInfo *rsinfo, Installation *installation, QueueStore *live,
			const QueueSettings *settings, int64 live_bytes, Datum bounds)
{
	QueueSlot  *slot = QueueXactSlot(settings->queue_id);
	Datum		values[METRICS_COLUMNS] = {0};
	bool		nulls[METRICS_COLUMNS];
	int64		count[NUM_COUNTS];
	int64		available;
	QueueTotalsRead read;
	int			column = 0;
	int			workers,
				stale;

	memset(nulls, true, sizeof(nulls));
#define PUT(value) (nulls[column] = false, values[column++] = (value))
	PUT(CStringGetTextDatum(settings->name));
	/* who looks this often does not count the tables; the maintenance worker will */
	if (slot && QueueStatsRead(installation, slot, count))
	{
		int64		oldest_ms = oldest_waiting_ms(live, settings, slot, count);

		for (int c = 0; c < NUM_COUNTS; c++)
			PUT(Int64GetDatum(count[c]));
		PUT(Float8GetDatum(Max(oldest_ms, 0) / 1000.0));
	}
	column = 1 + NUM_COUNTS + 1;
	if (slot)
	{
		QueueTotalsGet(&slot->totals, &read);
		for (int t = 0; t < NUM_TOTALS; t++)
			PUT(Int64GetDatum((int64) read.total[t]));
		for (QueueTime t = TIME_WAIT; t <= TIME_PROCESSING; t++, column += TIME_COLUMNS)
			put_times(&read, t, values + column, nulls + column);
	}
	column = 1 + NUM_COUNTS + 1 + NUM_TOTALS + TIME_COLUMNS * NUM_TIMES;
	PUT(Int32GetDatum(settings->paused ? 1 : 0));
	PUT(Int32GetDatum(slot && QueueLimitRead(slot, settings, &available) != 0 ? 1 : 0));
	PUT(Int32GetDatum(slot ? (int32) pg_atomic_read_u32(&slot->running) : 0));
	PUT(Int64GetDatum(live_bytes));
	if (slot)
	{
		/* seconds since 1970 */
		PUT(Float8GetDatum((double) read.reset_at / USECS_PER_SEC +
						   (double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY));
		/* the objects of 0.1.0 have no columns from here on */
		for (QueueTime t = TIME_WAIT; t <= TIME_PROCESSING; t++)
			PUT(histogram(&read, t));
	}
	column = METRICS_COLUMNS - 3;
	PUT(bounds);
	QueueHeartbeatCount(settings->queue_id, &workers, &stale);
	PUT(Int32GetDatum(workers));
	PUT(Int32GetDatum(stale));
	Assert(column == METRICS_COLUMNS);
#undef PUT
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* members of pg_monitor see every queue, others those that they may browse */
Datum
queue__metrics_2(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		monitor = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
	Installation *installation = NULL;
	QueueStore	live;
	int64		live_bytes;
	Datum		bounds;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	/* a standby has none of it */
	if (QueueSharedReady() && !RecoveryInProgress())
		installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (installation == NULL)
		return (Datum) 0;
	bounds = histogram_bounds();
	CommandCounterIncrement();
	QueueStoreOpen(&live, false);
	live_bytes = table_bytes(&live);
	foreach(lc, QueueSettingsAll())
		if (monitor || (QueuePrivileges(lfirst(lc)) & PRIVILEGE_BROWSE))
			put_metrics(rsinfo, installation, &live, lfirst(lc), live_bytes, bounds);
	QueueStoreClose(&live);
	return (Datum) 0;
}

/* it has no room for the last columns, which are left out */
Datum
queue__metrics(PG_FUNCTION_ARGS)
{
	return queue__metrics_2(fcinfo);
}

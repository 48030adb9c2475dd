/*-------------------------------------------------------------------------
 *
 * ring.c
 *		Rings of leaf tables for what is over.
 *
 * Finished jobs and the log are kept for a time and then removed, by the
 * million, without a dead row: they are put into leaf tables by the time they
 * expire, and a leaf is truncated when all of it has expired.
 *
 * queue._leaf holds a bound for each leaf in use: everything in it expires
 * before.  A settler takes the leaf with the least bound that is not before
 * the row's expiry.  Bounds only ever grow: so a settler that knows an old
 * bound may put a row where it stays longer than it must, never where it goes
 * too early.  The maintenance worker gives bounds to free leaves ahead of
 * time, a quarter of the retention apart; that is also how much longer than
 * asked a row may stay on disk.
 *
 * Leaf 0 has no bound and takes what no other may: what is kept for ever, and
 * what comes while no maintenance worker runs.  It is never truncated; what
 * expires in it is deleted row by row.
 *
 * A truncate is not MVCC-safe: an old snapshot would suddenly see nothing.  So
 * a leaf is truncated only when every snapshot is younger than the moment at
 * which it was first found expired: the worker assigns itself a transaction
 * id then, and waits until the horizon has passed it.  Locks are taken
 * without waiting; a settler at work in the leaf, or a reader, is a reason to
 * try again later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "internal.h"
#include "job.h"
#include "ring.h"
#include "xact.h"

#define MIN_SLACK	(INT64CONST(2) * 60 * USECS_PER_SEC)

/* bounds as last read; PG_INT64_MIN: free */
static TimestampTz bounds[2][ARCHIVE_LEAVES];
static uint64 bounds_generation;

StaticAssertDecl(LOG_LEAVES <= ARCHIVE_LEAVES, "bounds has room for the longer ring");

static inline int
ring_leaves(QueueRing ring)
{
	return ring == RING_ARCHIVE ? ARCHIVE_LEAVES : LOG_LEAVES;
}

StaticAssertDecl(ARCHIVE_LEAVES == 16, "Installation.leaf_mark has 16 leaves");

static inline TimestampTz *
ring_bounds(QueueRing ring)
{
	return bounds[ring == RING_ARCHIVE ? 0 : 1];
}

static void
load_bounds(void)
{
	uint64		generation = QueueCatalogGeneration();
	const QueueCatalog *cat = QueueCatalogGet(false);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (bounds_generation == generation && generation == QueueCatalogGeneration())
		return;
	generation = QueueCatalogGeneration();
	for (int i = 0; i < ARCHIVE_LEAVES; i++)
		bounds[0][i] = bounds[1][i] = PG_INT64_MIN;
	rel = QueueOpenTable(cat->leaf, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false,
							  IsolationIsSerializable() ? SnapshotSelf : NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		value[3];
		bool		null[3];
		QueueRing	ring;
		int			leaf;

		heap_deform_tuple(tuple, RelationGetDescr(rel), value, null);
		ring = (QueueRing) DatumGetChar(value[0]);
		leaf = DatumGetInt16(value[1]);
		if (!null[2] && leaf > 0 && leaf < ring_leaves(ring))
			ring_bounds(ring)[leaf] = Max(ring_bounds(ring)[leaf],
										  DatumGetTimestampTz(value[2]));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	bounds_generation = generation;
}

int
QueueLeafFor(QueueRing ring, TimestampTz expires_at)
{
	TimestampTz *bound = ring_bounds(ring);
	int			best = 0;

	load_bounds();
	for (int i = 1; i < ring_leaves(ring); i++)
		if (bound[i] >= expires_at && (best == 0 || bound[i] < bound[best]))
			best = i;
	return best;
}

Oid
QueueLeafRelation(QueueRing ring, int leaf)
{
	const QueueCatalog *cat = QueueCatalogGet(false);

	Assert(leaf >= 0 && leaf < ring_leaves(ring));
	return ring == RING_ARCHIVE ? cat->archive_leaves[leaf] : cat->log_leaves[leaf];
}

static void
set_bound(QueueRing ring, int leaf, TimestampTz bound, bool free)
{
	Oid			types[3] = {CHAROID, INT2OID, TIMESTAMPTZOID};
	Datum		values[3] = {CharGetDatum(ring), Int16GetDatum(leaf), TimestampTzGetDatum(bound)};
	char		nulls[3] = {' ', ' ', free ? 'n' : ' '};

	if (QueueSpiExecute("UPDATE queue._leaf SET expires_before = $3 WHERE ring = $1 AND leaf = $2",
						3, types, values, nulls) == 0)
		(void) QueueSpiExecute("INSERT INTO queue._leaf (ring, leaf, expires_before)"
							   " VALUES ($1, $2, $3)", 3, types, values, nulls);
	QueueCatalogInvalidate();
	CommandCounterIncrement();
}

void
QueueRingEnsure(QueueRing ring, int64 retention, bool wait)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz expires_at = QueueTimeAfter(now, retention);
	int64		slack = Max(retention / 4, MIN_SLACK);
	TimestampTz most = QueueTimeAfter(expires_at, slack);
	TimestampTz *bound = ring_bounds(ring);
	int			free = 0,
				last = 0;

	if (retention <= 0)
		return;
	for (int pass = 0; pass < 2; pass++)
	{
		load_bounds();
		free = last = 0;
		for (int i = 1; i < ring_leaves(ring); i++)
		{
			/* give the next one before the last one is needed no more */
			if (bound[i] >= expires_at + slack / 8 && bound[i] <= most)
				return;
			if (bound[i] == PG_INT64_MIN && free == 0)
				free = i;
			if (last == 0 || bound[i] > bound[last])
				last = i;
		}
		/* look again under the lock */
		if (pass == 0)
		{
			if (wait)
				LockRelationOid(QueueCatalogGet(false)->leaf, ShareRowExclusiveLock);
			else if (!ConditionalLockRelationOid(QueueCatalogGet(false)->leaf,
												 ShareRowExclusiveLock))
				return;
			bounds_generation = 0;
		}
	}
	QueueSpiConnect();
	if (free != 0)
		set_bound(ring, free, most, false);
	else if (bound[last] < most)
		set_bound(ring, last, most, false);
	/* else the next larger bound has to serve */
	QueueSpiFinish();
}

/* ---------------------------------------------------------------------
 * Truncate what has expired
 * --------------------------------------------------------------------- */

/* exclusive locks on the table and all that a truncate touches, or false */
static bool
lock_leaf(Oid relid)
{
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;
	bool		locked = true;

	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	/* a cursor of our own session, when called as maintain() */
	if (rel->rd_refcnt > 1)
	{
		table_close(rel, NoLock);
		return false;
	}
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
		locked = locked && ConditionalLockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	if (locked && OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast;
		List	   *toast_indexes;

		locked = ConditionalLockRelationOid(rel->rd_rel->reltoastrelid, AccessExclusiveLock);
		if (locked)
		{
			toast = table_open(rel->rd_rel->reltoastrelid, NoLock);
			toast_indexes = RelationGetIndexList(toast);
			foreach(lc, toast_indexes)
				locked = locked && ConditionalLockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
			table_close(toast, NoLock);
		}
	}
	table_close(rel, NoLock);
	return locked;
}

/* the counters lose what the leaf held; its count rows go with it */
static void
forget_counts(int leaf)
{
	Oid			type = INT2OID;
	Datum		value = Int16GetDatum(leaf);
	uint64		rows = QueueSpiExecute("SELECT queue_id, pg_catalog.sum(completed)::bigint,"
									   " pg_catalog.sum(failed)::bigint, pg_catalog.sum(cancelled)::bigint"
									   " FROM queue._archive_count WHERE leaf OPERATOR(pg_catalog.=) $1"
									   " GROUP BY queue_id",
									   1, &type, &value, NULL);

	for (uint64 i = 0; i < rows; i++)
	{
		bool		null;
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		QueueSlot  *slot = QueueXactSlot(DatumGetInt32(SPI_getbinval(tuple, desc, 1, &null)));

		for (int c = 0; c < 3; c++)
			QueueXactCount(slot, COUNT_COMPLETED + c,
						   -DatumGetInt64(SPI_getbinval(tuple, desc, 2 + c, &null)));
	}
	/* no trigger: what changes is known */
	(void) QueueSpiExecute("DELETE FROM queue._archive_count WHERE leaf OPERATOR(pg_catalog.=) $1",
						   1, &type, &value, NULL);
}

bool
QueueRingTruncate(QueueRing ring)
{
	int			r = ring == RING_ARCHIVE ? 0 : 1;
	Installation *installation = QueueInstallation(QueueCatalogGet(false)->live);
	TimestampTz now = GetCurrentTimestamp();

	if (installation == NULL)
		return false;
	load_bounds();
	for (int leaf = 1; leaf < ring_leaves(ring); leaf++)
	{
		pg_atomic_uint64 *mark = &installation->leaf_mark[r][leaf];
		Oid			relid = QueueLeafRelation(ring, leaf);
		TransactionId horizon;
		Relation	rel;

		if (bounds[r][leaf] == PG_INT64_MIN || bounds[r][leaf] > now)
			continue;
		if (pg_atomic_read_u64(mark) == 0)
		{
			pg_atomic_write_u64(mark, U64FromFullTransactionId(GetTopFullTransactionId()));
			continue;
		}

		rel = table_open(relid, AccessShareLock);
		horizon = GetOldestNonRemovableTransactionId(rel);
		table_close(rel, AccessShareLock);
		if (!TransactionIdFollows(horizon,
								  XidFromFullTransactionId(FullTransactionIdFromU64(pg_atomic_read_u64(mark)))))
			continue;
		if (!ConditionalLockRelationOid(QueueCatalogGet(false)->leaf, ShareRowExclusiveLock) ||
			!lock_leaf(relid))
			continue;

		QueueSpiConnect();
		(void) QueueSpiExecute(psprintf("TRUNCATE ONLY %s.%s", QUEUE_SCHEMA,
										quote_identifier(get_rel_name(relid))),
							   0, NULL, NULL, NULL);
		if (ring == RING_ARCHIVE)
			forget_counts(leaf);
		set_bound(ring, leaf, 0, true);
		QueueSpiFinish();
		pg_atomic_write_u64(mark, 0);
		return true;
	}
	return false;
}

/* the counters lose what was deleted from leaf 0, row by row */
static void
uncount_zero(HeapTuple tuple, TupleDesc desc)
{
	Oid			types[4] = {INT4OID, INT8OID, INT8OID, INT8OID};
	Datum		values[4];
	bool		null;
	QueueSlot  *slot;

	for (int i = 0; i < 4; i++)
		values[i] = SPI_getbinval(tuple, desc, 1 + i, &null);
	slot = QueueXactSlot(DatumGetInt32(values[0]));
	for (int c = 0; c < 3; c++)
		QueueXactCount(slot, COUNT_COMPLETED + c, -DatumGetInt64(values[1 + c]));
	(void) QueueSpiExecute("INSERT INTO queue._archive_count VALUES (0, $1, -$2, -$3, -$4)",
						   4, types, values, NULL);
}

uint64
QueueRingSweepZero(QueueRing ring, int limit)
{
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(limit);
	uint64		done = 0;

	QueueSpiConnect();
	if (ring == RING_ARCHIVE)
	{
		uint64		queues = QueueSpiExecute("WITH gone AS (DELETE FROM queue._archive_00 WHERE ctid = ANY (ARRAY("
											 "SELECT ctid FROM queue._archive_00 WHERE expires_at <= clock_timestamp()"
											 " LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING queue_id, state)"
											 " SELECT queue_id, count(*) FILTER (WHERE state = 'c'),"
											 " count(*) FILTER (WHERE state = 'f'),"
											 " count(*) FILTER (WHERE state = 'x') FROM gone GROUP BY queue_id",
											 1, &type, &value, NULL);
		SPITupleTable *table = SPI_tuptable;

		for (uint64 i = 0; i < queues; i++)
		{
			uncount_zero(table->vals[i], table->tupdesc);
			done++;
		}
	}
	else
	{
		Oid			types[2] = {INT4OID, INT4OID};
		Datum		values[2] = {value, Int32GetDatum(queue_log_retention)};

		done = QueueSpiExecute("DELETE FROM queue._log_00 WHERE ctid = ANY (ARRAY("
							   "SELECT ctid FROM queue._log_00"
							   " WHERE at <= clock_timestamp() - make_interval(mins => $2)"
							   " LIMIT $1 FOR UPDATE SKIP LOCKED))", 2, types, values, NULL);
	}
	QueueSpiFinish();
	return done;
}

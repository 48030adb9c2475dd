/*-------------------------------------------------------------------------
 *
 * stats.c
 *		How many jobs of each queue are in each state.
 *
 * Counters in shared memory change in the callbacks of the transactions that
 * change jobs, so they are exact for all that has ended, and reading them
 * reads no job.  After a start of the server they are unknown until the tables
 * have been counted; likewise when somebody has changed a table by SQL.
 *
 * Counting goes on while transactions commit.  What keeps that right is the
 * snapshot that was counted under: a transaction that it sees is in the count
 * already, whenever its callback runs; one that it does not see must be added.
 * So the snapshot is kept, and every callback compares itself with it:
 *
 *		count lock, exclusive: take the snapshot, keep it, zero the counters
 *		count the tables under the snapshot
 *		count lock, exclusive: add what was counted; the counters are known
 *
 *		callback, count lock shared: if the snapshot does not see us, add
 *
 * A callback that ran before the first step is overwritten by it, and its
 * transaction is seen by the snapshot, since callbacks run after the
 * transaction has become visible.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "job.h"
#include "stats.h"
#include "wait.h"
#include "xact.h"

typedef struct CountedQueue
{
	int32		queue_id;		/* hash key */
	int64		count[NUM_COUNTS];
} CountedQueue;

/* was it counted under the kept snapshot?  Caller holds the count lock. */
static bool
was_counted(Installation *installation, FullTransactionId xid)
{
	TransactionId *xip = QueueCountedXip(installation);
	TransactionId xid32 = XidFromFullTransactionId(xid);

	if (!FullTransactionIdPrecedes(xid, installation->counted_xmax))
		return false;
	if (FullTransactionIdPrecedes(xid, installation->counted_xmin))
		return true;
	for (int i = 0; i < installation->counted_xcnt; i++)
		if (TransactionIdEquals(xip[i], xid32))
			return false;
	return true;
}

void
QueueStatsApply(QueueSlot *slot, const int64 *delta, FullTransactionId xid)
{
	Installation *installation = &Installations[slot->installation];

	LWLockAcquire(QueueCountLock(installation), LW_SHARED);
	if (!was_counted(installation, xid))
		for (int c = 0; c < NUM_COUNTS; c++)
			if (delta[c] != 0)
				pg_atomic_fetch_add_u64(&slot->count[c], (uint64) delta[c]);
	LWLockRelease(QueueCountLock(installation));
}

void
QueueStatsForget(Installation *installation)
{
	Latch	   *latch = installation->maintenance;

	pg_atomic_write_u32(&installation->recount, 1);
	if (latch)
		SetLatch(latch);
}

bool
QueueStatsKnown(Installation *installation)
{
	return installation->counted && pg_atomic_read_u32(&installation->recount) == 0;
}

/* widen an id that is not older than two billion transactions */
static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

/* first step: from here on, callbacks add what this snapshot does not see */
static Snapshot
begin_count(Installation *installation)
{
	FullTransactionId next;
	Snapshot	snapshot;

	(void) GetLatestSnapshot(); /* let it allocate before we hold the lock */
	LWLockAcquire(QueueCountLock(installation), LW_EXCLUSIVE);
	snapshot = GetLatestSnapshot();
	next = ReadNextFullTransactionId();
	if (snapshot->xcnt > QueueMaxSnapshotXids())
		elog(ERROR, "snapshot has %u transactions, room is for %d",
			 snapshot->xcnt, QueueMaxSnapshotXids());
	installation->counted = false;
	installation->counted_xmin = widen(snapshot->xmin, next);
	installation->counted_xmax = widen(snapshot->xmax, next);
	installation->counted_xcnt = snapshot->xcnt;
	memcpy(QueueCountedXip(installation), snapshot->xip,
		   snapshot->xcnt * sizeof(TransactionId));
	pg_atomic_write_u32(&installation->recount, 0);
	for (int q = 0; q < queue_max_queues; q++)
		if (QueueSlots[q].installation == installation - Installations)
			for (int c = 0; c < NUM_COUNTS; c++)
				pg_atomic_write_u64(&QueueSlots[q].count[c], 0);
	LWLockRelease(QueueCountLock(installation));
	return RegisterSnapshot(snapshot);
}

static int64 *
counts_of(HTAB *counted, int32 queue_id)
{
	bool		found;
	CountedQueue *queue = hash_search(counted, &queue_id, HASH_ENTER, &found);

	if (!found)
		memset(queue->count, 0, sizeof(queue->count));
	return queue->count;
}

static void
count_jobs(HTAB *counted, Oid relid, Snapshot snapshot)
{
	Relation	rel = QueueOpenTable(relid, AccessShareLock);
	TableScanDesc scan = queue_beginscan(rel, snapshot);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		JobHead    *job = JOB_HEAD(tuple);

		CHECK_FOR_INTERRUPTS();
		counts_of(counted, job->queue_id)[QueueJobCount(QueueJobState(job))]++;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
count_finished(HTAB *counted, Oid relid, Snapshot snapshot)
{
	Relation	rel = QueueOpenTable(relid, AccessShareLock);
	TableScanDesc scan = queue_beginscan(rel, snapshot);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		value[5];
		bool		null[5];
		int64	   *count;

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(tuple, RelationGetDescr(rel), value, null);
		count = counts_of(counted, DatumGetInt32(value[1]));
		count[COUNT_COMPLETED] += DatumGetInt64(value[2]);
		count[COUNT_FAILED] += DatumGetInt64(value[3]);
		count[COUNT_CANCELLED] += DatumGetInt64(value[4]);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

void
QueueStatsRecount(Installation *installation)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	Snapshot	snapshot;
	HASHCTL		ctl;
	HTAB	   *counted;
	HASH_SEQ_STATUS seq;
	CountedQueue *queue;

	/* our own changes would be in the count, and added at commit as well */
	Assert(!TransactionIdIsValid(GetTopTransactionIdIfAny()));

	/* one at a time; the number 0 is no queue's */
	LockDatabaseObject(cat->queue, InvalidOid, 1, ExclusiveLock);
	if (QueueStatsKnown(installation))
	{
		UnlockDatabaseObject(cat->queue, InvalidOid, 1, ExclusiveLock);
		return;
	}

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(CountedQueue);
	ctl.hcxt = CurrentMemoryContext;
	counted = hash_create("counted queues", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	snapshot = begin_count(installation);
	count_jobs(counted, cat->live, snapshot);
	count_jobs(counted, cat->parked, snapshot);
	count_finished(counted, cat->archive_count, snapshot);
	UnregisterSnapshot(snapshot);

	/* make the slots first: that may throw */
	hash_seq_init(&seq, counted);
	while ((queue = hash_seq_search(&seq)) != NULL)
		(void) QueueXactSlot(queue->queue_id);

	hash_seq_init(&seq, counted);
	while ((queue = hash_seq_search(&seq)) != NULL)
	{
		QueueSlot  *slot = QueueXactSlot(queue->queue_id);

		if (slot)
			for (int c = 0; c < NUM_COUNTS; c++)
				pg_atomic_fetch_add_u64(&slot->count[c], (uint64) queue->count[c]);
	}
	LWLockAcquire(QueueCountLock(installation), LW_EXCLUSIVE);
	installation->counted = true;
	LWLockRelease(QueueCountLock(installation));
	hash_destroy(counted);
	UnlockDatabaseObject(cat->queue, InvalidOid, 1, ExclusiveLock);
	/* those who need to know how many are active */
	QueueWaitWakeInstallation(installation);
}

bool
QueueStatsEnsure(Installation *installation)
{
	if (QueueStatsKnown(installation))
		return true;
	/* our own changes must not be counted: the maintenance worker will do it */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	QueueStatsRecount(installation);
	return true;
}

bool
QueueStatsRead(Installation *installation, QueueSlot *slot, int64 *count)
{
	bool		known;

	LWLockAcquire(QueueCountLock(installation), LW_SHARED);
	known = QueueStatsKnown(installation);
	for (int c = 0; c < NUM_COUNTS; c++)
		count[c] = (int64) pg_atomic_read_u64(&slot->count[c]);
	LWLockRelease(QueueCountLock(installation));
	return known;
}

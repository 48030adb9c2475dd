/*-------------------------------------------------------------------------
 *
 * unique.c
 *		Unique keys: at most one unfinished job of a queue has each.
 *
 * queue.unique_key has a row for each key that is taken.  It is inserted by
 * the transaction that enqueues the job and deleted by the one that settles
 * it, so the key is free the moment the job is over.  With unique_for the row
 * outlives the job: it is marked as settled instead, and whoever wants the
 * key after its time takes the row over; the maintenance worker removes what
 * nobody wants any more.
 *
 * Who wants a key looks for its row, committed or not.  If somebody else is
 * inserting, deleting or changing it, we wait for that transaction to end and
 * look again: nobody can know before.  The wait is for a transaction, so the
 * server finds a deadlock, as of any two transactions that want two keys in
 * different orders; a call that takes many keys takes them in their order.
 *
 * Nothing here depends on a snapshot, so no isolation level makes an enqueue
 * fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "side.h"
#include "unique.h"

enum
{
	KEY_QUEUE_ID = 1, KEY_UNIQUE_KEY, KEY_JOB_ID, KEY_TAKEN_UNTIL, KEY_SETTLED
};
#define KEY_NATTS	KEY_SETTLED

static HeapTuple
find_key(QueueSide *side, int32 queue_id, Datum key, ItemPointer tid, TransactionId *writer)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, key);
	return QueueSideFind(side, QueueCatalogGet(false)->unique_key_key, 2, keys, tid, writer);
}

int64
QueueUniqueTake(int32 queue_id, Datum key, int64 job_id, int64 unique_for)
{
	QueueSide	side;
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[KEY_NATTS];
	bool		nulls[KEY_NATTS] = {0};
	int64		holder = -1;	/* not known yet */

	values[KEY_QUEUE_ID - 1] = Int32GetDatum(queue_id);
	values[KEY_UNIQUE_KEY - 1] = key;
	values[KEY_JOB_ID - 1] = Int64GetDatum(job_id);
	values[KEY_TAKEN_UNTIL - 1] = TimestampTzGetDatum(unique_for > 0 ?
													  QueueTimeAfter(now, unique_for) : DT_NOBEGIN);
	values[KEY_SETTLED - 1] = BoolGetDatum(false);

	CommandCounterIncrement();
	QueueSideOpen(&side, QueueCatalogGet(false)->unique_key);
	while (holder < 0)
	{
		ItemPointerData tid;
		TransactionId writer;
		HeapTuple	row;

		QueueSideLockKey(&side, queue_id, key);
		row = find_key(&side, queue_id, key, &tid, &writer);
		if (row == NULL)
		{
			QueueSideInsert(&side, values, nulls);
			holder = 0;
		}
		QueueSideUnlockKey(&side, queue_id, key);
		if (row == NULL)
			break;
		if (TransactionIdIsValid(writer))
			XactLockTableWait(writer, NULL, NULL, XLTW_None);
		else
		{
			Datum		old[KEY_NATTS];
			bool		old_nulls[KEY_NATTS];

			heap_deform_tuple(row, RelationGetDescr(side.heap), old, old_nulls);
			if (DatumGetInt64(old[KEY_JOB_ID - 1]) != job_id &&
				(!DatumGetBool(old[KEY_SETTLED - 1]) ||
				 DatumGetTimestampTz(old[KEY_TAKEN_UNTIL - 1]) > now))
				holder = DatumGetInt64(old[KEY_JOB_ID - 1]);
			else if (QueueSideUpdate(&side, &tid, values, nulls, true) == TM_Ok)
				holder = 0;
		}
		heap_freetuple(row);
	}
	QueueSideClose(&side);
	return holder;
}

void
QueueUniqueFree(int32 queue_id, Datum key, int64 job_id)
{
	QueueSide	side;
	ItemPointerData tid;
	TransactionId writer;
	HeapTuple	row;
	Datum		values[KEY_NATTS];
	bool		nulls[KEY_NATTS];

	CommandCounterIncrement();
	QueueSideOpen(&side, QueueCatalogGet(false)->unique_key);
	row = find_key(&side, queue_id, key, &tid, &writer);
	if (row)
	{
		heap_deform_tuple(row, RelationGetDescr(side.heap), values, nulls);
		/* the key of a job that is not over is changed by nobody but its settler */
		if (DatumGetInt64(values[KEY_JOB_ID - 1]) == job_id)
		{
			if (DatumGetTimestampTz(values[KEY_TAKEN_UNTIL - 1]) <= GetCurrentTimestamp())
				(void) QueueSideDelete(&side, &tid, true);
			else
			{
				values[KEY_SETTLED - 1] = BoolGetDatum(true);
				(void) QueueSideUpdate(&side, &tid, values, nulls, true);
			}
		}
	}
	QueueSideClose(&side);
}

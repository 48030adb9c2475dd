/*-------------------------------------------------------------------------
 *
 * store.h
 *		The tables of unfinished jobs: open, insert, change.
 *
 * QueueStoreOpen() locks the table against DDL until the end of the
 * transaction, or until QueueStoreCloseUnused().  Before a row is changed,
 * QueueXactNoteAbort() must have been called for its key; QueueStoreUpdate() and
 * QueueStoreDelete() do that themselves, given the row's head and the slot of
 * its queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_STORE_H
#define QUEUE_STORE_H

#include "access/tableam.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"

#include "compat.h"
#include "job.h"
#include "xact.h"

/*
 * Every index of a table, for those whose indexes we do not know by heart.  There
 * may be many: what a REINDEX CONCURRENTLY leaves behind that was interrupted is
 * an index as well.
 */
typedef struct QueueIndexes
{
	int			count;
	Relation   *index;
	IndexInfo **info;
	EState	   *estate;			/* only if one has expressions or a predicate */
} QueueIndexes;

extern void QueueIndexesOpen(QueueIndexes *indexes, Relation heap);
extern void QueueIndexesInsert(QueueIndexes *indexes, Relation heap, TupleTableSlot *slot);
extern void QueueIndexesClose(QueueIndexes *indexes);

typedef struct QueueStore
{
	bool		parked;
	Relation	heap;
	Relation	id_index;
	Relation	order_index;
	Relation	group_index;	/* of the parked table, else NULL, as the next */
	Relation	limit_index;
	bool		foreign_indexes;	/* somebody has made others */
	QueueIndexes all;			/* then this has them all */
	MemoryContext context;		/* it was opened in */
	TupleTableSlot *slot;		/* for updates, made when needed */
} QueueStore;

extern void QueueStoreOpen(QueueStore *store, bool parked);
extern void QueueStoreClose(QueueStore *store);
/* the same, of one in which nothing was changed: lets go of the lock */
extern void QueueStoreCloseUnused(QueueStore *store);

/* multi-row inserts, of rows of a layout that never changes */
typedef enum QueueRowKind
{
	ROW_JOB,
	ROW_ARCHIVE,
	ROW_LOG
} QueueRowKind;
#define ROW_KINDS	(ROW_LOG + 1)
extern TupleTableSlot **QueueInsertSlots(QueueRowKind kind, Relation heap,
										 HeapTuple *tuples, int count);

/* replace a row version of any of our tables; *update_indexes: not HOT */
extern TM_Result QueueTupleUpdate(Relation heap, ItemPointer tid, TupleTableSlot *slot, bool wait,
								  QUEUE_UPDATE_INDEXES_TYPE *update_indexes);

extern void QueueStoreInsert(QueueStore *store, HeapTuple *tuples, int count);

/*
 * Change or delete the row version at tid, whose head is old.  wait: for a
 * transaction that is changing it; the answer then is about what came of it.
 */
extern TM_Result QueueStoreUpdate(QueueStore *store, ItemPointer tid, const JobHead *old,
								  QueueSlot *slot, HeapTuple tuple, bool wait);
extern TM_Result QueueStoreDelete(QueueStore *store, ItemPointer tid, const JobHead *old,
								  QueueSlot *slot, bool wait, bool moving);

/* the hint that a row in this store is under; NULL: none */
extern HintSlot *QueueStoreHint(QueueStore *store, const JobHead *job, QueueSlot *slot,
								bool create);
extern HintKey QueueStoreKey(QueueStore *store, const JobHead *job);

#endif							/* QUEUE_STORE_H */

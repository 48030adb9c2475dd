/*-------------------------------------------------------------------------
 *
 * tree.h
 *		Many entries into a B-tree at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_TREE_H
#define QUEUE_TREE_H

#include "access/itup.h"
#include "utils/rel.h"

/*
 * Entries that lie one behind the other, each of the same size, a multiple of
 * MAXALIGN: an IndexTupleData with its TID, and then the columns as
 * index_form_tuple() lays them out; they have a fixed length, and are not null.
 * They ascend, and no two of them are equal.
 */
typedef struct QueueTreeEntries
{
	char	   *first;
	Size		size;			/* of one */
	int			count;
} QueueTreeEntries;

/* the caller has index and heap open for changes, and the rows are there */
extern void QueueTreeInsert(Relation index, Relation heap, bool unique, QueueTreeEntries entries);

#endif							/* QUEUE_TREE_H */

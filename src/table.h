/*-------------------------------------------------------------------------
 *
 * table.h
 *		Tables of a fixed size in shared memory, whose entries are found by
 *		hash.
 *
 * An entry is a struct that begins with QueueTableLink.  The lock of the table
 * is held, shared or exclusively, from finding an entry to the last use of the
 * pointer, and exclusively to add or remove one.  What an entry says is guarded
 * by the spinlock in its link, so that whoever tells news of it needs the lock
 * in shared mode only.
 *
 * QueueTableMayHave() needs no lock: false means that nobody had added an entry
 * of that hash when it was called.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_TABLE_H
#define QUEUE_TABLE_H

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

typedef struct QueueTableLink
{
	int			next;			/* of its bucket, or of those that are free; or -1 */
	bool		used;
	uint32		hash;
	uint32		use;			/* counts the lives of this entry */
	slock_t		mutex;			/* guards what the entry says */
} QueueTableLink;

/* where a table lies */
typedef struct QueueTable
{
	LWLock	   *lock;
	int			size;			/* entries */
	uint32		num_buckets;	/* a power of 2 */
	pg_atomic_uint32 *count;	/* entries in use */
	int		   *first_free;		/* or -1; lock */
	pg_atomic_uint32 *buckets;	/* number of the first entry, plus one; lock */
	char	   *entries;
	Size		entry_size;
} QueueTable;

extern Size QueueTableSize(int size, Size entry_size);
extern void QueueTableInit(QueueTable *table, char *at, int size, Size entry_size, LWLock *lock,
						   bool found);

/* the first entry of a hash, and the next; NULL: no more */
extern void *QueueTableFirst(QueueTable *table, uint32 hash);
extern void *QueueTableNext(QueueTable *table, void *entry);

/* a new entry, whose link only is set; NULL: the table is full */
extern void *QueueTableAdd(QueueTable *table, uint32 hash);
extern void QueueTableRemove(QueueTable *table, void *entry);

static inline bool
QueueTableMayHave(QueueTable *table, uint32 hash)
{
	return pg_atomic_read_u32(table->count) != 0 &&
		pg_atomic_read_u32(&table->buckets[hash & (table->num_buckets - 1)]) != 0;
}

/* entry by number, from 0 to size - 1; NULL: not in use */
static inline void *
QueueTableEntry(QueueTable *table, int number)
{
	char	   *entry = table->entries + number * table->entry_size;

	return ((QueueTableLink *) entry)->used ? entry : NULL;
}

static inline int
QueueTableNumber(QueueTable *table, void *entry)
{
	return (int) (((char *) entry - table->entries) / table->entry_size);
}

#endif							/* QUEUE_TABLE_H */

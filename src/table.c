/*-------------------------------------------------------------------------
 *
 * table.c
 *		Tables of a fixed size in shared memory, whose entries are found by
 *		hash.
 *
 * The server's own shared hash tables would do, but may throw where callbacks
 * must not, and cannot say without a lock that they have nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#include "table.h"

typedef struct TableHeader
{
	pg_atomic_uint32 count;
	int			first_free;
} TableHeader;

/* twice as many as entries: most hashes that nobody has find an empty one */
static uint32
num_buckets(int size)
{
	return pg_nextpower2_32((uint32) size * 2);
}

Size
QueueTableSize(int size, Size entry_size)
{
	Size		total = MAXALIGN(sizeof(TableHeader));

	total = add_size(total, MAXALIGN(mul_size(num_buckets(size), sizeof(pg_atomic_uint32))));
	return add_size(total, mul_size(size, MAXALIGN(entry_size)));
}

static QueueTableLink *
link_of(QueueTable *table, int number)
{
	return (QueueTableLink *) (table->entries + number * table->entry_size);
}

void
QueueTableInit(QueueTable *table, char *at, int size, Size entry_size, LWLock *lock, bool found)
{
	TableHeader *header = (TableHeader *) at;

	table->lock = lock;
	table->size = size;
	table->num_buckets = num_buckets(size);
	table->count = &header->count;
	table->first_free = &header->first_free;
	at += MAXALIGN(sizeof(TableHeader));
	table->buckets = (pg_atomic_uint32 *) at;
	at += MAXALIGN(table->num_buckets * sizeof(pg_atomic_uint32));
	table->entries = at;
	table->entry_size = MAXALIGN(entry_size);
	if (found)
		return;
	pg_atomic_init_u32(table->count, 0);
	for (uint32 i = 0; i < table->num_buckets; i++)
		pg_atomic_init_u32(&table->buckets[i], 0);
	for (int i = 0; i < size; i++)
	{
		QueueTableLink *link = link_of(table, i);

		SpinLockInit(&link->mutex);
		link->used = false;
		link->use = 0;
		link->next = i + 1 < size ? i + 1 : -1;
	}
	*table->first_free = size > 0 ? 0 : -1;
}

static pg_atomic_uint32 *
bucket_of(QueueTable *table, uint32 hash)
{
	return &table->buckets[hash & (table->num_buckets - 1)];
}

/* the first of a chain that bears the hash */
static void *
next_of_hash(QueueTable *table, int number, uint32 hash)
{
	for (; number >= 0; number = link_of(table, number)->next)
		if (link_of(table, number)->hash == hash)
			return link_of(table, number);
	return NULL;
}

void *
QueueTableFirst(QueueTable *table, uint32 hash)
{
	Assert(LWLockHeldByMe(table->lock));
	return next_of_hash(table, (int) pg_atomic_read_u32(bucket_of(table, hash)) - 1, hash);
}

void *
QueueTableNext(QueueTable *table, void *entry)
{
	QueueTableLink *link = entry;

	return next_of_hash(table, link->next, link->hash);
}

void *
QueueTableAdd(QueueTable *table, uint32 hash)
{
	pg_atomic_uint32 *bucket = bucket_of(table, hash);
	int			number = *table->first_free;
	QueueTableLink *link;

	Assert(LWLockHeldByMeInMode(table->lock, LW_EXCLUSIVE));
	if (number < 0)
		return NULL;
	link = link_of(table, number);
	*table->first_free = link->next;
	link->next = (int) pg_atomic_read_u32(bucket) - 1;
	link->hash = hash;
	link->used = true;
	link->use++;
	pg_atomic_write_u32(bucket, (uint32) number + 1);
	pg_atomic_fetch_add_u32(table->count, 1);
	return link;
}

void
QueueTableRemove(QueueTable *table, void *entry)
{
	QueueTableLink *link = entry;
	pg_atomic_uint32 *bucket = bucket_of(table, link->hash);
	int			number = QueueTableNumber(table, entry);
	int			before = (int) pg_atomic_read_u32(bucket) - 1;

	Assert(LWLockHeldByMeInMode(table->lock, LW_EXCLUSIVE));
	Assert(link->used);
	if (before == number)
		pg_atomic_write_u32(bucket, (uint32) (link->next + 1));
	else
	{
		while (link_of(table, before)->next != number)
			before = link_of(table, before)->next;
		link_of(table, before)->next = link->next;
	}
	link->used = false;
	link->next = *table->first_free;
	*table->first_free = number;
	pg_atomic_fetch_sub_u32(table->count, 1);
}

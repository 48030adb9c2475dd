/*-------------------------------------------------------------------------
 *
 * total.c
 *		What has happened to the jobs of each queue since a reset.
 *
 * All of it is in the queue's slot in shared memory, and changes at commit
 * only: what a transaction has done is collected by xact.c, and added by its
 * callback with a few atomic operations.  No lock is taken.  A reader may see
 * a transaction in one number and not yet in another.
 *
 * Rates: a ring of buckets of five seconds.  A bucket is one number, with the
 * count of the five seconds since the epoch in its upper bits and the count of
 * events below, so that whoever comes first in a new period replaces the old
 * one and adds itself in one compare-and-exchange: nothing is lost and nobody
 * cleans up.  A rate is the sum of what lies within the last minute, of the
 * oldest bucket the share that does.
 *
 * Times: histograms with four buckets to the power of two.  A value that is
 * read from one is the middle of its bucket, so it is wrong by an eighth at
 * most; sums, and so means, are exact.
 *
 * A clean shutdown writes all of it to a file, when no process is left who
 * could change it.  At the start it is read and removed, so that a crash, which
 * writes none, finds none.  What was read waits in free slots until the queue
 * asks for one (see make_slot() in shared.c).  A file that another
 * version wrote, or that is damaged, is ignored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "compat.h"
#include "mark.h"
#include "shared.h"
#include "total.h"

#define RATE_SECONDS	5
#define RATE_WINDOW		60
#define RATE_COUNT_BITS	40
#define RATE_COUNT(bucket)	((bucket) & ((UINT64CONST(1) << RATE_COUNT_BITS) - 1))
#define RATE_PERIOD(bucket)	((bucket) >> RATE_COUNT_BITS)
#define RATE_PERIODS	(UINT64CONST(1) << (64 - RATE_COUNT_BITS))

StaticAssertDecl(RATE_BUCKETS > RATE_WINDOW / RATE_SECONDS, "the ring holds a minute and the current bucket");

#define SAVE_FILE		"pg_stat/queue.stat"
#define SAVE_MAGIC		0x51756575
#define SAVE_VERSION	1

typedef struct SaveHeader
{
	uint32		magic;
	uint32		version;
	uint32		record_size;
	uint32		count;
} SaveHeader;

typedef struct SaveRecord
{
	Oid			database_id;
	Oid			live_id;
	int32		queue_id;
	int32		unused;
	QueueTotalsRead totals;
	QueueMetricBase base;
} SaveRecord;

/* ---------------------------------------------------------------------
 * Add
 * --------------------------------------------------------------------- */

void
QueueTotalsReset(QueueTotals *totals)
{
	for (int t = 0; t < NUM_TOTALS; t++)
		pg_atomic_write_u64(&totals->total[t], 0);
	for (int r = 0; r < NUM_RATES; r++)
		for (int b = 0; b < RATE_BUCKETS; b++)
			pg_atomic_write_u64(&totals->rate[r][b], 0);
	for (int t = 0; t < NUM_TIMES; t++)
	{
		pg_atomic_write_u64(&totals->time_sum[t], 0);
		for (int b = 0; b < TIME_BUCKETS; b++)
			pg_atomic_write_u64(&totals->time_count[t][b], 0);
	}
	/* what was not yet in the history is lost to it */
	memset(totals->base.total, 0, sizeof(totals->base.total));
	memset(totals->base.time_sum, 0, sizeof(totals->base.time_sum));
	memset(totals->base.time_count, 0, sizeof(totals->base.time_count));
	pg_atomic_write_u64(&totals->reset_at, (uint64) GetCurrentTimestamp());
}

void
QueueTotalsInit(QueueTotals *totals, bool first)
{
	if (first)
	{
		pg_atomic_init_u64(&totals->reset_at, 0);
		for (int t = 0; t < NUM_TOTALS; t++)
			pg_atomic_init_u64(&totals->total[t], 0);
		for (int r = 0; r < NUM_RATES; r++)
			for (int b = 0; b < RATE_BUCKETS; b++)
				pg_atomic_init_u64(&totals->rate[r][b], 0);
		for (int t = 0; t < NUM_TIMES; t++)
		{
			pg_atomic_init_u64(&totals->time_sum[t], 0);
			for (int b = 0; b < TIME_BUCKETS; b++)
				pg_atomic_init_u64(&totals->time_count[t][b], 0);
		}
	}
	else
		QueueTotalsReset(totals);
	memset(&totals->base, 0, sizeof(totals->base));
}

static inline uint64
rate_period(TimestampTz now)
{
	return (uint64) (now / (RATE_SECONDS * USECS_PER_SEC)) % RATE_PERIODS;
}

static void
add_to_rate(pg_atomic_uint64 *ring, int64 change, TimestampTz now)
{
	uint64		period = rate_period(now);
	pg_atomic_uint64 *bucket = &ring[period % RATE_BUCKETS];
	uint64		old = pg_atomic_read_u64(bucket);
	uint64		new;

	do
	{
		new = RATE_PERIOD(old) == period ? old + change : (period << RATE_COUNT_BITS) + change;
	} while (!pg_atomic_compare_exchange_u64(bucket, &old, new));
}

void
QueueTotalsAdd(QueueTotals *totals, QueueTotal total, int64 change, TimestampTz now)
{
	static const int8 rate_of[NUM_TOTALS] = {
		[TOTAL_ENQUEUED] = 0, [TOTAL_TAKEN] = -1, [TOTAL_COMPLETED] = 1,
		[TOTAL_FAILED] = 2, [TOTAL_RETRIED] = -1, [TOTAL_STALLED] = -1
	};

	if (change == 0)
		return;
	pg_atomic_fetch_add_u64(&totals->total[total], change);
	if (rate_of[total] >= 0)
		add_to_rate(totals->rate[rate_of[total]], change, now);
}

int
QueueTimeBucket(int64 usecs)
{
	int			power;

	/* a clock that was set back: no time at all */
	if (usecs < 4)
		return (int) Max(usecs, 0);
	power = pg_leftmost_one_pos64((uint64) usecs);
	return Min((power - 1) * 4 + (int) ((usecs >> (power - 2)) & 3), TIME_BUCKETS - 1);
}

/* the middle of a bucket, in milliseconds */
static double
bucket_ms(int bucket)
{
	int			power = bucket / 4 + 1;
	double		width;

	if (bucket < 4)
		return bucket / 1000.0;
	width = (double) (UINT64CONST(1) << (power - 2));
	return ((4 + bucket % 4) * width + (width - 1) / 2) / 1000.0;
}

void
QueueTotalsAddTime(QueueTotals *totals, QueueTime time, int bucket, int64 count, int64 usecs)
{
	pg_atomic_fetch_add_u64(&totals->time_sum[time], usecs);
	pg_atomic_fetch_add_u64(&totals->time_count[time][bucket], count);
}

/* ---------------------------------------------------------------------
 * Read
 * --------------------------------------------------------------------- */

void
QueueTotalsGet(QueueTotals *totals, QueueTotalsRead *read)
{
	read->reset_at = (TimestampTz) pg_atomic_read_u64(&totals->reset_at);
	for (int t = 0; t < NUM_TOTALS; t++)
		read->total[t] = pg_atomic_read_u64(&totals->total[t]);
	for (int t = 0; t < NUM_TIMES; t++)
	{
		read->time_sum[t] = pg_atomic_read_u64(&totals->time_sum[t]);
		for (int b = 0; b < TIME_BUCKETS; b++)
			read->time_count[t][b] = pg_atomic_read_u64(&totals->time_count[t][b]);
	}
}

double
QueueTotalsRate(QueueTotals *totals, int rate, TimestampTz now)
{
	uint64		period = rate_period(now);
	double		share = (double) (now % (RATE_SECONDS * USECS_PER_SEC)) /
		(RATE_SECONDS * USECS_PER_SEC);
	double		sum = 0;

	for (int b = 0; b < RATE_BUCKETS; b++)
	{
		uint64		bucket = pg_atomic_read_u64(&totals->rate[rate][b]);
		uint64		age = (period + RATE_PERIODS - RATE_PERIOD(bucket)) % RATE_PERIODS;

		if (age < RATE_WINDOW / RATE_SECONDS)
			sum += (double) RATE_COUNT(bucket);
		else if (age == RATE_WINDOW / RATE_SECONDS)
			sum += (double) RATE_COUNT(bucket) * (1 - share);
	}
	return sum / RATE_WINDOW;
}

uint64
QueueTimeCount(const QueueTotalsRead *read, QueueTime time)
{
	uint64		count = 0;

	for (int b = 0; b < TIME_BUCKETS; b++)
		count += read->time_count[time][b];
	return count;
}

/* a power of two is the end of a bucket */
uint64
QueueTimeCountBelow(const QueueTotalsRead *read, QueueTime time, int power)
{
	uint64		count = 0;

	for (int b = 0; b < Min((power - 1) * 4, TIME_BUCKETS - 1); b++)
		count += read->time_count[time][b];
	return count;
}

bool
QueueTimeMean(const QueueTotalsRead *read, QueueTime time, double *ms)
{
	uint64		count = QueueTimeCount(read, time);

	if (count == 0)
		return false;
	*ms = (double) read->time_sum[time] / (double) count / 1000.0;
	return true;
}

bool
QueueTimePercentile(const QueueTotalsRead *read, QueueTime time, double share, double *ms)
{
	uint64		count = QueueTimeCount(read, time);
	uint64		passed = 0;

	if (count == 0)
		return false;
	for (int b = 0; b < TIME_BUCKETS; b++)
	{
		passed += read->time_count[time][b];
		if ((double) passed >= share * (double) count)
		{
			*ms = bucket_ms(b);
			return true;
		}
	}
	return false;
}

void
QueueTotalsPut(QueueTotals *totals, Datum *values, bool *nulls)
{
	static const double shares[] = {0.5, 0.95, 0.99};
	TimestampTz now = GetCurrentTimestamp();
	QueueTotalsRead read;
	int			column = 0;
	double		ms;

	QueueTotalsGet(totals, &read);
	for (int t = 0; t < NUM_TOTALS; t++)
	{
		nulls[column] = false;
		values[column++] = Int64GetDatum((int64) read.total[t]);
	}
	for (int r = 0; r < NUM_RATES; r++)
	{
		nulls[column] = false;
		values[column++] = Float8GetDatum(QueueTotalsRate(totals, r, now));
	}
	for (QueueTime t = TIME_WAIT; t <= TIME_PROCESSING; t++)
	{
		nulls[column] = !QueueTimeMean(&read, t, &ms);
		values[column] = nulls[column] ? (Datum) 0 : Float8GetDatum(ms);
		column++;
		for (int s = 0; s < lengthof(shares); s++)
		{
			nulls[column] = !QueueTimePercentile(&read, t, shares[s], &ms);
			values[column] = nulls[column] ? (Datum) 0 : Float8GetDatum(ms);
			column++;
		}
	}
	nulls[column] = false;
	values[column++] = TimestampTzGetDatum(read.reset_at);
	Assert(column == TOTALS_COLUMNS);
}

/* ---------------------------------------------------------------------
 * From one start of the server to the next
 * --------------------------------------------------------------------- */

/* the record of a slot; false: nobody's */
static bool
form_record(QueueSlot *slot, SaveRecord *record)
{
	memset(record, 0, sizeof(*record));
	if (slot->installation >= 0)
	{
		record->database_id = Installations[slot->installation].database_id;
		record->live_id = Installations[slot->installation].live_id;
	}
	else
	{
		record->database_id = slot->saved_database_id;
		record->live_id = slot->saved_live_id;
	}
	record->queue_id = slot->queue_id;
	if (!OidIsValid(record->database_id))
		return false;
	QueueTotalsGet(&slot->totals, &record->totals);
	record->base = slot->totals.base;
	return true;
}

static bool
write_records(FILE *file, int count)
{
	SaveHeader	header = {SAVE_MAGIC, SAVE_VERSION, sizeof(SaveRecord), count};
	SaveRecord	record;
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &header, sizeof(header));
	if (fwrite(&header, sizeof(header), 1, file) != 1)
		return false;
	for (int i = 0; i < queue_max_queues; i++)
	{
		if (!form_record(&QueueSlots[i], &record))
			continue;
		COMP_CRC32C(crc, &record, sizeof(record));
		if (fwrite(&record, sizeof(record), 1, file) != 1)
			return false;
	}
	FIN_CRC32C(crc);
	return fwrite(&crc, sizeof(crc), 1, file) == 1;
}

/* in the postmaster, when all others are gone */
static void
save(int code, Datum arg)
{
	FILE	   *file;
	SaveRecord	record;
	int			count = 0;
	bool		written;

	if (code != 0 || Shared == NULL || !QueueShutDownCleanly())
		return;
	for (int i = 0; i < queue_max_queues; i++)
		count += form_record(&QueueSlots[i], &record);
	if (count == 0)
		return;
	file = AllocateFile(SAVE_FILE ".tmp", PG_BINARY_W);
	written = file && write_records(file, count);
	if (file && FreeFile(file) != 0)
		written = false;
	if (!written)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", SAVE_FILE ".tmp"),
				 errdetail("The statistics of queues begin anew.")));
		(void) unlink(SAVE_FILE ".tmp");
		return;
	}
	(void) durable_rename(SAVE_FILE ".tmp", SAVE_FILE, LOG);
}

void
QueueTotalsSaveAtExit(void)
{
	if (!IsUnderPostmaster)
		on_shmem_exit(save, (Datum) 0);
}

/* read once to check it, and once to keep it */
static bool
read_records(FILE *file, bool keep)
{
	SaveHeader	header;
	SaveRecord	record;
	pg_crc32c	crc,
				saved_crc;

	rewind(file);
	INIT_CRC32C(crc);
	if (fread(&header, sizeof(header), 1, file) != 1 || header.magic != SAVE_MAGIC ||
		header.version != SAVE_VERSION || header.record_size != sizeof(SaveRecord))
		return false;
	COMP_CRC32C(crc, &header, sizeof(header));
	for (uint32 i = 0; i < header.count; i++)
	{
		QueueSlot  *slot = i < queue_max_queues ? &QueueSlots[i] : NULL;

		if (fread(&record, sizeof(record), 1, file) != 1)
			return false;
		COMP_CRC32C(crc, &record, sizeof(record));
		if (!keep || slot == NULL)
			continue;
		Shared->any_saved = true;
		slot->saved_database_id = record.database_id;
		slot->saved_live_id = record.live_id;
		slot->queue_id = record.queue_id;
		pg_atomic_write_u64(&slot->totals.reset_at, (uint64) record.totals.reset_at);
		for (int t = 0; t < NUM_TOTALS; t++)
			pg_atomic_write_u64(&slot->totals.total[t], record.totals.total[t]);
		for (int t = 0; t < NUM_TIMES; t++)
		{
			pg_atomic_write_u64(&slot->totals.time_sum[t], record.totals.time_sum[t]);
			for (int b = 0; b < TIME_BUCKETS; b++)
				pg_atomic_write_u64(&slot->totals.time_count[t][b], record.totals.time_count[t][b]);
		}
		slot->totals.base = record.base;
	}
	FIN_CRC32C(crc);
	return fread(&saved_crc, sizeof(saved_crc), 1, file) == 1 && EQ_CRC32C(crc, saved_crc);
}

void
QueueTotalsLoad(void)
{
	FILE	   *file = AllocateFile(SAVE_FILE, PG_BINARY_R);

	if (file == NULL)
		return;
	if (!QueueShutDownCleanly() || !read_records(file, false) || !read_records(file, true))
		ereport(LOG,
				(errmsg("ignoring file \"%s\"", SAVE_FILE),
				 errdetail("It is damaged, of another version, or older than the last crash."),
				 errhint("The statistics of queues begin anew.")));
	FreeFile(file);
	(void) unlink(SAVE_FILE);
}

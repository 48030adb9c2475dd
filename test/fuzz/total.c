/*-------------------------------------------------------------------------
 *
 * total.c
 *		Times fall into their buckets, percentiles are in order, and a damaged
 *		file of statistics is never believed.
 *
 * Input: times as they lie in memory; the same bytes serve as a file.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/total.c"

int			queue_max_queues = 2;
static QueueSlot slots[2];
QueueSlot  *QueueSlots = slots;
static QueueShared shared;
QueueShared *Shared = &shared;

static void
try_times(Input input)
{
	QueueTotalsRead read = {0};
	double		last = 0;
	double		ms;

	while (input.left > 0)
	{
		int64		usecs = input_int64(&input);
		int			bucket = QueueTimeBucket(usecs);

		REQUIRE(bucket >= 0 && bucket < TIME_BUCKETS);
		REQUIRE(usecs == PG_INT64_MAX || QueueTimeBucket(usecs + 1) >= bucket);
		/* as exact as it promises, up to where it ends */
		if (usecs > 0 && bucket < TIME_BUCKETS - 1)
			REQUIRE(fabs(bucket_ms(bucket) * 1000 - usecs) <= usecs * 0.25 + 1);
		read.time_count[TIME_WAIT][bucket]++;
		read.time_sum[TIME_WAIT] += Max(usecs, 0);
	}
	for (int i = 0; i <= 100; i++)
		if (QueueTimePercentile(&read, TIME_WAIT, i / 100.0, &ms))
		{
			REQUIRE(ms >= last);
			last = ms;
		}
		else
			REQUIRE(QueueTimeCount(&read, TIME_WAIT) == 0);
	if (QueueTimeMean(&read, TIME_WAIT, &ms))
		REQUIRE(ms >= 0);
}

static bool
read_file(const void *data, size_t size)
{
	FILE	   *file = size > 0 ? fmemopen(unconstify(void *, data), size, "r") : NULL;
	bool		good;

	if (file == NULL)
		return false;
	good = read_records(file, false) && read_records(file, true);
	fclose(file);
	return good;
}

/* one byte of a good file is changed, or its end is cut off */
static void
try_file(Input input)
{
	char	   *data;
	size_t		size;
	FILE	   *file = open_memstream(&data, &size);
	size_t		at;
	uint8		change;

	for (int i = 0; i < lengthof(slots); i++)
	{
		slots[i].installation = -1;
		slots[i].saved_database_id = 1;
		slots[i].queue_id = input_byte(&input);
		input_bytes(&input, &slots[i].totals.total, sizeof(slots[i].totals.total));
	}
	REQUIRE(write_records(file, lengthof(slots)));
	fclose(file);
	REQUIRE(read_file(data, size));
	at = (uint64) input_int64(&input) % size;
	change = input_byte(&input);
	data[at] ^= change;
	REQUIRE(read_file(data, size) == (change == 0));
	REQUIRE(!read_file(data, at));
	free(data);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};

	try_times(input);
	(void) read_file(data, size);
	try_file(input);
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * interval.c
 *		Durations and retentions, from any interval.
 *
 * Input: intervals, as they lie in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/catalog.c"

typedef __int128 Wide;

/* for errors that tell the interval */
Datum
interval_out(PG_FUNCTION_ARGS)
{
	return CStringGetDatum("");
}

Datum
DirectFunctionCall1Coll(PGFunction func, Oid collation, Datum arg1)
{
	return func(NULL);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};
	Interval	interval;
	Wide		usecs;
	int64		result;

	interval.time = input_int64(&input);
	input_bytes(&input, &interval.day, sizeof(interval.day));
	input_bytes(&input, &interval.month, sizeof(interval.month));

	usecs = (Wide) interval.day * USECS_PER_DAY + interval.time;
	if (FUZZ_TRY())
	{
		result = QueueIntervalUsecs(&interval, "a duration");
		REQUIRE(interval.month == 0 && result == usecs);
	}
	else
		/* its days alone must fit, too */
		REQUIRE(interval.month != 0 || usecs > PG_INT64_MAX || usecs < PG_INT64_MIN ||
				labs(interval.day) > PG_INT64_MAX / USECS_PER_DAY);

	if (!queue_interval_is_finite(&interval))
		return 0;
	usecs += (Wide) interval.month * DAYS_PER_MONTH * USECS_PER_DAY;
	if (FUZZ_TRY())
	{
		result = QueueRetentionUsecs(&interval, "a retention");
		REQUIRE(result >= 0 && usecs >= 0);
		REQUIRE(result == Min(usecs, (Wide) MAX_RETENTION_DAYS * USECS_PER_DAY));
	}
	else
		REQUIRE(usecs < 0);
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * backoff.c
 *		Delays of retries, due times and the order of jobs, with any settings.
 *
 * Input: settings and times, as they lie in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/job.c"

/* settings are never negative: see option_usecs() */
static int64
input_usecs(Input *input)
{
	return input_int64(input) & PG_INT64_MAX;
}

static void
try_backoff(Input *input)
{
	JobOptions	options = {
		.exponential = input_byte(input) & 1,
		.backoff_base = input_usecs(input),
		.backoff_max = input_usecs(input),
		.backoff_jitter = input_byte(input) / 255.0F,
	};
	uint16		attempt = (uint16) input_int64(input);
	int64		delay = QueueBackoff(&options, attempt);
	int64		last = 0;

	REQUIRE(delay >= 0 && delay <= options.backoff_max);
	options.backoff_jitter = 0;
	delay = QueueBackoff(&options, attempt);
	REQUIRE(delay == options.backoff_max || delay >= options.backoff_base);
	for (int i = 1; i < 80; i++)
	{
		delay = QueueBackoff(&options, i);
		REQUIRE(delay >= last && delay <= options.backoff_max);
		REQUIRE(i == 1 || !options.exponential || last == options.backoff_max ||
				delay == options.backoff_max || delay == last * 2);
		last = delay;
	}
	REQUIRE(!options.exponential || options.backoff_base == 0 || delay == options.backoff_max);
}

static void
try_times(Input *input)
{
	TimestampTz now = input_int64(input);
	int64		usecs = input_int64(input);
	TimestampTz after;
	QueueSettings settings = {.queue_id = 1};
	JobHead		one = {.priority = (int16) input_int64(input)};
	JobHead		two = one;

	now = Max(now, MIN_TIMESTAMP);
	now = Min(now, END_TIMESTAMP - 1);
	after = QueueTimeAfter(now, usecs);
	REQUIRE(IS_VALID_TIMESTAMP(after) && (usecs < 0 ? after <= now : after >= now));
	REQUIRE(QueueTimeAfter(DT_NOEND, usecs) == DT_NOEND);

	/* who is due later, or counts for less, never comes first */
	one.run_at = now;
	two.run_at = after;
	settings.aging = input_byte(input) & 1;
	settings.aging_interval = input_usecs(input);
	QueueJobSetOrder(&one, &settings);
	QueueJobSetOrder(&two, &settings);
	REQUIRE(IS_VALID_TIMESTAMP(one.order_at) && IS_VALID_TIMESTAMP(two.order_at));
	REQUIRE(one.order_class == two.order_class);
	REQUIRE(usecs < 0 ? two.order_at <= one.order_at : two.order_at >= one.order_at);
	if (one.priority < PG_INT16_MAX)
	{
		two = one;
		two.priority++;
		QueueJobSetOrder(&two, &settings);
		REQUIRE(two.order_class > one.order_class ||
				(two.order_class == one.order_class && two.order_at >= one.order_at));
	}
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};

	try_backoff(&input);
	try_times(&input);
	return 0;
}

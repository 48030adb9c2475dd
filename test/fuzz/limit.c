/*-------------------------------------------------------------------------
 *
 * limit.c
 *		A bucket of tokens never gives more than it may, whatever the settings
 *		and however the clock jumps.
 *
 * Input: a limit and a period, then steps of the clock; at each as many tokens
 * are taken as there are, and sometimes one is given back.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/limit.c"

#define MAX_STEPS 200
/* the clock of a server: years 2000 to 2190 */
#define CLOCK_MOST	(190 * 365 * USECS_PER_DAY)

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};
	QueueSettings settings = {0};
	QueueSlot	slot = {0};
	Rate		rate;
	int64		now;
	TimestampTz started;
	double		since = 0;		/* how long the clock has gone forward */
	double		taken = 0;

	settings.rate_limit = 1 + (int) ((uint64) input_int64(&input) % PG_INT32_MAX);
	settings.rate_period = 1 + (int64) ((uint64) input_int64(&input) % (PG_INT64_MAX - 1));
	now = (int64) ((uint64) input_int64(&input) % CLOCK_MOST);
	started = (int64) ((uint64) input_int64(&input) % (uint64) (now + 1));
	settings.created_at = (int64) ((uint64) input_int64(&input) % (uint64) (now + 1));
	rate = rate_of(&settings);
	REQUIRE(rate.token > 0 && rate.bucket >= rate.token);

	for (int i = 0; i < MAX_STEPS && input.left > 0; i++)
	{
		int64		step = input_int64(&input) >> (input_byte(&input) & 63);
		uint8		action = input_byte(&input);
		int64		full;

		step = Max(step, -now);
		step = Min(step, CLOCK_MOST - now);
		now += step;
		since += Max(step, 0);
		if (step < 0)
			started = Min(started, now);
		for (int take = 0; take < action; take++)
		{
			full = full_at(&slot, &settings, rate, now * NSECS_PER_USEC, started);
			REQUIRE(full >= now * NSECS_PER_USEC && full <= now * NSECS_PER_USEC + rate.bucket);
			if (full + rate.token > now * NSECS_PER_USEC + rate.bucket)
			{
				int64		retry_at = (full + rate.token - rate.bucket) / NSECS_PER_USEC + 1;

				/* who waits until then gets one */
				REQUIRE(retry_at > now);
				REQUIRE(full + rate.token <= retry_at * NSECS_PER_USEC + rate.bucket);
				break;
			}
			slot.rate_full_at = full + rate.token;
			taken++;
		}
		if (action & 1)
		{
			int64		back = returnable(rate.token, now - (action >> 1), now);

			REQUIRE(back >= 0 && back <= rate.token);
		}
		/* a clock that was set back may give a bucket more each time: leave that out */
		if (step < 0)
			taken = since = 0;
		REQUIRE(taken <= settings.rate_limit * (1 + since * NSECS_PER_USEC / rate.bucket) * (1 + 1e-9) + 1);
	}
	return 0;
}

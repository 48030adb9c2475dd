/*-------------------------------------------------------------------------
 *
 * event.c
 *		A notification is JSON that says what it was given, and the server takes
 *		it: its channel and its payload are short enough.
 *
 * Input: a kind, a state, numbers, then the names of queue and batch.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/event.c"

/* async.c's own limit, which it tells nobody */
#define PAYLOAD_MOST	(BLCKSZ - NAMEDATALEN - 128)

static const SlotEvent *told;
static const char *told_batch;	/* "": none */
static const QueueSettings *told_of;
static bool notified;

/* the string that begins here must be this one; returns what follows it */
static const char *
check_string(const char *json, const char *is)
{
	REQUIRE(*json++ == '"');
	while (*json != '"')
	{
		unsigned char c = *json++;

		REQUIRE(c >= ' ');
		if (c == '\\' && *json == 'u')
		{
			char		digits[5] = {0};

			strncpy(digits, json + 1, 4);
			REQUIRE(strlen(digits) == 4);
			c = (unsigned char) strtol(digits, NULL, 16);
			json += 5;
		}
		else if (c == '\\')
		{
			c = *json++;
			REQUIRE(c == '"' || c == '\\');
		}
		REQUIRE(c == (unsigned char) *is++);
	}
	REQUIRE(*is == '\0');
	return json + 1;
}

static const char *
check_text(const char *json, const char *is)
{
	REQUIRE(strncmp(json, is, strlen(is)) == 0);
	return json + strlen(is);
}

static const char *
check_number(const char *json, int64 is)
{
	char	   *end;

	errno = 0;
	REQUIRE(strtoll(json, &end, 10) == is && errno == 0);
	return end;
}

void
Async_Notify(const char *channel, const char *payload)
{
	const char *json = check_text(payload, "{\"event\": ");

	notified = true;
	REQUIRE(strlen(channel) < NAMEDATALEN && strlen(payload) < PAYLOAD_MOST);
	REQUIRE(strncmp(channel, "queue.", 6) == 0 && strcmp(channel + 6, told_of->name) == 0);
	json += strcspn(json, ",");
	json = check_string(check_text(json, ", \"queue\": "), told_of->name);
	if (told->job_id != 0)
		json = check_number(check_text(json, ", \"job_id\": "), told->job_id);
	if (told->state != 0)
		json = check_string(check_text(json, ", \"state\": "),
							QueueStateName((JobState) told->state));
	if (told_batch[0] != '\0')
		json = check_string(check_text(json, ", \"batch_id\": "), told_batch);
	json = check_number(check_text(json, ", \"count\": "), told->count);
	json = check_string(check_text(json, ", \"at\": "), "now");
	REQUIRE(strcmp(json, "}") == 0);
}

const char *
QueueStateName(JobState state)
{
	return "waiting";
}

TimestampTz
GetCurrentTimestamp(void)
{
	return 0;
}

char *
JsonEncodeDateTime(char *buf, Datum value, Oid typid, const int *tzp)
{
	return strcpy(buf, "now");
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};
	QueueEvent	event = (QueueEvent) (input_byte(&input) % NUM_EVENTS);
	SlotEvent	what = {.state = (char) (input_byte(&input) & 1)};
	QueueSettings settings = {0};
	char		batch_id[EVENT_BATCH_ID] = {0};

	what.job_id = input_int64(&input);
	what.count = input_int64(&input);
	input_bytes(&input, settings.name, sizeof(settings.name) - 1);
	input_bytes(&input, batch_id, sizeof(batch_id) - 1);
	told = &what;
	told_batch = event == EVENT_BATCH_COMPLETED ? batch_id : "";
	told_of = &settings;
	notified = false;
	send_event(&settings, event, &what, batch_id);
	REQUIRE(notified);
	return 0;
}

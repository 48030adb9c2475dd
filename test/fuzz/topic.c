/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Patterns match the topics that a matcher without cleverness matches.
 *
 * Input: a pattern and a topic, with a zero byte between them.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/topic.c"

/* the words from here on; past the last word, at is NULL */
static bool
naive(const char *want, const char *want_end, const char *have, const char *have_end)
{
	const char *want_dot;
	const char *have_dot;
	const char *want_next;
	const char *have_next;

	if (want == NULL)
		return have == NULL;
	want_dot = memchr(want, '.', want_end - want);
	want_next = want_dot ? want_dot + 1 : NULL;
	want_dot = want_dot ? want_dot : want_end;
	have_dot = have ? memchr(have, '.', have_end - have) : NULL;
	have_next = have_dot ? have_dot + 1 : NULL;
	have_dot = have_dot ? have_dot : have_end;
	if (want_dot - want == 1 && *want == '#')
		return naive(want_next, want_end, have, have_end) ||
			(have && naive(want, want_end, have_next, have_end));
	if (have == NULL)
		return false;
	return ((want_dot - want == 1 && *want == '*') ||
			(want_dot - want == have_dot - have && memcmp(want, have, want_dot - want) == 0)) &&
		naive(want_next, want_end, have_next, have_end);
}

/* words must not be empty, special characters stand alone, and only in patterns */
static bool
is_good(const char *text, size_t length, bool pattern)
{
	if (length == 0 || length > TOPIC_MAX)
		return false;
	for (size_t i = 0; i < length; i++)
	{
		bool		first = i == 0 || text[i - 1] == '.';
		bool		last = i + 1 == length || text[i + 1] == '.';

		if (text[i] == '.' && (first || last))
			return false;
		if ((text[i] == '*' || text[i] == '#') && !(pattern && first && last))
			return false;
	}
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	const char *zero = size > 0 ? memchr(data, '\0', size) : NULL;
	char	   *pattern;
	char	   *topic;
	size_t		pattern_length;
	size_t		topic_length;
	int			hashes = 0;

	if (zero == NULL)
		return 0;
	/* of their very size, so that a byte too far is seen */
	pattern_length = zero - (const char *) data;
	topic_length = size - pattern_length - 1;
	pattern = malloc(pattern_length);
	topic = malloc(topic_length);
	memcpy(pattern, data, pattern_length);
	memcpy(topic, zero + 1, topic_length);

	REQUIRE((QueueTopicProblem(pattern, pattern_length, true) == NULL) ==
			is_good(pattern, pattern_length, true));
	REQUIRE((QueueTopicProblem(topic, topic_length, false) == NULL) ==
			is_good(topic, topic_length, false));
	for (size_t i = 0; i < pattern_length; i++)
		hashes += pattern[i] == '#';
	if (is_good(pattern, pattern_length, true) && is_good(topic, topic_length, false))
	{
		bool		matches = QueueTopicMatches(pattern, pattern_length, topic, topic_length);

		/* the other one takes for ever with many of them */
		if (hashes <= 4)
			REQUIRE(matches == naive(pattern, pattern + pattern_length, topic,
									 topic + topic_length));
	}
	free(pattern);
	free(topic);
	return 0;
}

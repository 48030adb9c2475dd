/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Topics and the patterns that match them.
 *
 * A topic is words separated by dots.  In a pattern, the word * stands for any
 * one word and # for any number of words, none included.
 *
 * If the words after a # do not match, the # takes one word more and they are
 * tried again.  Only the last # need ever do so: whatever an earlier one could
 * take instead, the last one can take as well.  So the time is at most the
 * product of the lengths, whatever the pattern.
 *
 *-------------------------------------------------------------------------
 */
#include "topic.h"

#include <string.h>

/* a place in a topic or pattern; past the last word, at is NULL */
typedef struct Words
{
	const char *at;				/* the word */
	size_t		length;			/* of the word */
	const char *end;			/* of the whole */
} Words;

static void
set_word(Words *words, const char *at)
{
	const char *dot;

	words->at = at;
	if (at == NULL)
		return;
	dot = at < words->end ? memchr(at, '.', words->end - at) : NULL;
	words->length = (dot ? dot : words->end) - at;
}

static void
next_word(Words *words)
{
	const char *after = words->at + words->length;

	set_word(words, after < words->end ? after + 1 : NULL);
}

static Words
first_word(const char *text, size_t length)
{
	Words		words = {text, 0, text + length};

	set_word(&words, text);
	return words;
}

static bool
word_is(const Words *words, char c)
{
	return words->at && words->length == 1 && *words->at == c;
}

bool
QueueTopicMatches(const char *pattern, size_t pattern_length, const char *topic,
				  size_t topic_length)
{
	Words		want = first_word(pattern, pattern_length);
	Words		have = first_word(topic, topic_length);
	Words		after_hash = {0};	/* what the last # is followed by */
	Words		retry = {0};	/* the first word that it has not taken */
	bool		seen_hash = false;

	while (have.at)
	{
		if (word_is(&want, '#'))
		{
			next_word(&want);
			after_hash = want;
			retry = have;
			seen_hash = true;
		}
		else if (word_is(&want, '*') ||
				 (want.at && want.length == have.length &&
				  memcmp(want.at, have.at, have.length) == 0))
		{
			next_word(&want);
			next_word(&have);
		}
		else if (seen_hash)
		{
			next_word(&retry);
			have = retry;
			want = after_hash;
		}
		else
			return false;
	}
	while (word_is(&want, '#'))
		next_word(&want);
	return want.at == NULL;
}

const char *
QueueTopicProblem(const char *text, size_t length, bool pattern)
{
	Words		words = first_word(text, length);

	if (length > TOPIC_MAX)
		return "It is too long.";
	for (; words.at; next_word(&words))
	{
		if (words.length == 0)
			return length == 0 ? "It is empty." : "It has an empty word.";
		if (memchr(words.at, '*', words.length) == NULL &&
			memchr(words.at, '#', words.length) == NULL)
			continue;
		if (!pattern)
			return "It has a * or a #, which only patterns have.";
		if (words.length > 1)
			return "It has a * or a # that is not a whole word.";
	}
	return NULL;
}

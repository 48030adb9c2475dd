/*-------------------------------------------------------------------------
 *
 * topic.h
 *		Topics and the patterns that match them.
 *
 * Nothing of PostgreSQL in here: it can be compiled and tried by itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_TOPIC_H
#define QUEUE_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

#define TOPIC_MAX	255			/* bytes of a topic, or of a pattern */

/* what is wrong with a topic, or a pattern, as a sentence; NULL: nothing */
extern const char *QueueTopicProblem(const char *text, size_t length, bool pattern);

/* both must be without problems */
extern bool QueueTopicMatches(const char *pattern, size_t pattern_length,
							  const char *topic, size_t topic_length);

#endif							/* QUEUE_TOPIC_H */

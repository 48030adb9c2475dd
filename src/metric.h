/*-------------------------------------------------------------------------
 *
 * metric.h
 *		The numbers of each queue over time: queue.metric_history.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_METRIC_H
#define QUEUE_METRIC_H

#include "shared.h"

/* the last full interval before a time: rows bear it */
extern TimestampTz QueueMetricTime(TimestampTz now);

/*
 * Write a row for queues that have none for that time, if something has changed
 * or an hour has passed: for so many queues at most, from that one of the list
 * on, which then is where to go on.  Returns how many were looked at; 0: all are
 * done, or somebody else is at it.  *written: rows.
 */
extern int	QueueMetricRecord(Installation *installation, List *queues, TimestampTz at, int *from,
							  int limit, int64 *written);

/* remove what queue.metrics_retention has let go, some at a time */
extern int64 QueueMetricPrune(int limit);

/* the callbacks of xact.c call these */
extern void QueueMetricCommit(void);
extern void QueueMetricForget(void);

#endif							/* QUEUE_METRIC_H */

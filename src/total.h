/*-------------------------------------------------------------------------
 *
 * total.h
 *		What has happened to the jobs of each queue since a reset: totals,
 *		rates, and how long jobs waited and ran.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_TOTAL_H
#define QUEUE_TOTAL_H

#include "port/atomics.h"

#include "queue.h"

/* in the order of queue_stats() */
typedef enum QueueTotal
{
	TOTAL_ENQUEUED,
	TOTAL_TAKEN,
	TOTAL_COMPLETED,
	TOTAL_FAILED,				/* for good */
	TOTAL_RETRIED,
	TOTAL_STALLED
} QueueTotal;
#define NUM_TOTALS	(TOTAL_STALLED + 1)

/* per second, over the last minute: of three of the totals */
#define NUM_RATES		3
#define RATE_BUCKETS	16

/* a job's times, in microseconds */
typedef enum QueueTime
{
	TIME_WAIT,					/* from when it was due until it was taken */
	TIME_PROCESSING				/* from then until it was completed, or has failed */
} QueueTime;
#define NUM_TIMES		(TIME_PROCESSING + 1)

/* four buckets for each power of two, up to 2^41 us */
#define TIME_BUCKETS	160

/* what the last row of queue.metric_history knew */
typedef struct QueueMetricBase
{
	TimestampTz at;				/* 0: there has been none */
	TimestampTz looked_at;		/* whether there should be a new one */
	int64		count[NUM_COUNTS];
	uint64		total[NUM_TOTALS];
	uint64		time_sum[NUM_TIMES];
	uint32		time_count[NUM_TIMES][TIME_BUCKETS];	/* the lower halves */
} QueueMetricBase;

/* of one queue, in its slot */
typedef struct QueueTotals
{
	pg_atomic_uint64 reset_at;
	pg_atomic_uint64 total[NUM_TOTALS];
	pg_atomic_uint64 rate[NUM_RATES][RATE_BUCKETS];
	pg_atomic_uint64 time_sum[NUM_TIMES];
	pg_atomic_uint64 time_count[NUM_TIMES][TIME_BUCKETS];
	QueueMetricBase base;		/* who writes has the lock of metric.c */
} QueueTotals;

/* the same, read */
typedef struct QueueTotalsRead
{
	TimestampTz reset_at;
	uint64		total[NUM_TOTALS];
	uint64		time_sum[NUM_TIMES];
	uint64		time_count[NUM_TIMES][TIME_BUCKETS];
} QueueTotalsRead;

/* nothing has happened yet; first: the memory is new */
extern void QueueTotalsInit(QueueTotals *totals, bool first);
extern void QueueTotalsReset(QueueTotals *totals);

/* what has happened until now; these do not throw */
extern void QueueTotalsAdd(QueueTotals *totals, QueueTotal total, int64 change, TimestampTz now);
extern int	QueueTimeBucket(int64 usecs);
extern void QueueTotalsAddTime(QueueTotals *totals, QueueTime time, int bucket, int64 count,
							   int64 usecs);

extern void QueueTotalsGet(QueueTotals *totals, QueueTotalsRead *read);
extern double QueueTotalsRate(QueueTotals *totals, int rate, TimestampTz now);

/* mean and percentiles in milliseconds; false: there is none */
extern bool QueueTimeMean(const QueueTotalsRead *read, QueueTime time, double *ms);
extern bool QueueTimePercentile(const QueueTotalsRead *read, QueueTime time, double share,
								double *ms);
extern uint64 QueueTimeCount(const QueueTotalsRead *read, QueueTime time);

/* how many were less than 2^power microseconds */
extern uint64 QueueTimeCountBelow(const QueueTotalsRead *read, QueueTime time, int power);

/* columns of queue_stats(), from enqueued_total to stats_reset */
#define TOTALS_COLUMNS	(NUM_TOTALS + NUM_RATES + 4 * NUM_TIMES + 1)
extern void QueueTotalsPut(QueueTotals *totals, Datum *values, bool *nulls);

/* called once each: when shared memory is made, and when the server ends */
extern void QueueTotalsLoad(void);
extern void QueueTotalsSaveAtExit(void);

#endif							/* QUEUE_TOTAL_H */

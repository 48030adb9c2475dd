/*-------------------------------------------------------------------------
 *
 * queue.h
 *		What every file of the extension shares: limits, states, settings
 *		of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_H
#define QUEUE_H

#include "fmgr.h"
#include "utils/timestamp.h"

/* a function for SQL: exported, which PG_FUNCTION_INFO_V1 does only since 16 */
#define QUEUE_FUNCTION(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

#define QUEUE_SCHEMA			"queue"
#define QUEUE_NAME_MAX			57	/* "queue.<name>" must fit a NOTIFY channel */
#define QUEUE_LABEL_MAX			1000	/* bytes of worker, source, batch_id */
#define QUEUE_ERROR_MAX			(64 * 1024) /* bytes of an error that are kept */
#define QUEUE_BATCH_MAX			100000	/* jobs in one call */
#define QUEUE_MAX_ATTEMPTS		PG_INT16_MAX
#define QUEUE_JOB_ID_MAX		(INT64CONST(1) << 53)

/* the states of a job as they stand in its row */
typedef enum JobState
{
	JOB_WAITING = 'w',
	JOB_ACTIVE = 'a',
	JOB_DELAYED = 'd',
	JOB_BLOCKED = 'b',			/* by parents that are not completed */
	JOB_GROUPED = 'g',			/* by another job of its group; shown as blocked */
	JOB_LIMITED = 'k',			/* by others with its limit_key; shown as blocked */
	JOB_COMPLETED = 'c',
	JOB_FAILED = 'f',
	JOB_CANCELLED = 'x'
} JobState;

/* index of a state's counter, in the order of queue_stats() */
typedef enum JobCount
{
	COUNT_WAITING,
	COUNT_DELAYED,
	COUNT_BLOCKED,
	COUNT_ACTIVE,
	COUNT_COMPLETED,
	COUNT_FAILED,
	COUNT_CANCELLED
} JobCount;
#define NUM_COUNTS	(COUNT_CANCELLED + 1)

/* settings of the server, defined in queue.c */
extern int	queue_max_databases;
extern int	queue_max_queues;
extern int	queue_max_hints;
extern int	queue_max_payload_size;
extern int	queue_log_retention;
extern int	queue_batch_retention;
extern int	queue_maintenance_interval;
extern int	queue_vacuum_threshold;
extern int	queue_health_interval;
extern bool queue_async_claims;
extern int	queue_max_wait;
extern int	queue_max_workers;
extern int	queue_worker_timeout;
extern int	queue_max_progress;
extern int	queue_metrics_interval;
extern int	queue_metrics_retention;

#endif							/* QUEUE_H */

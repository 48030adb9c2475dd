/*-------------------------------------------------------------------------
 *
 * finish.h
 *		The end of jobs and of attempts: archive, log, counts.
 *
 * The caller has deleted or updated the job's row already, and says here what
 * became of it.  Rows for the archive and the log are collected and written
 * by QueueFinishEnd(); a caller may flush in between by calling it and
 * beginning anew.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_FINISH_H
#define QUEUE_FINISH_H

#include "store.h"

typedef struct QueueFinish QueueFinish;

extern QueueFinish *QueueFinishBegin(void);

/*
 * The job is over: completed, failed or cancelled.  row is its last version,
 * error and result are datums or NULL.
 */
extern void QueueFinishJob(QueueFinish *finish, HeapTuple row, TupleDesc desc,
						   const QueueSettings *settings, QueueSlot *slot,
						   JobState state, const Datum *error, const Datum *result,
						   TimestampTz now);

/* the job is removed, and nothing is kept of it */
extern void QueueFinishRemove(QueueFinish *finish, HeapTuple row, TupleDesc desc,
							  const QueueSettings *settings, QueueSlot *slot);

/* the job leaves its queue for another: its key is free, its group goes on */
extern void QueueFinishMove(QueueFinish *finish, HeapTuple row, QueueSlot *slot);

/* it leaves the live table for a time: its place of its limit_key is free */
extern void QueueFinishPause(QueueFinish *finish, HeapTuple row, QueueSlot *slot);

/* an attempt is over, for queue.job_log if the queue's log level has it */
extern void QueueFinishLog(QueueFinish *finish, HeapTuple row, TupleDesc desc,
						   const QueueSettings *settings, const char *event,
						   const char *message, const Datum *error, TimestampTz now);

/* the same for what else happens to a job, which only log_level all has */
extern void QueueFinishNote(QueueFinish *finish, HeapTuple row, TupleDesc desc,
							const QueueSettings *settings, const char *event,
							const char *message, TimestampTz now);

/* finished jobs were taken out of a leaf again */
extern void QueueFinishUncount(QueueFinish *finish, int leaf, int32 queue_id, QueueSlot *slot,
							   JobState state, int64 jobs);

/* a job of a batch, which had ended in that state, is to run again */
extern void QueueFinishReopen(QueueFinish *finish, Datum batch_id, int32 queue_id, JobState state);

/*
 * What follows from the ends (keys are free, groups and children go on, dead
 * letters move), then write what is collected, and close; at last call
 * on_failed for those that failed.  No look and no scan of the caller may be
 * open.
 */
extern void QueueFinishEnd(QueueFinish *finish);

/* columns of queue.job_archive */
enum
{
	ARCHIVE_JOB_ID = 1, ARCHIVE_FINISHED_AT, ARCHIVE_EXPIRES_AT, ARCHIVE_ENQUEUED_AT,
	ARCHIVE_RUN_AT, ARCHIVE_TAKEN_AT, ARCHIVE_QUEUE_ID, ARCHIVE_ATTEMPT,
	ARCHIVE_PRIORITY, ARCHIVE_MAX_ATTEMPTS, ARCHIVE_LEAF, ARCHIVE_STATE,
	ARCHIVE_WORKER, ARCHIVE_BATCH_ID, ARCHIVE_GROUP_KEY, ARCHIVE_LIMIT_KEY,
	ARCHIVE_UNIQUE_KEY, ARCHIVE_SOURCE, ARCHIVE_HEADERS, ARCHIVE_OPTIONS, ARCHIVE_ORIGIN,
	ARCHIVE_ERROR, ARCHIVE_RESULT, ARCHIVE_PROGRESS, ARCHIVE_PAYLOAD
};
#define ARCHIVE_NATTS	ARCHIVE_PAYLOAD

#endif							/* QUEUE_FINISH_H */

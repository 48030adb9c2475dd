/*-------------------------------------------------------------------------
 *
 * job.h
 *		One job row: its layout, how it is formed and read, and the only place
 *		that changes its state.
 *
 * queue.job_live and queue.job_parked have the same columns, so that a move
 * takes the row as it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_JOB_H
#define QUEUE_JOB_H

#include "access/htup_details.h"
#include "utils/rel.h"

#include "catalog.h"
#include "session.h"
#include "shared.h"

/* columns of both tables */
enum
{
	JOB_JOB_ID = 1, JOB_ORDER_AT, JOB_RUN_AT, JOB_ENQUEUED_AT, JOB_TAKEN_AT,
	JOB_LEASE_EXPIRES_AT, JOB_LEASE_OWNER, JOB_QUEUE_ID, JOB_ATTEMPT,
	JOB_ORDER_CLASS, JOB_PRIORITY, JOB_MAX_ATTEMPTS, JOB_STATE,
	JOB_WORKER, JOB_BATCH_ID, JOB_GROUP_KEY, JOB_LIMIT_KEY, JOB_UNIQUE_KEY,
	JOB_SOURCE, JOB_HEADERS, JOB_OPTIONS, JOB_ORIGIN, JOB_LAST_ERROR, JOB_PROGRESS, JOB_PAYLOAD
};
#define JOB_NATTS	JOB_PAYLOAD

/* the fixed-width, never null columns in their order, as they lie in a tuple */
typedef struct JobHead
{
	int64		job_id;
	TimestampTz order_at;
	TimestampTz run_at;
	TimestampTz enqueued_at;
	TimestampTz taken_at;
	TimestampTz lease_expires_at;
	int64		lease_owner;
	int32		queue_id;
	int32		attempt;
	int16		order_class;
	int16		priority;
	int16		max_attempts;
	char		state;
} JobHead;

#define JOB_HEAD(tuple)	((JobHead *) GETSTRUCT(tuple))

/* the other columns, all of variable length; values point into the tuple */
#define JOB_TAIL	(JOB_NATTS - JOB_STATE)
/* a copy with another last_error; 0: none */
extern HeapTuple QueueJobWithError(HeapTuple tuple, TupleDesc desc, Datum error);
/* a copy of a row that has no payload, with an id and a payload, which is not toasted */
extern HeapTuple QueueJobWithPayload(HeapTuple row, int64 job_id, Datum payload);
extern void QueueJobTail(HeapTuple tuple, Datum *values, bool *nulls);
/* does it bear this worker's name? */
extern bool QueueJobIsOf(HeapTuple tuple, const text *worker);

static inline HintKey
job_order_key(const JobHead *job)
{
	return (HintKey) {job->order_at, job->job_id};
}

static inline HintKey
job_due_key(const JobHead *job)
{
	return (HintKey) {job->run_at, job->job_id};
}

/* has the row a value in this column? */
static inline bool
job_has(HeapTuple tuple, int att)
{
	return att <= HeapTupleHeaderGetNatts(tuple->t_data) &&
		!(HeapTupleHasNulls(tuple) && att_isnull(att - 1, tuple->t_data->t_bits));
}

/* nothing but its head, labels and a payload? */
static inline bool
job_is_plain(HeapTuple tuple)
{
	return !job_has(tuple, JOB_BATCH_ID) && !job_has(tuple, JOB_GROUP_KEY) &&
		!job_has(tuple, JOB_LIMIT_KEY) && !job_has(tuple, JOB_UNIQUE_KEY) &&
		!job_has(tuple, JOB_OPTIONS) && !job_has(tuple, JOB_ORIGIN);
}

/* who the leases that this installation gives out belong to: the upper half */
extern int64 QueueLeaseOwner(void);

/* the session that its lease is bound to; 0: none */
static inline uint32
job_session(const JobHead *job)
{
	return (uint32) job->lease_owner;
}

/*
 * Has somebody taken it, and nobody taken it over since?  The lease may have
 * ended.  The state of a job in counters and views: it changes by commits only.
 */
static inline bool
job_is_active(const JobHead *job)
{
	return job->state == JOB_ACTIVE &&
		job->lease_owner - job_session(job) == QueueLeaseOwner();
}

/*
 * Does an executor hold it?  Its lease has no end but that of the process, and
 * whether the attempt has begun is told by its mark: see mark.c.
 */
static inline bool
job_is_reserved(const JobHead *job)
{
	return job_is_active(job) && job->lease_expires_at == DT_NOEND;
}

/* is it nobody else's to take? */
static inline bool
job_is_held(const JobHead *job, TimestampTz now)
{
	return job_is_active(job) && job->lease_expires_at > now &&
		(job_session(job) == 0 || QueueSessionAlive(job_session(job)));
}

/* the lease of an active job, for its class */
static inline HintLeases
job_lease(const JobHead *job)
{
	return (HintLeases) {
		job->lease_expires_at, job_order_key(job), job_session(job) != 0
	};
}

/* the state that counts, whatever stands in the row after a restore */
extern JobState QueueJobState(const JobHead *job);
extern JobCount QueueJobCount(JobState state);
extern bool QueueStateKnown(JobState state);
extern const char *QueueStateName(JobState state);
extern bool QueueStateFromName(const char *name, JobState *state);

/* class and key of the order, by the queue's settings */
extern void QueueJobSetOrder(JobHead *job, const QueueSettings *settings);

/*
 * Transitions: the only assignments of a state.  Each asserts that it is
 * allowed from the old one.
 */
extern void QueueJobEnter(JobHead *job, const QueueSettings *settings, TimestampTz now);
extern void QueueJobBlock(JobHead *job, JobState state);
extern void QueueJobUnblock(JobHead *job);
extern void QueueJobTake(JobHead *job, TimestampTz now, TimestampTz expires_at, uint32 session);
extern void QueueJobReturn(JobHead *job, const QueueSettings *settings,
						   TimestampTz run_at, TimestampTz now);
extern void QueueJobStall(JobHead *job);
extern void QueueJobDue(JobHead *job, const QueueSettings *settings);

/* per-job settings, from the job's options where it has some, or the queue */
typedef struct JobOptions
{
	bool		exponential;
	float4		backoff_jitter;
	int64		backoff_base;
	int64		backoff_max;
	int64		visibility_timeout;
	int64		keep_completed;
	int64		keep_failed;
	int64		job_timeout;	/* of the handler; 0: none */
	int64		unique_for;		/* counts at the enqueue only */
} JobOptions;

extern void QueueJobOptions(HeapTuple tuple, TupleDesc desc,
							const QueueSettings *settings, JobOptions *options);

/* check options given at enqueue; an error names what is wrong; unique_for */
extern int64 QueueJobCheckOptions(Datum options);

/* 1 to QUEUE_LABEL_MAX bytes */
extern void QueueCheckLimitKey(text *key, const char *name);

/* the limit_key of the options, taken out of them; NULL: none.  0: nothing is left */
extern text *QueueJobTakeLimitKey(Datum *options);

/* how long to wait before the attempt after this one */
extern int64 QueueBackoff(const JobOptions *options, int attempt);

/* ids of new jobs, ascending within a backend */
extern int64 QueueJobNextId(void);

/* now plus a duration, without overflow */
extern TimestampTz QueueTimeAfter(TimestampTz now, int64 usecs);

#endif							/* QUEUE_JOB_H */

/*-------------------------------------------------------------------------
 *
 * settle.h
 *		The holder's verbs, for those that combine them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SETTLE_H
#define QUEUE_SETTLE_H

#include "access/htup.h"
#include "utils/array.h"

#include "queue.h"

/* complete the jobs that are held; attempts may be NULL: not fenced */
extern int64 QueueCompleteMany(ArrayType *job_ids, ArrayType *attempts);

/*
 * For those who run a job inside the server, about one attempt of it.  A job
 * that is not held, in that attempt and by that session (0: whichever), is an
 * answer: NULL, false.  What was given back without having begun is given out
 * under the same number again, so the attempt alone does not tell who holds it.
 */
extern HeapTuple QueueHeldJob(int64 job_id, int32 attempt, uint32 session);
extern bool QueueHeldComplete(int64 job_id, int32 attempt, uint32 session, const Datum *result);
extern bool QueueHeldFail(int64 job_id, int32 attempt, uint32 session, text *error, bool retry,
						  JobState *state);
extern bool QueueHeldRelease(int64 job_id, int32 attempt, uint32 session);

/* give back those of the jobs that are held and bear the worker's name; returns how many */
extern int64 QueueReleaseOf(const text *worker, const int64 *job_ids, int count);

/*
 * Hold one job for so many microseconds from now; attempt 0: not fenced.  False
 * if it is not held, else *expires_at, if wanted, is the end of its lease.
 */
extern bool QueueExtend(int64 job_id, int32 attempt, int64 timeout, TimestampTz *expires_at);

#endif							/* QUEUE_SETTLE_H */

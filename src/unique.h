/*-------------------------------------------------------------------------
 *
 * unique.h
 *		Unique keys: at most one unfinished job of a queue has each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_UNIQUE_H
#define QUEUE_UNIQUE_H

#include "job.h"

/*
 * Take a key for a job.  Waits for whoever has it and has not committed.
 * Returns 0, or the id of the job that has it.  unique_for: how long it stays
 * taken even if the job is over, in microseconds; 0: no longer than the job.
 */
extern int64 QueueUniqueTake(int32 queue_id, Datum key, int64 job_id, int64 unique_for);

/* the job is over */
extern void QueueUniqueFree(int32 queue_id, Datum key, int64 job_id);

#endif							/* QUEUE_UNIQUE_H */

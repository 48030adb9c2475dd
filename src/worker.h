/*-------------------------------------------------------------------------
 *
 * worker.h
 *		What all workers share: start, transaction bracket, waiting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_WORKER_H
#define QUEUE_WORKER_H

#include "postmaster/bgworker.h"
#include "utils/timestamp.h"

/* connect to a database and set what a worker must not inherit */
extern void QueueWorkerConnect(Oid database_id, bool async_commit);

extern void QueueWorkerBegin(const char *activity);
extern void QueueWorkerCommit(void);

/* read the configuration files anew */
extern void QueueWorkerReload(void);

/* sleep until woken, or so many milliseconds; serves interrupts and reloads */
extern void QueueWorkerWait(long timeout_ms);

/* a worker's description, filled in but for what is its own */
extern void QueueWorkerDescribe(BackgroundWorker *worker, const char *function,
								const char *type, const char *name);

#endif							/* QUEUE_WORKER_H */

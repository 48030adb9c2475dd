/*-------------------------------------------------------------------------
 *
 * pool.h
 *		The pool of executors: who wakes them, who starts and buries them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_POOL_H
#define QUEUE_POOL_H

#include "catalog.h"
#include "executor.h"

/* settings of the server */
extern int	queue_max_executors;
extern int	queue_executor_idle_timeout;

/*
 * There may be so many jobs for executors in a queue that is served.  Neither
 * allocates nor throws.
 */
extern void QueuePoolWake(QueueSlot *slot, int64 jobs);

/* whether and how a queue is served may have changed: likewise */
extern void QueuePoolSettingsChanged(QueueSlot *slot);

/* an executor that runs this job, if there is one, is to stop: likewise */
extern void QueuePoolInterrupt(Installation *installation, int64 job_id);

/* the maintenance worker's part; the settings of queues are by slot */
extern void QueuePoolManage(Installation *installation, const QueueSettings *const *settings,
							TimestampTz *wake_at);

/* executors of a database leave as soon as they are idle; true: none are left */
extern bool QueuePoolLeave(Oid database_id);

#endif							/* QUEUE_POOL_H */

/*-------------------------------------------------------------------------
 *
 * executor.h
 *		Executors: the workers that run the handlers of queues.
 *
 * What an executor is doing stands in its slot in shared memory, where the
 * maintenance worker, which starts and stops executors, and the view
 * queue.worker look.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_EXECUTOR_H
#define QUEUE_EXECUTOR_H

#include "shared.h"

#define EXECUTOR_CLAIMS		64	/* jobs that one may hold at once */

typedef enum ExecutorState
{
	EXECUTOR_FREE,				/* the slot is */
	EXECUTOR_STARTING,			/* registered with the postmaster */
	EXECUTOR_IDLE,
	EXECUTOR_BUSY,
	EXECUTOR_ENDED				/* its claims are still to be given back */
} ExecutorState;

/* a job that an executor holds, as the claim has left it */
typedef struct ExecutorClaim
{
	int64		job_id;
	int32		attempt;
} ExecutorClaim;

typedef struct QueueExecutor
{
	slock_t		mutex;			/* guards all below */
	ExecutorState state;
	Oid			database_id;
	Oid			live_id;		/* names the installation */
	Oid			owner;			/* whose jobs it runs, all its life */
	pid_t		pid;
	int			process;		/* number of the process */
	uint32		session;		/* its leases bear this number */
	TimestampTz started_at;
	bool		leave;			/* asked to end when its job is done */
	bool		woken;			/* while idle: there is a job */
	bool		died;			/* ended, and nobody had asked it to */

	/* the claims that it holds, all of one queue; next: not started yet */
	bool		revoked;		/* no more of them may be started */
	int32		queue_id;
	int			num_claims;
	int			next_claim;
	ExecutorClaim claims[EXECUTOR_CLAIMS];

	/* the job that it runs; 0: none */
	int64		job_id;
	int32		attempt;
	TimestampTz job_started_at;
	int64		interrupt_job_id;	/* it was cancelled; 0: none was */
	bool		timed_out;

	/* since it was started */
	uint64		done;
	uint64		failed;			/* attempts */
	uint64		busy_usecs;		/* of those */
} QueueExecutor;

extern QueueExecutor *QueueExecutors;
extern int	queue_num_executors;	/* slots */

#endif							/* QUEUE_EXECUTOR_H */

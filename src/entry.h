/*-------------------------------------------------------------------------
 *
 * entry.h
 *		How a job enters a queue: every way into queue.job_live and
 *		queue.job_parked but for the retry of a job that is there already.
 *
 * A job that is due goes to the live table, a delayed one to the parked; one
 * that waits for its parents, for its group, or for others with its limit_key,
 * is parked as blocked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_ENTRY_H
#define QUEUE_ENTRY_H

#include "store.h"

/* what a producer asks for; what is zero was not asked for */
typedef struct QueueRequest
{
	TimestampTz now;			/* when it was asked */
	bool		has_priority;
	bool		has_max_attempts;
	bool		has_run_at;
	bool		replace;		/* on_conflict */
	bool		direct;			/* the handler runs what need not wait */
	int			priority;
	int			max_attempts;
	TimestampTz run_at;
	text	   *unique_key;
	text	   *group_key;
	text	   *limit_key;
	text	   *batch_id;
	text	   *source;
	Datum		headers;		/* jsonb */
	Datum		options;		/* jsonb */
	int			num_parents;
	int64	   *parents;
	int64		unique_for;		/* microseconds */
	char		on_parent_failure;	/* an OnParentFailure, if there are parents */
	/* of a call for many jobs: one for each, or NULL */
	bool		many;
	text	  **unique_keys;
	text	  **group_keys;
	text	  **limit_keys;
	int			num_unique_keys;
	int			num_group_keys;
	int			num_limit_keys;
} QueueRequest;

/* what the arguments of queue.enqueue(), or of one that has the same, ask for */
extern void QueueReadRequest(FunctionCallInfo fcinfo, QueueRequest *request);

/* a delay from now on, checked */
extern TimestampTz QueueDelayUntil(Interval *delay, TimestampTz now);

/*
 * Enqueue: checks the payloads, then puts the jobs in.  The settings are those
 * of a queue that is locked (QueueSettingsLock); privileges have been checked.
 * Ids come back in the order of the payloads; of a job that a unique key kept
 * out, that of the one that has the key.  The queue's mode is mode.c's affair.
 */
extern void QueueEnqueueMany(const QueueSettings *settings, const QueueRequest *request,
							 Datum *payloads, int count, int64 *ids);

/* one queue that formed rows are put into */
typedef struct QueueEntry
{
	QueueSettings settings;
	QueueSlot  *slot;
	TimestampTz now;
	QueueStore	store[2];		/* live and parked */
	bool		open[2];
	MemoryContext context;		/* of the stores */
} QueueEntry;

extern void QueueEntryBegin(QueueEntry *entry, const QueueSettings *settings);
extern void QueueEntryEnd(QueueEntry *entry);

/*
 * Would so many jobs more exceed the queue's max_depth?  Counts what is
 * committed and what this transaction has done.
 */
extern bool QueueEntryIsFull(QueueEntry *entry, int64 more);

/* its tables, opened on demand; the columns of both are the same */
extern QueueStore *QueueEntryStore(QueueEntry *entry, bool parked);
extern TupleDesc QueueEntryDesc(QueueEntry *entry);

/*
 * Put rows in whose heads say when they are due (run_at) and their priority;
 * state and order are set here.  A head has no parents, and its group's place if
 * it has a group; a plain one needs no place, or has it.  Many at once must be
 * due at the same time.
 */
extern void QueueEntryPut(QueueEntry *entry, HeapTuple row, bool has_parents);
extern void QueueEntryPutHead(QueueEntry *entry, HeapTuple row);
extern void QueueEntryPutBlocked(QueueEntry *entry, HeapTuple row, JobState state);
extern void QueueEntryPutPlain(QueueEntry *entry, HeapTuple *rows, int count);

#endif							/* QUEUE_ENTRY_H */

/*-------------------------------------------------------------------------
 *
 * progress.h
 *		How far jobs are: queue.set_progress().
 *
 * Whoever ends an attempt calls QueueProgressKeep() for the row that it writes,
 * and QueueProgressEnd() once the row is changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_PROGRESS_H
#define QUEUE_PROGRESS_H

#include "job.h"
#include "table.h"

extern Size QueueProgressSize(void);
extern void QueueProgressInit(char *at, LWLock *lock, bool found);

/*
 * The row, or a copy of it with what was told of the attempt that before, its
 * head, is about.
 */
extern HeapTuple QueueProgressKeep(HeapTuple row, TupleDesc desc, const JobHead *before);

/* the attempt is over, if this (sub)transaction commits: nothing more to show */
extern void QueueProgressEnd(const JobHead *before);

/* remove what is told of jobs that nobody holds any more; returns how many */
extern int	QueueProgressTidy(void);

/* the callbacks of xact.c call these */
extern void QueueProgressCommit(void);
extern void QueueProgressForget(void);
extern void QueueProgressCommitSub(SubTransactionId subid, SubTransactionId parent_subid);
extern void QueueProgressAbortSub(SubTransactionId subid);

#endif							/* QUEUE_PROGRESS_H */

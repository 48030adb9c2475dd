/*-------------------------------------------------------------------------
 *
 * operate.h
 *		Whole queues of unfinished jobs at once, for admin.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_OPERATE_H
#define QUEUE_OPERATE_H

#include "store.h"

/* delete the jobs of a queue, the running ones too if asked; returns how many */
extern int64 QueueDeleteJobs(const QueueSettings *settings, bool active);

/* how many unfinished jobs it has, counted up to a limit */
extern int64 QueueCountJobs(const QueueSettings *settings, int64 limit);

/* give the waiting jobs the order that new settings ask for */
extern void QueueReorder(const QueueSettings *settings);

/*
 * max_active_per_key was set: its jobs get places, or must wait for one.  Those
 * that are running get one in any case.  Producers must be kept away.
 */
extern void QueueLimitJobs(const QueueSettings *settings);

#endif							/* QUEUE_OPERATE_H */

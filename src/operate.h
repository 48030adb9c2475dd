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

#endif							/* QUEUE_OPERATE_H */

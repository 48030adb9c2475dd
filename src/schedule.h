/*-------------------------------------------------------------------------
 *
 * schedule.h
 *		Jobs by the clock, on pg_cron.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SCHEDULE_H
#define QUEUE_SCHEDULE_H

#include "catalog.h"

/* of a queue that is being dropped: an error if it has any, unless cascade */
extern void QueueScheduleDrop(const QueueSettings *settings, bool cascade);

#endif							/* QUEUE_SCHEDULE_H */

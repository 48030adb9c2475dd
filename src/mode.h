/*-------------------------------------------------------------------------
 *
 * mode.h
 *		What an enqueue into a queue does: queued, direct, mirror, fallback.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_MODE_H
#define QUEUE_MODE_H

#include "entry.h"

/*
 * What every function of producers calls: as QueueEnqueueMany(), but the
 * queue's mode decides what becomes of the jobs.
 */
extern void QueueProduce(const QueueSettings *settings, const QueueRequest *request,
						 Datum *payloads, int count, int64 *ids);

#endif							/* QUEUE_MODE_H */

/*-------------------------------------------------------------------------
 *
 * calls.h
 *		How long a worker waits for what a queue names: on_failed, a validator.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_CALLS_H
#define QUEUE_CALLS_H

#include "catalog.h"
#include "internal.h"

/* once, by a worker that is not to wait for ever */
extern void QueueCallsLimit(void);

/*
 * QueueTry() of functions of a queue.  In a worker that has called
 * QueueCallsLimit(), too long a call is an error like any other, and for some
 * time those of the queue end with an error before they begin.
 */
extern ErrorData *QueueTryCall(void (*body) (void *arg), void *arg,
							   const QueueSettings *settings);

#endif							/* QUEUE_CALLS_H */

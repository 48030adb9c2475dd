/*-------------------------------------------------------------------------
 *
 * onfailed.h
 *		Call the function that a queue names for jobs that failed for good.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_ONFAILED_H
#define QUEUE_ONFAILED_H

#include "access/htup.h"
#include "nodes/pg_list.h"

/* false while on_failed runs: what fails inside it calls nothing */
extern bool QueueOnFailedAllowed(void);

/*
 * Call it for each of these rows, the last versions of jobs, with their error.
 * All that their end means must have been done and written; nothing of the
 * caller's may be open.
 */
extern void QueueOnFailedCall(List *rows);

#endif							/* QUEUE_ONFAILED_H */

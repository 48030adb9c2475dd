/*-------------------------------------------------------------------------
 *
 * settle.h
 *		The holder's verbs, for those that combine them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SETTLE_H
#define QUEUE_SETTLE_H

#include "utils/array.h"

/* complete the jobs that are held; attempts may be NULL: not fenced */
extern int64 QueueCompleteMany(ArrayType *job_ids, ArrayType *attempts);

#endif							/* QUEUE_SETTLE_H */

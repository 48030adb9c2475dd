/*-------------------------------------------------------------------------
 *
 * internal.h
 *		SQL on our own tables, outside the hot path.
 *
 * Between QueueSpiConnect() and QueueSpiFinish() the current user is the owner
 * of the extension, who may touch the tables; whether the caller may do what
 * it asks for has been checked before.  The text qualifies every name and
 * operator.  An error restores the user, as the transaction aborts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_INTERNAL_H
#define QUEUE_INTERNAL_H

#include "executor/spi.h"

#include "compat.h"

extern void QueueSpiConnect(void);
extern void QueueSpiFinish(void);

/* returns the number of rows, which are in SPI_tuptable if it returns some */
extern uint64 QueueSpiExecute(const char *sql, int nargs, Oid *types, Datum *values,
							  const char *nulls);

/* true while such SQL runs: the triggers on our tables have nothing to tell */
extern bool QueueSpiActive(void);
extern void QueueSpiForget(void);

/*
 * Run code of somebody else's in a subtransaction; NULL, or the error that has
 * undone it.  Where the caller is cancelled, that error goes on to it.
 */
extern ErrorData *QueueTry(void (*body) (void *arg), void *arg);

extern Oid	QueueExtensionOwner(void);

/* who was the current user before QueueSpiConnect() */
extern Oid	QueueSpiCaller(void);

/* checks of arguments, with the errors that all functions share */
QUEUE_NORETURN extern void QueueErrorNull(const char *name, const char *hint);
QUEUE_NORETURN extern void QueueErrorRange(const char *name, int64 value, int64 least,
										   int64 most);
extern text *QueueArgText(FunctionCallInfo fcinfo, int arg, const char *name);
/* element: of an array, from 1 on, or 0 */
extern void QueueCheckJsonbSize(Datum jsonb, const char *name, int element);
extern void QueueCheckLabel(text *label, const char *name);
extern int64 QueueArgDuration(Datum interval, const char *name, bool allow_zero);
/* an interval that stands in an option of this name */
extern Interval *QueueIntervalFromText(const char *name, const char *text);
/* the time that an age, which may have months, reaches back to */
extern TimestampTz QueueArgAge(Datum interval, const char *name);
extern void QueueCheckSmallJsonb(Datum jsonb, const char *name, int most);
/* of what writes no table: a read-only transaction will do, a standby will not */
extern void QueueRequireRunning(const char *function);
extern void QueueRequireWritable(const char *function);

#endif							/* QUEUE_INTERNAL_H */

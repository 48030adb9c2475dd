/*-------------------------------------------------------------------------
 *
 * function.h
 *		Functions that a queue names: its validator, on_failed and handler.
 *
 * A queue names them as text, schema.name(argument type).  They are looked up
 * and checked when they are set, and again whenever they are used:
 *
 *		QueueFunctionOpen(&function, ...)		find it, may the owner call it?
 *		QueueFunctionEnter(&function)			become the owner
 *		QueueFunctionCall(&function, ...)		any number of times
 *		QueueFunctionLeave(&function)			be the caller again
 *
 * Between Enter and Leave nothing else may be done, and nothing may be open
 * that a function of a user could change.  An error does what Leave does, as
 * the (sub)transaction aborts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_FUNCTION_H
#define QUEUE_FUNCTION_H

#include "access/htup.h"
#include "nodes/nodes.h"

#include "catalog.h"

typedef enum QueueFunctionKind
{
	FUNCTION_VALIDATOR,			/* (payload jsonb) */
	FUNCTION_ON_FAILED,			/* that, or (job queue.job_context), as the next */
	FUNCTION_HANDLER
} QueueFunctionKind;

typedef struct QueueFunction
{
	QueueFunctionKind kind;
	char	   *name;			/* schema.name(argument type) */
	char	   *search_path;	/* while it runs */
	char	   *queue_name;
	Oid			owner;			/* of the queue */
	FmgrInfo	flinfo;
	bool		takes_context;	/* queue.job_context, else the payload */
	Oid			result_type;
	bool		own_session;	/* nothing of the session is anybody else's */

	/* from Enter to Leave */
	Oid			save_user;
	int			save_context;
	int			save_nest_level;
} QueueFunction;

/*
 * The full name of a function that is to be set, as it was given, for a queue
 * of that owner; an error unless the current user and the owner may call it.
 */
extern text *QueueFunctionCheck(QueueFunctionKind kind, text *name, Oid owner);

/* an error unless the current user may act as the owner, as the function will */
extern void QueueFunctionRequireOwner(QueueFunctionKind kind, const QueueSettings *settings);

extern void QueueFunctionOpen(QueueFunction *function, QueueFunctionKind kind,
							  const QueueSettings *settings);
/* a command that SQL is about to run */
extern void QueueFunctionGuard(Node *node);

extern void QueueFunctionEnter(QueueFunction *function);
extern Datum QueueFunctionCall(QueueFunction *function, Datum argument, bool *null);
extern void QueueFunctionLeave(QueueFunction *function);

/* all of it for one job, with its result as jsonb, or null */
extern Datum QueueFunctionRun(QueueFunction *function, HeapTuple row, TupleDesc desc, bool *null);

/* what is kept of an error that a handler has raised */
extern text *QueueErrorText(const ErrorData *error);

/* is it one after which the queue does not want the job to be retried? */
extern bool QueueErrorIsFinal(const QueueSettings *settings, int sqlerrcode);

#endif							/* QUEUE_FUNCTION_H */

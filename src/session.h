/*-------------------------------------------------------------------------
 *
 * session.h
 *		Leases that are bound to a database session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SESSION_H
#define QUEUE_SESSION_H

#include "queue.h"

/* the number of this session for leases, drawn when it is first asked for */
extern uint32 QueueSessionNumber(void);

/* does the session of that number still live?  Its leases count if it does. */
extern bool QueueSessionAlive(uint32 number);

#endif							/* QUEUE_SESSION_H */

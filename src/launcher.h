/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		One per cluster: keeps each database's maintenance worker running.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_LAUNCHER_H
#define QUEUE_LAUNCHER_H

#include "shared.h"

/* from _PG_init */
extern void QueueLauncherRegister(void);

/* that database has the extension now, or, if invalid, one is new; does not throw */
extern void QueueLauncherAnnounce(Oid database_id);

/*
 * Ask the worker in a database to leave, wait until it has, and let none come
 * back for a while: for commands that want the database to themselves.
 */
extern void QueueLauncherHold(Oid database_id);
extern void QueueLauncherRelease(Oid database_id);

/* for the maintenance worker: it is there, what it found, and must it go? */
extern DatabaseEntry *QueueLauncherAttach(Oid database_id);
extern void QueueLauncherFound(DatabaseEntry *entry, bool has_extension);

#endif							/* QUEUE_LAUNCHER_H */

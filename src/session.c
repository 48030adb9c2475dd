/*-------------------------------------------------------------------------
 *
 * session.c
 *		Leases that are bound to a database session.
 *
 * A bound lease ends with the session that took it, if it has not run out
 * before.  The row bears the session's number; the session shows the same
 * number in shared memory for as long as it lives.  So nothing need be written
 * when it ends, however it ends: a lease whose number nobody shows has ended.
 *
 * The number says which process slot to look at (18 bits), and which of the
 * sessions that have used it is meant (14 bits, drawn at random, never all
 * zero).  So after a restart, of the server or after a crash, all bound leases
 * have ended; should the next session in the slot draw the same bits, one in
 * 16383, a lease of the last one merely lives on until it runs out.
 *
 * Takers that meet such a job take it over.  What lies below the hints must be
 * found by the maintenance worker: a session that ends raises the flag of its
 * installation and wakes the worker, which sweeps the classes that have bound
 * leases (HintLeases.bound).  The number is gone before the flag is raised, and
 * the worker lowers the flag before it looks, so a sweep that comes after sees
 * the lease as ended.  A claim is noted as bound when it has become visible,
 * and no session ends in between.  If its transaction was prepared, the session
 * may have ended long before: then the class is swept at its commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "compat.h"
#include "session.h"
#include "shared.h"

#define PROCESS_BITS	18
#define PROCESS_MASK	(((uint32) 1 << PROCESS_BITS) - 1)
#define DRAWN_MAX		(((uint32) 1 << (32 - PROCESS_BITS)) - 1)

/* runs after the session's transaction has been rolled back */
static void
end_session(int code, Datum arg)
{
	pg_atomic_write_u32(&QueueMyBackend()->session, 0);
	pg_memory_barrier();
	for (int i = 0; i < queue_max_databases; i++)
	{
		Installation *installation = &Installations[i];
		Latch	   *latch = installation->maintenance;

		if (installation->database_id != MyDatabaseId)
			continue;
		pg_atomic_write_u32(&installation->session_ended, 1);
		if (latch)
			SetLatch(latch);
	}
}

uint32
QueueSessionNumber(void)
{
	static uint32 number = 0;
	QueueBackend *backend = QueueMyBackend();
	uint32		process;

	if (number != 0)
		return number;
	process = backend ? backend - QueueBackends : PROCESS_MASK;
	if (process >= PROCESS_MASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot bind a lease to this session"),
				 errdetail("The server allows more than %u processes.", PROCESS_MASK),
				 errhint("Take jobs without bind_session, or lower max_connections.")));
	on_shmem_exit(end_session, (Datum) 0);
	number = process |
		(1 + (uint32) (queue_random_double() * DRAWN_MAX)) << PROCESS_BITS;
	pg_atomic_write_u32(&backend->session, number);
	return number;
}

bool
QueueSessionAlive(uint32 number)
{
	uint32		process = number & PROCESS_MASK;

	/* what a standby reads was taken on the primary, whose sessions it cannot see */
	if (RecoveryInProgress())
		return true;
	return process < queue_num_backends &&
		pg_atomic_read_u32(&QueueBackends[process].session) == number;
}

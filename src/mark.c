/*-------------------------------------------------------------------------
 *
 * mark.c
 *		Which attempts executors have begun, so that a crash charges them.
 *
 * An executor claims several jobs in one transaction.  A handler that takes
 * the server down must use up its own attempts, and not those of the jobs that
 * were merely claimed with it.  So a claim charges nothing, and an attempt is
 * charged by a mark, which the executor makes just before it calls the handler
 * and which must outlive the crash of every process.
 *
 * A mark in a table would have to be flushed to the disk with each job.  It is
 * enough that the kernel has it: the mark is a few bytes of a file, one place
 * per executor slot, written in place.  What it does not survive is the crash
 * of the whole machine, and then nobody knows that a handler was to blame.
 *
 * Executors that end without a crash leave the mark in their slot in shared
 * memory.  After a crash, shared memory is made anew and the file is read
 * then.  After a clean shutdown it is not: executors were asked to stop, which
 * is nobody's fault.  Marks of a standby that was promoted, or of a copy of the
 * data directory, are not there, as base backups leave the directory out.
 *
 * A mark counts only for a row that says that an executor holds this attempt
 * of this job, and whose session is gone.  So one that is outdated does no harm.
 * It is cleared as soon as somebody has acted on it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "executor.h"
#include "mark.h"

#define MARK_FILE		"pg_stat_tmp/queue_marks"
#define MARK_VERSION	1

/* a mark as it lies in the file */
typedef struct FileMark
{
	uint32		version;
	Oid			database_id;
	Oid			live_id;
	int32		attempt;
	int64		job_id;
	pg_crc32c	crc;			/* of all before it */
	uint32		unused;
} FileMark;

QueueMark  *QueueMarks;

static int	file = -1;

static pg_crc32c
mark_crc(const FileMark *mark)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, mark, offsetof(FileMark, crc));
	FIN_CRC32C(crc);
	return crc;
}

bool
QueueShutDownCleanly(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool		clean = crc_ok && (control->state == DB_SHUTDOWNED ||
								   control->state == DB_SHUTDOWNED_IN_RECOVERY);

	pfree(control);
	return clean;
}

/* in the postmaster: a file that cannot be read is none */
void
QueueMarksRead(void)
{
	FileMark	mark;
	int			fd = BasicOpenFile(MARK_FILE, O_RDONLY | PG_BINARY);

	if (fd < 0)
		return;
	if (QueueShutDownCleanly())
		(void) unlink(MARK_FILE);	/* or a later crash would bring them up */
	else
		for (int i = 0; i < queue_num_executors; i++)
		{
			if (read(fd, &mark, sizeof(mark)) != sizeof(mark))
				break;
			if (mark.version == MARK_VERSION && mark.crc == mark_crc(&mark) && mark.job_id != 0)
				QueueMarks[i] = (QueueMark) {
					mark.database_id, mark.live_id, mark.job_id, mark.attempt
				};
		}
	close(fd);
}

static void
write_mark(int executor, Oid live_id, int64 job_id, int32 attempt)
{
	static bool complained;
	FileMark	mark = {
		.version = MARK_VERSION, .database_id = MyDatabaseId, .live_id = live_id,
		.attempt = attempt, .job_id = job_id
	};
	off_t		at = (off_t) executor * sizeof(mark);

	mark.crc = mark_crc(&mark);
	if (file < 0)
		file = BasicOpenFile(MARK_FILE, O_RDWR | O_CREAT | PG_BINARY);
	if (file < 0 || pg_pwrite(file, &mark, sizeof(mark), at) != sizeof(mark))
	{
		/* without it, the job runs all the same */
		if (!complained)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", MARK_FILE),
					 errdetail("A handler that crashes the server now is not charged an attempt.")));
		complained = true;
	}
}

void
QueueMarkSet(int executor, int64 job_id, int32 attempt)
{
	QueueExecutor *slot = &QueueExecutors[executor];

	write_mark(executor, slot->live_id, job_id, attempt);
	SpinLockAcquire(&slot->mutex);
	slot->job_id = job_id;
	slot->attempt = attempt;
	SpinLockRelease(&slot->mutex);
}

void
QueueMarkClear(int executor)
{
	write_mark(executor, InvalidOid, 0, 0);
	LWLockAcquire(Shared->lock, LW_EXCLUSIVE);
	QueueMarks[executor].database_id = InvalidOid;
	LWLockRelease(Shared->lock);
}

bool
QueueMarkFind(const JobHead *job)
{
	Oid			live_id = QueueCatalogGet(false)->live;
	bool		found = false;

	for (int i = 0; i < queue_num_executors && !found; i++)
	{
		QueueExecutor *slot = &QueueExecutors[i];

		SpinLockAcquire(&slot->mutex);
		found = slot->state != EXECUTOR_FREE && slot->database_id == MyDatabaseId &&
			slot->live_id == live_id && slot->job_id == job->job_id &&
			slot->attempt == job->attempt;
		SpinLockRelease(&slot->mutex);
	}
	LWLockAcquire(Shared->lock, LW_SHARED);
	for (int i = 0; i < queue_num_executors && !found; i++)
		found = QueueMarks[i].database_id == MyDatabaseId && QueueMarks[i].live_id == live_id &&
			QueueMarks[i].job_id == job->job_id && QueueMarks[i].attempt == job->attempt;
	LWLockRelease(Shared->lock);
	return found;
}

bool
QueueMarkPending(const JobHead *job)
{
	Installation *installation;

	if (!job_is_reserved(job))
		return false;
	installation = QueueInstallation(QueueCatalogGet(false)->live);
	return installation && installation->maintenance && QueueMarkFind(job);
}

/*-------------------------------------------------------------------------
 *
 * faults.c
 *		A library to be preloaded into a server: it sets the clock and fills the
 *		disk when a test says so.
 *
 * The file that QUEUE_FAULTS names is mapped into every process, so a change of
 * it is seen at once by all.  It holds a Faults.
 *
 * The clock: what the wall clock tells is ahead by some microseconds.  The
 * monotonic one is left alone, as a clock that is set leaves it.
 *
 * The disk: what would make a file below base/, or below pg_wal/, longer fails
 * with ENOSPC; what is there can be overwritten, as on a disk that is full.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
/* the names as they are, without and with 64 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef struct Faults
{
	int64_t		clock_usecs;
	int32_t		data_full;
	int32_t		wal_full;
} Faults;

static volatile Faults *faults;

__attribute__((constructor))
static void
map_faults(void)
{
	const char *path = getenv("QUEUE_FAULTS");
	int			fd = path ? open(path, O_RDONLY) : -1;
	void	   *at;

	if (fd < 0)
		return;
	at = mmap(NULL, sizeof(Faults), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		faults = at;
}

/* ---------------------------------------------------------------------
 * The clock
 * --------------------------------------------------------------------- */

static int64_t
ahead(void)
{
	return faults ? faults->clock_usecs : 0;
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	static int	(*real) (clockid_t, struct timespec *);
	int			result;

	if (real == NULL)
		real = (int (*) (clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	result = real(clock, ts);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		ts->tv_sec += ahead() / 1000000;
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	(void) zone;
	return 0;
}

time_t
time(time_t *at)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (at)
		*at = ts.tv_sec;
	return ts.tv_sec;
}

/* ---------------------------------------------------------------------
 * The disk
 * --------------------------------------------------------------------- */

/* is there no room for the file to reach so far? */
static int
is_full(int fd, off_t end)
{
	char		link[64],
				path[4096];
	ssize_t		length;
	struct stat st;

	if (faults == NULL || !(faults->data_full || faults->wal_full))
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	if (!(faults->data_full && strstr(path, "/base/")) &&
		!(faults->wal_full && strstr(path, "/pg_wal/")))
		return 0;
	if (fstat(fd, &st) != 0 || end <= st.st_size)
		return 0;
	errno = ENOSPC;
	return 1;
}

static size_t
size_of(const struct iovec *iov, int count)
{
	size_t		size = 0;

	for (int i = 0; i < count; i++)
		size += iov[i].iov_len;
	return size;
}

ssize_t
write(int fd, const void *data, size_t size)
{
	static ssize_t (*real) (int, const void *, size_t);

	if (real == NULL)
		real = (ssize_t (*) (int, const void *, size_t)) dlsym(RTLD_NEXT, "write");
	if (faults && (faults->data_full || faults->wal_full) &&
		is_full(fd, lseek(fd, 0, SEEK_CUR) + (off_t) size))
		return -1;
	return real(fd, data, size);
}

#define PWRITE(name, offset_type) \
ssize_t \
name(int fd, const void *data, size_t size, offset_type offset) \
{ \
	static ssize_t (*real) (int, const void *, size_t, offset_type); \
\
	if (real == NULL) \
		real = (ssize_t (*) (int, const void *, size_t, offset_type)) dlsym(RTLD_NEXT, #name); \
	return is_full(fd, (off_t) (offset + size)) ? -1 : real(fd, data, size, offset); \
}

#define PWRITEV(name, offset_type) \
ssize_t \
name(int fd, const struct iovec *iov, int count, offset_type offset) \
{ \
	static ssize_t (*real) (int, const struct iovec *, int, offset_type); \
\
	if (real == NULL) \
		real = (ssize_t (*) (int, const struct iovec *, int, offset_type)) dlsym(RTLD_NEXT, #name); \
	return is_full(fd, (off_t) (offset + size_of(iov, count))) ? -1 : real(fd, iov, count, offset); \
}

/* these return the error */
#define FALLOCATE(name, offset_type) \
int \
name(int fd, offset_type offset, offset_type size) \
{ \
	static int (*real) (int, offset_type, offset_type); \
\
	if (real == NULL) \
		real = (int (*) (int, offset_type, offset_type)) dlsym(RTLD_NEXT, #name); \
	return is_full(fd, (off_t) (offset + size)) ? ENOSPC : real(fd, offset, size); \
}

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)
FALLOCATE(posix_fallocate, off_t)
FALLOCATE(posix_fallocate64, off64_t)

/*-------------------------------------------------------------------------
 *
 * power.c
 *		A library to be preloaded into a server: it remembers what a loss of
 *		power could take back.
 *
 * QUEUE_POWER names a directory that has the data directory as pgdata, and an
 * empty directory called power.  What is written to a file below pgdata may be
 * lost until the file is synced.  So, before it changes the first time, the old
 * content is saved, by sectors of 512 bytes; a sync throws that away.  When
 * all processes are dead, power_off() in test/lib/QueueTest.pm puts as many of
 * the old sectors back as it likes.  Since it is this which makes the loss, no
 * sync needs to reach the disk; it takes a moment, as it would, or there would
 * seldom be a commit under way.
 *
 * Two files in power belong to an inode that has changed:
 *
 *	N.map	the length that the file had when it was synced (8 bytes), then a
 *			byte for each sector, which is 1 if its old content is saved
 *	N.old	the sectors that are saved, each where it is in the file
 *
 * What lies behind that length is not saved, as it has come since.  Both files
 * are sparse.  A process that is killed between the save and the write has saved
 * what is still there.
 *
 * Locks: a change with its save, and a sync, each hold the lock of the inode,
 * a byte of power/lock, so that a sync that throws away what was saved has all
 * that was written.  Nobody holds two.  The locks are those of fcntl(), which
 * belong to a process, not to the descriptor that it got from its parent, and
 * end with it.
 *
 * The number of an inode that is removed may be given out again, so the last
 * unlink() and a rename() throw away what was saved of it, and nothing is saved
 * of a file without a name.
 *
 * What is not simulated: directories are durable at once, and so is what goes
 * through stdio (statistics, pg_internal.init, both written anew and renamed),
 * copy_file_range() and io_uring.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
/* the names as they are, without and with 64 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR		512
#define AT_ONCE		16			/* sectors: a page */
#define SYNC_USECS	1000

static char data[PATH_MAX];		/* ends with a slash */
static char power[PATH_MAX];
static dev_t device;
static int	locks = -1;

static ssize_t (*real_pwrite) (int, const void *, size_t, off_t);
static ssize_t (*real_write) (int, const void *, size_t);
static ssize_t (*real_pwritev) (int, const struct iovec *, int, off_t);
static int	(*real_fallocate) (int, off_t, off_t);
static int	(*real_ftruncate) (int, off_t);
static int	(*real_fsync) (int);
static int	(*real_fdatasync) (int);
static int	(*real_rename) (const char *, const char *);
static int	(*real_unlink) (const char *);

/* a test with half a library would prove nothing */
static void
give_up(const char *what)
{
	perror(what);
	abort();
}

#define FIND(function, name) \
	do { \
		*(void **) &(function) = dlsym(RTLD_NEXT, name); \
		if ((function) == NULL) \
			give_up(name); \
	} while (0)

__attribute__((constructor))
static void
begin(void)
{
	const char *base = getenv("QUEUE_POWER");
	char		real_base[PATH_MAX],
				path[PATH_MAX + 16];
	struct stat st;

	FIND(real_pwrite, "pwrite");
	FIND(real_write, "write");
	FIND(real_pwritev, "pwritev");
	FIND(real_fallocate, "posix_fallocate");
	FIND(real_ftruncate, "ftruncate");
	FIND(real_fsync, "fsync");
	FIND(real_fdatasync, "fdatasync");
	FIND(real_rename, "rename");
	FIND(real_unlink, "unlink");
	if (base == NULL)
		return;
	if (realpath(base, real_base) == NULL || strlen(real_base) > PATH_MAX - 64)
		give_up(base);
	stpcpy(stpcpy(data, real_base), "/pgdata/");
	stpcpy(stpcpy(power, real_base), "/power/");
	stpcpy(stpcpy(path, power), "lock");
	if (stat(data, &st) != 0)
		give_up(data);
	device = st.st_dev;
	locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (locks < 0)
		give_up(path);
}

/* ---------------------------------------------------------------------
 * Which files, and their locks
 * --------------------------------------------------------------------- */

/* a file of the data directory that has a name? */
static int
is_ours(int fd, struct stat *st)
{
	char		link[64],
				path[PATH_MAX];
	ssize_t		length;

	if (locks < 0 || fstat(fd, st) != 0 || !S_ISREG(st->st_mode) ||
		st->st_dev != device || st->st_nlink == 0)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0)
		give_up(link);
	path[length] = '\0';
	return strncmp(path, data, strlen(data)) == 0;
}

static void
set_lock(ino_t inode, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t) (inode % 1000000), .l_len = 1};

	while (fcntl(locks, F_SETLKW, &lock) != 0)
		if (errno != EINTR)
			give_up("lock");
}

static int
open_side(ino_t inode, const char *suffix)
{
	char		path[PATH_MAX + 64];
	int			fd;

	snprintf(path, sizeof(path), "%s%llu.%s", power, (unsigned long long) inode, suffix);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		give_up(path);
	return fd;
}

static int
has_changed(ino_t inode)
{
	char		path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s%llu.map", power, (unsigned long long) inode);
	return access(path, F_OK) == 0;
}

static void
remove_side(ino_t inode, const char *suffix)
{
	char		path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s%llu.%s", power, (unsigned long long) inode, suffix);
	if (real_unlink(path) != 0 && errno != ENOENT)
		give_up(path);
}

/* with the lock: what is in the file now will stay */
static void
forget(ino_t inode)
{
	/* without a map, nobody looks at the other */
	remove_side(inode, "map");
	remove_side(inode, "old");
}

/* ---------------------------------------------------------------------
 * Save
 * --------------------------------------------------------------------- */

static void
put(int fd, const void *what, size_t size, off_t at)
{
	if (real_pwrite(fd, what, size, at) != (ssize_t) size)
		give_up("power");
}

/* the file may be open to be written only */
static int
open_to_read(int fd)
{
	char		link[64];
	int			copy;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	copy = open(link, O_RDONLY | O_CLOEXEC);
	if (copy < 0)
		give_up(link);
	return copy;
}

/* what is in front of "to", and of the length, from a sector on */
static void
save_sectors(int fd, int map, ino_t inode, off_t sector, off_t to)
{
	int			file = open_to_read(fd),
				old = open_side(inode, "old");

	for (; sector * SECTOR < to; sector += AT_ONCE)
	{
		char		saved[AT_ONCE] = {0},
					content[AT_ONCE * SECTOR] = {0};

		/* both may be shorter */
		if (pread(map, saved, AT_ONCE, (off_t) sizeof(int64_t) + sector) < 0 ||
			pread(file, content, sizeof(content), sector * SECTOR) < 0)
			give_up("power");
		for (int i = 0; i < AT_ONCE && (sector + i) * SECTOR < to; i++)
			if (!saved[i])
			{
				put(old, content + i * SECTOR, SECTOR, (sector + i) * SECTOR);
				saved[i] = 1;
			}
		put(map, saved, AT_ONCE, (off_t) sizeof(int64_t) + sector);
	}
	close(old);
	close(file);
}

/* with the lock: the bytes between two offsets are about to change, or the length is */
static void
save(int fd, const struct stat *st, off_t from, off_t to)
{
	int			map = open_side(st->st_ino, "map");
	int64_t		length;

	if (pread(map, &length, sizeof(length), 0) != sizeof(length))
	{
		length = st->st_size;
		put(map, &length, sizeof(length), 0);
	}
	if (to > length)
		to = length;
	if (from < to)
		save_sectors(fd, map, st->st_ino, from / SECTOR, to);
	close(map);
}

/* the file is about to change; true if it is ours, and locked now */
static int
begin_change(int fd, struct stat *st, off_t from, off_t to)
{
	int			errno_before = errno;

	if (!is_ours(fd, st))
	{
		errno = errno_before;
		return 0;
	}
	set_lock(st->st_ino, F_WRLCK);
	/* it may have grown, or have lost its name, before we had the lock */
	if (fstat(fd, st) != 0)
		give_up("fstat");
	if (st->st_nlink > 0)
		save(fd, st, from, to < 0 ? st->st_size : to);
	errno = errno_before;
	return 1;
}

static void
end_change(const struct stat *st)
{
	int			errno_before = errno;

	set_lock(st->st_ino, F_UNLCK);
	errno = errno_before;
}

/* ---------------------------------------------------------------------
 * What PostgreSQL calls
 * --------------------------------------------------------------------- */

#define CHANGE(fd, from, to, call) \
	do { \
		struct stat st; \
		int			ours = begin_change(fd, &st, from, to); \
\
		result = call; \
		if (ours) \
			end_change(&st); \
	} while (0)

static size_t
size_of(const struct iovec *iov, int count)
{
	size_t		size = 0;

	for (int i = 0; i < count; i++)
		size += iov[i].iov_len;
	return size;
}

ssize_t
write(int fd, const void *from, size_t size)
{
	off_t		at = locks < 0 ? -1 : lseek(fd, 0, SEEK_CUR);
	ssize_t		result;

	/* a pipe or a socket */
	if (at < 0)
		return real_write(fd, from, size);
	/* what is appended changes nothing that is there */
	CHANGE(fd, at, at + (off_t) size, real_write(fd, from, size));
	return result;
}

#define PWRITE(name, offset_type) \
ssize_t \
name(int fd, const void *from, size_t size, offset_type offset) \
{ \
	ssize_t		result; \
\
	CHANGE(fd, (off_t) offset, (off_t) (offset + size), real_pwrite(fd, from, size, offset)); \
	return result; \
}

#define PWRITEV(name, offset_type) \
ssize_t \
name(int fd, const struct iovec *iov, int count, offset_type offset) \
{ \
	ssize_t		result; \
\
	CHANGE(fd, (off_t) offset, (off_t) (offset + size_of(iov, count)), real_pwritev(fd, iov, count, offset)); \
	return result; \
}

#define FALLOCATE(name, offset_type) \
int \
name(int fd, offset_type offset, offset_type size) \
{ \
	int			result; \
\
	CHANGE(fd, 0, 0, real_fallocate(fd, offset, size)); \
	return result; \
}

#define FTRUNCATE(name, offset_type) \
int \
name(int fd, offset_type length) \
{ \
	int			result; \
\
	CHANGE(fd, (off_t) length, -1, real_ftruncate(fd, length)); \
	return result; \
}

#define TRUNCATE(name, offset_type) \
int \
name(const char *path, offset_type length) \
{ \
	int			fd = open(path, O_RDWR | O_CLOEXEC), \
				result, \
				error; \
\
	if (fd < 0) \
		return -1; \
	result = ftruncate(fd, length); \
	error = errno; \
	close(fd); \
	errno = error; \
	return result; \
}

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)
FALLOCATE(posix_fallocate, off_t)
FALLOCATE(posix_fallocate64, off64_t)
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)
TRUNCATE(truncate, off_t)
TRUNCATE(truncate64, off64_t)

static int
sync_file(int fd, int (*real) (int))
{
	struct stat st;

	if (!is_ours(fd, &st))
		return real(fd);
	set_lock(st.st_ino, F_WRLCK);
	if (has_changed(st.st_ino))
		usleep(SYNC_USECS);
	forget(st.st_ino);
	set_lock(st.st_ino, F_UNLCK);
	return 0;
}

int
fsync(int fd)
{
	return sync_file(fd, real_fsync);
}

int
fdatasync(int fd)
{
	return sync_file(fd, real_fdatasync);
}

/* does nobody else have the name, so that the inode goes with it? */
static int
is_last_name(const char *path, struct stat *st)
{
	return locks >= 0 && lstat(path, st) == 0 && S_ISREG(st->st_mode) &&
		st->st_dev == device && st->st_nlink == 1;
}

int
unlink(const char *path)
{
	struct stat st;
	int			result;

	if (!is_last_name(path, &st))
		return real_unlink(path);
	set_lock(st.st_ino, F_WRLCK);
	result = real_unlink(path);
	if (result == 0)
		forget(st.st_ino);
	end_change(&st);
	return result;
}

int
rename(const char *from, const char *to)
{
	struct stat st;
	int			result;

	if (!is_last_name(to, &st))
		return real_rename(from, to);
	set_lock(st.st_ino, F_WRLCK);
	result = real_rename(from, to);
	if (result == 0)
		forget(st.st_ino);
	end_change(&st);
	return result;
}

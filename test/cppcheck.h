/*-------------------------------------------------------------------------
 *
 * cppcheck.h
 *		What cppcheck must know of the server's headers, which it does not read:
 *		where a loop is, and that an error does not return.
 *
 * Without it, it gives up a file at a loop that it cannot read.
 *
 *-------------------------------------------------------------------------
 */
#define ERROR	21
#define FATAL	22
#define PANIC	23
#define ereport(level, ...) do { if ((level) >= ERROR) abort(); } while (0)
#define elog(level, ...) ereport(level, __VA_ARGS__)
#define foreach(cell, list) for (cell = list_head(list); cell; cell = lnext(list, cell))

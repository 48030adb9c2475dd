/*-------------------------------------------------------------------------
 *
 * server.c
 *		What a fuzz target has instead of a server: see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

sigjmp_buf	fuzz_error;
MemoryContext CurrentMemoryContext;
MemoryContext TopMemoryContext;
ErrorContextCallback *error_context_stack;

/* ---------------------------------------------------------------------
 * Errors
 * --------------------------------------------------------------------- */

static int	level;

bool
errstart(int elevel, const char *domain)
{
	level = elevel;
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	if (level >= ERROR)
		siglongjmp(fuzz_error, 1);
}

/* every message is formatted, so that its arguments are tried as well */
#define FORMAT_MESSAGE(name) \
int \
name(const char *fmt,...) \
{ \
	char		message[1024]; \
	va_list		args; \
\
	va_start(args, fmt); \
	(void) vsnprintf(message, sizeof(message), fmt, args); \
	va_end(args); \
	return 0; \
}

FORMAT_MESSAGE(errmsg)
FORMAT_MESSAGE(errmsg_internal)
FORMAT_MESSAGE(errdetail)
FORMAT_MESSAGE(errhint)

int
errcode(int sqlerrcode)
{
	return 0;
}

void
ExceptionalCondition(const char *conditionName, const char *errorType, const char *fileName,
					 int lineNumber)
{
	fprintf(stderr, "%s:%d: assertion failed: %s\n", fileName, lineNumber, conditionName);
	__builtin_trap();
}

/* ---------------------------------------------------------------------
 * Memory: everything is the C library's, which the sanitizer watches
 * --------------------------------------------------------------------- */

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

/* ---------------------------------------------------------------------
 * Encodings: the database's is UTF-8
 * --------------------------------------------------------------------- */

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

char *
pg_server_to_any(const char *s, int len, int encoding)
{
	return unconstify(char *, s);
}

int
pg_mbcliplen(const char *mbstr, int len, int limit)
{
	int			clipped = 0;

	while (clipped < len && mbstr[clipped] != '\0')
	{
		int			length = pg_utf_mblen((const unsigned char *) mbstr + clipped);

		if (clipped + length > limit)
			break;
		clipped += length;
	}
	return Min(clipped, len);
}

void
escape_json(StringInfo buf, const char *str)
{
	appendStringInfoChar(buf, '"');
	for (; *str; str++)
		if (*str == '"' || *str == '\\')
			appendStringInfo(buf, "\\%c", *str);
		else if ((unsigned char) *str < ' ')
			appendStringInfo(buf, "\\u%04x", (unsigned char) *str);
		else
			appendStringInfoChar(buf, *str);
	appendStringInfoChar(buf, '"');
}

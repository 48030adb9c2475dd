/*-------------------------------------------------------------------------
 *
 * top.c
 *		queue.top(): how the queues are, in lines of text for psql's \watch.
 *
 * Read as the caller, as queue.report() is.  A line is at most 98 columns
 * wide, so that it fits 100 with psql's frame around it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "internal.h"
#include "queue.h"
#include "rows.h"

QUEUE_FUNCTION(queue_top);

#define NAME_COLUMNS	22
#define BAR_COLUMNS		12

static void
put_line(ReturnSetInfo *rsinfo, StringInfo line)
{
	Datum		value;
	bool		null = false;

	while (line->len > 0 && line->data[line->len - 1] == ' ')
		line->data[--line->len] = '\0';
	value = PointerGetDatum(cstring_to_text_with_len(line->data, line->len));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	resetStringInfo(line);
}

/* a character that turns the direction of the text around it: U+202A to U+202E, U+2066 to U+2069 */
static bool
turns(const char *name)
{
	const unsigned char *bytes = (const unsigned char *) name;

	return GetDatabaseEncoding() == PG_UTF8 && bytes[0] == 0xE2 &&
		((bytes[1] == 0x80 && bytes[2] >= 0xAA && bytes[2] <= 0xAE) ||
		 (bytes[1] == 0x81 && bytes[2] >= 0xA6 && bytes[2] <= 0xA9));
}

/* a name, cut or filled; what a terminal would obey is shown as a question mark */
static void
put_name(StringInfo line, const char *name)
{
	int			columns = 0;
	bool		whole = true;
	int			length;

	for (; *name; name += length)
	{
		int			width = pg_dsplen(name);
		bool		control = width < 0 || (unsigned char) *name < ' ' || turns(name);

		length = Min(pg_mblen(name), (int) strlen(name));
		width = control ? 1 : width;
		/* the last column is for the sign that it is cut */
		if (columns + width > NAME_COLUMNS - (name[length] != '\0'))
		{
			whole = false;
			break;
		}
		if (control)
			appendStringInfoChar(line, '?');
		else
			appendBinaryStringInfo(line, name, length);
		columns += width;
	}
	if (!whole)
	{
		appendStringInfoChar(line, '~');
		columns++;
	}
	appendStringInfoSpaces(line, NAME_COLUMNS - columns);
}

/* at most 6 columns, after a space */
static void
put_count(StringInfo line, double count)
{
	static const char units[] = " kMGT";
	int			unit = 0;

	if (isnan(count))
	{
		appendStringInfo(line, " %6s", "-");
		return;
	}
	if (count < 99999.5)
	{
		appendStringInfo(line, " %6.0f", count);
		return;
	}
	for (; count >= 999.5 && units[unit + 1]; unit++)
		count /= 1000;
	appendStringInfo(line, " %5.*f%c", count < 99.95 ? 1 : 0, count, units[unit]);
}

static void
put_rate(StringInfo line, double rate)
{
	if (isnan(rate) || rate >= 999.5)
		put_count(line, rate);
	else
		appendStringInfo(line, " %6.*f", rate > 0 && rate < 99.95 ? 1 : 0, rate);
}

static void
put_age(StringInfo line, double seconds)
{
	char		age[32];

	if (isnan(seconds))
		strcpy(age, "-");
	else if (seconds < 60)
		snprintf(age, sizeof(age), "%ds", (int) seconds);
	else if (seconds < 3600)
		snprintf(age, sizeof(age), "%dm%02ds", (int) (seconds / 60), (int) fmod(seconds, 60));
	else if (seconds < 86400)
		snprintf(age, sizeof(age), "%dh%02dm", (int) (seconds / 3600),
				 (int) fmod(seconds / 60, 60));
	else if (seconds < 86400 * 100.0)
		snprintf(age, sizeof(age), "%dd%02dh", (int) (seconds / 86400),
				 (int) fmod(seconds / 3600, 24));
	else
		snprintf(age, sizeof(age), "%.0fd", Min(seconds / 86400, 99999));
	appendStringInfo(line, " %6s", age);
}

/* what is unfinished: active, waiting, and what cannot run yet */
static void
put_bar(StringInfo line, const double *jobs, double most)
{
	static const char *const blocks[] = {"\xE2\x96\x88", "\xE2\x96\x93", "\xE2\x96\x91"};
	static const char *const plain[] = {"#", "=", "-"};
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8 && pg_get_client_encoding() == PG_UTF8;
	int			left = BAR_COLUMNS;

	appendStringInfoChar(line, ' ');
	for (int i = 0; i < 3; i++)
	{
		/* a few are seen, too */
		int			columns = jobs[i] > 0 ? (int) ceil(jobs[i] / most * (BAR_COLUMNS - 2)) : 0;

		for (columns = Min(columns, left); columns > 0; columns--, left--)
			appendStringInfoString(line, utf8 ? blocks[i] : plain[i]);
	}
	appendStringInfoSpaces(line, left);
}

static const char *
state_of(const Rows *rows, int row)
{
	if (QueueRowsTruth(rows, row, "paused"))
		return "paused";
	if (QueueRowsTruth(rows, row, "throttled"))
		return "thrott";
	if (QueueRowsTruth(rows, row, "stopped"))
		return "stopped";
	return QueueRowsTruth(rows, row, "is_full") ? "full" : "";
}

/* NaN, which is what is not known, counts for nothing */
static double
known(double value)
{
	return isnan(value) ? 0 : value;
}

static void
read_jobs(const Rows *rows, int row, double *jobs)
{
	jobs[0] = known(QueueRowsNumber(rows, row, "active"));
	jobs[1] = known(QueueRowsNumber(rows, row, "waiting"));
	jobs[2] = known(QueueRowsNumber(rows, row, "parked"));
}

static void
put_queue(StringInfo line, const Rows *rows, int row, double most)
{
	double		jobs[3];

	read_jobs(rows, row, jobs);
	put_name(line, QueueRowsText(rows, row, "queue_name"));
	put_bar(line, jobs, most);
	put_count(line, QueueRowsNumber(rows, row, "waiting"));
	put_count(line, QueueRowsNumber(rows, row, "active"));
	put_count(line, QueueRowsNumber(rows, row, "parked"));
	put_count(line, QueueRowsNumber(rows, row, "failed"));
	put_age(line, QueueRowsNumber(rows, row, "oldest"));
	put_rate(line, QueueRowsNumber(rows, row, "enqueue_rate"));
	put_rate(line, QueueRowsNumber(rows, row, "completion_rate"));
	appendStringInfo(line, " %4.0f %s", Min(QueueRowsNumber(rows, row, "workers"), 9999),
					 state_of(rows, row));
}

static const char top_query[] =
"SELECT s.*, s.delayed + s.blocked AS parked, extract(epoch FROM s.oldest_waiting_age) AS oldest,"
" s.throttled_until > clock_timestamp() AS throttled,"
" q.handler IS NOT NULL AND NOT q.processing AS stopped,"
" s.waiting + s.delayed + s.blocked + s.active >= q.max_depth AS is_full,"
" coalesce(w.workers, 0) AS workers"
" FROM queue.queue_stats() AS s JOIN queue.queue AS q ON q.queue_name = s.queue_name"
" LEFT JOIN (SELECT queue_name, count(*) AS workers FROM queue.worker GROUP BY queue_name) AS w"
" ON w.queue_name = s.queue_name"
" ORDER BY date_trunc('minute', s.oldest_waiting_age) DESC NULLS LAST, s.failed DESC, s.waiting DESC, s.queue_name";

Datum
queue_top(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StringInfoData line;
	Rows		rows;
	double		most = 1;
	int			shown;
	int			nest_level;

	if (PG_ARGISNULL(0))
		QueueErrorNull("max_queues", "Leave it out to get 20 queues.");
	if (PG_GETARG_INT32(0) < 1)
		QueueErrorRange("max_queues", PG_GETARG_INT32(0), 1, PG_INT32_MAX);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	initStringInfo(&line);
	nest_level = QueueRowsBegin();
	rows = QueueRowsQuery(top_query, 0, NULL, NULL);
	shown = Min(rows.count, PG_GETARG_INT32(0));
	for (int i = 0; i < shown; i++)
	{
		double		jobs[3];

		read_jobs(&rows, i, jobs);
		most = Max(most, jobs[0] + jobs[1] + jobs[2]);
	}
	appendStringInfo(&line, "%-22s %-12s %6s %6s %6s %6s %6s %6s %6s %4s", "queue", "jobs", "wait",
					 "active", "parked", "failed", "oldest", "in/s", "out/s", "work");
	put_line(rsinfo, &line);
	for (int i = 0; i < shown; i++)
	{
		put_queue(&line, &rows, i, most);
		put_line(rsinfo, &line);
	}
	if (rows.count > shown)
	{
		appendStringInfo(&line, "and %d more", rows.count - shown);
		put_line(rsinfo, &line);
	}
	QueueRowsEnd(nest_level);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * report.c
 *		queue.report(): one page of HTML that tells how the queues are.
 *
 * All of it is read by SQL as the caller, with nobody's operators but the
 * system's: privileges and row security decide what is in it, as for any
 * query.  Nothing is locked or changed, and one snapshot, the calling
 * query's, serves for all sections; counters in shared memory, workers and
 * progress are of the moment.  It works on a standby, where there are no
 * counters.
 *
 * Everything is bounded: so many queues, errors, workers and batches are
 * shown, those first that need attention; of the others there is a number.
 * What is not ours, goes through QueueHtmlText().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "html.h"
#include "queue.h"
#include "rows.h"

QUEUE_FUNCTION(queue_report);

#define MAX_QUEUES		100
#define MAX_ALERTS		50
#define OPEN_ALERTS		12
#define MAX_FAILING		50		/* queues whose errors are looked at */
#define MAX_LOOK		"200"	/* failed jobs of each */
#define MAX_GROUPS		20
#define MAX_WORKERS		50
#define MAX_BATCHES		20
#define MAX_SCHEDULES	50

#define NAME_CHARS		80
#define ERROR_CHARS		600
#define PAYLOAD_CHARS	600

/* the history is shown in points of 5 minutes */
#define HISTORY_POINTS	72
#define POINT_MINUTES	5
#define HISTORY_START	"(statement_timestamp() - interval '6 hours')"

typedef struct Report
{
	StringInfoData out;
	Rows		queues;			/* all, in the order to show them */
	int			shown;			/* so many of them */
	StringInfoData nav;			/* links to the sections so far */
	bool		health;			/* queue.health_alerts() may be called */
	Rows		alerts;			/* the worst first, if it may */
	/* of the last hours, if there are any; by point, see read_history() */
	bool		history;
	double	   *waiting;		/* the points of each queue shown */
	double	   *enqueued;		/* of all of them, per minute */
	double	   *completed;
	double	   *failed;
	double	   *wait;			/* seconds of the slowest */
	double	   *processing;
} Report;

/* may the caller use what another part of the extension may have made? */
static bool
usable(const char *condition)
{
	Rows		rows = QueueRowsQuery(psprintf("SELECT %s AS usable", condition), 0, NULL, NULL);

	return QueueRowsTruth(&rows, 0, "usable");
}

static bool
readable(const char *relation)
{
	return usable(psprintf("has_table_privilege(to_regclass('queue.%s'), 'SELECT')", relation));
}

/* an array of one column of the first rows */
static Datum
column_array(const Rows *rows, int count, const char *column, Oid type)
{
	Datum	   *values = palloc(Max(count, 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		values[i] = type == INT4OID ? Int32GetDatum(atoi(QueueRowsText(rows, i, column))) :
			CStringGetTextDatum(QueueRowsText(rows, i, column));
	return PointerGetDatum(type == INT4OID ?
						   construct_array(values, count, INT4OID, 4, true, TYPALIGN_INT) :
						   construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ---------------------------------------------------------------------
 * Pieces of the page
 * --------------------------------------------------------------------- */

#define put(report, string) appendStringInfoString(&(report)->out, string)

/* a name of somebody's, which may run from right to left */
static void
put_name(Report *report, const char *name)
{
	put(report, "<bdi>");
	QueueHtmlText(&report->out, name, NAME_CHARS);
	put(report, "</bdi>");
}

/* a cell with a column's name, which a narrow window shows */
static void
begin_cell(Report *report, const char *label, const char *class)
{
	appendStringInfo(&report->out, "<td data-l=\"%s\"%s%s%s>", label,
					 class ? " class=\"" : "", class ? class : "", class ? "\"" : "");
}

static void
put_count(Report *report, const char *label, double count)
{
	/* a narrow window leaves out what says nothing */
	begin_cell(report, label, count > 0 ? "n" : "n none");
	QueueHtmlCount(&report->out, count);
	put(report, "</td>");
}

/* failed ones stand out */
static void
put_failed(Report *report, double count)
{
	begin_cell(report, "failed", count > 0 ? "n bad" : "n none");
	QueueHtmlCount(&report->out, count);
	put(report, "</td>");
}

static void
put_duration(Report *report, const char *label, double seconds)
{
	begin_cell(report, label, isnan(seconds) ? "n none" : "n");
	QueueHtmlDuration(&report->out, seconds);
	put(report, "</td>");
}

static void
put_text(Report *report, const char *label, const char *text)
{
	begin_cell(report, label, text ? "label" : "label none");
	if (text)
		put_name(report, text);
	else
		put(report, "&#x2013;");
	put(report, "</td>");
}

static void
put_pill(Report *report, const char *class, const char *label)
{
	appendStringInfo(&report->out, "<span class=\"pill %s\">%s</span>", class, label);
}

/* id: what the link at the top of the page leads to */
static void
begin_section(Report *report, const char *id, const char *title, const char *remark)
{
	appendStringInfo(&report->nav, "<a href=\"#%s\">%s</a>\n", id, title);
	appendStringInfo(&report->out, "<section id=\"%s\"><h2>%s%s%s%s</h2>\n", id, title,
					 remark ? " <small>" : "", remark ? remark : "", remark ? "</small>" : "");
}

/* columns: their names; one that begins with # is of numbers */
static void
begin_table(Report *report, const char *const *columns, int count)
{
	put(report, "<div class=\"card scroll\"><table><thead><tr>");
	for (int i = 0; i < count; i++)
		appendStringInfo(&report->out, "<th scope=\"col\"%s>%s</th>",
						 columns[i][0] == '#' ? " class=\"n\"" : "",
						 columns[i] + (columns[i][0] == '#'));
	put(report, "</tr></thead><tbody>\n");
}

static void
end_table(Report *report, double left, const char *what)
{
	put(report, "</tbody></table></div>\n");
	if (left > 0)
	{
		put(report, "<p class=\"note\">and ");
		QueueHtmlCount(&report->out, left);
		appendStringInfo(&report->out, " more %s.</p>\n", what);
	}
	put(report, "</section>\n");
}

/* ---------------------------------------------------------------------
 * What is read first
 * --------------------------------------------------------------------- */

static void
read_queues(Report *report)
{
	const char *alerts = report->health ?
		"SELECT queue_name, max(CASE severity WHEN 'critical' THEN 3 WHEN 'warning' THEN 2 ELSE 1 END) AS rank"
		" FROM queue.health_alerts() GROUP BY queue_name" :
		"SELECT null::text AS queue_name, 0 AS rank WHERE false";

	report->queues = QueueRowsQuery(psprintf("SELECT q.queue_id, q.handler, q.processing, q.mode, q.max_depth, s.*,"
									" extract(epoch FROM s.oldest_waiting_age) AS oldest,"
									" s.throttled_until > clock_timestamp() AS throttled"
									" FROM queue.queue_stats() AS s JOIN queue.queue AS q"
									" ON q.queue_name = s.queue_name"
									" LEFT JOIN (%s) AS a ON a.queue_name = s.queue_name"
									" ORDER BY coalesce(a.rank, 0) DESC, date_trunc('minute', s.oldest_waiting_age) DESC NULLS LAST,"
									" s.failed DESC, s.waiting DESC, s.queue_name", alerts),
						   0, NULL, NULL);
	report->shown = Min(report->queues.count, MAX_QUEUES);
}

static void
read_alerts(Report *report)
{
	if (report->health)
		report->alerts = QueueRowsQuery("SELECT * FROM queue.health_alerts() AS a"
										" ORDER BY CASE a.severity WHEN 'critical' THEN 1 WHEN 'warning' THEN 2 ELSE 3 END,"
										" a.queue_name NULLS FIRST, a.code", 0, NULL, NULL);
}

static double *
new_points(int count, double value)
{
	double	   *points = palloc(count * sizeof(double));

	for (int i = 0; i < count; i++)
		points[i] = value;
	return points;
}

static void
take_greatest(double *point, double value)
{
	if (!isnan(value) && !(*point >= value))
		*point = value;
}

static void
take_sum(double *point, double value)
{
	if (!isnan(value))
		*point += value;
}

/* the minutes of the queues shown, in points */
static Rows
query_history(const Report *report)
{
	Oid			type = INT4ARRAYOID;
	Datum		value = column_array(&report->queues, report->shown, "queue_id", INT4OID);

	/* a row for each minute of each queue: nothing dear in the inner query */
	return QueueRowsQuery(psprintf("SELECT array_position($1, p.queue_id) - 1 AS queue,"
								   " round(extract(epoch FROM p.bin - " HISTORY_START ") / (60 * %d)) AS point, p.*"
								   " FROM (SELECT h.queue_id, date_bin('%d minutes', h.at, " HISTORY_START ") AS bin,"
								   "  avg(h.waiting) AS waiting, sum(h.enqueued_count)::float8 / %d AS enqueued,"
								   "  sum(h.completed_count)::float8 / %d AS completed,"
								   "  sum(h.failed_count)::float8 / %d AS failed,"
								   "  max(h.wait_p95_ms) / 1000 AS wait, max(h.processing_p95_ms) / 1000 AS processing"
								   "  FROM queue.metric_history AS h"
								   "  WHERE h.at >= " HISTORY_START " AND h.queue_id = ANY ($1) GROUP BY 1, 2) AS p",
								   POINT_MINUTES, POINT_MINUTES, POINT_MINUTES, POINT_MINUTES,
								   POINT_MINUTES), 1, &type, &value);
}

static void
read_history(Report *report)
{
	Rows		rows;

	if (report->shown == 0 || !readable("metric_history"))
		return;
	rows = query_history(report);
	report->history = rows.count > 0;
	report->waiting = new_points(report->shown * HISTORY_POINTS, NAN);
	report->enqueued = new_points(HISTORY_POINTS, 0);
	report->completed = new_points(HISTORY_POINTS, 0);
	report->failed = new_points(HISTORY_POINTS, 0);
	report->wait = new_points(HISTORY_POINTS, NAN);
	report->processing = new_points(HISTORY_POINTS, NAN);
	for (int i = 0; i < rows.count; i++)
	{
		int			queue = (int) QueueRowsNumber(&rows, i, "queue");
		int			point = (int) QueueRowsNumber(&rows, i, "point");

		if (point < 0 || point >= HISTORY_POINTS)
			continue;
		report->waiting[queue * HISTORY_POINTS + point] = QueueRowsNumber(&rows, i, "waiting");
		take_sum(&report->enqueued[point], QueueRowsNumber(&rows, i, "enqueued"));
		take_sum(&report->completed[point], QueueRowsNumber(&rows, i, "completed"));
		take_sum(&report->failed[point], QueueRowsNumber(&rows, i, "failed"));
		take_greatest(&report->wait[point], QueueRowsNumber(&rows, i, "wait"));
		take_greatest(&report->processing[point], QueueRowsNumber(&rows, i, "processing"));
	}
}

/* ---------------------------------------------------------------------
 * The top of the page
 * --------------------------------------------------------------------- */

static void
put_header(Report *report)
{
	Rows		rows = QueueRowsQuery("SELECT current_database() AS database,"
							 " coalesce(nullif(current_setting('cluster_name'), ''),"
							 "  host(inet_server_addr()) || ' port ' || inet_server_port(), 'local server') AS server,"
							 " current_setting('server_version') AS version, pg_is_in_recovery() AS standby,"
							 " to_char(now(), 'YYYY-MM-DD HH24:MI:SS TZ') AS at, current_user AS role,"
							 " to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS iso,"
							 " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) AS up",
							 0, NULL, NULL);

	QueueHtmlHead(&report->out);
	put(report, "<title>Queues of ");
	QueueHtmlText(&report->out, QueueRowsText(&rows, 0, "database"), NAME_CHARS);
	put(report, "</title>\n</head>\n<body>\n<header>\n<h1>Queues of ");
	put_name(report, QueueRowsText(&rows, 0, "database"));
	put(report, "</h1>\n<p>");
	put_name(report, QueueRowsText(&rows, 0, "server"));
	put(report, QueueRowsTruth(&rows, 0, "standby") ? ", a standby" : "");
	put(report, ", PostgreSQL ");
	QueueHtmlText(&report->out, QueueRowsText(&rows, 0, "version"), NAME_CHARS);
	put(report, ", up for ");
	QueueHtmlDuration(&report->out, QueueRowsNumber(&rows, 0, "up"));
	put(report, ". As ");
	put_name(report, QueueRowsText(&rows, 0, "role"));
	appendStringInfo(&report->out, " sees it, at <time datetime=\"%s\">", QueueRowsText(&rows, 0, "iso"));
	QueueHtmlText(&report->out, QueueRowsText(&rows, 0, "at"), NAME_CHARS);
	put(report, "</time>.</p>\n</header>\n");
}

static const char *const states[] = {"waiting", "active", "delayed", "blocked", "failed", "completed"};

/* of all queues, not of those shown only */
static void
put_sums(Report *report)
{
	put(report, "<dl class=\"sums\">\n");
	for (int s = 0; s < lengthof(states); s++)
	{
		double		sum = 0;

		for (int i = 0; i < report->queues.count; i++)
			sum += QueueRowsNumber(&report->queues, i, states[s]);
		appendStringInfo(&report->out, "<div class=\"card\"><dt class=\"key k-%s\">%s</dt><dd>",
						 states[s], states[s]);
		QueueHtmlCount(&report->out, sum);
		put(report, "</dd></div>\n");
	}
	put(report, "</dl>\n");
}

static const char *
severity_class(const char *severity)
{
	if (severity && strcmp(severity, "critical") == 0)
		return "critical";
	return severity && strcmp(severity, "warning") == 0 ? "warning" : "info";
}

static void
put_alert(Report *report, const Rows *rows, int row)
{
	const char *class = severity_class(QueueRowsText(rows, row, "severity"));

	appendStringInfo(&report->out, "<li class=\"%s\"><p>", class);
	put_pill(report, class, class);
	put(report, "<span class=\"name\">");
	if (QueueRowsText(rows, row, "queue_name"))
		put_name(report, QueueRowsText(rows, row, "queue_name"));
	else
		put(report, "the server");
	put(report, "</span></p><div><p class=\"text\"><bdi>");
	QueueHtmlText(&report->out, QueueRowsText(rows, row, "message"), ERROR_CHARS);
	put(report, "</bdi></p><p class=\"mute\">");
	if (QueueRowsText(rows, row, "recommendation"))
	{
		put(report, "<bdi class=\"text\">");
		QueueHtmlText(&report->out, QueueRowsText(rows, row, "recommendation"), ERROR_CHARS);
		put(report, "</bdi> ");
	}
	put(report, "<code>");
	put_name(report, QueueRowsText(rows, row, "code"));
	put(report, "</code></p></div></li>\n");
}

static int
count_alerts(const Rows *alerts, const char *severity)
{
	int			count = 0;

	for (int i = 0; i < alerts->count; i++)
		count += strcmp(severity_class(QueueRowsText(alerts, i, "severity")), severity) == 0;
	return count;
}

/* "1 critical, 2 warnings", of all of them; NULL if there are none */
static const char *
summary(const Rows *alerts)
{
	int			critical = count_alerts(alerts, "critical");
	int			warnings = count_alerts(alerts, "warning");
	int			infos = count_alerts(alerts, "info");
	StringInfoData text;

	initStringInfo(&text);
	if (critical > 0)
		appendStringInfo(&text, "%d critical", critical);
	if (warnings > 0)
		appendStringInfo(&text, "%s%d warning%s", text.len > 0 ? ", " : "", warnings,
						 warnings > 1 ? "s" : "");
	if (infos > 0)
		appendStringInfo(&text, "%s%d info", text.len > 0 ? ", " : "", infos);
	return text.len > 0 ? text.data : NULL;
}

/* the critical ones are open to the eye, of the others the first */
static void
put_problems(Report *report)
{
	const Rows *alerts = &report->alerts;
	int			shown = Min(alerts->count, MAX_ALERTS);
	int			open = Max(count_alerts(alerts, "critical"), OPEN_ALERTS);

	if (!report->health)
		return;
	begin_section(report, "problems", "Problems", summary(alerts));
	if (shown == 0)
		put(report, "<p class=\"card allgood\">No problems.</p>\n");
	else
		put(report, "<ul class=\"card alerts\">\n");
	for (int i = 0; i < shown; i++)
	{
		if (i == open)
			appendStringInfo(&report->out, "</ul>\n<details><summary>%d more</summary>\n"
							 "<ul class=\"card alerts\">\n", shown - open);
		put_alert(report, alerts, i);
	}
	if (shown > 0)
		put(report, shown > open ? "</ul></details>\n" : "</ul>\n");
	if (alerts->count > shown)
		appendStringInfo(&report->out, "<p class=\"note\">and %d that are not shown.</p>\n",
						 alerts->count - shown);
	put(report, "</section>\n");
}

/* ---------------------------------------------------------------------
 * Queues
 * --------------------------------------------------------------------- */

static void
put_flags(Report *report, int row)
{
	const Rows *queues = &report->queues;

	if (QueueRowsTruth(queues, row, "paused"))
		put_pill(report, "warning", "paused");
	if (QueueRowsTruth(queues, row, "throttled"))
		put_pill(report, "warning", "throttled");
	if (QueueRowsText(queues, row, "handler") && !QueueRowsTruth(queues, row, "processing"))
		put_pill(report, "warning", "processing stopped");
	if (QueueRowsNumber(queues, row, "waiting") + QueueRowsNumber(queues, row, "delayed") + QueueRowsNumber(queues, row, "blocked") +
		QueueRowsNumber(queues, row, "active") >= QueueRowsNumber(queues, row, "max_depth"))
		put_pill(report, "critical", "full");
	if (QueueRowsNumber(queues, row, "active") >= QueueRowsNumber(queues, row, "max_active"))
		put_pill(report, "info", "at max_active");
	if (strcmp(QueueRowsText(queues, row, "mode"), "queued") != 0)
		put_pill(report, "", QueueRowsText(queues, row, "mode"));
}

/* jobs a second, or what is known of them */
static void
put_rate(Report *report, const char *label, double rate)
{
	begin_cell(report, label, rate > 0 ? "n" : "n none");
	if (isnan(rate))
		put(report, "&#x2013;");
	else if (rate == 0)
		put(report, "0");
	else
		appendStringInfo(&report->out, rate < 9.95 ? "%.2g/s" : "%.0f/s", rate);
	put(report, "</td>");
}

/*
 * The line of a queue: its waiting jobs.  A queue at rest has no rows: what it
 * had in its last one, it has still.  One point is no line.
 */
static void
put_spark(Report *report, int row)
{
	double	   *points = report->waiting + row * HISTORY_POINTS;
	double		last = NAN;
	double		most = 0;
	int			known = 0;

	for (int i = 0; i < HISTORY_POINTS; i++)
	{
		last = points[i] = isnan(points[i]) ? last : points[i];
		known += !isnan(last);
		take_greatest(&most, last);
	}
	begin_cell(report, "6 hours", known > 1 && most > 0 ? "sparkcell" : "sparkcell none");
	if (known > 1)
		QueueHtmlSpark(&report->out, points, HISTORY_POINTS, "waiting jobs over the last 6 hours");
	else
		put(report, "&#x2013;");
	put(report, "</td>");
}

static void
put_queue(Report *report, int row)
{
	const Rows *queues = &report->queues;
	HtmlPart	parts[5];

	for (int s = 0; s < lengthof(parts); s++)
		parts[s] = (HtmlPart)
	{
		states[s], states[s], QueueRowsNumber(queues, row, states[s])
	};
	put(report, "<tr><td><span class=\"name\">");
	put_name(report, QueueRowsText(queues, row, "queue_name"));
	put(report, "</span> ");
	put_flags(report, row);
	put(report, "</td><td class=\"barcell\">");
	QueueHtmlBar(&report->out, parts, lengthof(parts));
	put(report, "</td>");
	for (int s = 0; s < lengthof(parts) - 1; s++)
		put_count(report, states[s], QueueRowsNumber(queues, row, states[s]));
	put_failed(report, QueueRowsNumber(queues, row, "failed"));
	put_duration(report, "oldest", QueueRowsNumber(queues, row, "oldest"));
	put_rate(report, "in", QueueRowsNumber(queues, row, "enqueue_rate"));
	put_rate(report, "out", QueueRowsNumber(queues, row, "completion_rate"));
	put_duration(report, "wait p95", QueueRowsNumber(queues, row, "wait_p95_ms") / 1000);
	if (report->history)
		put_spark(report, row);
	put(report, "</tr>\n");
}

static void
put_queues(Report *report)
{
	static const char *const columns[] = {"queue", "jobs", "#waiting", "#active", "#delayed", "#blocked",
		"#failed", "#oldest", "#in", "#out", "#wait p95", "6 hours"};

	begin_section(report, "queues", "Queues", "what needs attention first");
	if (report->queues.count == 0)
	{
		put(report, "<p class=\"card empty\">There is no queue yet, or none that you may browse."
			" Make one: <code>SELECT queue.create_queue(&#x27;emails&#x27;);</code></p></section>\n");
		return;
	}
	begin_table(report, columns, lengthof(columns) - !report->history);
	for (int i = 0; i < report->shown; i++)
		put_queue(report, i);
	end_table(report, report->queues.count - report->shown, "queues");
}

/* ---------------------------------------------------------------------
 * Charts
 * --------------------------------------------------------------------- */

static const char *const *
point_times(void)
{
	const char **times = palloc(HISTORY_POINTS * sizeof(char *));
	Rows		rows = QueueRowsQuery(psprintf("SELECT to_char(statement_timestamp() + (i - %d) * interval '%d minutes',"
									  " 'HH24:MI') AS at FROM generate_series(1, %d) AS i",
									  HISTORY_POINTS, POINT_MINUTES, HISTORY_POINTS), 0, NULL, NULL);

	for (int i = 0; i < HISTORY_POINTS; i++)
		times[i] = QueueRowsText(&rows, i, "at");
	return times;
}

static void
put_charts(Report *report)
{
	HtmlSeries	throughput[] = {
		{"enqueued", "enqueued", report->enqueued},
		{"completed", "completed", report->completed},
		{"failed", "failed", report->failed},
	};
	HtmlSeries	latency[] = {
		{"wait p95", "wait", report->wait},
		{"processing p95", "p95", report->processing},
	};
	const char *const *times;

	if (!report->history)
		return;
	times = point_times();
	begin_section(report, "hours", "The last 6 hours", report->queues.count > report->shown ?
				  "of the queues above" : NULL);
	put(report, "<div class=\"charts\">\n");
	QueueHtmlChart(&report->out, "Throughput", "jobs per minute", throughput, lengthof(throughput),
				   times, HISTORY_POINTS);
	QueueHtmlChart(&report->out, "Latency", "seconds, of the slowest queue", latency, lengthof(latency),
				   times, HISTORY_POINTS);
	put(report, "</div></section>\n");
}

/* ---------------------------------------------------------------------
 * Failed jobs
 * --------------------------------------------------------------------- */

/* errors that differ by numbers only are one; of the newest failed jobs of each queue */
static Rows
read_failures(Report *report)
{
	Oid			types[2] = {INT4ARRAYOID, TEXTARRAYOID};
	Datum		values[2];
	Rows		failing = QueueRowsQuery(psprintf("SELECT q.queue_id, q.queue_name"
										 " FROM queue.queue_stats() AS s JOIN queue.queue AS q"
										 " ON q.queue_name = s.queue_name"
										 " WHERE coalesce(s.failed, 1) > 0 ORDER BY s.failed DESC LIMIT %d",
										 MAX_FAILING), 0, NULL, NULL);

	values[0] = column_array(&failing, failing.count, "queue_id", INT4OID);
	values[1] = column_array(&failing, failing.count, "queue_name", TEXTOID);
	return QueueRowsQuery("SELECT q.queue_name, count(*) AS jobs, count(*) OVER () AS groups,"
				 " (array_agg(f.error ORDER BY f.finished_at DESC))[1] AS error,"
				 " (array_agg(f.payload ORDER BY f.finished_at DESC))[1] AS payload,"
				 " (array_agg(f.worker ORDER BY f.finished_at DESC))[1] AS worker,"
				 " (array_agg(f.attempt ORDER BY f.finished_at DESC))[1] AS attempt,"
				 " array_to_string((array_agg(f.job_id ORDER BY f.finished_at DESC))[1:3], ', ') AS job_ids,"
				 " to_char(max(f.finished_at), 'YYYY-MM-DD HH24:MI:SS') AS at,"
				 " extract(epoch FROM clock_timestamp() - max(f.finished_at)) AS age"
				 " FROM unnest($1, $2) AS q (queue_id, queue_name), LATERAL ("
				 "  SELECT a.job_id, left(a.error, 2000) AS error, left(a.payload::text, 1000) AS payload,"
				 "   a.worker, a.attempt, a.finished_at"
				 "  FROM queue.job_archive AS a WHERE a.queue_id = q.queue_id AND a.state = 'f'"
				 "  ORDER BY a.finished_at DESC LIMIT " MAX_LOOK ") AS f"
				 " GROUP BY q.queue_name, regexp_replace(left(f.error, 300), '[0-9]+', '0', 'g')"
				 " ORDER BY max(f.finished_at) DESC LIMIT 20", 2, types, values);
}

static void
put_failure(Report *report, const Rows *rows, int row)
{
	put(report, "<tr><td><span class=\"name\">");
	put_name(report, QueueRowsText(rows, row, "queue_name"));
	put(report, "</span></td>");
	put_count(report, "jobs", QueueRowsNumber(rows, row, "jobs"));
	begin_cell(report, "error", "wide errcell");
	if (QueueRowsText(rows, row, "error"))
	{
		put(report, "<code class=\"text\"><bdi>");
		QueueHtmlText(&report->out, QueueRowsText(rows, row, "error"), ERROR_CHARS);
		put(report, "</bdi></code>");
	}
	else
		put(report, "<span class=\"mute\">no error was told</span>");
	put(report, "<details><summary>newest payload</summary><code><bdi>");
	QueueHtmlText(&report->out, QueueRowsText(rows, row, "payload"), PAYLOAD_CHARS);
	put(report, "</bdi></code></details></td>");
	begin_cell(report, "newest", "n");
	appendStringInfo(&report->out, "<span><time title=\"%s\">", QueueRowsText(rows, row, "at"));
	QueueHtmlDuration(&report->out, QueueRowsNumber(rows, row, "age"));
	put(report, " ago</time></span></td>");
	begin_cell(report, "job", "ids");
	put(report, QueueRowsText(rows, row, "job_ids"));
	put(report, "</td>");
	put_text(report, "worker", QueueRowsText(rows, row, "worker"));
	put(report, "</tr>\n");
}

static void
put_failures(Report *report)
{
	static const char *const columns[] = {"queue", "#jobs", "error", "#newest", "job", "worker"};
	Rows		rows = read_failures(report);

	begin_section(report, "failed", "Failed jobs", "newest first, by error; of each queue the newest " MAX_LOOK);
	if (rows.count == 0)
	{
		put(report, "<p class=\"card empty\">No job has failed for good.</p></section>\n");
		return;
	}
	begin_table(report, columns, lengthof(columns));
	for (int i = 0; i < rows.count; i++)
		put_failure(report, &rows, i);
	end_table(report, QueueRowsNumber(&rows, 0, "groups") - rows.count, "errors");
}

/* ---------------------------------------------------------------------
 * Workers, batches, schedules
 * --------------------------------------------------------------------- */

static void
put_worker(Report *report, const Rows *rows, int row)
{
	const char *state = QueueRowsText(rows, row, "state");

	put(report, "<tr><td><span class=\"name\">");
	put_name(report, QueueRowsText(rows, row, "worker"));
	put(report, "</span> ");
	put_pill(report, strcmp(state, "busy") == 0 ? "good" : state, state);
	put(report, "</td>");
	put_text(report, "queue", QueueRowsText(rows, row, "queue_name"));
	put_text(report, "kind", QueueRowsText(rows, row, "kind"));
	put_text(report, "role", QueueRowsText(rows, row, "role"));
	put_text(report, "job", QueueRowsText(rows, row, "job_id"));
	put_duration(report, "for", QueueRowsNumber(rows, row, "busy"));
	put_count(report, "done", QueueRowsNumber(rows, row, "done"));
	put_failed(report, QueueRowsNumber(rows, row, "failed"));
	put_duration(report, "mean", QueueRowsNumber(rows, row, "mean_ms") / 1000);
	put_duration(report, "heard of", QueueRowsNumber(rows, row, "silent"));
	put(report, "</tr>\n");
}

static void
put_workers(Report *report)
{
	static const char *const columns[] = {"worker", "queue", "kind", "role", "job", "#for", "#done",
		"#failed", "#mean", "#heard of"};
	Rows		rows = QueueRowsQuery(psprintf("SELECT w.*, extract(epoch FROM clock_timestamp() - w.job_since) AS busy,"
									  " extract(epoch FROM clock_timestamp() - w.last_heartbeat) AS silent,"
									  " count(*) OVER () AS workers FROM queue.worker AS w"
									  " ORDER BY w.state <> 'stale', w.state <> 'busy', w.job_since, w.worker LIMIT %d",
									  MAX_WORKERS), 0, NULL, NULL);

	begin_section(report, "workers", "Workers", NULL);
	if (rows.count == 0)
	{
		put(report, "<p class=\"card empty\">None that is told of: no handler runs, and no worker"
			" outside calls queue.heartbeat().</p></section>\n");
		return;
	}
	begin_table(report, columns, lengthof(columns));
	for (int i = 0; i < rows.count; i++)
		put_worker(report, &rows, i);
	end_table(report, QueueRowsNumber(&rows, 0, "workers") - rows.count, "workers");
}

static void
put_batch(Report *report, const Rows *rows, int row)
{
	double		failed = QueueRowsNumber(rows, row, "failed");
	double		total = QueueRowsNumber(rows, row, "total");
	HtmlPart	parts[] = {
		{"completed", "completed", QueueRowsNumber(rows, row, "processed")},
		{"failed", "failed", failed},
		{"cancelled", "cancelled", QueueRowsNumber(rows, row, "cancelled")},
		{"open", "track", QueueRowsNumber(rows, row, "open")},
	};

	put(report, "<tr><td><span class=\"name\">");
	put_name(report, QueueRowsText(rows, row, "batch_id"));
	put(report, "</span> ");
	put_pill(report, "info", QueueRowsText(rows, row, "status"));
	put(report, "</td><td class=\"barcell\">");
	QueueHtmlBar(&report->out, parts, lengthof(parts));
	put(report, "</td>");
	begin_cell(report, "done", "n");
	appendStringInfo(&report->out, total > 0 ? "%.1f %%" : "&#x2013;", QueueRowsNumber(rows, row, "percent"));
	put(report, "</td>");
	put_count(report, "jobs", total);
	put_count(report, "open", QueueRowsNumber(rows, row, "open"));
	put_failed(report, failed);
	put_duration(report, "since", QueueRowsNumber(rows, row, "age"));
	put_text(report, "source", QueueRowsText(rows, row, "source"));
	put(report, "</tr>\n");
}

static void
put_batches(Report *report)
{
	static const char *const columns[] = {"batch", "progress", "#done", "#jobs", "#open", "#failed",
		"#since", "source"};
	Rows		rows = QueueRowsQuery(psprintf("SELECT b.*, count(*) OVER () AS batches,"
									  " extract(epoch FROM clock_timestamp() - b.created_at) AS age"
									  " FROM queue.batch_progress_view AS b WHERE b.status <> 'completed'"
									  " ORDER BY b.created_at DESC, b.batch_id LIMIT %d", MAX_BATCHES), 0, NULL, NULL);

	if (rows.count == 0)
		return;
	begin_section(report, "batches", "Batches in progress", NULL);
	begin_table(report, columns, lengthof(columns));
	for (int i = 0; i < rows.count; i++)
		put_batch(report, &rows, i);
	end_table(report, QueueRowsNumber(&rows, 0, "batches") - rows.count, "batches");
}

static void
put_schedules(Report *report)
{
	static const char *const columns[] = {"schedule", "cron", "queue", "#fired", "last job", "owner"};
	Rows		rows;

	if (!readable("schedule"))
		return;
	rows = QueueRowsQuery(psprintf("SELECT s.schedule_name, s.cron, q.queue_name, s.owner, s.last_job_id,"
						  " extract(epoch FROM clock_timestamp() - s.last_fired_at) AS fired,"
						  " count(*) OVER () AS schedules"
						  " FROM queue.schedule AS s JOIN queue.queue AS q ON q.queue_id = s.queue_id"
						  " ORDER BY s.last_fired_at DESC NULLS LAST, s.schedule_name LIMIT %d",
						  MAX_SCHEDULES), 0, NULL, NULL);
	if (rows.count == 0)
		return;
	begin_section(report, "schedules", "Schedules", NULL);
	begin_table(report, columns, lengthof(columns));
	for (int i = 0; i < rows.count; i++)
	{
		put(report, "<tr><td><span class=\"name\">");
		put_name(report, QueueRowsText(&rows, i, "schedule_name"));
		put(report, "</span></td>");
		begin_cell(report, "cron", NULL);
		put(report, "<code><bdi>");
		QueueHtmlText(&report->out, QueueRowsText(&rows, i, "cron"), NAME_CHARS);
		put(report, "</bdi></code></td>");
		put_text(report, "queue", QueueRowsText(&rows, i, "queue_name"));
		begin_cell(report, "fired", "n");
		QueueHtmlDuration(&report->out, QueueRowsNumber(&rows, i, "fired"));
		put(report, isnan(QueueRowsNumber(&rows, i, "fired")) ? "</td>" : " ago</td>");
		put_text(report, "last job", QueueRowsText(&rows, i, "last_job_id"));
		put_text(report, "owner", QueueRowsText(&rows, i, "owner"));
		put(report, "</tr>\n");
	}
	end_table(report, QueueRowsNumber(&rows, 0, "schedules") - rows.count, "schedules");
}

static void
put_footer(Report *report)
{
	put(report, "</main>\n<footer>Counts of completed and failed jobs are of those that are kept; in and out are of the"
		" last minute, wait p95 of all since the last reset. Times are the server&#x27;s. Made by <code>SELECT queue.report()</code>.</footer>\n</body>\n</html>\n");
}

Datum
queue_report(PG_FUNCTION_ARGS)
{
	Report		report = {0};
	StringInfoData page;
	int			header_length;
	int			nest_level;

	initStringInfo(&report.out);
	initStringInfo(&report.nav);
	nest_level = QueueRowsBegin();
	report.health = usable("has_function_privilege(to_regprocedure('queue.health_alerts(text)'), 'EXECUTE')");
	read_alerts(&report);
	read_queues(&report);
	read_history(&report);
	put_header(&report);
	header_length = report.out.len;
	put(&report, "<main>\n");
	put_sums(&report);
	put_problems(&report);
	put_queues(&report);
	put_charts(&report);
	put_failures(&report);
	put_workers(&report);
	put_batches(&report);
	put_schedules(&report);
	put_footer(&report);
	QueueRowsEnd(nest_level);

	/* which sections there are, is known now */
	initStringInfo(&page);
	appendBinaryStringInfo(&page, report.out.data, header_length);
	appendStringInfo(&page, "<nav>\n%s</nav>\n%s", report.nav.data, report.out.data + header_length);
	return PointerGetDatum(cstring_to_text_with_len(page.data, page.len));
}

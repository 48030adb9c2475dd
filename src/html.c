/*-------------------------------------------------------------------------
 *
 * html.c
 *		Text, numbers, times and drawings of a page of HTML.
 *
 * A page is ASCII, whatever is in it: other characters are written as numbers.
 * So it is the same in every encoding of server, client and file.  It is
 * well-formed XML as well, which tests can check.
 *
 * It asks the network for nothing and runs nothing, and says so to the browser
 * (Content-Security-Policy): markup that got in somehow would not run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"

#include "html.h"

/* ---------------------------------------------------------------------
 * Text
 * --------------------------------------------------------------------- */

#define REPLACEMENT		0xFFFD
#define ELLIPSIS		0x2026
#define CONTROL_PICTURES	0x2400

/*
 * The next character, and how many bytes it has.  Bytes that are not UTF-8 (cut
 * off, overlong, surrogates, beyond Unicode) count as one bad character each.
 */
static uint32
next_character(const unsigned char *bytes, Size left, Size *used)
{
	static const uint32 least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned char first = bytes[0];
	Size		length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 :
		first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
	uint32		code;

	*used = 1;
	if (length == 1)
		return first;
	if (length == 0 || length > left)
		return REPLACEMENT;
	code = first & (0x7F >> length);
	for (Size i = 1; i < length; i++)
	{
		if ((bytes[i] & 0xC0) != 0x80)
			return REPLACEMENT;
		code = (code << 6) | (bytes[i] & 0x3F);
	}
	if (code < least[length] || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF)
		return REPLACEMENT;
	*used = length;
	return code;
}

/* what XML forbids, and what would turn the text around it, is shown by a sign */
static uint32
visible(uint32 code)
{
	if (code == '\t' || code == '\n')
		return code;
	if (code < ' ')
		return CONTROL_PICTURES + code;
	if (code == 0x7F)
		return CONTROL_PICTURES + 0x21;
	if ((code >= 0x80 && code < 0xA0) || (code & 0xFFFE) == 0xFFFE ||
		(code >= 0xFDD0 && code <= 0xFDEF) ||
		(code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069))
		return REPLACEMENT;
	return code;
}

void
QueueHtmlEscape(StringInfo out, const char *utf8, Size length, int max)
{
	const unsigned char *bytes = (const unsigned char *) utf8;
	Size		used;

	for (Size at = 0; at < length; at += used)
	{
		uint32		code = visible(next_character(bytes + at, length - at, &used));

		if (max-- <= 0)
		{
			appendStringInfo(out, "&#x%X;", ELLIPSIS);
			return;
		}
		if (code >= 0x80 || code == '<' || code == '>' || code == '&' || code == '"' ||
			code == '\'' || code == '`')
			appendStringInfo(out, "&#x%X;", code);
		else
			appendStringInfoChar(out, (char) code);
	}
}

void
QueueHtmlText(StringInfo out, const char *text, int max)
{
	Size		length;
	char	   *utf8;

	if (text == NULL)
		return;
	/* of a long text the beginning is enough, whatever a character's length */
	length = Min(strlen(text), (Size) (max + 1) * MAX_MULTIBYTE_CHAR_LEN);
	length = pg_mbcliplen(text, strlen(text), length);
	/* nobody knows the encoding of bytes in SQL_ASCII: they may be UTF-8 */
	utf8 = GetDatabaseEncoding() == PG_SQL_ASCII ? unconstify(char *, text) :
		pg_server_to_any(pnstrdup(text, length), length, PG_UTF8);
	if (utf8 != text)
		length = strlen(utf8);
	QueueHtmlEscape(out, utf8, length, max);
}

#define DASH	"&#x2013;"

void
QueueHtmlCount(StringInfo out, double count)
{
	char	   *digits;
	int			length;

	if (!isfinite(count))
	{
		appendStringInfoString(out, DASH);
		return;
	}
	digits = psprintf("%.0f", count);
	length = strlen(digits);
	for (int i = 0; i < length; i++)
	{
		if (i > 0 && (length - i) % 3 == 0 && digits[i - 1] != '-')
			appendStringInfoChar(out, ',');
		appendStringInfoChar(out, digits[i]);
	}
	pfree(digits);
}

void
QueueHtmlDuration(StringInfo out, double seconds)
{
	if (!isfinite(seconds))
		appendStringInfoString(out, DASH);
	else if (seconds < 0.0095)
		appendStringInfo(out, "%.2g ms", Max(seconds, 0) * 1000);
	else if (seconds < 1)
		appendStringInfo(out, "%.0f ms", seconds * 1000);
	else if (seconds < 10)
		appendStringInfo(out, "%.1f s", seconds);
	else if (seconds < 60)
		appendStringInfo(out, "%.0f s", floor(seconds));
	else if (seconds < 3600)
		appendStringInfo(out, "%d min", (int) (seconds / 60));
	else if (seconds < 86400)
		appendStringInfo(out, "%d h %d min", (int) (seconds / 3600),
						 (int) fmod(seconds / 60, 60));
	else
		appendStringInfo(out, "%.0f d %d h", floor(seconds / 86400),
						 (int) fmod(seconds / 3600, 24));
}

/* ---------------------------------------------------------------------
 * Drawings.  They stretch with the page; what is to be read in them, is HTML
 * beside them, in the page's own size.
 * --------------------------------------------------------------------- */

static bool
is_some(double value)
{
	return isfinite(value) && value > 0;
}

void
QueueHtmlBar(StringInfo out, const HtmlPart *parts, int count)
{
	double		total = 0;
	double		x = 0;
	bool		first = true;

	for (int i = 0; i < count; i++)
		total += is_some(parts[i].value) ? parts[i].value : 0;
	appendStringInfoString(out, "<svg class=\"bar\" viewBox=\"0 0 100 8\""
						   " preserveAspectRatio=\"none\" role=\"img\"><title>");
	for (int i = 0; i < count; i++)
		if (is_some(parts[i].value))
		{
			appendStringInfoString(out, first ? "" : ", ");
			QueueHtmlCount(out, parts[i].value);
			appendStringInfo(out, " %s", parts[i].name);
			first = false;
		}
	appendStringInfoString(out, first ? "no jobs</title>" : "</title>");
	appendStringInfoString(out, "<rect class=\"track\" width=\"100\" height=\"8\"/>");
	for (int i = 0; i < count; i++)
		if (is_some(parts[i].value))
		{
			/* a few among many are seen all the same */
			double		width = Max(parts[i].value / total * 100, 1.5);

			width = Min(width, 100 - x);
			appendStringInfo(out, "<rect class=\"%s\" x=\"%.2f\" width=\"%.2f\" height=\"8\"/>",
							 parts[i].class, x, Max(width, 0));
			x += width;
		}
	appendStringInfoString(out, "</svg>");
}

static double
greatest(const double *values, int count)
{
	double		most = 0;

	for (int i = 0; i < count; i++)
		if (isfinite(values[i]))
			most = Max(most, values[i]);
	return most;
}

/* the points of a line: height 100 is 0 or less, height 4 is most */
static void
path(StringInfo out, const double *values, int count, double width, double most)
{
	bool		pen = false;

	for (int i = 0; i < count; i++)
	{
		if (!isfinite(values[i]))
		{
			pen = false;
			continue;
		}
		appendStringInfo(out, "%s%.1f %.1f", pen ? "L" : "M",
						 count > 1 ? i * width / (count - 1) : 0,
						 100 - (most > 0 ? Max(values[i], 0) / most * 96 : 0));
		/* a point alone is seen, too */
		if (!pen && (i + 1 == count || !isfinite(values[i + 1])))
			appendStringInfoString(out, "h0.1");
		pen = true;
	}
}

void
QueueHtmlSpark(StringInfo out, const double *values, int count, const char *what)
{
	double		most = greatest(values, count);

	appendStringInfo(out, "<svg class=\"spark\" viewBox=\"0 0 100 104\""
					 " preserveAspectRatio=\"none\" role=\"img\"><title>%s: at most ", what);
	QueueHtmlCount(out, most);
	appendStringInfoString(out, "</title><path class=\"line s-waiting\" d=\"");
	path(out, values, count, 100, most);
	appendStringInfoString(out, "\"/></svg>");
}

/* the least of 1, 2, 2.5 and 5 times a power of ten that is not below */
static double
round_up(double value)
{
	static const double steps[] = {1, 2, 2.5, 5, 10};
	double		power;

	if (!(value > 0))
		return 1;
	power = pow(10, floor(log10(value)));
	for (int i = 0; i < lengthof(steps); i++)
		if (value <= steps[i] * power * 1.0000001)
			return steps[i] * power;
	return 10 * power;
}

static void
append_value(StringInfo out, double value)
{
	if (value < 1000)
		appendStringInfo(out, "%.3g", value);
	else
		QueueHtmlCount(out, value);
}

/* for each time, what the lines say there: the browser shows it under the pointer */
static void
hints(StringInfo out, const HtmlSeries *series, int num_series, const char *unit,
	  const char *const *times, int count)
{
	double		step = 300.0 / Max(count - 1, 1);

	for (int i = 0; i < count; i++)
	{
		appendStringInfo(out, "<rect class=\"hit\" x=\"%.1f\" width=\"%.1f\" height=\"104\"><title>%s",
						 (i - 0.5) * step, step, times[i]);
		for (int s = 0; s < num_series; s++)
		{
			appendStringInfo(out, "%s %s ", s == 0 ? ":" : ",", series[s].name);
			if (!isfinite(series[s].values[i]))
				appendStringInfoString(out, DASH);
			else
				append_value(out, series[s].values[i]);
		}
		appendStringInfo(out, " (%s)</title></rect>", unit);
	}
}

#define Y_STEPS		4
#define X_LABELS	4

void
QueueHtmlChart(StringInfo out, const char *title, const char *unit,
			   const HtmlSeries *series, int num_series, const char *const *times, int count)
{
	double		most = 0;

	for (int s = 0; s < num_series; s++)
		most = Max(most, greatest(series[s].values, count));
	most = round_up(most / Y_STEPS) * Y_STEPS;

	appendStringInfo(out, "<figure class=\"card chart\"><figcaption><b>%s</b> <span>%s</span>"
					 "</figcaption>\n<div class=\"plot\"><div class=\"ys\" aria-hidden=\"true\">",
					 title, unit);
	for (int i = Y_STEPS; i >= 0; i--)
	{
		appendStringInfoString(out, "<span>");
		append_value(out, most * i / Y_STEPS);
		appendStringInfoString(out, "</span>");
	}
	appendStringInfo(out, "</div><svg viewBox=\"0 0 300 104\" preserveAspectRatio=\"none\" role=\"img\">"
					 "<title>%s, %s, from %s to %s</title>", title, unit, times[0],
					 times[count - 1]);
	for (int i = 0; i <= Y_STEPS; i++)
		appendStringInfo(out, "<path class=\"grid\" d=\"M0 %dH300\"/>", 4 + 96 * i / Y_STEPS);
	for (int s = 0; s < num_series; s++)
	{
		appendStringInfo(out, "<path class=\"line s-%s\" d=\"", series[s].class);
		path(out, series[s].values, count, 300, most);
		appendStringInfoString(out, "\"/>");
	}
	hints(out, series, num_series, unit, times, count);
	appendStringInfoString(out, "</svg><div class=\"xs\" aria-hidden=\"true\">");
	for (int i = 0; i < X_LABELS; i++)
		appendStringInfo(out, "<span>%s</span>", times[(count - 1) * i / (X_LABELS - 1)]);
	appendStringInfoString(out, "</div></div>\n<p class=\"legend\">");
	for (int s = 0; s < num_series; s++)
		appendStringInfo(out, "<span class=\"key k-%s\">%s</span> ", series[s].class,
						 series[s].name);
	appendStringInfoString(out, "</p></figure>\n");
}

/*-------------------------------------------------------------------------
 *
 * html.h
 *		Text, numbers, times and drawings of a page of HTML.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_HTML_H
#define QUEUE_HTML_H

#include "lib/stringinfo.h"

/*
 * Append text that is not ours, for an element's content or an attribute in
 * quotes, cut after max characters.  Pure C, for any bytes: what comes out is
 * ASCII, well-formed in HTML and XML, and without a markup character.
 */
extern void QueueHtmlEscape(StringInfo out, const char *utf8, Size length, int max);

/* the same with text in the server's encoding; NULL: nothing */
extern void QueueHtmlText(StringInfo out, const char *text, int max);

/* 1,234,567; a dash for what is not known (not finite) */
extern void QueueHtmlCount(StringInfo out, double count);

/* 850 ms, 12 s, 3 h 5 min; a dash for what is not known */
extern void QueueHtmlDuration(StringInfo out, double seconds);

/* up to the style's end */
extern void QueueHtmlHead(StringInfo out);

/* parts of a whole, as one bar; class is that of a colour of the style */
typedef struct HtmlPart
{
	const char *name;
	const char *class;
	double		value;
} HtmlPart;

extern void QueueHtmlBar(StringInfo out, const HtmlPart *parts, int count);

/* values over time; NaN is a gap */
typedef struct HtmlSeries
{
	const char *name;
	const char *class;
	double	   *values;
} HtmlSeries;

extern void QueueHtmlSpark(StringInfo out, const double *values, int count, const char *what);
extern void QueueHtmlChart(StringInfo out, const char *title, const char *unit,
						   const HtmlSeries *series, int num_series,
						   const char *const *times, int count);

#endif							/* QUEUE_HTML_H */

/*-------------------------------------------------------------------------
 *
 * html.c
 *		What a page says of others' text is that text, and never markup; what it
 *		draws of any numbers is well-formed.
 *
 * Input: a byte for the greatest length, then text; the same bytes serve as
 * numbers for the drawings.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "../../src/html.c"

/* read back: the characters of an escaped text, and how many */
static int
unescape(const char *html, int length, uint32 *codes)
{
	int			count = 0;

	for (int i = 0; i < length; i++)
	{
		unsigned char c = html[i];

		REQUIRE(c < 0x7F && (c >= ' ' || c == '\t' || c == '\n'));
		REQUIRE(strchr("<>\"'`", c) == NULL);
		if (c == '&')
		{
			char	   *end;
			unsigned long code;

			REQUIRE(strncmp(html + i, "&#x", 3) == 0);
			code = strtoul(html + i + 3, &end, 16);
			REQUIRE(*end == ';' && end > html + i + 3 && code <= 0x10FFFF);
			codes[count++] = (uint32) code;
			i = end - html;
		}
		else
			codes[count++] = c;
	}
	return count;
}

/* what a browser must never be given, as text or as reference */
static bool
is_harmless(uint32 code)
{
	return code == '\t' || code == '\n' ||
		(code >= ' ' && code < 0x7F) ||
		(code >= 0xA0 && !(code >= 0xD800 && code <= 0xDFFF) && (code & 0xFFFE) != 0xFFFE &&
		 !(code >= 0x202A && code <= 0x202E) && !(code >= 0x2066 && code <= 0x2069));
}

static void
try_escape(const char *text, size_t length, int max)
{
	StringInfoData out;
	uint32	   *codes = palloc((length + 2) * sizeof(uint32));
	int			count;
	size_t		at = 0;

	initStringInfo(&out);
	QueueHtmlEscape(&out, text, length, max);
	REQUIRE(out.data[out.len] == '\0' && strlen(out.data) == out.len);
	count = unescape(out.data, out.len, codes);
	REQUIRE(count <= max + 1);
	for (int i = 0; i < count; i++)
	{
		unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1] = {0};

		REQUIRE(is_harmless(codes[i]));
		if (i == max)
		{
			REQUIRE(codes[i] == ELLIPSIS && at < length);
			at = length;
			break;
		}
		REQUIRE(at < length);
		unicode_to_utf8(codes[i], utf8);
		/* either it is the text's own character, or a sign for one byte or a bad character */
		if (pg_utf_mblen(utf8) <= length - at && memcmp(text + at, utf8, pg_utf_mblen(utf8)) == 0)
			at += pg_utf_mblen(utf8);
		else if (codes[i] >= CONTROL_PICTURES && codes[i] <= CONTROL_PICTURES + 0x21)
			at++;
		else
		{
			Size		used;

			REQUIRE(codes[i] == REPLACEMENT);
			(void) next_character((const unsigned char *) text + at, length - at, &used);
			at += used;
		}
	}
	REQUIRE(at == length);
	pfree(out.data);
	pfree(codes);
}

/* tags that are closed in order, attributes in quotes, no number that is none */
static void
check_markup(const char *html)
{
	const char *open[64];
	int			depth = 0;

	REQUIRE(strstr(html, "nan") == NULL && strstr(html, "inf") == NULL &&
			strstr(html, "NaN") == NULL && strstr(html, "Inf") == NULL);
	for (const char *c = html; *c; c++)
	{
		const char *name;
		size_t		length;

		REQUIRE((unsigned char) *c < 0x7F);
		if (*c != '<')
			continue;
		c++;
		name = c + (*c == '/');
		length = strspn(name, "abcdefghijklmnopqrstuvwxyz");
		REQUIRE(length > 0);
		if (*c == '/')
		{
			REQUIRE(depth > 0 && strncmp(open[--depth], name, length) == 0 && name[length] == '>');
			c = name + length;
			continue;
		}
		for (c = name + length; *c == ' ';)
		{
			size_t		attribute = strspn(++c, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-");

			REQUIRE(attribute > 0 && strncmp(c + attribute, "=\"", 2) == 0);
			c += attribute + 2;
			c += strcspn(c, "\"<&");
			REQUIRE(*c == '"');
			c++;
		}
		if (*c == '/')
			c++;
		else
		{
			REQUIRE(depth < lengthof(open));
			open[depth++] = name;
		}
		REQUIRE(*c == '>');
	}
	REQUIRE(depth == 0);
}

#define MAX_VALUES 40

static void
try_drawings(Input input)
{
	StringInfoData out;
	double		values[MAX_VALUES];
	const char *times[MAX_VALUES];
	int			count = 0;
	HtmlPart	parts[3] = {{"waiting", "waiting"}, {"active", "active"}, {"failed", "failed"}};
	HtmlSeries	series[2] = {{"one", "waiting", values}, {"two", "failed", values}};

	for (int i = 0; i < lengthof(parts); i++)
		parts[i].value = input_double(&input);
	do
	{
		times[count] = "12:00";
		values[count++] = input_double(&input);
	}
	while (input.left > 0 && count < MAX_VALUES);
	initStringInfo(&out);
	QueueHtmlBar(&out, parts, lengthof(parts));
	QueueHtmlSpark(&out, values, count, "jobs");
	QueueHtmlChart(&out, "Jobs", "a second", series, lengthof(series), times, count);
	for (int i = 0; i < count; i++)
	{
		QueueHtmlCount(&out, values[i]);
		appendStringInfoChar(&out, ' ');
		QueueHtmlDuration(&out, values[i]);
	}
	check_markup(out.data);
	pfree(out.data);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Input		input = {data, size};
	char	   *text;
	size_t		length;
	int			max = input_byte(&input);

	/* of its very size, so that a byte too far is seen */
	text = malloc(input.left);
	memcpy(text, input.at, input.left);
	try_escape(text, input.left, max);
	length = strnlen(text, input.left);
	if (length < input.left)
	{
		StringInfoData out;

		/* one that ends: the database's own text, which is valid */
		initStringInfo(&out);
		if (pg_encoding_verifymbstr(PG_UTF8, text, length) == length)
			QueueHtmlText(&out, text, max);
		pfree(out.data);
	}
	free(text);
	try_drawings(input);
	return 0;
}

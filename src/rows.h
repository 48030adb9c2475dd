/*-------------------------------------------------------------------------
 *
 * rows.h
 *		What the caller may see, as rows to be shown.
 *
 * Between QueueRowsBegin() and QueueRowsEnd(), SQL runs as the caller, with
 * nobody's operators but the system's, in the snapshot of the calling query.
 * Rows last until the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_ROWS_H
#define QUEUE_ROWS_H

#include "executor/spi.h"

typedef struct Rows
{
	SPITupleTable *table;
	int			count;
} Rows;

/* returns what the end asks for */
extern int	QueueRowsBegin(void);
extern void QueueRowsEnd(int nest_level);
extern Rows QueueRowsQuery(const char *sql, int nargs, Oid *types, Datum *values);

/* a column's value; NULL, NaN or false if it is null or there is no such column */
extern const char *QueueRowsText(const Rows *rows, int row, const char *column);
extern double QueueRowsNumber(const Rows *rows, int row, const char *column);
extern bool QueueRowsTruth(const Rows *rows, int row, const char *column);

#endif							/* QUEUE_ROWS_H */

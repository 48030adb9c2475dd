/*-------------------------------------------------------------------------
 *
 * rows.c
 *		What the caller may see, as rows to be shown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/guc.h"

#include "compat.h"
#include "rows.h"

int
QueueRowsBegin(void)
{
	int			nest_level;

	SPI_connect();
	nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

void
QueueRowsEnd(int nest_level)
{
	AtEOXact_GUC(true, nest_level);
	SPI_finish();
}

Rows
QueueRowsQuery(const char *sql, int nargs, Oid *types, Datum *values)
{
	Rows		rows;
	int			result = SPI_execute_with_args(sql, nargs, types, values, NULL, true, 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(result));
	rows.table = SPI_tuptable;
	rows.count = (int) SPI_processed;
	return rows;
}

const char *
QueueRowsText(const Rows *rows, int row, const char *column)
{
	int			number = SPI_fnumber(rows->table->tupdesc, column);

	return number > 0 ? SPI_getvalue(rows->table->vals[row], rows->table->tupdesc, number) : NULL;
}

double
QueueRowsNumber(const Rows *rows, int row, const char *column)
{
	const char *value = QueueRowsText(rows, row, column);

	return value ? strtod(value, NULL) : NAN;
}

bool
QueueRowsTruth(const Rows *rows, int row, const char *column)
{
	const char *value = QueueRowsText(rows, row, column);

	return value && value[0] == 't';
}

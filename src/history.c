/*-------------------------------------------------------------------------
 *
 * history.c
 *		A job's life in order: queue.job_history().
 *
 * What queue.job_log has of the job, and what its row, or the archive, tells:
 * when it was enqueued, last taken, and finished.  Of an event that both have,
 * with the same time, the log's row counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "internal.h"

QUEUE_FUNCTION(queue_job_history);

#define ROW_COLUMNS \
	"SELECT j.queue_id, j.enqueued_at, j.taken_at, j.attempt, j.worker, "

static const char *const history_sql =
"WITH row AS ("
ROW_COLUMNS "NULL::timestamptz AS finished_at, NULL::text AS state, NULL::text AS error"
" FROM queue.job_live AS j WHERE j.job_id = $1 UNION ALL "
ROW_COLUMNS "NULL, NULL, NULL FROM queue.job_parked AS j WHERE j.job_id = $1 UNION ALL "
ROW_COLUMNS "j.finished_at, queue._state(j.state, 0), j.error"
" FROM queue.job_archive AS j WHERE j.job_id = $1"
"), log AS ("
"SELECT l.at, l.event, l.attempt, l.worker, l.message, l.error"
" FROM queue.job_log AS l WHERE l.job_id = $1 AND l.queue_id = ANY ($2)"
"), told AS ("
"SELECT r.enqueued_at AS at, 'enqueued' AS event, 0 AS attempt, NULL::text AS worker,"
" NULL::text AS message, NULL::text AS error FROM row AS r WHERE r.queue_id = ANY ($2) UNION ALL "
"SELECT r.taken_at, 'taken', r.attempt, r.worker, NULL, NULL"
" FROM row AS r WHERE r.queue_id = ANY ($2) AND r.taken_at > '-infinity' AND r.attempt > 0 UNION ALL "
"SELECT r.finished_at, r.state, r.attempt, r.worker, NULL,"
" CASE r.state WHEN 'failed' THEN r.error END"
" FROM row AS r WHERE r.queue_id = ANY ($2) AND r.finished_at IS NOT NULL"
") SELECT h.at, h.event, h.attempt, h.worker, h.message, h.error FROM ("
"SELECT * FROM log UNION ALL SELECT * FROM told AS t WHERE NOT EXISTS ("
"SELECT FROM log AS l WHERE l.event = t.event AND l.at = t.at)"
") AS h ORDER BY h.at, h.attempt,"
" array_position('{enqueued,requeued,taken,released,stalled,retried,completed,failed,cancelled,moved}',"
" h.event)";

/* numbers of the queues that the caller may browse */
static Datum
browsed_queues(void)
{
	List	   *all = QueueSettingsAll();
	Datum	   *ids = palloc((list_length(all) + 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, all)
		if (QueuePrivileges(lfirst(lc)) & PRIVILEGE_BROWSE)
			ids[n++] = Int32GetDatum(((QueueSettings *) lfirst(lc))->queue_id);
	return PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
}

Datum
queue_job_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[2] = {INT8OID, INT4ARRAYOID};
	Datum		values[2];

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	values[0] = PG_GETARG_DATUM(0);
	values[1] = browsed_queues();
	QueueSpiConnect();
	if (SPI_execute_with_args(history_sql, 2, types, values, NULL,
							  RecoveryInProgress() || XactReadOnly, 0) != SPI_OK_SELECT)
		elog(ERROR, "internal SQL failed: %s", SPI_result_code_string(SPI_result));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		row[6];
		bool		nulls[6];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, nulls);
	}
	QueueSpiFinish();
	return (Datum) 0;
}

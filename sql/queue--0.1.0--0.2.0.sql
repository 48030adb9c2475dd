/* From 0.1.0 to 0.2.0.  It ends with the very objects that sql/queue.sql makes: see test/t/027_upgrade.pl. */

-- complain if the script is sourced in psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION queue UPDATE" to load this file. \quit

-- The library of 0.1.0 cannot tell that it is older than this.  Later scripts begin with
-- SELECT queue._require_preload(), as theirs can.
DO LANGUAGE plpgsql $do$
BEGIN
	CREATE FUNCTION queue.version() RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'queue_version';
EXCEPTION WHEN undefined_function THEN
	RAISE EXCEPTION USING
		ERRCODE = 'object_not_in_prerequisite_state',
		MESSAGE = 'the library "queue" is older than its SQL objects',
		DETAIL = 'The server still has the library that it was started with, they are of version 0.2.0.',
		HINT = 'Restart the server, then run ALTER EXTENSION queue UPDATE again.';
END
$do$;
COMMENT ON FUNCTION queue.version IS
	'the version of the library; that of the SQL objects stands in pg_extension';
REVOKE ALL ON FUNCTION queue.version FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.version TO pg_monitor;

COMMENT ON FUNCTION queue._require_preload() IS
	'internal: refuses to go on unless the library was preloaded, and is not older than the script';

-- their entries are of different jobs: there is nothing to deduplicate
ALTER INDEX queue._job_live_ready SET (deduplicate_items = off);
ALTER INDEX queue._job_parked_due SET (deduplicate_items = off);

CREATE FUNCTION queue.sign_off(worker text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_sign_off';
COMMENT ON FUNCTION queue.sign_off IS
	'tells that a worker stops: its jobs are given back and spend no attempt, it is shown no more; returns how many jobs';
REVOKE ALL ON FUNCTION queue.sign_off FROM PUBLIC;

-- the view grows under those that others have made on it
ALTER FUNCTION queue._metrics() RENAME TO _metrics_0_1;
CREATE FUNCTION queue._metrics() RETURNS TABLE (
	queue text,
	jobs_waiting bigint,
	jobs_delayed bigint,
	jobs_blocked bigint,
	jobs_active bigint,
	jobs_completed bigint,
	jobs_failed bigint,
	jobs_cancelled bigint,
	oldest_waiting_age_seconds double precision,
	enqueued_total bigint,
	taken_total bigint,
	completed_total bigint,
	failed_total bigint,
	retried_total bigint,
	stalled_total bigint,
	wait_seconds_p50 double precision,
	wait_seconds_p95 double precision,
	wait_seconds_p99 double precision,
	wait_seconds_sum double precision,
	wait_seconds_count bigint,
	processing_seconds_p50 double precision,
	processing_seconds_p95 double precision,
	processing_seconds_p99 double precision,
	processing_seconds_sum double precision,
	processing_seconds_count bigint,
	paused int,
	throttled int,
	executors int,
	live_table_bytes bigint,
	stats_reset_timestamp_seconds double precision,
	wait_seconds_bucket bigint[],
	processing_seconds_bucket bigint[],
	bucket_bounds_seconds double precision[],
	workers int,
	workers_stale int
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue__metrics_2';
COMMENT ON FUNCTION queue._metrics IS 'internal: under the view queue.metrics';
REVOKE ALL ON FUNCTION queue._metrics FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue._metrics TO pg_monitor;
CREATE OR REPLACE VIEW queue.metrics WITH (security_barrier = true) AS
SELECT
	m.queue,
	m.jobs_waiting,
	m.jobs_delayed,
	m.jobs_blocked,
	m.jobs_active,
	m.jobs_completed,
	m.jobs_failed,
	m.jobs_cancelled,
	m.oldest_waiting_age_seconds,
	m.enqueued_total,
	m.taken_total,
	m.completed_total,
	m.failed_total,
	m.retried_total,
	m.stalled_total,
	m.wait_seconds_p50,
	m.wait_seconds_p95,
	m.wait_seconds_p99,
	m.wait_seconds_sum,
	m.wait_seconds_count,
	m.processing_seconds_p50,
	m.processing_seconds_p95,
	m.processing_seconds_p99,
	m.processing_seconds_sum,
	m.processing_seconds_count,
	m.paused,
	m.throttled,
	m.executors,
	m.live_table_bytes,
	m.stats_reset_timestamp_seconds,
	m.wait_seconds_bucket,
	m.processing_seconds_bucket,
	m.bucket_bounds_seconds,
	m.workers,
	m.workers_stale
FROM queue._metrics() AS m;
COMMENT ON COLUMN queue.metrics.wait_seconds_bucket IS 'how many of the waits were below each of bucket_bounds_seconds';
COMMENT ON COLUMN queue.metrics.processing_seconds_bucket IS 'how many of the processing times were below each of bucket_bounds_seconds';
COMMENT ON COLUMN queue.metrics.bucket_bounds_seconds IS 'bounds of these histograms, the same for all';
COMMENT ON COLUMN queue.metrics.workers IS 'outside workers that call queue.heartbeat() for the queue, and live';
COMMENT ON COLUMN queue.metrics.workers_stale IS 'those that fell silent, during the last day';
DROP FUNCTION queue._metrics_0_1();

CREATE FUNCTION queue._upgraded() RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__upgraded';
COMMENT ON FUNCTION queue._upgraded IS
	'internal: ends a script that upgrades the extension: grants what is new, and tells everybody';
REVOKE ALL ON FUNCTION queue._upgraded FROM PUBLIC;

SELECT queue._upgraded();

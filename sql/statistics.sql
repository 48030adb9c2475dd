-- Totals, rates and times of queue_stats(): exact, whatever is rolled back or prepared; and who may reset them.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
CREATE FUNCTION totals(name text) RETURNS text LANGUAGE sql AS $$
	SELECT format('enqueued %s, taken %s, completed %s, failed %s, retried %s, stalled %s',
		enqueued_total, taken_total, completed_total, failed_total, retried_total, stalled_total)
	FROM queue.queue_stats(totals.name) $$;
SELECT queue.create_queue('q', max_attempts => 2, backoff_base => '0', backoff_jitter => 0);
SELECT totals('q');
SELECT enqueue_rate, completion_rate, failure_rate, wait_mean_ms, wait_p50_ms, wait_p99_ms, processing_mean_ms, processing_p95_ms,
	stats_reset BETWEEN now() - interval '1h' AND clock_timestamp() FROM queue.queue_stats('q');

-- a life of each kind
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3,4}');
SELECT queue.enqueue('q', '5', unique_key => 'u') = queue.enqueue('q', '6', unique_key => 'u');
SELECT totals('q');
SELECT count(*) FROM queue.dequeue_batch('q', 4);
SELECT queue.complete(job_id) FROM queue.job WHERE payload = '1' AND queue_name = 'q';
SELECT queue.fail(job_id) FROM queue.job WHERE payload = '2' AND queue_name = 'q';
SELECT queue.fail(job_id, retry => false) FROM queue.job WHERE payload = '3' AND queue_name = 'q';
SELECT queue.release(job_id) FROM queue.job WHERE payload = '4' AND queue_name = 'q';
SELECT totals('q');
SELECT queue.requeue_failed('q');
SELECT count(queue.cancel(job_id)) FROM queue.job WHERE queue_name = 'q';
SELECT totals('q');
SELECT enqueue_rate > 0.09 AND enqueue_rate < 0.11, completion_rate > 0, failure_rate > 0 FROM queue.queue_stats('q');

-- rolled back, all or some
SELECT queue.stats_reset('q');
SELECT totals('q'), stats_reset > now() - interval '1 min' FROM queue.queue_stats('q');
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2}');
SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('q');
SELECT totals('q');
ROLLBACK;
SELECT totals('q');
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{1}');
SAVEPOINT a;
SELECT count(*) FROM queue.enqueue_batch('q', '{2,3}');
SAVEPOINT b;
SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('q', 3);
RELEASE b;
ROLLBACK TO a;
SAVEPOINT c;
SELECT count(*) FROM queue.enqueue_batch('q', '{4,5,6}');
SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('q', 2);
RELEASE c;
COMMIT;
SELECT totals('q');
SELECT wait_seconds_count, processing_seconds_count FROM queue.metrics WHERE queue = 'q';

-- prepared
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{7}');
SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('q', 3);
PREPARE TRANSACTION 'statistics';
SELECT totals('q');
COMMIT PREPARED 'statistics';
SELECT totals('q');
SELECT wait_seconds_count, processing_seconds_count FROM queue.metrics WHERE queue = 'q';
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{8}');
PREPARE TRANSACTION 'statistics';
ROLLBACK PREPARED 'statistics';
SELECT totals('q');

-- a lease that has ended, and an attempt that failed for it
SELECT queue.create_queue('s', max_attempts => 2, visibility_timeout => '1 ms');
SELECT queue.enqueue('s', '1') > 0;
SELECT attempt FROM queue.dequeue_batch('s');
CALL wait_until($$(SELECT attempt = 2 FROM queue.dequeue_batch('s'))$$);
CALL wait_until($$(SELECT count(*) = 1 FROM queue.dequeue_batch('s') RIGHT JOIN queue.job_finished AS f USING (job_id) WHERE f.queue_name = 's')$$);
SELECT totals('s');

-- a dead letter fails here and enters there; mode direct does all at once
SELECT queue.create_queue('dead');
SELECT queue.alter_queue('s', dead_letter_queue => 'dead', visibility_timeout => '1h');
SELECT queue.stats_reset('s');
SELECT queue.enqueue('s', '2') > 0;
SELECT queue.fail(job_id, retry => false) FROM queue.dequeue_batch('s');
SELECT totals('s'), totals('dead');
SELECT queue.redrive('dead');
SELECT totals('s'), totals('dead');
CREATE FUNCTION twice_as_much(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(2 * payload::int)';
SELECT queue.create_queue('d');
SELECT queue.set_handler('d', 'twice_as_much');
SELECT queue.set_mode('d', 'direct');
SELECT queue.enqueue('d', '1') > 0;
SELECT totals('d');

-- times: 90 jobs that are due for a second, 9 for ten, one for a thousand
SELECT queue.create_queue('t', visibility_timeout => '1h');
SELECT count(queue.enqueue('t', '1', run_at => clock_timestamp() - make_interval(secs =>
	CASE WHEN i <= 90 THEN 1 WHEN i <= 99 THEN 10 ELSE 1000 END))) FROM generate_series(1, 100) AS i;
SELECT count(*) FROM queue.dequeue_batch('t', 100);
SELECT abs(wait_p50_ms / 1000 - 1) < 0.15 AS p50, abs(wait_p95_ms / 10000 - 1) < 0.15 AS p95, abs(wait_p99_ms / 10000 - 1) < 0.15 AS p99,
	abs(wait_mean_ms / 11800 - 1) < 0.05 AS mean, processing_p50_ms FROM queue.queue_stats('t');
SELECT abs(wait_seconds_sum / 1180 - 1) < 0.05 AS sum, wait_seconds_count AS count, abs(wait_seconds_p95 / 10 - 1) < 0.15 AS p95
FROM queue.metrics WHERE queue = 't';
-- the histogram: below 2 s, 17 s, 18 min
SELECT bound, count FROM queue.metrics, unnest(bucket_bounds_seconds, wait_seconds_bucket) AS h (bound, count)
WHERE queue = 't' AND bound IN (0.001024, 2.097152, 16.777216, 1073.741824) ORDER BY bound;
SELECT cardinality(wait_seconds_bucket), processing_seconds_bucket = array_fill(0::bigint, ARRAY[25]) AS nothing FROM queue.metrics WHERE queue = 't';
-- and that have run for so long
UPDATE queue.job_live SET taken_at = taken_at - make_interval(secs => CASE WHEN n <= 50 THEN 3 ELSE 60 END)
FROM (SELECT job_id, row_number() OVER (ORDER BY job_id) AS n FROM queue.job WHERE queue_name = 't') AS j WHERE j.job_id = job_live.job_id;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job WHERE queue_name = 't';
SELECT abs(processing_p50_ms / 3000 - 1) < 0.15 AS p50, abs(processing_p95_ms / 60000 - 1) < 0.15 AS p95,
	abs(processing_mean_ms / 31500 - 1) < 0.05 AS mean FROM queue.queue_stats('t');

-- metrics: one row per queue
SELECT count(*) = (SELECT count(*) FROM queue.queue) AS all FROM queue.metrics;
SELECT queue.pause_queue('t');
SELECT jobs_waiting, jobs_completed, oldest_waiting_age_seconds, m.enqueued_total, m.completed_total, m.paused, throttled, executors,
	live_table_bytes > 0, to_timestamp(stats_reset_timestamp_seconds) - s.stats_reset < interval '1 ms'
FROM queue.metrics AS m, queue.queue_stats('t') AS s WHERE m.queue = 't';

-- the history: rows with what has happened since the one before, by the worker and by maintain()
ALTER SYSTEM SET queue.metrics_interval = 1;
SELECT pg_reload_conf();
SELECT count(*) FROM queue.maintain() WHERE step = 'rows of metrics written';
CALL wait_until($$(SELECT sum(enqueued_count) = 100 AND sum(completed_count) = 100 AND max(completed) = 100
	FROM queue.metric_history JOIN queue.queue USING (queue_id) WHERE queue_name = 't')$$);
SELECT sum(taken_count) AS taken, sum(retried_count + failed_count + stalled_count) AS failed, bool_or(m.paused) AS paused,
	abs(max(wait_p95_ms) / 10000 - 1) < 0.15 AS wait_p95, abs(max(processing_p95_ms) / 60000 - 1) < 0.15 AS processing_p95,
	max(oldest_waiting_ms) AS oldest, max(extract(microsecond FROM at)::int % 1000000) AS fraction, bool_and(at <= clock_timestamp()) AS past,
	bool_and(live_bytes > 0) AS bytes, bool_and(seconds >= 1) AS seconds
FROM queue.metric_history AS m JOIN queue.queue USING (queue_id) WHERE queue_name = 't';
ALTER SYSTEM RESET queue.metrics_interval;
SELECT pg_reload_conf();

-- who may
CREATE ROLE regress_queue_monitor IN ROLE pg_monitor;
CREATE ROLE regress_queue_browser;
SELECT queue.grant_queue('t', 'regress_queue_browser', 'browse');
SET ROLE regress_queue_monitor;
SELECT string_agg(queue, ' ' ORDER BY queue) FROM queue.metrics;
SELECT * FROM queue.queue_stats();
SELECT * FROM queue.metric_history;
SET ROLE regress_queue_browser;
SELECT string_agg(queue, ' ' ORDER BY queue) FROM queue.metrics;
SELECT count(DISTINCT queue_id) FROM queue.metric_history;
SELECT queue.stats_reset('t');
RESET ROLE;
SELECT queue.grant_queue('t', 'regress_queue_browser', 'admin');
SET ROLE regress_queue_browser;
SELECT queue.stats_reset('q');
SELECT queue.stats_reset();
RESET ROLE;
SELECT totals('t'), totals('q');
SELECT queue.stats_reset();
SELECT totals('q');
SELECT queue.stats_reset('no such queue');

SELECT queue_id AS t FROM queue.queue WHERE queue_name = 't' \gset
SELECT count(queue.drop_queue(q, true)) FROM unnest('{q,s,dead,d,t}'::text[]) AS q;
SELECT count(*) FROM queue.metric_history WHERE queue_id = :t;
DROP ROLE regress_queue_monitor, regress_queue_browser;
DROP FUNCTION totals, twice_as_much;

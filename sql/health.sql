-- How a queue does: each alert, at and off its threshold; statuses, scores, thresholds; who may see it.
\set ECHO none
\i test/helpers.sql
\set ECHO all
-- what is not the queue's: numbers that change
CREATE FUNCTION health(queue_name text) RETURNS TABLE (status text, score int, severity text, code text, message text, value float8, threshold float8)
LANGUAGE sql AS $$
	SELECT h.status, h.score, a.severity, a.code, regexp_replace(a.message, '\d+ (seconds?|minutes|hours)', 'SPAN', 'g'), a.value, a.threshold
	FROM queue.queue_health(health.queue_name) AS h
		LEFT JOIN queue.health_alerts(health.queue_name) AS a ON true
$$;
CREATE FUNCTION codes(queue_name text) RETURNS text LANGUAGE sql AS $$
	SELECT h.status || ' ' || h.score || coalesce(': ' || (
		SELECT string_agg(a.severity || ' ' || a.code, ', ') FROM queue.health_alerts(codes.queue_name) AS a), '')
	FROM queue.queue_health(codes.queue_name) AS h
$$;

SELECT queue.create_queue('q', max_attempts => 1);
SELECT * FROM queue.queue_health('q');
SELECT count(*) FROM queue.health_alerts('q');

-- many jobs wait, but not for long; then they do
SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[120]));
SELECT * FROM health('q');
SELECT queue.alter_queue('q', health_thresholds => '{"waiting_age": 0}');
SELECT status, score, severity, code, message, threshold FROM health('q');
SELECT queue.alter_queue('q', health_thresholds => '{"waiting_age": 0, "waiting_critical": 120, "waiting_warning": 119.5}');
SELECT codes('q');
SELECT queue.alter_queue('q', health_thresholds => '{"waiting_age": 0, "waiting_critical": null, "waiting_warning": null}');
SELECT codes('q');
SELECT queue.reset_queue_setting('q', 'health_thresholds');
SELECT codes('q');
SELECT queue.purge_queue('q');

-- the oldest is old; others end meanwhile, so it is not idle
SELECT queue.enqueue('q', '"old"', run_at => now() - interval '2 hours 59 minutes') > 0 AS ok;
SELECT codes('q');
SELECT queue.enqueue('q', '"older"', run_at => now() - interval '3 hours 1 minute') > 0 AS ok;
SELECT queue.enqueue('q', '"done"', 1) > 0 AS ok;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
SELECT * FROM health('q') WHERE code <> 'oldest_waiting';
SELECT status, score, severity, code, message, value BETWEEN 10800 AND 11000 AS value, threshold FROM health('q');
SELECT queue.alter_queue('q', health_thresholds => '{"oldest_critical": 10000}');
SELECT codes('q');
SELECT queue.purge_queue('q');
SELECT queue.reset_queue_setting('q', 'health_thresholds');

-- paused, throttled, at max_active: told at once, a warning when the oldest is old
SELECT queue.pause_queue('q');
SELECT codes('q');
SELECT queue.enqueue('q', '1') > 0 AS ok;
SELECT * FROM health('q');
SELECT queue.alter_queue('q', health_thresholds => '{"waiting_age": 0}');
SELECT codes('q');
SELECT queue.resume_queue('q');
SELECT queue.throttle('q', '1 h') > now() AS throttled;
SELECT codes('q');
SELECT queue.throttle('q', '0') IS NULL AS over;
SELECT queue.alter_queue('q', max_active => 1);
SELECT count(*) FROM queue.dequeue_batch('q');
SELECT queue.enqueue('q', '2') > 0 AS ok;
SELECT * FROM health('q') WHERE code = 'max_active';
SELECT queue.reset_queue_setting('q', 'max_active');
SELECT codes('q');

-- nobody runs the handler
CREATE FUNCTION health_handler(job queue.job_context) RETURNS void LANGUAGE sql AS '';
SELECT queue.set_handler('q', 'health_handler');
SELECT code, message, value FROM health('q') WHERE code LIKE '%exec%';
SELECT queue.stop_processing('q');
SELECT code, message, value FROM health('q') WHERE code LIKE 'proc%';
SELECT queue.set_handler('q', null);
SELECT queue.drop_queue('q', true);

-- nobody comes
SELECT queue.create_queue('q', health_thresholds => '{"waiting_age": 0}');
SELECT queue.enqueue('q', '1') > 0 AS ok;
SELECT status, score, severity, code, message, threshold FROM health('q');
SELECT queue.alter_queue('q', health_thresholds => '{"waiting_age": 0, "idle": 0}');
SELECT code, message FROM health('q');
SELECT queue.drop_queue('q', true);

-- how full it is
SELECT queue.create_queue('q', max_depth => 10);
SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[7]));
SELECT codes('q');
SELECT queue.enqueue('q', '1', delay => '1 h') > 0 AS ok;
SELECT * FROM health('q');
SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[2]));
SELECT * FROM health('q');
SELECT queue.drop_queue('q', true);

-- failed for good: more than ten, and a share that says something
SELECT queue.create_queue('q', max_attempts => 1);
SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[10]));
SELECT queue.fail_many(array_agg(job_id), 'no') FROM queue.dequeue_batch('q', 10);
SELECT codes('q');
SELECT queue.enqueue('q', '1') > 0 AS ok;
SELECT queue.fail_many(array_agg(job_id), 'no') FROM queue.dequeue_batch('q', 10);
SELECT * FROM health('q') WHERE code = 'failed';
SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[1089]));
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 2000);
SELECT code FROM health('q') WHERE code = 'failed';
SELECT queue.alter_queue('q', health_thresholds => '{"failed_percent": 0.9}');
SELECT code FROM health('q') WHERE code = 'failed';
SELECT queue.drop_queue('q', true);

-- dead letters, which are no backlog
SELECT queue.create_queue('dead');
SELECT queue.create_queue('q', dead_letter_queue => 'dead', max_attempts => 1);
SELECT codes('dead');
SELECT queue.enqueue('q', '1') > 0 AS ok;
SELECT queue.fail(job_id, 'no') FROM queue.dequeue_batch('q');
SELECT queue.alter_queue('dead', health_thresholds => '{"waiting_age": 0, "oldest_critical": 0, "waiting_critical": 0}');
SELECT * FROM health('dead');
SELECT queue.drop_queue('q', true);
SELECT queue.drop_queue('dead', true);

-- the same alerts as JSON, the worst first
SELECT queue.create_queue('q', max_depth => 1, health_thresholds => '{"waiting_age": 0}');
SELECT queue.enqueue('q', '1') > 0 AS ok;
SELECT queue.pause_queue('q');
SELECT h.queue_name, h.status, h.score, a - 'recommendation' AS alert
FROM queue.queue_health('q') AS h, jsonb_array_elements(h.alerts) AS a;
SELECT count(*) FROM queue.health_alerts('q') AS a, queue.queue_health('q') AS h, jsonb_array_elements(h.alerts) AS j
WHERE j ->> 'message' = a.message AND j ->> 'code' = a.code AND j ->> 'severity' = a.severity
	AND j ->> 'recommendation' = a.recommendation AND (j ->> 'value')::float8 IS NOT DISTINCT FROM a.value;

-- all: the installation first
SELECT queue_name, status IS NOT NULL AS status FROM queue.queue_health();
BEGIN READ ONLY;
SELECT count(*) FROM queue.queue_health();
COMMIT;

-- who may: browsers their queues, monitors all, others none
CREATE ROLE regress_queue_browser;
CREATE ROLE regress_queue_monitor IN ROLE pg_monitor;
SELECT queue.create_queue('other');
SELECT queue.grant_queue('q', 'regress_queue_browser', 'browse');
SET ROLE regress_queue_browser;
SELECT queue_name FROM queue.queue_health();
SELECT * FROM queue.queue_health('other');
RESET ROLE;
SET ROLE regress_queue_monitor;
SELECT queue_name FROM queue.queue_health();
SELECT queue_name, status FROM queue.queue_health('other');
SELECT * FROM queue.queue_stats('other');
RESET ROLE;
SELECT queue.drop_queue('other');
SELECT queue.drop_queue('q', true);
DROP ROLE regress_queue_browser;
DROP ROLE regress_queue_monitor;

-- thresholds are checked
\pset format unaligned
\pset tuples_only on
SELECT queue.create_queue('q');
SELECT errors(
	$$queue.alter_queue('q', health_thresholds => '{"no": 1}')$$,
	$$queue.alter_queue('q', health_thresholds => '{"failed": "1"}')$$,
	$$queue.alter_queue('q', health_thresholds => '{"failed": -1}')$$,
	$$queue.alter_queue('q', health_thresholds => '{"failed": 1e400}')$$,
	$$queue.alter_queue('q', health_thresholds => '{"failed": {"a": 1}}')$$,
	$$queue.alter_queue('q', health_thresholds => '[1]')$$,
	$$queue.alter_queue('q', health_thresholds => '1')$$,
	$$queue.create_queue('r', health_thresholds => '{"": 1}')$$,
	$$queue.queue_health('no such')$$,
	$$queue.queue_health('')$$,
	$$queue.health_alerts('no such')$$
);
SELECT queue.drop_queue('q');
DROP FUNCTION health_handler, health, codes;

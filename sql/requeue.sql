-- Failed jobs get fresh attempts: by queue, batch, error, age or number, or one by one; old ones are cleaned away.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q', max_attempts => 2, backoff_jitter => 0);
SELECT queue.create_queue('other', max_attempts => 1);
-- a job that fails with an error, after both its attempts
CREATE PROCEDURE make_failed(queue_name text, payload jsonb, error text, batch_id text = null) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM queue.enqueue(queue_name, payload, batch_id => batch_id, source => 's', headers => '{"h": 1}',
		options => '{"visibility_timeout": "77 s"}');
	FOR i IN 1..2 LOOP
		PERFORM queue.fail(job_id, error, retry_in => '0') FROM queue.dequeue_batch(queue_name);
	END LOOP;
	COMMIT;
END
$$;
CREATE FUNCTION waiting(queue_name text = 'q') RETURNS text LANGUAGE sql AS
$$SELECT string_agg(payload::text, ' ' ORDER BY run_at, job_id) FROM queue.job WHERE job.queue_name = $1 AND state = 'waiting'$$;
CALL make_failed('q', '1', 'timeout of 3 s');
CALL make_failed('q', '2', 'connection refused', 'b1');
CALL make_failed('q', '3', 'timeout of 5 s', 'b1');
CALL make_failed('q', '4', 'TIMEOUT');
CALL make_failed('q', '5', null);
CALL make_failed('other', '6', 'timeout of 3 s', 'b1');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q'), queue.enqueue('q', '7');
SELECT queue.cancel(queue.enqueue('q', '8'));
SELECT counts('q'), counts('other');

-- what is requeued, by each of the arguments and by all of them; rolled back after each
CREATE FUNCTION try(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	which text;
BEGIN
	EXECUTE 'SELECT queue.requeue_failed(' || call || ')' INTO n;
	which := concat_ws(' ', waiting('q'), waiting('other'));
	RAISE EXCEPTION USING ERRCODE = 'P0001';
EXCEPTION WHEN raise_exception THEN
	RETURN format('%s: %s', n, which);
END
$$;
SELECT call, try(call) FROM (VALUES
	(1, ''),
	(2, $$'q'$$),
	(3, $$'other'$$),
	(4, $$'q', 2$$),
	(5, $$'q', 0$$),
	(6, $$'q', 9223372036854775807$$),
	(7, $$max_jobs => 1$$),
	(8, $$'q', batch_id => 'b1'$$),
	(9, $$batch_id => 'b1'$$),
	(10, $$batch_id => 'b2'$$),
	(11, $$error_pattern => 'timeout%'$$),
	(12, $$error_pattern => '%'$$),
	(13, $$error_pattern => 'timeout of _ s'$$),
	(14, $$error_pattern => 'timeout'$$),
	(15, $$older_than => '0'$$),
	(16, $$older_than => '1h'$$),
	(17, $$error_pattern => '%\%' || '%'$$),
	(18, $$'q', 1, 'b1', 'time%', '0'$$)
) AS c (n, call) ORDER BY n;
SELECT counts('q'), counts('other');

-- by age: the first has failed an hour ago
UPDATE queue.job_archive SET finished_at = finished_at - interval '1h' WHERE payload = '1' AND state = 'f';
SELECT try($$'q', older_than => '1h'$$), try($$'q', older_than => '59 min'$$), try($$'q', older_than => '61 min'$$),
	try($$'q', older_than => '1 month'$$);

-- a requeued job begins anew, at the end of its priority, and keeps all else
SELECT queue.enqueue('q', '9') IS NOT NULL;
SELECT queue.requeue_failed('q', error_pattern => 'connection%');
SELECT state, attempt, max_attempts, worker, batch_id, source, headers, options, last_error, payload, lease_expires_at
FROM queue.job WHERE payload = '2';
SELECT payload, attempt, lease_expires_at - now() > '76 s' AS lease FROM queue.dequeue_batch('q', 2);
SELECT queue.fail(job_id, 'again', retry_in => '0') FROM queue.job WHERE payload = '2';
SELECT payload, attempt FROM queue.dequeue_batch('q');
SELECT queue.fail(job_id, 'and again') FROM queue.job WHERE payload = '2';
SELECT attempt, event, error FROM queue.job_log
WHERE job_id IN (SELECT job_id FROM queue.list_jobs('q', 'failed') WHERE payload = '2') ORDER BY at;
SELECT queue.complete(job_id) FROM queue.job;
SELECT counts('q');

-- one job: failed or cancelled, not completed or unfinished
SELECT payload, state, queue.retry_job(job_id) FROM queue.list_jobs('q') ORDER BY payload;
SELECT queue.retry_job(0), queue.retry_job(-1), queue.retry_job(9223372036854775807);
SELECT payload, attempt, queue.retry_job(job_id) FROM queue.dequeue_batch('q', 10) ORDER BY payload;
SELECT counts('q');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;

-- clean: what has been finished for so long, of one state or all, of one queue or all
SELECT counts('q'), counts('other');
SELECT queue.clean('q'), queue.clean('q', '1h'), queue.clean(older_than => '1 month');
SELECT queue.clean('q', '0', 'cancelled'), queue.clean('q', '0', 'failed');
UPDATE queue.job_archive SET finished_at = finished_at - interval '1h' WHERE payload = '9';
SELECT queue.clean('q', '30 min', 'completed');
SELECT queue.clean('q', '0', 'completed'), queue.clean('q', '0');
SELECT counts('q'), counts('other');
SELECT queue.clean(older_than => '0');
SELECT counts('q'), counts('other');

-- without an age, that whose own retention has ended
SELECT queue.enqueue('q', '"short"', options => '{"keep_completed": "1 us"}') IS NOT NULL, queue.enqueue('q', '"long"') IS NOT NULL;
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('q', 2);
SELECT queue.clean('q', state => 'failed'), queue.clean(), queue.clean();
SELECT counts('q');

\pset format unaligned
SELECT errors(
	$$queue.requeue_failed('no such')$$,
	$$queue.requeue_failed('q', -1)$$,
	$$queue.requeue_failed('q', older_than => '-1s')$$,
	$$queue.requeue_failed('q', error_pattern => 'x\')$$,
	$$queue.requeue_failed(error_pattern => '\\\')$$,
	$$queue.retry_job(null)$$,
	$$queue.clean('no such')$$,
	$$queue.clean('q', '-1s')$$,
	$$queue.clean('q', state => 'waiting')$$,
	$$queue.clean('q', state => 'Failed')$$,
	$$queue.clean('q', state => '')$$
);
SELECT counts('q');
DROP FUNCTION try, waiting;
DROP PROCEDURE make_failed;
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;

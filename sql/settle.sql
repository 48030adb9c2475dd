-- The holder of a job completes, fails, extends or releases it; nobody else does.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', backoff_jitter => 0);
CREATE TABLE held (job_id bigint, payload jsonb, attempt int);
CREATE FUNCTION hold(n int) RETURNS SETOF held LANGUAGE sql BEGIN ATOMIC
	SELECT queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, n) AS i));
	SELECT job_id, payload, attempt FROM queue.dequeue_batch('q', n, worker => 'w');
END;

-- complete: once, with a result or without
INSERT INTO held SELECT * FROM hold(3);
SELECT payload, queue.complete(job_id) FROM held WHERE payload = '1';
SELECT payload, queue.complete(job_id, '{"sum": 42}', attempt) FROM held WHERE payload = '2';
SELECT payload, queue.complete(job_id, 'null') FROM held WHERE payload = '3';
SELECT payload, queue.complete(job_id) FROM held ORDER BY 1;
SELECT s.payload, s.state, s.result, s.error, s.attempt, s.worker, s.expires_at - s.finished_at AS kept,
	s.taken_at < s.finished_at AS in_order
FROM held, queue.job_status(held.job_id) AS s ORDER BY 1;
SELECT counts('q');

-- what is not held is an answer, not an error
SELECT count(queue.enqueue('q', '"waiting"')), count(queue.enqueue('q', '"delayed"', delay => '1h'));
SELECT payload, queue.complete(job_id), queue.fail(job_id), queue.extend(job_id, '1h'), queue.release(job_id)
FROM queue.job ORDER BY job_id;
SELECT queue.complete(id), queue.fail(id), queue.extend(id, '1h'), queue.release(id), queue.cancel(id)
FROM unnest('{0,-1,1,9223372036854775807,-9223372036854775808}'::bigint[]) AS id;
SELECT counts('q');
SELECT queue.purge_queue('q');

-- the attempt is the fence
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(1);
SELECT attempt, queue.complete(job_id, attempt => n), queue.fail(job_id, attempt => n),
	queue.extend(job_id, '1h', n), queue.release(job_id, attempt => n)
FROM held, unnest('{0,-1,2,2147483647}'::int[]) AS n;
SELECT counts('q');
SELECT queue.complete(job_id, attempt => 1) FROM held;

-- complete many: in any order, each once, those that are held
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(1000);
SELECT queue.complete_many(array_agg(job_id ORDER BY job_id DESC)) FROM held WHERE payload <= '100';
SELECT queue.complete_many(array_agg(job_id) || array_agg(job_id) || '{0,null,-5}') FROM held WHERE payload <= '200';
SELECT queue.complete_many(array_agg(job_id), array_agg(CASE WHEN payload <= '250' THEN 1 WHEN payload <= '260' THEN null ELSE 2 END))
FROM held WHERE payload BETWEEN '201' AND '300';
SELECT queue.complete_many('{}'), queue.complete_many(null), queue.complete_many('{null}'), queue.complete_many('{1}', '{null}');
SELECT queue.complete_many(ARRAY[array_agg(job_id), array_agg(job_id)]) FROM held WHERE payload <= '262';
SELECT counts('q');
SELECT queue.complete_many(array_agg(job_id)) FROM held;
SELECT counts('q');

-- fail many: each by its own attempts
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(3);
SELECT queue.enqueue('q', '4', max_attempts => 1) IS NOT NULL AS enqueued;
INSERT INTO held SELECT job_id, payload, attempt FROM queue.dequeue_batch('q');
SELECT queue.fail_many(array_agg(job_id) || '{0}', 'together', array_agg(CASE payload WHEN '3' THEN 2 ELSE 1 END) || '{1}') FROM held;
SELECT h.payload, s.state, s.error, CASE s.state WHEN 'delayed' THEN s.run_at - l.at END AS delay, l.event, l.attempt, l.worker, l.error
FROM held AS h, queue.job_status(h.job_id) AS s LEFT JOIN queue.job_log AS l USING (job_id)
ORDER BY 1;
SELECT queue.fail_many('{}'), queue.fail_many(null), queue.fail_many('{null}', null, '{1}');
SELECT counts('q');

-- extend: from now on, for longer or shorter
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(1);
SELECT queue.extend(job_id, '1h') BETWEEN now() + '1h' AND clock_timestamp() + '1h' FROM held;
SELECT queue.extend(job_id, '1 day', 1) = (SELECT lease_expires_at FROM queue.job_status(job_id)) FROM held;
SELECT s.lease_expires_at > now() + '23h' AS lasts, s.attempt, s.worker FROM held, queue.job_status(held.job_id) AS s;
SELECT payload FROM queue.dequeue_batch('q');

-- release: no attempt is spent, at once or later
SELECT queue.release(job_id) FROM held;
SELECT state, attempt, taken_at, lease_expires_at FROM queue.job WHERE payload = '1' AND state <> 'delayed';
SELECT payload, attempt FROM queue.dequeue_batch('q');
BEGIN;
SELECT queue.release(job_id, '1h', 1) FROM held;
SELECT j.state, j.attempt, j.run_at BETWEEN now() + '1h' AND clock_timestamp() + '1h' AS later
FROM queue.job AS j JOIN held USING (job_id);
COMMIT;
SELECT queue.release(job_id, null) FROM held;
SELECT counts('q');

-- cancel: whatever is not finished; who holds it learns it when it settles
SELECT queue.purge_queue('q');
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(1);
SELECT queue.cancel(job_id), queue.complete(job_id), queue.extend(job_id, '1h'), queue.cancel(job_id) FROM held;
SELECT queue.cancel(queue.enqueue('q', '"waiting"')), queue.cancel(queue.enqueue('q', '"delayed"', delay => '1h'));
SELECT payload, state, error, attempt FROM queue.list_jobs('q', 'cancelled');
SELECT counts('q');

-- bad arguments
\pset format unaligned
\pset tuples_only on
SET queue.max_payload_size = '1kB';
SELECT errors(
	$$queue.complete((SELECT job_id FROM queue.job WHERE state = 'active'), to_jsonb(repeat('x', 1024)))$$
);
RESET queue.max_payload_size;
SELECT counts('q');
SELECT errors(
	$$queue.complete(null)$$,
	$$queue.complete_many('{1,2}', '{1}')$$,
	$$queue.complete_many('{1}', '{}')$$,
	$$queue.fail(null)$$,
	$$queue.fail(1, retry => null)$$,
	$$queue.fail(1, retry_in => '-1s')$$,
	$$queue.fail(1, retry_in => '1 month')$$,
	$$queue.fail(1, retry_in => '2000000000 days')$$,
	$$queue.fail_many('{1,2}', attempts => '{1,2,3}')$$,
	$$queue.extend(null, '1h')$$,
	$$queue.extend(1, null)$$,
	$$queue.extend(1, '0')$$,
	$$queue.extend(1, '-1us')$$,
	$$queue.extend(1, '1 year')$$,
	$$queue.release(null)$$,
	$$queue.release(1, '-1s')$$,
	$$queue.release(1, '1 month')$$,
	$$queue.cancel(null)$$
);

-- a session remembers where the jobs lie that it took; a rewritten table has them elsewhere, or nowhere
SELECT queue.cancel(job_id) FROM queue.job;
TRUNCATE held;
INSERT INTO held SELECT * FROM hold(500);
SELECT queue.complete_many(ARRAY(SELECT job_id FROM held WHERE payload::int BETWEEN 1 AND 200));
VACUUM FULL queue.job_live;
SELECT count(*) FILTER (WHERE queue.complete(job_id, attempt => attempt)) FROM held WHERE payload::int BETWEEN 190 AND 300;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM held WHERE payload::int <= 499));
VACUUM FULL queue.job_live;
SELECT count(*) FILTER (WHERE queue.complete(job_id)) FROM held;
SELECT counts('q');
DROP FUNCTION hold;
DROP TABLE held;
SELECT queue.drop_queue('q', true);

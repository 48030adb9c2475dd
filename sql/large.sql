-- Payloads, headers, results and errors of any size live through every move from table to table.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q', max_attempts => 5, backoff_jitter => 0);
-- some megabytes that do not compress well
CREATE FUNCTION noise(kilobytes int) RETURNS jsonb LANGUAGE sql AS
$$SELECT to_jsonb(string_agg(md5(i::text), '')) FROM generate_series(1, kilobytes * 32) AS i$$;
CREATE TEMP TABLE sent AS
SELECT n, noise(kb) AS payload, queue.enqueue('q', noise(kb), delay => CASE n % 2 WHEN 0 THEN interval '1us' END,
	headers => noise(kb / 2)) AS job_id
FROM (VALUES (1, 1), (2, 3), (3, 9), (4, 100), (5, 500), (6, 1000)) AS s (n, kb);
CREATE FUNCTION taken() RETURNS TABLE (jobs bigint, intact boolean, attempt int) LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE taken AS SELECT * FROM take('q', 100) WITH NO DATA;
	FOR i IN 1..1000 LOOP
		INSERT INTO taken SELECT * FROM take('q', 100);
		EXIT WHEN (SELECT count(*) FROM taken) = 6;
	END LOOP;
	RETURN QUERY SELECT count(*), bool_and(t.payload = s.payload), max(t.attempt)
	FROM taken AS t JOIN sent AS s USING (job_id);
	DROP TABLE taken;
END
$$;
-- taken where it waits and where it was parked; moved there and back by a retry, a release, the end of a lease
SELECT * FROM taken();
SELECT count(queue.fail(job_id, noise(10) ->> 0, retry_in => '1us')) FROM sent;
SELECT * FROM taken();
SELECT count(queue.release(job_id, '1us')) FROM sent;
SELECT * FROM taken();
SELECT count(queue.extend(job_id, '1us')) FROM sent;
SELECT * FROM taken();
-- to the archive, with a result, or an error, and back
SELECT count(*) FILTER (WHERE queue.complete(job_id, noise(n * 20))) FROM sent WHERE n IN (1, 6);
SELECT count(queue.fail(job_id, noise(10) ->> 0, retry => false)) FROM sent WHERE n IN (2, 3);
SELECT count(*) FILTER (WHERE queue.cancel(job_id)) FROM sent WHERE n IN (4, 5);
SELECT n, state, s.payload = sent.payload AS payload, s.headers = noise(length(sent.payload ->> 0) / 2048) AS headers,
	s.result = noise(n * 20) AS result, s.error = noise(10) ->> 0 AS error
FROM sent, queue.job_status(sent.job_id) AS s ORDER BY n;
SELECT count(*) FILTER (WHERE queue.retry_job(job_id)) FROM sent;
SELECT count(*), bool_and(j.payload = sent.payload) FROM queue.job AS j JOIN sent USING (job_id);
SELECT counts('q');

-- taken and completed in one statement, a transaction, a procedure that commits in between
SELECT t.payload = s.payload AS payload, queue.complete(t.job_id)
FROM queue.dequeue_batch('q', 2) AS t JOIN sent AS s USING (job_id);
DO $$
DECLARE
	job record;
	whole jsonb;
BEGIN
	FOR i IN 1..2 LOOP
		SELECT * INTO job FROM queue.dequeue_batch('q');
		COMMIT;
		PERFORM queue.complete(job.job_id, job.payload);
		COMMIT;
		SELECT payload INTO whole FROM sent WHERE job_id = job.job_id;
		ASSERT job.payload = whole;
	END LOOP;
END
$$;
SELECT count(*), bool_and(result = payload) FROM queue.job_finished WHERE result IS NOT NULL
	AND job_id IN (SELECT job_id FROM sent WHERE n BETWEEN 2 AND 5);
SELECT counts('q');
SELECT count(*), bool_and(s.payload = sent.payload) FROM sent, queue.job_status(sent.job_id) AS s;

-- many at once
SELECT count(*) FROM queue.enqueue_batch('q', array_fill(noise(20), '{200}'));
SELECT count(*), min(length(payload ->> 0)), max(length(payload ->> 0)) FROM queue.dequeue_batch('q', 200);
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;
SELECT counts('q');

-- too large for us, or for the server: an error, of which nothing stays; as deep as the server allows goes through
CREATE TEMP VIEW own_memory AS SELECT sum(total_bytes) AS bytes FROM pg_backend_memory_contexts;
SELECT bytes AS before FROM own_memory \gset
\set VERBOSITY sqlstate
SELECT queue.enqueue('q', to_jsonb(repeat('x', 100000000)));
SELECT queue.enqueue('q', '{}', headers => jsonb_build_object('h', repeat('x', 100000000)));
SELECT queue.enqueue_batch('q', ARRAY['1', to_jsonb(repeat('x', 100000000))]);
SELECT queue.enqueue('q', (repeat('[', 200000) || repeat(']', 200000))::jsonb);
SELECT queue.enqueue('q', '"\u0000"');
SELECT queue.enqueue('q', '"\ud800"');
SELECT queue.enqueue('q', '1e400000');
SELECT queue.enqueue('q', (repeat('[', 5000) || repeat(']', 5000))::jsonb) IS NOT NULL;
SELECT queue.complete(job_id, payload, attempt), payload = (repeat('[', 5000) || repeat(']', 5000))::jsonb
FROM queue.dequeue_batch('q');
SELECT queue.enqueue('q', '1') IS NOT NULL;
SELECT queue.complete(job_id, to_jsonb(repeat('x', 100000000)), attempt) FROM queue.dequeue_batch('q');
SELECT queue.fail(job_id, repeat('x', 100000000), retry => false) FROM queue.dequeue_batch('q');
\set VERBOSITY default
SELECT length(error) FROM queue.job_finished WHERE state = 'failed' ORDER BY finished_at DESC LIMIT 1;
SELECT bytes < :before + 2000000 FROM own_memory;
SELECT counts('q');
DROP VIEW own_memory;
SELECT queue.clean('q', '0');
DROP FUNCTION taken, noise;
SELECT queue.drop_queue('q');

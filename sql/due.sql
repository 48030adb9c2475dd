-- Delayed jobs run when they are due, and take, work and completion may share a statement or a transaction.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q');

-- a taker finds due jobs by itself, and those that the maintenance worker is just moving a moment later
SELECT count(queue.enqueue('q', to_jsonb(i), delay => make_interval(secs => i / 1e6))) FROM generate_series(1, 5) AS i;
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['"later"']::jsonb[], delay => '1h');
CREATE TEMP TABLE taken (payload jsonb, attempt int);
DO $$
BEGIN
	FOR i IN 1..5 LOOP
		INSERT INTO taken SELECT payload, attempt FROM take('q', 10);
		EXIT WHEN (SELECT count(*) FROM taken) = 5;
	END LOOP;
END
$$;
SELECT payload, attempt FROM taken ORDER BY payload;
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

-- with nobody there to take it, the maintenance worker moves it to where the others wait
SELECT count(queue.enqueue('q', '"soon"', delay => '30ms'));
CALL wait_until($$(SELECT count(*) = 1 FROM queue.job_live WHERE state = 'w')$$);
SELECT payload, state, run_at - enqueued_at AS delay FROM queue.job WHERE state <> 'active' ORDER BY run_at;
CALL wait_until($$counts('q') = 'waiting 1, delayed 1, active 5'$$);
SELECT payload FROM queue.dequeue_batch('q', 10);

-- so does maintain(); what is moved keeps its place by due time
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT count(queue.enqueue('q', '"now"', delay => '0')), count(queue.enqueue('q', '"moved"', delay => '1us'));
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['"after"']::jsonb[]);
SELECT bool_and(items >= 0) FROM queue.maintain();
CALL wait_until($$counts('q') = 'waiting 3'$$);
SELECT payload FROM queue.dequeue_batch('q', 10);

-- take and complete in one statement
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3,4,5,6,7,8,9}');
SELECT payload, queue.complete(job_id, attempt => attempt) FROM queue.dequeue_batch('q', 2);
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 3)));
SELECT payload, queue.fail(job_id, 'no', retry => false) FROM queue.dequeue_batch('q', 1);
SELECT payload, queue.release(job_id) FROM queue.dequeue_batch('q', 1);
SELECT counts('q');
WITH taken AS MATERIALIZED (SELECT * FROM queue.dequeue_batch('q', 2)),
	again AS MATERIALIZED (SELECT * FROM queue.dequeue_batch('q', 2))
SELECT (SELECT count(*) FROM taken) AS taken, (SELECT count(*) FROM again) AS again;
SELECT counts('q');

-- enqueue, take and complete in one statement, and in one transaction
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
WITH put AS MATERIALIZED (SELECT queue.enqueue('q', '"same statement"') AS job_id)
SELECT payload, t.job_id = put.job_id AS same, queue.complete(t.job_id) FROM put, queue.dequeue_batch('q') AS t;
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
SELECT payload FROM queue.dequeue_batch('q', 2);
SELECT count(*) FROM queue.enqueue_batch('q', '{0}', priority => 1);
SELECT payload FROM queue.dequeue_batch('q', 2);
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;
SELECT payload FROM queue.dequeue_batch('q', 2);
COMMIT;
SELECT counts('q');

-- delayed jobs of one's own transaction, too, in the order in which they are due
BEGIN;
SELECT count(queue.enqueue('q', to_jsonb(i), run_at => now() + make_interval(secs => 0.03 - i * 0.001)))
FROM generate_series(1, 4) AS i;
DO $$ BEGIN WHILE clock_timestamp() < now() + '30ms' LOOP PERFORM pg_sleep(0.001); END LOOP; END $$;
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('q', 5);
COMMIT;
SELECT counts('q');

-- a function takes, works and completes; an error in it gives all back
CREATE FUNCTION work(n int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	j record;
	done int := 0;
BEGIN
	FOR j IN SELECT * FROM queue.dequeue_batch('q', n) LOOP
		done := done + (1 / (j.payload ->> 'n')::numeric)::int;
		PERFORM queue.complete(j.job_id, to_jsonb(done), j.attempt);
	END LOOP;
	RETURN done;
END
$$;
SELECT count(*) FROM queue.enqueue_batch('q', '{"{\"n\": 1}","{\"n\": 1}","{\"n\": 0}"}');
SELECT work(3);
SELECT counts('q');
SELECT work(2);
SELECT counts('q');
DROP FUNCTION work;
SELECT queue.drop_queue('q', true);

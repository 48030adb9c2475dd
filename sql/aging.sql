-- With aging, waiting time raises a job's priority exactly; a change of the interval orders anew.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', aging_interval => '1 min');

-- one step of priority is worth one minute, to the microsecond
SELECT count(queue.enqueue('q', to_jsonb(name), priority, run_at => timestamptz '2020-01-01 00:00:00+00' + after))
FROM (VALUES
	(1, 'five, at 0:00', 5, interval '0'),
	(2, 'one, at 4:00.000001', 1, '4 min 0.000001 s'),
	(3, 'one, at 4:00, but later enqueued', 1, '4 min'),
	(4, 'one, at 3:59.999999', 1, '3 min 59.999999 s'),
	(5, 'minus one, at 5:59', -1, '5 min 59 s'),
	(6, 'minus one, at 6:01', -1, '6 min 1 s'),
	(7, 'five hundred, a day before', 500, '-1 day'),
	(8, 'fifteen hundred, a day before', 1500, '-1 day')
) AS j (n, name, priority, after);
SELECT payload, priority FROM queue.dequeue_batch('q', 100);
SELECT counts('q');

-- many, in the order that the formula gives, whatever is taken in between
SELECT setseed(0.5);
CREATE TEMP TABLE job AS
SELECT n, (random() * 20 - 10)::int AS priority,
	timestamptz '2020-01-01 00:00:00+00' + make_interval(secs => random() * 1200) AS run_at
FROM generate_series(1, 500) AS n;
SELECT count(queue.enqueue('q', to_jsonb(n), priority, run_at => run_at)) FROM job WHERE n <= 250;
CREATE TEMP TABLE taken (payload jsonb, n serial);
INSERT INTO taken SELECT payload FROM queue.dequeue_batch('q', 100);
SELECT count(queue.enqueue('q', to_jsonb(n), priority, run_at => run_at)) FROM job WHERE n > 250;
INSERT INTO taken SELECT payload FROM queue.dequeue_batch('q', 150);
INSERT INTO taken SELECT payload FROM queue.dequeue_batch('q', 500);
WITH first AS (
	SELECT n, row_number() OVER (ORDER BY run_at + priority * interval '1 min', n) AS place
	FROM job WHERE n <= 250
), rest AS (
	SELECT n, 100 + row_number() OVER (ORDER BY run_at + priority * interval '1 min', n) AS place
	FROM job WHERE n NOT IN (SELECT n FROM first WHERE place <= 100)
), expected AS (
	SELECT * FROM first WHERE place <= 100 UNION ALL SELECT * FROM rest
)
SELECT count(*), count(*) FILTER (WHERE t.n = e.place) AS right
FROM taken AS t JOIN expected AS e ON t.payload = to_jsonb(e.n);
SELECT counts('q');

-- another interval, or none, orders the waiting jobs anew, and the delayed ones when they come
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
CREATE FUNCTION order_of_three() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	SELECT string_agg(payload ->> 0, ', ') INTO result FROM queue.dequeue_batch('q', 3);
	RAISE EXCEPTION USING ERRCODE = 'P0001';
EXCEPTION WHEN raise_exception THEN
	RETURN result;
END
$$;
SELECT count(queue.enqueue('q', to_jsonb(name), priority, run_at => run_at))
FROM (VALUES
	('one, today', 1, timestamptz '2020-01-03'),
	('five, yesterday', 5, '2020-01-02'),
	('nine, long ago', 9, '2019-01-01')
) AS j (name, priority, run_at);
SELECT order_of_three();
SELECT queue.alter_queue('q', aging_interval => '1 h');
SELECT order_of_three();
SELECT queue.alter_queue('q', aging_interval => '10 days');
SELECT order_of_three();
SELECT queue.alter_queue('q', aging_interval => '1us');
SELECT order_of_three();
SELECT queue.reset_queue_setting('q', 'aging_interval');
SELECT order_of_three();
SELECT counts('q');

-- a rollback of the change, too
BEGIN;
SELECT queue.alter_queue('q', aging_interval => '1us');
SELECT order_of_three();
ROLLBACK;
SELECT order_of_three();

-- an active job is ordered anew, too, and a retry by its new due time
SELECT payload FROM queue.dequeue_batch('q', 1);
SELECT queue.alter_queue('q', aging_interval => '1us');
SELECT queue.release(job_id) FROM queue.job WHERE state = 'active';
SELECT order_of_three();
SELECT counts('q');

-- the largest priorities and intervals
SELECT queue.purge_queue('q');
SELECT queue.alter_queue('q', aging_interval => '1000 days');
SELECT count(queue.enqueue('q', to_jsonb(p), priority => p)) FROM unnest('{32767,-32768,0}'::int[]) AS p;
SELECT payload FROM queue.dequeue_batch('q', 3);

DROP FUNCTION order_of_three;
SELECT queue.drop_queue('q', true);

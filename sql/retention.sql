-- Finished jobs are kept as long as asked, then go with their whole leaf, without a deleted row; the counters follow.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
CREATE PROCEDURE finish(queue_name text, n int, options jsonb = null) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM queue.enqueue_batch(queue_name, array_agg(to_jsonb(i)), options => finish.options) FROM generate_series(1, n) AS i;
	PERFORM queue.complete(job_id) FROM queue.dequeue_batch(queue_name, n) WHERE payload <> '1';
	PERFORM queue.fail(job_id, 'failed', retry => false) FROM queue.job
	WHERE job.queue_name = finish.queue_name AND state = 'active';
END
$$;
-- leaves that hold jobs of a queue, and whether each may
CREATE VIEW held AS
SELECT q.queue_name, a.leaf, l.expires_before, count(*) AS jobs, max(a.expires_at) AS last_expiry,
	max(a.expires_at - a.finished_at) AS kept
FROM queue.job_archive AS a JOIN queue.queue AS q USING (queue_id)
	LEFT JOIN queue._leaf AS l ON l.ring = 'a' AND l.leaf = a.leaf
GROUP BY q.queue_name, a.leaf, l.expires_before;

-- not at all, by the queue or by the job
SELECT queue.create_queue('none', keep_completed => '0', keep_failed => '0');
CALL finish('none', 10);
SELECT counts('none');
CALL finish('none', 10, '{"keep_completed": "1 min"}');
CALL finish('none', 10, '{"keep_failed": 60}');
SELECT counts('none');
SELECT queue.create_queue('some', keep_completed => '1 h', keep_failed => '2 h');
CALL finish('some', 10, '{"keep_completed": 0}');
CALL finish('some', 10, '{"keep_failed": 0}');
CALL finish('some', 1, '{"keep_failed": "1 month 1 day"}');
SELECT counts('some');
SELECT state, count(*), max(expires_at - finished_at) FROM queue.job_finished WHERE queue_name = 'some' GROUP BY state ORDER BY 1;

-- any time: in a leaf that lasts as long, and not much longer than a quarter more
SELECT count(queue.create_queue(keep, keep_completed => keep::interval, keep_failed => keep::interval))
FROM unnest('{1 s,1 min,10 min,1 h,1 day,7 days,1 month,1 year,1000 years}'::text[]) AS keep;
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT queue_name FROM queue.queue WHERE queue_name ~ '^[17]' LOOP
		CALL finish(name, 3);
	END LOOP;
END
$$;
SELECT queue_name, jobs, leaf > 0 AS ring, expires_before >= last_expiry AS lasts,
	expires_before - last_expiry <= greatest(kept / 4, '2 min') AS enough
FROM held WHERE queue_name ~ '^[17]' ORDER BY queue_name::interval;
-- more different times than there are leaves: all the same in one that lasts as long
SELECT count(queue.create_queue(h || ' h', keep_completed => make_interval(hours => h), keep_failed => make_interval(hours => 2 * h)))
FROM unnest('{2,3,5,8,13,21,34,55,89,144,233,377,610,987,1597,2584}'::int[]) AS h;
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT queue_name FROM queue.queue WHERE queue_name ~ ' h$' LOOP
		CALL finish(name, 3);
	END LOOP;
END
$$;
SELECT sum(jobs), bool_and(leaf = 0 OR expires_before >= last_expiry) AS lasts, count(DISTINCT leaf) > 5 AS ring FROM held;
SELECT counts(queue_name), count(*) FROM queue.queue WHERE queue_name ~ ' h$' GROUP BY 1 ORDER BY 1;
SELECT count(queue.drop_queue(queue_name)) FROM queue.queue;
SELECT count(*) FROM queue.job_finished;

-- a leaf whose time has passed is emptied, and its counts with it; one that lasts is not
SELECT queue.create_queue('q', keep_completed => '1 day', keep_failed => '30 days');
CALL finish('q', 1000);
SELECT counts('q');
SELECT leaf AS gone FROM queue.job_archive JOIN queue.queue USING (queue_id) WHERE queue_name = 'q' AND state = 'c' LIMIT 1 \gset
SELECT format('queue._archive_%s', lpad(:'gone', 2, '0')) AS gone_table \gset
SELECT pg_stat_force_next_flush();
SELECT n_tup_del AS deleted FROM pg_stat_user_tables WHERE relid = :'gone_table'::regclass \gset
-- while somebody may still want to see it, it stays
BEGIN;
SELECT txid_current() > 0;
PREPARE TRANSACTION 'older';
UPDATE queue._leaf SET expires_before = now() - interval '1 s' WHERE ring = 'a' AND leaf = :gone;
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT counts('q');
ROLLBACK PREPARED 'older';
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND counts('q') = 'failed 1'$$);
SELECT pg_stat_force_next_flush();
SELECT pg_relation_size(:'gone_table'), n_tup_del - :deleted AS deleted FROM pg_stat_user_tables WHERE relid = :'gone_table'::regclass;
SELECT expires_before IS NULL OR expires_before > now() FROM queue._leaf WHERE ring = 'a' AND leaf = :gone;
SELECT count(*) FROM queue._archive_count WHERE leaf = :gone;
SELECT payload, state FROM queue.list_jobs('q');
-- it comes into use again
CALL finish('q', 2);
SELECT bool_and(expires_before >= last_expiry) FROM held WHERE leaf > 0;
SELECT counts('q');

-- where there is no leaf, rows are kept in the one that stays, and removed one by one
BEGIN;
DELETE FROM queue._leaf;
CALL finish('q', 3, '{"keep_completed": "1 us"}');
COMMIT;
SELECT count(*) FROM queue._archive_00 JOIN queue.queue USING (queue_id) WHERE queue_name = 'q';
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND counts('q') = 'completed 1, failed 3'$$);
SELECT count(*) FROM queue._archive_00 JOIN queue.queue USING (queue_id) WHERE queue_name = 'q';
SELECT queue.clean('q', '0');
SELECT counts('q');

-- the log, likewise
CREATE FUNCTION logged() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM queue.job_log WHERE leaf > 0';
SELECT logged() > 0;
UPDATE queue._leaf SET expires_before = now() - interval '1 s' WHERE ring = 'l';
SELECT bool_and(items >= 0) FROM queue.maintain();
-- not under the feet of a cursor
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM queue.job_log;
MOVE c;
SELECT bool_and(items >= 0) FROM queue.maintain();
COMMIT;
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND logged() = 0$$);
SELECT count(*) FROM queue._leaf WHERE ring = 'l' AND expires_before < now();

DROP VIEW held;
DROP FUNCTION logged;
DROP PROCEDURE finish;
SELECT count(queue.drop_queue(queue_name)) FROM queue.queue;

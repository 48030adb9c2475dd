-- How many jobs may be active at once, how many may be taken in a time, and how to stop taking for a while.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SET statement_timeout = '60s';

-- max_active: what is taken, by whatever call, is never more
SELECT queue.create_queue('q', max_active => 3);
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 20) AS i));
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT payload FROM queue.dequeue_batch('q', wait => '20 ms');
CALL queue.wait('q', '20 ms');
SELECT active, max_active, rate_limit, rate_period, rate_available, throttled_until FROM queue.queue_stats('q');
-- each way to let go of a job makes room for another
SELECT queue.complete(job_id) FROM queue.job WHERE payload = '1';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.fail(job_id, 'e') FROM queue.job WHERE payload = '2';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.fail(job_id, 'e', retry => false) FROM queue.job WHERE payload = '3';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.release(job_id, '1 h') FROM queue.job WHERE payload = '4';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.cancel(job_id) FROM queue.job WHERE payload = '5';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT payload FROM queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' ORDER BY payload LIMIT 2), 'q', 10);
SELECT counts('q');
-- due jobs straight out of the parked table count as well
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
BEGIN;
SELECT count(queue.enqueue('q', '"due"', -1, delay => '1 us')) FROM generate_series(1, 5);
SELECT count(*) FROM queue.dequeue_batch('q', 10);
ROLLBACK;

-- in a transaction: its own claims count at once, its own completions make room for itself
BEGIN;
SELECT count(*) FROM queue.dequeue_batch('q', 2);
SAVEPOINT s;
SELECT count(*) FROM queue.dequeue_batch('q', 2);
SELECT count(*) FROM queue.dequeue_batch('q', 2);
ROLLBACK TO SAVEPOINT s;
SELECT count(*) FROM queue.dequeue_batch('q', 1);
SELECT count(*) FROM queue.dequeue_batch('q', 1);
SELECT count(queue.complete(job_id)) FROM queue.job WHERE state = 'active';
SELECT count(*) FROM queue.dequeue_batch('q', 10);
ROLLBACK;
SELECT count(*) FROM queue.dequeue_batch('q', 10);
BEGIN;
SAVEPOINT s;
SELECT count(queue.complete(job_id)) FROM queue.job WHERE state = 'active';
SELECT count(*) FROM queue.dequeue_batch('q', 2);
SAVEPOINT t;
SELECT count(*) FROM queue.dequeue_batch('q', 2);
ROLLBACK TO SAVEPOINT t;
SELECT count(*) FROM queue.dequeue_batch('q', 2);
RELEASE SAVEPOINT s;
SELECT count(*) FROM queue.dequeue_batch('q', 10);
COMMIT;
SELECT count(*) FROM queue.dequeue_batch('q', 10);
SELECT counts('q');
DO $$
BEGIN
	PERFORM queue.complete(job_id) FROM queue.job WHERE state = 'active';
	FOR i IN 1 .. 3 LOOP
		BEGIN
			PERFORM FROM queue.dequeue_batch('q', 2);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
	PERFORM FROM queue.dequeue_batch('q', 1);
END
$$;
SELECT active FROM queue.queue_stats('q');

-- raised, lowered, lifted; what is active when it is lowered stays, and those who take one for one do not keep it up
SELECT queue.alter_queue('q', max_active => 4);
SELECT count(*) FROM queue.dequeue_batch('q', 10);
SELECT queue.alter_queue('q', max_active => 2);
SELECT count(*) FROM queue.dequeue_batch('q', 10);
SELECT count(*) FROM queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' LIMIT 1), 'q');
SELECT count(*) FROM queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' LIMIT 1), 'q');
SELECT count(*) FROM queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' LIMIT 1), 'q');
SELECT active FROM queue.queue_stats('q');
SELECT queue.reset_queue_setting('q', 'max_active');
SELECT count(*) FROM queue.dequeue_batch('q', 3);
SELECT counts('q');

-- a prepared transaction must not hold any, but may have taken and completed some
SELECT queue.purge_queue('q') > 0 AS purged;
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT queue.alter_queue('q', max_active => 2);
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['1', '2', '3', '4']::jsonb[]);
BEGIN;
SELECT payload FROM queue.dequeue_batch('q');
PREPARE TRANSACTION 'held';
BEGIN;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
PREPARE TRANSACTION 'done';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT payload FROM queue.dequeue_batch('q', 10);
COMMIT PREPARED 'done';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

-- the maintenance worker gives back what a lease that has ended holds; nobody takes over
SELECT queue.purge_queue('q');
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT queue.alter_queue('q', max_active => 1);
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['1', '2']::jsonb[]);
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '1 ms', worker => 'w');
CALL queue.wait('q', '20 s');
SELECT state, payload, attempt, worker FROM queue.job ORDER BY payload::int;
SELECT payload, attempt FROM queue.dequeue_batch('q', 10, visibility_timeout => '1 ms');
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '1 ms', wait => '20 s');
SELECT payload, attempt FROM queue.dequeue_batch('q', wait => '20 s');
SELECT event, regexp_replace(message, 'at .*;', 'at ...;') AS message, count(*) FROM queue.job_log
WHERE queue_id = (SELECT queue_id FROM queue.queue WHERE queue_name = 'q') AND event = 'stalled' GROUP BY 1, 2 ORDER BY 2;
SELECT counts('q');
-- those that had ended before there was a limit, too
SELECT queue.create_queue('late');
SELECT count(*) FROM queue.enqueue_batch('late', ARRAY['1', '2']::jsonb[]);
SELECT payload FROM queue.dequeue_batch('late', visibility_timeout => '1 ms');
SELECT queue.alter_queue('late', max_active => 1);
SELECT payload, attempt FROM queue.dequeue_batch('late', 10, wait => '20 s');
SELECT queue.drop_queue('late', true);

-- rate_limit: a bucket that is full at first, and has what an hour brings back
SELECT queue.create_queue('r', rate_limit => 3, rate_period => '1 h');
SELECT count(*) FROM queue.enqueue_batch('r', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 20) AS i));
SELECT rate_limit, rate_period, rate_available FROM queue.queue_stats('r');
BEGIN;
SELECT payload FROM queue.dequeue_batch('r', 2);
SAVEPOINT s;
SELECT payload FROM queue.dequeue_batch('r', 2);
SELECT rate_available FROM queue.queue_stats('r');
ROLLBACK TO SAVEPOINT s;
SELECT rate_available FROM queue.queue_stats('r');
COMMIT;
BEGIN;
SELECT payload FROM queue.dequeue_batch('r');
ROLLBACK;
-- a job that is over gives nothing back
SELECT queue.complete(job_id) FROM queue.job WHERE queue_name = 'r' AND state = 'active';
SELECT rate_available FROM queue.queue_stats('r');
SELECT payload FROM queue.dequeue_batch('r', 2);
SELECT payload FROM queue.dequeue_batch('r', 2, wait => '20 ms');
CALL queue.wait('r', '20 ms');
SELECT rate_available FROM queue.queue_stats('r');
-- with a shorter period, one has not long to wait: longer than nothing, and not for ever
SELECT queue.alter_queue('r', rate_period => '300 ms');
SELECT payload FROM queue.dequeue_batch('r', wait => '20 s');
CALL queue.wait('r', '20 s');
SELECT payload FROM queue.dequeue_batch('r', wait => '20 s');
-- as many as one likes
SELECT queue.alter_queue('r', rate_limit => 2147483647, rate_period => '1 us');
SELECT count(*) FROM queue.dequeue_batch('r', 5);
SELECT queue.alter_queue('r', rate_limit => 1, rate_period => '10000000 days');
SELECT count(*) < 2 AS few FROM queue.dequeue_batch('r', 5);
SELECT queue.reset_queue_setting('r', 'rate_limit');
SELECT count(*) FROM queue.dequeue_batch('r', 5);
SELECT rate_limit, rate_period, rate_available FROM queue.queue_stats('r');

-- throttle: until then nothing is taken, whoever asks; it takes effect at once, and no rollback undoes it
SELECT queue.create_queue('t');
SELECT queue.enqueue('t', '1') > 0 AS enqueued, queue.enqueue('t', '2') > 0 AS enqueued;
CREATE FUNCTION throttles(duration interval = null) RETURNS interval LANGUAGE sql AS $$
	SELECT CASE WHEN left_over > '1 min' THEN date_trunc('minute', left_over + '59 s')
		ELSE date_trunc('second', left_over + '0.9 s') END
	FROM (SELECT queue.throttle('t', duration) - clock_timestamp()) AS t (left_over)
$$;
SELECT throttled_until FROM queue.queue_stats('t');
BEGIN;
SELECT throttles('1 h');
ROLLBACK;
SELECT payload FROM queue.dequeue_batch('t', 10, wait => '20 ms');
CALL queue.wait('t', '20 ms');
SELECT throttled_until > now() + '59 min' AS throttled, waiting FROM queue.queue_stats('t');
-- the later of two ends counts; without a duration it stays as it is
SELECT throttles('1 min');
SELECT throttles();
SELECT throttles('2 h');
-- it is written down
CALL wait_until($$(SELECT q.throttled_until = s.throttled_until FROM queue.queue AS q JOIN queue.queue_stats('t') AS s USING (queue_name))$$);
-- lifted
SELECT queue.throttle('t', '0');
SELECT payload FROM queue.dequeue_batch('t');
CALL wait_until($$(SELECT throttled_until IS NULL FROM queue.queue WHERE queue_name = 't')$$);
-- it grows from call to call, as long as none is under way
SELECT throttles();
SELECT throttles();
SELECT payload FROM queue.dequeue_batch('t', wait => '20 s');
-- also if a job is completed that was taken before it ended, or if that is undone
SELECT queue.complete(job_id) FROM queue.job WHERE queue_name = 't' AND payload = '1';
BEGIN;
SELECT queue.complete(job_id) FROM queue.job WHERE queue_name = 't' AND payload = '2';
ROLLBACK;
SELECT throttles();
SELECT queue.enqueue('t', '3') > 0 AS enqueued, queue.enqueue('t', '4') > 0 AS enqueued;
SELECT payload FROM queue.dequeue_batch('t', wait => '20 s');
-- one that was taken after the end shows that all is well again
SELECT queue.complete(job_id) FROM queue.job WHERE queue_name = 't' AND payload = '3';
SELECT throttles();
-- as does one who lifts it
SELECT payload FROM queue.dequeue_batch('t', wait => '20 s');
SELECT queue.throttle('t', '0');
SELECT throttles();

-- all at once
SELECT queue.create_queue('all', max_active => 2, rate_limit => 3, rate_period => '1 h');
SELECT count(*) FROM queue.enqueue_batch('all', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 9) AS i));
SELECT queue.throttle('all', '1 h') > now() AS throttled;
SELECT count(*) FROM queue.dequeue_batch('all', 9);
SELECT queue.throttle('all', '0');
SELECT count(*) FROM queue.dequeue_batch('all', 9);
SELECT active, max_active, rate_limit, rate_period, rate_available FROM queue.queue_stats('all');
SELECT count(*) FROM queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job WHERE queue_name = 'all' AND state = 'active'), 'all', 9);
SELECT active, rate_available FROM queue.queue_stats('all');

-- counters that are not known: who may counts, who may not takes nothing
SELECT queue.create_queue('u', max_active => 1);
SELECT count(*) FROM queue.enqueue_batch('u', ARRAY['1', '2']::jsonb[]);
UPDATE queue.job_live SET max_attempts = max_attempts WHERE queue_id = (SELECT queue_id FROM queue.queue WHERE queue_name = 'u');
SELECT payload FROM queue.dequeue_batch('u', 10);
SELECT payload FROM queue.dequeue_batch('u', 10);

-- who may
CREATE ROLE queue_limits_taker;
SET ROLE queue_limits_taker;
SELECT queue.throttle('t');
RESET ROLE;
SELECT queue.grant_queue('t', 'queue_limits_taker', 'dequeue');
SET ROLE queue_limits_taker;
SELECT queue.throttle('t', '1 s') > now() AS throttled;
SELECT queue.throttle('q', '1 s');
RESET ROLE;
SELECT queue.revoke_queue('t', 'queue_limits_taker', 'dequeue');
DROP ROLE queue_limits_taker;

-- what is refused
\pset format unaligned
\pset tuples_only on
SELECT errors(
	$$queue.throttle(null)$$,
	$$queue.throttle('')$$,
	$$queue.throttle('no such')$$,
	$$queue.throttle('t', '-1 s')$$,
	$$queue.throttle('t', '1 month')$$,
	$$queue.throttle('t', '1 day 1 us')$$,
	$$queue.create_queue('x', max_active => 0)$$,
	$$queue.create_queue('x', rate_limit => 0)$$,
	$$queue.create_queue('x', rate_limit => -1)$$,
	$$queue.create_queue('x', rate_period => '0')$$,
	$$queue.create_queue('x', rate_period => '1 month')$$
);
BEGIN READ ONLY;
SELECT queue.throttle('t');
ROLLBACK;
SELECT queue.drop_queue(queue_name, true) FROM queue.queue;
DROP FUNCTION throttles;

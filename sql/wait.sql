-- A taker may wait, by dequeue_batch or by CALL queue.wait(); a lease may be bound to the session.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', max_attempts => 2);

-- a job that is there is taken at once, however long one would wait
SELECT queue.enqueue('q', '"there"') IS NOT NULL AS enqueued;
SET statement_timeout = '10s';
SELECT payload FROM queue.dequeue_batch('q', wait => '1 h');
SELECT queue.enqueue('q', '"there"') IS NOT NULL AS enqueued;
CALL queue.wait('q', '1 h');
-- it has taken nothing
SELECT payload, attempt FROM queue.dequeue_batch('q', 10, wait => '1 h');
-- not to wait, and to wait in vain, are no errors
SELECT count(*) FROM queue.dequeue_batch('q', wait => '0');
SELECT count(*) FROM queue.dequeue_batch('q', wait => '1 us');
SELECT count(*) FROM queue.dequeue_batch('q', wait => '20 ms');
CALL queue.wait('q', '0');
CALL queue.wait('q', '20 ms');

-- how long, by the clock: not much less than was asked for, and never more than queue.max_wait
CREATE FUNCTION waits(at_least interval, call text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	EXECUTE 'SELECT FROM ' || call;
	RETURN clock_timestamp() - began >= at_least;
END
$$;
SELECT waits('50 ms', $$queue.dequeue_batch('q', wait => '50 ms')$$);
SELECT waits('50 ms', $$queue.complete_and_dequeue(null, 'q', wait => '50 ms')$$);
SET queue.max_wait = '50 ms';
SELECT waits('50 ms', $$queue.dequeue_batch('q', wait => '1 h')$$);
SET queue.max_wait = 0;
SELECT waits('0', $$queue.dequeue_batch('q', wait => '1 h')$$);
RESET queue.max_wait;
SHOW queue.max_wait;

-- what becomes due, comes back, or ends its lease meanwhile; one session, so only time can do it
SELECT queue.purge_queue('q') >= 0 AS purged, queue.complete_many(array_agg(job_id)) AS completed FROM queue.job;
SELECT queue.enqueue('q', '"delayed"', delay => '50 ms') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '50 ms', wait => '1 min');
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '1 h', wait => '1 min');
SELECT queue.release(job_id, '50 ms') FROM queue.job;
CALL queue.wait('q', '1 min');
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '50 ms');
-- its last attempt ends in failure, which is no job for anybody
SELECT count(*) FROM queue.dequeue_batch('q', wait => '200 ms');
SELECT counts('q');

-- completing and waiting in one call: both happen
SELECT queue.enqueue('q', '"first"') AS job_id \gset
SELECT queue.enqueue('q', '"second"', delay => '50 ms') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('q');
SELECT payload, attempt FROM queue.complete_and_dequeue(ARRAY[:job_id], 'q', 1, '1 h', 'me', '1 min', false, ARRAY[1]);
SELECT state FROM queue.job_status(:job_id);
SELECT worker FROM queue.job;

-- in a transaction that has written and holds a snapshot: its own jobs are taken without a wait, and it may wait as well
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT queue.enqueue('q', '"own"') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('q', wait => '1 h');
SELECT count(*) FROM queue.dequeue_batch('q', wait => '20 ms');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT queue.enqueue('q', '"due"', delay => '20 ms') IS NOT NULL AS enqueued;
-- the worker cannot see it, so nobody but this call knows when it is due
SELECT payload FROM queue.dequeue_batch('q', wait => '1 min');
ROLLBACK;
-- several in one statement, each waits for itself
SELECT queue.enqueue('q', '"both"', delay => '50 ms') IS NOT NULL AS enqueued;
SELECT a.payload, b.payload AS other FROM queue.dequeue_batch('q', wait => '1 min') AS a
LEFT JOIN LATERAL queue.dequeue_batch('q', wait => '20 ms') AS b ON a.job_id > 0;
WITH job AS MATERIALIZED (SELECT * FROM queue.dequeue_batch('q', wait => '20 ms')) SELECT count(*) FROM job;
-- in a subtransaction that is undone
DO $$
BEGIN
	PERFORM queue.enqueue('q', '"undone"');
	PERFORM count(*) FROM queue.dequeue_batch('q', wait => '1 h');
	RAISE EXCEPTION 'undo';
EXCEPTION WHEN raise_exception THEN
	RAISE NOTICE '%', (SELECT count(*) FROM queue.dequeue_batch('q', wait => '20 ms'));
END
$$;

-- a queue that is paused is waited for, one that is not there is not
SELECT queue.pause_queue('q');
SELECT queue.enqueue('q', '"paused"') IS NOT NULL AS enqueued;
SELECT count(*) FROM queue.dequeue_batch('q', wait => '20 ms');
CALL queue.wait('q', '20 ms');
SELECT queue.resume_queue('q');
CALL queue.wait('q', '1 h');
SELECT payload FROM queue.dequeue_batch('q', wait => '1 h');
RESET statement_timeout;

-- refused
\pset format unaligned
\pset tuples_only on
SELECT errors(
	$$queue.dequeue_batch('q', wait => null)$$,
	$$queue.dequeue_batch('q', wait => '-1 s')$$,
	$$queue.dequeue_batch('q', wait => '1 month')$$,
	$$queue.dequeue_batch('q', wait => '200000000 days')$$,
	$$queue.dequeue_batch('q', bind_session => null)$$,
	$$queue.complete_and_dequeue('{}', 'q', wait => '-1 s')$$,
	$$queue.complete_and_dequeue('{}', 'none', wait => '1 s')$$,
	$$queue.dequeue_batch('none', wait => '1 s')$$);
\pset format aligned
\pset tuples_only off
CALL queue.wait(null, '1 s');
CALL queue.wait('q', null);
CALL queue.wait('q', '-1 s');
CALL queue.wait('q', '1 month');
CALL queue.wait('none', '1 s');
BEGIN;
CALL queue.wait('q', '1 s');
ROLLBACK;
SELECT queue.enqueue('q', '"unharmed"') IS NOT NULL AS enqueued \; CALL queue.wait('q', '1 s');
DO $$ BEGIN CALL queue.wait('q', '1 s'); EXCEPTION WHEN active_sql_transaction THEN RAISE NOTICE 'refused'; END $$;
-- a procedure that ends its transactions may call it
DO $$
BEGIN
	PERFORM queue.enqueue('q', '"committed"');
	CALL queue.wait('q', '1 h');
	RAISE NOTICE 'it committed: %', (SELECT payload FROM queue.dequeue_batch('q') LIMIT 1);
END
$$;
-- whatever the default is
SET default_transaction_isolation = 'serializable';
CALL queue.wait('q', '20 ms');
RESET default_transaction_isolation;

-- a bound lease is one for as long as this session lives
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT queue.enqueue('q', '"bound"') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1 h', bind_session => true);
SELECT state, lease_expires_at > now() AS leased FROM queue.job;
SELECT lease_owner & 4294967295 <> 0 AS bound FROM queue.job_live;
SELECT count(*) FROM queue.dequeue_batch('q');
SELECT queue.extend(job_id, '2 h', 1) IS NOT NULL AS extended FROM queue.job;
SELECT lease_owner & 4294967295 <> 0 AS bound FROM queue.job_live;
SELECT queue.release(job_id, attempt => 1) FROM queue.job;
SELECT lease_owner, state FROM queue.job_live;
-- it may end before, like any other
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '20 ms', bind_session => true);
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '1 h', bind_session => true, wait => '1 min');
SELECT error FROM queue.job_log JOIN queue.queue USING (queue_id) WHERE queue_name = 'q';
-- and ends with the session
\c -
SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '1 h', bind_session => true, wait => '1 min');
\c -
-- its attempts are used up: failed, though nobody takes
CALL wait_until($$counts('q') = 'failed 1'$$);
SELECT state, attempt, error FROM queue.list_jobs('q');
SELECT attempt, message, error FROM queue.job_log JOIN queue.queue USING (queue_id)
WHERE queue_name = 'q' AND error <> 'lease expired' ORDER BY at;

SELECT queue.drop_queue('q', true);
DROP FUNCTION waits;

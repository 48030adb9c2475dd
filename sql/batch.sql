-- Batches: counts in every state, open and closed, complete once, with a callback, and who may see them.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
-- the counts of a batch, which must add up and be the same in the view
CREATE FUNCTION batch(id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s record;
	told text;
	seen text;
BEGIN
	SELECT * INTO s FROM queue.batch_status(id);
	IF NOT FOUND THEN
		RETURN 'none';
	ELSIF s.total <> s.processed + s.failed + s.cancelled + s.open THEN
		RETURN s;
	END IF;
	told := concat_ws(' ', s.status, nullif('by ' || s.closed_by, ''), 'total', s.total,
		'processed ' || nullif(s.processed, 0), 'failed ' || nullif(s.failed, 0),
		'cancelled ' || nullif(s.cancelled, 0), 'open ' || nullif(s.open, 0));
	SELECT concat_ws(' ', v.status, nullif('by ' || v.closed_by, ''), 'total', v.total,
		'processed ' || nullif(v.processed, 0), 'failed ' || nullif(v.failed, 0),
		'cancelled ' || nullif(v.cancelled, 0), 'open ' || nullif(v.open, 0))
		INTO seen FROM queue.batch_progress_view AS v WHERE v.batch_id = id;
	RETURN CASE WHEN told = seen THEN told ELSE format('status: %s; view: %s', told, seen) END;
END
$$;
CREATE FUNCTION completed(id text) RETURNS boolean LANGUAGE sql AS
$$SELECT status = 'completed' FROM queue.batch_status(id)$$;
SELECT queue.create_queue('q', backoff_jitter => 0, batch_grace => '1h');
SELECT queue.create_queue('other', batch_grace => '0', keep_completed => '0', keep_failed => '0');
SELECT queue.create_queue('callback');

-- an enqueue opens one; more may follow, from other calls and other queues
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['1', '2', '3']::jsonb[], batch_id => 'b', source => 'import');
SELECT batch('b');
SELECT queue.enqueue('q', '4', batch_id => 'b') > 0, queue.enqueue('other', '5', batch_id => 'b', source => 'later') > 0;
SELECT count(*) FROM queue.enqueue_batch('q', '{}', batch_id => 'no jobs');
SELECT batch('b'), batch('no jobs'), batch('B'), batch(null);
SELECT source, started_at IS NULL, completed_at, created_at <= clock_timestamp(), closed_at, closed_by, callback_queue, callback_job_id, callback_error
FROM queue.batch_status('b');
SELECT payload, batch_id FROM queue.dequeue_batch('q');
SELECT batch('b');
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT batch('b');
SELECT s.started_at = a.taken_at AS started, v.percent
FROM queue.batch_status('b') AS s, queue.job_archive AS a, queue.batch_progress_view AS v WHERE a.batch_id = 'b' AND v.batch_id = 'b';

-- in a transaction: one's own at once, and gone with a savepoint
BEGIN;
SELECT queue.enqueue('q', '6', batch_id => 'b') > 0, queue.enqueue('q', '7', batch_id => 'undone') > 0;
SELECT batch('b'), batch('undone');
SAVEPOINT s;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 2);
SELECT batch('b');
ROLLBACK TO s;
SELECT batch('b');
ROLLBACK;
SELECT batch('b'), batch('undone');

-- closed: no more come in, and it is complete with its last job
SELECT queue.close_batch('b');
SELECT batch('b');
SELECT queue.close_batch('b');
\pset format unaligned
SELECT errors($$queue.enqueue('q', '8', batch_id => 'b')$$, $$queue.enqueue_batch('q', ARRAY['8']::jsonb[], batch_id => 'b')$$);
\pset format aligned
SELECT queue.complete(job_id) FROM queue.dequeue_batch('other');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 2);
SELECT batch('b');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
CALL wait_until($$completed('b')$$);
SELECT batch('b');
SELECT completed_at >= closed_at, closed_at >= created_at, callback_job_id FROM queue.batch_status('b');
SELECT queue.close_batch('b');
SELECT counts('callback');

-- created, with a callback
SELECT queue.create_batch('c', 'source', 'callback', '{"then": "this"}');
SELECT batch('c'), queue.create_batch() ~ '^[-0-9a-f]{36}$', queue.create_batch(callback_queue => 'callback', batch_id => 'd');
SELECT source, callback_queue, started_at, percent FROM queue.batch_progress_view WHERE batch_id IN ('c', 'd') ORDER BY batch_id;
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['1', '2', '3']::jsonb[], batch_id => 'c');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
SELECT queue.fail(job_id, 'broken', retry => false) FROM queue.dequeue_batch('q');
SELECT queue.cancel(job_id) FROM queue.job WHERE queue_name = 'q';
-- no grace time closes it
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT batch('c');
SELECT queue.close_batch('c'), queue.close_batch('d');
CALL wait_until($$completed('c') AND completed('d')$$);
SELECT batch('c'), batch('d');
SELECT j.payload, j.headers, j.source, j.batch_id, s.batch_id, s.callback_error
FROM queue.job AS j JOIN queue.batch_progress_view AS s ON s.callback_job_id = j.job_id
WHERE j.queue_name = 'callback' ORDER BY s.batch_id;
SELECT queue.purge_queue('callback');

-- a requeued job reopens the counts, and there is no second callback
SELECT payload, queue.retry_job(job_id) FROM queue.list_jobs('q') WHERE batch_id = 'c' ORDER BY payload;
SELECT batch('c');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 5);
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT batch('c'), counts('callback');

-- every way for a job to end, or not to
SELECT queue.create_queue('ends', max_attempts => 2, batch_grace => '1h');
CREATE FUNCTION job(payload jsonb) RETURNS bigint LANGUAGE sql AS $$SELECT job_id FROM queue.job WHERE queue_name = 'ends' AND job.payload = $1$$;
SELECT count(*) FROM queue.enqueue_batch('ends', ARRAY['1', '2', '3', '4', '5', '6', '7']::jsonb[], batch_id => 'e');
SELECT queue.enqueue('ends', '8', batch_id => 'e', delay => '1h') > 0;
SELECT count(*) FROM queue.dequeue_batch('ends', 5);
SELECT queue.fail(job('1'), retry_in => '0'), queue.release(job('2')), queue.release(job('3'), '1h'), queue.extend(job('4'), '1h') > now();
SELECT batch('e');
SELECT queue.fail(job('4'), retry => false), queue.complete(job('5')), queue.cancel(job('6')), queue.cancel(job('8'));
SELECT batch('e');
SELECT payload, state FROM queue.job WHERE queue_name = 'ends' ORDER BY payload;
-- attempts used up by a lease that ends
SELECT queue.release(job_id), payload FROM queue.dequeue_batch('ends');
SELECT queue.enqueue('ends', '9', batch_id => 'e', max_attempts => 1, priority => 1) > 0;
SELECT payload FROM queue.dequeue_batch('ends', visibility_timeout => '1 ms');
CALL wait_until($$(SELECT failed = 2 FROM queue.batch_status('e'))$$);
SELECT batch('e');
-- what is purged or dropped was cancelled
SELECT payload FROM queue.dequeue_batch('ends');
SELECT queue.purge_queue('ends');
SELECT batch('e');
SELECT queue.drop_queue('ends', true);
SELECT batch('e');
SELECT queue.close_batch('e');
CALL wait_until($$completed('e')$$);
DROP FUNCTION job;

-- what a unique key keeps out is not in the batch; a job that fails with its parent is
SELECT queue.enqueue('q', '1', unique_key => 'k', batch_id => 'u') > 0, queue.enqueue('q', '2', unique_key => 'k', batch_id => 'u') > 0,
	queue.enqueue('q', '3', unique_key => 'k', batch_id => 'u', on_conflict => 'replace') > 0;
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['1', '2', '3']::jsonb[], batch_id => 'u', options => '{"unique_keys": ["k", "l", null]}');
SELECT batch('u');
SELECT queue.enqueue('q', '"child"', depends_on => ARRAY[job_id], batch_id => 'u') > 0 FROM queue.job WHERE unique_key = 'k';
SELECT batch('u');
SELECT queue.cancel(job_id) FROM queue.job WHERE unique_key = 'k';
SELECT batch('u');
SELECT queue.enqueue('q', '"late child"', depends_on => ARRAY[job_id], batch_id => 'u') > 0 FROM queue.list_jobs('q', 'cancelled') WHERE unique_key = 'k';
SELECT batch('u');
SELECT queue.enqueue('q', g.n::text::jsonb, group_key => 'g', batch_id => 'u') > 0 FROM generate_series(1, 2) AS g (n);
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('q', 10) ORDER BY payload::text;
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
SELECT batch('u');

-- many batches and queues in one call
SELECT count(queue.enqueue(CASE n % 2 WHEN 0 THEN 'q' ELSE 'other' END, '1', batch_id => 'many ' || n % 3)) FROM generate_series(1, 12) AS n;
WITH job AS MATERIALIZED (SELECT * FROM queue.dequeue_batch('q', 100) UNION ALL SELECT * FROM queue.dequeue_batch('other', 100))
SELECT queue.complete_many(array_agg(job_id)) FROM job;
SELECT n, total, processed FROM generate_series(0, 2) AS n, queue.batch_status('many ' || n) ORDER BY n;

-- dead letters: failed when they move, whatever becomes of them there
SELECT queue.create_queue('dead', max_attempts => 1);
SELECT queue.create_queue('dying', max_attempts => 1, dead_letter_queue => 'dead', batch_grace => '1h', log_level => 'none');
SELECT count(*) FROM queue.enqueue_batch('dying', ARRAY['1', '2', '3', '4', '5']::jsonb[], batch_id => 'x');
SELECT payload, queue.fail(job_id) FROM queue.dequeue_batch('dying', 5) ORDER BY payload;
SELECT batch('x'), counts('dying'), counts('dead');
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('dead');
SELECT payload, queue.fail(job_id) FROM queue.dequeue_batch('dead');
SELECT queue.cancel(min(job_id)) FROM queue.job WHERE queue_name = 'dead';
SELECT batch('x');
SELECT queue.requeue_failed('dead'), queue.redrive('dead', 2);
SELECT batch('x'), counts('dying'), counts('dead');
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('dying', 5) ORDER BY payload;
SELECT batch('x');
SELECT queue.purge_queue('dead');
SELECT batch('x');
-- one that has no room there stays, and has failed once
SELECT queue.alter_queue('dead', max_depth => 1), queue.enqueue('dead', '0') > 0, queue.enqueue('dying', '6', batch_id => 'x') > 0;
SELECT queue.fail(job_id) FROM queue.dequeue_batch('dying');
SELECT batch('x'), queue.requeue_failed('dying');
SELECT batch('x');

-- by grace: the longest of its queues, since the last change
SELECT queue.enqueue('other', '1', batch_id => 'g') > 0, queue.enqueue('other', '1', batch_id => 'h') > 0, queue.enqueue('q', '1', batch_id => 'h') > 0;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('other', 2), queue.maintain() WHERE step = 'due jobs moved';
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
CALL wait_until($$completed('g')$$);
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT batch('g'), batch('h');
\pset format unaligned
SELECT errors($$queue.enqueue('q', '1', batch_id => 'g')$$);
\pset format aligned
-- not while the worker folds
CALL wait_until($$NOT EXISTS (SELECT FROM queue.batch_progress WHERE batch_id = 'h' AND NOT folded)$$);
UPDATE queue.batch_progress SET at = at - interval '59 min' WHERE batch_id = 'h';
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT batch('h');
UPDATE queue.batch_progress SET at = at - interval '1 min' WHERE batch_id = 'h';
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND completed('h')$$);
SELECT batch('h');

-- a callback that cannot be enqueued
SELECT queue.create_queue('full', max_depth => 1), queue.create_queue('gone'), queue.enqueue('full', '0') > 0;
SELECT queue.create_batch('f1', callback_queue => 'full'), queue.create_batch('f2', callback_queue => 'gone');
SELECT queue.drop_queue('gone'), queue.close_batch('f1'), queue.close_batch('f2');
CALL wait_until($$completed('f1') AND completed('f2')$$);
SELECT batch_id, callback_queue, callback_job_id, callback_error FROM queue.batch_progress_view WHERE batch_id IN ('f1', 'f2') ORDER BY 1;

-- prepared: the last end counts when it is committed
SELECT queue.enqueue('q', '1', batch_id => 'p') > 0, queue.close_batch('p');
BEGIN;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
PREPARE TRANSACTION 'batch';
SELECT batch('p');
COMMIT PREPARED 'batch';
CALL wait_until($$completed('p')$$);
SELECT batch('p');

-- kept for a time, unless a job of it runs again
UPDATE queue.batch SET completed_at = completed_at - interval '29 days' WHERE completed_at IS NOT NULL;
SELECT bool_and(items >= 0) FROM queue.maintain();
SELECT batch('b'), batch('g');
SELECT queue.retry_job(job_id) FROM queue.list_jobs('q', 'cancelled') WHERE batch_id = 'c';
SELECT queue.enqueue('q', '1', batch_id => 'r') > 0, queue.close_batch('r');
SELECT queue.fail(job_id, retry => false) FROM queue.dequeue_batch('q');
CALL wait_until($$completed('r')$$);
SELECT queue.requeue_failed('q', batch_id => 'r');
UPDATE queue.batch SET completed_at = completed_at - interval '31 days' WHERE completed_at IS NOT NULL;
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND batch('b') = 'none'$$);
SELECT batch('g'), batch('r');
SELECT DISTINCT batch_id FROM queue.batch_progress WHERE batch_id NOT IN (SELECT batch_id FROM queue.batch) ORDER BY 1;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
CALL wait_until($$(SELECT bool_and(items >= 0) FROM queue.maintain()) AND batch('r') = 'none'$$);
-- its name is free again
SELECT queue.enqueue('q', '1', batch_id => 'b') > 0;
SELECT batch('b');

-- who may: the owner, and those of its queues
CREATE ROLE regress_owner;
CREATE ROLE regress_producer;
CREATE ROLE regress_browser;
CREATE ROLE regress_admin;
CREATE ROLE regress_stranger;
SELECT queue.grant_queue('q', 'regress_owner', 'enqueue'), queue.grant_queue('q', 'regress_producer', 'enqueue'),
	queue.grant_queue('q', 'regress_browser', 'browse'), queue.grant_queue('q', 'regress_admin', 'admin'),
	queue.grant_queue('other', 'regress_stranger', 'enqueue, browse, admin');
GRANT EXECUTE ON FUNCTION batch, completed, errors TO PUBLIC;
CREATE VIEW calls AS SELECT * FROM (VALUES ($$queue.close_batch('o')$$)) AS c (call);
GRANT SELECT ON calls TO PUBLIC;
SET ROLE regress_owner;
SELECT queue.create_batch('o'), queue.enqueue('q', '"of o"', batch_id => 'o') > 0, queue.enqueue('q', '1', batch_id => 'i') > 0;
SELECT total, open, status FROM queue.batch_status('o');
SELECT total, open, status FROM queue.batch_status('i');
\pset format unaligned
SELECT errors($$queue.create_batch(callback_queue => 'callback')$$, $$queue.batch_progress_view$$, $$queue.batch$$, $$queue.batch_progress$$, $$queue._batch$$);
SET ROLE regress_producer;
SELECT queue.enqueue('q', '"of o"', batch_id => 'o') > 0;
SELECT * FROM queue.batch_status('o');
SELECT errors(call) FROM calls;
SET ROLE regress_stranger;
SELECT * FROM queue.batch_status('o');
SELECT batch_id FROM queue.batch_progress_view ORDER BY 1;
SELECT errors(call) FROM calls;
SET ROLE regress_browser;
SELECT total, open, status FROM queue.batch_status('o');
SELECT batch_id, total FROM queue.batch_progress_view WHERE batch_id IN ('b', 'o', 'i') ORDER BY 1;
SELECT errors(call) FROM calls;
SET ROLE regress_admin;
SELECT queue.close_batch('o'), queue.close_batch('i');
SET ROLE regress_owner;
SELECT queue.close_batch('o');
RESET ROLE;
\pset format aligned
SELECT batch('o'), batch('i');

-- a callback has the rights of the batch's owner
SELECT queue.grant_queue('callback', 'regress_owner', 'enqueue');
SET ROLE regress_owner;
SELECT queue.create_batch('o1', callback_queue => 'callback'), queue.create_batch('o2', callback_queue => 'callback');
SELECT queue.close_batch('o1');
RESET ROLE;
CALL wait_until($$completed('o1')$$);
SELECT queue.revoke_queue('callback', 'regress_owner', 'enqueue'), queue.close_batch('o2');
CALL wait_until($$completed('o2')$$);
SELECT batch_id, callback_job_id IS NOT NULL, callback_error FROM queue.batch_progress_view WHERE batch_id IN ('o1', 'o2') ORDER BY 1;
SELECT queue.create_batch('o3', callback_queue => 'callback');
UPDATE queue.batch SET owner = 'regress_producer' WHERE batch_id = 'o3';
SELECT queue.revoke_queue('q', 'regress_owner', 'enqueue'), queue.revoke_queue('q', 'regress_producer', 'enqueue'),
	queue.revoke_queue('q', 'regress_browser', 'browse'), queue.revoke_queue('q', 'regress_admin', 'admin'),
	queue.revoke_queue('other', 'regress_stranger', 'enqueue, browse, admin');
DROP VIEW calls;
DROP ROLE regress_owner, regress_producer, regress_browser, regress_admin, regress_stranger;
SELECT queue.close_batch('o3');
CALL wait_until($$completed('o3')$$);
SELECT callback_job_id, callback_error FROM queue.batch_status('o3');

\pset format unaligned
SELECT errors(
	$$queue.create_batch('b')$$,
	$$queue.create_batch('o3')$$,
	$$queue.create_batch(repeat('x', 1001))$$,
	$$queue.create_batch(source => repeat('x', 1001))$$,
	$$queue.create_batch(callback_queue => 'no such')$$,
	$$queue.create_batch(callback_payload => '1')$$,
	$$queue.close_batch(null)$$,
	$$queue.close_batch('no such')$$
);
DROP FUNCTION batch, completed;
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;
DELETE FROM queue.batch_progress; DELETE FROM queue.batch;

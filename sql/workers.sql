-- Outside workers that call heartbeat() are shown in queue.worker, with what they do, to those who may know.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE ROLE regress_queue_none;
CREATE ROLE regress_queue_dequeue;
CREATE ROLE regress_queue_browse;
CREATE ROLE regress_queue_both;
SELECT queue.create_queue('q', visibility_timeout => '1h', backoff_base => '1 day');
SELECT queue.create_queue('other');
SELECT queue.grant_queue('q', 'regress_queue_dequeue', 'dequeue');
SELECT queue.grant_queue('q', 'regress_queue_browse', 'browse');
SELECT queue.grant_queue('other', 'regress_queue_both', 'browse, dequeue');

-- a worker that says nothing is none
SELECT count(queue.enqueue('q', to_jsonb(i))) FROM generate_series(1, 9) AS i;
SELECT payload FROM queue.dequeue_batch('q', worker => 'w0');
SELECT count(*) FROM queue.worker WHERE worker = 'w0';

-- one that does, is; all that it says is replaced by what it says next
SET ROLE regress_queue_dequeue;
SELECT queue.heartbeat('w1');
SELECT worker, kind, pid = pg_backend_pid() AS pid, role, queue_name, state, job_id, job_since, started_at = last_heartbeat AS new,
	started_at BETWEEN now() - interval '1 min' AND clock_timestamp() AS now, done, failed, mean_ms, info
FROM queue.worker WHERE worker = 'w1';
SELECT queue.heartbeat('w1', 'q', '{"host": "a"}');
SELECT queue_name, info, started_at < last_heartbeat AS later FROM queue.worker WHERE worker = 'w1';
SELECT queue.heartbeat('w1', info => '[1]');
SELECT queue_name, info FROM queue.worker WHERE worker = 'w1';

-- it is at the job that it took last
SELECT array_agg(job_id) AS ids FROM queue.dequeue_batch('q', 3, worker => 'w1') \gset
SELECT job_id AS last FROM queue.dequeue_batch('q', worker => 'w1') \gset
SELECT state, job_id = :last AS last, job_since BETWEEN now() - interval '1 min' AND clock_timestamp() AS now FROM queue.worker
WHERE worker = 'w1';
-- what it has done counts when that has committed
BEGIN;
SELECT queue.complete(:last);
SELECT done, failed FROM queue.worker WHERE worker = 'w1';
ROLLBACK;
SELECT done, failed, job_id = :last AS last FROM queue.worker WHERE worker = 'w1';
BEGIN;
SELECT queue.complete(:last);
SAVEPOINT s;
SELECT queue.fail((:'ids'::bigint[])[1]);
ROLLBACK TO s;
SAVEPOINT s;
SELECT queue.fail((:'ids'::bigint[])[2]);
SAVEPOINT s2;
SELECT queue.fail((:'ids'::bigint[])[3], retry => false);
RELEASE s;
COMMIT;
SELECT done, failed, job_id = (:'ids'::bigint[])[1] AS next, mean_ms > 0 AS mean FROM queue.worker WHERE worker = 'w1';
-- what is given back is nothing done; what somebody else settles neither, nor what bears another name
SELECT queue.release((:'ids'::bigint[])[1]);
SELECT state, done, failed FROM queue.worker WHERE worker = 'w1';
SELECT job_id FROM queue.dequeue_batch('q', worker => 'w1') \gset
RESET ROLE;
SELECT queue.complete(:job_id);
SELECT queue.complete(job_id) FROM queue.job WHERE worker = 'w0' AND state = 'active';
SELECT state, done, failed FROM queue.worker WHERE worker = 'w1';
-- many at once
SET ROLE regress_queue_dequeue;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 9, worker => 'w1');
SELECT queue.heartbeat('w1', 'q');
SELECT state, done, failed, info FROM queue.worker WHERE worker = 'w1';

-- it writes nothing, and needs no right to
BEGIN READ ONLY;
SELECT queue.heartbeat('w1', 'q');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
ROLLBACK;
RESET ROLE;

-- the same name of another role is another worker; who sees whom
SELECT queue.heartbeat('w1', 'other');
SELECT queue.heartbeat('w2');
SET ROLE regress_queue_both;
SELECT queue.heartbeat('w3');
SELECT worker, queue_name, role = 'regress_queue_both' AS mine FROM queue.worker WHERE worker LIKE 'w%' ORDER BY 1, 2;
SET ROLE regress_queue_dequeue;
SELECT worker, queue_name, role = 'regress_queue_dequeue' AS mine FROM queue.worker WHERE worker LIKE 'w%' ORDER BY 1, 2;
SET ROLE regress_queue_browse;
SELECT worker, queue_name, role FROM queue.worker WHERE worker LIKE 'w%' ORDER BY 1, 2;
SET ROLE regress_queue_none;
SELECT worker FROM queue.worker;
RESET ROLE;
GRANT pg_monitor TO regress_queue_browse;
SET ROLE regress_queue_browse;
SELECT count(*) FROM queue.worker WHERE worker LIKE 'w_';
RESET ROLE;
REVOKE pg_monitor FROM regress_queue_browse;

-- errors
\pset format unaligned
\pset tuples_only on
SELECT errors(
	$$queue.heartbeat(null)$$,
	$$queue.heartbeat('')$$,
	$$queue.heartbeat(repeat('x', 101))$$,
	$$queue.heartbeat('w2', 'unknown')$$,
	$$queue.heartbeat('w2', '')$$,
	$$queue.heartbeat('w2', info => to_jsonb(repeat('x', 1000)))$$,
	$$queue.heartbeat(repeat('w', 100), info => to_jsonb(repeat('x', 992)))$$,
	$$queue.sign_off(null)$$,
	$$queue.sign_off('')$$,
	$$queue.sign_off(repeat('x', 101))$$
);
BEGIN READ ONLY;
SELECT errors($$queue.sign_off('w1')$$);
ROLLBACK;
SET ROLE regress_queue_dequeue;
SELECT errors($$queue.heartbeat('w2', 'other')$$);
SET ROLE regress_queue_browse;
SELECT errors($$queue.heartbeat('w2')$$, $$queue.sign_off('w2')$$);
RESET ROLE;
-- a queue to browse is none to work for, and a right to call the function no privilege on one
SELECT queue.grant_queue('q', 'regress_queue_none', 'dequeue');
SELECT queue.revoke_queue('q', 'regress_queue_none', 'dequeue');
SELECT queue.grant_queue('q', 'regress_queue_none', 'browse');
GRANT EXECUTE ON FUNCTION queue.heartbeat TO regress_queue_none;
SET ROLE regress_queue_none;
SELECT errors($$queue.heartbeat('w2')$$, $$queue.heartbeat('w2', 'q')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION queue.heartbeat FROM regress_queue_none;
\pset format aligned
\pset tuples_only off
SELECT worker, length(info::text) FROM queue.worker WHERE length(worker) = 100;

-- one that signs off is gone, and its jobs wait, as many attempts left as before
SELECT queue.create_queue('off', visibility_timeout => '1h');
SELECT queue.create_queue('off2', max_active => 1);
SELECT queue.grant_queue('off', 'regress_queue_dequeue', 'dequeue');
SELECT queue.grant_queue('off2', 'regress_queue_dequeue', 'dequeue');
SELECT count(queue.enqueue('off', to_jsonb(i), priority => i % 2)) FROM generate_series(1, 8) AS i;
SELECT count(queue.enqueue('off2', to_jsonb(i))) FROM generate_series(1, 2) AS i;
CREATE FUNCTION jobs() RETURNS TABLE (queue_name text, payload jsonb, state text, attempt int, worker text)
LANGUAGE sql SECURITY DEFINER AS $$
	SELECT queue_name, payload, state, attempt, worker FROM queue.job
	WHERE queue_name LIKE 'off%' AND state = 'active' ORDER BY queue_name, payload$$;
SELECT count(*) FROM queue.dequeue_batch('off', worker => 'o1');
SET ROLE regress_queue_dequeue;
SELECT queue.heartbeat('o1', 'off');
SELECT count(*) FROM queue.dequeue_batch('off', 3, worker => 'o1');
SELECT count(*) FROM queue.dequeue_batch('off', worker => 'o1', bind_session => true);
SELECT count(*) FROM queue.dequeue_batch('off', worker => 'o2');
SELECT count(*) FROM queue.dequeue_batch('off2', worker => 'o1');
SELECT * FROM jobs();
-- not if it is rolled back, not if it is heard of in between
BEGIN;
SELECT queue.sign_off('o1');
SELECT * FROM jobs();
SELECT state FROM queue.worker WHERE worker = 'o1';
ROLLBACK;
SELECT state FROM queue.worker WHERE worker = 'o1';
BEGIN;
SAVEPOINT s;
SELECT queue.sign_off('o1');
ROLLBACK TO s;
COMMIT;
SELECT state FROM queue.worker WHERE worker = 'o1';
BEGIN;
SELECT queue.sign_off('o1');
SELECT queue.heartbeat('o1', 'off');
COMMIT;
SELECT state FROM queue.worker WHERE worker = 'o1';
SELECT * FROM jobs();
SELECT payload, attempt FROM queue.dequeue_batch('off', 2, worker => 'o1') ORDER BY 1;
-- not what a living namesake may have
RESET ROLE;
SELECT queue.heartbeat('o1', 'off2');
SELECT payload FROM queue.dequeue_batch('off2', worker => 'o1');
SET ROLE regress_queue_dequeue;
BEGIN;
SAVEPOINT s;
SELECT queue.sign_off('o1');
RELEASE s;
COMMIT;
SELECT * FROM jobs();
RESET ROLE;
SELECT role = current_user AS mine FROM queue.worker WHERE worker = 'o1';
SELECT queue.sign_off('o1');
SELECT count(*) FROM queue.worker WHERE worker LIKE 'o_';
SELECT * FROM jobs();
-- a place that is free again is free for others; nobody knows it any more; one that was never heard of
SELECT payload, attempt FROM queue.dequeue_batch('off2', worker => 'o3');
SELECT queue.sign_off('o1');
SELECT queue.sign_off('o2');
SELECT * FROM jobs();
-- what it did in the same transaction, and what it took there
SELECT queue.heartbeat('o4');
BEGIN;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('off', worker => 'o4');
SELECT count(*) FROM queue.dequeue_batch('off', 2, worker => 'o4');
SELECT queue.sign_off('o4');
COMMIT;
SELECT count(*) FROM queue.worker WHERE worker LIKE 'o_';
SELECT * FROM jobs();
DROP FUNCTION jobs();

-- with its queue, and its role, goes their name
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;
DROP ROLE regress_queue_none, regress_queue_dequeue, regress_queue_browse, regress_queue_both;
SELECT worker, role = current_user AS mine, queue_name, state, done, failed FROM queue.worker WHERE worker LIKE 'w_' ORDER BY 1, 2, done;

-- What people and programs see of jobs and queues: by id, by list, by view, by count.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', max_attempts => 2, keep_failed => '3 days', backoff_jitter => 0);
CREATE TEMP TABLE made AS
SELECT name, queue.enqueue('q', to_jsonb(name), p, delay, source => 's', batch_id => 'b', headers => '{"h": 1}') AS job_id
FROM (VALUES
	(1, 'waiting', 9, null::interval), (2, 'delayed', 9, '1h'), (3, 'active', 1, null), (4, 'completed', 2, null),
	(5, 'failed', 3, null), (6, 'retried', 4, null), (7, 'cancelled', 9, null)
) AS j (n, name, p, delay) ORDER BY n;
CREATE TEMP TABLE taken AS SELECT * FROM queue.dequeue_batch('q', 4, '10 min', 'w');
SELECT t.payload, CASE t.payload ->> 0
	WHEN 'completed' THEN queue.complete(job_id, '{"ok": true}')::text
	WHEN 'failed' THEN queue.fail(job_id, 'broken', retry => false)
	WHEN 'retried' THEN queue.fail(job_id, 'try again', retry_in => '2h') END AS settled
FROM taken AS t;
SELECT queue.cancel(job_id) FROM made WHERE name = 'cancelled';

-- one by its id
SELECT name, queue_name, state, result, error, attempt AS a, max_attempts AS m, priority AS p, worker AS w, batch_id,
	source, headers, payload
FROM made, queue.job_status(made.job_id) ORDER BY priority, name;
-- its times: those that apply, and in their order
SELECT name,
	run_at - enqueued_at >= '1h' AS delayed,
	taken_at >= enqueued_at AS taken,
	lease_expires_at - taken_at AS lease,
	finished_at >= coalesce(taken_at, enqueued_at) AS finished,
	expires_at - finished_at AS kept
FROM made, queue.job_status(made.job_id) ORDER BY priority, name;
SELECT count(*) FROM unnest('{null,0,-1,9223372036854775807}'::bigint[]) AS id, queue.job_status(id);

-- by state: unfinished ones in their order, finished ones newest first
SELECT state, (SELECT string_agg(payload ->> 0, ', ') FROM queue.list_jobs('q', state)) AS jobs
FROM unnest('{waiting,delayed,blocked,active,completed,failed,cancelled}'::text[]) AS state;
SELECT payload, state, priority FROM queue.list_jobs('q');
SELECT payload FROM queue.list_jobs('q', max_jobs => 5);
SELECT count(*) FROM queue.list_jobs('q', null, 0);
SELECT l = s AS same FROM made, queue.job_status(made.job_id) AS s JOIN queue.list_jobs('q') AS l USING (job_id);

-- the views
SELECT payload, state, priority, attempt, max_attempts, worker, last_error, age >= '0' AS age,
	taken_at IS NOT NULL AS taken, lease_expires_at - taken_at AS lease
FROM queue.job WHERE queue_name = 'q' ORDER BY priority, payload;
SELECT payload, state, priority, attempt, max_attempts, worker, error, result, expires_at - finished_at AS kept
FROM queue.job_finished WHERE queue_name = 'q' ORDER BY priority;

-- the counts: what is kept, and what is not yet finished; live ones sum up
SELECT queue_name, waiting, delayed, blocked, active, completed, failed, cancelled, total, paused FROM queue.queue_stats('q') \gx
SELECT s.queue_name, s.waiting + s.delayed + s.blocked + s.active = (SELECT count(*) FROM queue.job) AS live
FROM queue.queue_stats() AS s;
SELECT counts('q');

-- the age of the oldest that may run: not of a delayed, taken or finished one
SELECT oldest_waiting_age BETWEEN '0' AND '1 min' AS young FROM queue.queue_stats('q');
SELECT count(queue.enqueue('q', '"old"', p, run_at => now() - age))
FROM (VALUES (0, interval '3h'), (5, '2 days 1h'), (-5, '1h')) AS o (p, age);
SELECT date_trunc('hour', oldest_waiting_age) AS age FROM queue.queue_stats('q');
SELECT payload, priority FROM queue.dequeue_batch('q', 2);
SELECT date_trunc('hour', oldest_waiting_age) AS age FROM queue.queue_stats('q');
SELECT payload, priority FROM queue.dequeue_batch('q');
SELECT oldest_waiting_age < '1 min' AS young FROM queue.queue_stats('q');
SELECT queue.purge_queue('q');
SELECT waiting, oldest_waiting_age FROM queue.queue_stats('q');
SELECT queue.alter_queue('q', aging_interval => '1 day');
SELECT count(queue.enqueue('q', '"old"', p, run_at => now() - age))
FROM (VALUES (1, interval '30 min'), (0, '0')) AS o (p, age);
SELECT oldest_waiting_age BETWEEN '30 min' AND '31 min' AS oldest FROM queue.queue_stats('q');

-- the counters do not count what is not committed, nor lose their own transaction's when it is
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
SELECT waiting FROM queue.queue_stats('q');
COMMIT;
SELECT waiting FROM queue.queue_stats('q');
BEGIN READ ONLY;
SELECT waiting FROM queue.queue_stats('q');
SELECT count(*) FROM queue.list_jobs('q', 'waiting');
SELECT state FROM queue.job_status((SELECT job_id FROM made WHERE name = 'failed'));
COMMIT;

-- all queues, in order of their names; none
SELECT queue.create_queue('p');
SELECT queue_name, total, paused FROM queue.queue_stats();
SELECT queue.drop_queue(queue_name, true) FROM queue.queue;
SELECT count(*) FROM queue.queue_stats();
\pset format unaligned
\pset tuples_only on
SELECT queue.create_queue('q');
SELECT errors(
	$$queue.list_jobs(null)$$,
	$$queue.list_jobs('no such')$$,
	$$queue.list_jobs('q', 'running')$$,
	$$queue.list_jobs('q', 'Waiting')$$,
	$$queue.list_jobs('q', '')$$,
	$$queue.list_jobs('q', max_jobs => -1)$$,
	$$queue.list_jobs('q', max_jobs => null)$$,
	$$queue.queue_stats('')$$,
	$$queue.queue_stats('no such')$$
);
SELECT queue.drop_queue('q');

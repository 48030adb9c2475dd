-- A job that failed for good moves to the dead-letter queue, and back.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('dead', max_attempts => 2);
SELECT queue.create_queue('q', max_attempts => 1, backoff_base => '0', backoff_jitter => 0, dead_letter_queue => 'dead');
CREATE VIEW jobs AS
SELECT queue_name, payload, state, attempt, max_attempts, last_error AS error,
	origin - 'failed_at' AS origin, group_key, unique_key FROM queue.job
UNION ALL
SELECT queue_name, payload, state, attempt, max_attempts, error, origin - 'failed_at', group_key, unique_key
FROM queue.job_finished ORDER BY payload;
CREATE FUNCTION fail(n int = 1) RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC
	SELECT queue.fail(job_id, 'broken ' || payload::text) FROM queue.dequeue_batch('q', n);
END;

-- id, attempts and error go with it; the dead-letter queue gives it attempts of its own
SELECT queue.enqueue('q', '1', priority => 2, headers => '{"h": 1}', source => 's', max_attempts => 1) AS id \gset
SELECT fail();
SELECT * FROM jobs;
SELECT job_id = :id AS same_id, headers, source, priority FROM queue.job;
SELECT (origin ->> 'failed_at')::timestamptz BETWEEN enqueued_at AND clock_timestamp() AS failed_at FROM queue.job;
SELECT counts('q'), counts('dead');
SELECT event, message, error FROM queue.job_log WHERE job_id = :id;
-- it can be taken there; a dead letter that fails there does not move on
SELECT payload, attempt, max_attempts FROM queue.dequeue_batch('dead');
SELECT queue.fail(:id, 'again');
SELECT queue.alter_queue('dead', dead_letter_queue => 'q', backoff_base => '0', backoff_jitter => 0);
SELECT payload, attempt, max_attempts FROM queue.dequeue_batch('dead');
SELECT queue.fail(:id, 'and again', retry => false);
SELECT * FROM jobs;
SELECT queue.requeue_failed('dead');
SELECT * FROM jobs;
SELECT counts('q'), counts('dead');

-- redrive: fresh attempts, in its old queue
SELECT queue.redrive('dead');
SELECT * FROM jobs;
SELECT queue.redrive('dead');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
SELECT count(queue.enqueue('q', to_jsonb(i))) FROM generate_series(1, 5) AS i;
SELECT fail(5);
SELECT queue.enqueue('dead', '"not a dead letter"') > 0 AS enqueued;
SELECT queue.redrive('dead', 2);
SELECT queue.redrive('dead', 0);
-- one that somebody holds stays
SELECT payload FROM queue.dequeue_batch('dead');
SELECT queue.redrive('dead');
SELECT queue_name, payload, state, attempt, origin FROM jobs WHERE state <> 'completed';
SELECT counts('q'), counts('dead');
SELECT queue.purge_queue('q'), queue.purge_queue('dead');
SELECT queue.complete(job_id) FROM queue.job;

-- keys and groups are those of the queue that the job is in
SELECT queue.enqueue('q', '1', unique_key => 'k', group_key => 'g') AS one \gset
SELECT queue.enqueue('q', '2', unique_key => 'l', group_key => 'g') AS two \gset
SELECT fail();
SELECT fail();
SELECT queue.enqueue('q', '3', unique_key => 'k') AS three \gset
SELECT queue_name, payload, state, group_key, unique_key FROM jobs WHERE state <> 'completed';
SET client_min_messages = warning;
SELECT queue.redrive('dead');
RESET client_min_messages;
SELECT queue_name, payload, state, group_key, unique_key FROM jobs WHERE state <> 'completed';
SELECT queue.cancel(:three);
SELECT queue.redrive('dead');
SELECT queue_name, payload, state, group_key, unique_key FROM jobs WHERE state NOT IN ('completed', 'cancelled');
SELECT counts('q'), counts('dead');
SELECT queue.purge_queue('q'), queue.purge_queue('dead');

-- what cannot move stays failed, and says why
SELECT queue.enqueue('dead', '"in the way"', unique_key => 'k') > 0 AS enqueued;
SELECT queue.enqueue('q', '"taken key"', unique_key => 'k') > 0 AS enqueued;
SELECT fail();
SELECT payload, state, regexp_replace(error, 'job \d+', 'job N') FROM jobs WHERE payload = '"taken key"';
SELECT queue.alter_queue('dead', max_depth => 1);
SELECT queue.enqueue('q', '"full"') > 0 AS enqueued;
SELECT fail();
SELECT queue.drop_queue('dead', true);
SELECT queue.enqueue('q', '"dropped"') > 0 AS enqueued;
SELECT fail();
SELECT payload, state, error FROM jobs WHERE state = 'failed' AND payload <> '"taken key"';
SELECT message FROM queue.job_log WHERE message LIKE 'not moved%' AND message NOT LIKE '%unique%' ORDER BY at;
SELECT counts('q');

-- leases that run out, and children of a failed parent
SELECT queue.create_queue('dead');
SELECT queue.enqueue('q', '"stalled"') AS stalled \gset
SELECT queue.enqueue('q', '"child"', depends_on => ARRAY[:stalled]::bigint[]) > 0 AS enqueued;
SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1us');
CALL wait_until($$ (SELECT count(*) = 2 FROM jobs WHERE queue_name = 'dead') $$);
SELECT queue_name, payload, state, attempt, regexp_replace(error, '\d+', 'N') FROM jobs WHERE queue_name = 'dead';

-- full queues refuse an enqueue, whole
SELECT queue.create_queue('small', max_depth => 2);
SELECT count(*) FROM queue.enqueue_batch('small', '{1,2}');
\pset format unaligned
\pset tuples_only on
SELECT errors(
	$$queue.enqueue('small', '3')$$,
	$$queue.enqueue_batch('small', '{3,4}')$$,
	$$queue.alter_queue('small', max_depth => 0)$$,
	$$queue.redrive(null)$$,
	$$queue.redrive('none')$$,
	$$queue.redrive('dead', -1)$$
);
SELECT queue.complete(job_id) FROM queue.dequeue_batch('small');
SELECT queue.enqueue('small', '3') > 0;
BEGIN;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('small');
SELECT queue.enqueue('small', '4') > 0;
SELECT errors($$queue.enqueue('small', '5')$$);
ROLLBACK;
SELECT queue.reset_queue_setting('small', 'max_depth');
SELECT count(*) FROM queue.enqueue_batch('small', '{1,2,3,4,5}');
SELECT queue.drop_queue(queue_name, true) FROM queue.queue ORDER BY queue_name;
DROP FUNCTION fail;
DROP VIEW jobs;

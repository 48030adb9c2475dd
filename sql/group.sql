-- Jobs of a group run one at a time, in order.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', backoff_jitter => 0, backoff_base => '1h', max_attempts => 2);
CREATE VIEW heads AS
SELECT group_key, coalesce(payload, 'null') AS head
FROM queue.group_head AS h LEFT JOIN queue.job AS j USING (job_id, group_key) ORDER BY 1;
CREATE FUNCTION next(n int = 10) RETURNS TABLE (group_key text, payload jsonb) LANGUAGE sql BEGIN ATOMIC
	SELECT group_key, payload FROM queue.dequeue_batch('q', n) ORDER BY 1, 2;
END;
CREATE FUNCTION id(payload jsonb) RETURNS bigint LANGUAGE sql
	RETURN (SELECT job_id FROM queue.job AS j WHERE j.payload = id.payload);

-- only the first may run; the rest are blocked; other groups and jobs without one do not care
SELECT count(queue.enqueue('q', to_jsonb(g || i), group_key => g))
FROM generate_series(1, 3) AS i, unnest('{a,b}'::text[]) AS g;
SELECT queue.enqueue('q', '"plain"') IS NOT NULL AS enqueued;
SELECT payload, state, group_key FROM queue.job ORDER BY payload;
TABLE heads;
SELECT counts('q');
SELECT * FROM next();
SELECT * FROM next();

-- the next one goes when it is completed, in order, whoever was first to be enqueued
SELECT queue.complete(id('"a1"'));
TABLE heads;
SELECT * FROM next();
-- cancelled
SELECT queue.cancel(id('"a2"'));
SELECT * FROM next();
-- one behind may be cancelled, too
SELECT queue.cancel(id('"b2"'));
-- failed for good
SELECT queue.fail(id('"b1"'), retry => false);
SELECT * FROM next();
SELECT counts('q');

-- a job that waits for its retry, or was given back, holds its group
SELECT count(queue.enqueue('q', to_jsonb('a' || i), group_key => 'a')) FROM generate_series(4, 5) AS i;
SELECT queue.fail(id('"a3"'), 'later');
SELECT payload, state FROM queue.job WHERE group_key = 'a' ORDER BY payload;
SELECT * FROM next();
SELECT queue.cancel(id('"a3"'));
SELECT * FROM next();
SELECT queue.release(id('"a4"'));
SELECT * FROM next();
SELECT queue.release(id('"a4"'), '1h');
SELECT * FROM next();
SELECT queue.cancel(id('"a4"')), queue.cancel(id('"a5"'));
SELECT queue.complete(id('"b3"')), queue.complete(id('"plain"'));
TABLE heads;
SELECT counts('q');

-- a delayed job holds its group as well; those behind it are ordered by their due time
SELECT queue.enqueue('q', '"d1"', group_key => 'd', delay => '1h') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"d2"', group_key => 'd') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"d3"', group_key => 'd', run_at => '2000-01-01') IS NOT NULL AS enqueued;
SELECT payload, state, run_at = '2000-01-01' AS early FROM queue.job ORDER BY payload;
SELECT * FROM next();
SELECT queue.cancel(id('"d1"'));
SELECT * FROM next();
SELECT queue.complete(id('"d3"'));
SELECT * FROM next();
SELECT queue.complete(id('"d2"'));

-- in one transaction, in one statement, with savepoints
BEGIN;
SELECT count(queue.enqueue('q', to_jsonb('t' || i), group_key => 't')) FROM generate_series(1, 3) AS i;
SELECT * FROM next();
SAVEPOINT s;
SELECT queue.complete(id('"t1"'));
SELECT * FROM next();
ROLLBACK TO s;
TABLE heads;
SELECT * FROM next();
SELECT queue.complete(id('"t1"'));
COMMIT;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
TABLE heads;
SELECT counts('q');

-- many jobs of many groups in one call; two of a group in one settling call
CREATE TEMP TABLE many AS SELECT * FROM queue.enqueue_batch('q', '{1,2,3,4,5}', options =>
	'{"group_keys": ["m", "m", null, "n", "m"]}') WITH ORDINALITY AS m (job_id, n);
SELECT n, payload, group_key, state, options FROM many JOIN queue.job USING (job_id) ORDER BY n;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
SELECT * FROM next();
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
SELECT * FROM next();
SELECT * FROM next();
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
SELECT * FROM next();
SELECT * FROM next();
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
TABLE heads;

-- one that failed goes to the end of its group when it is requeued
SELECT count(queue.enqueue('q', to_jsonb('r' || i), group_key => 'r')) FROM generate_series(1, 3) AS i;
SELECT queue.fail(job_id, retry => false) FROM queue.dequeue_batch('q');
SELECT queue.requeue_failed('q', error_pattern => null, max_jobs => 10);
SELECT payload, state FROM queue.job WHERE group_key = 'r' ORDER BY payload;
SELECT * FROM next();

-- a purge leaves what runs and removes the rest; then the group is free
SELECT queue.purge_queue('q');
SELECT payload, state FROM queue.job ORDER BY payload;
SELECT queue.enqueue('q', '"s1"', group_key => 'r') IS NOT NULL AS enqueued;
SELECT payload, state FROM queue.job ORDER BY payload;
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT * FROM next();
SELECT queue.purge_queue('q');
SELECT counts('q');

-- a place that was lost is found again by maintain(), and by the worker
SELECT count(queue.enqueue('q', to_jsonb('l' || i), group_key => 'l')) FROM generate_series(1, 2) AS i;
UPDATE queue.group_head SET job_id = 0 WHERE group_key = 'l';
SELECT queue.cancel(id('"l1"'));
SELECT items > 0 AS found FROM queue.maintain() WHERE step LIKE 'blocked%'
UNION ALL SELECT true FROM queue.job WHERE payload = '"l2"' AND state = 'waiting' LIMIT 1;
SELECT * FROM next();
SELECT queue.drop_queue('q', true);
SELECT count(*) FROM queue.group_head;
DROP FUNCTION next;
DROP FUNCTION id;
DROP VIEW heads;

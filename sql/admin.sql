-- Queues are created, altered, reset, paused, purged and dropped, and a rollback undoes all of it.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SET intervalstyle = 'postgres';
CREATE TEMP VIEW setting AS
SELECT q.queue_name, s.key, s.value
FROM queue.queue AS q, jsonb_each_text(to_jsonb(q) - '{queue_id,queue_name,created_at}'::text[]) AS s;

-- the defaults; the creator is the owner
SELECT queue.create_queue('plain');
SELECT key, CASE key WHEN 'owner' THEN (value = current_user)::text ELSE value END AS value
FROM setting WHERE queue_name = 'plain' ORDER BY key;
SELECT created_at BETWEEN now() - interval '1 min' AND clock_timestamp() AS now FROM queue.queue;

-- all settings, and the limits of each
SELECT queue.create_queue('least', 1, 'fixed', '0', '0', 0, '1us', '1us', -32768, '1us', 1, 1, '1us', 1,
	'0', '0', null, null, null, 'none', false, null, '0', 1, '{}', '{}');
SELECT queue.create_queue('most', 32767, 'exponential', '100000 days', '100000 days', 1, '100000 days',
	'100000 days', 32767, '1000 days', 2147483647, 2147483647, '100000 days', 9223372036854775807,
	'1000 years', '1000 years', null, null, null, 'all', true, null, '100000 days', 2147483647,
	ARRAY['22012', '40', 'XX000'], null);
SELECT a.key, a.value AS least, b.value AS most
FROM setting AS a JOIN setting AS b USING (key)
WHERE a.queue_name = 'least' AND b.queue_name = 'most' AND key NOT IN ('owner', 'paused', 'mode', 'target_queue', 'handler', 'concurrency', 'min_workers', 'processing', 'throttled_until')
ORDER BY a.key;

-- alter changes what is given, and nothing else
SELECT queue.alter_queue('plain', visibility_timeout => '5s', backoff => 'fixed');
SELECT queue.alter_queue('plain', max_attempts => 7);
SELECT queue.alter_queue('plain', aging_interval => '10 min', keep_completed => '0');
SELECT queue.alter_queue('plain');
SELECT key, value FROM setting WHERE queue_name = 'plain' AND key <> 'owner' ORDER BY key;

-- reset, one by one, brings the defaults back
SELECT key, queue.reset_queue_setting('plain', key)
FROM setting WHERE queue_name = 'plain' AND key NOT IN ('owner', 'paused', 'mode', 'target_queue', 'handler', 'concurrency', 'min_workers', 'processing', 'throttled_until') ORDER BY key;
SELECT queue.create_queue('default');
SELECT a.* FROM setting AS a WHERE a.queue_name = 'plain'
EXCEPT
SELECT 'plain', key, value FROM setting WHERE queue_name = 'default';

-- settings apply at once, in this and in every other transaction
BEGIN;
SELECT queue.alter_queue('plain', default_priority => 9);
SELECT queue.enqueue('plain', '"nine"') IS NOT NULL AS enqueued;
SELECT queue.alter_queue('plain', default_priority => 1);
SELECT queue.enqueue('plain', '"one"') IS NOT NULL AS enqueued;
SELECT payload, priority FROM queue.dequeue_batch('plain', 2);
COMMIT;

-- a rollback undoes every one of them
BEGIN;
SELECT queue.create_queue('new');
SELECT queue.alter_queue('plain', max_attempts => 99);
SELECT queue.pause_queue('plain');
SELECT queue.drop_queue('default');
SAVEPOINT s;
SELECT queue.drop_queue('plain', cascade => true);
SELECT count(*) FROM queue.queue WHERE queue_name = 'plain';
ROLLBACK TO s;
SELECT counts('plain');
ROLLBACK;
SELECT queue_name, max_attempts, paused FROM queue.queue ORDER BY queue_name;
SELECT counts('plain');

-- a paused queue takes jobs in and lets them be settled, but gives none out
SELECT queue.pause_queue('plain');
SELECT queue.pause_queue('plain');
SELECT queue.enqueue('plain', '"later"') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('plain', 10);
SELECT payload FROM queue.complete_and_dequeue(
	(SELECT array_agg(job_id) FROM queue.job WHERE state = 'active'), 'plain', 10);
SELECT paused FROM queue.queue_stats('plain');
SELECT counts('plain');
SELECT queue.resume_queue('plain');
SELECT payload FROM queue.dequeue_batch('plain', 10);

-- all queues at once
SELECT queue.pause_queue();
SELECT queue_name, paused FROM queue.queue_stats();
SELECT queue.resume_queue('most');
SELECT queue_name, paused FROM queue.queue_stats();
SELECT queue.resume_queue(null);
SELECT bool_or(paused) FROM queue.queue_stats();

-- purge removes what is waiting or delayed, and nothing else
SELECT count(*) FROM queue.enqueue_batch('plain', '{1,2,3}');
SELECT count(*) FROM queue.enqueue_batch('plain', '{4,5}', delay => '1h');
SELECT queue.cancel(queue.enqueue('plain', '6'));
SELECT counts('plain');
BEGIN;
SELECT queue.purge_queue('plain');
ROLLBACK;
SELECT counts('plain');
SELECT queue.purge_queue('plain');
SELECT counts('plain');
SELECT queue.purge_queue('plain');

-- a queue with unfinished jobs is dropped only with them, finished ones do not hold it up
SELECT queue.drop_queue('plain');
SELECT queue.drop_queue('plain', true);
SELECT count(*) FROM queue.job;
SELECT queue.enqueue('default', '1', delay => '1h') IS NOT NULL AS enqueued;
SELECT queue.drop_queue('default', false);
SELECT queue.drop_queue('default', null);
SELECT queue.purge_queue('default');
SELECT queue.drop_queue('default');

-- a queue of the same name is another queue
SELECT queue.create_queue('plain');
SELECT counts('plain');
SELECT count(*) FROM queue.list_jobs('plain');
SELECT queue.enqueue('plain', '1') IS NOT NULL AS enqueued;
SELECT payload FROM queue.dequeue_batch('plain', 10);
SELECT counts('plain');

SELECT queue.drop_queue(queue_name, cascade => true) FROM queue.queue ORDER BY queue_name;
SELECT count(*) FROM queue.queue;
SELECT count(*) FROM queue.privilege;

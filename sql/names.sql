-- Queues, roles and labels may have any name that fits: each goes through the whole life of a job.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE ROLE "regress_queue it's ""quoted"", \ and %s";

CREATE TEMP TABLE name (n int, name text);
INSERT INTO name VALUES
	(1, 'a'),
	(2, 'A'),
	(3, ' a '),
	(4, repeat('x', 57)),
	(5, repeat('é', 28) || 'x'),
	(6, 'it''s'),
	(7, 'say "a"'),
	(8, 'back\slash'),
	(9, '''); DROP TABLE queue.queue; --'),
	(10, '%s %d $1 {} :a'),
	(11, E'two\nlines'),
	(12, 'null'),
	(13, 'queue.queue'),
	(14, '🦆');

SELECT n, octet_length(name) AS bytes, queue.create_queue(name) FROM name ORDER BY n;
SELECT queue.grant_queue(name, (SELECT oid FROM pg_roles WHERE rolname LIKE 'regress_queue it%'), 'enqueue, browse')
FROM name WHERE n = 9;

-- each finds its own job and no other's
SELECT count(queue.enqueue(name, to_jsonb(n), source => name, batch_id => name)) FROM name;
CREATE TEMP TABLE taken AS
SELECT n, name, j.* FROM name, queue.dequeue_batch(name, 10, worker => name) AS j;
SELECT n, t.payload, s.queue_name = name AS queue, s.source = name AS source,
	s.batch_id = name AS batch, s.worker = name AS worker
FROM taken AS t, queue.job_status(job_id) AS s
ORDER BY n;
SELECT n, s.active, s.total, l.payload
FROM name, queue.queue_stats(name) AS s, queue.list_jobs(name, 'active') AS l
ORDER BY n;
SELECT queue.fail(job_id, error => name, retry => false), count(*) FROM taken GROUP BY 1;
SELECT l.error = name AS error, queue.requeue_failed(name, batch_id => name), count(*)
FROM name, queue.list_jobs(name) AS l GROUP BY 1, 2;
SELECT counts(name), count(*) FROM name GROUP BY 1;
SELECT count(queue.alter_queue(name, max_attempts => n)) FROM name;
SELECT count(*) FROM name JOIN queue.queue ON queue_name = name WHERE max_attempts = n;
SELECT count(queue.pause_queue(name)) FROM name WHERE n % 2 = 0;
SELECT count(*) FROM name JOIN queue.queue ON queue_name = name WHERE paused = (n % 2 = 0);
SELECT count(queue.resume_queue(name)) FROM name;

-- the names stand in order of their bytes, whatever the locale
SELECT string_agg(n::text, ' ' ORDER BY s.ordinality) FROM queue.queue_stats() WITH ORDINALITY AS s JOIN name ON queue_name = name;

SELECT queue.revoke_queue(name, (SELECT oid FROM pg_roles WHERE rolname LIKE 'regress_queue it%'), 'enqueue, browse')
FROM name WHERE n = 9;
DROP ROLE "regress_queue it's ""quoted"", \ and %s";
SELECT sum(queue.purge_queue(name)), count(queue.drop_queue(name)) FROM name;
SELECT count(*) FROM queue.queue;

-- A unique key is one unfinished job's at a time.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', backoff_jitter => 0, backoff_base => '0', max_attempts => 2);
SELECT queue.create_queue('other');
CREATE TABLE id (name text, job_id bigint);
CREATE FUNCTION who(bigint) RETURNS text LANGUAGE sql
	RETURN coalesce((SELECT name FROM id WHERE job_id = $1), 'new');
CREATE FUNCTION keys() RETURNS TABLE (queue_name text, unique_key text, job text, kept boolean, settled boolean)
LANGUAGE sql BEGIN ATOMIC
	SELECT queue_name, unique_key, who(job_id), taken_until > now(), settled
	FROM queue.unique_key JOIN queue.queue USING (queue_id) ORDER BY 1, 2;
END;

-- ignore: the first one stays as it is, and its id comes back; keys are a queue's own
INSERT INTO id VALUES ('a', queue.enqueue('q', '1', unique_key => 'k'));
SELECT who(queue.enqueue('q', '2', unique_key => 'k', priority => 1));
SELECT who(queue.enqueue('q', '2', unique_key => 'K'));
INSERT INTO id VALUES ('other', queue.enqueue('other', '1', unique_key => 'k'));
SELECT who(queue.enqueue('other', '2', unique_key => 'k'));
SELECT payload, priority, unique_key, who(job_id) FROM queue.job ORDER BY queue_name DESC, job_id;
SELECT * FROM keys();
SELECT counts('q');

-- replace: new payload, priority and due time, wherever the job waits
SELECT who(queue.enqueue('q', '3', unique_key => 'k', on_conflict => 'replace', priority => 3));
SELECT payload, priority, state, attempt FROM queue.job WHERE job_id = (SELECT job_id FROM id WHERE name = 'a');
SELECT who(queue.enqueue('q', '4', unique_key => 'k', on_conflict => 'replace', delay => '1h'));
SELECT payload, priority, state, attempt FROM queue.job WHERE job_id = (SELECT job_id FROM id WHERE name = 'a');
SELECT who(queue.enqueue('q', '5', unique_key => 'k', on_conflict => 'replace', run_at => '2000-01-01'));
SELECT payload, priority, state, run_at = '2000-01-01' AS early FROM queue.job
WHERE job_id = (SELECT job_id FROM id WHERE name = 'a');
SELECT counts('q');
SELECT who(job_id), payload FROM queue.dequeue_batch('q', 10);

-- while it is active it is left alone, and still has the key; a retry keeps it, too

SELECT who(queue.enqueue('q', '6', unique_key => 'k'));
SET client_min_messages = warning;
SELECT who(queue.enqueue('q', '6', unique_key => 'k', on_conflict => 'replace'));
RESET client_min_messages;
SELECT queue.fail(job_id, 'again') FROM id WHERE name = 'a';
SELECT who(queue.enqueue('q', '7', unique_key => 'k'));
SELECT payload, attempt, last_error FROM queue.job WHERE job_id = (SELECT job_id FROM id WHERE name = 'a');

-- the key is free the moment its job is over, in whatever way
SELECT who(job_id) FROM queue.dequeue_batch('q');
SELECT queue.fail(job_id, 'for good') FROM id WHERE name = 'a';
SELECT * FROM keys();
INSERT INTO id VALUES ('b', queue.enqueue('q', '8', unique_key => 'k'));
SELECT queue.cancel(job_id) FROM id WHERE name = 'b';
INSERT INTO id VALUES ('c', queue.enqueue('q', '9', unique_key => 'k'));
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q') WHERE job_id = (SELECT job_id FROM id WHERE name = 'c');
SELECT * FROM keys();

-- also in one statement, and undone by a savepoint
INSERT INTO id VALUES ('d', queue.enqueue('q', '10', unique_key => 'k'));
BEGIN;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
SAVEPOINT s;
SELECT who(queue.enqueue('q', '11', unique_key => 'k'));
ROLLBACK TO s;
SELECT * FROM keys();
ROLLBACK;
SELECT * FROM keys();
SELECT who(queue.enqueue('q', '11', unique_key => 'k'));

-- a job that failed runs again only if its key is free
SET client_min_messages = warning;
SELECT queue.retry_job(job_id) FROM id WHERE name = 'a';
RESET client_min_messages;
SELECT queue.purge_queue('q');
SELECT * FROM keys();
SELECT queue.retry_job(job_id) FROM id WHERE name = 'a';
SELECT * FROM keys();
SELECT who(queue.enqueue('q', '12', unique_key => 'k'));
SELECT counts('q');
SELECT queue.purge_queue('q');

-- unique_for: taken for that long after the enqueue, even if the job is over
INSERT INTO id VALUES ('e', queue.enqueue('q', '1', unique_key => 't', options => '{"unique_for": "1 h"}'));
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
SELECT * FROM keys();
SELECT who(queue.enqueue('q', '2', unique_key => 't'));
SELECT who(queue.enqueue('q', '2', unique_key => 't', on_conflict => 'replace'));
SELECT counts('q');
INSERT INTO id VALUES ('f', queue.enqueue('q', '3', unique_key => 'u', options => '{"unique_for": "1 us"}'));
SELECT who(queue.enqueue('q', '4', unique_key => 'u'));
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
SELECT who(queue.enqueue('q', '5', unique_key => 'u'));
SELECT queue.purge_queue('q');

-- many at once: ids in the order of the payloads, doubles among them too
INSERT INTO id VALUES ('x', queue.enqueue('q', '0', unique_key => 'x'));
CREATE TEMP TABLE many AS
SELECT * FROM queue.enqueue_batch('q', '{1,2,3,4,5,6}', options => '{"unique_keys": ["z", "x", null, "z", "a", null]}')
	WITH ORDINALITY AS m (job_id, n);
SELECT n, who(job_id), job_id = first_value(job_id) OVER (ORDER BY n) AS as_first, payload, unique_key, options
FROM many LEFT JOIN queue.job USING (job_id) ORDER BY n;
SELECT count(*) FROM queue.enqueue_batch('q', '{7,8}', options =>
	'{"unique_keys": ["z", "x"], "on_conflict": "replace", "keep_completed": 0}');
SELECT payload, unique_key, options FROM queue.job ORDER BY unique_key;
SELECT counts('q');

-- a dropped queue leaves no keys behind
SELECT queue.drop_queue('q', cascade => true);
SELECT * FROM keys();

-- bad arguments
\pset format unaligned
\pset tuples_only on
SELECT queue.create_queue('q');
SELECT errors(
	$$queue.enqueue('q', '1', unique_key => repeat('x', 1025))$$,
	$$queue.enqueue('q', '1', unique_key => 'k', on_conflict => 'update')$$,
	$$queue.enqueue('q', '1', unique_key => 'k', options => '{"unique_for": "-1 s"}')$$,
	$$queue.enqueue('q', '1', unique_key => 'k', options => '{"unique_keys": ["a"]}')$$,
	$$queue.enqueue_batch('q', '{1,2}', options => '{"unique_keys": ["a"]}')$$,
	$$queue.enqueue_batch('q', '{1,2}', options => '{"unique_keys": "a"}')$$,
	$$queue.enqueue_batch('q', '{1,2}', options => '{"unique_keys": {"a": 1}}')$$,
	$$queue.enqueue_batch('q', '{1,2}', options => '{"unique_keys": ["a", 2]}')$$,
	$$queue.enqueue_batch('q', '{1,2}', options => '{"unique_keys": ["a", "b"], "on_conflict": 1}')$$
);
SELECT counts('q');
SELECT queue.drop_queue('q');
SELECT queue.drop_queue('other', true);
DROP FUNCTION keys;
DROP FUNCTION who;
DROP TABLE id;

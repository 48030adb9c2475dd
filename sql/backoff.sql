-- A failed attempt is retried after exactly the delay that was asked for, until the attempts are used up.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SET intervalstyle = 'postgres';
-- Bring a job through failures to its last attempt; the delay that the given failure was followed by.
CREATE FUNCTION delay_after(queue_name text, failures int, options jsonb = null) RETURNS interval
LANGUAGE plpgsql AS $$
DECLARE
	id bigint := queue.enqueue(queue_name, '{}', max_attempts => failures + 1, options => options);
	delay interval;
BEGIN
	FOR i IN 1..failures - 1 LOOP
		PERFORM queue.fail(job_id, retry_in => '0', attempt => i) FROM queue.dequeue_batch(queue_name);
	END LOOP;
	PERFORM queue.fail(job_id, attempt => failures) FROM queue.dequeue_batch(queue_name);
	SELECT s.run_at - l.at INTO delay
	FROM queue.job_status(id) AS s JOIN queue.job_log AS l USING (job_id, attempt)
	WHERE s.state IN ('waiting', 'delayed');
	PERFORM queue.cancel(id);
	RETURN delay;
END
$$;

-- exponential: base × 2^(attempt − 1), never more than the cap
SELECT queue.create_queue('q', backoff_jitter => 0);
SELECT n, delay_after('q', n) FROM generate_series(1, 13) AS n;
SELECT queue.alter_queue('q', backoff_base => '1.5s', backoff_max => '10s');
SELECT n, delay_after('q', n) FROM generate_series(1, 5) AS n;
-- a base above the cap, no base, no cap, and what would overflow
SELECT queue.alter_queue('q', backoff_base => '1min');
SELECT n, delay_after('q', n) FROM generate_series(1, 2) AS n;
SELECT queue.alter_queue('q', backoff_base => '0');
SELECT n, delay_after('q', n) FROM generate_series(1, 3) AS n;
SELECT queue.alter_queue('q', backoff_base => '1us', backoff_max => '1000000 days');
SELECT n, delay_after('q', n) FROM unnest('{2,40,57,100}'::int[]) AS n;

-- fixed
SELECT queue.alter_queue('q', backoff => 'fixed', backoff_base => '7s', backoff_max => '1h');
SELECT n, delay_after('q', n) FROM generate_series(1, 3) AS n;
SELECT queue.alter_queue('q', backoff_max => '5s');
SELECT n, delay_after('q', n) FROM generate_series(1, 3) AS n;

-- options of the job come before those of the queue
SELECT queue.alter_queue('q', backoff_max => '20s');
SELECT n, delay_after('q', n, '{"backoff": "exponential"}'),
	delay_after('q', n, '{"backoff_base": "3 s"}'),
	delay_after('q', n, '{"backoff_max": 6.5}'),
	delay_after('q', n, '{"backoff": "exponential", "backoff_base": 0.000003, "backoff_max": "11 us", "backoff_jitter": 0}')
FROM generate_series(1, 3) AS n;

-- jitter j draws from [d(1 − j), d]
SELECT queue.alter_queue('q', backoff_base => '100s', backoff_max => '1h', backoff_jitter => 0.25);
SELECT bool_and(d BETWEEN '75s' AND '100s') AS inside, count(DISTINCT d) > 90 AS drawn,
	min(d) < '80s' AS low, max(d) > '95s' AS high
FROM (SELECT delay_after('q', 1) AS d FROM generate_series(1, 100)) AS delay;
SELECT queue.alter_queue('q', backoff_jitter => 1);
SELECT bool_and(d BETWEEN '0' AND '100s') AS inside, min(d) < '20s' AS low, max(d) > '80s' AS high
FROM (SELECT delay_after('q', 1) AS d FROM generate_series(1, 100)) AS delay;
SELECT queue.drop_queue('q', true);

-- what becomes of a job, attempt by attempt, and what the log keeps
SELECT queue.create_queue('q', max_attempts => 5, backoff => 'fixed', backoff_base => '0', backoff_jitter => 0);
SELECT queue.enqueue('q', '"job"') IS NOT NULL AS enqueued;
SELECT queue.fail(job_id, 'first') FROM queue.dequeue_batch('q', worker => 'a');
SELECT queue.fail(job_id, 'second', retry_in => '1h') FROM queue.dequeue_batch('q', worker => 'b');
SELECT state, attempt, worker, last_error, taken_at IS NOT NULL AS taken, lease_expires_at FROM queue.job;
SELECT queue.cancel(job_id) FROM queue.job;
SELECT queue.retry_job(job_id) FROM queue.list_jobs('q');
SELECT queue.fail(job_id) FROM queue.dequeue_batch('q');
SELECT state, attempt, last_error FROM queue.job;
SELECT queue.fail(job_id, 'fourth', retry_in => '0') FROM queue.dequeue_batch('q', worker => 'd');
SELECT queue.fail(job_id, '') FROM queue.dequeue_batch('q', worker => 'e');
SELECT queue.fail(job_id, 'sixth') FROM queue.dequeue_batch('q', worker => 'f');
SELECT queue.fail(job_id, 'last', retry_in => '1h') FROM queue.dequeue_batch('q', worker => 'g');
SELECT payload, attempt FROM queue.dequeue_batch('q');
SELECT state, attempt, error, worker FROM queue.list_jobs('q');
SELECT attempt, event, worker, error, regexp_replace(message, ' at \d.*', ' at TIME') AS message
FROM queue.job_log JOIN queue.queue USING (queue_id) WHERE queue_name = 'q' ORDER BY at;

-- no retry where none is wanted; no log where none is wanted
SELECT queue.enqueue('q', '"no retry"') IS NOT NULL AS enqueued;
SELECT queue.fail(job_id, 'fatal', retry => false) FROM queue.dequeue_batch('q');
SELECT queue.fail(job_id, 'fatal', retry => false) FROM queue.list_jobs('q');
SELECT queue.alter_queue('q', log_level => 'none');
SELECT queue.enqueue('q', '"unseen"') IS NOT NULL AS enqueued;
SELECT queue.fail(job_id, 'unseen', retry => false, retry_in => '1s') FROM queue.dequeue_batch('q');
SELECT attempt, event, message, error FROM queue.job_log JOIN queue.queue USING (queue_id)
WHERE queue_name = 'q' ORDER BY at DESC LIMIT 1;
SELECT payload, state, error FROM queue.list_jobs('q', 'failed');

-- a long error is cut between two characters
SELECT queue.enqueue('q', '"long"') IS NOT NULL AS enqueued;
SELECT queue.fail(job_id, repeat('x', 65535) || 'éé') FROM queue.dequeue_batch('q');
SELECT octet_length(last_error), right(last_error, 1) FROM queue.job;
SELECT counts('q');

DROP FUNCTION delay_after;
SELECT queue.drop_queue('q', true);

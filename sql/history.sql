-- queue.job_history(): a job's life in order, with the log and without, and for whom.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
CREATE FUNCTION life(job_id bigint) RETURNS TABLE (event text, attempt int, worker text, message text, error text)
LANGUAGE sql AS $$
	SELECT event, attempt, worker, regexp_replace(message, ' at [^;]*', ' at ...'), error FROM queue.job_history(life.job_id) $$;

-- without a log: what row and archive tell
SELECT queue.create_queue('none', log_level => 'none', max_attempts => 2, backoff_base => '0', backoff_jitter => 0);
SELECT queue.enqueue('none', '1') AS job \gset
SELECT * FROM life(:job);
SELECT attempt FROM queue.dequeue_batch('none', worker => 'w');
SELECT * FROM life(:job);
SELECT queue.fail(:job, 'once');
SELECT attempt FROM queue.dequeue_batch('none', worker => 'x');
SELECT queue.complete(:job);
SELECT * FROM life(:job);
SELECT queue.enqueue('none', '2', delay => '1h') AS job \gset
SELECT queue.cancel(:job);
SELECT * FROM life(:job);

-- with errors: the attempts between
SELECT queue.create_queue('errors', max_attempts => 2, backoff_base => '0', backoff_jitter => 0);
SELECT queue.enqueue('errors', '1') AS job \gset
SELECT queue.fail(job_id, 'once') FROM queue.dequeue_batch('errors', worker => 'w');
SELECT queue.fail(job_id, 'twice') FROM queue.dequeue_batch('errors', worker => 'x');
SELECT * FROM life(:job);

-- with all: everything, nothing twice; also once more, and of a queue whose level has changed meanwhile
SELECT queue.create_queue('all', log_level => 'all', max_attempts => 2, backoff_base => '0', backoff_jitter => 0);
SELECT queue.enqueue('all', '1') AS job \gset
SELECT queue.fail(job_id, 'once') FROM queue.dequeue_batch('all', worker => 'w');
SELECT queue.fail(job_id, 'twice') FROM queue.dequeue_batch('all', worker => 'x');
SELECT queue.retry_job(:job);
SELECT queue.alter_queue('all', log_level => 'none');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('all', worker => 'y');
SELECT * FROM life(:job);
SELECT bool_and(at >= before) FROM (SELECT at, lag(at) OVER () AS before FROM queue.job_history(:job)) AS h;

-- no such job; whose queue one may not browse
SELECT * FROM life(0);
SELECT * FROM life(null);
CREATE ROLE regress_queue_history;
SELECT queue.create_queue('mine');
SELECT queue.grant_queue('mine', 'regress_queue_history', 'browse');
SET ROLE regress_queue_history;
SELECT count(*) FROM queue.job_history(:job);
RESET ROLE;
SELECT queue.grant_queue('all', 'regress_queue_history', 'browse');
SET ROLE regress_queue_history;
SELECT count(*) FROM queue.job_history(:job);
BEGIN READ ONLY;
SELECT count(*) FROM queue.job_history(:job);
COMMIT;
RESET ROLE;

SELECT count(queue.drop_queue(q, true)) FROM unnest('{none,errors,all,mine}'::text[]) AS q;
DROP ROLE regress_queue_history;
DROP FUNCTION life;

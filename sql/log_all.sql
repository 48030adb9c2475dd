-- log_level all: everything that happens to a job is in queue.job_log, once; errors has no more than before.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
CREATE FUNCTION log_of(name text) RETURNS TABLE (payload text, event text, attempt int, worker text, message text, error text)
LANGUAGE sql AS $$
	SELECT coalesce(j.payload, a.payload)::text, l.event, l.attempt, l.worker,
		regexp_replace(regexp_replace(l.message, ' at [^;]*', ' at ...'), 'job \d+', 'job ...'), l.error
	FROM queue.job_log AS l JOIN queue.queue AS q USING (queue_id)
		LEFT JOIN (SELECT job_id, payload FROM queue.job_live UNION ALL SELECT job_id, payload FROM queue.job_parked) AS j USING (job_id)
		LEFT JOIN queue.job_archive AS a USING (job_id)
	WHERE q.queue_name = log_of.name
	ORDER BY l.at, 1, l.attempt, array_position('{enqueued,requeued,taken,released,stalled,retried,completed,failed,cancelled,moved}', l.event) $$;
SELECT queue.create_queue('dead', log_level => 'none');
SELECT queue.create_queue('q', log_level => 'all', max_attempts => 2, backoff_base => '0', backoff_jitter => 0, dead_letter_queue => 'dead');

-- the ways in: waiting, delayed, blocked, many at once, a key that is taken
SELECT queue.enqueue('q', '1') AS one \gset
SELECT queue.enqueue('q', '2', delay => '1h', unique_key => 'u') AS two \gset
SELECT queue.enqueue('q', '3', depends_on => ARRAY[:two]) AS three \gset
SELECT queue.enqueue('q', '4', unique_key => 'u') = :two;
SELECT count(*) FROM queue.enqueue_batch('q', '{5,6}');
BEGIN;
SELECT queue.enqueue('q', '"rolled back"') > 0;
ROLLBACK;
SELECT * FROM log_of('q');

-- taken, given back, taken again, failed, retried, failed for good and moved, moved back
SELECT job_id = :one FROM queue.dequeue_batch('q', worker => 'w');
SELECT queue.release(:one);
SELECT job_id = :one, attempt FROM queue.dequeue_batch('q', 9, worker => 'w') WHERE payload = '1';
SELECT queue.fail(:one, 'once');
SELECT job_id = :one, attempt FROM queue.dequeue_batch('q', worker => 'x');
SELECT queue.fail(:one, 'twice');
SELECT queue.alter_queue('dead', log_level => 'all');
SELECT queue.redrive('dead');
SELECT * FROM log_of('q') WHERE payload = '1';
SELECT * FROM log_of('dead');

-- completed, cancelled, purged
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job WHERE queue_name = 'q' AND state = 'active';
SELECT queue.cancel(:three), queue.cancel(:two);
SELECT queue.purge_queue('q');
SELECT * FROM log_of('q') WHERE event IN ('completed', 'cancelled');

-- a lease that has ended: taken over, then failed for good; once more
SELECT queue.create_queue('s', log_level => 'all', max_attempts => 2, visibility_timeout => '1 ms');
SELECT queue.enqueue('s', '1') AS stalls \gset
SELECT attempt FROM queue.dequeue_batch('s');
CALL wait_until($$(SELECT attempt = 2 FROM queue.dequeue_batch('s'))$$);
CALL wait_until($$(SELECT count(*) = 1 FROM queue.dequeue_batch('s') RIGHT JOIN queue.job_finished AS f USING (job_id) WHERE f.queue_name = 's')$$);
SELECT queue.retry_job(:stalls);
SELECT event, attempt, message, error FROM log_of('s');

-- mode direct: all of it at once
CREATE FUNCTION twice_as_much(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(2 * payload::int)';
SELECT queue.create_queue('d', log_level => 'all');
SELECT queue.set_handler('d', 'twice_as_much');
SELECT queue.set_mode('d', 'direct');
SELECT queue.enqueue('d', '1') > 0;
SELECT * FROM log_of('d');

-- errors: as ever; none: nothing
SELECT queue.create_queue('e', max_attempts => 2, backoff_base => '0', backoff_jitter => 0);
SELECT queue.create_queue('n', max_attempts => 1, log_level => 'none');
SELECT queue.enqueue('e', '1') > 0, queue.enqueue('n', '1') > 0;
SELECT queue.fail(job_id, 'bad') FROM queue.dequeue_batch('e');
SELECT queue.fail(job_id, 'bad') FROM queue.dequeue_batch('e');
SELECT queue.fail(job_id, 'bad') FROM queue.dequeue_batch('n');
SELECT * FROM log_of('e');
SELECT * FROM log_of('n');

SELECT count(queue.drop_queue(q, true)) FROM unnest('{q,dead,s,d,e,n}'::text[]) AS q;
DROP FUNCTION log_of, twice_as_much;

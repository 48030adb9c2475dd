-- on_failed is called once for each job that fails for good, whoever fails it; its own errors do no harm.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE SCHEMA fn;
CREATE TABLE fn.told (n serial, queue_name text, payload jsonb, attempt int, max_attempts int, priority int, source text,
	group_key text, batch_id text, headers jsonb, error text, state text, who text);
CREATE FUNCTION fn.tell(job queue.job_context) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fn.told (queue_name, payload, attempt, max_attempts, priority, source, group_key, batch_id, headers, error, state, who)
	SELECT job.queue_name, job.payload, job.attempt, job.max_attempts, job.priority, job.source, job.group_key, job.batch_id,
		job.headers, job.error, (SELECT s.state FROM queue.job_status(job.job_id) AS s), current_user = session_user;
	IF job.payload ->> 'raise' IS NOT NULL THEN
		RAISE EXCEPTION USING MESSAGE = 'on_failed says ' || (job.payload ->> 'raise'), ERRCODE = job.payload ->> 'raise';
	END IF;
END $$;
CREATE PROCEDURE told() LANGUAGE plpgsql AS $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT * FROM fn.told ORDER BY n LOOP
		RAISE INFO '%', (SELECT jsonb_strip_nulls(to_jsonb(t) - 'n' - 'who'));
	END LOOP;
	DELETE FROM fn.told;
END $$;
SELECT queue.create_queue('f', on_failed => 'fn.tell', backoff_base => '0', max_attempts => 2);

-- not before the attempts are used up; with all that is known about the job
SELECT queue.enqueue('f', '{"x": 1}', priority => 3, source => 's', group_key => 'g', headers => '{"h": 1}') IS NOT NULL AS ok;
SELECT queue.fail(job_id, 'first') FROM queue.dequeue_batch('f');
CALL told();
SELECT queue.fail(job_id, 'second') FROM queue.dequeue_batch('f');
CALL told();
-- not for what is completed or cancelled
SELECT count(*) FROM queue.enqueue_batch('f', '{1,2}');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('f');
SELECT queue.cancel(job_id) FROM queue.dequeue_batch('f');
CALL told();
-- many at once
SELECT count(*) FROM queue.enqueue_batch('f', '{1,2,3}', max_attempts => 1);
SELECT queue.fail_many(array_agg(job_id), 'all') FROM queue.dequeue_batch('f', 3);
CALL told();
-- undone with the failure
BEGIN;
SELECT queue.enqueue('f', '4') IS NOT NULL AS ok;
SELECT queue.fail(job_id, 'undone', retry => false) FROM queue.dequeue_batch('f');
ROLLBACK;
CALL told();

-- prepared with it
SELECT queue.enqueue('f', '4') IS NOT NULL AS ok;
BEGIN;
SELECT queue.fail(job_id, 'prepared', retry => false) FROM queue.dequeue_batch('f');
PREPARE TRANSACTION 'failed';
CALL told();
COMMIT PREPARED 'failed';
CALL told();
SELECT counts('f');

-- its error is undone and logged, the others go on
SELECT count(*) FROM queue.enqueue_batch('f', ARRAY['{"x": 1}', '{"raise": "22012"}', '{"x": 3}', '{"raise": "P0004"}',
	'{"raise": "40001"}']::jsonb[], max_attempts => 1);
SELECT queue.fail_many(array_agg(job_id ORDER BY job_id), 'all') FROM queue.dequeue_batch('f', 5);
CALL told();
SELECT l.event, l.message, l.error FROM queue.job_log AS l JOIN queue.queue AS q USING (queue_id)
WHERE q.queue_name = 'f' AND l.message LIKE 'on_failed%' ORDER BY l.job_id;
-- but a cancel is a cancel: nothing has happened
SELECT queue.enqueue('f', '{"raise": "57014"}') IS NOT NULL AS ok;
CREATE TEMP TABLE held AS SELECT job_id FROM queue.dequeue_batch('f');
\set VERBOSITY sqlstate
SELECT queue.fail(job_id, retry => false) FROM held;
\set VERBOSITY default
SELECT queue.complete(job_id) FROM held;
CALL told();
SELECT counts('f');

-- a lease that ended with the attempts used up: by a taker, or by maintenance
SELECT queue.enqueue('f', '"stalls"', max_attempts => 1) IS NOT NULL AS ok;
SELECT payload FROM queue.dequeue_batch('f', 1, '1 ms');
CALL wait_until($$EXISTS (SELECT FROM queue.maintain()) AND EXISTS (SELECT FROM fn.told)$$);
CALL told();

-- a parent that failed, before or after the child was put in
SELECT queue.enqueue('f', '"parent"') AS parent \gset
SELECT queue.enqueue('f', '"child"', depends_on => ARRAY[:parent]) AS child \gset
SELECT queue.fail(job_id, 'no luck', retry => false) FROM queue.dequeue_batch('f');
SELECT queue.enqueue('f', '"late child"', depends_on => ARRAY[:parent]) IS NOT NULL AS ok;
UPDATE fn.told SET error = regexp_replace(error, '\d+', 'N');
CALL told();

-- also if it moves to a dead-letter queue, whose own on_failed is another matter
SELECT queue.create_queue('dead', on_failed => 'fn.tell');
SELECT queue.alter_queue('f', dead_letter_queue => 'dead');
SELECT queue.enqueue('f', '"dies"') IS NOT NULL AS ok;
SELECT queue.fail(job_id, 'once', retry => false) FROM queue.dequeue_batch('f');
CALL told();
SELECT queue.fail(job_id, 'twice', retry => false) FROM queue.dequeue_batch('dead');
CALL told();
SELECT queue.reset_queue_setting('f', 'dead_letter_queue');

-- it may use the queue; what fails inside it calls nobody
CREATE FUNCTION fn.fails_others(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fn.told (payload, state) SELECT d.payload, queue.fail(d.job_id, 'inside', retry => false)
	FROM queue.dequeue_batch('f', 10) AS d;
	PERFORM queue.enqueue('dead', jsonb_build_object('failed', payload));
	RETURN 'ignored';
END $$;
SELECT queue.alter_queue('f', on_failed => 'fn.fails_others');
SELECT count(*) FROM queue.enqueue_batch('f', '{1,2,3}');
SELECT queue.fail(job_id, 'outside', retry => false) FROM queue.dequeue_batch('f');
CALL told();
SELECT payload FROM queue.job WHERE queue_name = 'dead';
-- and is called again after that, and after an error
SELECT queue.enqueue('f', '4') IS NOT NULL AS ok;
SELECT queue.fail(job_id, 'outside', retry => false) FROM queue.dequeue_batch('f');
SELECT payload FROM queue.job WHERE queue_name = 'dead' ORDER BY job_id;

-- a large payload, whose row is gone by then
CREATE FUNCTION fn.measure(job queue.job_context) RETURNS void LANGUAGE sql AS
	$$INSERT INTO fn.told (attempt, error) VALUES (length(job.payload #>> '{}'), job.error)$$;
SELECT queue.alter_queue('f', on_failed => 'fn.measure');
SELECT queue.enqueue('f', to_jsonb(string_agg(md5(i::text), ''))) IS NOT NULL AS ok FROM generate_series(1, 10000) AS i;
SELECT queue.fail(job_id, 'large', retry => false) FROM queue.dequeue_batch('f');
CALL told();
SELECT queue.alter_queue('f', on_failed => 'fn.fails_others');

-- it is gone, or not allowed any more: the job has failed, and the log says so
DROP FUNCTION fn.fails_others;
SELECT queue.enqueue('f', '5') IS NOT NULL AS ok;
SELECT queue.fail(job_id, 'unheard', retry => false) FROM queue.dequeue_batch('f');
SELECT l.message, l.error FROM queue.job_log AS l JOIN queue.queue AS q USING (queue_id)
WHERE q.queue_name = 'f' ORDER BY l.at DESC LIMIT 1;

-- as the owner, in the session of another
CREATE ROLE regress_queue_owner;
CREATE ROLE regress_queue_worker;
CREATE FUNCTION fn.who(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fn.told (who, error) SELECT current_user, current_setting('search_path');
END $$;
GRANT USAGE ON SCHEMA fn TO regress_queue_owner;
GRANT INSERT ON fn.told TO regress_queue_owner;
GRANT USAGE ON SEQUENCE fn.told_n_seq TO regress_queue_owner;
SELECT queue.alter_queue('f', on_failed => 'fn.who', owner => 'regress_queue_owner');
SELECT queue.grant_queue('f', 'regress_queue_worker', 'dequeue');
SELECT count(*) FROM queue.enqueue_batch('f', '{6,7}', max_attempts => 1);
SET ROLE regress_queue_worker;
SELECT queue.fail(job_id) FROM queue.dequeue_batch('f');
RESET ROLE;
-- and by the maintenance worker itself
SELECT payload FROM queue.dequeue_batch('f', 1, '1 ms');
CALL wait_until($$(SELECT count(*) = 2 FROM fn.told)$$);
SELECT who, error FROM fn.told;
SELECT counts('f');

SELECT queue.drop_queue('f', cascade => true), queue.drop_queue('dead', cascade => true);
SET client_min_messages = warning;
DROP SCHEMA fn CASCADE;
DROP PROCEDURE told;
DROP ROLE regress_queue_owner, regress_queue_worker;

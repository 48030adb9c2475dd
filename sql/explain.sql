-- Why a job has not run yet: each reason, alone and with others.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset format unaligned
\pset tuples_only on
-- without what changes from run to run: times, and numbers of jobs, which get their names
CREATE TEMP TABLE known (name text, job_id bigint);
GRANT SELECT ON known TO PUBLIC;
CREATE FUNCTION explain(job text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	k record;
BEGIN
	FOR line IN SELECT e FROM known, queue.explain_job(known.job_id) AS e WHERE name = job LOOP
		FOR k IN SELECT * FROM known LOOP
			line := regexp_replace(line, '\y' || k.job_id || '\y', '<' || k.name || '>', 'g');
		END LOOP;
		RETURN NEXT regexp_replace(line, '\d{4}-\d\d-\d\d [0-9:.]+[^ ,;:.]*', 'TIME', 'g');
	END LOOP;
END
$$;
CREATE FUNCTION put(name text, queue text, delay interval = null, group_key text = null, depends_on bigint[] = null,
	on_parent_failure text = 'fail', options jsonb = null) RETURNS text LANGUAGE sql AS $$
	INSERT INTO known VALUES (name, queue.enqueue(queue, to_jsonb(name), delay => delay, group_key => group_key,
		depends_on => depends_on, on_parent_failure => on_parent_failure, options => options))
	RETURNING name
$$;
CREATE FUNCTION id(job text) RETURNS bigint LANGUAGE sql AS 'SELECT job_id FROM known WHERE name = job';

SELECT queue.create_queue('q', max_attempts => 2, backoff => 'fixed', backoff_base => '1 h', backoff_jitter => 0);

-- waiting: its place, and who takes
SELECT put('a', 'q');
SELECT put('b', 'q');
SELECT put('c', 'q');
SELECT explain('a');
SELECT explain('b');
SELECT explain('c');

-- the queue is paused, throttled, limited; all at once
SELECT queue.pause_queue('q');
SELECT explain('a');
SELECT queue.throttle('q', '1 h') > now();
SELECT queue.alter_queue('q', max_active => 1, rate_limit => 1, rate_period => '1 day');
SELECT explain('b');
SELECT queue.resume_queue('q');
SELECT queue.throttle('q', '0');
SELECT payload FROM queue.dequeue_batch('q', worker => 'w');
SELECT explain('b');
SELECT queue.reset_queue_setting('q', 'rate_limit');
SELECT explain('b');
SELECT queue.reset_queue_setting('q', 'max_active');
SELECT explain('b');

-- running, retried, failed for good
SELECT explain('a');
SELECT queue.fail(id('a'), E'broken\nin two');
SELECT explain('a');
SELECT queue.pause_queue('q');
SELECT explain('a');
SELECT queue.resume_queue('q');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.fail(id('b'), repeat('x', 1000), retry_in => '0');
SELECT explain('b');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.fail(id('b'), 'broken again');
SELECT explain('b');

-- completed, cancelled
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.complete(id('c'));
SELECT explain('c');
SELECT put('d', 'q');
SELECT queue.cancel(id('d'));
SELECT explain('d');

-- a lease that has ended
SELECT put('late', 'q');
SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1 ms', worker => 'slow');
SELECT pg_sleep(0.01);
SELECT explain('late');
SELECT payload FROM take('q', worker => 'fast');
SELECT explain('late');
SELECT queue.complete(id('late'));
SELECT put('bound', 'q');
SELECT payload FROM queue.dequeue_batch('q', bind_session => true);
SELECT explain('bound');
SELECT queue.complete(id('bound'));

-- delayed
SELECT put('delayed', 'q', delay => '1 h');
SELECT explain('delayed');

-- parents
SELECT put('p1', 'q');
SELECT put('p2', 'q', delay => '1 h');
SELECT put('child', 'q', depends_on => ARRAY[id('p1'), id('p2')]);
SELECT explain('child');
SELECT put('any', 'q', depends_on => ARRAY[id('p1')], on_parent_failure => 'run');
SELECT explain('any');
SELECT put('stuck', 'q', depends_on => ARRAY[id('p1')], on_parent_failure => 'block');
SELECT explain('stuck');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.fail(id('p1'), 'no', retry => false);
SELECT explain('stuck');
SELECT explain('child');
SELECT queue.drop_queue('q', true);

-- a group
TRUNCATE known;
SELECT queue.create_queue('q');
SELECT put('g1', 'q', group_key => 'g');
SELECT put('g2', 'q', group_key => 'g');
SELECT put('g3', 'q', group_key => 'g');
SELECT explain('g2');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.pause_queue('q');
SELECT explain('g3');
SELECT queue.drop_queue('q', true);

-- a limit_key
TRUNCATE known;
SELECT queue.create_queue('q', max_active_per_key => 2);
SELECT put('k' || i, 'q', options => '{"limit_key": "k"}') FROM generate_series(1, 4) AS i;
SELECT payload FROM queue.dequeue_batch('q');
SELECT explain('k3');
SELECT explain('k4');
SELECT queue.drop_queue('q', true);

-- a handler that nobody runs
TRUNCATE known;
SELECT queue.create_queue('q');
CREATE FUNCTION explain_handler(job queue.job_context) RETURNS void LANGUAGE sql AS '';
SELECT queue.set_handler('q', 'explain_handler');
SELECT put('h', 'q');
SELECT explain('h');
SELECT queue.stop_processing('q');
SELECT explain('h');
SELECT queue.set_handler('q', null);

-- no such job, and one that is not ours to see, are told in the same words
SELECT queue.explain_job(0);
SELECT queue.explain_job(null);
CREATE ROLE regress_queue_browser;
SELECT queue.create_queue('mine');
SELECT queue.grant_queue('mine', 'regress_queue_browser', 'browse');
SELECT put('m', 'mine', depends_on => ARRAY[id('h')]);
SET ROLE regress_queue_browser;
SELECT explain('h');
SELECT explain('m');
BEGIN READ ONLY;
SELECT explain('m');
COMMIT;
RESET ROLE;
SELECT queue.drop_queue('mine', true);
SELECT queue.drop_queue('q', true);
DROP ROLE regress_queue_browser;
DROP FUNCTION explain, put, id, explain_handler;

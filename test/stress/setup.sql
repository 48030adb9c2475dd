-- What a storm needs: queues, a table of what is done, and work on jobs.
CREATE SCHEMA stress;

-- One row for each job that is done, in the transaction that completes it.  The
-- token is of the client's call; an executor has none.
CREATE TABLE stress.done (
	seq bigserial, token text, job_id bigint NOT NULL, attempt int NOT NULL, key text, group_key text, serial int, kind text,
	by text DEFAULT current_setting('application_name'));

-- one row for each call of on_failed that has not raised an error
CREATE TABLE stress.failure (job_id bigint NOT NULL, attempt int);

-- the fate of each is one of: done, failed for good, cancelled
SELECT queue.create_queue('dead', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s',
	log_level => 'all');
SELECT queue.create_queue('plain', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s');
SELECT queue.create_queue('aged', max_attempts => 1000, backoff_base => '5 ms', backoff_max => '100 ms', visibility_timeout => '2 s');
SELECT queue.create_queue('brief', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s',
	keep_completed => '1 s');
SELECT queue.create_queue('mortal', max_attempts => 3, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '1 s',
	dead_letter_queue => 'dead', log_level => 'all');
SELECT queue.create_queue('keyed', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s',
	max_active_per_key => 3, log_level => 'all');
SELECT queue.create_queue('capped', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '1 s',
	max_active => 5, log_level => 'all');
SELECT queue.create_queue('run', max_attempts => 4, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s',
	job_timeout => '500 ms', log_level => 'all');

-- those whose jobs go other ways: run at once, copied, led elsewhere
SELECT queue.create_queue('direct', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s');
SELECT queue.create_queue('mirror', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s');
SELECT queue.create_queue('fallback', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s',
	max_depth => 20);
SELECT queue.create_queue('overflow', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms', visibility_timeout => '2 s');
SELECT queue.set_mode('mirror', 'mirror', 'plain'), queue.set_mode('fallback', 'fallback', 'overflow');

-- who hears what: Check.pm knows it, too; "aged" hears "news.#" now and then
SELECT queue.bind('news.#', 'plain'), queue.bind('*.paid', 'plain'), queue.bind('news.*', 'run'), queue.bind('news.paid.#', 'capped');

-- what nobody closes is closed soon
SELECT queue.alter_queue(queue_name, batch_grace => '1 s') FROM queue.queue;

-- Of a group one transaction at a time runs a job, of a limit_key three.  Who
-- has committed lets go after that can be seen, so look for a while.
CREATE FUNCTION stress.enter(job bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	held record;
BEGIN
	SELECT group_key, limit_key INTO held FROM queue.job_live WHERE job_id = job;
	FOR i IN 1..2000 LOOP
		EXIT WHEN held.group_key IS NULL OR pg_try_advisory_xact_lock(hashtext(held.group_key), 0);
		IF i = 2000 THEN
			RAISE EXCEPTION 'two jobs of group % run', held.group_key USING ERRCODE = 'ST001';
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
	FOR i IN 1..2000 LOOP
		EXIT WHEN held.limit_key IS NULL OR pg_try_advisory_xact_lock(hashtext(held.limit_key), 1)
			OR pg_try_advisory_xact_lock(hashtext(held.limit_key), 2) OR pg_try_advisory_xact_lock(hashtext(held.limit_key), 3);
		IF i = 2000 THEN
			RAISE EXCEPTION 'a fourth job of % runs', held.limit_key USING ERRCODE = 'ST001';
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;

-- takes, completes and notes it, all in one transaction
CREATE FUNCTION stress.work(queue_name text, batch_size int, token text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
	job record;
BEGIN
	FOR job IN SELECT * FROM queue.dequeue_batch(queue_name, batch_size, worker => token) LOOP
		IF queue_name = 'keyed' THEN
			PERFORM stress.enter(job.job_id);
		END IF;
		IF NOT queue.complete(job.job_id, attempt => job.attempt) THEN
			RAISE EXCEPTION 'job % was taken and is not held', job.job_id USING ERRCODE = 'ST001';
		END IF;
		INSERT INTO stress.done (token, job_id, attempt, key, group_key, serial)
		VALUES (token, job.job_id, job.attempt, job.payload ->> 'key', job.group_key, (job.payload ->> 'serial')::int);
		RETURN NEXT job.job_id;
	END LOOP;
END $$;

-- what executors run
CREATE FUNCTION stress.handle(job queue.job_context) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	INSERT INTO stress.done (job_id, attempt, key, group_key, serial, kind)
	VALUES (job.job_id, job.attempt, job.payload ->> 'key', job.group_key, (job.payload ->> 'serial')::int, job.payload ->> 'kind');
	CASE job.payload ->> 'kind'
		WHEN 'bad' THEN RAISE EXCEPTION 'a bad job' USING ERRCODE = 'ST002';
		WHEN 'better' THEN
			IF job.attempt < 3 THEN
				RAISE EXCEPTION 'a bad attempt' USING ERRCODE = 'ST002';
			END IF;
		WHEN 'slow' THEN PERFORM pg_sleep(0.1);
		WHEN 'long' THEN PERFORM pg_sleep(2);
		ELSE NULL;
	END CASE;
END $$;
SELECT queue.set_handler('run', 'stress.handle', concurrency => 3);
SELECT queue.set_handler('direct', 'stress.handle', concurrency => 2), queue.set_mode('direct', 'direct');

-- what is called for jobs that have failed for good; what it does for some is undone
CREATE FUNCTION stress.failed(job queue.job_context) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	INSERT INTO stress.failure VALUES (job.job_id, job.attempt);
	IF job.job_id % 10 = 0 THEN
		RAISE EXCEPTION 'nobody wants to hear of job %', job.job_id USING ERRCODE = 'ST003';
	END IF;
END $$;
SELECT queue.alter_queue(queue_name, on_failed => 'stress.failed')
FROM unnest('{dead,mortal,keyed,run}'::text[]) AS queue_name;

-- Ids in the order in which they were found wrong: what no snapshot may show.
CREATE FUNCTION stress.watch() RETURNS TABLE (what text, name text, n bigint) LANGUAGE sql AS $$
	WITH job AS MATERIALIZED (
		SELECT q.queue_name, queue._state(j.state, j.lease_owner) AS state, j.job_id, j.unique_key, j.group_key, j.limit_key, true AS live
		FROM queue.job_live AS j JOIN queue.queue AS q USING (queue_id)
		UNION ALL
		SELECT q.queue_name, queue._state(j.state, j.lease_owner), j.job_id, j.unique_key, j.group_key, j.limit_key, false
		FROM queue.job_parked AS j JOIN queue.queue AS q USING (queue_id)
	)
	SELECT 'jobs with the unique key', unique_key, count(*) FROM job WHERE unique_key IS NOT NULL
	GROUP BY queue_name, unique_key HAVING count(*) > 1
	UNION ALL
	SELECT 'heads of the group', group_key, count(*) FROM job WHERE group_key IS NOT NULL AND state <> 'blocked'
	GROUP BY queue_name, group_key HAVING count(*) > 1
	UNION ALL
	SELECT 'places of the limit_key', limit_key, count(*) FROM job WHERE queue_name = 'keyed' AND limit_key IS NOT NULL AND live
	GROUP BY limit_key HAVING count(*) > 3
	UNION ALL
	SELECT 'active jobs of the queue', queue_name, count(*) FROM job WHERE queue_name = 'capped' AND state = 'active'
	GROUP BY queue_name HAVING count(*) > 5
	UNION ALL
	SELECT 'rows of the job', job_id::text, count(*) FROM (
		SELECT job_id FROM job UNION ALL SELECT job_id FROM queue.job_archive) AS row
	GROUP BY job_id HAVING count(*) > 1
$$;

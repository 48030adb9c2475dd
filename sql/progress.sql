-- What set_progress() tells is shown at once, kept in the row when the attempt ends, and fenced like other verbs.
\set ECHO none
\i test/helpers.sql
-- without the time, which is no constant
CREATE FUNCTION told(job_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', state, attempt, progress - 'at',
		CASE WHEN (progress->>'at')::timestamptz NOT BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp()
			THEN 'not now' END)
	FROM queue.job_status(told.job_id)
$$;
\set ECHO all
SELECT queue.create_queue('q', visibility_timeout => '1h', max_attempts => 3);
SELECT queue.enqueue('q', '1') AS job_id \gset

-- only of a job that is held
SELECT queue.set_progress(:job_id, 10), told(:job_id);
SELECT attempt FROM queue.dequeue_batch('q', worker => 'w');
SELECT ctid, xmax FROM queue.job_live \gset
SELECT queue.set_progress(:job_id, 10, 'read', '{"rows": 10}'), told(:job_id);
SELECT queue.set_progress(0, 10), queue.set_progress(-1, 10), queue.set_progress(:job_id + 1, 10);
-- what is null is as before
SELECT queue.set_progress(:job_id, 33.333332), told(:job_id);
SELECT queue.set_progress(:job_id, null, 'write "it"'), told(:job_id);
SELECT queue.set_progress(:job_id, 0, null, 'null'), told(:job_id);
SELECT queue.set_progress(:job_id, 100, detail => '[1, "two"]'), told(:job_id);
SELECT queue.set_progress(:job_id, '1e-3', detail => '"x"'), told(:job_id);
-- the same wherever one looks
SELECT j.progress = s.progress AS job, l.progress = s.progress AS list_jobs, s.progress ? 'at' AS at
FROM queue.job AS j, queue.job_status(:job_id) AS s, queue.list_jobs('q', 'active') AS l;
-- in the row is nothing yet, and no row version was made
SELECT progress, (ctid, xmax::text) = (:'ctid'::tid, :'xmax') AS same FROM queue.job_live;

-- the attempt fences
SELECT queue.set_progress(:job_id, 50, attempt => 1), queue.set_progress(:job_id, 60, attempt => 2),
	queue.set_progress(:job_id, 60, attempt => 0), queue.set_progress(:job_id, 60, attempt => -1), told(:job_id);
-- the lease is extended only if it is asked for, by whom holds it
SELECT lease_expires_at AS before FROM queue.job \gset
SELECT queue.set_progress(:job_id, 51), lease_expires_at = :'before' AS same FROM queue.job;
SELECT queue.set_progress(:job_id, 52, extend_by => '2h');
SELECT lease_expires_at - clock_timestamp() BETWEEN interval '119 min' AND interval '2h' AS extended FROM queue.job;
SELECT queue.set_progress(:job_id, 53, extend_by => '3h', attempt => 9);
SELECT lease_expires_at - clock_timestamp() < interval '2h' AS not_extended, told(:job_id) FROM queue.job;

-- what ends the attempt writes it into the row; there it stands until the next one tells something
SELECT queue.fail(:job_id, 'no', retry_in => '0');
SELECT told(:job_id);
SELECT progress - 'at' AS row FROM queue.job_live;
SELECT attempt FROM queue.dequeue_batch('q', worker => 'w');
SELECT told(:job_id);
SELECT queue.set_progress(:job_id, null, 'again'), told(:job_id);
SELECT queue.release(:job_id), told(:job_id);
-- the attempt has the same number again, but is another taking
SELECT attempt FROM queue.dequeue_batch('q', worker => 'w');
SELECT told(:job_id);
SELECT queue.set_progress(:job_id, 77), told(:job_id);
SELECT queue.release(:job_id, '1 day'), told(:job_id);
SELECT progress - 'at' AS row FROM queue.job_parked;
SELECT queue.cancel(:job_id), told(:job_id);

-- complete, fail for good, cancel
SELECT array_agg(e) AS ids FROM queue.enqueue_batch('q', '{1,2,3,4}') AS e \gset
SELECT count(*) FROM queue.dequeue_batch('q', 4);
SELECT queue.set_progress(id, 10 * n) FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS i (id, n) WHERE n < 4;
SELECT queue.complete((:'ids'::bigint[])[1]), queue.fail((:'ids'::bigint[])[2], retry => false),
	queue.cancel((:'ids'::bigint[])[3]), queue.complete((:'ids'::bigint[])[4]);
SELECT told(id) FROM unnest(:'ids'::bigint[]) AS id;
SELECT payload, progress - 'at' AS progress FROM queue.job_finished WHERE job_id = ANY (:'ids'::bigint[]) ORDER BY 1;
SELECT queue.set_progress(id, 99), told(id) FROM unnest(:'ids'::bigint[]) AS id;

-- an error, or a savepoint that is rolled back, leaves it shown and the job held
SELECT queue.enqueue('q', '1') AS job_id \gset
SELECT attempt FROM queue.dequeue_batch('q');
BEGIN;
SELECT queue.set_progress(:job_id, 10);
SAVEPOINT s;
SELECT queue.complete(:job_id);
SELECT queue.set_progress(:job_id, 11);
ROLLBACK TO s;
SELECT queue.set_progress(:job_id, 12), told(:job_id);
SAVEPOINT s;
SELECT queue.complete(:job_id);
RELEASE s;
ROLLBACK;
SELECT told(:job_id);
SELECT queue.complete(:job_id), told(:job_id);

-- in the statement that takes, in the transaction that takes, at any isolation level; a rollback takes it along
SELECT queue.enqueue('q', '1') AS job_id \gset
BEGIN;
SELECT queue.set_progress(job_id, 20) FROM queue.dequeue_batch('q');
SELECT told(:job_id);
ROLLBACK;
SELECT told(:job_id);
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT queue.set_progress(job_id, 21) FROM queue.dequeue_batch('q');
SELECT told(:job_id);
COMMIT;
SELECT told(:job_id);
-- one that may not write may tell
BEGIN READ ONLY;
SELECT queue.set_progress(:job_id, 22);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
SELECT told(:job_id);

-- who takes a job over keeps what the last one told
SELECT queue.extend(:job_id, '1us') IS NOT NULL AS extended;
SELECT attempt FROM take('q', 1, '1h');
SELECT told(:job_id);
SELECT queue.set_progress(:job_id, 1, attempt => 1), queue.set_progress(:job_id, 2, attempt => 2), told(:job_id);
-- so does the end of the last attempt
SELECT queue.extend(:job_id, '1us') IS NOT NULL AS extended;
SELECT attempt FROM take('q', 1, '1h');
SELECT queue.set_progress(:job_id, 3, 'hangs'), queue.extend(:job_id, '1us') IS NOT NULL AS extended;
CALL wait_until($$EXISTS (SELECT FROM queue.job_finished WHERE error = 'lease expired')$$);
SELECT told(:job_id);

-- a dead letter takes it along
SELECT queue.create_queue('dead');
SELECT queue.alter_queue('q', dead_letter_queue => 'dead');
SELECT queue.enqueue('q', '1', max_attempts => 1) AS job_id \gset
SELECT queue.set_progress(job_id, 80, 'last') FROM queue.dequeue_batch('q');
SELECT queue.fail(:job_id), told(:job_id);

-- nobody learns of jobs that are not his to settle, or to browse
CREATE ROLE regress_queue_none;
CREATE ROLE regress_queue_dequeue;
CREATE ROLE regress_queue_browse;
SELECT queue.grant_queue('q', 'regress_queue_dequeue', 'dequeue');
SELECT queue.grant_queue('q', 'regress_queue_browse', 'browse');
SELECT count(queue.grant_queue('dead', r, 'dequeue, browse'))
FROM unnest('{regress_queue_none,regress_queue_dequeue,regress_queue_browse}'::regrole[]) AS r;
SELECT queue.enqueue('q', '1') AS job_id \gset
SET ROLE regress_queue_dequeue;
SELECT queue.set_progress(job_id, 40) FROM queue.dequeue_batch('q');
SELECT count(*) FROM queue.job WHERE job_id = :job_id;
RESET ROLE;
SELECT queue_id, attempt, taken_at FROM queue.job_live WHERE job_id = :job_id \gset
SET ROLE regress_queue_none;
SELECT queue.set_progress(:job_id, 41), queue._progress(:queue_id, :job_id, :attempt, :'taken_at');
SET ROLE regress_queue_browse;
SELECT progress - 'at' AS progress FROM queue.job WHERE job_id = :job_id;
SELECT progress - 'at' AS progress FROM queue.job_status(:job_id);
SELECT queue._progress(:queue_id, :job_id, :attempt, :'taken_at') - 'at' AS progress;
\pset format unaligned
\pset tuples_only on
SELECT errors($$queue.set_progress((SELECT max(job_id) FROM queue.job), 42)$$);
RESET ROLE;

-- errors
SELECT errors(
	$$queue.set_progress(null, 1)$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), -0.001)$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 100.01)$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 'NaN')$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), '-Infinity')$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, repeat('x', 201))$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, repeat('x', 200))$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, null, to_jsonb(repeat('x', 1000)))$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, null, to_jsonb(repeat('x', 992)))$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, extend_by => '0')$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, extend_by => '-1s')$$,
	$$queue.set_progress((SELECT max(job_id) FROM queue.job), 1, extend_by => '1 month')$$
);
-- the refused ones have changed nothing; those at the limit are there
SELECT length(progress->>'step'), length(progress->>'detail'), progress->'percent' FROM queue.job_status(:job_id);
BEGIN READ ONLY;
SELECT queue.set_progress(:job_id, 1, extend_by => '1h');
ROLLBACK;
\pset format aligned
\pset tuples_only off

SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;
DROP FUNCTION told;
DROP ROLE regress_queue_none, regress_queue_dequeue, regress_queue_browse;

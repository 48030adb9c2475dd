-- Modes: what an enqueue does, for each function that enqueues.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE SCHEMA fn;
CREATE TABLE fn.ran (n serial, payload jsonb);
CREATE FUNCTION fn.run(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fn.ran (payload) VALUES (payload);
	RETURN CASE WHEN payload = '0' THEN NULL ELSE to_jsonb(1.0 / (payload #>> '{}')::numeric) END;
END $$;
SELECT queue.create_queue('m'), queue.create_queue('t');

SELECT errors(
	$$queue.set_mode(null, 'queued')$$,
	$$queue.set_mode('no such', 'queued')$$,
	$$queue.set_mode('m', null)$$,
	$$queue.set_mode('m', 'Direct')$$,
	$$queue.set_mode('m', 'direct')$$,
	$$queue.set_mode('m', 'direct', 't')$$,
	$$queue.set_mode('m', 'queued', 't')$$,
	$$queue.set_mode('m', 'mirror')$$,
	$$queue.set_mode('m', 'fallback')$$,
	$$queue.set_mode('m', 'mirror', 'm')$$,
	$$queue.set_mode('m', 'fallback', 'no such')$$
);

-- direct: the handler runs in the producer's transaction
SELECT queue.set_handler('m', 'fn.run');
SELECT queue.set_mode('m', 'direct');
SELECT errors($$queue.set_handler('m', null)$$);
SELECT queue.enqueue('m', '4', priority => 2, source => 's') AS id \gset
SELECT queue_name, state, result, attempt, priority, source, payload, taken_at IS NOT NULL AS taken, finished_at >= taken_at AS finished
FROM queue.job_status(:id);
SELECT queue_name, state, result, payload FROM queue.enqueue_batch('m', '{5,0,8}') AS id, queue.job_status(id) ORDER BY job_id;
TABLE fn.ran;
SELECT counts('m');
-- its error is the producer's, and then nothing has happened
SELECT errors(
	$$queue.enqueue('m', '"none"')$$,
	$$queue.enqueue_batch('m', ARRAY['1', '2', '"none"']::jsonb[])$$
);
BEGIN;
SELECT queue.enqueue('m', '9') IS NOT NULL AS ok;
ROLLBACK;
SELECT count(*) FROM fn.ran;
SELECT counts('m');

-- prepared: done when that is committed
BEGIN;
SELECT queue.enqueue('m', '10') AS id \gset
PREPARE TRANSACTION 'direct';
SELECT count(*) FROM queue.job_status(:id);
COMMIT PREPARED 'direct';
SELECT state, result FROM queue.job_status(:id);
SELECT counts('m');

-- rules come first
SELECT queue.alter_queue('m', required_keys => '{id}');
SELECT errors($$queue.enqueue('m', '1')$$);
SELECT queue.reset_queue_setting('m', 'required_keys');

-- what must wait is queued: for a time, for a parent, for its group, for the end of a pause
SELECT s.state FROM queue.enqueue('m', '10', delay => '1 h') AS id, queue.job_status(id) AS s;
SELECT queue.enqueue('t', '1') AS parent \gset
SELECT s.state FROM queue.enqueue('m', '10', depends_on => ARRAY[:parent]) AS id, queue.job_status(id) AS s;
SELECT s.state FROM queue.enqueue('m', '10', group_key => 'g') AS id, queue.job_status(id) AS s;
SELECT queue.pause_queue('m');
SELECT s.state FROM queue.enqueue('m', '10') AS id, queue.job_status(id) AS s;
SELECT queue.resume_queue('m');
SELECT s.state FROM queue.enqueue('m', '10', run_at => '2000-01-01') AS id, queue.job_status(id) AS s;
SELECT counts('m');

-- a unique key keeps it from running if an unfinished job has it, and is free again at once
SELECT queue.enqueue('m', '11', unique_key => 'k', delay => '1 h') AS waits \gset
SELECT queue.enqueue('m', '12', unique_key => 'k') = :waits AS same;
SELECT queue.enqueue('m', '13', unique_key => 'j') <> queue.enqueue('m', '14', unique_key => 'j') AS both_ran;
SELECT count(*) FROM queue.unique_key;
SELECT payload FROM fn.ran WHERE (payload #>> '{}')::int > 10 ORDER BY n;
SELECT queue.cancel(:waits);
-- full: what runs at once needs no room
SELECT queue.alter_queue('m', max_depth => 1);
SELECT s.state FROM queue.enqueue('m', '15') AS id, queue.job_status(id) AS s;
SELECT errors($$queue.enqueue('m', '15', delay => '1 h')$$);
SELECT queue.reset_queue_setting('m', 'max_depth');

-- other results: text, json, nothing; nothing kept
CREATE FUNCTION fn.gives_text(job queue.job_context) RETURNS text LANGUAGE sql AS $$SELECT 'it''s "' || (job.payload #>> '{}') || '"'$$;
CREATE FUNCTION fn.gives_json(job queue.job_context) RETURNS json LANGUAGE sql AS $$SELECT json_build_object('attempt', job.attempt, 'of', job.max_attempts, 'queue', job.queue_name, 'headers', job.headers, 'taken', job.taken_at IS NOT NULL, 'error', job.error)$$;
CREATE FUNCTION fn.gives_nothing(job queue.job_context) RETURNS void LANGUAGE sql AS $$SELECT$$;
SELECT queue.set_handler('m', 'fn.gives_text');
SELECT s.result FROM queue.enqueue('m', '"x"') AS id, queue.job_status(id) AS s;
SELECT queue.set_handler('m', 'fn.gives_json');
SELECT s.result FROM queue.enqueue('m', '"x"', headers => '{"h": 1}') AS id, queue.job_status(id) AS s;
SELECT queue.set_handler('m', 'fn.gives_nothing');
SELECT s.state, s.result FROM queue.enqueue('m', '"x"') AS id, queue.job_status(id) AS s;
SELECT queue.alter_queue('m', keep_completed => '0');
SELECT id IS NOT NULL AS ok, s.state FROM queue.enqueue('m', '"x"') AS id LEFT JOIN LATERAL queue.job_status(id) AS s ON true;
SELECT counts('m');
-- one that drops its queue
CREATE FUNCTION fn.drops(payload jsonb) RETURNS void LANGUAGE sql AS $$SELECT queue.drop_queue('m', cascade => true)$$;
SELECT queue.set_handler('m', 'fn.drops');
SELECT errors($$queue.enqueue('m', '1')$$);
SELECT queue.alter_queue('m', on_failed => 'fn.drops'), queue.set_mode('m', 'queued');
SELECT queue.enqueue('t', '1') AS parent \gset
SELECT queue.cancel(:parent);
SELECT e FROM errors(format($$queue.enqueue('m', '1', depends_on => '{%s}')$$, :parent)) AS e WHERE e !~ 'depends_on';
SELECT queue.reset_queue_setting('m', 'on_failed'), queue.set_handler('m', 'fn.gives_nothing'), queue.set_mode('m', 'direct');
-- as part of a flow: a child whose parent has already run
SELECT queue.alter_queue('m', keep_completed => '1 day');
SELECT queue.enqueue('m', '"x"') AS parent \gset
SELECT s.state FROM queue.enqueue('t', '"child"', depends_on => ARRAY[:parent]) AS id, queue.job_status(id) AS s;

SELECT queue.purge_queue('m') > 0 AS purged, queue.purge_queue('t') > 0 AS purged;

-- mirror: here, and a copy there that follows the rules there
SELECT queue.set_mode('m', 'mirror', 't');
SELECT queue.enqueue('m', '1', priority => 7, unique_key => 'k', headers => '{"h": 1}', source => 's') AS id \gset
SELECT count(*) FROM queue.enqueue_batch('m', '{2,3}');
SELECT queue_name, payload, priority, unique_key, headers, source, job_id = :id AS returned FROM queue.job ORDER BY payload, queue_name;
SELECT queue.enqueue('m', '"other"', unique_key => 'k') = :id AS same;
SELECT queue_name, count(*) FROM queue.job GROUP BY queue_name ORDER BY queue_name;
-- the key is free in the one, taken in the other: no conflict is told
SELECT queue.cancel(:id);
SELECT queue.enqueue('m', '"again"', unique_key => 'k') <> :id AS new;
SELECT queue_name, payload FROM queue.job WHERE unique_key = 'k' ORDER BY queue_name;
-- no rule is the target's alone
SELECT queue.alter_queue('t', required_keys => '{id}');
SELECT errors($$queue.enqueue('m', '4')$$);
SELECT queue.reset_queue_setting('t', 'required_keys'), queue.alter_queue('t', max_depth => 3);
SELECT errors($$queue.enqueue('m', '4')$$);
SELECT queue.reset_queue_setting('t', 'max_depth');
-- one hop: the target's mode is not applied
SELECT queue.set_mode('t', 'mirror', 'm');
SELECT queue.enqueue('m', '"hop"') IS NOT NULL AS ok;
SELECT queue_name FROM queue.job WHERE payload = '"hop"' ORDER BY queue_name;
SELECT queue.set_handler('t', 'fn.run'), queue.set_mode('t', 'direct');
SELECT queue.enqueue('m', '"hop again"') IS NOT NULL AS ok;
SELECT queue_name FROM queue.job WHERE payload = '"hop again"' ORDER BY queue_name;
SELECT queue.set_mode('t', 'queued');
SELECT queue.purge_queue('m') > 0 AS purged, queue.purge_queue('t') > 0 AS purged;

-- fallback: to the target while this one is paused or full
SELECT queue.set_mode('m', 'fallback', 't');
SELECT queue.enqueue('m', '1') IS NOT NULL AS ok;
SELECT queue.pause_queue('m');
SELECT queue.enqueue('m', '2') IS NOT NULL AS ok;
SELECT queue.resume_queue('m');
SELECT queue.alter_queue('m', max_depth => 2);
SELECT count(*) FROM queue.enqueue_batch('m', '{3,4}');
SELECT queue.enqueue('m', '5') IS NOT NULL AS ok;
SELECT queue.enqueue('m', '6') IS NOT NULL AS ok;
SELECT queue_name, payload FROM queue.job ORDER BY queue_name, payload;
SELECT queue.alter_queue('t', max_depth => 1);
SELECT errors($$queue.enqueue('m', '7')$$);
SELECT queue.reset_queue_setting('t', 'max_depth');

-- privileges: the producer needs the queue, its owner the target
CREATE ROLE regress_queue_owner;
CREATE ROLE regress_queue_admin;
CREATE ROLE regress_queue_producer;
SELECT queue.alter_queue('m', owner => 'regress_queue_owner');
SELECT queue.grant_queue('m', 'regress_queue_admin', 'admin'), queue.grant_queue('m', 'regress_queue_producer', 'enqueue');
SET ROLE regress_queue_producer;
SELECT errors($$queue.enqueue('m', '8')$$, $$queue.set_mode('m', 'queued')$$, $$queue.set_handler('m', null)$$);
RESET ROLE;
SET ROLE regress_queue_admin;
SELECT errors($$queue.set_mode('m', 'mirror', 't')$$);
RESET ROLE;
SELECT queue.grant_queue('t', 'regress_queue_admin', 'enqueue');
SET ROLE regress_queue_admin;
SELECT errors($$queue.set_mode('m', 'mirror', 't')$$);
RESET ROLE;
SELECT queue.grant_queue('t', 'regress_queue_owner', 'enqueue');
SET ROLE regress_queue_admin;
SELECT queue.set_mode('m', 'mirror', 't');
RESET ROLE;
SET ROLE regress_queue_producer;
SELECT queue.enqueue('m', '8') IS NOT NULL AS ok;
RESET ROLE;
SELECT queue_name FROM queue.job WHERE payload = '8' ORDER BY queue_name;
SELECT queue.revoke_queue('t', 'regress_queue_owner', 'enqueue');
SET ROLE regress_queue_producer;
SELECT errors($$queue.enqueue('m', '9')$$);
RESET ROLE;

-- the target is gone
SELECT queue.drop_queue('t', cascade => true);
SELECT errors($$queue.enqueue('m', '9')$$);
SELECT queue.set_mode('m', 'queued');
SELECT queue.enqueue('m', '9') IS NOT NULL AS ok;
SELECT mode, target_queue FROM queue.queue WHERE queue_name = 'm';

SELECT queue.drop_queue('m', cascade => true);
SET client_min_messages = warning;
DROP SCHEMA fn CASCADE;
DROP ROLE regress_queue_owner, regress_queue_admin, regress_queue_producer;

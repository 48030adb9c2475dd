-- Each privilege allows its functions on its queue and nothing else; owner and admin all, PUBLIC nothing.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE ROLE regress_queue_none;
CREATE ROLE regress_queue_enqueue;
CREATE ROLE regress_queue_dequeue;
CREATE ROLE regress_queue_browse;
CREATE ROLE regress_queue_admin;
CREATE ROLE regress_queue_owner;
CREATE ROLE regress_queue_member IN ROLE regress_queue_enqueue;
CREATE ROLE regress_queue_noinherit NOINHERIT IN ROLE regress_queue_enqueue;

SELECT queue.create_queue('q');
SELECT queue.create_queue('other');
SELECT queue.alter_queue('q', owner => 'regress_queue_owner');
SELECT queue.grant_queue('q', ('regress_queue_' || p)::regrole, p) FROM unnest('{enqueue,dequeue,browse,admin}'::text[]) AS p;
CREATE TEMP TABLE job AS SELECT
	(SELECT queue.enqueue('q', '"done"')) AS done, (SELECT queue.enqueue('q', '"held"')) AS held,
	(SELECT queue.enqueue('q', '"waiting"')) AS waiting;
SELECT payload, queue.fail(job_id, retry => false) FROM queue.dequeue_batch('q');
SELECT payload FROM queue.dequeue_batch('q');
GRANT SELECT ON job TO PUBLIC;

-- Is this role allowed that call, and does it get a job?  Whatever it does is undone.
CREATE FUNCTION allowed(role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	answer text := 'yes';
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', 'regress_queue_' || role);
	IF call LIKE 'CALL %' THEN
		EXECUTE call;
	END IF;
	EXECUTE 'SELECT * FROM ' || call INTO r;
	IF to_jsonb(r) <@ '{"cancel": false, "complete": false, "complete_many": 0, "fail": null, "fail_many": 0,
		"extend": null, "release": false, "sign_off": 0, "set_progress": false, "requeue_failed": 0, "clean": 0}' THEN
		answer := 'no job';
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'P0001';
EXCEPTION
	WHEN raise_exception THEN RETURN answer;
	-- a procedure that goes no further in here
	WHEN active_sql_transaction THEN RETURN 'yes';
	WHEN insufficient_privilege THEN RETURN '-';
END
$$;
CREATE TEMP TABLE call AS
SELECT n, format(call, done, held, waiting) AS call
FROM job, unnest(ARRAY[
	$$queue.enqueue('q', '1')$$,
	$$queue.enqueue_batch('q', '{1}')$$,
	$$queue.cancel(%3$s)$$,
	$$queue.dequeue_batch('q')$$,
	$$queue.complete(%2$s)$$,
	$$queue.complete_many('{%2$s}')$$,
	$$queue.complete_and_dequeue('{}', 'q')$$,
	$$queue.fail(%2$s)$$,
	$$queue.fail_many('{%2$s}')$$,
	$$queue.extend(%2$s, '1h')$$,
	$$queue.release(%2$s)$$,
	$$queue.set_progress(%2$s, 1)$$,
	$$queue.heartbeat('w', 'q')$$,
	$$queue.sign_off('w')$$,
	$$CALL queue.wait('q', '0')$$,
	$$queue.list_jobs('q')$$,
	$$queue.queue_stats('q')$$,
	$$queue.alter_queue('q', max_attempts => 9)$$,
	$$queue.reset_queue_setting('q', 'max_attempts')$$,
	$$queue.pause_queue('q')$$,
	$$queue.resume_queue('q')$$,
	$$queue.purge_queue('q')$$,
	$$queue.drop_queue('q', true)$$,
	$$queue.grant_queue('q', 'regress_queue_none', 'browse')$$,
	$$queue.revoke_queue('q', 'regress_queue_admin', 'admin')$$,
	$$queue.requeue_failed('q')$$,
	$$queue.clean('q', '0')$$,
	$$queue.alter_queue('q', owner => 'regress_queue_none')$$,
	$$queue.create_queue('mine')$$,
	$$queue.maintain()$$
]) WITH ORDINALITY AS c (call, n);
CREATE TEMP VIEW matrix AS
SELECT n, split_part(split_part(call, '.', 2), '(', 1) ||
		CASE WHEN call LIKE '%owner%' THEN ' (owner)' ELSE '' END AS function,
	allowed('none', call) AS none, allowed('enqueue', call) AS enqueue,
	allowed('dequeue', call) AS dequeue, allowed('browse', call) AS browse, allowed('admin', call) AS admin,
	allowed('owner', call) AS owner, allowed('member', call) AS member, allowed('noinherit', call) AS noinherit
FROM call ORDER BY n;
SELECT * FROM matrix;

-- the same when each may call every function, for another queue's sake
SELECT count(queue.grant_queue('other', ('regress_queue_' || r)::regrole, 'enqueue, dequeue, browse, admin'))
FROM unnest('{none,enqueue,dequeue,browse,admin,owner}'::text[]) AS r;
SELECT * FROM matrix;
-- what reads or picks from many jobs passes over those that one may not touch
SET ROLE regress_queue_none;
SELECT queue.retry_job(done), (SELECT count(*) FROM queue.job_status(done)) AS job_status FROM job;
SELECT (SELECT count(*) FROM queue.job) AS jobs, (SELECT count(*) FROM queue.job_finished) AS finished,
	(SELECT string_agg(queue_name, ' ') FROM queue.queue_stats()) AS queues,
	queue.requeue_failed() AS requeued, queue.clean(older_than => '0') AS cleaned;
SELECT queue.pause_queue();
RESET ROLE;
SELECT queue_name, paused FROM queue.queue ORDER BY 1;
\pset format unaligned
\pset tuples_only on
SET ROLE regress_queue_none;
SET queue.max_payload_size = '1GB';
SELECT errors(
	$$queue.enqueue('q', '1')$$,
	$$queue.dequeue_batch('q')$$,
	$$queue.list_jobs('q')$$,
	$$queue.purge_queue('q')$$,
	$$queue.alter_queue('other', owner => 'regress_queue_none')$$
);
SET ROLE regress_queue_owner;
SELECT errors($$queue.alter_queue('q', owner => 'regress_queue_none')$$);
RESET ROLE;
\pset format aligned
\pset tuples_only off

-- without a grant, and without USAGE of the schema, not one function and not one relation
SELECT count(queue.revoke_queue('other', ('regress_queue_' || r)::regrole, 'enqueue, dequeue, browse, admin'))
FROM unnest('{none,enqueue,dequeue,browse,admin,owner}'::text[]) AS r;
SELECT has_schema_privilege('regress_queue_none', 'queue', 'USAGE') AS usage,
	count(*) FILTER (WHERE has_function_privilege('regress_queue_none', oid, 'EXECUTE')) AS functions
FROM pg_proc WHERE pronamespace = 'queue'::regnamespace;
GRANT USAGE ON SCHEMA queue TO regress_queue_none;
SELECT allowed('none', format('%squeue.%I(%s)', CASE prokind WHEN 'p' THEN 'CALL ' END, proname,
		(SELECT string_agg('null::' || t::regtype, ', ') FROM unnest(proargtypes) AS t))) AS allowed, count(*) > 0
FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND prorettype <> 'trigger'::regtype
	AND (NOT proisstrict OR pronargs = 0) GROUP BY 1;
SELECT * FROM matrix WHERE none <> '-';
REVOKE USAGE ON SCHEMA queue FROM regress_queue_none;

-- a privilege that is revoked is gone at once, others stay; several in any spelling
SELECT queue.grant_queue('q', 'regress_queue_none', ' Browse,enqueue  dequeue,browse ');
SELECT privilege FROM queue.privilege WHERE grantee = 'regress_queue_none'::regrole ORDER BY 1;
SELECT queue.revoke_queue('q', 'regress_queue_none', 'enqueue');
SELECT allowed('none', $$queue.enqueue('q', '1')$$) AS enqueue, allowed('none', $$queue.dequeue_batch('q')$$) AS dequeue,
	allowed('none', $$queue.list_jobs('q')$$) AS browse;
SELECT queue.revoke_queue('q', 'regress_queue_none', 'enqueue, admin');
SELECT queue.revoke_queue('q', 'regress_queue_none', 'dequeue, browse');
SELECT count(*) FROM queue.privilege WHERE grantee = 'regress_queue_none'::regrole;
DROP ROLE regress_queue_none;

-- through a role and only while one is its member
REVOKE regress_queue_enqueue FROM regress_queue_member;
SELECT allowed('member', $$queue.enqueue('q', '1')$$);
GRANT regress_queue_enqueue TO regress_queue_member;
SELECT allowed('member', $$queue.enqueue('q', '1')$$);

-- who may create queues is the database owner's choice; its creator owns a queue, until he gives it away
CREATE ROLE regress_queue_creator IN ROLE regress_queue_owner;
GRANT USAGE ON SCHEMA queue TO regress_queue_creator;
GRANT EXECUTE ON FUNCTION queue.create_queue TO regress_queue_creator;
SET ROLE regress_queue_creator;
SELECT queue.create_queue('mine');
SELECT queue.enqueue('mine', '1') IS NOT NULL AS enqueued;
SELECT queue.alter_queue('mine', owner => 'regress_queue_owner');
SELECT count(*) FROM queue.list_jobs('mine');
RESET ROLE;
REVOKE regress_queue_owner FROM regress_queue_creator;
SELECT allowed('creator', $$queue.list_jobs('mine')$$), allowed('owner', $$queue.list_jobs('mine')$$);
-- what he was granted by hand is his still, when he owns no queue any more
SET ROLE regress_queue_creator;
SELECT queue.create_queue('more');
SELECT queue.drop_queue('more');
SELECT queue.create_queue('more');
SELECT queue.drop_queue('more');
RESET ROLE;
REVOKE USAGE ON SCHEMA queue FROM regress_queue_creator;
REVOKE EXECUTE ON FUNCTION queue.create_queue FROM regress_queue_creator;
DROP ROLE regress_queue_creator;

-- a function with its definer's rights is judged by those
CREATE FUNCTION submit(what jsonb) RETURNS boolean SECURITY DEFINER LANGUAGE sql AS
	$$SELECT queue.enqueue('q', what) IS NOT NULL$$;
SET ROLE regress_queue_browse;
SELECT submit('1');
RESET ROLE;

DROP VIEW matrix;
DROP FUNCTION submit, allowed;

-- with a queue goes what kept roles from being dropped
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;
DROP ROLE regress_queue_enqueue, regress_queue_dequeue, regress_queue_browse, regress_queue_admin, regress_queue_owner,
	regress_queue_member, regress_queue_noinherit;

-- A queue names functions by text; they run as its owner, who gains nothing from the caller's session, nor the caller from the owner's.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE ROLE regress_queue_owner;
CREATE ROLE regress_queue_admin;
CREATE ROLE regress_queue_caller;
CREATE ROLE regress_queue_author;
CREATE SCHEMA fn;
GRANT USAGE ON SCHEMA fn TO regress_queue_owner, regress_queue_caller, regress_queue_author;

-- what may be a validator, a handler, on_failed
CREATE FUNCTION fn.says_yes(payload jsonb) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION fn.of_job(job queue.job_context) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(job)';
CREATE FUNCTION fn.either(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION fn.either(job queue.job_context) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION fn."Odd (name)"(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION fn.of_json(payload json) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION fn.of_two(payload jsonb, other jsonb) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION fn.gives_int(payload jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION fn.gives_set(payload jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text';
CREATE PROCEDURE fn.is_procedure(payload jsonb) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE fn.is_aggregate(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);
CREATE FUNCTION pg_temp.of_session(payload jsonb) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT queue.create_queue('f');

SELECT errors(
	$$queue.alter_queue('f', validator => '')$$,
	$$queue.alter_queue('f', validator => 'a.b.c')$$,
	$$queue.alter_queue('f', validator => 'fn.says_yes(jsonb')$$,
	$$queue.alter_queue('f', validator => 'fn.says_yes()')$$,
	$$queue.alter_queue('f', validator => 'fn.says_yes(jsonb, jsonb)')$$,
	$$queue.alter_queue('f', validator => 'fn.says_yes(text)')$$,
	$$queue.alter_queue('f', validator => 'says_yes')$$,
	$$queue.alter_queue('f', validator => 'nowhere.says_yes')$$,
	$$queue.alter_queue('f', validator => 'fn.says_no')$$,
	$$queue.alter_queue('f', validator => 'fn.of_json')$$,
	$$queue.alter_queue('f', validator => 'fn.of_two')$$,
	$$queue.alter_queue('f', validator => 'fn.of_job')$$,
	$$queue.alter_queue('f', validator => 'fn.of_job(queue.job_context)')$$,
	$$queue.alter_queue('f', validator => 'fn.gives_int')$$,
	$$queue.alter_queue('f', validator => 'fn.gives_set')$$,
	$$queue.alter_queue('f', validator => 'fn.is_procedure')$$,
	$$queue.alter_queue('f', validator => 'fn.is_aggregate')$$,
	$$queue.alter_queue('f', validator => 'pg_temp.of_session')$$,
	$$queue.alter_queue('f', validator => 'of_session')$$,
	$$queue.alter_queue('f', on_failed => 'fn.either')$$,
	$$queue.alter_queue('f', on_failed => 'fn.says_yes')$$,
	$$queue.create_queue('g', validator => 'fn.says_no')$$,
	$$queue.create_queue('g', on_failed => 'fn.says_yes')$$,
	$$queue.set_handler('f', 'fn.either')$$,
	$$queue.set_handler('f', 'fn.of_two')$$
);

-- stored as it will be found by anybody
SELECT queue.alter_queue('f', validator => 'FN . Says_Yes ( JSONB ) ', on_failed => 'fn.either(job_context)');
SELECT queue.set_handler('f', 'fn.either(pg_catalog.jsonb)', 4, 2);
SELECT validator, on_failed, handler, concurrency, min_workers FROM queue.queue WHERE queue_name = 'f';
SET search_path = fn, public;
SELECT queue.alter_queue('f', validator => '"Odd (name)"', on_failed => 'of_job');
RESET search_path;
SELECT queue.set_handler('f', null, 9, 9);
SELECT validator, on_failed, handler, concurrency, min_workers FROM queue.queue WHERE queue_name = 'f';
SELECT queue.enqueue('f', '1') IS NOT NULL AS validated;
SELECT queue.reset_queue_setting('f', 'validator'), queue.reset_queue_setting('f', 'on_failed');
SELECT validator, on_failed FROM queue.queue WHERE queue_name = 'f';
SELECT errors(
	$$queue.set_handler('f', 'fn.of_job', 0)$$,
	$$queue.set_handler('f', 'fn.of_job', 1025)$$,
	$$queue.set_handler('f', 'fn.of_job', 2, 3)$$,
	$$queue.set_handler('f', 'fn.of_job', 2, -1)$$,
	$$queue.set_handler('f', 'fn.of_job', null)$$,
	$$queue.set_handler('f', 'fn.of_job', 1, null)$$,
	$$queue.set_handler('no such', 'fn.of_job')$$
);

-- whoever names it, and the owner, must be allowed to call it
SELECT queue.alter_queue('f', owner => 'regress_queue_owner');
SELECT queue.grant_queue('f', 'regress_queue_admin', 'admin');
SELECT queue.grant_queue('f', 'regress_queue_caller', 'enqueue');
REVOKE EXECUTE ON FUNCTION fn.says_yes FROM PUBLIC;
SELECT errors($$queue.alter_queue('f', validator => 'fn.says_yes')$$);
SET ROLE regress_queue_owner;
SELECT errors($$queue.alter_queue('f', validator => 'fn.says_yes')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION fn.says_yes TO regress_queue_owner;
SET ROLE regress_queue_owner;
SELECT queue.alter_queue('f', validator => 'fn.says_yes');
RESET ROLE;
-- it runs as the owner: an administrator must not name one, but may take it away
SET ROLE regress_queue_admin;
SELECT errors(
	$$queue.alter_queue('f', validator => 'fn.either(jsonb)')$$,
	$$queue.alter_queue('f', on_failed => 'fn.either(jsonb)')$$,
	$$queue.set_handler('f', 'fn.either(jsonb)')$$
);
RESET ROLE;

-- and the owner still at each use; the caller need not
SET ROLE regress_queue_caller;
SELECT queue.enqueue('f', '1') IS NOT NULL AS validated;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fn.says_yes FROM regress_queue_owner;
SELECT errors($$queue.enqueue('f', '1')$$);
GRANT EXECUTE ON FUNCTION fn.says_yes TO regress_queue_owner;
REVOKE USAGE ON SCHEMA fn FROM regress_queue_owner;
SELECT errors($$queue.enqueue('f', '1')$$);
GRANT USAGE ON SCHEMA fn TO regress_queue_owner;

-- dropped, replaced, changed into something else: it is looked up at each use
ALTER FUNCTION fn.says_yes RENAME TO said_yes;
SELECT errors($$queue.enqueue('f', '1')$$);
CREATE FUNCTION fn.says_yes(payload jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT errors($$queue.enqueue('f', '1')$$);
DROP FUNCTION fn.says_yes;
CREATE FUNCTION fn.says_yes(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'now it says no'$$;
SELECT errors($$queue.enqueue('f', '1')$$);
CREATE OR REPLACE FUNCTION fn.says_yes(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT NULL::text$$;
SELECT queue.enqueue('f', '1') IS NOT NULL AS validated;

-- it runs as the owner, with nothing of the caller's path, and leaves no setting behind
CREATE FUNCTION fn.look_around(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	SET search_path = fn;
	SET work_mem = '1234kB';
	SET LOCAL enable_seqscan = off;
	RETURN format('%s %s', current_user, session_user = current_user);
END $$;
CREATE FUNCTION fn.path(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN format('%s / %s / %s', current_user, current_setting('search_path'), current_setting('row_security'));
END $$;
CREATE FUNCTION fn.own_path(payload jsonb) RETURNS text LANGUAGE plpgsql SET search_path = fn AS $$
BEGIN
	RETURN current_setting('search_path');
END $$;
SELECT queue.alter_queue('f', validator => 'fn.look_around');
SHOW search_path;
SELECT errors($$queue.enqueue('f', '1')$$);
SELECT queue.alter_queue('f', validator => 'fn.path');
SET search_path = fn, public, pg_catalog;
SET row_security = off;
SELECT public.errors($$queue.enqueue('f', '1')$$);
RESET row_security;
RESET search_path;
SELECT queue.alter_queue('f', validator => 'fn.own_path');
SELECT errors($$queue.enqueue('f', '1')$$);

CREATE TABLE fn.setting (name text);
CREATE FUNCTION fn.set_things(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	SET search_path = fn;
	SET work_mem = '1234kB';
	PERFORM set_config('fn.secret', 'told', false);
	RETURN true;
END $$;
SELECT queue.alter_queue('f', validator => 'fn.set_things');
SELECT queue.enqueue('f', '1') IS NOT NULL AS validated, current_user = session_user AS is_caller;
SELECT current_setting('search_path'), current_setting('work_mem') <> '1234kB' AS kept, current_setting('fn.secret', true) AS secret;

-- the caller's temporary tables and operators are not taken for others
CREATE TABLE fn.list (item jsonb);
CREATE TABLE public.unqualified (item jsonb);
CREATE FUNCTION fn.reads_list(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN EXISTS (SELECT FROM unqualified);
END $$;
SELECT queue.alter_queue('f', validator => 'fn.reads_list');
SELECT errors($$queue.enqueue('f', '1')$$);

-- a superuser who enqueues is nobody's servant: not by SET ROLE, temporary
-- objects, cursors, LISTEN, nor by triggers that are deferred to the commit
GRANT CREATE ON SCHEMA fn TO regress_queue_author, regress_queue_owner;
SET ROLE regress_queue_owner;
CREATE TABLE fn.trap (who text);
CREATE FUNCTION fn.spring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'trap springs as superuser: %', (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON fn.trap DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION fn.spring();
CREATE FUNCTION fn.attack(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE payload ->> 'do';
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
SELECT queue.alter_queue('f', validator => 'fn.attack');
SELECT queue.set_handler('f', 'fn.attack');
RESET ROLE;
CREATE FUNCTION attacks() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	attack text;
	answer text;
BEGIN
	FOREACH attack IN ARRAY ARRAY[
		'RESET ROLE',
		'SET SESSION AUTHORIZATION DEFAULT',
		'SET ROLE regress_queue_author',
		'CREATE TEMP TABLE stays (i int)',
		'LISTEN stays',
		'DECLARE stays CURSOR WITH HOLD FOR SELECT 1',
		'PREPARE stays AS SELECT 1',
		'INSERT INTO fn.trap VALUES (current_user)',
		'ALTER ROLE regress_queue_owner SUPERUSER',
		'SELECT count(*) FROM pg_catalog.pg_authid'
	] LOOP
		BEGIN
			answer := queue.enqueue('f', jsonb_build_object('do', attack))::text;
			answer := coalesce((SELECT result #>> '{}' FROM queue.job_status(answer::bigint)), 'done');
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS answer = PG_EXCEPTION_DETAIL;
		END;
		RETURN NEXT format('%s: %s', attack, answer);
	END LOOP;
END $$;
SELECT attacks();
-- a handler in mode direct as well
SELECT queue.reset_queue_setting('f', 'validator'), queue.set_mode('f', 'direct');
SELECT attacks();
-- but the owner's own call is like any other, for what the owner may do
SET ROLE regress_queue_owner;
SET client_min_messages = notice;
BEGIN;
SELECT queue.enqueue('f', '{"do": "INSERT INTO fn.trap VALUES (current_user)"}') IS NOT NULL AS done;
SELECT * FROM fn.trap;
COMMIT;
SELECT queue.enqueue('f', '{"do": "RESET ROLE"}') AS id \gset
SELECT result FROM queue.job_status(:id);
RESET ROLE;
-- not behind a role that the owner is no member of
SET ROLE regress_queue_caller;
SELECT queue.enqueue('f', '{"do": "INSERT INTO fn.trap VALUES (current_user)"}') AS id \gset
RESET ROLE;
SELECT result FROM queue.job_status(:id);

-- one of a queue may call functions of queues, without end only as deep as the stack
CREATE FUNCTION fn.again(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM queue.enqueue('f', payload);
END $$;
SELECT queue.set_handler('f', 'fn.again');
DO $$
BEGIN
	PERFORM queue.enqueue('f', '1');
EXCEPTION WHEN statement_too_complex THEN
	RAISE NOTICE 'stack depth limit exceeded';
END $$;

SELECT queue.set_mode('f', 'queued');
SELECT queue.set_handler('f', null);
SELECT counts('f');

-- the owner is gone
SELECT queue.alter_queue('f', validator => 'fn.either(jsonb)');
SET client_min_messages = warning;
DROP OWNED BY regress_queue_owner;
DROP ROLE regress_queue_owner;
SELECT errors($$queue.enqueue('f', '1')$$);
SELECT queue.alter_queue('f', owner => 'regress_queue_author');
SELECT queue.enqueue('f', '1') IS NOT NULL AS ok;

SELECT queue.drop_queue('f', cascade => true);
DROP SCHEMA fn CASCADE;
DROP TABLE public.unqualified;
DROP FUNCTION attacks;
DROP ROLE regress_queue_admin, regress_queue_caller, regress_queue_author;

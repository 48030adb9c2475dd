-- People read the rows of queues that they may browse, and change no row of any table but as superuser.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE ROLE regress_queue_ann;
CREATE ROLE regress_queue_bob;
CREATE ROLE regress_queue_owner;
SELECT queue.create_queue('a');
SELECT queue.create_queue('b');
SELECT queue.alter_queue(name, owner => 'regress_queue_owner') FROM unnest('{a,b}'::text[]) AS name;
SELECT queue.grant_queue('a', 'regress_queue_ann', 'browse');
SELECT queue.grant_queue('b', 'regress_queue_ann', 'enqueue, dequeue');
SELECT queue.grant_queue('b', 'regress_queue_bob', 'admin');
CREATE PROCEDURE fill(name text) LANGUAGE sql AS $$
	SELECT queue.enqueue_batch(name, ARRAY[to_jsonb(name || ' 1'), to_jsonb(name || ' 2'), to_jsonb(name || ' 3')]);
	SELECT queue.enqueue(name, to_jsonb(name || ' 4'), delay => '1h');
	SELECT queue.complete(job_id) FROM queue.dequeue_batch(name, 1);
	SELECT queue.fail(job_id, name || ' failed', retry_in => '1h') FROM queue.dequeue_batch(name, 1);
$$;
CALL fill('a');
CALL fill('b');

CREATE FUNCTION seen() RETURNS TABLE (relation text, seen text) LANGUAGE sql AS $$
	SELECT 'queue', string_agg(queue_name, ', ' ORDER BY queue_name) FROM queue.queue
	UNION ALL
	SELECT 'privilege', string_agg(grantee || ': ' || privilege, ', ' ORDER BY grantee::text, privilege) FROM queue.privilege
	UNION ALL
	SELECT 'job', string_agg(payload ->> 0, ', ' ORDER BY payload) FROM queue.job
	UNION ALL
	SELECT 'job_finished', string_agg(payload ->> 0, ', ' ORDER BY payload) FROM queue.job_finished
	UNION ALL
	SELECT 'job_archive', string_agg(payload ->> 0, ', ' ORDER BY payload) FROM queue.job_archive
	UNION ALL
	SELECT 'job_log', string_agg(error, ', ' ORDER BY error) FROM queue.job_log
	UNION ALL
	SELECT 'queue_stats', string_agg(s.queue_name || ' ' || s.total, ', ' ORDER BY s.queue_name) FROM queue.queue_stats() AS s
$$;
SET ROLE regress_queue_ann;
SELECT * FROM seen();
SET ROLE regress_queue_bob;
SELECT * FROM seen();
SET ROLE regress_queue_owner;
SELECT * FROM seen();
RESET ROLE;

-- a privilege that goes, or comes, is felt at once
SELECT queue.revoke_queue('a', 'regress_queue_ann', 'browse');
SELECT queue.grant_queue('b', 'regress_queue_ann', 'browse');
SET ROLE regress_queue_ann;
SELECT * FROM seen();

RESET ROLE;

-- a function in the query does not get to see what its user may not
CREATE FUNCTION see(what text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS
	$$BEGIN ASSERT what LIKE 'b%', what; RETURN true; END$$;
SET ROLE regress_queue_ann;
SELECT count(*) FROM queue.job WHERE see(payload ->> 0);
SELECT count(*) FROM queue.job_finished WHERE see(payload ->> 0);
SELECT count(*) FROM queue.job_archive WHERE see(payload ->> 0);
SELECT count(*) FROM queue.job_log WHERE see(error);
SELECT count(*) FROM queue.queue WHERE see(queue_name);
RESET ROLE;
SELECT count(*) FROM queue.queue WHERE see(queue_name);

-- what each may read; no role may do more than read, whatever it administers
SELECT c.relname, string_agg(split_part(r.role, '_', 3) || ' ' || p.privilege, ', ' ORDER BY r.role, p.privilege) AS may
FROM pg_class AS c, unnest('{regress_queue_ann,regress_queue_bob,regress_queue_owner}'::text[]) AS r (role),
	unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (privilege)
WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	AND has_table_privilege(r.role, c.oid, p.privilege)
GROUP BY c.relname ORDER BY c.relname;
SELECT count(*) FROM pg_class AS c, unnest('{regress_queue_ann,regress_queue_bob,regress_queue_owner}'::text[]) AS role
WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(role, c.oid, 'USAGE, SELECT, UPDATE');
CREATE FUNCTION refused(role name) RETURNS TABLE (command text, tables bigint, refused bigint) LANGUAGE plpgsql AS $$
DECLARE
	rel text;
BEGIN
	FOREACH command IN ARRAY '{INSERT INTO %s DEFAULT VALUES,UPDATE %s SET queue_id = queue_id,DELETE FROM %s,TRUNCATE %s,LOCK %s,COPY %s FROM STDIN,SELECT FROM %s FOR UPDATE}'::text[] LOOP
		tables := 0;
		refused := 0;
		FOR rel IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind IN ('r', 'p', 'v') LOOP
			tables := tables + 1;
			BEGIN
				EXECUTE format('SET LOCAL ROLE %I', role);
				EXECUTE format(command, rel);
				RAISE EXCEPTION 'allowed: %', format(command, rel);
			EXCEPTION
				WHEN insufficient_privilege THEN refused := refused + 1;
				-- what the server refuses to anybody
				WHEN undefined_column OR object_not_in_prerequisite_state OR wrong_object_type OR feature_not_supported THEN
					refused := refused + 1;
			END;
		END LOOP;
		RETURN NEXT;
	END LOOP;
END
$$;
SELECT role, bool_and(tables = refused), sum(refused) > 100 AS many
FROM unnest('{regress_queue_ann,regress_queue_bob,regress_queue_owner}'::name[]) AS role, refused(role)
GROUP BY role ORDER BY role;

-- who is nobody sees nothing, not even the schema
CREATE ROLE regress_queue_nobody;
SET ROLE regress_queue_nobody;
SELECT * FROM queue.job;
SELECT queue.enqueue('a', '1');
RESET ROLE;
GRANT USAGE ON SCHEMA queue TO regress_queue_nobody;
SET ROLE regress_queue_nobody;
SELECT * FROM queue.job;
SELECT * FROM queue.queue;
SELECT queue.enqueue('a', '1');
RESET ROLE;

-- a role that is dropped: what it was granted or owned is nobody's until it is given away
SELECT queue.revoke_queue('b', 'regress_queue_ann', 'enqueue, dequeue, browse');
DROP ROLE regress_queue_ann;
\set VERBOSITY terse
DROP ROLE regress_queue_bob;
\set VERBOSITY default
DROP OWNED BY regress_queue_bob, regress_queue_owner, regress_queue_nobody;
DROP ROLE regress_queue_bob, regress_queue_owner, regress_queue_nobody;
SELECT count(*) > 0 FROM queue.maintain();
SELECT queue_name, owner FROM queue.queue ORDER BY 1;
SELECT count(*) FROM queue.privilege;
SELECT queue.alter_queue('b', owner => current_user::regrole);
SELECT queue_name, owner = current_user::regrole AS mine FROM queue.queue ORDER BY 1;
DROP FUNCTION seen, see, refused;
DROP PROCEDURE fill;
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;

-- What CREATE EXTENSION makes: the interface, every object explained, nothing open, nothing unsafe.

-- objects that belong to it
CREATE TEMP VIEW member AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'queue')
	AND deptype = 'e';

SELECT extnamespace::regnamespace, extrelocatable FROM pg_extension WHERE extname = 'queue';

-- the functions, with names and defaults of their arguments
\pset format unaligned
\pset tuples_only on
SELECT proname || E'\n\t' || replace(pg_get_function_arguments(p.oid), ', ', E'\n\t') ||
	E'\n\t-> ' || coalesce(replace(pg_get_function_result(p.oid), ', ', E'\n\t   '), 'a procedure')
FROM pg_proc AS p JOIN member ON objid = p.oid AND classid = 'pg_proc'::regclass
WHERE proname !~ '^_'
ORDER BY proname;
\pset format aligned
\pset tuples_only off

-- no two of them share a name
SELECT proname, count(*)
FROM pg_proc AS p JOIN member ON objid = p.oid AND classid = 'pg_proc'::regclass
GROUP BY proname HAVING count(*) > 1;

-- what people read
\d queue.job
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'queue'::regnamespace
	AND c.relname IN ('queue', 'privilege', 'binding', 'job_archive', 'job_log')
ORDER BY c.relname, a.attnum;

-- an object in the schema that does not belong to the extension
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind NOT IN ('i', 'I', 'c')
	AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_class'::regclass AND objid = c.oid);
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'queue'::regnamespace
	AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_proc'::regclass AND objid = p.oid);

-- an object or a column without a comment; a leaf has those of its parent, a row type those of its table
SELECT object FROM member
WHERE obj_description(objid, classid::regclass::name) IS NULL
	AND (classid <> 'pg_type'::regclass OR objid = 'queue.job_context'::regtype)
	AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = objid)
ORDER BY object;
SELECT c.relname, a.attname
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c')
	AND NOT c.relispartition AND col_description(c.oid, a.attnum) IS NULL;

-- something that PUBLIC may do
SELECT object, a.privilege_type
FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND objid = p.oid,
	aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE a.grantee = 0;
SELECT object, a.privilege_type
FROM member JOIN pg_class AS c ON classid = 'pg_class'::regclass AND objid = c.oid,
	aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) AS a
WHERE a.grantee = 0;
SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'queue'::regnamespace AND a.attacl IS NOT NULL;
SELECT a.privilege_type
FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
WHERE n.nspname = 'queue' AND a.grantee = 0;

-- a function that runs with its owner's rights, or one not in C without a pinned search_path
SELECT object, prosecdef
FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND objid = p.oid
	JOIN pg_language AS l ON l.oid = p.prolang
WHERE prosecdef OR lanname <> 'c' AND NOT EXISTS (
	SELECT FROM unnest(proconfig) AS setting WHERE setting LIKE 'search\_path=%');

-- a function that a parallel worker may call, though it writes or sees what is uncommitted
SELECT object, proparallel
FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND objid = p.oid
WHERE proparallel <> 'u';

-- a table that is not a heap, not logged, or that a superuser does not own
SELECT object, amname, relpersistence
FROM member JOIN pg_class AS c ON classid = 'pg_class'::regclass AND objid = c.oid AND relkind = 'r'
	JOIN pg_am AS am ON am.oid = c.relam
	JOIN pg_roles AS r ON r.oid = c.relowner
WHERE amname <> 'heap' OR relpersistence <> 'p' OR NOT rolsuper;

-- tables that people may be allowed to read, without row security
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'queue'::regnamespace
	AND c.relname IN ('queue', 'privilege', 'binding', 'job_archive', 'job_log', 'metric_history') AND NOT c.relrowsecurity;
SELECT reloptions FROM pg_class WHERE oid = 'queue.job'::regclass;

-- tables and sequences that a dump leaves out: what is prepared is not in a dump
SELECT object
FROM member JOIN pg_class AS c ON classid = 'pg_class'::regclass AND objid = c.oid AND relkind IN ('r', 'S')
WHERE objid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'queue')::oid[])
ORDER BY object;

-- a claim changes no indexed column, so that it can be a HOT update
SELECT relname, reloptions FROM pg_class WHERE oid = 'queue.job_live'::regclass;
SELECT i.indexrelid::regclass AS index, string_agg(a.attname, ', ' ORDER BY k.n) AS columns,
	i.indpred IS NOT NULL AS partial
FROM pg_index AS i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, n), pg_attribute AS a
WHERE i.indrelid IN ('queue.job_live'::regclass, 'queue.job_parked'::regclass)
	AND a.attrelid = i.indrelid AND a.attnum = k.attnum
GROUP BY i.indexrelid, i.indpred
ORDER BY i.indexrelid::regclass::text;

-- settings of the server
SELECT name, setting, unit, context FROM pg_settings WHERE name LIKE 'queue.%' ORDER BY name;
SELECT name FROM pg_settings WHERE name LIKE 'queue.%' AND short_desc !~ '^(Sets|Lets) .*\.$';
SET queue.no_such_setting = 1;

-- it takes over no schema that somebody else has made, and leaves none behind
BEGIN;
DROP EXTENSION queue;
SELECT count(*) FROM pg_namespace WHERE nspname = 'queue';
CREATE SCHEMA queue;
\set SHOW_CONTEXT never
CREATE EXTENSION queue;
ROLLBACK;

-- dropped and created anew in one transaction, it works at once; rolled back, the old one is there with its jobs
SELECT queue.create_queue('old');
SELECT queue.enqueue('old', '"old"') IS NOT NULL AS enqueued;
BEGIN;
DROP EXTENSION queue;
CREATE EXTENSION queue;
SELECT queue.create_queue('new');
SELECT queue.enqueue('new', '"new"') IS NOT NULL AS enqueued;
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('new');
SELECT count(*) FROM queue.queue WHERE queue_name = 'old';
ROLLBACK;
SELECT waiting FROM queue.queue_stats('old');
SELECT payload, queue.complete(job_id) FROM queue.dequeue_batch('old');
SELECT queue.drop_queue('old');

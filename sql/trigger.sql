-- queue.enqueue_trigger() makes a job of each change of a row, as the owner of the table.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q');
CREATE TABLE item (id int, part text, note text, amount numeric, PRIMARY KEY (id, part));
CREATE TRIGGER item AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');

-- what a job tells
INSERT INTO item VALUES (1, 'a "quoted"', NULL, 1.50);
UPDATE item SET note = E'two\nlines', id = 2;
DELETE FROM item;
SELECT payload FROM queue.job ORDER BY job_id;
SELECT state, priority, max_attempts, source, batch_id, group_key, headers FROM queue.job GROUP BY 1, 2, 3, 4, 5, 6, 7;
SELECT queue.purge_queue('q');
-- part of the transaction; each row is a job
BEGIN;
INSERT INTO item SELECT i, 'x' FROM generate_series(1, 100) AS i;
ROLLBACK;
INSERT INTO item SELECT i, 'x' FROM generate_series(1, 3) AS i;
INSERT INTO item VALUES (3, 'x', 'upsert'), (4, 'x', 'upsert') ON CONFLICT (id, part) DO UPDATE SET note = 'again';
SELECT payload ->> 'op' AS op, payload -> 'keys' ->> 'id' AS id FROM queue.job ORDER BY job_id;
SELECT queue.purge_queue('q');
SELECT counts('q');

-- options
CREATE FUNCTION with_options(options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE format('CREATE OR REPLACE TRIGGER item AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW'
		' EXECUTE FUNCTION queue.enqueue_trigger(%L, %L)', 'q', options);
	INSERT INTO item VALUES (5, 'y', 'a note', 5);
	DELETE FROM item WHERE id = 5;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n    ', SQLSTATE || ' ' || message, 'DETAIL ' || nullif(detail, ''), 'HINT ' || nullif(hint, ''));
END $$;
\pset format unaligned
\pset tuples_only on
SELECT o, with_options(o) FROM unnest(ARRAY['[]', '"x"', '{"colour": 1}', '{"priority": "1"}', '{"priority": 40000}', '{"priority": 1e20}',
	'{"max_attempts": 0}', '{"delay": "soon"}', '{"delay": "-1 s"}', '{"delay": true}', '{"source": 1}', '{"batch_id": null}',
	'{"group_by_keys": "yes"}', '{"columns": "id"}', '{"columns": [1]}', '{"columns": ["id", "colour"]}', '{"columns": ["xmin"]}']) AS o;
SELECT with_options('{') ~ '^22P02';
SELECT with_options(jsonb_build_object('source', repeat('x', 1001))::text);
\pset format aligned
\pset tuples_only off
SELECT counts('q');
SELECT with_options('{"priority": -1, "max_attempts": 7, "source": "item", "delay": "1 h", "columns": ["amount", "note"]}');
SELECT state, priority, max_attempts, source, run_at > now() + '59 min' AS later, payload FROM queue.job ORDER BY job_id;
SELECT queue.purge_queue('q');
SELECT with_options('{"delay": 3600.5, "columns": []}');
SELECT state, run_at > now() + '59 min' AS later, payload FROM queue.job ORDER BY job_id;
SELECT queue.purge_queue('q');

-- the changes of one row in order, one at a time
SELECT with_options('{"group_by_keys": true}');
INSERT INTO item VALUES (6, 'z');
UPDATE item SET note = 'n' WHERE id = 6;
INSERT INTO item VALUES (7, 'z');
SELECT state, group_key, payload ->> 'op' AS op FROM queue.job ORDER BY job_id;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 10);
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

-- other keys: the replica identity, none; dropped and generated columns; other schemas; partitions
CREATE SCHEMA "Odd.schema";
CREATE TABLE "Odd.schema"."Odd table" (gone int, a int NOT NULL, b text NOT NULL, twice int GENERATED ALWAYS AS (a * 2) STORED);
ALTER TABLE "Odd.schema"."Odd table" DROP COLUMN gone;
CREATE UNIQUE INDEX odd_b ON "Odd.schema"."Odd table" (b);
ALTER TABLE "Odd.schema"."Odd table" REPLICA IDENTITY USING INDEX odd_b;
CREATE TRIGGER odd AFTER INSERT ON "Odd.schema"."Odd table" FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q', '{"group_by_keys": true}');
INSERT INTO "Odd.schema"."Odd table" VALUES (1, 'one');
CREATE TABLE keyless (i int);
CREATE TRIGGER keyless AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
INSERT INTO keyless VALUES (1);
CREATE TABLE parted (i int PRIMARY KEY, t text) PARTITION BY RANGE (i);
CREATE TABLE parted_1 (t text, i int NOT NULL);
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (0) TO (10);
CREATE TRIGGER parted AFTER INSERT OR UPDATE ON parted FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
INSERT INTO parted VALUES (1, 'x');
SELECT payload, group_key FROM queue.job ORDER BY job_id;
CREATE OR REPLACE TRIGGER keyless AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q', '{"group_by_keys": true}');
INSERT INTO keyless VALUES (1);
SELECT queue.purge_queue('q');

-- before the row is written it works as well, and leaves the row alone
CREATE TABLE before (i int PRIMARY KEY);
CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON before FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
INSERT INTO before VALUES (1), (2);
UPDATE before SET i = 3 WHERE i = 2;
DELETE FROM before WHERE i = 1;
TABLE before;
SELECT payload FROM queue.job ORDER BY job_id;
SELECT queue.purge_queue('q');

-- not for statements, not without a queue
CREATE TRIGGER whole AFTER INSERT ON before EXECUTE FUNCTION queue.enqueue_trigger('q');
INSERT INTO before VALUES (4);
DROP TRIGGER whole ON before;
CREATE TRIGGER whole AFTER TRUNCATE ON before EXECUTE FUNCTION queue.enqueue_trigger('q');
TRUNCATE before;
DROP TRIGGER whole ON before;
DROP TRIGGER before ON before;
CREATE TRIGGER nameless AFTER INSERT ON before FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger();
INSERT INTO before VALUES (4);
CREATE OR REPLACE TRIGGER nameless AFTER INSERT ON before FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q', '{}', 'more');
INSERT INTO before VALUES (4);
CREATE OR REPLACE TRIGGER nameless AFTER INSERT ON before FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('no such');
\set VERBOSITY terse
INSERT INTO before VALUES (4);
\set VERBOSITY default
SELECT queue.enqueue_trigger();

-- rules and limits of the queue
CREATE OR REPLACE TRIGGER nameless AFTER INSERT ON before FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
SELECT queue.alter_queue('q', required_keys => '{id}');
INSERT INTO before VALUES (4);
SELECT queue.reset_queue_setting('q', 'required_keys');
CREATE TABLE large (t text);
CREATE TRIGGER large AFTER INSERT ON large FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
SET queue.max_payload_size = '1kB';
INSERT INTO large VALUES (repeat('x', 2000));
RESET queue.max_payload_size;
INSERT INTO large SELECT string_agg(md5(i::text), '') FROM generate_series(1, 10000) AS i;
SELECT length(payload -> 'new' ->> 't') FROM queue.job;
SELECT queue.purge_queue('q');

-- the owner of the table enqueues, whoever writes it
CREATE ROLE regress_queue_owner;
CREATE ROLE regress_queue_writer;
CREATE TABLE owned (i int PRIMARY KEY);
CREATE TRIGGER owned AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
ALTER TABLE owned OWNER TO regress_queue_owner;
GRANT INSERT ON owned TO regress_queue_writer;
INSERT INTO owned VALUES (1);
SELECT queue.grant_queue('q', 'regress_queue_owner', 'enqueue');
SET ROLE regress_queue_writer;
INSERT INTO owned VALUES (1) RETURNING current_user;
RESET ROLE;
SELECT payload -> 'new' AS new FROM queue.job;
-- who has no part in the extension cannot make one
SET ROLE regress_queue_writer;
CREATE TEMP TABLE mine (i int);
CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
DROP TABLE mine;
RESET ROLE;
SELECT queue.grant_queue('q', 'regress_queue_writer', 'browse');
SET ROLE regress_queue_writer;
CREATE TEMP TABLE mine (i int);
CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q');
DROP TABLE mine;
RESET ROLE;
SELECT current_user = session_user AS restored;
SELECT queue.revoke_queue('q', 'regress_queue_writer', 'browse'), queue.revoke_queue('q', 'regress_queue_owner', 'enqueue');

SET client_min_messages = warning;
SELECT queue.drop_queue('q', cascade => true);
DROP TABLE item, keyless, parted, before, large, owned;
DROP SCHEMA "Odd.schema" CASCADE;
DROP FUNCTION with_options;
DROP ROLE regress_queue_owner, regress_queue_writer;

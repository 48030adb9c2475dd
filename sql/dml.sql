-- Whatever a superuser does to the tables by SQL: hints, counters, settings and indexes follow.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q');
SELECT queue_id AS q FROM queue.queue WHERE queue_name = 'q' \gset
-- complete all, so that the hints are far ahead
CREATE PROCEDURE finish_all() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM queue.dequeue_batch('q', 1000);
	PERFORM queue.complete_many(array_agg(job_id)) FROM queue.list_jobs('q', 'active');
	ASSERT (SELECT count(*) FROM queue.dequeue_batch('q')) = 0;
END
$$;

-- insert: what waits is found; in a class that nobody has heard of, too
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
CREATE TEMP TABLE saved AS SELECT * FROM queue.job_live;
CALL finish_all();
INSERT INTO queue.job_live SELECT * FROM saved;
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);
CALL finish_all();
INSERT INTO queue.job_live SELECT (jsonb_populate_record(s, '{"order_class": 77, "priority": 77}')).* FROM saved AS s;
SELECT payload, priority FROM queue.dequeue_batch('q', 2);
SELECT counts('q');

-- as replication or a restore would write it
SET session_replication_role = replica;
UPDATE queue.job_live SET state = 'w', attempt = 0;
RESET session_replication_role;
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

-- update: a job that was taken waits again, one that waited far behind comes first
UPDATE queue.job_live SET state = 'w', attempt = 0;
SELECT counts('q');
UPDATE queue.job_live SET order_class = -5, priority = -5 WHERE payload = '3';
SELECT payload, priority, attempt FROM queue.dequeue_batch('q', 10);
-- a lease ended by hand
UPDATE queue.job_live SET lease_expires_at = now() - interval '1 s' WHERE payload = '2';
SELECT payload, attempt FROM take('q', 10);

-- delete and truncate
DELETE FROM queue.job_live WHERE payload <> '1';
SELECT counts('q');
SELECT count(queue.enqueue('q', '"delayed"', delay => '1h'));
TRUNCATE queue.job_parked, queue.job_live;
SELECT counts('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
SELECT payload FROM queue.dequeue_batch('q', 10);
CALL finish_all();

-- copy
COPY queue.job_live (job_id, order_at, run_at, enqueued_at, taken_at, lease_expires_at, lease_owner, queue_id, attempt,
	order_class, priority, max_attempts, state, payload) FROM STDIN;
-1	2020-01-01	2020-01-01	2020-01-01	-infinity	-infinity	0	2000000000	0	5	5	3	w	"copied"
\.
INSERT INTO queue.queue SELECT (jsonb_populate_record(q, '{"queue_id": 2000000000, "queue_name": "restored"}')).* FROM queue.queue AS q;
SELECT counts('restored');
SELECT payload, attempt FROM queue.dequeue_batch('restored');
SELECT payload, state FROM queue.job;

-- parked jobs: due ones are found
INSERT INTO queue.job_parked SELECT (jsonb_populate_record(s, '{"state": "d", "run_at": "2030-01-01"}')).* FROM saved AS s;
SELECT counts('q');
UPDATE queue.job_parked SET run_at = now() - interval '1 s' WHERE payload = '2';
SELECT payload, attempt FROM take('q', 10);
SELECT counts('q');
DELETE FROM queue.job_parked;
CALL finish_all();

-- a rollback undoes it, also to a savepoint
INSERT INTO queue.job_live SELECT * FROM saved;
BEGIN;
DELETE FROM queue.job_live WHERE payload = '1';
SELECT payload FROM queue.dequeue_batch('q');
SAVEPOINT a;
DELETE FROM queue.job_live;
SELECT payload FROM queue.dequeue_batch('q');
ROLLBACK TO a;
SELECT payload FROM queue.dequeue_batch('q');
ROLLBACK;
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);
CALL finish_all();

-- a lease that another installation gave out, before a dump, counts no more
INSERT INTO queue.job_live SELECT (jsonb_populate_record(s, jsonb_build_object('state', 'a', 'attempt', 1,
	'lease_owner', 1099511627776, 'lease_expires_at', now() + '1 h', 'taken_at', now()))).* FROM saved AS s;
SELECT counts('q');
SELECT payload, state, attempt, lease_expires_at, queue.complete(job_id) FROM queue.job WHERE queue_name = 'q' ORDER BY 1;
SELECT payload, attempt FROM queue.dequeue_batch('q', 10);
SELECT counts('q');
CALL finish_all();

-- settings and privileges count at once
UPDATE queue.queue SET paused = true, default_priority = 3 WHERE queue_name = 'q';
SELECT count(*) FROM queue.enqueue_batch('q', '{1}');
SELECT count(*) FROM queue.dequeue_batch('q');
UPDATE queue.queue SET paused = false WHERE queue_name = 'q';
SELECT payload, priority FROM queue.dequeue_batch('q');
UPDATE queue.queue SET queue_name = 'renamed' WHERE queue_name = 'q';
SELECT counts('renamed');
UPDATE queue.queue SET queue_name = 'q' WHERE queue_name = 'renamed';
SELECT queue.complete_many(array_agg(job_id)) FROM queue.list_jobs('q', 'active');

-- indexes: made anew under our feet, or more of them
REINDEX INDEX CONCURRENTLY queue._job_live_ready;
REINDEX INDEX CONCURRENTLY queue.job_live_pkey;
REINDEX TABLE CONCURRENTLY queue.job_parked;
REINDEX TABLE queue.job_archive;
CREATE INDEX extra_batch ON queue.job_live (batch_id);
CREATE INDEX extra_partial ON queue.job_live (lower(source)) WHERE state = 'a';
CREATE INDEX extra_parked ON queue.job_parked ((payload ->> 'n'));
CREATE INDEX extra_archive ON queue.job_archive (batch_id);
SELECT count(queue.enqueue('q', jsonb_build_object('n', i), delay => CASE WHEN i > 20 THEN interval '1h' END,
	batch_id => 'b' || i % 3, source => 'S' || i)) FROM generate_series(1, 30) AS i;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 5)));
SELECT count(queue.fail(job_id, retry_in => '1h')) FROM queue.dequeue_batch('q', 5);
SELECT count(*) FROM queue.dequeue_batch('q', 5);
SELECT counts('q');
SET enable_seqscan = off;
SELECT batch_id, count(*) FROM queue.job_live WHERE batch_id = 'b1' GROUP BY 1;
SELECT count(*) FROM queue.job_live WHERE lower(source) = 's11' AND state = 'a';
SELECT count(*) FROM queue.job_live WHERE lower(source) = 's16' AND state = 'a';
SELECT queue_id = :q AS q, count(*) FROM queue.job_parked WHERE payload ->> 'n' = '6' GROUP BY 1;
SELECT batch_id, count(*) FROM queue.job_archive WHERE batch_id = 'b2' GROUP BY 1;
RESET enable_seqscan;
DROP INDEX queue.extra_batch, queue.extra_partial, queue.extra_parked, queue.extra_archive;
-- as many as interrupted commands leave behind
DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('CREATE INDEX extra_%s ON queue.job_parked (attempt)', i); END LOOP; END $$;
SELECT count(queue.enqueue('q', '{"n": 31}', delay => '1h'));
SET enable_seqscan = off;
SELECT count(*) FROM queue.job_parked WHERE attempt = 0 AND payload ->> 'n' = '31';
RESET enable_seqscan;
DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('DROP INDEX queue.extra_%s', i); END LOOP; END $$;
SELECT queue.cancel(job_id) FROM queue.job WHERE payload ->> 'n' = '31';
CLUSTER queue.job_live USING job_live_pkey;
VACUUM FULL queue.job_parked;
VACUUM (ANALYZE) queue.job_live;
SELECT payload -> 'n' FROM queue.dequeue_batch('q', 3);
SELECT queue.requeue_failed('q'), queue.clean('q', '0', 'completed') > 0;
SELECT counts('q');

-- a table that is no longer what the library knows is refused, not misread
\pset format unaligned
BEGIN;
ALTER TABLE queue.job_live ADD COLUMN extra int;
SELECT errors($$queue.enqueue('q', '1')$$, $$queue.dequeue_batch('q')$$);
ROLLBACK;
-- which is nobody's business who fills other tables
BEGIN;
ALTER TABLE queue.unique_key ADD COLUMN extra int;
CREATE TABLE other (n int);
COPY other FROM STDIN;
1
\.
SELECT count(*) FROM other;
SELECT errors($$queue.enqueue('q', '1')$$);
ROLLBACK;
BEGIN;
DROP TABLE queue.job_parked CASCADE;
ROLLBACK;
SELECT counts('q');

DROP PROCEDURE finish_all;
SELECT count(queue.drop_queue(queue_name, true)) FROM queue.queue;

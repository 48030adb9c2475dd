-- Of jobs with the same limit_key, so many run at once.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', backoff_jitter => 0, backoff_base => '1h', max_attempts => 2, max_active_per_key => 2);
CREATE FUNCTION put(payload jsonb, key text, delay interval = null) RETURNS bool LANGUAGE sql
	RETURN queue.enqueue('q', payload, options => jsonb_build_object('limit_key', key), delay => delay) > 0;
CREATE FUNCTION next(n int = 10) RETURNS TABLE (payload jsonb) LANGUAGE sql BEGIN ATOMIC
	SELECT payload FROM queue.dequeue_batch('q', n) ORDER BY 1;
END;
CREATE FUNCTION id(payload jsonb) RETURNS bigint LANGUAGE sql
	RETURN (SELECT job_id FROM queue.job AS j WHERE j.payload = id.payload);
CREATE VIEW jobs AS
SELECT j.payload, j.state, j.limit_key, p.place FROM queue.job AS j LEFT JOIN queue.limit_place AS p USING (job_id)
ORDER BY j.payload;
CREATE VIEW places AS
SELECT limit_key, place, coalesce(payload, 'null') AS job
FROM queue.limit_place AS p LEFT JOIN queue.job AS j USING (job_id, limit_key) ORDER BY 1, 2;

-- two of a key may run; the rest are blocked; other keys and jobs without one do not care
SELECT count(put(to_jsonb(k || i), k)) FROM generate_series(1, 4) AS i, unnest('{a,b}'::text[]) AS k;
SELECT queue.enqueue('q', '"plain"', options => '{"backoff": "fixed"}') IS NOT NULL AS enqueued;
SELECT payload, state, limit_key FROM queue.job ORDER BY payload;
TABLE places;
SELECT counts('q');
SELECT * FROM next();
SELECT * FROM next();

-- the next goes when one is completed, cancelled, failed for good
SELECT queue.complete(id('"a2"'));
SELECT * FROM next();
SELECT queue.cancel(id('"b1"'));
SELECT * FROM next();
-- one behind may be cancelled, too
SELECT queue.cancel(id('"b4"'));
SELECT queue.fail(id('"a1"'), retry => false);
SELECT * FROM next();
TABLE jobs;
SELECT counts('q');

-- who waits for a retry, or a time, gives its place away; given back at once, it keeps it
SELECT put('"a5"', 'a');
SELECT queue.fail(id('"a3"'), 'later');
SELECT queue.release(id('"a4"'));
SELECT * FROM next(1);
SELECT * FROM next(1);
SELECT * FROM next(1);
SELECT put('"a6"', 'a', '1h'), put('"a7"', 'a');
TABLE jobs;
SELECT queue.release(id('"a5"'), '1h');
SELECT * FROM next();
TABLE jobs;

-- what is due again needs a place again
SELECT queue.create_queue('due', max_active_per_key => 1, backoff => 'fixed', backoff_base => '0', backoff_jitter => 0);
SELECT count(queue.enqueue('due', to_jsonb('d' || i), options => '{"limit_key": "d"}', delay => '10 ms'))
FROM generate_series(1, 3) AS i;
CALL wait_until($$ (SELECT count(*) = 2 FROM queue.job WHERE queue_name = 'due' AND state = 'blocked') $$);
SELECT queue.fail(job_id, retry_in => '10 ms') FROM queue.dequeue_batch('due', 10);
SELECT payload, attempt FROM queue.dequeue_batch('due', 10);
CALL wait_until($$ (SELECT count(*) = 2 FROM queue.job WHERE queue_name = 'due' AND state = 'blocked') $$);
SELECT count(queue.complete(job_id)) FROM queue.job WHERE queue_name = 'due' AND state = 'active';
SELECT queue.complete(job_id) FROM queue.dequeue_batch('due', 10);
SELECT queue.complete(job_id) FROM queue.dequeue_batch('due', 10);
SELECT counts('due');
SELECT queue.drop_queue('due');

-- a lease that ends keeps the place as long as there are attempts, and then passes it
SELECT queue.create_queue('stall', max_active_per_key => 1, max_attempts => 2, visibility_timeout => '10 ms');
SELECT count(queue.enqueue('stall', to_jsonb('s' || i), options => '{"limit_key": "s"}')) FROM generate_series(1, 2) AS i;
SELECT payload, attempt FROM queue.dequeue_batch('stall', 10);
SELECT payload, attempt FROM take('stall', 10);
CALL wait_until($$ (SELECT state = 'waiting' FROM queue.job WHERE payload = '"s2"') $$);
SELECT payload, attempt FROM queue.dequeue_batch('stall', 10);
SELECT queue.drop_queue('stall', true);

-- in one transaction, in one statement, with savepoints
SELECT queue.purge_queue('q'), queue.complete_many(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active'));
TABLE jobs;
TABLE places;
BEGIN;
SELECT count(put(to_jsonb('t' || i), 't')) FROM generate_series(1, 4) AS i;
SELECT * FROM next();
SAVEPOINT s;
SELECT queue.complete(id('"t1"'));
SELECT * FROM next();
SELECT put('"u1"', 'u'), count(*) FROM next();
ROLLBACK TO s;
SELECT * FROM next();
SELECT queue.complete(id('"t1"'));
SELECT put('"u2"', 'u');
SAVEPOINT s;
SELECT * FROM next();
ROLLBACK TO s;
COMMIT;
TABLE jobs;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
TABLE jobs;

-- many jobs of many keys in one call; one key for a call
CREATE TEMP TABLE many AS SELECT * FROM queue.enqueue_batch('q', '{1,2,3,4,5,6}', options =>
	'{"limit_keys": ["m", "m", null, "n", "m", "m"], "backoff": "fixed"}') WITH ORDINALITY AS m (job_id, n);
SELECT n, payload, limit_key, state, options FROM many JOIN queue.job USING (job_id) ORDER BY n;
SELECT * FROM next();
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
SELECT * FROM next();
SELECT queue.complete_many(ARRAY(SELECT job_id FROM many));
SELECT count(*) FROM queue.enqueue_batch('q', '{11,12,13}', options => '{"limit_key": "m"}');
SELECT payload, limit_key, state, options FROM queue.job ORDER BY payload;
SELECT queue.purge_queue('q');

-- those behind are where no taker passes them, however many there are
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 3000) AS i),
	options => '{"limit_key": "many"}');
SELECT (SELECT count(*) FROM queue.job_live) AS live, (SELECT count(*) FROM queue.job_parked WHERE state = 'k') AS parked;
SELECT counts('q');
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 1000)));
SELECT * FROM next();
SELECT queue.purge_queue('q'), queue.complete_many(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active'));

-- with a group: first head, then a place; the place is the next one's, whoever that is
SELECT queue.enqueue('q', to_jsonb('g' || i), group_key => 'g', options => '{"limit_key": "x"}') > 0 AS put
FROM generate_series(1, 3) AS i;
SELECT put('"x1"', 'x'), put('"x2"', 'x');
TABLE jobs;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 1);
TABLE jobs;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 1);
TABLE jobs;
SELECT queue.cancel(id('"g2"'));
TABLE jobs;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10);
-- the head waits for a retry: its group waits, its place does not
SELECT queue.enqueue('q', to_jsonb('g' || i), group_key => 'g', options => '{"limit_key": "x"}') > 0 AS put
FROM generate_series(1, 2) AS i;
SELECT put('"x3"', 'x'), put('"x4"', 'x');
SELECT queue.fail(job_id) FROM queue.dequeue_batch('q', 1);
TABLE jobs;
SELECT queue.purge_queue('q');

-- parents: a child has a place when they are completed
SELECT queue.enqueue('q', '"p"') AS parent \gset
SELECT queue.enqueue('q', to_jsonb('c' || i), depends_on => ARRAY[:parent], options => '{"limit_key": "c"}') > 0 AS put
FROM generate_series(1, 3) AS i;
TABLE jobs;
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
TABLE jobs;
SELECT queue.purge_queue('q');

-- unique keys: a job that is replaced stays, or goes, where it belongs
SELECT queue.enqueue('q', to_jsonb('r' || i), unique_key => 'r' || i, options => '{"limit_key": "r"}') > 0 AS put
FROM generate_series(1, 4) AS i;
SELECT queue.enqueue('q', '"r1 again"', unique_key => 'r1', on_conflict => 'replace') > 0 AS put;
SELECT queue.enqueue('q', '"r2 later"', unique_key => 'r2', on_conflict => 'replace', delay => '1h') > 0 AS put;
SELECT queue.enqueue('q', '"r4 later"', unique_key => 'r4', on_conflict => 'replace', delay => '1h') > 0 AS put;
TABLE jobs;
SELECT queue.enqueue('q', '"r2 now"', unique_key => 'r2', on_conflict => 'replace') > 0 AS put;
TABLE jobs;
SELECT queue.purge_queue('q');

-- failed jobs come back, dead letters go and come back
SELECT queue.create_queue('dead', max_active_per_key => 1);
SELECT queue.alter_queue('q', dead_letter_queue => 'dead');
SELECT count(put(to_jsonb('e' || i), 'e')) FROM generate_series(1, 3) AS i;
SELECT count(queue.fail(job_id, retry => false)) FROM queue.dequeue_batch('q', 2);
SELECT queue_name, payload, state, limit_key FROM queue.job ORDER BY 1, 2;
SELECT queue.redrive('dead');
SELECT queue_name, payload, state, limit_key FROM queue.job ORDER BY 1, 2;
SELECT queue.reset_queue_setting('q', 'dead_letter_queue');
SELECT queue.fail(job_id, retry => false) FROM queue.dequeue_batch('q', 2);
SELECT queue.requeue_failed('q');
SELECT payload, state FROM queue.job ORDER BY 1;
SELECT queue.purge_queue('q'), queue.drop_queue('dead');

-- the limit is raised, lowered, taken away, set
SELECT count(put(to_jsonb('l' || i), 'l')) FROM generate_series(1, 9) AS i;
SELECT queue.alter_queue('q', max_active_per_key => 4);
CALL wait_until($$ (SELECT count(*) = 4 FROM queue.job WHERE state = 'waiting') $$);
SELECT * FROM next();
SELECT queue.alter_queue('q', max_active_per_key => 1);
SELECT place, queue.complete(job_id) FROM queue.limit_place WHERE limit_key = 'l' AND job_id <> 0 AND place > 1 ORDER BY place;
SELECT * FROM next();
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT * FROM next();
SELECT queue.reset_queue_setting('q', 'max_active_per_key');
CALL wait_until($$ (SELECT count(*) = 4 FROM queue.job WHERE state = 'waiting') $$);
SELECT * FROM next(2);
SELECT put('"l0"', 'l');
SELECT queue.alter_queue('q', max_active_per_key => 1);
TABLE jobs;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' AND payload > '"l5"'));
SELECT * FROM next();
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT * FROM next();
SELECT queue.purge_queue('q');
SELECT queue.complete(job_id) FROM queue.job WHERE state = 'active';
SELECT count(*) FROM queue.limit_place WHERE job_id <> 0;

-- a place that was lost is found again by maintain(), and by the worker
SELECT count(put(to_jsonb('w' || i), 'w')) FROM generate_series(1, 2) AS i;
UPDATE queue.limit_place SET job_id = 0 WHERE limit_key = 'w';
SELECT queue.cancel(id('"w1"'));
SELECT count(*) > 0 AS done FROM queue.maintain();
CALL wait_until($$ (SELECT state = 'waiting' FROM queue.job WHERE payload = '"w2"') $$);
SELECT queue.purge_queue('q');

-- mode direct runs jobs, and nobody counts
CREATE FUNCTION handle(jsonb) RETURNS jsonb LANGUAGE sql RETURN $1;
SELECT queue.set_handler('q', 'handle(jsonb)');
SELECT queue.set_mode('q', 'direct');
SELECT put('"direct"', 'direct');
SELECT limit_key, state FROM queue.job_finished WHERE payload = '"direct"';
SELECT queue.set_mode('q', 'queued');

-- a trigger, and a topic
CREATE TABLE tab (id int PRIMARY KEY);
CREATE TRIGGER t AFTER INSERT ON tab FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('q', '{"limit_key": "tab"}');
INSERT INTO tab VALUES (1), (2), (3);
SELECT payload -> 'keys' AS keys, state, limit_key FROM queue.job ORDER BY job_id;
DROP TABLE tab;
SELECT queue.purge_queue('q');
SELECT queue.bind('a.#', 'q');
SELECT count(*) FROM queue.publish('a.b', '"topic"', options => '{"limit_key": "topic"}');
TABLE jobs;

-- errors
\set VERBOSITY default
SELECT queue.enqueue('q', '1', options => '{"limit_key": 1}');
SELECT queue.enqueue('q', '1', options => '{"limit_key": ""}');
SELECT queue.enqueue('q', '1', options => jsonb_build_object('limit_key', repeat('x', 1001)));
SELECT queue.enqueue('q', '1', options => '["limit_key"]');
SELECT queue.enqueue('q', '1', options => '{"limit_keys": ["a"]}');
SELECT queue.enqueue_batch('q', '{1,2}', options => '{"limit_keys": ["a"]}');
SELECT queue.enqueue_batch('q', '{1,2}', options => '{"limit_keys": ["a", ""]}');
SELECT queue.enqueue_batch('q', '{1,2}', options => '{"limit_keys": ["a", 1]}');
SELECT queue.enqueue_batch('q', '{1,2}', options => '{"limit_keys": "a"}');
SELECT queue.alter_queue('q', max_active_per_key => 0);
SELECT queue.drop_queue('q', true);
SELECT count(*) FROM queue.limit_place;
DROP FUNCTION handle, put, next, id CASCADE;
DROP VIEW jobs, places;

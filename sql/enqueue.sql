-- Jobs go in with all that their producer says of them, in its transaction, and all or none of a batch.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', default_priority => 7, max_attempts => 4);

-- one job: the defaults of the queue, and all arguments in their order
SELECT queue.enqueue('q', '{"to": "ann"}') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '[1, 2]', 3, null, '2020-02-20 20:20:20+00', 9, 'key', 'group',
	'batch', 'source', '{"h": 1}', 'ignore', null, 'fail',
	'{"backoff": "fixed", "backoff_base": "10 s", "backoff_max": 60, "backoff_jitter": 0.5,
	"visibility_timeout": 2.5, "keep_completed": "1 day", "keep_failed": 0}') IS NOT NULL AS enqueued;
SELECT payload, state, priority, attempt, max_attempts, unique_key, group_key, batch_id, source, headers,
	options, taken_at, lease_expires_at, worker, last_error
FROM queue.job ORDER BY priority DESC \gx
SELECT payload, run_at = enqueued_at AS at_once,
	run_at BETWEEN transaction_timestamp() - interval '1 min' AND clock_timestamp() AS just_now,
	age BETWEEN '0' AND '1 min' AS young
FROM queue.job ORDER BY priority DESC;

-- the clock is read at each call, not once a transaction
BEGIN;
SELECT queue.enqueue('q', '"first"') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"second"') IS NOT NULL AS enqueued;
SELECT count(DISTINCT run_at), bool_and(run_at > now()) FROM queue.job WHERE payload IN ('"first"', '"second"');
COMMIT;
SELECT counts('q');

-- a payload may be any JSON; null of JSON is one, too
SELECT queue.purge_queue('q');
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['null', 'true', '1.50', '"x"', '[]', '{}',
	'{"a": {"b": [1, {"c": null}]}}', to_jsonb(repeat('x', 100000))]::jsonb[]);
SELECT left(payload::text, 40), length(payload::text) FROM queue.dequeue_batch('q', 10);
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;

-- delayed jobs wait elsewhere, to the microsecond; what is due already waits here
SELECT queue.enqueue('q', '"by delay"', delay => '1 day 02:03:04.567891') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"by time"', run_at => now() + interval '1 year') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"month"', delay => '1 month') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"now"', delay => '0') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"past"', run_at => '2000-01-01 00:00:00+00') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"far past"', run_at => '4713-01-01 00:00:00+00 BC') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"far future"', run_at => '294276-12-31 23:59:59+00') IS NOT NULL AS enqueued;
SELECT payload, state, run_at = enqueued_at + '1 day 02:03:04.567891' AS delay,
	run_at = enqueued_at + '1 month' AS month
FROM queue.job ORDER BY run_at;
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.drop_queue('q', cascade => true);

-- a batch: one job per payload, ids in the order of the payloads, the rest shared
SELECT queue.create_queue('q');
CREATE TEMP TABLE id AS
SELECT * FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 2500) AS i),
	priority => 2, max_attempts => 5, batch_id => 'b', source => 's', headers => '{"h": 1}',
	options => '{"keep_completed": 0}') WITH ORDINALITY AS id (job_id, n);
SELECT count(*), count(DISTINCT job_id), min(n), max(n) FROM id;
SELECT count(*), priority, max_attempts, batch_id, source, headers, options, count(DISTINCT run_at) AS times
FROM queue.job JOIN id USING (job_id) WHERE payload = to_jsonb(n)
GROUP BY priority, max_attempts, batch_id, source, headers, options;
-- taken in that order
SELECT count(*) FILTER (WHERE payload = to_jsonb(n)) FROM queue.dequeue_batch('q', 2500)
	WITH ORDINALITY AS j (job_id, payload, p, a, m, e, l, b, g, s, h, n);
SELECT queue.complete_many(array_agg(job_id)) FROM id;
SELECT counts('q');

-- rows of a batch are the very rows that single jobs would be: payloads of all lengths, behind labels or none
CREATE TEMP TABLE sent AS
SELECT label, to_jsonb(repeat('x', length)) AS payload
FROM (VALUES (null), ('a'), ('abc'), ('abcd')) AS l (label),
	(SELECT * FROM generate_series(0, 140) UNION ALL VALUES (1900), (2100), (8000), (100000), (1000000)) AS p (length);
SELECT queue.create_queue('many');
SELECT count(queue.enqueue('q', payload, source => label)) FROM sent;
SELECT count(*) FROM (SELECT label, array_agg(payload) AS payloads FROM sent GROUP BY label) AS s,
	queue.enqueue_batch('many', payloads, source => label);
WITH row AS MATERIALIZED (SELECT queue_id, source, payload, pg_column_size(j) AS size, pg_column_size(payload) AS payload_size
	FROM queue.job_live AS j)
SELECT count(*) AS same, count(*) FILTER (WHERE (a.size, a.payload_size) <> (b.size, b.payload_size)) AS of_other_size
FROM row AS a JOIN row AS b ON a.payload = b.payload AND a.source IS NOT DISTINCT FROM b.source AND a.queue_id < b.queue_id;
SELECT queue.purge_queue('q');
SELECT queue.drop_queue('many', cascade => true);

-- none, one, of more than one dimension
SELECT count(*) FROM queue.enqueue_batch('q', '{}');
SELECT count(*) FROM queue.enqueue_batch('q', '{1}');
SELECT count(*) FROM queue.enqueue_batch('q', '{{2,3},{4,5}}');
SELECT payload FROM queue.dequeue_batch('q', 10);

-- the ids of many sessions and of a batch never meet, and JavaScript can hold them
SELECT bool_and(job_id > 0 AND job_id < 2 ^ 53) FROM id;

-- a query that runs a function for each row, and one that needs only some of a batch's ids
SELECT count(queue.enqueue('q', to_jsonb(i))) FROM generate_series(1, 100) AS i;
SELECT count(*) FROM (SELECT queue.enqueue_batch('q', '{1,2,3}') LIMIT 1) AS s;
SELECT counts('q');
-- one that fails half way leaves nothing
SELECT queue.enqueue('q', to_jsonb(1 / (50 - i))) FROM generate_series(1, 100) AS i;
SELECT counts('q');

-- from SQL, PL/pgSQL and a trigger; with a search_path that hides everything
CREATE TABLE outbox (n int);
CREATE FUNCTION outbox_insert() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM queue.enqueue('q', jsonb_build_object('n', NEW.n)); RETURN NEW; END$$;
CREATE TRIGGER t AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION outbox_insert();
INSERT INTO outbox VALUES (1), (2);
CREATE SCHEMA evil;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
SET search_path = evil, pg_catalog;
SELECT queue.enqueue('q', '"hidden"') IS NOT NULL AS enqueued;
RESET search_path;
SELECT counts('q');

DROP TABLE outbox;
DROP FUNCTION outbox_insert;
DROP OPERATOR evil.= (text, text);
DROP FUNCTION evil.eq;
DROP SCHEMA evil;
SELECT queue.drop_queue('q', cascade => true);

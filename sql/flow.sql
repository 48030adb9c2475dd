-- A job waits until others are completed.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', backoff_jitter => 0, backoff_base => '0', max_attempts => 1);
SELECT queue.create_queue('r', max_attempts => 1);
CREATE FUNCTION put(name text, parents text[] = '{}', rule text = null, queue_name text = 'q') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM queue.enqueue(queue_name, to_jsonb(name), on_parent_failure => rule,
		depends_on => ARRAY(SELECT job_id FROM known WHERE payload IN (SELECT to_jsonb(p) FROM unnest(parents) AS p)));
	RETURN (SELECT state FROM known WHERE payload = to_jsonb(name));
END $$;
CREATE VIEW known AS
SELECT job_id, payload, state, last_error AS error FROM queue.job
UNION ALL SELECT job_id, payload, state, error FROM queue.job_finished;
CREATE FUNCTION finish(name text, how text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	id bigint := (SELECT job_id FROM known WHERE payload = to_jsonb(name));
BEGIN
	PERFORM queue.dequeue_batch('q', 100);
	PERFORM queue.dequeue_batch('r', 100);
	CASE how
		WHEN 'complete' THEN PERFORM queue.complete(id);
		WHEN 'fail' THEN PERFORM queue.fail(id, 'broken');
		WHEN 'cancel' THEN PERFORM queue.cancel(id);
	END CASE;
	RETURN (SELECT string_agg(concat_ws(' ', payload #>> '{}', state, regexp_replace(error, '\d+', 'N')), ', ' ORDER BY job_id) FROM known
		WHERE state <> 'completed');
END $$;

-- blocked until all parents are completed; across queues
SELECT put('p1'), put('p2'), put('p3', queue_name => 'r');
SELECT put('c', '{p1,p2,p3}');
SELECT counts('q');
SELECT finish('p1', 'complete');
SELECT finish('p3', 'complete');
SELECT finish('p2', 'complete');
SELECT finish('c', 'complete');
SELECT count(*) FROM queue.dependency;

-- a parent that is completed already counts; so does one named twice
SELECT put('c2', '{p1}');
SELECT put('p4'), put('c3', '{p1,p4,p4}');
SELECT finish('p4', 'complete');
SELECT finish('c2', 'complete');
SELECT finish('c3', 'complete');

-- what a failed parent does; a cancelled one is the same
SELECT put('f1'), put('fail', '{f1}'), put('run', '{f1}', 'run'), put('block', '{f1}', 'block'), put('grandchild', '{fail}');
SELECT finish('f1', 'fail');
-- the blocked one waits for its parent to be requeued
SELECT queue.retry_job(job_id) FROM known WHERE payload = '"f1"';
SELECT finish('f1', 'complete');
SELECT finish('block', 'complete');
SELECT finish('run', 'complete');
SELECT put('x1'), put('xfail', '{x1}'), put('xrun', '{x1}', 'run');
SELECT finish('x1', 'cancel');
SELECT finish('xrun', 'complete');
-- a parent that has failed already
SELECT put('late fail', '{f1,x1}'), put('late run', '{x1}', 'run'), put('late block', '{x1}', 'block');
SELECT finish('late run', 'complete');
SELECT queue.cancel(job_id) FROM known WHERE payload = '"late block"';
SELECT count(*) FROM queue.dependency;
SELECT counts('q');

-- two parents, both fail, one child; and with different rules for each
SELECT put('b1'), put('b2'), put('bc', '{b1,b2}');
SELECT finish('b1', 'fail');
SELECT finish('b2', 'fail');
SELECT count(*) FROM queue.dependency;

-- a delay counts from the enqueue; the group is joined when the parents are done
SELECT queue.clean('q', '0');
SELECT put('g1'), put('g2');
SELECT queue.enqueue('q', '"delayed"', delay => '1h', depends_on => ARRAY(SELECT job_id FROM known WHERE payload = '"g1"')) > 0;
SELECT queue.enqueue('q', '"grouped"', group_key => 'g', depends_on => ARRAY(SELECT job_id FROM known WHERE payload = '"g1"')) > 0;
SELECT queue.enqueue('q', '"head"', group_key => 'g') > 0;
SELECT payload, state, run_at > now() AS later FROM queue.job ORDER BY payload;
SELECT finish('g1', 'complete');
SELECT finish('head', 'complete');
SELECT finish('grouped', 'complete');
SELECT counts('q');
SELECT queue.purge_queue('q');

-- the plain way of chaining: complete and enqueue in one transaction
SELECT queue.purge_queue('q');
SELECT put('step 1');
WITH taken AS (SELECT * FROM queue.dequeue_batch('q', 10) WHERE payload = '"step 1"')
SELECT queue.complete(job_id), queue.enqueue('q', '"step 2"') > 0 AS enqueued FROM taken;
SELECT payload, state FROM queue.job ORDER BY 1;

-- all in one transaction, with savepoints
BEGIN;
SELECT put('t1'), put('t2', '{t1}');
SAVEPOINT s;
SELECT finish('t1', 'complete');
ROLLBACK TO s;
SELECT finish('t1', 'fail');
ROLLBACK TO s;
SELECT payload, state FROM queue.job ORDER BY payload;
COMMIT;
SELECT finish('t1', 'complete');
SELECT finish('t2', 'complete');

-- purged or dropped parents count as failed
SELECT put('u1'), put('u2', '{u1}', queue_name => 'r');
SELECT queue.purge_queue('q');
SELECT payload, state, regexp_replace(error, '\d+', 'N') AS error FROM known WHERE payload IN ('"u1"', '"u2"');
SELECT put('v1', queue_name => 'r'), put('v2', '{v1}', 'run');
SELECT queue.drop_queue('r', true);
SELECT payload, state, regexp_replace(error, '\d+', 'N') AS error FROM known WHERE payload IN ('"v1"', '"v2"');
SELECT counts('q');

-- a long chain and a wide fan-in, end to end
SELECT queue.purge_queue('q');
SELECT queue.alter_queue('q', keep_completed => '1h');
DO $$
DECLARE
	last bigint := queue.enqueue('q', '0');
	taken bigint;
	n int := 0;
BEGIN
	FOR i IN 1..1000 LOOP
		last := queue.enqueue('q', to_jsonb(i), depends_on => ARRAY[last]);
	END LOOP;
	LOOP
		SELECT job_id INTO taken FROM queue.dequeue_batch('q');
		EXIT WHEN NOT FOUND;
		ASSERT queue.complete(taken);
		n := n + 1;
	END LOOP;
	ASSERT n = 1001, n;
END $$;
DO $$
DECLARE
	parents bigint[] := ARRAY(SELECT queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 2000) AS i)));
	child bigint := queue.enqueue('q', '"child"', depends_on => parents);
	taken bigint[];
BEGIN
	FOR i IN 1..20 LOOP
		SELECT array_agg(job_id) INTO taken FROM queue.dequeue_batch('q', 100);
		ASSERT NOT child = ANY (taken);
		ASSERT queue.complete_many(taken) = 100;
	END LOOP;
	ASSERT (SELECT job_id FROM queue.dequeue_batch('q', 100)) = child;
END $$;
-- a chain that fails from its head
SELECT put('chain');
DO $$
DECLARE
	last bigint := (SELECT job_id FROM known WHERE payload = '"chain"');
BEGIN
	FOR i IN 1..1000 LOOP
		last := queue.enqueue('q', '"link"', depends_on => ARRAY[last]);
	END LOOP;
END $$;
SELECT queue.cancel(job_id) FROM known WHERE payload = '"chain"';
SELECT count(*), state FROM known WHERE payload = '"link"' GROUP BY state;
SELECT count(*) FROM queue.dependency;

-- a parent that is over and runs again: its children learn of it, in a queue that nobody has had to wait for yet
SELECT queue.create_queue('w');
SELECT queue.enqueue('w', '"again"') AS p \gset
SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('w');
SELECT queue.enqueue('w', '"child"', depends_on => ARRAY[:p]::bigint[], on_parent_failure => 'block') > 0 AS waits;
SELECT queue.retry_job(:p);
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('w', 10);
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('w', 10);

-- a dead letter that is sent back, or completed where it is
SELECT queue.create_queue('graves');
SELECT queue.create_queue('d', dead_letter_queue => 'graves');
SELECT queue.enqueue('d', '"sent back"') AS p \gset
SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('d');
SELECT queue.enqueue('d', '"child of a dead letter"', depends_on => ARRAY[:p]::bigint[]) > 0 AS waits;
SELECT queue.redrive('graves');
SELECT count(*) > 0 AS maintained FROM queue.maintain();
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('d', 10);
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('d', 10);
SELECT queue.enqueue('d', '"buried"') AS p \gset
SELECT queue.enqueue('d', '"child of the buried"', depends_on => ARRAY[:p]::bigint[], on_parent_failure => 'block') > 0 AS waits;
SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('d');
SELECT count(*) > 0 AS maintained FROM queue.maintain();
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('graves', 10);
SELECT queue.complete(job_id), payload FROM queue.dequeue_batch('d', 10);
SELECT count(*) FROM queue.dependency;
SELECT queue.drop_queue(queue_name, true) FROM unnest('{w,d,graves}'::text[]) AS queue_name;

-- bad arguments
\pset format unaligned
\pset tuples_only on
SELECT counts('q') = counts('q');
SELECT errors(
	$$queue.enqueue('q', '1', depends_on => '{1}')$$,
	$$queue.enqueue('q', '1', depends_on => '{0}')$$,
	$$queue.enqueue('q', '1', depends_on => '{null}')$$,
	$$queue.enqueue('q', '1', depends_on => '{1}', on_parent_failure => 'ignore')$$
);
SELECT queue.enqueue('q', '1', depends_on => '{}') > 0;
SELECT queue.drop_queue('q', true);
DROP FUNCTION put;
DROP FUNCTION finish;
DROP VIEW known;

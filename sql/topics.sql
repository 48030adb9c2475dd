-- A published job goes to each queue whose patterns match its topic, once, or to none at all.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('a'), queue.create_queue('b'), queue.create_queue('c');

SELECT errors(
	$$queue.bind(null, 'a')$$,
	$$queue.bind('x', null)$$,
	$$queue.bind('x', 'no such')$$,
	$$queue.bind('', 'a')$$,
	$$queue.bind('.', 'a')$$,
	$$queue.bind('x.', 'a')$$,
	$$queue.bind('.x', 'a')$$,
	$$queue.bind('x..y', 'a')$$,
	$$queue.bind('x*', 'a')$$,
	$$queue.bind('x.##', 'a')$$,
	$$queue.bind(repeat('x', 256), 'a')$$,
	$$queue.unbind('', 'a')$$,
	$$queue.unbind('x', 'no such')$$,
	$$queue.publish(null, '{}')$$,
	$$queue.publish('', '{}')$$,
	$$queue.publish('x..y', '{}')$$,
	$$queue.publish('x.*', '{}')$$,
	$$queue.publish('x#y', '{}')$$,
	$$queue.publish(repeat('x', 256), '{}')$$,
	$$queue.publish('x', null)$$,
	$$queue.publish('x', '{}', headers => '[]')$$,
	$$queue.publish('x', '{}', headers => '1')$$,
	$$queue.publish('x', '{}', priority => 40000)$$,
	$$queue.publish('x', '{}', batch_id => repeat('x', 1001))$$
);

-- which pattern matches which topic
CREATE FUNCTION matches(pattern text, VARIADIC topics text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	topic text;
	answer text := '';
BEGIN
	PERFORM queue.bind(pattern, 'a');
	FOREACH topic IN ARRAY topics LOOP
		answer := concat_ws(', ', nullif(answer, ''),
			format('%s: %s', topic, CASE (SELECT count(*) FROM queue.publish(topic, '{}')) WHEN 0 THEN 'no' WHEN 1 THEN 'yes' ELSE 'many' END));
	END LOOP;
	PERFORM queue.unbind(pattern, 'a');
	RETURN answer;
END $$;
SELECT pattern, matches(pattern, 'a', 'b', 'a.b', 'a.b.c', 'b.a', 'a.a', 'a.x.y.b', 'b.b', 'A') FROM (VALUES
	(1, 'a'), (2, 'a.b'), (3, '*'), (4, '*.b'), (5, 'a.*'), (6, '*.*'), (7, '#'), (8, 'a.#'), (9, '#.b'), (10, 'a.#.b'),
	(11, '#.a.#'), (12, '*.#'), (13, '#.*'), (14, '#.#'), (15, '#.*.#.*.#'), (16, 'a.*.#.b'), (17, '#.b.#.b')
) AS p (n, pattern) ORDER BY n;
SELECT regexp_replace(matches(repeat('x', 255), repeat('x', 255), repeat('x', 254)), '(x\.?)+', 'x...', 'g');
SELECT matches('ä.*.🦆', 'ä.ö.🦆', 'a.ö.🦆');
-- the shape of a pattern does not matter: this would take for ever if each # were tried with each
SELECT regexp_replace(matches(repeat('#.', 60) || 'a', repeat('x.', 120) || 'b', repeat('x.', 120) || 'a'), '(x\.?)+', 'x...', 'g');
SELECT regexp_replace(matches(repeat('#.*.', 40) || 'a', repeat('x.', 120) || 'b', repeat('x.', 120) || 'a'), '(x\.?)+', 'x...', 'g');
SELECT regexp_replace(matches(repeat('#.x.', 40) || 'a', repeat('x.', 120) || 'b', repeat('x.', 120) || 'a'), '(x\.?)+', 'x...', 'g');
-- against a plain definition of what a pattern means, by all short patterns and topics
CREATE TEMP TABLE word (w text);
INSERT INTO word VALUES ('a'), ('b');
CREATE TEMP TABLE topic AS
SELECT concat_ws('.', w1.w, w2.w, w3.w) AS topic FROM word AS w1, (TABLE word UNION VALUES (NULL)) AS w2, (TABLE word UNION VALUES (NULL)) AS w3
GROUP BY 1;
CREATE TEMP TABLE pattern AS
WITH p AS (TABLE word UNION VALUES ('*'), ('#')), q AS (TABLE p UNION VALUES (NULL))
SELECT concat_ws('.', w1.w, w2.w, w3.w, w4.w) AS pattern FROM p AS w1, q AS w2, q AS w3, q AS w4
GROUP BY 1;
CREATE FUNCTION means(pattern text[], topic text[]) RETURNS boolean LANGUAGE sql AS $$
	SELECT CASE
		WHEN cardinality(pattern) = 0 THEN cardinality(topic) = 0
		WHEN pattern[1] = '#' THEN means(pattern[2:], topic) OR cardinality(topic) > 0 AND means(pattern, topic[2:])
		ELSE cardinality(topic) > 0 AND pattern[1] IN ('*', topic[1]) AND means(pattern[2:], topic[2:])
	END
$$;
DO $$
DECLARE
	t text;
	p text;
	checked int := 0;
BEGIN
	FOR p IN SELECT pattern FROM pattern ORDER BY hashtext(pattern), pattern LIMIT 120 LOOP
		PERFORM queue.bind(p, 'b');
		FOR t IN SELECT topic FROM topic LOOP
			IF EXISTS (SELECT FROM queue.publish(t, '1')) <> means(string_to_array(p, '.'), string_to_array(t, '.')) THEN
				RAISE WARNING 'pattern % and topic %', p, t;
			END IF;
			checked := checked + 1;
		END LOOP;
		PERFORM queue.unbind(p, 'b');
	END LOOP;
	RAISE INFO '% checked', checked;
END $$;
SELECT queue.purge_queue('a') > 0 AS purged, queue.purge_queue('b') > 0 AS purged;

-- several patterns, several queues: one job in each; all arguments of enqueue
SELECT queue.bind('order.#', 'a'), queue.bind('order.*', 'a'), queue.bind('#', 'b'), queue.bind('order.*', 'b'), queue.bind('other', 'c');
SELECT queue.bind('order.#', 'a');
SELECT topic_pattern, queue_name FROM queue.binding JOIN queue.queue USING (queue_id) ORDER BY 1, 2;
SELECT count(*) FROM queue.publish('order.paid', '{"id": 1}', 3, '1 h', null, 4, 'k', 'g', null, 's', '{"h": 1}', 'ignore', null, 'run', '{"keep_failed": 60}');
SELECT queue_name, state, payload, priority, max_attempts, unique_key, group_key, source, headers, options, run_at > now() + '59 min' AS later
FROM queue.job ORDER BY queue_name;
-- each has its own keys
SELECT queue_name FROM queue.publish('order.paid', '{"id": 2}', unique_key => 'k') AS id, queue.job_status(id) ORDER BY 1;
SELECT queue_name, count(*) FROM queue.job GROUP BY 1 ORDER BY 1;
-- the topic is told unless the producer has said something else
SELECT headers FROM queue.publish('other', '1') AS id, queue.job_status(id) ORDER BY queue_name;
SELECT headers FROM queue.publish('other', '1', headers => '{"topic": "mine", "x": 1}') AS id, queue.job_status(id) ORDER BY queue_name;
SELECT count(*) FROM queue.publish('other', '1', headers => 'null');

-- all or none: one that is full, has rules, or is not the publisher's
SELECT queue.alter_queue('b', required_keys => '{id}');
SELECT counts('a'), counts('b');
SELECT errors($$queue.publish('order.new', '{}')$$);
SELECT queue.reset_queue_setting('b', 'required_keys');
SELECT counts('a'), counts('b');
CREATE ROLE regress_queue_publisher;
CREATE ROLE regress_queue_stranger;
SELECT queue.grant_queue('a', 'regress_queue_publisher', 'enqueue');
SET ROLE regress_queue_publisher;
SELECT errors($$queue.publish('order.new', '{}')$$, $$queue.bind('x', 'a')$$, $$queue.unbind('x', 'a')$$);
RESET ROLE;
SELECT queue.grant_queue('b', 'regress_queue_publisher', 'admin');
SET ROLE regress_queue_publisher;
SELECT count(*) FROM queue.publish('order.new', '{}');
SELECT queue.bind('x', 'b'), queue.unbind('x', 'b'), queue.unbind('x', 'b');
SELECT errors($$queue.bind('x', 'a')$$, $$queue.publish('other', '1')$$);
RESET ROLE;
SET ROLE regress_queue_stranger;
SELECT errors($$queue.publish('order.new', '{}')$$);
RESET ROLE;

-- modes hold
SELECT queue.set_mode('c', 'mirror', 'a');
SELECT queue.unbind('#', 'b');
SELECT queue_name FROM queue.publish('other', '"mirrored"') AS id, queue.job_status(id) ORDER BY 1;
SELECT queue_name, headers FROM queue.job WHERE payload = '"mirrored"' ORDER BY 1;

-- what is bound, or not, in a transaction, counts at once and is undone with it
BEGIN;
SELECT queue.bind('here.now', 'c');
SELECT count(*) FROM queue.publish('here.now', '1');
SAVEPOINT s;
SELECT queue.unbind('here.now', 'c');
SELECT count(*) FROM queue.publish('here.now', '1');
ROLLBACK TO s;
SELECT count(*) FROM queue.publish('here.now', '1');
ROLLBACK;
SELECT count(*) FROM queue.publish('here.now', '1');
-- a superuser's own DML as well
INSERT INTO queue.binding SELECT 'by.hand', queue_id FROM queue.queue WHERE queue_name = 'c';
SELECT count(*) FROM queue.publish('by.hand', '1');
DELETE FROM queue.binding WHERE topic_pattern = 'by.hand';
SELECT count(*) FROM queue.publish('by.hand', '1');
-- a dropped queue is bound to nothing
SELECT count(*) FROM queue.publish('order.x', '{}');
SELECT queue.drop_queue('a', cascade => true);
SELECT count(*) FROM queue.publish('order.x', '{}');
SELECT count(*) FROM queue.binding;

SELECT queue.drop_queue('b', cascade => true), queue.drop_queue('c', cascade => true);
DROP FUNCTION matches, means;
DROP ROLE regress_queue_publisher, regress_queue_stranger;

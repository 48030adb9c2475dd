-- Payloads that break the rules of a queue are refused, whole calls at a time, however they come.
\set ECHO none
\i test/helpers.sql
\set ECHO all
CREATE SCHEMA fn;
CREATE FUNCTION fn.positive(payload jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS
	$$SELECT (payload ->> 'amount')::numeric > 0$$;
CREATE FUNCTION fn.reason(payload jsonb) RETURNS text LANGUAGE sql AS
	$$SELECT 'the amount is ' || (payload ->> 'amount') WHERE (payload ->> 'amount')::numeric <= 0$$;
CREATE FUNCTION fn.raises(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF (payload ->> 'amount')::numeric <= 0 THEN
		RAISE EXCEPTION 'not that amount' USING ERRCODE = 'QQ001', DETAIL = 'as it is', HINT = 'take more';
	END IF;
END $$;

-- keys: at the top, with any value, null too
SELECT queue.create_queue('v', required_keys => '{id,amount}');
SELECT errors(
	$$queue.enqueue('v', '{}')$$,
	$$queue.enqueue('v', '{"id": 1}')$$,
	$$queue.enqueue('v', '{"ID": 1, "amount": 1}')$$,
	$$queue.enqueue('v', '{"x": {"id": 1, "amount": 1}}')$$,
	$$queue.enqueue('v', '["id", "amount"]')$$,
	$$queue.enqueue('v', '"id"')$$,
	$$queue.enqueue('v', 'null')$$,
	$$queue.enqueue_batch('v', ARRAY['{"id": 1, "amount": 2}', '{"id": 2}', '3']::jsonb[])$$,
	$$queue.enqueue_batch('v', ARRAY['{"id": 1, "amount": 2}', '3']::jsonb[])$$,
	$$queue.enqueue_batch('v', '{1}', options => '{"unique_keys": ["k"]}')$$
);
SELECT counts('v');
SELECT queue.enqueue('v', '{"amount": null, "id": null, "more": 1}') IS NOT NULL AS ok;
SELECT count(*) FROM queue.enqueue_batch('v', ARRAY['{"id": 1, "amount": 2}', '{"id": 2, "amount": 2}']::jsonb[]);
SELECT count(*) FROM queue.enqueue_batch('v', '{}');

-- what a unique key would keep out, or replace, is no exception
SELECT queue.enqueue('v', '{"id": 1, "amount": 1}', unique_key => 'k') AS id \gset
SELECT errors(
	$$queue.enqueue('v', '{}', unique_key => 'k')$$,
	$$queue.enqueue('v', '{}', unique_key => 'k', on_conflict => 'replace')$$
);
SELECT payload FROM queue.job_status(:id);

-- a validator: false or null, a reason, an error of its own
SELECT queue.alter_queue('v', required_keys => '{}', validator => 'fn.positive');
SELECT errors(
	$$queue.enqueue('v', '{"amount": 0}')$$,
	$$queue.enqueue('v', '{}')$$,
	$$queue.enqueue('v', '{"amount": "many"}')$$,
	$$queue.enqueue_batch('v', ARRAY['{"amount": 1}', '{"amount": 2}', '{"amount": -1}']::jsonb[])$$
);
SELECT queue.alter_queue('v', validator => 'fn.reason');
SELECT errors(
	$$queue.enqueue('v', '{"amount": 0}')$$,
	$$queue.enqueue_batch('v', ARRAY['{"amount": 1}', '{"amount": -1}']::jsonb[])$$
);
SELECT queue.enqueue('v', '{}') IS NOT NULL AS ok;
SELECT queue.alter_queue('v', validator => 'fn.raises');
SELECT errors($$queue.enqueue('v', '{"amount": 0}')$$);
SELECT queue.enqueue('v', '{"amount": 1}') IS NOT NULL AS ok;
\set SHOW_CONTEXT always
\set VERBOSITY default
SELECT queue.enqueue_batch('v', ARRAY['{"amount": 1}', '{"amount": -1}']::jsonb[]);
\set SHOW_CONTEXT errors

-- both
SELECT queue.alter_queue('v', required_keys => '{id}');
SELECT errors(
	$$queue.enqueue('v', '{"amount": 0}')$$,
	$$queue.enqueue('v', '{"amount": 0, "id": 1}')$$
);
SELECT counts('v');

-- no rules
SELECT queue.reset_queue_setting('v', 'required_keys'), queue.reset_queue_setting('v', 'validator');
SELECT queue.enqueue('v', '{}') IS NOT NULL AS ok;

-- a validator sees what the transaction has done, and its effects are part of it
CREATE TABLE fn.seen (payload jsonb PRIMARY KEY);
CREATE FUNCTION fn.first_time(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fn.seen VALUES (payload) ON CONFLICT DO NOTHING;
	RETURN FOUND;
END $$;
SELECT queue.alter_queue('v', validator => 'fn.first_time');
SELECT queue.enqueue('v', '1') IS NOT NULL AS ok;
SELECT errors($$queue.enqueue('v', '1')$$, $$queue.enqueue_batch('v', '{2,2}')$$);
TABLE fn.seen;

-- one that changes the queue meanwhile, or drops it
CREATE FUNCTION fn.meddles(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF payload = '"drop"' THEN
		PERFORM queue.drop_queue('v', cascade => true);
	ELSE
		PERFORM queue.alter_queue('v', default_priority => 77);
	END IF;
END $$;
SELECT queue.alter_queue('v', validator => 'fn.meddles');
SELECT errors($$queue.enqueue('v', '"drop"')$$);
SELECT queue.enqueue('v', '"alter"') AS id \gset
SELECT priority FROM queue.job_status(:id);

-- dead-letter queues are named, too
SELECT queue.create_queue('w');
SELECT errors(
	$$queue.alter_queue('w', dead_letter_queue => 'w')$$,
	$$queue.alter_queue('w', dead_letter_queue => 'no such')$$,
	$$queue.create_queue('x', dead_letter_queue => 'x')$$,
	$$queue.create_queue('x', dead_letter_queue => 'no such')$$
);
CREATE ROLE regress_queue_owner;
SELECT queue.alter_queue('w', owner => 'regress_queue_owner');
SET ROLE regress_queue_owner;
SELECT errors($$queue.alter_queue('w', dead_letter_queue => 'v')$$);
RESET ROLE;
SELECT queue.alter_queue('w', dead_letter_queue => 'v');
SELECT dead_letter_queue FROM queue.queue WHERE queue_name = 'w';

SELECT queue.drop_queue('v', cascade => true), queue.drop_queue('w');
SET client_min_messages = warning;
DROP SCHEMA fn CASCADE;
DROP ROLE regress_queue_owner;

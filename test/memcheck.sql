-- Queues of all kinds for clients side by side: see test/memcheck.pgbench.
CREATE EXTENSION IF NOT EXISTS queue;
CREATE FUNCTION handle(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF payload->>'fail' IS NOT NULL THEN
		RAISE EXCEPTION 'as it was asked to' USING ERRCODE = payload->>'fail';
	END IF;
END
$$;
\o /dev/null
SELECT queue.create_queue('plain', backoff_base => '10 ms', visibility_timeout => '2 s', log_level => 'all');
SELECT queue.create_queue('aging', aging_interval => '1 s', max_active => 8, notify => true);
SELECT queue.create_queue('dead');
SELECT queue.create_queue('letters', max_attempts => 1, dead_letter_queue => 'dead');
SELECT queue.create_queue('limited', rate_limit => 1000, max_active_per_key => 1);
SELECT queue.create_queue('handled', max_attempts => 2, backoff_base => '10 ms');
SELECT queue.set_handler('handled', 'handle');

/*
 * Fourteen calls a round, of all kinds; what fails is caught in a subtransaction.
 * Every tenth round ends a transaction, every thousandth makes and drops a queue.
 */
CREATE PROCEDURE mix(rounds int, commits boolean) LANGUAGE plpgsql AS $$
DECLARE
	ids bigint[];
	id bigint;
	name text;
BEGIN
	FOR r IN 1 .. rounds LOOP
		name := (ARRAY['plain', 'aging', 'letters', 'limited'])[1 + r % 4];
		PERFORM queue.enqueue(name, jsonb_build_object('n', r), priority => r % 3, source => 'mix');
		PERFORM queue.enqueue(name, '{"a": [1, 2, 3]}', unique_key => 'u' || r % 50,
			options => '{"backoff": "fixed", "backoff_base": "20 ms", "limit_key": "k"}');
		PERFORM queue.enqueue(name, '1', delay => '30 ms', group_key => 'g' || r % 5);
		PERFORM queue.enqueue('handled', '{}');
		ids := ARRAY(SELECT job_id FROM queue.dequeue_batch(name, 3, worker => 'w' || r % 7));
		id := ids[1];
		PERFORM queue.heartbeat('w' || r % 7);
		PERFORM queue.set_progress(id, 50, 'half') WHERE id IS NOT NULL;
		PERFORM queue.complete(id, '{"done": true}') WHERE id IS NOT NULL;
		PERFORM queue.extend(ids[2], '5 s'), queue.fail(ids[2], 'no luck') WHERE ids[2] IS NOT NULL;
		PERFORM queue.release(ids[3], '10 ms') WHERE ids[3] IS NOT NULL;
		PERFORM state FROM queue.job_status(id);
		BEGIN
			PERFORM queue.enqueue(name, '2', batch_id => 'b' || r % 3);
			PERFORM queue.dequeue_batch(name, 2);
			PERFORM queue.enqueue('there is none', '1');
		EXCEPTION WHEN undefined_object THEN
			NULL;
		END;
		IF r % 1000 = 0 THEN
			name := 'new' || pg_backend_pid();
			PERFORM queue.create_queue(name), queue.enqueue(name, '1');
			PERFORM queue.alter_queue(name, max_attempts => 7);
			PERFORM queue.drop_queue(name, true);
		END IF;
		IF commits AND r % 10 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
$$;

-- what this backend has: in contexts, and as the system sees it
CREATE FUNCTION memory(OUT contexts bigint, OUT rss_kb bigint) LANGUAGE sql AS $$
	SELECT (SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts),
		substring(pg_read_file('/proc/' || pg_backend_pid() || '/status') FROM 'RssAnon:\s+(\d+)')::bigint
$$;

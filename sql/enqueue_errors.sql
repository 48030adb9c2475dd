-- Bad input of producers is refused with SQLSTATE, detail and hint, and has no partial effect.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset format unaligned
\pset tuples_only on
SELECT queue.create_queue('e');

-- the queue
SELECT errors(
	$$queue.enqueue(null, '{}')$$,
	$$queue.enqueue('', '{}')$$,
	$$queue.enqueue('no such', '{}')$$,
	$$queue.enqueue(repeat('x', 58), '{}')$$,
	$$queue.enqueue(repeat('x', 64), '{}')$$,
	$$queue.enqueue('E', '{}')$$,
	$$queue.enqueue('a"b''c', '{}')$$,
	$$queue.enqueue_batch(null, '{}')$$,
	$$queue.enqueue_batch('no such', '{}')$$
);

-- the payload
SELECT errors(
	$$queue.enqueue('e', null)$$,
	$$queue.enqueue_batch('e', null)$$,
	$$queue.enqueue_batch('e', ARRAY['1', null, '3']::jsonb[])$$
);

-- priority and attempts
SELECT errors(
	$$queue.enqueue('e', '{}', priority => 32768)$$,
	$$queue.enqueue('e', '{}', priority => -32769)$$,
	$$queue.enqueue_batch('e', '{1}', priority => 2147483647)$$,
	$$queue.enqueue('e', '{}', max_attempts => 0)$$,
	$$queue.enqueue('e', '{}', max_attempts => -1)$$,
	$$queue.enqueue('e', '{}', max_attempts => 32768)$$,
	$$queue.enqueue_batch('e', '{1}', max_attempts => 0)$$
);

-- when
SELECT errors(
	$$queue.enqueue('e', '{}', delay => '1s', run_at => '2000-01-01')$$,
	$$queue.enqueue_batch('e', '{1}', delay => '1s', run_at => '2000-01-01')$$,
	$$queue.enqueue('e', '{}', delay => '-1us')$$,
	$$queue.enqueue('e', '{}', delay => '-1 mon')$$,
	$$queue.enqueue('e', '{}', delay => '1 day -25 hours')$$,
	$$queue.enqueue('e', '{}', delay => '300000 years')$$,
	$$queue.enqueue('e', '{}', run_at => 'infinity')$$,
	$$queue.enqueue('e', '{}', run_at => '-infinity')$$,
	$$queue.enqueue_batch('e', '{1}', delay => '-1s')$$,
	$$queue.enqueue_batch('e', '{1}', run_at => 'infinity')$$
);

-- labels
SELECT errors(
	$$queue.enqueue('e', '{}', batch_id => repeat('x', 1001))$$,
	$$queue.enqueue('e', '{}', source => repeat('x', 1001))$$,
	$$queue.enqueue_batch('e', '{1}', batch_id => repeat('x', 1001))$$
);

-- options
SELECT errors(
	$$queue.enqueue('e', '{}', options => '[]')$$,
	$$queue.enqueue('e', '{}', options => '"fixed"')$$,
	$$queue.enqueue('e', '{}', options => 'null')$$,
	$$queue.enqueue('e', '{}', options => '{"colour": "red"}')$$,
	$$queue.enqueue('e', '{}', options => '{"Backoff": "fixed"}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff": "linear"}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff": 1}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_jitter": 1.01}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_jitter": -0.5}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_jitter": "0.5"}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": -1}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": "-1 s"}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": "soon"}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": 1e300}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": 1e400}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": null}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_base": {}}')$$,
	$$queue.enqueue('e', '{}', options => '{"backoff_max": "1 month"}')$$,
	$$queue.enqueue('e', '{}', options => '{"visibility_timeout": 0}')$$,
	$$queue.enqueue('e', '{}', options => '{"visibility_timeout": 1e-9}')$$,
	$$queue.enqueue('e', '{}', options => '{"keep_completed": "-1 day"}')$$,
	$$queue.enqueue('e', '{}', options => '{"keep_failed": true}')$$,
	$$queue.enqueue_batch('e', '{1}', options => '{"colour": "red"}')$$
);

-- an interval may be infinite since PostgreSQL 17; before, it cannot be written
DO $$
DECLARE
	call text;
BEGIN
	FOREACH call IN ARRAY ARRAY[
		$call$queue.enqueue('e', '{}', delay => 'infinity')$call$,
		$call$queue.enqueue('e', '{}', delay => '-infinity')$call$,
		$call$queue.enqueue('e', '{}', options => '{"backoff_base": "infinity"}')$call$,
		$call$queue.enqueue('e', '{}', options => '{"visibility_timeout": "infinity"}')$call$,
		$call$queue.enqueue('e', '{}', options => '{"keep_failed": "-infinity"}')$call$
	] LOOP
		BEGIN
			EXECUTE 'SELECT ' || call;
			RAISE WARNING 'no error: %', call;
		EXCEPTION
			WHEN invalid_parameter_value THEN
				NULL;
			WHEN invalid_datetime_format THEN
				IF current_setting('server_version_num')::int >= 170000 THEN
					RAISE;
				END IF;
		END;
	END LOOP;
END
$$;

-- sizes: the limit is one of the stored jsonb
SET queue.max_payload_size = '1kB';
SELECT errors(
	$$queue.enqueue('e', to_jsonb(repeat('x', 1024)))$$,
	$$queue.enqueue('e', '{}', headers => to_jsonb(repeat('x', 1024)))$$,
	$$queue.enqueue_batch('e', ARRAY['1', to_jsonb(repeat('x', 1024))])$$,
	$$queue.enqueue_batch('e', '{1}', headers => to_jsonb(repeat('x', 1024)))$$
);
SELECT queue.enqueue('e', to_jsonb(repeat('x', 1016)), headers => to_jsonb(repeat('x', 1016))) IS NOT NULL;
RESET queue.max_payload_size;
SHOW queue.max_payload_size;

-- no job but that one is there
SELECT counts('e');
SELECT queue.drop_queue('e', cascade => true);

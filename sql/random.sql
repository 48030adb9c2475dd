-- Whatever is done, in whatever order, kept or rolled back: the counters equal the tables, and no waiting job is missed.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', max_attempts => 3, backoff_base => '1ms', backoff_max => '4ms');

-- one thing done to the queue, or to some of its jobs
CREATE FUNCTION act(job_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	one bigint := coalesce(job_ids[1], 0);
	n int := (random() * 30)::int;
	p int := (random() * 3)::int;
	soon interval := make_interval(secs => random() * 0.004);
BEGIN
	CASE (random() * 17)::int
		WHEN 0, 1 THEN PERFORM queue.enqueue('q', '1', p);
		WHEN 2 THEN PERFORM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[n]), p);
		WHEN 3 THEN PERFORM queue.enqueue('q', '1', p, delay => soon);
		WHEN 4, 5, 6 THEN PERFORM queue.dequeue_batch('q', n + 1);
		WHEN 7 THEN PERFORM queue.dequeue_batch('q', n + 1, soon + '1us');
		WHEN 8 THEN PERFORM queue.complete_many(job_ids);
		WHEN 9 THEN PERFORM queue.complete_and_dequeue(job_ids, 'q', n + 1);
		WHEN 10 THEN PERFORM queue.fail_many(job_ids, 'error');
		WHEN 11 THEN PERFORM queue.fail(one, 'error', retry => random() < 0.5, retry_in => '0');
		WHEN 12 THEN PERFORM queue.release(one, CASE WHEN random() < 0.5 THEN soon ELSE '0' END);
		WHEN 13 THEN PERFORM queue.extend(one, soon + '1us');
		WHEN 14 THEN PERFORM queue.cancel(one);
		WHEN 15 THEN PERFORM queue.requeue_failed('q', n), queue.clean('q', '0', 'completed');
		WHEN 16 THEN PERFORM queue.alter_queue('q', aging_interval => make_interval(secs => 1 + n));
		WHEN 17 THEN PERFORM queue.reset_queue_setting('q', 'aging_interval');
	END CASE;
END
$$;

-- a transaction does some things, some of them in a savepoint that is rolled back, and may be rolled back itself
CREATE PROCEDURE act_at_random(transactions int) LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	FOR t IN 1..transactions LOOP
		FOR i IN 0..(random() * 3)::int LOOP
			BEGIN
				PERFORM act(ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' ORDER BY random() LIMIT 3));
				IF random() < 0.25 THEN
					RAISE EXCEPTION USING ERRCODE = 'P0001';
				END IF;
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		END LOOP;
		IF random() < 0.2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;

		-- the maintenance worker may be at work between the two sides of the comparison: look again
		CONTINUE WHEN t % 20 <> 0;
		FOR i IN 1..1000 LOOP
			found := counts('q');
			COMMIT;
			EXIT WHEN found !~ ':';
			PERFORM pg_sleep(0.01);
		END LOOP;
		ASSERT found !~ ':', format('after %s transactions: %s', t, found);
	END LOOP;
END
$$;
-- take until nothing waits
CREATE PROCEDURE drain() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..1000 LOOP
		PERFORM queue.dequeue_batch('q', 100000, '1h');
		COMMIT;
		EXIT WHEN NOT EXISTS (SELECT FROM queue.job WHERE state <> 'active' OR lease_expires_at < clock_timestamp());
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	ASSERT NOT EXISTS (SELECT FROM queue.job WHERE state <> 'active'), counts('q');
	PERFORM queue.complete_many(array_agg(job_id)) FROM queue.job;
END
$$;

SELECT setseed(0.25);
CALL act_at_random(100);
CALL drain();
CALL act_at_random(100);
CALL drain();
CALL act_at_random(100);
CALL drain();
SELECT waiting, delayed, active, total > 0 AS kept FROM queue.queue_stats('q');
SELECT counts('q') ~ ':' AS wrong;
DROP PROCEDURE act_at_random, drain;
DROP FUNCTION act;
SELECT queue.drop_queue('q', true);

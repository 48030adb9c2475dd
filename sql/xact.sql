-- What a transaction or a savepoint did is undone by its rollback: jobs, order and counters.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q', backoff_jitter => 0, max_attempts => 2);
CREATE FUNCTION held() RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(job_id ORDER BY job_id) FROM queue.job WHERE queue_name = 'q' AND state = 'active' $$;

-- enqueue: rolled back it never was, also one by one and in bulk, due or not
BEGIN;
SELECT count(queue.enqueue('q', to_jsonb(i), delay => CASE WHEN i > 2 THEN interval '1h' END)) FROM generate_series(1, 4) AS i;
SELECT count(*) FROM queue.enqueue_batch('q', '{5,6,7}');
SELECT count(*) FROM queue.dequeue_batch('q', 100);
ROLLBACK;
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 100);

BEGIN;
SELECT count(queue.enqueue('q', '1'));
SAVEPOINT a;
SELECT count(queue.enqueue('q', '2'));
SAVEPOINT b;
SELECT count(queue.enqueue('q', '3'));
RELEASE b;
SELECT count(queue.enqueue('q', '4', delay => '1h'));
ROLLBACK TO a;
SELECT count(queue.enqueue('q', '5'));
SAVEPOINT c;
SELECT count(queue.enqueue('q', '6'));
RELEASE c;
COMMIT;
SELECT counts('q');

-- take: given back in the same order, attempt and all
BEGIN;
SELECT payload, attempt FROM queue.dequeue_batch('q', 2);
ROLLBACK;
SELECT counts('q');
SELECT state, attempt, taken_at, worker FROM queue.job ORDER BY job_id;
BEGIN;
SAVEPOINT a;
SELECT payload, attempt FROM queue.dequeue_batch('q');
ROLLBACK TO a;
SELECT payload, attempt FROM queue.dequeue_batch('q');
SAVEPOINT b;
SELECT payload FROM queue.dequeue_batch('q');
ROLLBACK TO b;
SELECT payload FROM queue.dequeue_batch('q');
SAVEPOINT c;
SELECT payload FROM queue.dequeue_batch('q');
RELEASE c;
COMMIT;
SELECT counts('q');

-- complete: held again
BEGIN;
SELECT queue.complete_many(held());
ROLLBACK;
SELECT counts('q');
BEGIN;
SAVEPOINT a;
SELECT queue.complete((held())[1]);
SAVEPOINT b;
SELECT queue.complete((held())[1]);
ROLLBACK TO b;
SELECT queue.complete((held())[1]), queue.complete((held())[1]);
ROLLBACK TO b;
COMMIT;
SELECT counts('q');
SELECT payload FROM queue.list_jobs('q', 'completed');

-- fail and release, back to waiting, delayed or for good; extend
BEGIN;
SELECT queue.fail((held())[1], 'error', retry_in => '0');
SAVEPOINT a;
SELECT queue.fail((held())[1], 'error');
ROLLBACK TO a;
SELECT queue.fail((held())[1], 'error', retry => false);
ROLLBACK;
SELECT counts('q');
SELECT count(*) FROM queue.job_log JOIN queue.queue USING (queue_id) WHERE queue_name = 'q';
BEGIN;
SAVEPOINT a;
SELECT queue.release((held())[1]);
SELECT payload, attempt FROM queue.dequeue_batch('q');
SELECT queue.release((held())[1], '1h');
SELECT queue.extend((held())[1], '1us') IS NOT NULL;
ROLLBACK TO a;
COMMIT;
SELECT counts('q');
SELECT count(*) FROM queue.job WHERE lease_expires_at > now();
BEGIN;
SELECT queue.fail((held())[1], 'error', retry_in => '0');
SAVEPOINT a;
SELECT queue.fail((held())[1], 'error', retry_in => '1us');
RELEASE a;
COMMIT;
CALL wait_until($$counts('q') = 'waiting 2, completed 1'$$);
SELECT payload, attempt FROM queue.dequeue_batch('q', 10);

-- cancel, purge, requeue, clean
SELECT queue.fail_many(held());
SELECT count(queue.enqueue('q', '7')), count(queue.enqueue('q', '8', delay => '1h'));
SELECT counts('q');
BEGIN;
SELECT queue.cancel(job_id) FROM queue.job WHERE payload = '7';
SELECT queue.purge_queue('q');
SELECT queue.requeue_failed('q', 1);
SAVEPOINT a;
SELECT queue.requeue_failed('q');
SELECT queue.clean('q', '0');
SELECT payload FROM queue.dequeue_batch('q', 10);
ROLLBACK TO a;
SELECT payload FROM queue.dequeue_batch('q', 10);
ROLLBACK;
SELECT counts('q');
BEGIN;
SELECT queue.requeue_failed('q', 1);
SAVEPOINT a;
SELECT queue.requeue_failed('q', 1);
ROLLBACK TO a;
SELECT queue.clean('q', '0', 'completed');
COMMIT;
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);

-- an error is a rollback, too, and a subtransaction of PL/pgSQL a savepoint
BEGIN;
SELECT count(queue.enqueue('q', '9'));
SELECT queue.complete_many(held());
SELECT 1 / 0;
COMMIT;
SELECT counts('q');
DO $$
BEGIN
	FOR i IN 10..19 LOOP
		BEGIN
			PERFORM queue.enqueue('q', to_jsonb(i));
			PERFORM queue.dequeue_batch('q') WHERE i % 3 = 0;
			PERFORM 1 / (i % 2);
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT counts('q');
SELECT string_agg(payload::text, ' ') FROM queue.dequeue_batch('q', 100);

-- a procedure that commits as it goes
DO $$
BEGIN
	FOR i IN 20..23 LOOP
		PERFORM queue.enqueue('q', to_jsonb(i));
		IF i % 2 = 0 THEN
			COMMIT;
		ELSE
			ROLLBACK;
		END IF;
	END LOOP;
END
$$;
SELECT string_agg(payload::text, ' ') FROM queue.dequeue_batch('q', 100);
SELECT counts('q');

DROP FUNCTION held;
SELECT queue.drop_queue('q', true);

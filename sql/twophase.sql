-- What a prepared transaction did counts from COMMIT PREPARED on, or never: for jobs, order and counters.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q', backoff_jitter => 0, max_attempts => 2);
CREATE FUNCTION held() RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(job_id ORDER BY job_id) FROM queue.job WHERE queue_name = 'q' AND state = 'active' $$;

-- enqueue: nobody sees the jobs, though all else is taken and the hints are far ahead
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2}');
SELECT count(queue.enqueue('q', '3', priority => 1)), count(queue.enqueue('q', '4', delay => '1us'));
PREPARE TRANSACTION 'enqueue';
SELECT counts('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{5}');
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT counts('q');
COMMIT PREPARED 'enqueue';
SELECT (SELECT waiting + delayed FROM queue.queue_stats('q'));
CALL wait_until($$counts('q') = 'waiting 4, active 1'$$);
SELECT string_agg(payload::text, ' ' ORDER BY payload) FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{6,7}');
PREPARE TRANSACTION 'enqueue';
SELECT payload FROM queue.dequeue_batch('q', 10);
ROLLBACK PREPARED 'enqueue';
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT queue.complete_many(held());

-- take: nobody else gets the jobs before it is rolled back; after it, the next taker does, in order
SELECT count(*) FROM queue.enqueue_batch('q', '{11,12,13,14}');
BEGIN;
SELECT payload FROM queue.dequeue_batch('q', 2);
PREPARE TRANSACTION 'take';
SELECT payload FROM queue.dequeue_batch('q', 1);
SELECT counts('q');
ROLLBACK PREPARED 'take';
SELECT counts('q');
SELECT payload, attempt FROM queue.dequeue_batch('q', 10);
SELECT queue.complete_many(held());
SELECT count(*) FROM queue.enqueue_batch('q', '{15,16,17}');
BEGIN;
SELECT payload FROM queue.dequeue_batch('q', 2);
PREPARE TRANSACTION 'take';
SELECT payload FROM queue.dequeue_batch('q', 10);
COMMIT PREPARED 'take';
SELECT counts('q');
SELECT payload, attempt, queue.complete(job_id, attempt => attempt) FROM queue.job ORDER BY 1;

-- a lease that ends while the transaction is prepared, or right after
SELECT count(*) FROM queue.enqueue_batch('q', '{18}');
BEGIN;
SELECT payload FROM queue.dequeue_batch('q', 1, '1us');
PREPARE TRANSACTION 'take';
SELECT payload FROM queue.dequeue_batch('q', 10);
COMMIT PREPARED 'take';
SELECT payload, attempt FROM take('q', 10);
SELECT queue.extend((held())[1], '1us') IS NOT NULL;
CALL wait_until($$counts('q') = 'completed 12, failed 1'$$);

-- complete, fail and release: held until it commits, held again when it is rolled back
SELECT count(*) FROM queue.enqueue_batch('q', '{21,22,23,24}');
SELECT count(*) FROM queue.dequeue_batch('q', 4);
BEGIN;
SELECT queue.complete((held())[1]);
SELECT queue.fail((held())[1], 'error', retry => false);
SELECT queue.fail((held())[1], 'error', retry_in => '0');
SELECT queue.release((held())[1], '1us');
PREPARE TRANSACTION 'settle';
SELECT counts('q');
SELECT payload FROM queue.dequeue_batch('q', 10);
ROLLBACK PREPARED 'settle';
SELECT counts('q');
BEGIN;
SELECT queue.complete((held())[1]);
SELECT queue.fail((held())[1], 'error', retry => false);
SELECT queue.fail((held())[1], 'error', retry_in => '0');
SELECT queue.release((held())[1], '1us');
PREPARE TRANSACTION 'settle';
SELECT payload FROM queue.dequeue_batch('q', 10);
COMMIT PREPARED 'settle';
CALL wait_until($$counts('q') = 'waiting 2, completed 13, failed 2'$$);
SELECT payload, attempt FROM queue.dequeue_batch('q', 10) ORDER BY 1;
SELECT counts('q');
SELECT queue.complete_many(held());

-- all of it together, with savepoints, for two queues; names with quotes
SELECT queue.create_queue('other');
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{31,32,33}');
SAVEPOINT a;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 2)));
SELECT count(*) FROM queue.enqueue_batch('other', '{1,2}');
ROLLBACK TO a;
SELECT queue.complete_many(ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 1)));
SELECT count(*) FROM queue.enqueue_batch('other', '{3,4}');
SAVEPOINT b;
SELECT queue.cancel(job_id) FROM queue.job WHERE queue_name = 'other' AND payload = '4';
RELEASE b;
PREPARE TRANSACTION 'it''s all';
SELECT counts('q'), counts('other');
COMMIT PREPARED 'it''s all';
SELECT counts('q'), counts('other');
SELECT string_agg(payload::text, ' ') FROM queue.dequeue_batch('q', 10);
SELECT string_agg(payload::text, ' ') FROM queue.dequeue_batch('other', 10);

-- two at once, ended the other way round, one of them with an error in the middle
SELECT queue.complete_many(held());
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{41}');
PREPARE TRANSACTION 'one';
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{42}');
PREPARE TRANSACTION 'two';
BEGIN;
SELECT count(*) FROM queue.enqueue_batch('q', '{43}');
SELECT 1 / 0;
PREPARE TRANSACTION 'three';
COMMIT PREPARED 'three';
COMMIT PREPARED 'two';
SELECT payload FROM queue.dequeue_batch('q', 10);
COMMIT PREPARED 'one';
SELECT payload FROM queue.dequeue_batch('q', 10);
SELECT counts('q');

-- administration
BEGIN;
SELECT queue.alter_queue('q', visibility_timeout => '11s', aging_interval => '1s');
SELECT queue.create_queue('new');
SELECT count(*) FROM queue.enqueue_batch('new', '{1}');
SELECT queue.drop_queue('other', true);
PREPARE TRANSACTION 'admin';
SELECT queue_name, visibility_timeout FROM queue.queue ORDER BY 1;
COMMIT PREPARED 'admin';
SELECT queue_name, visibility_timeout FROM queue.queue ORDER BY 1;
SELECT payload FROM queue.dequeue_batch('new', 10);
SELECT counts('new');

-- nothing is left of them
CALL wait_until($$(SELECT count(*) = 0 FROM queue._prepared)$$);
SELECT count(*) FROM pg_prepared_xacts;
DROP FUNCTION held;
SELECT queue.drop_queue(queue_name, true) FROM queue.queue;

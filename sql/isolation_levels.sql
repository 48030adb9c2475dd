-- At REPEATABLE READ and SERIALIZABLE a taker sees what is there now, and is never refused.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset tuples_only on
SELECT queue.create_queue('q', backoff_jitter => 0);

-- the whole life of a job in one transaction, at each level
CREATE PROCEDURE life() LANGUAGE plpgsql AS $$
DECLARE
	ids bigint[];
	seen bigint[];
BEGIN
	RAISE INFO '%', current_setting('transaction_isolation');
	ids := ARRAY(SELECT queue.enqueue_batch('q', '{1,2,3,4,5,6,7}'));
	ids := ids || queue.enqueue('q', '8', delay => '1us');
	ASSERT ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 2)) = ids[1:2];
	ASSERT ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 100)) = ids[3:8];
	ASSERT (SELECT count(*) FROM queue.dequeue_batch('q', 100)) = 0;
	ASSERT queue.complete(ids[1], attempt => 1);
	ASSERT NOT queue.complete(ids[1], attempt => 1);
	ASSERT queue.complete_many(ids[1:3]) = 2;
	ASSERT queue.fail(ids[4], 'no', retry => false) = 'failed';
	ASSERT queue.fail(ids[5], 'later') = 'delayed';
	ASSERT queue.release(ids[6]);
	ASSERT queue.extend(ids[7], '1h') > clock_timestamp() + '59min';
	ASSERT queue.cancel(ids[8]);
	SELECT array_agg(job_id) INTO seen FROM queue.complete_and_dequeue(ids[7:7], 'q', 10);
	ASSERT seen = ids[6:6], seen::text;
	ASSERT queue.requeue_failed('q') = 1;
	ASSERT ARRAY(SELECT job_id FROM queue.dequeue_batch('q', 2)) = ids[4:4];
	ASSERT queue.retry_job(ids[8]);
	ASSERT (SELECT state FROM queue.job_status(ids[8])) = 'waiting';
	ASSERT (SELECT count(*) FROM queue.list_jobs('q', 'completed')) = 4;
	ASSERT queue.clean('q', '0', 'completed') = 4;
	ASSERT queue.purge_queue('q') = 2;
	ASSERT queue.complete_many(ids) = 2;
END
$$;
BEGIN ISOLATION LEVEL READ COMMITTED;
CALL life();
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL life();
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL life();
ROLLBACK;
SELECT counts('q');
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL life();
COMMIT;
SELECT counts('q');
SELECT queue.clean('q', '0');
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL life();
COMMIT;
SELECT counts('q');
SELECT queue.clean('q', '0');

-- the maintenance worker has moved a job since the snapshot was taken; the taker finds it, once
CREATE PROCEDURE poll(what text) LANGUAGE plpgsql AS $$
DECLARE
	done boolean := false;
BEGIN
	FOR i IN 1..1000 LOOP
		EXECUTE 'SELECT ' || what INTO done;
		EXIT WHEN done;
		PERFORM pg_sleep(0.01);
	END LOOP;
	ASSERT done, what;
END
$$;
SELECT count(queue.enqueue('q', '"moved"', delay => '20ms'));
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT state FROM queue.job WHERE payload IS NULL;
CALL poll($$(SELECT waiting = 1 FROM queue.queue_stats('q'))$$);
SELECT payload, attempt, queue.complete(job_id) FROM queue.dequeue_batch('q', 2);
COMMIT;
SELECT counts('q');
SELECT count(queue.enqueue('q', '"moved"', delay => '20ms'));
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT state FROM queue.job WHERE payload IS NULL;
CALL poll($$(SELECT waiting = 1 FROM queue.queue_stats('q'))$$);
SELECT payload, attempt, queue.complete(job_id) FROM queue.dequeue_batch('q', 2);
COMMIT;
SELECT counts('q');

-- it has failed one whose attempts were used up: what its holder then says is answered, not refused
SELECT queue.enqueue('q', '"stalled"', max_attempts => 1) AS id \gset
SELECT payload FROM queue.dequeue_batch('q', 2);
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT state FROM queue.job;
SELECT queue.extend(:id, '1us') IS NOT NULL;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM queue.job WHERE payload IS NULL;
CALL poll($$(SELECT failed = 1 FROM queue.queue_stats('q'))$$);
SELECT queue.complete(:id, attempt => 1), queue.fail(:id), queue.cancel(:id), queue.extend(:id, '1h'),
	queue.complete_many(ARRAY[:id]);
COMMIT;
SELECT counts('q');

-- as the default of a session, with savepoints
SET default_transaction_isolation = 'serializable';
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
BEGIN;
SELECT payload FROM queue.dequeue_batch('q');
SAVEPOINT a;
SELECT payload FROM queue.dequeue_batch('q');
ROLLBACK TO a;
SELECT payload FROM queue.dequeue_batch('q');
COMMIT;
SELECT counts('q');
SELECT queue.pause_queue('q');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.alter_queue('q', aging_interval => '1h');
SELECT queue.resume_queue('q');
SELECT payload FROM queue.dequeue_batch('q');
SELECT queue.drop_queue('q', true);
RESET default_transaction_isolation;
DROP PROCEDURE life, poll;

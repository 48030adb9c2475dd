-- A lease that ends gives the job to another, fences off the first taker, and spends an attempt.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', max_attempts => 3);
CREATE TEMP TABLE held (n int, job_id bigint, payload jsonb, attempt int);

-- while it lasts, nobody gets the job; after it, the next one does
SELECT queue.enqueue('q', '"job"') IS NOT NULL AS enqueued;
INSERT INTO held SELECT 1, * FROM take('q', 1, '1h', 'first');
SELECT count(*) FROM queue.dequeue_batch('q');
SELECT queue.extend(job_id, '1us') IS NOT NULL AS extended FROM held;
INSERT INTO held SELECT 2, * FROM take('q', 1, '1h', 'second');
SELECT count(*) FROM queue.dequeue_batch('q');
SELECT n, payload, attempt FROM held ORDER BY n;

-- the first can do nothing with it any more
SELECT n, queue.complete(job_id, '"mine"', attempt), queue.fail(job_id, 'mine', attempt => attempt),
	queue.extend(job_id, '1h', attempt), queue.release(job_id, attempt => attempt),
	queue.complete_many(ARRAY[job_id], ARRAY[attempt]), queue.fail_many(ARRAY[job_id], 'mine', ARRAY[attempt])
FROM held WHERE n = 1;
SELECT state, attempt, worker FROM queue.job;

-- a lease that has ended is still held as long as nobody has taken it over
SELECT queue.extend(job_id, '1us', attempt) IS NOT NULL AS extended FROM held WHERE n = 2;
SELECT queue.extend(job_id, '1h', attempt) > clock_timestamp() AS extended FROM held WHERE n = 2;
SELECT queue.extend(job_id, '1us', attempt) IS NOT NULL AS extended FROM held WHERE n = 2;
SELECT queue.complete(job_id, '"mine"', attempt) FROM held WHERE n = 2;
SELECT state, result, attempt, worker FROM queue.job_status((SELECT job_id FROM held WHERE n = 1));
SELECT attempt, event, worker, regexp_replace(message, ' at [-0-9: .+]+', ' at TIME') AS message, error
FROM queue.job_log WHERE job_id IN (SELECT job_id FROM held) ORDER BY at;
SELECT counts('q');

-- a job whose lease ends again and again uses up its attempts and fails, though nobody takes any more
TRUNCATE held;
SELECT queue.enqueue('q', '"poison"') IS NOT NULL AS enqueued;
INSERT INTO held SELECT 1, * FROM take('q', 1, '1us', 'first');
INSERT INTO held SELECT 2, * FROM take('q', 1, '1us', 'second');
INSERT INTO held SELECT 3, * FROM take('q', 1, '1us', 'third');
SELECT n, payload, attempt FROM held ORDER BY n;
CALL wait_until($$counts('q') = 'completed 1, failed 1'$$);
SELECT payload, state, attempt, worker, error
FROM queue.list_jobs('q', 'failed');
SELECT attempt, event, worker, regexp_replace(message, ' at [-0-9: .+]+', ' at TIME') AS message, error
FROM queue.job_log WHERE job_id IN (SELECT job_id FROM held) ORDER BY at;
SELECT queue.complete(job_id) FROM held WHERE n = 3;

-- so do many at once
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q', max_attempts => 1);
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 1500) AS i));
SELECT count(*) FROM queue.dequeue_batch('q', 1500, '1us');
CALL wait_until($$counts('q') = 'failed 1500'$$);
SELECT count(*), count(DISTINCT job_id) FROM queue.job_log JOIN queue.queue USING (queue_id)
WHERE queue_name = 'q' AND event = 'stalled';

-- leases of different lengths end each in its time, wherever they stand in the order
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3,4,5}');
SELECT count(*) FROM queue.dequeue_batch('q', 5, '1h');
SELECT payload, queue.extend(job_id, '1us') IS NOT NULL AS ended FROM queue.job WHERE payload IN ('2', '4') ORDER BY payload;
INSERT INTO held SELECT 0, * FROM take('q', 2, '1h');
INSERT INTO held SELECT 0, * FROM take('q', 2, '1h') WHERE (SELECT count(*) FROM held WHERE n = 0) < 2;
SELECT payload, attempt FROM held WHERE n = 0 ORDER BY payload;
SELECT count(*) FROM queue.dequeue_batch('q', 5);
SELECT counts('q');

-- a job that comes back keeps its place before those that came later
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3}');
SELECT payload FROM queue.dequeue_batch('q', 1, '1h') AS j;
SELECT queue.extend(job_id, '1us') IS NOT NULL AS extended FROM queue.job WHERE state = 'active';
CALL wait_until($$(SELECT hint_job_id <= (SELECT job_id FROM queue.job WHERE state = 'active')
	FROM queue._hints() JOIN queue.queue USING (queue_id) WHERE queue_name = 'q' AND order_class = 5)$$);
SELECT payload, attempt FROM queue.dequeue_batch('q', 3);

-- an attempt that is given back is not spent
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q', max_attempts => 2);
SELECT queue.enqueue('q', '"again"') IS NOT NULL AS enqueued;
SELECT attempt, queue.release(job_id, attempt => attempt) FROM generate_series(1, 3) AS i,
	LATERAL (SELECT * FROM queue.dequeue_batch('q', CASE WHEN i > 0 THEN 1 END)) AS j;
SELECT counts('q');
SELECT queue.drop_queue('q', true);

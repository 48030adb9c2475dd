-- Jobs are taken in order of priority and age, once each, for a lease of the right length.
\set ECHO none
\i test/helpers.sql
\set ECHO all
SELECT queue.create_queue('q', visibility_timeout => '90s');

-- lower priority first, then who was due first, then who came first
SELECT count(queue.enqueue('q', to_jsonb(p || ' ' || t), priority => p, run_at => t))
FROM unnest('{32767,0,5,-32768,-1}'::int[]) AS p, unnest('{2020-01-02,2020-01-01}'::date[]) AS t;
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY['"c"', '"a"', '"b"']::jsonb[], priority => 7);
SELECT count(queue.enqueue('q', to_jsonb(i), priority => 7)) FROM generate_series(1, 3) AS i;
SELECT payload, priority FROM queue.dequeue_batch('q', 4);
SELECT payload, priority FROM queue.dequeue_batch('q', 100);
SELECT payload FROM queue.dequeue_batch('q', 100);
SELECT counts('q');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;

-- as many priorities as one likes
SELECT count(queue.enqueue('q', to_jsonb(p), priority => p)) FROM (SELECT i * 7919 % 1009 - 500 AS p FROM generate_series(1, 1000) AS i) AS j;
SELECT count(*), bool_and(priority > before) AS in_order
FROM (SELECT priority, lag(priority, 1, -1000) OVER () AS before FROM queue.dequeue_batch('q', 2000)) AS j;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;

-- what a taker is told
SELECT queue.enqueue('q', '{"a": 1}', 3, batch_id => 'b', source => 's', headers => '{"h": [1]}', max_attempts => 2) IS NOT NULL AS enqueued;
SELECT payload, priority, attempt, max_attempts, batch_id, group_key, source, headers,
	enqueued_at < clock_timestamp() AS enqueued,
	lease_expires_at BETWEEN now() + '90s' AND clock_timestamp() + '90s' AS held
FROM queue.dequeue_batch('q', worker => 'w1') \gx
SELECT state, attempt, worker, lease_expires_at - taken_at AS lease FROM queue.job;
SELECT queue.complete(job_id) FROM queue.job;

-- the lease: of the call, else of the job, else of the queue
SELECT queue.enqueue('q', '"job"', options => '{"visibility_timeout": "45 s"}') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"queue"') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"call"', options => '{"visibility_timeout": "45 s"}') IS NOT NULL AS enqueued;
SELECT queue.enqueue('q', '"endless"') IS NOT NULL AS enqueued;
SELECT count(*) FROM queue.dequeue_batch('q', 2);
SELECT count(*) FROM queue.dequeue_batch('q', 1, '1 day 00:00:00.000001');
SELECT count(*) FROM queue.dequeue_batch('q', 1, '100000000 days');
SELECT payload, CASE payload WHEN '"endless"' THEN null ELSE lease_expires_at - taken_at END AS lease,
	isfinite(lease_expires_at)
FROM queue.job ORDER BY job_id;
SELECT queue.complete_many(array_agg(job_id)) FROM queue.job;

-- how many at once
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 2000) AS i));
SELECT payload FROM queue.dequeue_batch('q');
SELECT count(*), min(payload::int), max(payload::int) FROM queue.dequeue_batch('q', 999);
SELECT count(*), min(payload::int), max(payload::int) FROM queue.dequeue_batch('q', 100000);
SELECT count(*) FROM queue.dequeue_batch('q', 100000);
SELECT counts('q');
\pset format unaligned
\pset tuples_only on
SELECT errors(
	$$queue.dequeue_batch(null)$$,
	$$queue.dequeue_batch('')$$,
	$$queue.dequeue_batch('no such')$$,
	$$queue.dequeue_batch('q', null)$$,
	$$queue.dequeue_batch('q', 0)$$,
	$$queue.dequeue_batch('q', -1)$$,
	$$queue.dequeue_batch('q', 100001)$$,
	$$queue.dequeue_batch('q', 1, '0')$$,
	$$queue.dequeue_batch('q', 1, '-1s')$$,
	$$queue.dequeue_batch('q', 1, '1 month')$$,
	$$queue.dequeue_batch('q', 1, '2000000000 days')$$,
	$$queue.dequeue_batch('q', worker => repeat('x', 1001))$$,
	$$queue.complete_and_dequeue(null, null)$$,
	$$queue.complete_and_dequeue(null, 'no such')$$,
	$$queue.complete_and_dequeue(null, 'q', 0)$$,
	$$queue.complete_and_dequeue('{1,2}', 'q', attempts => '{1}')$$,
	$$queue.complete_and_dequeue(ARRAY(SELECT job_id FROM queue.job), 'q', visibility_timeout => '0')$$
);
\pset format aligned
\pset tuples_only off
-- not even the last one has completed anything
SELECT counts('q');

-- claims are HOT updates: no index is touched
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd AS upd, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relid = 'queue.job_live'::regclass \gset
SELECT count(*) FROM queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(repeat('x', 100)) FROM generate_series(1, 10000)));
SELECT count(*) FROM generate_series(0, 99) AS i, queue.dequeue_batch('q', 100, worker => 'worker ' || i);
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd - :upd AS updates, n_tup_hot_upd - :hot > 0.95 * (n_tup_upd - :upd) AS hot
FROM pg_stat_user_tables WHERE relid = 'queue.job_live'::regclass;

-- the job after next: complete the last ones and take the next in one call
SELECT queue.drop_queue('q', true);
SELECT queue.create_queue('q');
SELECT count(*) FROM queue.enqueue_batch('q', '{1,2,3,4,5}');
CREATE TEMP TABLE held AS SELECT * FROM queue.complete_and_dequeue(null, 'q', 2, '1h', 'w');
SELECT payload, lease_expires_at > now() + '59min' AS held FROM held;
SELECT payload FROM queue.complete_and_dequeue((SELECT array_agg(job_id) FROM held), 'q', 2,
	attempts => (SELECT array_agg(attempt) FROM held));
SELECT counts('q');
-- who shows a wrong attempt completes nothing, and takes all the same
SELECT payload FROM queue.complete_and_dequeue((SELECT array_agg(job_id) FROM queue.job WHERE state = 'active'),
	'q', 2, attempts => '{2,2}');
SELECT payload FROM queue.complete_and_dequeue('{}', 'q', 2);
SELECT counts('q');
SELECT queue.drop_queue('q', true);

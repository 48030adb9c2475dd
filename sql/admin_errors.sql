-- Bad settings and unknown queues are refused with SQLSTATE, detail and hint, and change nothing.
\set ECHO none
\i test/helpers.sql
\set ECHO all
\pset format unaligned
\pset tuples_only on
SELECT queue.create_queue('a');
CREATE TEMP TABLE before AS SELECT * FROM queue.queue;

-- names
SELECT errors(
	$$queue.create_queue(null)$$,
	$$queue.create_queue('')$$,
	$$queue.create_queue('a')$$,
	$$queue.create_queue(repeat('x', 58))$$,
	$$queue.create_queue(repeat('x', 64))$$,
	$$queue.create_queue(repeat('ü', 29))$$
);

-- settings of a new queue
SELECT errors(
	$$queue.create_queue('b', max_attempts => null)$$,
	$$queue.create_queue('b', max_attempts => 0)$$,
	$$queue.create_queue('b', max_attempts => -1)$$,
	$$queue.create_queue('b', max_attempts => 32768)$$,
	$$queue.create_queue('b', backoff => null)$$,
	$$queue.create_queue('b', backoff => 'linear')$$,
	$$queue.create_queue('b', backoff_base => null)$$,
	$$queue.create_queue('b', backoff_base => '-1s')$$,
	$$queue.create_queue('b', backoff_base => '1 month')$$,
	$$queue.create_queue('b', backoff_max => null)$$,
	$$queue.create_queue('b', backoff_max => '-1s')$$,
	$$queue.create_queue('b', backoff_max => '200000000 days')$$,
	$$queue.create_queue('b', backoff_jitter => null)$$,
	$$queue.create_queue('b', backoff_jitter => -0.01)$$,
	$$queue.create_queue('b', backoff_jitter => 1.01)$$,
	$$queue.create_queue('b', backoff_jitter => 'NaN')$$,
	$$queue.create_queue('b', backoff_jitter => 'Infinity')$$,
	$$queue.create_queue('b', visibility_timeout => null)$$,
	$$queue.create_queue('b', visibility_timeout => '0')$$,
	$$queue.create_queue('b', visibility_timeout => '-1s')$$,
	$$queue.create_queue('b', visibility_timeout => '1 year')$$,
	$$queue.create_queue('b', default_priority => null)$$,
	$$queue.create_queue('b', default_priority => 32768)$$,
	$$queue.create_queue('b', default_priority => -32769)$$,
	$$queue.create_queue('b', aging_interval => '0')$$,
	$$queue.create_queue('b', aging_interval => '-1s')$$,
	$$queue.create_queue('b', aging_interval => '1 month')$$,
	$$queue.create_queue('b', aging_interval => '1000 days 1 us')$$,
	$$queue.create_queue('b', aging_interval => '2000000000 days')$$,
	$$queue.create_queue('b', keep_completed => null)$$,
	$$queue.create_queue('b', keep_completed => '-1 day')$$,
	$$queue.create_queue('b', keep_completed => '1 month -31 days')$$,
	$$queue.create_queue('b', keep_completed => '-1 day -2562047788:00:54.7')$$,
	$$queue.create_queue('b', keep_failed => null)$$,
	$$queue.create_queue('b', keep_failed => '-1 month')$$,
	$$queue.create_queue('b', log_level => null)$$,
	$$queue.create_queue('b', log_level => 'debug')$$
);

-- the same of one that is there
SELECT errors(
	$$queue.alter_queue(null, max_attempts => 1)$$,
	$$queue.alter_queue('', max_attempts => 1)$$,
	$$queue.alter_queue('no such', max_attempts => 1)$$,
	$$queue.alter_queue('a', max_attempts => 0)$$,
	$$queue.alter_queue('a', backoff => '')$$,
	$$queue.alter_queue('a', backoff_base => '-1us')$$,
	$$queue.alter_queue('a', backoff_max => '1 mon')$$,
	$$queue.alter_queue('a', backoff_jitter => 2)$$,
	$$queue.alter_queue('a', visibility_timeout => '0')$$,
	$$queue.alter_queue('a', default_priority => 40000)$$,
	$$queue.alter_queue('a', aging_interval => '1000 days 1 us')$$,
	$$queue.alter_queue('a', keep_completed => '-1 day')$$,
	$$queue.alter_queue('a', max_attempts => 5, keep_failed => '-1 day')$$,
	$$queue.alter_queue('a', log_level => 'ERRORS')$$,
	$$queue.alter_queue('a', max_attempts => 5, owner => '4294967295')$$
);
SELECT errors(
	$$queue.reset_queue_setting(null, 'backoff')$$,
	$$queue.reset_queue_setting('no such', 'backoff')$$,
	$$queue.reset_queue_setting('a', null)$$,
	$$queue.reset_queue_setting('a', '')$$,
	$$queue.reset_queue_setting('a', 'colour')$$,
	$$queue.reset_queue_setting('a', 'owner')$$,
	$$queue.reset_queue_setting('a', 'backoff = backoff, owner')$$
);

-- the other verbs
SELECT queue.enqueue('a', '1') IS NOT NULL;
SELECT errors(
	$$queue.drop_queue(null)$$,
	$$queue.drop_queue('')$$,
	$$queue.drop_queue('no such')$$,
	$$queue.drop_queue('a')$$,
	$$queue.pause_queue('')$$,
	$$queue.pause_queue('no such')$$,
	$$queue.resume_queue('no such')$$,
	$$queue.purge_queue(null)$$,
	$$queue.purge_queue('no such')$$
);
SELECT errors(
	$$queue.grant_queue(null, current_user::regrole, 'browse')$$,
	$$queue.grant_queue('no such', current_user::regrole, 'browse')$$,
	$$queue.grant_queue('a', null, 'browse')$$,
	$$queue.grant_queue('a', 4294967295::oid::regrole, 'browse')$$,
	$$queue.grant_queue('a', current_user::regrole, null)$$,
	$$queue.grant_queue('a', current_user::regrole, '')$$,
	$$queue.grant_queue('a', current_user::regrole, ' , ')$$,
	$$queue.grant_queue('a', current_user::regrole, 'browse, own')$$,
	$$queue.revoke_queue(null, current_user::regrole, 'browse')$$,
	$$queue.revoke_queue('no such', current_user::regrole, 'browse')$$,
	$$queue.revoke_queue('a', null, 'browse')$$,
	$$queue.revoke_queue('a', current_user::regrole, 'all')$$
);

-- in a transaction that may not write
BEGIN READ ONLY;
SELECT errors(
	$$queue.create_queue('b')$$,
	$$queue.alter_queue('a', max_attempts => 1)$$,
	$$queue.drop_queue('a', true)$$,
	$$queue.enqueue('a', '1')$$,
	$$queue.dequeue_batch('a')$$
);
COMMIT;

-- nothing has changed
SELECT * FROM before EXCEPT SELECT * FROM queue.queue;
SELECT count(*) FROM queue.queue;
SELECT count(*) FROM queue.privilege;
SELECT counts('a');
SELECT queue.drop_queue('a', true);

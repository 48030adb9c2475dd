# Handlers that the server runs: what becomes of their jobs, who runs them, how
# many at once, and that they stop when they should.
#
# Handlers are held where a test wants them by advisory locks that it takes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes;

my $node = new_node('main', conf => q{
log_statement = none
max_worker_processes = 24
queue.max_executors = 8
queue.executor_idle_timeout = 1s
});

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database || 'postgres', $sql);
}

# Until a query gives true
sub until_true
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($query, $name) = @_;

	return wait_for($node, $query, $name);
}

sub settled
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($queue, $name) = @_;

	return until_true("SELECT waiting + delayed + blocked + active = 0 FROM queue.queue_stats('$queue')",
		$name || "$queue: all jobs have run");
}

my $executors = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue executor'};
my $held = q{SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
	WHERE locktype = 'advisory' AND NOT granted AND backend_type = 'queue executor'};

sql(q{
	CREATE TABLE effect (job_id bigint, queue text, payload jsonb, attempt int,
		pid int DEFAULT pg_backend_pid(), at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION note(job queue.job_context) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO effect (job_id, queue, payload, attempt)
		VALUES (job.job_id, job.queue_name, job.payload, job.attempt);
		IF job.payload ? 'lock' THEN
			PERFORM pg_advisory_xact_lock_shared((job.payload ->> 'lock')::int);
		END IF;
		IF job.payload ? 'sleep' THEN
			PERFORM pg_sleep((job.payload ->> 'sleep')::float8);
		END IF;
		IF job.payload ? 'error' THEN
			RAISE EXCEPTION USING message = 'told to fail', errcode = job.payload ->> 'error',
				detail = 'the detail', hint = 'the hint';
		END IF;
		RETURN jsonb_build_object('attempt', job.attempt);
	END $$});

# ---------------------------------------------------------------------
# One job
# ---------------------------------------------------------------------

sql(q{
	SELECT queue.create_queue('q', max_attempts => 2, backoff_base => '10 ms', backoff_jitter => 0);
	SELECT queue.enqueue('q', '{"n": 1}');
	SELECT queue.set_handler('q', 'note')});
settled('q', 'a handler runs what was there before it');
is(sql('SELECT state, attempt, result FROM queue.job_finished'), 'completed|1|{"attempt": 1}',
	'its result is kept');
like(sql('SELECT worker FROM queue.job_finished'), qr/^executor \d+$/, 'and who ran it');
is(sql('SELECT queue, payload, attempt FROM effect'), 'q|{"n": 1}|1', 'what it did is there');

sql(q{TRUNCATE effect; SELECT queue.enqueue('q', '{"error": "22012"}')});
settled('q', 'a handler that fails is tried again');
is(sql(q{SELECT state, attempt FROM queue.job_finished WHERE state = 'failed'}), 'failed|2',
	'until its attempts are used up');
is(sql('SELECT count(*) FROM effect'), 0, 'what it did is undone');
is(sql(q{SELECT split_part(error, E'\nCONTEXT: ', 1) FROM queue.job_finished WHERE state = 'failed'}),
	"told to fail (SQLSTATE 22012)\nDETAIL: the detail\nHINT: the hint", 'its error is kept');
is(sql(q{SELECT event, attempt, error ~ '^told to fail' FROM queue.job_log ORDER BY at}),
	"retried|1|t\nfailed|2|t", 'of each attempt');

sql(q{
	SELECT queue.alter_queue('q', no_retry_sqlstates => ARRAY['22012', '23']);
	SELECT queue.enqueue('q', jsonb_build_object('error', e))
	FROM unnest(ARRAY['22012', '23505', '22003']) AS e});
settled('q', 'errors that are not to be retried');
is(sql(q{SELECT payload ->> 'error', attempt FROM queue.job_finished
	WHERE state = 'failed' ORDER BY job_id OFFSET 1}),
	"22012|1\n23505|1\n22003|2", 'are listed by code or class');

sql(q{
	CREATE FUNCTION verbose(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION USING message = repeat('m', 100000), detail = repeat('d', 100000), hint = repeat('h', 100000);
	END $$;
	SELECT queue.create_queue('verbose', max_attempts => 1);
	SELECT queue.set_handler('verbose', 'verbose'); SELECT queue.enqueue('verbose', '{}')});
settled('verbose');
like(sql(q{SELECT error FROM queue.job_finished WHERE queue_name = 'verbose'}),
	qr/^m{8192} \(SQLSTATE P0001\)\nDETAIL: d{8192}\nHINT: h{8192}\nCONTEXT: /, 'errors are kept, cut');

sql(q{
	CREATE FUNCTION as_json(payload jsonb) RETURNS json LANGUAGE sql AS 'SELECT payload::json';
	CREATE FUNCTION as_text(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''a "text"''';
	CREATE FUNCTION as_void(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	CREATE FUNCTION as_null(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT null::jsonb';
	SELECT queue.create_queue(f), queue.set_handler(f, f), queue.enqueue(f, '[1, 2]')
	FROM unnest(ARRAY['as_json', 'as_text', 'as_void', 'as_null']) AS f});
until_true(q{SELECT sum(completed) = 4 FROM queue.queue_stats() WHERE queue_name LIKE 'as\_%'},
	'each type of result');
is(sql(q{SELECT queue_name, result FROM queue.job_finished WHERE queue_name LIKE 'as\_%' ORDER BY 1}),
	"as_json|[1, 2]\nas_null|\nas_text|\"a \\\"text\\\"\"\nas_void|", 'is kept as jsonb');

sql(q{SELECT queue.enqueue('q', '{"n": 2}', delay => '300 ms')});
settled('q', 'a delayed job runs when it is due');

# ---------------------------------------------------------------------
# How many
# ---------------------------------------------------------------------

my $lock = $node->background_psql('postgres');
$lock->query_safe('SELECT pg_advisory_lock(1)');
sql(q{
	SELECT queue.create_queue('many');
	SELECT queue.set_handler('many', 'note', 3);
	SELECT count(*) FROM queue.enqueue_batch('many', array_fill('{"lock": 1}'::jsonb, ARRAY[10]))});
wait_for($node, $held, 'as many run at once as the queue allows', 3);
is(sql(q{SELECT waiting + active FROM queue.queue_stats('many')}), 10, 'the others wait');
sql(q{SELECT queue.set_handler('many', 'note', 5)});
wait_for($node, $held, 'the concurrency can be raised', 5);
sql(q{SELECT queue.enqueue('q', '{"n": 3}')});
settled('q', 'another queue has its turn meanwhile');

# stop gives back what was not started, and lets the rest go on
sql(q{SELECT queue.stop_processing('many')});
until_true(q{SELECT active = 5 AND waiting = 5 FROM queue.queue_stats('many')},
	'stop_processing gives back what has not begun');
$lock->query_safe('SELECT pg_advisory_unlock(1)');
until_true(q{SELECT completed = 5 AND waiting = 5 FROM queue.queue_stats('many')},
	'and lets the rest finish');
is(sql(q{SELECT count(*) FROM queue.job WHERE queue_name = 'many' AND attempt = 0}), 5,
	'no attempt is charged for what has not begun');
sql(q{SELECT queue.start_processing('many')});
settled('many', 'start_processing goes on');
is(sql(q{SELECT count(*) FROM queue.job_finished WHERE queue_name = 'many' AND attempt = 1}), 10,
	'each in its first attempt');

sql(q{SELECT queue.pause_queue('many'); SELECT queue.enqueue('many', '{}'); SELECT queue.enqueue('q', '{}')});
settled('q');
is(sql(q{SELECT waiting FROM queue.queue_stats('many')}), 1, 'nothing of a paused queue runs');
sql(q{SELECT queue.resume_queue('many')});
settled('many', 'until it is resumed');

wait_for($node, $executors, 'executors without a job leave', 0);
sql(q{SELECT queue.set_handler('q', 'note', 4, 2)});
wait_for($node, $executors, 'but for those that the queue keeps', 2);
sql(q{SELECT queue.set_handler('q', 'note')});
wait_for($node, $executors, 'as long as it does', 0);

# claims behind a job that takes long are given to others
sql(q{
	SELECT queue.create_queue('mixed');
	SELECT count(*) FROM queue.enqueue_batch('mixed', array_fill('{}'::jsonb, ARRAY[500]))});
$lock->query_safe('SELECT pg_advisory_lock(2)');
sql(q{SELECT queue.enqueue('mixed', '{"lock": 2}')});
sql(q{SELECT count(*) FROM queue.enqueue_batch('mixed', array_fill('{}'::jsonb, ARRAY[50]));
	SELECT queue.set_handler('mixed', 'note', 2)});
until_true(q{SELECT completed = 550 AND active = 1 FROM queue.queue_stats('mixed')},
	'a long job holds nobody up');
$lock->query_safe('SELECT pg_advisory_unlock(2)');
settled('mixed');
is(sql(q{SELECT count(*) FROM (SELECT job_id FROM effect GROUP BY job_id HAVING count(*) > 1) AS d}), 0,
	'no job ran twice');

# what an executor has claimed and not begun goes back when the queue is stopped
sql(q{
	SELECT queue.create_queue('claims');
	SELECT count(*) FROM queue.enqueue_batch('claims', array_fill('{}'::jsonb, ARRAY[300]));
	SELECT queue.set_handler('claims', 'note')});
settled('claims', 'short jobs, so that many are claimed at once');
$lock->query_safe('SELECT pg_advisory_lock(2)');
sql(q{SELECT count(*) FROM queue.enqueue_batch('claims', '{"lock": 2}'::jsonb || array_fill('{}'::jsonb, ARRAY[20]))});
wait_for($node, $held, 'the first of them takes long', 1);
sql(q{SELECT queue.stop_processing('claims')});
until_true(q{SELECT active = 1 AND waiting = 20 FROM queue.queue_stats('claims')},
	'claims that have not begun are given back');
is(sql(q{SELECT count(*) FROM queue.job WHERE queue_name = 'claims' AND attempt = 0}), 20, 'with nothing charged');
$lock->query_safe('SELECT pg_advisory_unlock(2)');
sql(q{SELECT queue.start_processing('claims')});
settled('claims');

# limits hold for executors and takers together
$lock->query_safe('SELECT pg_advisory_lock(2)');
sql(q{
	SELECT queue.create_queue('limited', max_active => 3, visibility_timeout => '1 h');
	SELECT count(*) FROM queue.enqueue_batch('limited', array_fill('{"lock": 2}'::jsonb, ARRAY[10]));
	SELECT count(*) FROM queue.dequeue_batch('limited');
	SELECT queue.set_handler('limited', 'note', 8)});
wait_for($node, $held, 'a taker has one place of three, executors have two', 2);
is(sql(q{SELECT count(*) FROM queue.dequeue_batch('limited', 5)}), 0, 'there is none for others');
is(sql(q{SELECT count(queue.complete(job_id)) FROM queue.job WHERE worker IS NULL AND state = 'active'}), 1,
	'the taker is done');
wait_for($node, $held, 'an executor gets the place', 3);
is(sql(q{SELECT active, waiting FROM queue.queue_stats('limited')}), '3|6', 'and no more than that');
$lock->query_safe('SELECT pg_advisory_unlock(2)');
settled('limited');
sql(q{
	SELECT queue.alter_queue('limited', rate_limit => 2, rate_period => '200 ms');
	TRUNCATE effect;
	SELECT count(*) FROM queue.enqueue_batch('limited', array_fill('{}'::jsonb, ARRAY[8]))});
settled('limited', 'executors come again when a rate allows');
is(sql(q{SELECT max(at) - min(at) >= '550 ms' FROM effect WHERE queue = 'limited'}), 't', 'and keep to it');
sql(q{
	SELECT queue.reset_queue_setting('limited', 'rate_limit');
	SELECT queue.throttle('limited', '1 h');
	SELECT queue.enqueue('limited', '{"n": "throttled"}'); SELECT queue.enqueue('q', '{"n": "free"}')});
until_true(q{SELECT count(*) = 1 FROM effect WHERE payload = '{"n": "free"}'}, 'another queue goes on');
is(sql(q{SELECT waiting FROM queue.queue_stats('limited')}), 1, 'while one is throttled');
sql(q{SELECT queue.throttle('limited', '0')});
settled('limited', 'until that is lifted');
$lock->query_safe('SELECT pg_advisory_lock(2)');
sql(q{
	SELECT queue.create_queue('keyed', max_active_per_key => 1);
	SELECT count(*) FROM queue.enqueue_batch('keyed', array_fill('{"lock": 2}'::jsonb, ARRAY[6]),
		options => '{"limit_keys": ["a", "a", "a", "a", "b", "b"]}');
	SELECT queue.set_handler('keyed', 'note', 8)});
wait_for($node, $held, 'one job of each key', 2);
is(sql(q{SELECT active, blocked FROM queue.queue_stats('keyed')}), '2|4', 'the others wait');
$lock->query_safe('SELECT pg_advisory_unlock(2)');
settled('keyed');

# a queue with many jobs does not keep one with few waiting
sql(q{
	SELECT queue.create_queue(n) FROM unnest(ARRAY['big', 'small']) AS n;
	SELECT count(*) FROM queue.enqueue_batch('big', array_fill('{"sleep": 0.001}'::jsonb, ARRAY[30000]));
	SELECT queue.set_handler('big', 'note', 8)});
until_true(q{SELECT count(*) > 10 FROM queue.job_finished WHERE queue_name = 'big'}, 'the big queue runs');
sql(q{
	SELECT queue.set_handler('small', 'note');
	SELECT count(*) FROM queue.enqueue_batch('small', array_fill('{}'::jsonb, ARRAY[3]))});
settled('small', 'the small one does not wait');
cmp_ok(sql(q{SELECT waiting FROM queue.queue_stats('big')}), '>', 0, 'for the end of the big one');
sql(q{SELECT queue.drop_queue(n, true) FROM unnest(ARRAY['big', 'small']) AS n});

# ---------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------

sql(q{
	SELECT queue.create_queue('slow', max_attempts => 1, job_timeout => '200 ms');
	CREATE FUNCTION stubborn(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_sleep(60);
			EXCEPTION WHEN query_canceled THEN
				IF payload ? 'once' THEN RETURN; END IF;
			END;
		END LOOP;
	END $$;
	SELECT queue.set_handler('slow', 'note', 4);
	SELECT queue.enqueue('slow', '{"sleep": 60}');
	SELECT queue.enqueue('slow', '{"sleep": 0.5}', options => '{"job_timeout": "1 min"}');
	SELECT queue.enqueue('slow', '{}')});
settled('slow', 'a job that runs over is cancelled');
is(sql(q{SELECT payload, state, split_part(error, ' (', 1) FROM queue.job_finished
	WHERE queue_name = 'slow' ORDER BY job_id}),
	qq[{"sleep": 60}|failed|job timeout\n{"sleep": 0.5}|completed|\n{}|completed|],
	'and fails with that reason; others go on, and may have longer');
sql(q{SELECT queue.set_handler('slow', 'stubborn', 4); SELECT queue.enqueue('slow', '{"once": 1}')});
settled('slow', 'one that catches the cancel');
is(sql(q{SELECT split_part(error, ' (', 1) FROM queue.job_finished WHERE payload ? 'once'}), 'job timeout',
	'fails all the same');
my $offset = -s $node->logfile;
sql(q{SELECT queue.enqueue('slow', '{"forever": 1}')});
settled('slow', 'one that never stops is ended with its executor');
is(sql(q{SELECT state, error FROM queue.job_finished WHERE payload ? 'forever'}),
	'failed|job timeout: the handler went on after it was cancelled', 'and fails with that reason');

sql(q{SELECT queue.enqueue('q', '{"sleep": 60}', max_attempts => 1)});
until_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type = 'queue executor'},
	'a job is running');
my $pid = sql(q{SELECT pg_cancel_backend(pid), pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
$pid =~ s/t\|//;
settled('q', 'it can be cancelled');
like(sql(q{SELECT error FROM queue.job_finished WHERE payload = '{"sleep": 60}' AND queue_name = 'q'}),
	qr/^canceling statement due to user request \(SQLSTATE 57014\)/, 'and fails as cancelled');
unlike(slurp_file($node->logfile), qr/\[$pid\].*(ERROR|FATAL)/, 'its executor goes on');

# ---------------------------------------------------------------------
# What others do meanwhile
# ---------------------------------------------------------------------

$lock->query_safe('SELECT pg_advisory_lock(3)');
my $job = sql(q{SELECT queue.enqueue('q', '{"lock": 3}')});
wait_for($node, $held, 'a job is held', 1);
is(sql("SELECT queue.extend($job, '1 s')"), 'infinity', 'its lease has no end');
is(sql("SELECT queue.cancel($job)"), 't', 'it can be cancelled while it runs');
wait_for($node, $held, 'which stops its handler', 0);
$lock->query_safe('SELECT pg_advisory_unlock(3)');
sql(q{SELECT queue.enqueue('q', '{"n": 4}')});
settled('q');
is(sql("SELECT count(*) FROM effect WHERE job_id = $job"), 0, 'what it did is undone');
is(sql("SELECT state, error IS NULL FROM queue.job_finished WHERE job_id = $job"), 'cancelled|t',
	'and it stays cancelled');

sql(q{CREATE FUNCTION changing(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT ''1''::jsonb';
	SELECT queue.create_queue('c', max_attempts => 1);
	SELECT queue.set_handler('c', 'changing', 1, 1);
	SELECT queue.enqueue('c', '1')});
settled('c');
sql(q{CREATE OR REPLACE FUNCTION changing(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT ''2''::jsonb';
	SELECT queue.enqueue('c', '2')});
settled('c');
sql(q{ALTER FUNCTION changing RENAME TO changed; SELECT queue.enqueue('c', '3')});
settled('c');
sql(q{ALTER FUNCTION changed RENAME TO changing; REVOKE EXECUTE ON FUNCTION changing FROM PUBLIC;
	CREATE ROLE worker; GRANT ALL ON SCHEMA public TO worker;
	GRANT EXECUTE ON FUNCTION changing TO worker; SELECT queue.alter_queue('c', owner => 'worker');
	SELECT queue.enqueue('c', '4')});
settled('c');
sql(q{REVOKE EXECUTE ON FUNCTION changing FROM worker; SELECT queue.enqueue('c', '5')});
settled('c');
sql(q{GRANT EXECUTE ON FUNCTION changing TO worker; SELECT queue.enqueue('c', '6')});
settled('c');
is(sql(q{SELECT payload, state, result, split_part(error, E'\n', 1) FROM queue.job_finished
	WHERE queue_name = 'c' ORDER BY job_id}), join("\n",
		'1|completed|1|', '2|completed|2|',
		'3|failed||function public.changing(jsonb) does not exist (SQLSTATE 42883)',
		'4|completed|2|', '5|failed||permission denied for function public.changing(jsonb) (SQLSTATE 42501)',
		'6|completed|2|'), 'a handler may be replaced, renamed, revoked; each job meets it as it is');

sql(q{DROP OWNED BY worker; REVOKE ALL ON ALL ROUTINES IN SCHEMA queue FROM worker;
	REVOKE ALL ON ALL TABLES IN SCHEMA queue FROM worker; REVOKE ALL ON SCHEMA queue, public FROM worker;
	DROP ROLE worker; SELECT queue.enqueue('c', '7')});
settled('c', 'without an owner nothing runs, or it fails');
sql(q{SELECT queue.alter_queue('c', owner => 'postgres'); SELECT queue.enqueue('c', '8')});
until_true(q{SELECT count(*) = 1 FROM queue.job_finished WHERE payload = '8' AND state = 'completed'},
	'with a new one it goes on');

# ---------------------------------------------------------------------
# By hand
# ---------------------------------------------------------------------

sql(q{SELECT queue.create_queue('hand', max_attempts => 2, backoff_base => '0', backoff_jitter => 0)});
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{SELECT queue.process_next('hand')});
like($stderr, qr/queue "hand" has no handler/, 'process_next needs a handler');
sql(q{SELECT queue.set_handler('hand', 'note'); SELECT queue.stop_processing('hand')});
is(sql(q{SELECT * FROM queue.process_next('hand')}), '', 'without a job there is no row');
sql(q{SELECT queue.enqueue('hand', '{"by": "hand"}'); SELECT queue.enqueue('hand', '{"error": "22012"}')});
is(sql(q{BEGIN; SELECT state FROM queue.process_next('hand'); ROLLBACK;
	SELECT waiting FROM queue.queue_stats('hand')}), "completed\n2", 'it is part of the transaction');
is(sql(q{SELECT state, result, error FROM queue.process_next('hand')}), 'completed|{"attempt": 1}|',
	'it runs the handler');
is(sql(q{SELECT count(*) FROM effect WHERE payload = '{"by": "hand"}'}), 1, 'what it did is there');
is(sql(q{SELECT state, split_part(error, E'\n', 1) FROM queue.process_next('hand')}),
	'waiting|told to fail (SQLSTATE 22012)', 'an error is an answer');
is(sql(q{SELECT state FROM queue.process_next('hand')}), 'failed', 'at last for good');

# ---------------------------------------------------------------------
# With everything else that a job may have
# ---------------------------------------------------------------------

sql(q{
	SELECT queue.create_queue('dead');
	SELECT queue.create_queue('all', max_attempts => 1, dead_letter_queue => 'dead');
	SELECT queue.create_batch('b', callback_queue => 'q', callback_payload => '{"callback": 1}');
	SELECT count(*) FROM (SELECT array_agg(jsonb_build_object('n', n)) AS p, jsonb_agg('g' || n % 3) AS k
		FROM generate_series(1, 90) AS n) AS s,
		queue.enqueue_batch('all', p, batch_id => 'b', options => jsonb_build_object('group_keys', k));
	SELECT queue.enqueue('all', '{"n": 99, "error": "22012"}', unique_key => 'u', batch_id => 'b');
	SELECT queue.close_batch('b');
	TRUNCATE effect;
	SELECT queue.set_handler('all', 'note', 4)});
settled('all', 'groups, a batch, a key, a dead letter');
is(sql(q{SELECT bool_and(at > before) FROM (SELECT at, lag(at) OVER (PARTITION BY (payload ->> 'n')::int % 3
	ORDER BY (payload ->> 'n')::int) AS before FROM effect WHERE queue = 'all') AS e}), 't',
	'jobs of a group run in their order');
is(sql(q{SELECT waiting FROM queue.queue_stats('dead')}), 1, 'the dead letter is where it belongs');
until_true(q{SELECT count(*) = 1 FROM effect WHERE payload = '{"callback": 1}'}, 'the batch calls back');
is(sql(q{SELECT total, processed, failed, status FROM queue.batch_status('b')}), '91|90|1|completed',
	'its counts are exact');
sql(q{WITH a AS (SELECT queue.enqueue('all', '{"n": "a"}') AS id)
	SELECT queue.enqueue('all', '{"n": "b"}', depends_on => ARRAY[id]) FROM a});
settled('all', 'a chain');
check_counters($node, 'after all that');
check_structure($node, 'after all that');

# ---------------------------------------------------------------------
# Several owners, few executors; the end of a database
# ---------------------------------------------------------------------

sql(q{
	ALTER SYSTEM SET queue.max_executors = 2;
	SELECT pg_reload_conf();
	CREATE ROLE o1; CREATE ROLE o2; CREATE ROLE o3;
	CREATE FUNCTION who(payload jsonb) RETURNS text LANGUAGE sql AS
		'SELECT format(''%s %s %s'', current_user, session_user, current_setting(''is_superuser''))';
	SELECT queue.create_queue('of_' || o), queue.set_handler('of_' || o, 'who', 2),
		queue.alter_queue('of_' || o, owner => o::regrole) FROM unnest(ARRAY['o1', 'o2', 'o3']) AS o;
	SELECT count(*) FROM unnest(ARRAY['o1', 'o2', 'o3']) AS o,
		queue.enqueue_batch('of_' || o, array_fill('1'::jsonb, ARRAY[200]))});
settled("of_$_") for qw(o1 o2 o3);
is(sql(q{SELECT DISTINCT queue_name, result #>> '{}' FROM queue.job_finished WHERE queue_name LIKE 'of\_%' ORDER BY 1}),
	"of_o1|o1 o1 off\nof_o2|o2 o2 off\nof_o3|o3 o3 off", 'each job runs as the owner of its queue');
cmp_ok(sql($executors), '<=', 2, 'in no more executors than there may be');

$node->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($node, 'other');
sql(q{CREATE FUNCTION nap(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
	SELECT queue.create_queue('q'); SELECT queue.set_handler('q', 'nap', 1, 1)}, 'other');
my $others = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue executor' AND datname = 'other'};
wait_for($node, $others, 'an idle executor in another database', 1);
sql('DROP DATABASE other');
is(sql($others), 0, 'is not in the way of DROP DATABASE');
sql('CREATE DATABASE other');
create_extension($node, 'other');
sql(q{CREATE FUNCTION nap(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
	SELECT queue.create_queue('q'); SELECT queue.set_handler('q', 'nap'); SELECT queue.enqueue('q', '1')}, 'other');
until_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = 'other'},
	'a busy one');
sql('DROP DATABASE other WITH (FORCE)');
is(sql($others), 0, 'goes with DROP DATABASE FORCE');

sql(q{SELECT queue.enqueue('q', '{"sleep": 60}')});
until_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 'a job is running');
my $began = Time::HiRes::time();
$node->stop('fast');
note sprintf('fast shutdown with a busy executor: %.2f s', Time::HiRes::time() - $began);
$node->start;
is(sql(q{SELECT attempt <= 1 FROM queue.job WHERE payload = '{"sleep": 60}'}), 't', 'no attempt is charged');
until_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 'it runs again');
is(sql(q{SELECT attempt FROM queue.job WHERE payload = '{"sleep": 60}'}), 1, 'as its first attempt');

$lock->quit;

# ---------------------------------------------------------------------
# Where there is no room
# ---------------------------------------------------------------------

my $small = new_node('small', conf => q{
max_worker_processes = 4
queue.max_executors = 4
});
$small->safe_psql('postgres', q{
	CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.05)';
	SELECT queue.create_queue('q'); SELECT queue.set_handler('q', 'nothing', 4);
	SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[40]))});
wait_for($small, q{SELECT completed = 40 FROM queue.queue_stats('q')}, 'fewer executors do it, too');
my @logged = slurp_file($small->logfile) =~ /no background worker slot is free for an executor/g;
is(scalar @logged, 1, 'which is logged once');

done_testing();

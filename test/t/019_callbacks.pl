# Functions that a queue names, called by a worker, which nobody would cancel:
# those that do not end must not keep it from what it does for others.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $node = new_node('main', conf => q{
log_statement = none
queue.maintenance_interval = 100ms
queue.max_executors = 1
queue.executor_idle_timeout = '1 h'
});

$node->safe_psql('postgres', q{
	CREATE TABLE called (queue_name text, payload jsonb);
	CREATE FUNCTION sleeps(job queue.job_context) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO called VALUES (job.queue_name, job.payload);
		IF job.payload <> '"short"' THEN
			PERFORM pg_sleep(3600);
		END IF;
	END $$;
	-- one that ends when it is cancelled, as if nothing had been
	CREATE FUNCTION catches(job queue.job_context) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO called VALUES (job.queue_name, job.payload);
		PERFORM pg_sleep(3600);
	EXCEPTION WHEN query_canceled THEN
		INSERT INTO called VALUES ('caught', job.payload);
	END $$;
	-- one that goes on
	CREATE FUNCTION goes_on(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_sleep(3600);
			EXCEPTION WHEN query_canceled THEN
				RAISE LOG 'caught';
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION goes_on(job queue.job_context) RETURNS void LANGUAGE sql AS 'SELECT goes_on(job.payload)';
	CREATE FUNCTION fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
	SELECT queue.create_queue('live');
	SELECT queue.create_queue(name, max_attempts => 1, job_timeout => '1 s', on_failed => name || '(queue.job_context)')
	FROM unnest('{sleeps,catches,goes_on}'::text[]) AS name});

my $maintenance = q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'queue maintenance' AND datname = 'postgres'};

# a job whose lease ends with its last attempt
sub lose
{
	my ($queue, $payload) = @_;

	$node->safe_psql('postgres', qq{
		SELECT queue.enqueue('$queue', '"$payload"');
		SELECT count(*) FROM queue.dequeue_batch('$queue', visibility_timeout => '1 ms')});
	return;
}

sub failed
{
	my ($queue, $payload) = @_;
	return qq{SELECT count(*) FROM queue.job_finished WHERE queue_name = '$queue' AND payload = '"$payload"' AND state = 'failed'};
}

# the errors that the log tells of on_failed
sub errors
{
	my ($queue, $payload) = @_;
	return $node->safe_psql('postgres', qq{SELECT string_agg(l.error, ', ' ORDER BY l.error) FROM queue.job_log AS l JOIN queue.job_finished USING (job_id)
		WHERE queue_name = '$queue' AND payload = '"$payload"' AND message = 'on_failed raised an error'});
}

my $calls = q{SELECT count(*) FROM called};

# the worker does what it does for others
sub lives
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$node->safe_psql('postgres', q{SELECT queue.enqueue('live', '1', delay => '1 ms')});
	wait_for($node, q{SELECT count(*) FROM queue.job_live JOIN queue.queue USING (queue_id) WHERE queue_name = 'live'}, $name, '1');
	$node->safe_psql('postgres', q{SELECT queue.purge_queue('live')});
	return;
}

# ---------------------------------------------------------------------
# on_failed, called by the maintenance worker
# ---------------------------------------------------------------------

my $pid = $node->safe_psql('postgres', $maintenance);
lose('sleeps', 'short');
wait_for($node, failed('sleeps', 'short'), 'a job has failed', '1');
is(errors('sleeps', 'short'), '', 'on_failed had the time that it takes');
is($node->safe_psql('postgres', $calls), '1', 'and was called');
# two that fail in the same transaction
$node->safe_psql('postgres', q{
	SELECT queue.enqueue_batch('sleeps', '{"\"long\"","\"long\""}');
	SELECT count(*) FROM queue.dequeue_batch('sleeps', 2, visibility_timeout => '1 ms')});
wait_for($node, failed('sleeps', 'long'), 'jobs fail though on_failed sleeps for an hour', '2');
is( errors('sleeps', 'long'), 'function of queue "sleeps" took too long, function of queue "sleeps" was not called',
	'which is an error of on_failed, which is not called again at once');
like(slurp_file($node->logfile), qr/on_failed of queue "sleeps" raised an error for job/, 'told in the log');
is($node->safe_psql('postgres', $calls), '1', 'what it did is undone');
lives('the maintenance worker goes on');
my $called = '1';
for (1 .. 1000)
{
	lose('sleeps', 'short');
	$called = $node->safe_psql('postgres', $calls);
	last if $called ne '1';
	Time::HiRes::sleep(0.1);
}
isnt($called, '1', 'but later');
lose('catches', 'long');
wait_for($node, failed('catches', 'long'), 'a job fails though on_failed catches the cancel', '1');
is(errors('catches', 'long'), 'function of queue "catches" took too long', 'which is no success');
is($node->safe_psql('postgres', q{SELECT count(*) FROM called WHERE queue_name IN ('catches', 'caught')}), '0', 'nor is anything of it left');
is($node->safe_psql('postgres', $maintenance), $pid, 'it is still the same worker');
lose('goes_on', 'long');
wait_for($node, failed('goes_on', 'long'), 'a job fails though on_failed goes on after the cancel', '1');
is(errors('goes_on', 'long'), 'function of queue "goes_on" was not called', 'it was called once, not twice');
my $caught = () = slurp_file($node->logfile) =~ /caught/g;
is($caught, 1, 'and cancelled once');
isnt($node->safe_psql('postgres', $maintenance), $pid, 'it is another worker');
lives('which does what the other did');

# in a session, nobody but the session says how long
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{
	SELECT queue.enqueue('catches', '1');
	SET statement_timeout = '2s';
	SELECT queue.fail(job_id) FROM queue.dequeue_batch('catches')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM called WHERE queue_name = 'caught'}), '1', 'in a session, a cancel is the caller\'s');

# ---------------------------------------------------------------------
# A validator, when the callback of a batch is enqueued
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('items', batch_grace => '0');
	SELECT queue.create_queue('callbacks', job_timeout => '1 s');
	SELECT queue.alter_queue('callbacks', validator => 'goes_on(jsonb)');
	SELECT queue.create_batch('b', callback_queue => 'callbacks');
	SELECT queue.enqueue('items', '1', batch_id => 'b');
	SELECT queue.close_batch('b');
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('items')});
wait_for($node, q{SELECT callback_error FROM queue.batch_status('b')},
	'a batch is completed though the validator of its callback goes on', '55000: function of queue "callbacks" was not called');
lives('the maintenance worker goes on');

# ---------------------------------------------------------------------
# An executor, which fails an attempt
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('run', max_attempts => 1, job_timeout => '1 s', on_failed => 'sleeps(queue.job_context)');
	SELECT queue.set_handler('run', 'fails(jsonb)');
	SELECT queue.enqueue('run', '"long"')});
wait_for($node, failed('run', 'long'), 'an executor fails a job though on_failed sleeps for an hour', '1');
is(errors('run', 'long'), 'function of queue "run" took too long', 'the log says so');
is($node->safe_psql('postgres', q{SELECT error FROM queue.job_finished WHERE queue_name = 'run'}) =~ /^no /, 1, 'the job bears the error of its handler');
check_counters($node, 'at the end');
$node->stop;
done_testing();

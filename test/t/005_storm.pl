# A storm: producers, takers, settlers, cancellers and movers, all at once.
#
# Every script of the storm keeps a ledger inside its own transactions: "sent"
# has the id of each job that a commit has enqueued, "done" that of each job
# that a commit has completed or cancelled.  Afterwards everything that can
# still be taken is taken and completed, the ordinary way, from the hints on.
# What is then left over was left behind by a hint; what is in one ledger and
# not in the other was lost, done twice, or came out of nowhere.
#
# Queue "wild" has everything, and much that lowers its hints again and so heals
# what went wrong before; "calm" and "parked" have only late commits and takers,
# so that a job left behind stays behind.  The last part breaks the protocol on
# purpose, one place at a time, where the library was built for it
# (-DQUEUE_TESTING), and wants to see jobs left behind in "calm": otherwise the
# storm would prove nothing.
#
# QUEUE_STORM_SECONDS makes it longer than the few seconds of a test run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes;

my $seconds = $ENV{QUEUE_STORM_SECONDS} || 6;

my $node = new_node('main', conf => q{
log_statement = none
max_prepared_transactions = 50
queue.vacuum_threshold = 2000
});
$node->safe_psql('postgres', q{
	CREATE TABLE sent (job_id bigint PRIMARY KEY);
	CREATE TABLE done (job_id bigint NOT NULL, how text NOT NULL, waited interval);
	SELECT queue.create_queue('wild', max_attempts => 1000, backoff => 'fixed', backoff_base => '20 ms',
		visibility_timeout => '1 min');
	SELECT queue.create_queue('calm', visibility_timeout => '1 min');
	SELECT queue.create_queue('parked', visibility_timeout => '1 min');

	-- takes, completes and enters into the ledger, in one statement
	CREATE FUNCTION work(queue_name text, batch_size int) RETURNS bigint
	LANGUAGE sql AS $$
		WITH entry AS (
			INSERT INTO done
			SELECT job_id, 'completed', clock_timestamp() - enqueued_at
			FROM queue.dequeue_batch(queue_name, batch_size)
			WHERE queue.complete(job_id, attempt => attempt) RETURNING 1
		) SELECT count(*) FROM entry
	$$});

# name, weight, script; the weights keep the takers ahead of the producers
my $settle = q{
SELECT coalesce(max(job_id), 0) AS job, coalesce(max(attempt), 0) AS attempt
FROM queue.dequeue_batch('wild', 1, visibility_timeout => '1 s') \gset
};
my @scripts = (
	['calm_late', 60, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('calm', '1');
\sleep 1 ms
COMMIT;
}],
	['calm_at_once', 60, q{
INSERT INTO sent SELECT queue.enqueue('calm', '2');
}],
	['calm_work', 300, q{
SELECT work('calm', 1);
}],
	['parked_late', 20, q{
\set ms random(0, 20)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('parked', '1', delay => :ms * interval '1 ms');
\sleep 1 ms
COMMIT;
}],
	['parked_work', 60, q{
SELECT work('parked', 1);
}],
	# only over broken hints: each of them would heal the others
	['broken_abort', 60, q{
BEGIN;
SELECT count(*) FROM queue.dequeue_batch('calm');
ROLLBACK;
}],
	['broken_lease', 60, q{
SELECT count(*) FROM queue.dequeue_batch('calm', visibility_timeout => '10 ms');
}],
	['broken_prepared', 60, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('calm', '3');
PREPARE TRANSACTION 'broken :client_id';
COMMIT PREPARED 'broken :client_id';
}],

	['late', 20, q{
\set priority random(1, 3)
\set ms random(0, 5)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('wild', '1', priority => :priority);
\sleep :ms ms
COMMIT;
}],
	['batch', 10, q{
\set count random(1, 20)
INSERT INTO sent SELECT queue.enqueue_batch('wild', array_fill('2'::jsonb, ARRAY[:count]));
}],
	['in_the_past', 5, q{
\set hours random(1, 1000)
INSERT INTO sent SELECT queue.enqueue('wild', '3', run_at => now() - :hours * interval '1 h');
}],
	['delayed', 20, q{
\set ms random(1, 300)
INSERT INTO sent SELECT queue.enqueue('wild', '4', delay => :ms * interval '1 ms');
}],
	['mortal', 10, q{
INSERT INTO sent SELECT queue.enqueue('wild', '5', max_attempts => 1);
}],
	['produce_and_abort', 10, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('wild', '6');
INSERT INTO sent SELECT queue.enqueue('wild', '7', delay => '5 ms');
\sleep 1 ms
ROLLBACK;
}],
	['produce_savepoint', 10, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('wild', '8');
SAVEPOINT s;
INSERT INTO sent SELECT queue.enqueue('wild', '9', run_at => '2000-01-01');
ROLLBACK TO s;
INSERT INTO sent SELECT queue.enqueue('wild', '10', priority => 1);
\sleep 1 ms
COMMIT;
}],
	['produce_prepared', 5, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('wild', '11');
INSERT INTO sent SELECT queue.enqueue('wild', '12', delay => '5 ms');
SELECT work('wild', 1);
PREPARE TRANSACTION 'commit :client_id';
\sleep 3 ms
COMMIT PREPARED 'commit :client_id';
}],
	['prepared_rollback', 5, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('wild', '13');
SELECT work('wild', 2);
PREPARE TRANSACTION 'rollback :client_id';
\sleep 3 ms
ROLLBACK PREPARED 'rollback :client_id';
}],

	# all of a job's life at the highest level, among many who do the same
	['serializable', 40, q{
\set priority random(1, 3)
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT 1;
INSERT INTO sent SELECT queue.enqueue('wild', '14', priority => :priority);
SELECT work('wild', 2);
SELECT queue.fail(job_id, 'storm', attempt => attempt) FROM queue.dequeue_batch('wild');
SELECT queue.release(job_id, attempt => attempt) FROM queue.dequeue_batch('wild');
COMMIT;
}],
	['repeatable', 20, q{
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1;
INSERT INTO sent SELECT queue.enqueue('wild', '15');
SELECT work('wild', 3);
COMMIT;
}],

	['work', 100, q{
\set count random(1, 20)
SELECT work('wild', :count);
}],
	['take_and_abort', 20, q{
\set count random(1, 5)
BEGIN;
SELECT count(*) FROM queue.dequeue_batch('wild', :count);
\sleep 1 ms
ROLLBACK;
}],
	['work_and_abort', 10, q{
BEGIN;
SELECT work('wild', 3);
\sleep 1 ms
ROLLBACK;
}],
	['take_savepoint', 20, q{
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM queue.dequeue_batch('wild', 2);
SELECT work('wild', 1);
ROLLBACK TO s;
SELECT work('wild', 1);
COMMIT;
}],
	['walk_away', 10, q{
SELECT count(*) FROM queue.dequeue_batch('wild', 1, visibility_timeout => '20 ms');
}],
	['complete_late', 10, q{
SELECT coalesce(max(job_id), 0) AS job, coalesce(max(attempt), 0) AS attempt
FROM queue.dequeue_batch('wild', 1, visibility_timeout => '2 ms') \gset
\sleep 5 ms
INSERT INTO done SELECT :job, 'completed' WHERE queue.complete(:job, attempt => :attempt);
}],
	['fail', 20, "$settle SELECT queue.fail(:job, 'storm', attempt => :attempt);\n"],
	['fail_at_once', 10, "$settle SELECT queue.fail(:job, 'storm', retry_in => '0', attempt => :attempt);\n"],
	['release', 10, "$settle SELECT queue.release(:job, attempt => :attempt);\n"],
	['release_later', 10, "$settle SELECT queue.release(:job, '10 ms', :attempt);\n"],
	['extend', 10, "$settle SELECT queue.extend(:job, '30 ms', :attempt);\n"],
	['settle_and_abort', 10, "$settle BEGIN; SELECT queue.fail(:job, attempt => :attempt);\n\\sleep 1 ms\nROLLBACK;
		INSERT INTO done SELECT :job, 'completed' WHERE queue.complete(:job, attempt => :attempt);\n"],
	['cancel', 10, q{
SELECT coalesce(max(job_id), 0) AS job FROM (
	SELECT job_id FROM queue.list_jobs('wild', max_jobs => 20) ORDER BY random() LIMIT 1) AS j \gset
INSERT INTO done SELECT :job, 'cancelled' WHERE queue.cancel(:job);
}],
	# the order of all jobs changes, and so do the classes that have hints
	['alter', 1, q{
\set minutes random(1, 100)
SELECT queue.alter_queue('wild', aging_interval => :minutes * interval '1 min');
}],
	['reset', 1, q{
SELECT queue.reset_queue_setting('wild', 'aging_interval');
}],
	['pause', 1, q{
SELECT queue.pause_queue('wild');
\sleep 5 ms
SELECT queue.resume_queue('wild');
}],
	['requeue', 2, q{
SELECT queue.requeue_failed('wild', max_jobs => 5);
}],
	['maintain', 2, q{
SELECT count(*) FROM queue.maintain();
}],
	['maintain_and_abort', 2, q{
BEGIN;
SELECT count(*) FROM queue.maintain();
ROLLBACK;
}],
	['vacuum', 1, q{
VACUUM (SKIP_LOCKED) queue.job_live, queue.job_parked;
}],
);

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/$_->[0].sql", $_->[2]) for @scripts;

# Run the scripts whose names match; returns what went wrong.
sub storm
{
	my ($seconds, $clients, $names) = @_;
	my ($stdout, $stderr);
	my @command = ('pgbench', '--no-vacuum', '--time', $seconds, '--client', $clients, '--jobs', 2,
		(map { ('-f', "$dir/$_->[0].sql\@$_->[1]") } grep { $_->[0] =~ $names } @scripts),
		'-h', $node->host, '-p', $node->port, 'postgres');
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$stdout, '2>', \$stderr);

	note($stdout);
	# vacuum says what it has skipped
	$stderr = join "\n", grep { !/WARNING:  skipping vacuum/ } split /\n/, $stderr;
	# a serialization failure or a deadlock is no error to pgbench
	$stderr .= $1 if $stdout =~ /^(number of failed transactions: [1-9].*)/m;
	return $ok || $stderr ? $stderr : 'pgbench failed';
}

# Take and complete what can be taken.  No progress for a while, and no lease or
# delay is as long as that, means that the rest cannot be; returns how many.
sub drain
{
	my ($queue_name, $patience) = @_;
	my $left = -1;
	my $since = time();

	while (time() - $since < $patience)
	{
		$node->safe_psql('postgres', "SELECT work('$queue_name', 1000)");
		my $now = $node->safe_psql('postgres', qq{SELECT count(*) FROM queue.job WHERE queue_name = '$queue_name'});
		return 0 if $now eq '0';
		$since = time() if $now != $left;
		$left = $now;
		Time::HiRes::sleep(0.05);
	}
	return $left;
}

sub check_ledgers
{
	my ($name) = @_;
	my $outcome = q{(SELECT job_id FROM done UNION ALL
		SELECT job_id FROM queue.job_archive WHERE state = 'f') AS o};

	is( $node->safe_psql('postgres', "SELECT count(*) FROM sent WHERE job_id NOT IN (SELECT job_id FROM $outcome)"),
		'0', "$name: no job is lost");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM $outcome WHERE job_id NOT IN (SELECT job_id FROM sent)"),
		'0', "$name: no job is unexpected");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT FROM $outcome GROUP BY job_id HAVING count(*) > 1) AS twice"),
		'0', "$name: no job is finished twice");
	is( $node->safe_psql('postgres',
			q{SELECT count(*) FROM done FULL JOIN queue.job_archive AS a ON a.job_id = done.job_id
			  AND a.state = CASE done.how WHEN 'completed' THEN 'c' ELSE 'x' END
			  WHERE (done.job_id IS NULL AND a.state <> 'f') OR a.job_id IS NULL}),
		'0', "$name: the archive agrees");
	return;
}

is(storm($seconds, 24, qr/^(?!broken)/), '', 'the storm meets no error');
is(drain('calm', 5), '0', 'nothing is left behind in the calm queue');
is(drain('parked', 5), '0', 'nothing is left behind in the parked table');
is(drain('wild', 5), '0', 'nothing is left behind in the wild one');
check_ledgers('after the storm');
check_counters($node, 'after the storm');
check_structure($node, 'after the storm');
# a long storm has safety looks, which would find what was left behind
is( $node->safe_psql('postgres', q{SELECT count(*) FROM done WHERE waited > '30 s'}),
	'0', 'no job had to wait for a safety look');
note($node->safe_psql('postgres', 'SELECT how, count(*) FROM done GROUP BY how'));
note($node->safe_psql('postgres', 'SELECT attempt, count(*) FROM queue.job_archive GROUP BY attempt ORDER BY attempt'));

# ---------------------------------------------------------------------
# Interrupted at any moment: by a timeout, by a cancellation, for good
# ---------------------------------------------------------------------

# psql goes on after an error, which pgbench would not
my $interrupted = "SET application_name = 'victim'; SET statement_timeout = '2 ms';\n" . q{
INSERT INTO sent SELECT queue.enqueue_batch('wild', array_fill('1'::jsonb, ARRAY[40]));
INSERT INTO sent SELECT queue.enqueue_batch('wild', array_fill('1'::jsonb, ARRAY[40]), delay => '5 ms');
SELECT work('wild', 50);
SELECT count(*) FROM queue.dequeue_batch('wild', 50, visibility_timeout => '10 ms');
BEGIN;
SELECT work('wild', 5);
SAVEPOINT s;
SELECT count(*) FROM queue.dequeue_batch('wild', 50, visibility_timeout => '10 ms');
SELECT work('wild', 20);
ROLLBACK TO s;
SELECT work('wild', 5);
COMMIT;
SELECT queue.fail_many(array_agg(job_id), 'storm') FROM queue.dequeue_batch('wild', 20);
SELECT count(*) FROM queue.maintain();
} x 1000;
append_to_file("$dir/interrupted.sql", $interrupted);
my @victims;
for (1 .. 8)
{
	my %victim = (stdout => '', stderr => '');
	$victim{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/interrupted.sql" ],
		'<', \undef, '>', \$victim{stdout}, '2>', \$victim{stderr});
	push @victims, \%victim;
}
for (1 .. 40)
{
	Time::HiRes::sleep(0.05);
	$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'});
}
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'});
my $errors = 0;
my @others;
for my $victim (@victims)
{
	$victim->{handle}->finish;
	for my $error ($victim->{stderr} =~ /ERROR:  (.*)/g)
	{
		# what follows from one in the block, or instead of it
		next if $error =~ /current transaction is aborted|savepoint/i;
		push @others, $error if $error !~ /canceling statement due to (statement timeout|user request)/;
		$errors++;
	}
}
cmp_ok($errors, '>', 100, "sessions that are interrupted, $errors times");
is(join("\n", @others), '', 'meet no other error');
is(drain('wild', 5), '0', 'nothing is left behind by them');
check_ledgers('after interruptions');
check_counters($node, 'after interruptions');
check_structure($node, 'after interruptions');
is($node->safe_psql('postgres', 'SELECT coalesce(sum(looks), 0) FROM queue._hints()'), '0', 'no look is under way any more');

# ---------------------------------------------------------------------
# Broken on purpose
# ---------------------------------------------------------------------

SKIP:
{
	my ($ret) = $node->psql('postgres',
		q{CREATE FUNCTION mutate(int) RETURNS void LANGUAGE c AS 'queue', 'queue__mutate'});
	skip 'the library was built without -DQUEUE_TESTING', 10 if $ret != 0;

	# one that must do no harm: no cell is free for any look, so the ring serves
	$node->safe_psql('postgres', 'SELECT mutate(5)');
	is(storm(2, 24, qr/^calm/), '', 'looks without a cell: no error');
	is(drain('calm', 5), '0', 'looks without a cell: no job is left behind');

	my @mutations = (
		[ 1, qr/^calm/, 'looks that miss what was noted meanwhile' ],
		[ 2, qr/^(calm|broken_abort)/, 'claims whose rollback is not noted' ],
		[ 3, qr/^(calm|broken_lease)/, 'leases that are not noted' ],
		[ 4, qr/^(calm|broken_prepared)/, 'prepared transactions whose end is not noted' ]);

	for my $mutation (@mutations)
	{
		my ($number, $names, $name) = @$mutation;

		$node->safe_psql('postgres', "SELECT mutate($number)");
		my $left = 0;
		# a busy machine may spare them for a while
		for (1 .. 6)
		{
			is(storm(2, 24, $names), '', "$name: no error");
			$left = drain('calm', 2);
			last if $left > 0;
		}
		cmp_ok($left, '>', 0, "$name: $left jobs are left behind");
		$node->safe_psql('postgres', q{SELECT mutate(0); SELECT queue.drop_queue('calm', true); SELECT queue.create_queue('calm')});
	}
}

$node->stop;
done_testing();

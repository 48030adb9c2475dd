# The extension's processes: they are there, come back, and get out of the way.
#
# One launcher for the cluster, one maintenance worker for each database with
# the extension.  Commands that want a database to themselves do not even
# notice that a worker was there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");

# the pid of a database's maintenance worker, once there is one (but not $old)
sub maintenance_pid
{
	my ($database, $old) = @_;
	$old ||= 0;

	my $query = qq{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue maintenance'
		AND datname = '$database' AND pid <> $old};
	for (1 .. 10)
	{
		$node->poll_query_until('postgres', "SELECT EXISTS ($query)") or return 0;
		# it may be about to begin anew
		my $pid = $node->safe_psql('postgres', $query);
		return $pid if $pid;
	}
	return 0;
}

# a database with the extension, a queue, jobs in every state, and its worker
sub create_database
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	create_extension($node, $database);
	$node->safe_psql($database, q{
		SELECT queue.create_queue('q', max_attempts => 1);
		SELECT queue.enqueue_batch('q', ARRAY['1', '2', '3', '4']::jsonb[]);
		SELECT queue.enqueue('q', '5', delay => '1 day');
		SELECT queue.fail(job_id) FROM queue.dequeue_batch('q');
		SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
		SELECT job_id FROM queue.dequeue_batch('q', visibility_timeout => '1 day')});
	return maintenance_pid($database);
}

# a command that must succeed, and not after the five seconds that the server
# waits for others to leave a database
sub quick
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $command, $database) = @_;
	my $begun = time();
	my ($ret, undef, $stderr) = $node->psql($database || 'postgres', $command);
	my $took = time() - $begun;

	return ok($ret == 0 && $took < 4, $name) || diag("$stderr\nafter $took s");
}

# ---------------------------------------------------------------------
# They are there, and come back
# ---------------------------------------------------------------------

wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'queue launcher'},
	'there is a launcher');
ok(my $pid = maintenance_pid('postgres'), 'there is a maintenance worker');

my $old = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue launcher'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
wait_for($node, qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'queue launcher' AND pid <> $old},
	'the launcher survives its termination');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($pid = maintenance_pid('postgres', $pid), 'so does the maintenance worker');
# an error in its work is nothing else
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
ok(maintenance_pid('postgres'), 'it survives a cancellation');

# a process that is killed takes the others along, and all of them come back
kill_backend($node, maintenance_pid('postgres'));
wait_for($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('queue launcher', 'queue maintenance')},
	'both survive a killed worker', '2');
kill_backend($node, $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue launcher'}));
wait_for($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('queue launcher', 'queue maintenance')},
	'and a killed launcher', '2');

# it does its work: a delayed job becomes a waiting one without anybody's call
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('q');
	SELECT queue.enqueue('q', '1', delay => '10 ms')});
wait_for($node, q{SELECT waiting = 1 FROM queue.queue_stats('q')}, 'it moves what is due');

# one that fails each time it looks is not started over and over
my $errors = sub { my @at = slurp_file($node->logfile) =~ /^\S+ \S+:(\d+\.\d+) .*queue maintenance.*_job_parked_group" does not exist/mg; @at };
$pid = maintenance_pid('postgres');
$node->safe_psql('postgres', qq{
	ALTER INDEX queue._job_parked_group RENAME TO elsewhere;
	SELECT pg_terminate_backend($pid)});
my $failures = 0;
for (1 .. 1000)
{
	last if ($failures = $errors->()) >= 2;
	Time::HiRes::sleep(0.01);
}
my ($first, $second) = $errors->();
cmp_ok($failures, '>=', 2, 'a worker that cannot work is tried again');
cmp_ok(($second - $first + 60) - 60 * int(($second - $first + 60) / 60), '>', 0.9, 'but not at once');
$node->safe_psql('postgres', 'ALTER INDEX queue.elsewhere RENAME TO _job_parked_group');
ok(maintenance_pid('postgres'), 'it is back when it can');

# ---------------------------------------------------------------------
# Commands that want a database to themselves
# ---------------------------------------------------------------------

ok(create_database('d'), 'a second database has its own worker');
check_counters($node, 'in the second database', 'd');

quick('ALTER DATABASE RENAME', 'ALTER DATABASE d RENAME TO e');
ok(maintenance_pid('e'), 'the worker is back under the new name');

quick('CREATE DATABASE TEMPLATE', 'CREATE DATABASE copy TEMPLATE e');
ok(maintenance_pid('e'), 'the worker is back in the template');
ok(maintenance_pid('copy'), 'the copy has one, too');
is( $node->safe_psql('copy', q{SELECT state, count(*) FROM queue.job GROUP BY state ORDER BY state}),
	"delayed|1\nwaiting|2", 'nobody holds a job in the copy');
is($node->safe_psql('e', q{SELECT state, count(*) FROM queue.job GROUP BY state ORDER BY state}),
	"active|1\ndelayed|1\nwaiting|1", 'as before in the template');
check_counters($node, 'in the template', 'e');
check_counters($node, 'in the copy', 'copy');
is($node->safe_psql('copy', q{SELECT count(*) FROM queue.dequeue_batch('q', 10)}), '2', 'they can be taken there');

my $tablespace = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
quick('ALTER DATABASE SET TABLESPACE', 'ALTER DATABASE copy SET TABLESPACE elsewhere');
ok(maintenance_pid('copy'), 'the worker is back in its new place');

# while the worker has a lot to do
$node->safe_psql('copy', q{
	SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[30000]), delay => '1 ms')});
quick('DROP DATABASE', 'DROP DATABASE copy');
quick('DROP DATABASE FORCE', 'DROP DATABASE e WITH (FORCE)');

# again under the same name: nothing of the old one is in the way
ok(create_database('e'), 'a database of the same name gets a worker');
check_counters($node, 'in a database of the same name', 'e');
quick('DROP DATABASE, again', 'DROP DATABASE e');

# one that has nothing to do with us: every process must absorb the barrier
quick('CREATE and DROP of another database', 'CREATE DATABASE other');
quick('its DROP', 'DROP DATABASE other');

# who may not drop it does not disturb the worker
$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN');
$pid = maintenance_pid('postgres');
my ($ret, $stdout, $stderr) = $node->psql('template1', 'DROP DATABASE postgres',
	extra_params => [ '-U', 'mallory' ]);
like($stderr, qr/must be owner/, 'somebody else cannot drop a database');
is(maintenance_pid('postgres'), $pid, 'nor send its worker away');

# A command that fails sends it away for nothing; it comes back.
($ret, $stdout, $stderr) = $node->psql('postgres', 'ALTER DATABASE postgres RENAME TO something');
like($stderr, qr/current database cannot be renamed/, 'a command that fails');
ok(maintenance_pid('postgres', $pid), 'does not keep the worker away for long');

# ---------------------------------------------------------------------
# DROP EXTENSION and CREATE EXTENSION under load
# ---------------------------------------------------------------------

my @sessions;
for my $i (1 .. 4)
{
	my %session = (stdout => '', stderr => '');
	# \errverbose would be too much; the code of each error is enough
	my $script = "\\set VERBOSITY verbose\n" . q{
SELECT queue.enqueue('q', '1');
SELECT queue.enqueue('q', '1', delay => '1 ms');
SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 2);
SELECT queue.queue_stats();
} x 10000;
	append_to_file($node->basedir . "/load$i.sql", $script);
	$session{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $node->basedir . "/load$i.sql" ],
		'<', \undef, '>', \$session{stdout}, '2>', \$session{stderr});
	push @sessions, \%session;
}
for my $round (1 .. 5)
{
	sleep(0.3);
	# a deadlock with a statement under way may end either of them
	for my $attempt (1 .. 5)
	{
		($ret, $stdout, $stderr) = $node->psql('postgres', 'DROP EXTENSION queue', timeout => 20);
		last if $ret == 0;
		like($stderr, qr/deadlock detected/, "DROP EXTENSION fails only by a deadlock");
	}
	is($ret, 0, "DROP EXTENSION under load, round $round");
	quick("CREATE EXTENSION under load, round $round", q{
		CREATE EXTENSION queue;
		SELECT queue.create_queue('q')});
}
sleep(0.3);
my %codes;
for my $session (@sessions)
{
	$session->{handle}->signal('TERM');
	$session->{handle}->finish;
	$codes{$1}{$2}++ while $session->{stderr} =~ /ERROR:  (\w{5}): (.*)/g;
}
# gone are: schema, function, type, table, queue; or a deadlock chose this one
my @bad = map { "$_: " . join(', ', keys %{ $codes{$_} }) }
  grep { !/^(3F000|42883|42704|42P01|40P01)$/ } sort keys %codes;
is(join("\n", @bad), '', 'sessions meet only errors that say what is gone');
ok(maintenance_pid('postgres'), 'the worker serves the new extension');
check_counters($node, 'in the new extension');
check_structure($node, 'in the new extension');
$node->safe_psql('postgres', q{SELECT queue.enqueue('q', '1', delay => '10 ms')});
wait_for($node, q{SELECT delayed = 0 FROM queue.queue_stats('q')}, 'and moves what is due');

# a rollback of either leaves things as they were
$node->safe_psql('postgres', q{BEGIN; SELECT queue.drop_queue('q', true); DROP EXTENSION queue; ROLLBACK});
$node->safe_psql('postgres', q{SELECT queue.enqueue('q', '1', delay => '10 ms')});
wait_for($node, q{SELECT delayed = 0 FROM queue.queue_stats('q')}, 'after a DROP EXTENSION that is rolled back, all goes on');
check_counters($node, 'after a DROP EXTENSION that is rolled back');
$node->safe_psql('postgres', q{
	DROP EXTENSION queue;
	BEGIN;
	CREATE EXTENSION queue;
	SELECT queue.create_queue('q');
	SELECT queue.enqueue('q', '1');
	SELECT payload FROM queue.dequeue_batch('q');
	ROLLBACK;
	CREATE EXTENSION queue;
	SELECT queue.create_queue('q');
	SELECT queue.enqueue('q', '2')});
is($node->safe_psql('postgres', q{SELECT payload, attempt FROM queue.dequeue_batch('q')}), '2|1',
	'after a CREATE EXTENSION that is rolled back, another one is as new');
check_counters($node, 'after a CREATE EXTENSION that is rolled back');

# two at once: who comes second waits for the first, and gets what is left
for my $end ([ 'COMMIT', qr/ERROR:  (23505|42710)/, 'is refused if it commits' ], [ 'ROLLBACK', qr/^$/, 'succeeds if it does not' ])
{
	my ($command, $expected, $name) = @$end;
	my $stderr = '';

	$node->safe_psql('postgres', 'DROP EXTENSION queue');
	my $first = $node->background_psql('postgres');
	$first->query_safe('BEGIN; CREATE EXTENSION queue');
	my $second = IPC::Run::start([ 'psql', '-Xq', '-v', 'VERBOSITY=sqlstate', '-d', $node->connstr('postgres'), '-c', 'CREATE EXTENSION queue' ],
		'<', \undef, '2>', \$stderr);
	wait_for($node, q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}, 'a second CREATE EXTENSION waits');
	$first->query_safe($command);
	$second->finish;
	$first->quit;
	like($stderr, $expected, "and $name");
	is($node->safe_psql('postgres', q{SELECT queue.create_queue('q'); SELECT queue.enqueue('q', '3');
			SELECT payload FROM queue.dequeue_batch('q')}) =~ s/^\d*\n//gmr, '3', 'one is there, and works');
}

# without the extension there is no worker
$node->safe_psql('postgres', 'DROP EXTENSION queue');
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'queue maintenance%'},
	'a database without the extension needs no worker');

# ---------------------------------------------------------------------
# The end of the server
# ---------------------------------------------------------------------

create_extension($node, 'postgres');
$node->safe_psql('postgres', q{SELECT queue.create_queue('q')});
ok(maintenance_pid('postgres'), 'a worker is there when the server stops');
my $begun = time();
$node->stop('fast');
my $took = time() - $begun;
cmp_ok($took, '<', 3, "a fast shutdown is fast: $took s");
$node->start;
ok(maintenance_pid('postgres'), 'and there again');

# the postmaster is killed: nobody tells the workers
my @pids = split /\n/, $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'queue %'});
$node->kill9;
my $alive;
for (1 .. 100)
{
	$alive = grep { kill 0, $_ } @pids;
	last if !$alive;
	sleep(0.1);
}
is($alive, 0, 'all ' . @pids . ' of them notice that the postmaster is gone');
$node->start;
ok(maintenance_pid('postgres'), 'and are there after the next start');
$node->stop;

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal (?!9)/, 'no process came to a bad end');
unlike($log, qr/being accessed by other users/, 'nobody had to wait for a worker to leave');

# ---------------------------------------------------------------------
# A server that is not set up for it
# ---------------------------------------------------------------------

my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$bare->start;
($ret, $stdout, $stderr) = $bare->psql('postgres', 'CREATE EXTENSION queue');
isnt($ret, 0, 'without preloading, there is no CREATE EXTENSION');
like($stderr, qr/HINT: .*shared_preload_libraries = 'queue'/, 'and it says what to do');

# two slots: ours for the launcher, and the server's own worker
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'queue'\nmax_worker_processes = 2\n");
$bare->restart;
create_extension($bare, 'postgres');
$bare->safe_psql('postgres', q{
	SELECT queue.create_queue('q');
	SELECT queue.enqueue('q', '1', delay => '1 ms');
	SELECT queue.enqueue('q', '2')});
wait_for($bare, q{SELECT count(*) = 1 FROM queue.dequeue_batch('q', visibility_timeout => '1 ms')},
	'without a maintenance worker, jobs are taken', 't');
wait_for($bare, q{SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1 day')},
	'due ones, too', '1');
wait_for($bare, q{SELECT payload FROM (SELECT count(*) FROM queue.maintain()) AS m, queue.dequeue_batch('q')},
	'and after queue.maintain(), those whose lease has ended', '2');
# a rollback undoes what it did, and forgets nothing that it knew
$bare->safe_psql('postgres', q{
	SELECT queue.create_queue('r', max_attempts => 1, visibility_timeout => '1 ms');
	SELECT queue.enqueue('r', '1');
	SELECT payload FROM queue.dequeue_batch('r')});
wait_for($bare, q{SELECT lease_expires_at < clock_timestamp() FROM queue.job WHERE queue_name = 'r'}, '(the lease ends)');
$bare->safe_psql('postgres', q{BEGIN; SELECT count(*) FROM queue.maintain(); ROLLBACK});
$bare->safe_psql('postgres', 'SELECT count(*) FROM queue.maintain()');
is($bare->safe_psql('postgres', q{SELECT state FROM queue.list_jobs('r')}), 'failed',
	'queue.maintain() after one that was rolled back');
like(slurp_file($bare->logfile), qr/Consider increasing the configuration parameter "max_worker_processes"/,
	'the log tells why there is none');
$bare->stop;

done_testing();

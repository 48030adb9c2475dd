# What is full: the disk, under the data and under the WAL; memory; the tables of
# locks; the slots of connections and of workers.
#
# Whoever needs more is refused with an error that says so; the server stays,
# but for a PANIC when the WAL cannot be written; our processes come back, later
# and later, and do not fill the log; and when there is room again, everything
# goes on by itself, and nothing is lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes qw(time);

# no parallel query in the way of those who count worker slots
my $conf = q{
log_statement = none
restart_after_crash = on
max_logical_replication_workers = 0
max_parallel_workers = 0
queue.executor_idle_timeout = 1s
};

sub error_of
{
	my ($node, $sql) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");

	return $stderr =~ /(?:ERROR|FATAL):  (\w{5}): (.*)/ ? "$1 $2" : "no error: $stderr";
}

sub count_log
{
	my ($node, $pattern, $offset) = @_;
	my @found = slurp_file($node->logfile, $offset || 0) =~ /$pattern/g;

	return scalar @found;
}

# ---------------------------------------------------------------------
# The disk
# ---------------------------------------------------------------------

SKIP:
{
	my $library = faults_library() or skip 'the library of faults cannot be compiled here', 1;
	my $node = PostgreSQL::Test::Cluster->new('disk');
	$node->init(extra => ['--wal-segsize=1']);
	$node->append_conf('postgresql.conf', $conf . q{
queue.max_executors = 2
queue.maintenance_interval = 100ms
min_wal_size = 2MB
max_wal_size = 4MB
});
	start_with_faults($node, $library);
	create_extension($node, 'postgres');
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };

	create_load($node);
	$query->(q{
		CREATE TABLE effect (n int, filler text);
		CREATE FUNCTION note(job queue.job_context) RETURNS jsonb LANGUAGE sql AS
			$$INSERT INTO effect SELECT (job.payload->>'n')::int, repeat('x', 1000); SELECT job.payload$$;
		SELECT queue.create_queue('big');
		SELECT queue.create_queue('later');
		SELECT queue.create_queue('callback');
		SELECT queue.create_queue('handled', max_attempts => 100, backoff => 'fixed', backoff_base => '100 ms');
		SELECT queue.set_handler('handled', 'public.note')});

	# under a load: whoever meets an error gives up, as pgbench does
	my $load = start_load($node, produce => 3);
	$node->poll_query_until('postgres', 'SELECT count(*) > 200 FROM done') or die 'the load does not get going';
	my $offset = -s $node->logfile;
	set_faults($node, data => 1);
	stop_load($load);
	pass('the load has met the full disk');
	like($load->{stderr}, qr/No space left on device/, 'which says so');
	$query->('SELECT 1');

	# each verb, with more than the free room of a page takes
	set_faults($node);
	$query->(q{SELECT count(*) FROM queue.enqueue_batch('big', array_fill(to_jsonb(repeat('x', 500)), ARRAY[1000]))});
	$query->(q{CREATE TABLE taken AS SELECT job_id, attempt FROM queue.dequeue_batch('big', 500)});
	set_faults($node, data => 1);
	my $full = qr/^53100 could not extend file/;
	like(error_of($node, q{SELECT count(*) FROM queue.enqueue_batch('big', array_fill(to_jsonb(repeat('x', 500)), ARRAY[1000]))}),
		$full, 'an enqueue is refused');
	like(error_of($node, q{SELECT count(queue.complete(job_id, attempt => attempt)) FROM taken}), $full,
		'a completion is refused');
	like(error_of($node, q{SELECT count(queue.fail(job_id, repeat('x', 500), retry_in => '1 d', attempt => attempt)) FROM taken}), $full,
		'so is a failure');
	is($query->(q{SELECT count(*) FROM queue.job WHERE queue_name = 'big' AND state = 'active'}), '500', 'and all is as it was');

	# what processes of ours try, over and over
	set_faults($node);
	$query->(q{
		SELECT count(*) FROM queue.enqueue_batch('later', array_fill(to_jsonb(repeat('x', 500)), ARRAY[3000]), delay => '2 s');
		SELECT queue.create_batch('b', callback_queue => 'callback', callback_payload => to_jsonb(repeat('x', 500)));
		SELECT queue.enqueue('big', '"of the batch"', priority => 0, batch_id => 'b');
		SELECT queue.close_batch('b')});
	$query->(q{SELECT count(*) FROM queue.enqueue_batch('handled',
		ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 300) AS n))});
	set_faults($node, data => 1);
	$offset = -s $node->logfile;
	$query->(q{SELECT queue.start_processing('handled')});
	ok($node->poll_query_until('postgres', q{SELECT true FROM pg_stat_activity HAVING count(*) > 0}), 'the server stays');
	for (1 .. 600)
	{
		last if count_log($node, qr/queue maintenance ERROR:  could not extend/, $offset) >= 3;
		Time::HiRes::sleep(0.1);
	}
	my $begun = time();
	my $errors = count_log($node, qr/queue maintenance ERROR:  could not extend/, $offset);
	cmp_ok($errors, '>=', 3, 'the worker meets the full disk, and comes back');
	Time::HiRes::sleep(3);
	my $most = 3 + (time() - $begun) / 2;
	cmp_ok(count_log($node, qr/queue maintenance ERROR:  could not extend/, $offset) - $errors, '<=', $most,
		'later and later');
	cmp_ok(count_log($node, qr/executor ERROR/, $offset), '<', 60, 'so do executors');

	set_faults($node);
	wait_for($node, q{SELECT waiting FROM queue.queue_stats('later')}, 'room again: what is due is moved', '3000');
	wait_for($node, q{SELECT waiting + delayed + active FROM queue.queue_stats('handled')}, 'handlers run', '0');
	is($query->('SELECT count(*), count(DISTINCT n) FROM effect'), '300|300', 'each job once');
	is($query->(q{SELECT count(queue.complete(job_id, attempt => attempt)) FROM taken}), '500', 'who holds jobs completes them');
	check_load($node, 'room again', $load);
	is($query->(q{SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('big', 1000)}), '501', 'nothing is lost');
	wait_for($node, q{SELECT payload = to_jsonb(repeat('x', 500)) FROM queue.job WHERE queue_name = 'callback'},
		'a batch is complete, and has called back');
	check_counters($node, 'room again');
	check_structure($node, 'room again');
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

	# the same under the WAL: the server goes down
	$offset = -s $node->logfile;
	my $next = start_load($node, produce => 3);
	$node->poll_query_until('postgres', "SELECT count(*) > 100 FROM done WHERE run = $next->{run}")
	  or die 'the load does not get going';
	set_faults($node, wal => 1);
	stop_load($next);
	for (1 .. 600)
	{
		last if count_log($node, qr/PANIC:  .*No space left/, $offset) > 0;
		Time::HiRes::sleep(0.1);
	}
	cmp_ok(count_log($node, qr/PANIC:  .*No space left/, $offset), '>', 0, 'no room for the WAL is a PANIC');
	# the recovery may find no room, either
	$node->stop('immediate', fail_ok => 1);
	set_faults($node);
	$node->start;
	check_load($node, 'room for the WAL', $load, $next);
	check_counters($node, 'room for the WAL');
	check_structure($node, 'room for the WAL');
	$node->stop;
}

# ---------------------------------------------------------------------
# Memory, locks, connections, workers
# ---------------------------------------------------------------------

my $node = PostgreSQL::Test::Cluster->new('small');
$node->init;
$node->append_conf('postgresql.conf', $conf . q{
max_connections = 12
max_worker_processes = 3
max_prepared_transactions = 0
queue.max_executors = 2
});
$node->start;
create_extension($node, 'postgres');
# more than these are needed to create it
$node->append_conf('postgresql.conf', "max_locks_per_transaction = 10\n");
$node->restart;
my $query = sub { return $node->safe_psql('postgres', $_[0]) };

SKIP:
{
	my ($prlimit) = grep { -x } map { "$_/prlimit" } split /:/, $ENV{PATH};
	skip 'prlimit is not installed', 1 unless $prlimit && -e '/proc/self/status';

	$query->(q{SELECT queue.create_queue('memory');
		SELECT count(*) FROM queue.enqueue_batch('memory', array_fill(to_jsonb(repeat('x', 1000)), ARRAY[30000]))});
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT count(*) FROM queue.queue_stats(); SELECT pg_backend_pid()') =~ s/.*\n//r;
	my ($size) = slurp_file("/proc/$pid/status") =~ /VmSize:\s+(\d+) kB/;
	system_or_bail($prlimit, '--pid', $pid, '--as=' . ($size * 1024 + 30_000_000));
	for my $sql (
		q{SELECT count(*) FROM queue.enqueue_batch('memory', array_fill(to_jsonb(repeat('x', 1000)), ARRAY[200000]))},
		q{SELECT array_length(array_agg(payload), 1) FROM queue.dequeue_batch('memory', 30000)})
	{
		$session->query($sql);
		like($session->{stderr}, qr/out of memory/, 'who has no memory is told so: ' . ($sql =~ /(\w+_batch)/)[0]);
		$session->{stderr} = '';
	}
	is($session->query_safe('SELECT pg_backend_pid()'), $pid, 'the session lives');
	is($session->query_safe(q{SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('memory', 10)}), '10', 'and works on');
	is($query->(q{SELECT waiting, active, completed FROM queue.queue_stats('memory')}), '29990|0|10', 'nothing is held that nobody has');
	is($query->(q{SELECT count(*) FROM queue.dequeue_batch('memory', 30000)}), '29990', 'and all can be taken');
	$session->quit;
}

# locks: one for each queue that a transaction enqueues into
for my $part (0 .. 19)
{
	$query->("SELECT count(queue.create_queue('l' || i)) FROM generate_series($part * 50 + 1, $part * 50 + 50) AS i");
}
my $no_lock = qr/^53200 out of shared memory/;
my $all = 'generate_series(1, 1000) AS i';
like(error_of($node, "SELECT count(queue.enqueue('l' || i, '1')) FROM $all"), $no_lock, 'no locks for so many queues in one transaction');
is($query->(q{SELECT count(*) FROM queue.job WHERE queue_name LIKE 'l%'}), '0', 'none has got a job');
$query->(qq{DO 'BEGIN FOR i IN 1 .. 1000 LOOP PERFORM queue.enqueue(''l'' || i, ''1''); COMMIT; END LOOP; END'});
is($query->("SELECT count(queue.complete(j.job_id)) FROM $all, queue.dequeue_batch('l' || i) AS j"), '1000',
	'takers need none');
is($query->(q{SELECT count(*) > 900 FROM queue.queue_stats()}), 't', 'nor do readers');
$query->(q{SELECT count(*) FROM queue.maintain()});
$query->(q{SELECT queue.pause_queue(); SELECT queue.resume_queue()});
like(error_of($node, "SELECT count(queue.drop_queue('l' || i)) FROM $all"), $no_lock, 'nor to drop so many');
check_counters($node, 'after want of locks');

# workers: the launcher, and one for each of two databases
$node->append_conf('postgresql.conf', "max_locks_per_transaction = 64\n");
$node->restart;
$node->safe_psql('postgres', 'CREATE DATABASE second');
create_extension($node, 'second');
my $maintenance = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'};
wait_for($node, $maintenance, 'two databases are served', '2');
$query->(q{
	CREATE TABLE effect (at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION note(job queue.job_context) RETURNS void LANGUAGE sql AS 'INSERT INTO effect DEFAULT VALUES';
	SELECT queue.create_queue('handled');
	SELECT queue.set_handler('handled', 'public.note');
	SELECT queue.start_processing('handled');
	SELECT count(*) FROM queue.enqueue_batch('handled', array_fill('1'::jsonb, ARRAY[20]))});
my $denied = qr/LOG:  no background worker slot is free for an executor/;
for (1 .. 600)
{
	last if count_log($node, $denied) > 0;
	Time::HiRes::sleep(0.1);
}
Time::HiRes::sleep(2.5);
is(count_log($node, $denied), 1, 'no slot for an executor is told once');
is($query->(q{SELECT count(*) FROM queue.health_alerts() WHERE code = 'worker_slots'}), '1', 'and an alert');
$node->safe_psql('postgres', 'DROP DATABASE second');
wait_for($node, 'SELECT count(*) FROM effect', 'a slot is free: handlers run', '20');

# connections: none is left for others, ours need none
$query->(q{SELECT queue.create_queue('due')});
my @crowd;
while (@crowd < 20)
{
	my $session = eval { $node->background_psql('postgres', on_error_stop => 0) } or last;
	my $answer = eval { $session->query('SELECT 1') } // '';
	last if $answer ne '1';
	push @crowd, $session;
}
cmp_ok(scalar @crowd, '>', 5, 'connections are used up by ' . @crowd);
like(error_of($node, 'SELECT 1') =~ s/^no error: //r, qr/53300|too many clients|remaining connection slots/, 'nobody else gets one');
$crowd[0]->query_safe(q{SELECT queue.enqueue('due', '1', delay => '200 ms');
	SELECT queue.enqueue('handled', '1')});
for (1 .. 600)
{
	last if $crowd[0]->query_safe(q{SELECT waiting FROM queue.queue_stats('due')}) eq '1' &&
		$crowd[0]->query_safe('SELECT count(*) FROM effect') eq '21';
	Time::HiRes::sleep(0.1);
}
is($crowd[0]->query_safe(q{SELECT waiting FROM queue.queue_stats('due')}), '1', 'due jobs are moved all the same');
is($crowd[0]->query_safe('SELECT count(*) FROM effect'), '21', 'and handlers run');
$_->quit for @crowd;
check_counters($node, 'at the end');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

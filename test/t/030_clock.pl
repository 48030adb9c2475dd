# A clock that is set, while everything is going on: two hours back, an hour and
# three days ahead, and back again.
#
# Due times and leases are told by the clock and follow it.  What must not
# follow is whether anything goes on: after every step jobs become due, leases
# end, limits let through, batches complete, handlers run and waits end, as
# they did before, nothing is done in one stroke, and nobody is busy for nothing.
#
# The server has a library preloaded that adds to what the clock tells
# (test/faults.c).  libfaketime would do, too, if all processes looked into its
# file.

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

my $library = faults_library() or plan skip_all => 'the library of faults cannot be compiled here';
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
log_statement = none
queue.maintenance_interval = 200ms
queue.max_executors = 2
queue.executor_idle_timeout = 2s
queue.worker_timeout = 4s
queue.metrics_interval = 1s
queue.health_interval = 500ms
queue.notify_interval = 100ms
});

start_with_faults($node, $library);
create_extension($node, 'postgres');

sub query { return $node->safe_psql('postgres', $_[0]); }

sub start_session
{
	my ($sql) = @_;
	my %session = (stdout => '', stderr => '');

	$session{handle} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>', \$session{stdout}, '2>', \$session{stderr},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%session;
}

# What it has printed; a session that never comes back ends the test
sub end_session
{
	my ($session) = @_;

	$session->{handle}->finish;
	chomp($session->{stdout}, $session->{stderr});
	return $session->{stdout} . $session->{stderr};
}

my $waiting = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event IN ('QueueWait', 'Extension')
	AND backend_type = 'client backend'};

query(q{
	CREATE TABLE effect (payload jsonb);
	CREATE FUNCTION note(job queue.job_context) RETURNS jsonb LANGUAGE sql AS
		'INSERT INTO effect VALUES (job.payload) RETURNING payload';
	SELECT queue.create_queue('due');
	SELECT queue.create_queue('lease', visibility_timeout => '300 ms');
	SELECT queue.create_queue('poison', visibility_timeout => '200 ms', max_attempts => 1);
	SELECT queue.create_queue('place', max_active => 1, visibility_timeout => '300 ms');
	SELECT queue.create_queue('rate', rate_limit => 20, rate_period => '1 s');
	SELECT queue.create_queue('aging', aging_interval => '1 min');
	SELECT queue.create_queue('batch', batch_grace => '200 ms');
	SELECT queue.create_queue('callback');
	SELECT queue.create_queue('handled', rate_limit => 20, rate_period => '1 s');
	SELECT queue.set_handler('handled', 'public.note');
	SELECT queue.start_processing('handled');
	SELECT queue.create_queue('idle');
	SELECT queue.create_queue('held', visibility_timeout => '1 h');
	SELECT queue.create_queue('many', visibility_timeout => '12 h', max_attempts => 1);
	SELECT queue.create_queue('worker', visibility_timeout => '20 d');
	SELECT queue.create_queue('later');
	SELECT queue.create_queue('kept', keep_completed => '20 d')});

# user and system time of our processes, in ticks
sub ticks
{
	my $sum = 0;

	for my $pid (split /\n/, query(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'queue %'}))
	{
		my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
		$sum += $stat[11] + $stat[12];
	}
	return $sum;
}

# Everything that time has a part in, once
my $round = 0;
sub check_alive
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;
	my $n = ++$round;

	query(qq{
		SELECT queue.enqueue('due', '$n', delay => '300 ms');
		SELECT queue.enqueue('lease', '$n');
		SELECT queue.enqueue('poison', '$n');
		SELECT queue.enqueue_batch('place', '{$n,$n}');
		SELECT count(*) FROM queue.enqueue_batch('rate', array_fill('$n'::jsonb, ARRAY[30]));
		SELECT queue.enqueue('aging', '$n', priority => 1);
		SELECT queue.create_batch('batch $n', callback_queue => 'callback', callback_payload => '$n');
		SELECT queue.enqueue('batch', '$n', batch_id => 'batch $n');
		SELECT queue.close_batch('batch $n');
		SELECT queue.enqueue('batch', '$n', batch_id => 'grace $n');
		SELECT queue.complete(job_id) FROM queue.dequeue_batch('batch', 2);
		SELECT count(*) FROM queue.enqueue_batch('handled', array_fill('$n'::jsonb, ARRAY[30]))});
	query(q{SELECT count(*) FROM queue.dequeue_batch('lease') UNION ALL
		SELECT count(*) FROM queue.dequeue_batch('poison') UNION ALL
		SELECT count(*) FROM queue.dequeue_batch('place')});
	my %take = map { $_ => start_session(qq{
		SELECT payload FROM queue.dequeue_batch('$_', wait => '1 min') WHERE queue.complete(job_id)}) }
	  qw(due lease place aging callback);
	my $idle = start_session(q{SELECT count(*) FROM queue.dequeue_batch('idle', wait => '1 s')});

	is(end_session($idle), '0', "$name: a wait ends");
	is(end_session($take{due}), $n, "$name: a delayed job becomes due");
	is(end_session($take{lease}), $n, "$name: a lease that ends lets a job be taken over");
	is(end_session($take{place}), $n, "$name: and gives back its place");
	is(end_session($take{aging}), $n, "$name: a job that ages is taken");
	is(end_session($take{callback}), $n, "$name: a batch completes, and calls back");
	wait_for($node, qq{SELECT status FROM queue.batch_status('grace $n')}, "$name: so does one by its grace", 'completed');
	wait_for($node, qq{SELECT count(*) FROM queue.list_jobs('poison', 'failed', 1000) WHERE payload = '$n'},
		"$name: a job whose attempts are used up fails", '1');
	my $taken = 0;
	while ($taken < 30)
	{
		my $got = end_session(start_session(q{SELECT count(queue.complete(job_id))
			FROM queue.dequeue_batch('rate', 10, wait => '20 s')}));
		last if $got !~ /^[1-9]/;
		$taken += $got;
	}
	is($taken, 30, "$name: a rate lets through");
	wait_for($node, qq{SELECT count(*) FROM effect WHERE payload = '$n'}, "$name: handlers run, at a rate as well", '30');
	# leave nothing behind
	query(q{SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('place', wait => '20 s')});
	is(query(q{SELECT count(*) FROM queue.job WHERE queue_name IN
			('due', 'lease', 'poison', 'place', 'rate', 'aging', 'batch', 'callback', 'handled')}),
		'0', "$name: nothing is stuck");

	SKIP:
	{
		skip 'no /proc here', 1 unless -e '/proc/self/stat';
		my $before = ticks();
		Time::HiRes::sleep(1);
		cmp_ok(ticks() - $before, '<', 40, "$name: nobody is busy for nothing");
	}
	return;
}

# ---------------------------------------------------------------------
# What is there before the first step
# ---------------------------------------------------------------------

check_alive('at first');
query(q{
	SELECT queue.enqueue('held', '"held"');
	SELECT count(*) FROM queue.dequeue_batch('held');
	SELECT queue.heartbeat('w', 'worker');
	SELECT queue.enqueue('worker', '1');
	SELECT count(*) FROM queue.dequeue_batch('worker', worker => 'w');
	SELECT count(*) FROM queue.enqueue_batch('many', array_fill('1'::jsonb, ARRAY[2500]));
	SELECT count(*) FROM queue.dequeue_batch('many', 2500);
	SELECT count(*) FROM queue.enqueue_batch('later', array_fill('1'::jsonb, ARRAY[2500]), delay => '1 day');
	SELECT queue.enqueue('kept', '1');
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('kept')});
# not by pg_sleep(), which a clock that is set back lets sleep on
append_to_file("$dir/heart.sql", "SELECT queue.heartbeat('w', 'worker') \\watch 0.2\n");
my $heart = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/heart.sql" ],
	'<', \undef, '>', '/dev/null', '2>', '/dev/null');
my $stale = q{SELECT count(*) FROM queue.worker WHERE worker = 'w' AND state = 'stale'};

# ---------------------------------------------------------------------
# Two hours back
# ---------------------------------------------------------------------

# it has slept for a while when the clock is set
my $sleeper = start_session(q{SELECT count(*) FROM queue.dequeue_batch('idle', wait => '3 s')});
wait_for($node, $waiting, 'somebody waits', '1');
set_faults($node, clock => -7200);
is(end_session($sleeper), '0', 'a wait that was under way ends in its time');
check_alive('two hours back');
is(query(q{SELECT count(*) FROM queue.dequeue_batch('held')}), '0', 'two hours back: a lease goes on');
is(query(q{SELECT count(*) FROM queue.job WHERE queue_name = 'later' AND state = 'delayed'}), '2500',
	'two hours back: what is due later waits');
is(query(q{SELECT count(*) FROM queue.queue_stats() WHERE oldest_waiting_age < '0'}), '0', 'two hours back: no age is negative');

# ---------------------------------------------------------------------
# An hour ahead of the truth
# ---------------------------------------------------------------------

set_faults($node, clock => 3700);
check_alive('an hour ahead');
is(query(q{SELECT attempt FROM queue.dequeue_batch('held')}), '2', 'an hour ahead: an hour of lease is over');
is(query($stale), '0', 'an hour ahead: whoever sends heartbeats lives');
is(query(q{SELECT count(*) FROM queue.dequeue_batch('worker')}), '0', 'an hour ahead: and keeps its job');

# ---------------------------------------------------------------------
# Three days ahead, and back
# ---------------------------------------------------------------------

query(q{SELECT queue.throttle('idle', '1 h')});
set_faults($node, clock => 3 * 86400);
wait_for($node, q{SELECT count(*) FROM queue.job WHERE queue_name = 'later' AND state = 'waiting'},
	'three days ahead: what was to be done tomorrow is due', '2500');
cmp_ok(query(q{SELECT max(n) FROM (SELECT count(*) AS n FROM queue.job_live AS j JOIN queue.queue AS q USING (queue_id)
		WHERE q.queue_name = 'later' GROUP BY j.xmin) AS t}), '<=', 1000, 'three days ahead: a part at a time');
wait_for($node, q{SELECT failed FROM queue.queue_stats('many')}, 'three days ahead: all leases have ended', '2500');
cmp_ok(query(q{SELECT max(n) FROM (SELECT count(*) AS n FROM queue.job_archive AS j JOIN queue.queue AS q USING (queue_id)
		WHERE q.queue_name = 'many' GROUP BY j.xmin) AS t}), '<=', 1000, 'three days ahead: a part at a time');
check_alive('three days ahead');
is(query($stale), '0', 'three days ahead: whoever sends heartbeats lives');
is(query(q{SELECT count(*) FROM queue.dequeue_batch('worker')}), '0', 'three days ahead: and keeps its job');
is(query(q{SELECT completed FROM queue.queue_stats('kept')}), '1', 'three days ahead: what is kept for longer is there');
wait_for($node, q{SELECT count(*) FROM queue.health_alerts() WHERE code = 'clock'}, 'three days ahead: an alert says so', '1');

# whoever takes now, and does not come back, has it for three days and more
query(q{SELECT queue.enqueue('held', '"long"'); SELECT queue.throttle('rate', '1 day');
	SELECT count(*) FROM queue.dequeue_batch('held', 10)});
query(q{SELECT queue.throttle('rate', '0')});
$sleeper = start_session(q{SELECT count(*) FROM queue.dequeue_batch('idle', wait => '3 s')});
wait_for($node, $waiting, 'somebody waits', '1');
set_faults($node, clock => 0);
is(end_session($sleeper), '0', 'a wait that was under way ends in its time');
check_alive('the clock is right again');
is(query($stale), '0', 'whoever sends heartbeats lives');
is(query(q{SELECT count(queue.release(job_id)) FROM queue.job WHERE state = 'active' AND taken_at > now() AND queue_name = 'held'}),
	'2', 'leases from the future can be told, and given back');
is(query(q{SELECT count(*) FROM queue.dequeue_batch('held', 10)}), '2', 'those jobs are taken');

# processes that end are started anew
for my $type ('queue maintenance', 'queue launcher')
{
	query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = '$type'");
	wait_for($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = '$type'", "$type is back", '1');
}
check_alive('with new processes');
check_counters($node, 'at the end');
check_structure($node, 'at the end');
like(slurp_file($node->logfile), qr/the clock has jumped by/, 'the log tells');

$heart->kill_kill;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal|ERROR:  (?!canceling)/, 'no process met an error');

done_testing();

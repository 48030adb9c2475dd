# Waiting for jobs: what it holds, what ends it, what wakes it, and that no
# wake-up is lost under any interleaving.
#
# The last is a storm: producers, and takers that have nothing but long waits.
# A wake-up that is lost lets a taker sleep beside a job until its wait is over,
# so nobody's may be.  The maintenance worker, which would wake whoever was
# forgotten, comes by once a minute only.  Where the library was built for it
# (-DQUEUE_TESTING), the protocol is broken on purpose, and the storm wants to
# see takers that were forgotten; otherwise it would prove nothing.

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

my $idle = 500;
my $node = new_node('main', conf => qq{
log_statement = none
max_connections = 600
restart_after_crash = on
});
$node->safe_psql('postgres', q{SELECT queue.create_queue('q', visibility_timeout => '1 h')});

my $waiting = q{wait_event IN ('QueueWait', 'Extension') AND backend_type = 'client backend'};

# A session of psql in the background that runs one script.
sub start_session
{
	my ($sql, %params) = @_;
	my %session = (stdout => '', stderr => '');
	my $connstr = $params{connstr} || $node->connstr('postgres') . ' application_name=session';

	# one statement after the other, each by itself
	$session{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $connstr, map { ('-c', $_) } split /;\s*/, $sql ],
		'<', \undef, '>', \$session{stdout}, '2>', \$session{stderr});
	return \%session;
}

sub end_session
{
	my ($session) = @_;

	$session->{handle}->finish;
	chomp($session->{stdout}, $session->{stderr});
	return $session->{stdout};
}

sub wait_for_waiters
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($count, $name) = @_;

	return wait_for($node, "SELECT count(*) FROM pg_stat_activity WHERE $waiting", $name, $count);
}

sub enqueue
{
	my ($payload, $arguments) = @_;
	return $node->safe_psql('postgres',
		"SELECT queue.enqueue('q', '\"$payload\"'" . ($arguments ? ", $arguments" : '') . ')');
}

my $dequeue = q{SELECT payload FROM queue.dequeue_batch('q', wait => '1 min')};

# ---------------------------------------------------------------------
# What a waiter holds
# ---------------------------------------------------------------------

my $held = qq{SELECT count(a.backend_xid), count(a.backend_xmin),
	count(l.locktype) FILTER (WHERE l.locktype <> 'virtualxid')
	FROM pg_stat_activity AS a LEFT JOIN pg_locks AS l USING (pid) WHERE $waiting};

my $session = start_session(q{CALL queue.wait('q', '5 min')});
wait_for_waiters(1, 'CALL queue.wait() waits');
is($node->safe_psql('postgres', $held), '0|0|0', 'without transaction id, snapshot or lock');
enqueue('call');
end_session($session);
is($session->{stderr}, '', 'and ends when there is a job');
is($node->safe_psql('postgres', $dequeue), '"call"', 'which is there to be taken');

# also under a level that keeps snapshots, beside a job that it cannot have
$node->safe_psql('postgres', q{
	SELECT queue.enqueue('q', '1');
	SELECT count(*) FROM queue.dequeue_batch('q', visibility_timeout => '1 h')});
$session = start_session(q{SET default_transaction_isolation = 'repeatable read'; CALL queue.wait('q', '5 min')});
wait_for_waiters(1, 'CALL queue.wait() waits at REPEATABLE READ');
is($node->safe_psql('postgres', $held), '0|0|0', 'and holds as little');
enqueue('repeatable');
end_session($session);

is($node->safe_psql('postgres', $dequeue), '"repeatable"', 'it was woken');
$session = start_session($dequeue);
wait_for_waiters(1, 'a taker waits');
is($node->safe_psql('postgres', $held), '0|1|0', 'with the snapshot of its statement, and nothing else');
enqueue('plain');
is(end_session($session), '"plain"', 'and gets the job');

# ---------------------------------------------------------------------
# What ends a wait
# ---------------------------------------------------------------------

for my $how ([ $dequeue, 'a taker' ], [ q{CALL queue.wait('q', '1 min')}, 'CALL queue.wait()' ])
{
	my ($sql, $name) = @$how;

	my ($ret, $stdout, $stderr) = $node->psql('postgres', "SET statement_timeout = '200 ms';\n$sql");
	like($stderr, qr/canceling statement due to statement timeout/, "$name: a timeout ends it");

	for my $function (qw(pg_cancel_backend pg_terminate_backend))
	{
		$session = start_session($sql);
		wait_for_waiters(1, "$name waits");
		$node->safe_psql('postgres', "SELECT $function(pid) FROM pg_stat_activity WHERE $waiting");
		end_session($session);
		like($session->{stderr}, qr/canceling statement due to user request|terminating connection/,
			"$name: $function() ends it");
	}
}
# a client that is gone is noticed where the server looks for that
$session = start_session($dequeue, connstr => $node->connstr('postgres') . " options='-c client_connection_check_interval=100ms'");
wait_for_waiters(1, 'a taker waits');
$session->{handle}->kill_kill(grace => 0);
wait_for_waiters(0, 'nobody waits any more');

# the right to take jobs, of one role; others wait on
$node->safe_psql('postgres', q{CREATE ROLE taker; SELECT queue.grant_queue('q', 'taker', 'dequeue, browse')});
my @session = map { start_session("SET ROLE taker; $_") } $dequeue, q{CALL queue.wait('q', '1 min')};
push @session, start_session($dequeue);
wait_for_waiters(3, 'takers wait');
$node->safe_psql('postgres', q{BEGIN; SELECT queue.revoke_queue('q', 'taker', 'dequeue'); ROLLBACK});
wait_for_waiters(3, 'what is rolled back takes nothing away');
$node->safe_psql('postgres', q{SELECT queue.revoke_queue('q', 'taker', 'dequeue')});
end_session($_) for @session[ 0, 1 ];
like($_->{stderr}, qr/permission denied for queue "q"/, 'a wait ends with the right to take jobs') for @session[ 0, 1 ];
wait_for_waiters(1, 'who has it waits on');
enqueue('allowed');
is(end_session($session[2]), '"allowed"', 'and gets the job');

enqueue('after');
is($node->safe_psql('postgres', $dequeue), '"after"', 'a job is taken after all that');

# ---------------------------------------------------------------------
# What wakes: time
# ---------------------------------------------------------------------

$session = start_session($dequeue);
wait_for_waiters(1, 'a taker waits');
enqueue('due', "delay => '100 ms'");
is(end_session($session), '"due"', 'a job that becomes due wakes it');

enqueue('expired');
$session = start_session(q{SELECT payload, attempt FROM queue.dequeue_batch('q', visibility_timeout => '200 ms')});
is(end_session($session), '"expired"|1', 'a taker goes away with a job');
$session = start_session(q{SELECT payload, attempt FROM queue.dequeue_batch('q', wait => '1 min')});
is(end_session($session), '"expired"|2', 'the end of its lease wakes the next');

# ---------------------------------------------------------------------
# Leases that are bound to the session
# ---------------------------------------------------------------------

my $bound = q{SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1 h', bind_session => true);
	SELECT pg_sleep(600)};
my $asleep = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
for my $how (qw(pg_terminate_backend kill))
{
	enqueue($how);
	$session = start_session($bound);
	wait_for($node, $asleep, 'a session holds a bound lease', '1');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('q')}), '0', 'which nobody else gets');
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	if ($how eq 'kill')
	{
		kill_backend($node, $pid);
		end_session($session);
		is($node->safe_psql('postgres', $dequeue), qq{"$how"}, 'after a crash the job is there at once');
	}
	else
	{
		my $next = start_session($dequeue);
		wait_for_waiters(1, 'somebody waits for it');
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
		is(end_session($next), qq{"$how"}, 'the end of the session wakes who waits');
		end_session($session);
	}
}
check_counters($node, 'after bound leases');

# ---------------------------------------------------------------------
# Many who wait
# ---------------------------------------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/wait.sql", "SELECT count(*) FROM queue.dequeue_batch('q', wait => '1 min');\n");
my %crowd = (stdout => '', stderr => '');
$crowd{handle} = IPC::Run::start(
	[ 'pgbench', '--no-vacuum', '-c', $idle, '-t', 1, '-f', "$dir/wait.sql", $node->connstr('postgres') ],
	'<', \undef, '>', \$crowd{stdout}, '2>', \$crowd{stderr});
wait_for_waiters($idle, "$idle takers wait");
SKIP:
{
	my @pids = split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $waiting");
	skip 'no /proc here', 1 unless -e "/proc/$pids[0]/stat";
	# user and system time, in ticks
	my $ticks = sub {
		my $sum = 0;
		for my $pid (@pids)
		{
			my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
			$sum += $stat[11] + $stat[12];
		}
		return $sum;
	};
	my $before = $ticks->();
	Time::HiRes::sleep(1);
	cmp_ok($ticks->() - $before, '<', 20, 'and cost next to nothing');
}
$node->safe_psql('postgres', qq{SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[$idle]))});
$crowd{handle}->finish;
is($crowd{stderr} =~ s/^(pgbench|starting).*//gmr =~ s/\s//gr, '', 'one commit of as many jobs wakes them all');
is($node->safe_psql('postgres', q{SELECT waiting FROM queue.queue_stats('q')}), '0', 'each has got one');

# ---------------------------------------------------------------------
# Behind PgBouncer, one transaction a connection
# ---------------------------------------------------------------------

SKIP:
{
	my $bouncer = start_bouncer($node, 5) or skip 'pgbouncer is not installed', 4;
	for my $sql ($dequeue, q{CALL queue.wait('q', '1 min')})
	{
		$session = start_session($sql, connstr => $bouncer->{connstr});
		wait_for_waiters(1, 'somebody waits behind PgBouncer');
		enqueue('pooled');
		end_session($session);
		is($session->{stdout} || $session->{stderr} || $node->safe_psql('postgres', $dequeue), '"pooled"', 'and is woken');
	}
	stop_bouncer($bouncer);
}

# ---------------------------------------------------------------------
# A shutdown, while some wait
# ---------------------------------------------------------------------

my @sessions = map { start_session($_) } ($dequeue, q{CALL queue.wait('q', '1 min')});
wait_for_waiters(2, 'two wait');
$node->stop('fast');
for (@sessions)
{
	end_session($_);
	like($_->{stderr}, qr/terminating connection due to administrator command/, 'a fast shutdown ends a wait');
}

# ---------------------------------------------------------------------
# The storm
# ---------------------------------------------------------------------

# Each player serves a job, and waits for the answer of one of two partners, who
# drop many a job before they answer.  Nobody else comes by: whoever is not woken
# sleeps on, and the player gets no answer.
$node->append_conf('postgresql.conf', "queue.maintenance_interval = 60000\nmax_prepared_transactions = 50\n");
$node->start;
my $pairs = 8;
$node->safe_psql('postgres', qq{
	SELECT count(queue.create_queue(name || n, visibility_timeout => '1 h', keep_completed => '0'))
	FROM generate_series(0, $pairs - 1) AS n, unnest('{ping,pong}'::text[]) AS name;
	CREATE TABLE forgotten (at timestamptz)});

my $serve = "SELECT queue.enqueue('ping' || :q, '1');\n";
my $return = q{
SELECT count(*) AS n FROM queue.dequeue_batch('pong' || :q, wait => '4 s') AS j WHERE queue.complete(job_id) \gset
\if :n = 0
INSERT INTO forgotten SELECT clock_timestamp();
\endif
};
my $answer = q{SELECT queue.enqueue('pong' || :q, '1')
FROM queue.dequeue_batch('ping' || :q, wait => :wait * interval '1 ms') AS j WHERE queue.complete(job_id, attempt => attempt)};
my $answer_now = "$answer;\n";
my %players = (
	serve => [ 10, $serve ],
	serve_late => [ 3, "BEGIN;\n$serve\\sleep 1 ms\nCOMMIT;\n" ],
	serve_undone => [ 3, "BEGIN;\n${serve}ROLLBACK;\nBEGIN;\n${serve}SAVEPOINT s;\n${serve}ROLLBACK TO s;\nCOMMIT;\n" ],
	serve_prepared => [ 1, "BEGIN;\n${serve}PREPARE TRANSACTION 'p :client_id';\nCOMMIT PREPARED 'p :client_id';\n" ],
	serve_due => [ 1, "SELECT queue.enqueue('ping' || :q, '1', delay => '1 ms');\n" ],
	serve_paused => [ 1, "SELECT queue.pause_queue('ping' || :q);\n${serve}SELECT queue.resume_queue('ping' || :q);\n" ]);
my %partners = (
	answer => [ 10, "\\set wait 20000\n$answer_now" ],
	answer_briefly => [ 10, "\\set wait random(0, 2)\n$answer_now" ],
	drop => [ 5, "\\set wait 20000\nBEGIN;\n${answer_now}ROLLBACK;\n" ],
	undo => [ 5, "\\set wait 20000\nBEGIN;\nSAVEPOINT s;\n${answer_now}ROLLBACK TO s;\nCOMMIT;\n" ],
	release => [ 5, q{
SELECT count(queue.release(job_id, attempt => attempt)) FROM queue.dequeue_batch('ping' || :q, wait => '20 s');
} ],
	call => [ 5, "\\set wait 20000\nCALL queue.wait('ping' || :q, '20 s');\n$answer_now" ]);

sub start_players
{
	my ($scripts, $clients, $seconds, $ending) = @_;
	my %pgbench = (stdout => '', stderr => '');
	my @files;

	for my $name (sort keys %$scripts)
	{
		my ($weight, $sql) = @{ $scripts->{$name} };
		unlink "$dir/$name.sql";
		append_to_file("$dir/$name.sql", "\\set q :client_id % $pairs\n$sql$ending");
		push @files, '-f', "$dir/$name.sql\@$weight";
	}
	$pgbench{handle} = IPC::Run::start(
		[ 'pgbench', '--no-vacuum', '-c', $clients, '-j', 2, '-T', $seconds, @files,
			$node->connstr('postgres') . ' application_name=player' ],
		'<', \undef, '>', \$pgbench{stdout}, '2>', \$pgbench{stderr});
	return \%pgbench;
}

# A partner that is interrupted at any moment.  psql goes on after an error, which
# pgbench would not.
sub start_victim
{
	my ($q) = @_;
	my %psql = (stdout => '', stderr => '');

	if (!-e "$dir/victim_$q.sql")
	{
		my $sql = $answer_now =~ s/:wait/20000/r =~ s/:q/$q/gr;
		append_to_file("$dir/victim_$q.sql", join '', map { "SET statement_timeout = $_;\n$sql" } (1 .. 4) x 5000);
	}
	$psql{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' application_name=player', '-f', "$dir/victim_$q.sql" ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	return \%psql;
}

# returns how many answers did not come
sub storm
{
	my ($seconds) = @_;

	$node->safe_psql('postgres', q{TRUNCATE forgotten;
		SELECT count(queue.purge_queue(queue_name)) FROM queue.queue});
	my $partners = start_players(\%partners, 2 * $pairs, 600, '');
	my @victims = map { start_victim($_) } 0 .. $pairs - 1;
	my $players = start_players(\%players, $pairs, $seconds, $return);
	$players->{handle}->finish;
	is($players->{stderr} =~ s/^(pgbench \(|starting).*//gmr =~ s/\s+//r, '', 'the storm meets no error');
	my ($rounds) = $players->{stdout} =~ /actually processed: (\d+)/;
	note("$rounds rounds");
	$node->safe_psql('postgres',
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'player'});
	$_->{handle}->finish for $partners, @victims;
	is($partners->{stderr} =~ s/^(pgbench \(|starting|.*terminat|.*server closed|.*abnormally|.*while processing|.*Run was aborted).*//gmr =~ s/\s+//r,
		'', 'nor do those who answer');
	return $node->safe_psql('postgres', 'SELECT count(*) FROM forgotten');
}

is(storm($ENV{QUEUE_STORM_SECONDS} || 6), '0', 'nobody was forgotten');
check_counters($node, 'after the storm');

SKIP:
{
	my ($ret) = $node->psql('postgres',
		q{CREATE FUNCTION mutate(int) RETURNS void LANGUAGE c AS 'queue', 'queue__mutate'});
	skip 'the library was built without -DQUEUE_TESTING', 14 if $ret != 0;

	# one that must do no harm: the gaps between steps are wide, in all of these
	$node->safe_psql('postgres', 'SELECT mutate(8)');
	is(storm(3), '0', 'takers that take their time: nobody is forgotten');
	$node->safe_psql('postgres', 'SELECT mutate(6)');
	# a busy machine may spare them for a while
	my $forgotten = 0;
	for (1 .. 6)
	{
		$forgotten = storm(3);
		last if $forgotten > 0;
	}
	cmp_ok($forgotten, '>', 0, 'takers that do not look again once they are in the list: some are forgotten');

	# the storm is too lively to see this one: a taker whose time is over, but
	# who is still in the list, is woken, and the next in the list sleeps on
	for my $mutation ([ 9, '"left"', 'is handed on' ], [ 7, '', 'is lost where it is not handed on' ])
	{
		my ($number, $got, $name) = @$mutation;
		my $answer = 'none yet';

		$node->safe_psql('postgres', "SELECT mutate($number)");
		# a busy machine may enqueue the job too late
		for (1 .. 4)
		{
			my $first = start_session(q{SELECT payload FROM queue.dequeue_batch('q', wait => '3 s')});
			wait_for_waiters(1, 'one waits');
			my $second = start_session(q{SELECT payload FROM queue.dequeue_batch('q', wait => '8 s')});
			wait_for_waiters(2, 'another one waits');
			wait_for_waiters(1, 'the time of the first is over');
			enqueue('left');
			$answer = end_session($second);
			end_session($first);
			$node->safe_psql('postgres', q{SELECT queue.purge_queue('q')});
			last if $answer eq $got;
		}
		is($answer, $got, "a wake-up that comes too late $name");
	}

	# somebody stops between the moment that it has reserved jobs and its claims:
	# they are as if claimed, until an error ends its transaction
	$node->safe_psql('postgres', q{SELECT queue.create_queue('reserved', visibility_timeout => '1 h');
		SELECT queue.enqueue('reserved', payload::jsonb) FROM unnest(ARRAY['"first"', '"second"', '"third"']) AS payload});
	my $reserved = q{SELECT count(*) FROM queue._hints() AS h JOIN queue.job_live AS j USING (queue_id, order_class)
		WHERE (j.order_at, j.job_id) < (h.hint_order_at, h.hint_job_id) AND queue_id = (SELECT queue_id FROM queue.queue WHERE queue_name = 'reserved')};
	$node->safe_psql('postgres', 'SELECT mutate(10)');
	my $stopped = start_session(q{SELECT payload FROM queue.dequeue_batch('reserved', 2)});
	wait_for($node, $reserved, 'a taker has reserved two jobs', '2');
	my $behind = start_session(q{SELECT payload FROM queue.dequeue_batch('reserved', wait => '1 min')});
	wait_for($node, $reserved, 'another one the third, without waiting for the first', '3');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('reserved', 10)}), '0', 'there is nothing for others');
	my $next = start_session(q{SELECT payload FROM queue.dequeue_batch('reserved', 2, wait => '1 min')});
	wait_for_waiters(1, 'who wants one waits');
	is($node->safe_psql('postgres', q{SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
		WHERE query LIKE '%dequeue_batch(''reserved'', 2)' AND pid <> pg_backend_pid()}), '1', 'the first is cancelled');
	wait_for($node, qq{SELECT count(*) FROM pg_stat_activity WHERE $waiting}, 'who waits is woken', '0');
	$node->safe_psql('postgres', 'SELECT mutate(0)');
	is(end_session($next), qq{"first"\n"second"}, 'and gets both jobs');
	is(end_session($behind), '"third"', 'the other one has its own');
	end_session($stopped);
	like($stopped->{stderr}, qr/canceling statement/, 'the first has none');

	# a row with two entries of one key, the old one for a snapshot that is still open:
	# who has reserved up to the first must come upon the second
	$node->safe_psql('postgres', q{SELECT queue.create_queue('twice', visibility_timeout => '1 h')});
	my $twice = q{SELECT queue.enqueue('twice', to_jsonb(string_agg(md5(i::text), '')), source => 'SOURCE') FROM generate_series(1, 55) AS i};
	$node->safe_psql('postgres', $twice =~ s/SOURCE/first/r);
	my $old = $node->background_psql('postgres');
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue.job');
	my $block = q{SELECT split_part(trim('(' FROM ctid::text), ',', 1) FROM queue.job_live WHERE source = 'first'};
	my $before = $node->safe_psql('postgres', $block);
	for (1 .. 8)
	{
		last if $node->safe_psql('postgres', $block) ne $before;
		$node->safe_psql('postgres', q{SELECT queue.release(job_id) FROM queue.dequeue_batch('twice')});
	}
	isnt($node->safe_psql('postgres', $block), $before, 'an update that was not HOT');
	$node->safe_psql('postgres', $twice =~ s/SOURCE/second/r);
	$node->safe_psql('postgres', 'SELECT mutate(10)');
	my $reserved_twice = $reserved =~ s/'reserved'/'twice'/r;
	my @both;
	for my $count (1, 2)
	{
		push @both, start_session(q{SELECT source FROM queue.dequeue_batch('twice')});
		wait_for($node, $reserved_twice, "so many have reserved one: $count", $count);
	}
	$node->safe_psql('postgres', 'SELECT mutate(0)');
	is(join(' ', map { end_session($_) } @both), 'first second', 'each gets its own');
	$old->quit;

	# who is woken first, and has no reason to go, is back in front before the others are woken
	my $front = start_session(q{SELECT payload FROM queue.dequeue_batch('reserved', wait => '1 min')});
	wait_for_waiters(1, 'one waits in front');
	$node->safe_psql('postgres', q{SELECT queue.grant_queue('reserved', 'taker', 'dequeue, browse')});
	my @after = map { start_session("SET ROLE taker; $_") }
		(q{SELECT payload FROM queue.dequeue_batch('reserved', wait => '1 min')}) x 2;
	wait_for_waiters(3, 'two others behind it');
	$node->safe_psql('postgres', 'SELECT mutate(11)');
	$node->safe_psql('postgres', q{SELECT queue.revoke_queue('reserved', 'taker', 'dequeue')});
	end_session($_) for @after;
	like($_->{stderr}, qr/permission denied for queue "reserved"/, 'they hear that they may not take any more') for @after;
	$node->safe_psql('postgres', q{SELECT mutate(0); SELECT queue.enqueue('reserved', '"one"')});
	is(end_session($front), '"one"', 'the one in front waits on');
}
$node->stop('fast');

done_testing();

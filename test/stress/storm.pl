# A storm over one server, and the verdict.
#
#	perl storm.pl SEED SECONDS
#
# The environment says which server: PGDATA, PGHOST (the directory of its
# socket), PGPORT; STRESS_LOG is its log, STRESS_DIR an empty directory for what
# the clients know.  The server must be fresh, and this process its owner.
#
# STRESS_SABOTAGE may have SQL that is run before the checks: they must find it.
#
# Client.pm has the clients, Fault.pm what goes wrong and who else is at work,
# Check.pm the verdict.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../lib";
use Check;
use Client;
use Connection;
use Fault;
use POSIX ();
use QueueCheck;
use Time::HiRes qw(time sleep);

my $clients = 10;
my $patience = 20;		# longer than any lease and delay, shorter than the time between safety looks

my ($seed, $seconds) = @ARGV;
die "usage: storm.pl SEED SECONDS\n" if !defined $seconds || "$seed$seconds" !~ /^\d+$/;

my $dir = $ENV{STRESS_DIR};
my $until;
my %children;
my %faults = (kill => 'kills', shutdown => 'restarts', terminate => 'terminations', cancel => 'cancellations');

sub start
{
	my ($name, $work) = @_;
	my $pid = fork;

	die "no process: $!" if !defined $pid;
	$children{$pid} = $name, return if $pid;
	my $ok = eval { $work->(); 1 };
	print STDERR "$name: $@" if !$ok;
	# not through the END blocks of the parent
	POSIX::_exit($ok ? 0 : 1);
}

sub must
{
	my ($connection, $sql) = @_;
	my $answer = $connection->query($sql);

	die "$sql: $answer->{code} $answer->{message}\n" if $answer->{status} ne 'ok';
	return $answer->{rows};
}

sub set_up
{
	my $connection = Fault::await_server();

	must($connection, 'CREATE EXTENSION IF NOT EXISTS queue');
	# not part of every server package
	$connection->query('CREATE EXTENSION IF NOT EXISTS amcheck');
	open my $file, '<', "$FindBin::RealBin/setup.sql" or die "setup.sql: $!";
	must($connection, do { local $/; <$file> });
	must($connection, 'CREATE DATABASE other');
	my $little = must($connection, q{SELECT current_setting('queue.max_queues')::int < 100})->[0][0] eq 't';
	if ($little)
	{
		# more queues than there are slots; limits and workers are refused then
		must($connection, q{SELECT count(queue.create_queue('filler ' || i)) FROM generate_series(1, 8) AS i});
		$Connection::usual{53400} = 1;
	}
	$connection->close;
	return $little;
}

sub start_all
{
	my %common = (dir => $dir, seed => $seed, until => $until);
	my $number = 0;

	for (1 .. $clients)
	{
		my $client = ++$number;
		start("client $client", sub { Client->new(%common, number => $client)->run });
	}
	for my $companion (
		[ watch => \&Fault::watch, pause => 0.5 ],
		[ snapshot => \&Fault::snapshot, pause => 3 ],
		[ operate => \&Fault::operate, pause => 0.6, expected => ['2BP01', '42P01', '0A000'] ],
		[ administer => \&Fault::administer, pause => 0.3 ],
		[ visit => \&Fault::visit, database => 'other' ],
		[ visit_too => \&Fault::visit, database => 'other' ],
		[ come_and_go => \&Fault::come_and_go, database => 'other', pause => 1 ])
	{
		my ($name, $work, %o) = @$companion;

		start($name, sub { Fault::companion(%common, name => $name, number => ++$number, work => $work, %o) });
		$number++;
	}
	return;
}

# Wait for the children; those that do not come back are a problem.
sub join_all
{
	my ($check) = @_;
	my $over = time();
	my $last = $over + $Connection::patience + 30;

	while (%children && time() < $last)
	{
		my $pid = waitpid -1, POSIX::WNOHANG();

		sleep(0.05), next if $pid <= 0;
		$check->problem("$children{$pid} ended with status $?") if $?;
		printf "%s came back after %d s\n", $children{$pid}, time() - $over if time() > $over + 10;
		delete $children{$pid};
	}
	for my $pid (keys %children)
	{
		$check->problem("$children{$pid} does not end");
		kill 9, $pid;
		waitpid $pid, 0;
	}
	return;
}

# Finish what is prepared, as it was decided; and let everything be taken again.
sub calm_down
{
	my ($connection) = @_;
	my (%decision, %finished);

	for my $file (glob "$dir/client.*")
	{
		open my $log, '<', $file or die "$file: $!";
		/\tprepare\t(\S+)\t(\w)/ and $decision{$1} = $2 for <$log>;
	}
	for my $row (@{ must($connection, 'SELECT gid FROM pg_prepared_xacts ORDER BY gid') })
	{
		my $name = $row->[0];

		must($connection, ($decision{$name} eq 'c' ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
		$finished{$name} = 1;
	}
	must($connection, $_) for q{SET client_min_messages = error},
		q{SELECT queue.resume_queue()},
		q{SELECT queue.reset_queue_setting('aged', name) FROM unnest('{max_active,rate_limit}'::text[]) AS name},
		q{SELECT queue.throttle('aged', '0')},
		q{SELECT queue.set_handler('run', 'stress.handle', concurrency => 3)},
		q{SELECT queue.start_processing('run')},
		q{SELECT queue.drop_queue(queue_name, true) FROM queue.queue WHERE queue_name ~ '^(temporary|filler)'};
	return \%finished;
}

# Take and complete what there is, until there is nothing.  If nothing changes
# for a while although nobody holds anything for so long, the rest is left behind.
sub drain
{
	my ($connection, $check) = @_;
	my ($left, $begun, $since, $n) = ('', time(), time(), 0);

	open my $log, '>', "$dir/client.0" or die "no log: $!";
	while (1)
	{
		my $taken = 0;

		for my $queue (qw(plain aged brief mortal dead keyed capped run direct mirror fallback overflow))
		{
			my $sent = time();
			my $token = '0.' . ++$n;
			my $answer = $connection->query("SELECT stress.work('$queue', 1000, '$token')");
			# what has limits is refused until it has a slot, which takes a minute
			my $refused = $check->{little_room} && $answer->{code} eq '53400';
			die "queue $queue: $answer->{code} $answer->{message}\n" if $answer->{status} ne 'ok' && !$refused;
			$since = time() if $refused && time() < $begun + 150;
			my $rows = $answer->{rows};
			$taken += @$rows;
			print $log join("\t", $sent, time(), 'c', 'done', $token, join(',', map { $_->[0] } @$rows) || '-'), "\n";
		}
		must($connection, q{SELECT queue.close_batch(batch_id) FROM queue.batch WHERE closed_at IS NULL AND batch_id !~ '^grace'});
		my $now = must($connection, q{SELECT (SELECT count(*) FROM queue.job), (SELECT count(*) FROM queue.batch WHERE completed_at IS NULL)});
		my $state = "@{ $now->[0] }";
		last if $state eq '0 0';
		($left, $since) = ($state, time()) if $state ne $left;
		if (time() - $since > $patience)
		{
			$check->problem("of jobs and batches are left behind: $state",
				map { $_->[0] } @{ must($connection, 'SELECT job_id FROM queue.job ORDER BY 1 LIMIT 5') });
			print "left behind: ", join(' ', map { defined $_ ? $_ : '-' } @$_), "\n"
			  for @{ must($connection, q{SELECT queue_name, state, job_id, attempt, run_at, lease_expires_at, worker, unique_key, group_key,
				limit_key, last_error FROM queue.job ORDER BY enqueued_at LIMIT 20}) },
			  @{ must($connection, 'SELECT * FROM queue._hints()') };
			last;
		}
		sleep 0.05 if !$taken;
	}
	close $log;
	return;
}

# what is known of some jobs of which something is wrong
sub show_evidence
{
	my ($connection, $check) = @_;
	my @jobs = sort { $a <=> $b } keys %{ $check->{jobs} };

	for my $job (@jobs[ 0 .. (@jobs > 5 ? 4 : $#jobs) ])
	{
		print "job $job\n";
		for my $query ("SELECT * FROM queue.job_history($job)", "SELECT * FROM queue.job_status($job)",
			"SELECT * FROM stress.done WHERE job_id = $job")
		{
			print '  server: ', join(' | ', map { defined $_ ? $_ : '' } @$_), "\n" for @{ $connection->query($query)->{rows} };
		}
		for my $file (sort glob "$dir/client.*")
		{
			open my $log, '<', $file or next;
			/\b$job\b/ and print '  ', $file =~ s{.*/}{}r, ": $_" for <$log>;
		}
	}
	print "away from $_->{from} to $_->{to}\n" for @jobs ? @{ $check->{crashes} } : ();
	return;
}

$| = 1;
my $little = set_up();
srand $seed;
my $weather = Fault::weather();
print "seed $seed: ", join(', ', map { "$_ $weather->{$_}" } sort keys %$weather), $little ? ", little room\n" : "\n";
$until = time() + $seconds;
start_all();
my ($count, $crashes, $connection);
my $check = Check->new(dir => $dir, crashes => [], little_room => $little);
my $ok = eval {
	($count, $crashes) = Fault::storm($weather, $until);
	$check->{crashes} = $crashes;
	1;
};
$check->problem("the storm ended early: $@") if !$ok;
my $over = time();
join_all($check);
if ($ok)
{
	$connection = Fault::await_server();
	$check->{connection} = $connection;
	eval {
		$check->{finished} = calm_down($connection);
		my $calm = time();
		drain($connection, $check);
		printf "the clients came back in %d s, the rest was taken in %d s\n", $calm - $over, time() - $calm;
		must($connection, $ENV{STRESS_SABOTAGE}) if $ENV{STRESS_SABOTAGE};
		$check->read_logs;
		$check->read_database;
		$check->check_total;
		$check->check_ends;
		$check->check_order;
		$check->check_holds;
		$check->check_batches;
		$check->check_copies;
		$check->check_failures;
		$check->check_progress;
		$check->check_workers;
		$check->check_rest;
		$check->check_server_log($ENV{STRESS_LOG}, $count->{kill});
		1;
	} or $check->problem("the checks ended early: $@");
}
my @problems = @{ $check->{problems} };
print "$_\n" for @problems;
show_evidence($connection, $check) if @problems && $connection && $connection->{socket};
my %count = (%{ $check->{count} || {} }, map { ($faults{$_} => $count->{$_}) } keys %faults);
printf "stress: seed %d, %d s: %s (%s)\n", $seed, $seconds, @problems ? 'FAILED, ' . @problems . ' problems' : 'ok',
	join ', ', map { "$_ " . ($count{$_} || 0) }
	qw(attempted acknowledged done recovered doubled ordered flows batches published failed progress kept kills restarts terminations cancellations);
exit(@problems ? 1 : 0);

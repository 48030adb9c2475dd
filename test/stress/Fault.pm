# What goes wrong in a storm, and who else is at work in the server.
#
# Faults are drawn from the seed, as is the weather: how often each kind comes.
# After a crash all of shared memory is new, which heals what a lost hint or a
# miscounted place would have done; so there are seeds with many crashes, and
# seeds without any.

package Fault;

use strict;
use warnings;

use Connection;
use Time::HiRes qw(time sleep);

*pick = \&Client::pick;
*draw = \&Client::draw;

# A process beside the clients: $work->(sub { ask }) again and again, reconnected
# whenever it must be.  What nobody expects goes to its log.
sub companion
{
	my (%o) = @_;
	my $connection;

	open my $log, '>', "$o{dir}/$o{name}" or die "no log: $!";
	srand $o{seed} * 1000 + $o{number};
	my $ask = sub {
		my ($sql, @expected) = @_;
		my $answer = $connection->query($sql);

		return $answer->{rows} if $answer->{status} eq 'ok';
		print $log join("\t", time(), 0, '-', 'odd', $answer->{code}, map { s/[\t\n]/ /gr } $answer->{message}, $sql), "\n"
		  if $answer->{code} ne '' && !$Connection::usual{ $answer->{code} } && !grep { $answer->{code} =~ /^$_/ } @expected,
		  @{ $o{expected} || [] };
		return;
	};
	while (time() < $o{until})
	{
		$connection = Connection->open($o{database} || 'postgres', "stress $o{name}") if !$connection || !$connection->{socket};
		sleep 0.1, next if !$connection;
		$o{work}->($ask, sub { print $log join("\t", time(), 0, '-', 'wrong', $_[0]), "\n" });
		sleep(rand($o{pause} || 0.2));
	}
	$connection->close if $connection;
	close $log;
	return;
}

# no snapshot shows what must not be, and nobody waits for ever
sub watch
{
	my ($ask, $wrong) = @_;
	my $rows = $ask->('SELECT * FROM stress.watch()');

	$wrong->("$_->[2] $_->[0] $_->[1] in one snapshot") for @{ $rows || [] };
	$rows = $ask->(q{
		SELECT a.pid, a.application_name, a.wait_event, now() - a.query_start, a.query, pg_blocking_pids(a.pid)
		FROM pg_stat_activity AS a WHERE a.state = 'active' AND a.query_start < now() - interval '60 s'
		AND a.application_name LIKE 'stress %'});
	$wrong->('waits for very long: ' . join ' | ', map { defined $_ ? $_ : '-' } @$_) for @{ $rows || [] };
	return;
}

# a snapshot that keeps all versions of rows, for some seconds
sub snapshot
{
	my ($ask) = @_;

	$ask->('BEGIN ISOLATION LEVEL REPEATABLE READ') or return;
	$ask->('SELECT count(*) FROM queue.job');
	sleep(rand 6);
	$ask->('SELECT count(*) FROM queue.job');
	$ask->('COMMIT');
	return;
}

# who rewrites the tables
sub operate
{
	my ($ask) = @_;
	my @tables = map { "queue.$_" } qw(job_live job_live job_live job_parked job_parked unique_key group_head limit_place
	  dependency batch_progress batch _archive_count _archive_01 _archive_05 _log_01 _leaf _prepared queue);
	my $table = pick(@tables);

	$ask->(q{SET lock_timeout = '3 s'});
	my $what = draw(4, "VACUUM FULL $table", 4, "VACUUM $table", 2, "VACUUM (FREEZE) $table", 2, "ANALYZE $table",
		3, "REINDEX TABLE CONCURRENTLY $table", 2, "REINDEX TABLE $table", 2, 'CHECKPOINT', 1, 'SELECT pg_reload_conf()',
		1, 'CREATE INDEX CONCURRENTLY IF NOT EXISTS foreign_index ON queue.job_live (attempt)',
		1, 'DROP INDEX CONCURRENTLY IF EXISTS queue.foreign_index', 2, 'cluster', 2, 'lock', 3, 'invalid');
	if ($what eq 'cluster')
	{
		my $rows = $ask->("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = '$table'::regclass"
			  . ' AND indisvalid AND indpred IS NULL LIMIT 1');
		$ask->("CLUSTER $table USING " . $rows->[0][0] =~ s/.*\.//r, '42704') if $rows && @$rows;
	}
	elsif ($what eq 'lock')
	{
		$ask->('BEGIN');
		$ask->("LOCK TABLE $table IN " . pick('ACCESS EXCLUSIVE', 'SHARE ROW EXCLUSIVE', 'SHARE') . ' MODE');
		sleep(rand 0.2);
		$ask->('ROLLBACK');
	}
	elsif ($what eq 'invalid')
	{
		# what a REINDEX CONCURRENTLY has left behind that did not come to its end
		my $rows = $ask->(q{SELECT indexrelid::regclass FROM pg_index
			WHERE NOT indisvalid AND indexrelid::regclass::text ~ '_cc(new|old)'});
		$ask->("DROP INDEX IF EXISTS $_->[0]") for @{ $rows || [] };
	}
	else
	{
		$ask->($what);
	}
	return;
}

# who administers the queues
sub administer
{
	my ($ask) = @_;
	my $n = 1 + int rand 100;
	my $what = draw(
		4, "queue.alter_queue('aged', aging_interval => '$n min')",
		2, "queue.reset_queue_setting('aged', 'aging_interval')",
		3, "queue.alter_queue('aged', max_active => 3)",
		3, "queue.reset_queue_setting('aged', 'max_active')",
		2, "queue.alter_queue('aged', rate_limit => 50)",
		2, "queue.reset_queue_setting('aged', 'rate_limit')",
		1, "queue.throttle('aged', '100 ms')",
		2, "queue.alter_queue('aged', notify => true)",
		1, "queue.alter_queue('aged', notify => false, log_level => 'all')",
		1, "queue.alter_queue('aged', log_level => 'errors')",
		2, "queue.alter_queue('brief', keep_completed => '1 s')",
		1, "queue.alter_queue('brief', keep_completed => '0')",
		2, "queue.clean('brief')",
		3, "queue.requeue_failed(max_jobs => 10)",
		3, "queue.redrive('dead', 10)",
		3, 'count(*) FROM queue.maintain()',
		2, "queue.set_handler('run', 'stress.handle', concurrency => " . (1 + int rand 4) . ')',
		1, "queue.set_handler('run', null)",
		1, "queue.stop_processing('run')",
		2, "queue.start_processing('run')",
		1, "queue.alter_queue('run', no_retry_sqlstates => '{ST002}')",
		1, "queue.reset_queue_setting('run', 'no_retry_sqlstates')",
		2, "queue.bind('news.#', 'aged')",
		1, "queue.unbind('news.#', 'aged')",
		1, "queue.set_mode('direct', 'direct')",
		1, "queue.set_mode('direct', 'queued')",
		3, 'pause',
		2, 'temporary');

	$ask->(q{SET lock_timeout = '5 s'; SET client_min_messages = error});
	if ($what eq 'pause')
	{
		my $queue = pick(qw(plain keyed mortal run brief direct fallback fallback));

		$ask->("SELECT queue.pause_queue('$queue')");
		sleep(rand 0.3);
		$ask->("SELECT queue.resume_queue('$queue')");
	}
	elsif ($what eq 'temporary')
	{
		$ask->(q{SELECT queue.create_queue('temporary')}, '42710');
		$ask->(q{SELECT queue.enqueue_batch('temporary', '{1,2,3}', delay => nullif(n, 0) * interval '1 ms')
			FROM generate_series(0, 3) AS n}, '42704');
		$ask->(q{SELECT count(*) FROM queue.dequeue_batch('temporary', 3)}, '42704');
		$ask->(q{SELECT queue.drop_queue('temporary', true)}, '42704');
	}
	else
	{
		$ask->("SELECT $what", $what =~ /set_handler|start_processing/ ? '55000' : ());
	}
	return;
}

# ---------------------------------------------------------------------
# Another database, whose extension comes and goes
# ---------------------------------------------------------------------

# what may be gone: a schema, a function, a table, a queue, a relation by its number
my @gone = qw(3F000 42883 42P01 42704 55000);

sub visit
{
	my ($ask) = @_;

	$ask->(q{SET lock_timeout = '5 s'});
	$ask->(q{SELECT queue.enqueue('q', '{}')}, @gone);
	$ask->(q{SELECT queue.enqueue_batch('q', '{1,2,3}', delay => '10 ms')}, @gone);
	$ask->(q{SELECT queue.enqueue('run', '{}')}, @gone);
	$ask->(q{SELECT queue.complete(job_id, attempt => attempt) FROM queue.dequeue_batch('q', 5, wait => '20 ms')}, @gone);
	$ask->(q{SELECT queue.fail(job_id, attempt => attempt) FROM queue.dequeue_batch('q', 1)}, @gone);
	$ask->(q{SELECT count(*) FROM queue.maintain()}, @gone);
	$ask->(q{CALL queue.wait('q', '50 ms')}, @gone);
	return;
}

sub come_and_go
{
	my ($ask, $wrong) = @_;

	$ask->(q{SET client_min_messages = error; SET lock_timeout = '30 s'});
	if ($ask->('CREATE EXTENSION IF NOT EXISTS queue'))
	{
		$ask->(q{SELECT queue.create_queue('q')}, '42710');
		$ask->(q{SELECT queue.create_queue('run')}, '42710');
		$ask->(q{CREATE OR REPLACE FUNCTION handle(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.001)'});
		$ask->(q{SELECT queue.set_handler('run', 'public.handle', concurrency => 2)});
		my $rows = $ask->(q{SELECT queue.enqueue('q', '{}') IS NOT NULL});
		$wrong->('nothing can be put into an extension made anew') if $rows && (!@$rows || $rows->[0][0] ne 't');
		sleep(rand 2);
		$ask->(pick('DROP EXTENSION IF EXISTS queue CASCADE', 'DROP EXTENSION IF EXISTS queue CASCADE', 'SELECT 1'));
	}
	if (rand() < 0.3)
	{
		my $third = $ask->('CREATE DATABASE third', '42P04', '55006') ? create_twice($wrong) : Connection->open('third', 'stress third');
		$third->close if $third && rand() < 0.5;
		sleep(rand 1);
		$ask->(q{SET lock_timeout = 0});
		$ask->('DROP DATABASE IF EXISTS third ' . ($third && $third->{socket} ? 'WITH (FORCE)' : pick('', 'WITH (FORCE)')), '55006');
	}
	return;
}

# Two sessions make the extension at once: one of them does, the other gets an
# error of the server's catalogs, and what is there is of use.  Returns a session.
sub create_twice
{
	my ($wrong) = @_;
	my @sessions = grep { $_ } map { Connection->open('third', 'stress third') } 1, 2;

	return $sessions[0] if @sessions < 2;
	$_->request('CREATE EXTENSION queue') for @sessions;
	my @answers = map { $_->receive } @sessions;
	my @made = grep { $_->{status} eq 'ok' } @answers;
	for my $answer (grep { $_->{status} eq 'error' } @answers)
	{
		# there is an extension, a schema, or a row of theirs in a catalog
		$wrong->("CREATE EXTENSION beside another: $answer->{code} $answer->{message}")
		  if $answer->{code} !~ /^(42710|42P06|23505)$/ && !$Connection::usual{ $answer->{code} };
	}
	$wrong->('CREATE EXTENSION has succeeded twice') if @made > 1;
	$wrong->('CREATE EXTENSION has failed twice: ' . join ', ', map { $_->{code} } @answers)
	  if !@made && !grep { $_->{status} eq 'lost' || $Connection::usual{ $_->{code} } } @answers;
	if (@made)
	{
		my $answer = $sessions[1]->query(q{SELECT queue.create_queue('q'); SELECT queue.enqueue('q', '{}', delay => '10 ms');
			SELECT job_id IS NOT NULL FROM queue.dequeue_batch('q', wait => '10 s')});
		$wrong->("an extension made beside another is of no use: $answer->{status} $answer->{code} $answer->{message}")
		  if $answer->{status} eq 'ok' ? !@{ $answer->{rows} } || $answer->{rows}[-1][0] ne 't'
		  : $answer->{status} eq 'error' && !$Connection::usual{ $answer->{code} };
	}
	$sessions[0]->close;
	return $sessions[1];
}

# ---------------------------------------------------------------------
# Faults
# ---------------------------------------------------------------------

# How often each fault comes, and how long there is none, in this storm.
sub weather
{
	my %weather = (
		kill => pick(0, 1, 2, 4),
		shutdown => pick(0, 0, 1, 2),
		terminate => pick(0, 2, 6),
		cancel => pick(0, 2, 6),
		pause => pick(0.3, 1, 2),
	);
	$weather{kill} = 1 if !grep { $weather{$_} } qw(kill shutdown terminate cancel);
	return \%weather;
}

# Faults until the end; returns how many of each, and when the server was away.
sub storm
{
	my ($weather, $until) = @_;
	my %count = (kill => 0, shutdown => 0, terminate => 0, cancel => 0);
	my @crashes;
	my $connection;

	while (1)
	{
		sleep(0.05 + rand $weather->{pause});
		last if time() >= $until;
		my $what = draw(map { ($weather->{$_} => $_) } qw(kill shutdown terminate cancel));
		my ($kind, $which) = (rand, rand);

		if ($what eq 'shutdown')
		{
			my $crash = { from => time() };
			restart($kind < 0.8 ? 'immediate' : 'fast');
			$crash->{to} = time();
			push @crashes, $crash;
			$count{$what}++;
			next;
		}
		$connection = Connection->open('postgres', 'stress conductor') if !$connection || !$connection->{socket};
		next if !$connection;
		# half of the victims are ours, whatever number of clients there is
		my $rows = $connection->query(q{SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND }
			  . ($kind < 0.5 ? q{backend_type LIKE 'queue %'}
				: $what eq 'kill' && $kind > 0.9 ? q{backend_type !~ '^(queue|client)'} : q{application_name LIKE 'stress %'})
			  . ' ORDER BY backend_type, backend_start')->{rows};
		next if !@$rows;
		my $pid = $rows->[ $which * @$rows ][0];
		if ($what eq 'kill')
		{
			my $crash = { from => time() };
			kill 9, $pid or next;
			# the cluster is back when new sessions come in that are not of the old one
			my $now;
			until ($connection->query('SELECT 1')->{status} eq 'lost')
			{
				sleep 0.01;
				last if time() > $crash->{from} + 60;
			}
			await_server();
			$crash->{to} = time();
			push @crashes, $crash;
		}
		else
		{
			$connection->query("SELECT pg_${what}_backend($pid)");
		}
		$count{$what}++;
	}
	return (\%count, \@crashes);
}

sub restart
{
	my ($mode) = @_;

	pg_ctl('stop', '-m', $mode);
	sleep(rand 0.5);
	pg_ctl('start', '-l', $ENV{STRESS_LOG});
	await_server();
	return;
}

sub pg_ctl
{
	my ($action, @arguments) = @_;

	system('pg_ctl', $action, '-s', '-w', '-t', 180, '-D', $ENV{PGDATA}, @arguments) == 0
	  or die "pg_ctl $action: status $?\n";
	return;
}

sub await_server
{
	my $until = time() + 180;

	while (time() < $until)
	{
		my $connection = Connection->open('postgres', 'stress conductor');

		return $connection if $connection;
		sleep 0.05;
	}
	die "the server does not come back: $Connection::error\n";
}

1;

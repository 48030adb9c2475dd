# What the TAP tests share: nodes with the extension, and two checkers.
#
# The counters of queue.queue_stats() must equal the tables at any quiet moment
# (check_counters), and the tables their indexes (check_structure).
#
# A load (start_load ... check_load) is producers and consumers under pgbench,
# any of which may be killed at any time.  Its verdict is that of a "total
# queue": every job has a key; a producer's key is *attempted* when it is sent,
# and *acknowledged* when the commit has returned, by the log that pgbench keeps
# on the client's side; a key is *done* when a consumer's completion has
# committed, by a row of its own in the same transaction.  After a drain,
#
#	lost		acknowledged, but not done
#	unexpected	done, but never attempted
#	doubled		done more than once
#
# must all be empty.  What was attempted and not acknowledged may be either.

package QueueTest;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

our @EXPORT = qw(
  new_node create_extension wait_for kill_backend
  check_counters check_structure
  create_load start_load stop_load drain_load check_load
  faults_library start_with_faults set_faults
);

# A running node whose database postgres has the extension.
sub new_node
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => $params{streaming});
	# what a streaming node would be given is too little for the tests
	$node->append_conf('postgresql.conf', "max_connections = 100\n");
	$node->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	$node->start;
	create_extension($node, 'postgres');
	return $node;
}

sub create_extension
{
	my ($node, $database) = @_;

	$node->safe_psql($database, 'CREATE EXTENSION queue');
	# not part of every server package
	$node->psql($database, 'CREATE EXTENSION amcheck');
	return;
}

# ---------------------------------------------------------------------
# A clock that is set, a disk that is full: see test/faults.c
# ---------------------------------------------------------------------

# The library, compiled; undef where that is not possible.
sub faults_library
{
	my $library = PostgreSQL::Test::Utils::tempdir() . '/faults.so';
	my $source = "$FindBin::RealBin/../faults.c";

	return undef if $^O ne 'linux';
	return system($ENV{CC} || 'cc', '-shared', '-fPIC', '-O2', '-o', $library, $source, '-ldl') == 0 ?
		$library : undef;
}

# Start a node under it, without any fault yet.
sub start_with_faults
{
	my ($node, $library) = @_;

	set_faults($node);
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{QUEUE_FAULTS} = $node->basedir . '/faults';
	$node->start;
	return;
}

# clock: by how many seconds it is ahead; data, wal: whether there is no room.
# What is not given is as it should be.
sub set_faults
{
	my ($node, %faults) = @_;
	my $file = $node->basedir . '/faults';

	append_to_file($file, '') unless -e $file;
	open(my $handle, '+<', $file) or die "$file: $!";
	binmode $handle;
	# in place, as it is mapped
	syswrite $handle, pack('q l l', 1_000_000 * ($faults{clock} || 0), $faults{data} ? 1 : 0, $faults{wal} ? 1 : 0);
	close $handle;
	return;
}

# Poll until a query gives the expected value ('t'), as a test of its own.
sub wait_for
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $query, $name, $expected) = @_;

	return ok($node->poll_query_until('postgres', $query, $expected), $name);
}

# Kill a backend the hard way and wait for the cluster to be back.  Needs
# restart_after_crash = on.
sub kill_backend
{
	my ($node, $pid) = @_;
	my $offset = -s $node->logfile;

	kill(9, $pid) or die "could not kill $pid: $!";
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if slurp_file($node->logfile, $offset) =~ /all server processes terminated; reinitializing/;
		Time::HiRes::sleep(0.1);
	}
	$node->poll_query_until('postgres', 'SELECT true')
	  or die 'the cluster did not come back';
	return;
}

# Counters against tables, queue by queue.  Only for a database at rest; what
# the maintenance worker is still moving settles while we poll.
sub check_counters
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $name, $database) = @_;
	$database ||= 'postgres';

	my $states = join ', ', map { "count(*) FILTER (WHERE state = '$_') AS $_" }
	  qw(waiting delayed blocked active completed failed cancelled);
	my $tables = qq{
		SELECT q.queue_name, $states FROM queue.queue AS q LEFT JOIN (
			SELECT queue_id, queue._state(state, lease_owner) AS state FROM queue.job_live
			UNION ALL SELECT queue_id, queue._state(state, lease_owner) FROM queue.job_parked
			UNION ALL SELECT queue_id, queue._state(state, 0) FROM queue.job_archive
		) AS j USING (queue_id) GROUP BY q.queue_name ORDER BY q.queue_name};
	my $counters = q{
		SELECT queue_name, waiting, delayed, blocked, active, completed, failed, cancelled
		FROM queue.queue_stats() ORDER BY queue_name};

	my ($want, $got);
	for (1 .. 50)
	{
		$want = $node->safe_psql($database, $tables);
		$got = $node->safe_psql($database, $counters);
		last if $got eq $want;
		Time::HiRes::sleep(0.1);
	}
	return is($got, $want, "$name: the counters equal the tables");
}

# Rows against indexes: direct access to heap and btree must leave them as the
# executor would.
sub check_structure
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $name, $database) = @_;
	$database ||= 'postgres';

  SKIP:
	{
		skip 'no amcheck here', 1
		  if $node->safe_psql($database,
			q{SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'}) eq '0';
		my ($ret, $stdout, $stderr) = $node->psql($database, q{
			SELECT count(bt_index_check(c.oid, true)) FROM pg_class AS c
			WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind = 'i';
			SELECT c.relname, v.* FROM pg_class AS c, verify_heapam(c.oid) AS v
			WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind = 'r'});
		$stdout =~ s/^\d+\n?//;
		is($stdout . $stderr, '', "$name: heaps and indexes are sound");
	}
	return;
}

# ---------------------------------------------------------------------
# Loads
# ---------------------------------------------------------------------

# The queue "load" and the table of what is done.
sub create_load
{
	my ($node, %params) = @_;
	my $settings = $params{settings} || q{visibility_timeout => '1 s'};

	$node->safe_psql('postgres', qq{
		SELECT queue.create_queue('load', $settings);
		CREATE TABLE done (run int, client int, n int)});
	return;
}

my $runs = 0;

# Start producers and consumers, "produce" times as much production as
# consumption; returns a handle for stop_load().
sub start_load
{
	my ($node, %params) = @_;
	my $run = ++$runs;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $produce = $params{produce} || 1;
	my %load = (run => $run, node => $node, dir => $dir);

	append_to_file("$dir/produce.sql", q{
\set n :n + 1
SELECT queue.enqueue('load', jsonb_build_object('run', :run, 'client', :client_id, 'n', :n));
});
	# one transaction takes, the next completes; the dummy row is for \\gset
	append_to_file("$dir/consume.sql", q{
SELECT * FROM (
	SELECT job_id AS job, attempt, (payload->>'run')::int AS r, (payload->>'client')::int AS c,
		(payload->>'n')::int AS k
	FROM queue.dequeue_batch('load')
	UNION ALL SELECT 0, 0, 0, 0, 0) AS j LIMIT 1 \gset
\if :job
INSERT INTO done SELECT :r, :c, :k WHERE queue.complete(:job, attempt => :attempt);
\endif
});
	my @command = ('pgbench', '--no-vacuum', '--time', 600, '--client', 8, '--jobs', 2,
		'--log', "--log-prefix=$dir/log",
		'-D', "run=$run", '-D', 'n=0',
		'-f', "$dir/produce.sql\@$produce", '-f', "$dir/consume.sql\@1",
		$node->connstr('postgres') . ' application_name=load');
	$load{stdout} = $load{stderr} = '';
	$load{handle} = IPC::Run::start(\@command, '<', \undef,
		'>', \$load{stdout}, '2>', \$load{stderr});
	return \%load;
}

# Wait for its end, which comes when the server goes away; or end it on the
# server's side, as a signal to pgbench would lose what it has not logged yet.
sub stop_load
{
	my ($load, %params) = @_;

	$load->{node}->safe_psql('postgres',
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'load'})
	  if $params{terminate};
	$load->{handle}->finish;

	# what each client was told to be committed: lines of the first script
	my %acknowledged;
	for my $file (glob "$load->{dir}/log.*")
	{
		for my $line (split /\n/, slurp_file($file))
		{
			my ($client, undef, undef, $script) = split / /, $line;
			$acknowledged{$client}++ if defined $script && $script eq '0';
		}
	}
	$load->{acknowledged} = \%acknowledged;
	return;
}

# Complete all there is, also what others have taken and will not come back for.
sub drain_load
{
	my ($node) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $deadline)
	{
		my $left = $node->safe_psql('postgres', q{
			WITH job AS MATERIALIZED (
				SELECT * FROM queue.dequeue_batch('load', 1000)
			)
			INSERT INTO done SELECT (payload->>'run')::int, (payload->>'client')::int, (payload->>'n')::int
				FROM job WHERE queue.complete(job_id, attempt => attempt);
			SELECT count(*) FROM queue.job WHERE queue_name = 'load'});
		return 1 if $left eq '0';
		Time::HiRes::sleep(0.05);
	}
	diag($node->safe_psql('postgres', q{SELECT * FROM queue.job WHERE queue_name = 'load' LIMIT 10}));
	diag($node->safe_psql('postgres', q{SELECT * FROM queue._hints()}));
	return 0;
}

# The verdict over all loads so far.  What was not acknowledged may be done all
# the same, if it was in flight: one a client at most.
sub check_load
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $name, @loads) = @_;
	my (%acknowledged, $total);

	for my $load (@loads)
	{
		while (my ($client, $n) = each %{ $load->{acknowledged} })
		{
			$acknowledged{"$load->{run}|$client"} = $n;
			$total += $n;
		}
	}
	ok(drain_load($node), "$name: everything can be taken and completed");
	cmp_ok($total, '>', 100, "$name: $total jobs were acknowledged");

	my @lost;
	my @unexpected;
	my %most;
	my %count;
	for (split /\n/, $node->safe_psql('postgres', 'SELECT run, client, max(n), count(DISTINCT n) FROM done GROUP BY run, client'))
	{
		my ($run, $client, $most, $count) = split /\|/;
		my $key = "$run|$client";
		my $n = $acknowledged{$key} || 0;

		push @unexpected, "$key: $most of $n" if $most > $n + 1;
		# all from 1 to n, and perhaps the one in flight
		push @lost, "$key: $count of $n" if $count != $most || $most < $n;
		delete $acknowledged{$key};
	}
	push @lost, map { "$_: none of $acknowledged{$_}" } keys %acknowledged;

	is(join("\n", @lost), '', "$name: nothing is lost");
	is(join("\n", @unexpected), '', "$name: nothing is unexpected");
	is( $node->safe_psql('postgres',
			'SELECT run, client, n, count(*) FROM done GROUP BY 1, 2, 3 HAVING count(*) > 1 LIMIT 5'),
		'', "$name: nothing is done twice");
	return;
}

1;

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
use File::Find ();
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueCheck;
use Test::More;
use Time::HiRes ();

our @EXPORT = qw(
  new_node create_extension wait_for kill_backend
  check_counters check_structure
  create_states states_of check_states
  start_bouncer stop_bouncer
  create_load start_load stop_load drain_load check_load
  faults_library start_with_faults set_faults
  power_library start_with_power power_off
);

# A running node whose database postgres has the extension, or that version of it.
sub new_node
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => $params{streaming});
	# what a streaming node would be given is too little for the tests
	$node->append_conf('postgresql.conf', "max_connections = 100\n");
	$node->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	$node->start;
	create_extension($node, 'postgres', $params{version});
	return $node;
}

sub create_extension
{
	my ($node, $database, $version) = @_;

	$node->safe_psql($database, 'CREATE EXTENSION queue' . ($version ? " VERSION '$version'" : ''));
	# not part of every server package
	$node->psql($database, 'CREATE EXTENSION amcheck');
	return;
}

# ---------------------------------------------------------------------
# A clock that is set, a disk that is full: see test/faults.c
# ---------------------------------------------------------------------

# A library to be preloaded, compiled; undef where that is not possible.
sub compile_library
{
	my ($name) = @_;
	my $library = PostgreSQL::Test::Utils::tempdir() . "/$name.so";
	my $source = "$FindBin::RealBin/../$name.c";

	return undef if $^O ne 'linux';
	return system($ENV{CC} || 'cc', '-shared', '-fPIC', '-O2', '-o', $library, $source, '-ldl') == 0 ?
		$library : undef;
}

sub faults_library
{
	return compile_library('faults');
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

# ---------------------------------------------------------------------
# A loss of power: see test/power.c
# ---------------------------------------------------------------------

use constant SECTOR => 512;		# as in power.c
use constant PAGE => 16;			# sectors

sub power_library
{
	return compile_library('power');
}

# Start a node that can lose its power, for the first time or again; false if
# it does not start.
sub start_with_power
{
	my ($node, $library) = @_;
	my $dir = $node->basedir . '/power';

	mkdir $dir unless -d $dir;
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{QUEUE_POWER} = $node->basedir;
	return $node->start(fail_ok => 1);
}

# All processes of a node end at once, and what was not synced is lost, or torn,
# as rand() wants it.  With wal, that is when so many sectors of the WAL, at
# least, are not synced, if that happens at all.  Returns how many sectors were
# given back their old content in data, wal and other files, and how many pages
# were torn by that.
sub power_off
{
	my ($node, %params) = @_;
	my %lost = (data => 0, wal => 0, other => 0, torn => 0);
	my %path;

	kill_all($node, $params{wal});
	File::Find::find({ no_chdir => 1, wanted => sub {
		my @stat = lstat;

		$path{ $stat[1] } = $_ if -f _;
	} }, $node->data_dir);
	# in an order that is the same each time
	for my $inode (sort { $path{$a} cmp $path{$b} } keys %path)
	{
		my $saved = saved_of($node, $inode);

		lose($path{$inode}, $saved, \%lost) if -s "$saved.map";
	}
	unlink glob($node->basedir . '/power/*.*');
	return \%lost;
}

sub saved_of
{
	my ($node, $inode) = @_;

	return $node->basedir . "/power/$inode";
}

# The postmaster and its children.  They are stopped first, so that none sees
# another one die.
sub kill_all
{
	my ($node, $wal) = @_;
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @children;

	for (1 .. 100)
	{
		kill('STOP', $postmaster) or die "postmaster $postmaster: $!";
		@children = children_of($postmaster);
		kill('STOP', @children);
		last if !$wal || unsynced_wal($node) >= $wal;
		kill('CONT', @children, $postmaster);
		Time::HiRes::sleep(rand(0.02));
	}
	kill('KILL', @children);
	$node->kill9;
	for my $pid ($postmaster, @children)
	{
		for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last unless kill(0, $pid);
			Time::HiRes::sleep(0.1);
		}
	}
	return;
}

# in sectors
sub unsynced_wal
{
	my ($node) = @_;
	my $count = 0;

	for my $segment (glob($node->data_dir . '/pg_wal/0*'))
	{
		my $map = saved_of($node, (lstat $segment)[1]) . '.map';

		$count += substr(slurp_file($map), 8) =~ tr/\1// if -s $map;
	}
	return $count;
}

sub children_of
{
	my ($parent) = @_;
	my @children;

	for my $stat (glob '/proc/[0-9]*/stat')
	{
		# the name of a program may have anything in it
		open(my $handle, '<', $stat) or next;
		push @children, $1 if (<$handle> || '') =~ /^(\d+) .*\) \S $parent /;
		close $handle;
	}
	return @children;
}

# Put back what was saved of a file, as far as the dice say.  What it has got
# behind its old length is zeros where it is lost.
sub lose
{
	my ($path, $saved, $lost) = @_;
	my $kind = $path =~ m{/base/|/global/} ? 'data' : $path =~ m{/pg_wal/} ? 'wal' : 'other';
	my ($synced, $map) = unpack('q a*', slurp_file("$saved.map"));
	my $length = -s $path;
	my $end = $length;

	# It has grown, or shrunk: back to where it was, or some pages further.  The
	# server does not mind if that is within a page, but pg_checksums does.
	$end = $synced if rand() < 0.3;
	$end = $synced + PAGE * SECTOR * int(rand(($length - $synced) / (PAGE * SECTOR)))
	  if $length > $synced && rand() < 0.3;

	open(my $file, '+<', $path) or die "$path: $!";
	# is not there if nothing was in front of that length
	my $old;
	open($old, '<', "$saved.old") or die "$saved.old: $!" if -e "$saved.old";
	binmode $_ for grep { $_ } $file, $old;
	truncate($file, $end) or die "$path: $!";
	for (my $page = 0; $page * PAGE * SECTOR < $end; $page++)
	{
		# all of it reached the disk, nothing, or each sector for itself
		my $fate = int(rand(3));
		my ($undone, $kept) = (0, 0);

		for my $sector ($page * PAGE .. $page * PAGE + PAGE - 1)
		{
			my $at = $sector * SECTOR;
			my $is_saved = $sector < length($map) && ord(substr($map, $sector, 1));
			my $size = $end - $at < SECTOR ? $end - $at : SECTOR;

			next if $size <= 0 || !($is_saved || $at >= $synced);
			# what was cut off has its old content, if the cut is undone
			if ($at < $length && ($fate == 0 || $fate == 2 && rand() < 0.5))
			{
				$kept++;
				next;
			}
			my $content = "\0" x $size;
			if ($is_saved)
			{
				sysseek($old, $at, 0);
				sysread($old, $content, $size) == $size or die "$saved.old: $!";
			}
			sysseek($file, $at, 0);
			syswrite($file, $content) == $size or die "$path: $!";
			$undone++;
		}
		$lost->{$kind} += $undone;
		$lost->{torn}++ if $undone && $kept;
	}
	close $file;
	return;
}

# ---------------------------------------------------------------------
# PgBouncer, one transaction a connection
# ---------------------------------------------------------------------

# Start it before a node, with that many connections for its clients; returns
# where they, and who administers it, connect to.  undef if it is not installed.
sub start_bouncer
{
	my ($node, $connections) = @_;
	my ($program) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';

	return undef unless $program;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $user = $node->safe_psql('postgres', 'SELECT current_user');
	my $connstr = "host=$dir port=$port user=$user";
	my %bouncer = (connstr => "$connstr dbname=postgres", admin => "$connstr dbname=pgbouncer", stdout => '', stderr => '');

	append_to_file("$dir/users", qq{"$user" ""\n});
	append_to_file("$dir/pgbouncer.ini", sprintf(q{[databases]
* = host=%s port=%s user=%s
[pgbouncer]
listen_addr =
unix_socket_dir = %s
listen_port = %s
auth_type = any
auth_file = %s
admin_users = %s
pool_mode = transaction
default_pool_size = %s
max_client_conn = 200
}, $node->host, $node->port, $user, $dir, $port, "$dir/users", $user, $connections));
	$bouncer{handle} = IPC::Run::start([ $program, "$dir/pgbouncer.ini" ],
		'<', \undef, '>', \$bouncer{stdout}, '2>', \$bouncer{stderr});
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return \%bouncer if -S "$dir/.s.PGSQL.$port";
		Time::HiRes::sleep(0.1);
	}
	die "pgbouncer does not start: $bouncer{stderr}";
}

sub stop_bouncer
{
	my ($bouncer) = @_;

	$bouncer->{handle}->signal('TERM');
	$bouncer->{handle}->finish;
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

	my ($want, $got);
	for (1 .. 50)
	{
		$want = $node->safe_psql($database, QueueCheck::counts_of_tables());
		$got = $node->safe_psql($database, QueueCheck::counters());
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
		my ($ret, $stdout, $stderr) = $node->psql($database, join ';', QueueCheck::structure());
		is($stdout . $stderr, '', "$name: heaps and indexes are sound");
	}
	return;
}

# ---------------------------------------------------------------------
# Jobs in every state, and all that is kept beside them
# ---------------------------------------------------------------------

# For what carries a database elsewhere.  Queues begin with a prefix, so that it
# can be called again; the roles owner, producer and consumer must exist.
sub create_states
{
	my ($node, $database, $prefix) = @_;

	# labels in the payloads say what they are
	$node->safe_psql($database, qq{
		SELECT queue.create_queue('$prefix states', visibility_timeout => '1 day', max_active_per_key => 1, max_attempts => 5,
			backoff => 'fixed', backoff_base => '1 day', log_level => 'all', keep_completed => '1000 years',
			no_retry_sqlstates => '{22}', health_thresholds => '{"waiting_warning": 7}', max_depth => 1000);
		SELECT queue.create_queue('$prefix dead');
		SELECT queue.create_queue('$prefix "ended"', max_attempts => 1, keep_failed => '1000 years', keep_completed => '3 days',
			dead_letter_queue => '$prefix dead');
		SELECT queue.create_queue('$prefix kept failed', max_attempts => 1);
		SELECT queue.create_queue('$prefix aging', aging_interval => '1 min');
		SELECT queue.create_queue('$prefix paused'); SELECT queue.pause_queue('$prefix paused');
		SELECT queue.create_queue('$prefix handled');
		CREATE OR REPLACE FUNCTION handle_state(payload jsonb) RETURNS jsonb LANGUAGE sql AS \$\$SELECT '{"did": true}'::jsonb\$\$;
		SELECT queue.set_handler('$prefix handled', 'handle_state'), queue.stop_processing('$prefix handled');
		SELECT queue.alter_queue('$prefix states', owner => 'owner');
		SELECT queue.grant_queue('$prefix states', 'producer', 'enqueue'),
			queue.grant_queue('$prefix states', 'consumer', 'dequeue, browse');
		SELECT queue.set_mode('$prefix kept failed', 'mirror', '$prefix aging');
		SELECT queue.bind('$prefix.*', '$prefix aging');
		SELECT queue.schedule('$prefix', '0 0 * * *', '$prefix aging', '"by the clock"', create_cron_job => false);

		SELECT queue.enqueue('$prefix states', '"held"', priority => 0),
			queue.enqueue('$prefix states', '"head of group"', priority => 0, group_key => 'g'),
			queue.enqueue('$prefix states', '"first of limit"', priority => 0, options => '{"limit_key": "k"}');
		SELECT count(queue.set_progress(job_id, 50, 'half')) FROM queue.dequeue_batch('$prefix states', 3, worker => 'there');
		SELECT queue.enqueue('$prefix states', '"bound"', priority => 0);
		SELECT count(*) FROM queue.dequeue_batch('$prefix states', 1, bind_session => true);
		SELECT queue.enqueue('$prefix states', '"next of group"', group_key => 'g'),
			queue.enqueue('$prefix states', '"next of limit"', options => '{"limit_key": "k"}'),
			queue.enqueue('$prefix states', '"unique"', unique_key => 'u', headers => '{"a": 1}', source => 'here'),
			queue.enqueue('$prefix states', '"delayed"', delay => '1 day'),
			queue.enqueue('$prefix states', '"retried"', priority => -1);
		SELECT queue.fail(job_id, 'again') FROM queue.dequeue_batch('$prefix states');
		SELECT queue.enqueue('$prefix states', '"child"', depends_on => ARRAY[queue.enqueue('$prefix states', '"parent"', priority => 1)]);
		SELECT queue.create_batch('$prefix batch', callback_queue => '$prefix dead', callback_payload => '"batch complete"');
		SELECT queue.enqueue('$prefix aging', '"of a batch"', batch_id => '$prefix batch'),
			queue.enqueue('$prefix aging', '"of a batch, too"', batch_id => '$prefix batch'),
			queue.enqueue('$prefix aging', '"of an implicit one"', batch_id => '$prefix implicit');
		SELECT queue.complete(job_id, '{"r": 1}') FROM queue.dequeue_batch('$prefix aging');
		SELECT queue.close_batch('$prefix batch');
		SELECT queue.enqueue('$prefix "ended"', '"dead"'); SELECT queue.fail(job_id, 'no') FROM queue.dequeue_batch('$prefix "ended"');
		SELECT queue.enqueue('$prefix "ended"', '"completed"'); SELECT queue.complete(job_id) FROM queue.dequeue_batch('$prefix "ended"');
		SELECT queue.cancel(queue.enqueue('$prefix "ended"', '"cancelled"'));
		SELECT queue.enqueue('$prefix kept failed', '"failed"'); SELECT queue.fail(job_id, 'no') FROM queue.dequeue_batch('$prefix kept failed');
		SELECT count(*) FROM queue.enqueue_batch('$prefix paused', ARRAY['1', '2']::jsonb[]);
		SELECT queue.enqueue('$prefix handled', '"by the server"');
		SELECT queue.throttle('$prefix aging', '1 day')});
	$node->safe_psql($database, qq{INSERT INTO queue.metric_history
		SELECT queue_id, now() - interval '1 day', 60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1.5, 2.5, 3.5, 4.5, 15, false
		FROM queue.queue WHERE queue_name = '$prefix states'});
	# a throttle is no part of the transaction: the maintenance worker saves it
	$node->poll_query_until($database, "SELECT throttled_until IS NOT NULL FROM queue.queue WHERE queue_name = '$prefix aging'")
	  or die 'the throttle was not saved';
	return;
}

# What must be the same elsewhere, as queries and what they return.  Who holds a
# job holds it no more, and what the maintenance worker does meanwhile is left out.
my %states = (
	settings => q{SELECT * FROM queue.queue ORDER BY queue_id},
	privileges => q{SELECT * FROM queue.privilege ORDER BY 1, 2, 3},
	jobs => q{SELECT job_id, queue_name, priority, attempt, max_attempts, enqueued_at, run_at, batch_id, group_key, limit_key,
		unique_key, source, headers, options, origin, last_error, payload,
		CASE WHEN state IN ('waiting', 'active') THEN 'ready' ELSE state END FROM queue.job ORDER BY job_id},
	finished => q{SELECT * FROM queue.job_archive ORDER BY job_id},
	log => q{SELECT at, job_id, attempt, event, worker, message, error FROM queue.job_log ORDER BY at, job_id, event},
	keys => q{SELECT queue_id, unique_key, job_id, taken_until FROM queue.unique_key ORDER BY 1, 2},
	groups => q{SELECT queue_id, group_key, job_id FROM queue.group_head WHERE job_id <> 0 ORDER BY 1, 2},
	places => q{SELECT queue_id, limit_key, job_id FROM queue.limit_place WHERE job_id <> 0 ORDER BY 1, 2, 3},
	parents => q{SELECT * FROM queue.dependency ORDER BY 1, 2},
	batches => q{SELECT batch_id, source, owner::text, total, processed, failed, cancelled, open, status, callback_queue
		FROM queue._batch ORDER BY 1},
	bindings => q{SELECT * FROM queue.binding ORDER BY 1, 2},
	schedules => q{SELECT * FROM queue.schedule ORDER BY 1},
	metrics => q{SELECT * FROM queue.metric_history WHERE live_bytes = 15 ORDER BY 1, 2},
	grants => q{SELECT p.oid::regprocedure::text, a.grantee::regrole::text, a.privilege_type
		FROM pg_proc AS p, aclexplode(p.proacl) AS a
		WHERE pronamespace = 'queue'::regnamespace AND a.grantee <> p.proowner ORDER BY 1, 2, 3},
	'grants on tables' => q{SELECT c.relname, a.grantee::regrole::text, a.privilege_type
		FROM pg_class AS c, aclexplode(c.relacl) AS a
		WHERE relnamespace = 'queue'::regnamespace AND a.grantee <> c.relowner ORDER BY 1, 2, 3},
);

sub states_of
{
	my ($node, $database) = @_;

	return { map { $_ => $node->safe_psql($database, $states{$_}) } keys %states };
}

# The same is there; nobody holds anything; all of it works.  Changes it.
sub check_states
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $database, $prefix, $before, $name) = @_;
	my $query = sub { $node->safe_psql($database, $_[0]) };
	my $states = "queue_name = '$prefix states'";

	is($query->($states{$_}), $before->{$_}, "$name: the same $_") for sort keys %states;
	is($query->(q{SELECT count(*) FROM queue.job WHERE state = 'active'}), '0', "$name: nobody holds a job");
	check_counters($node, $name, $database);
	is( $query->("SELECT count(*) FROM queue.job AS j, queue.complete(j.job_id, attempt => j.attempt) AS c WHERE $states AND c"),
		'0', "$name: who held a job there cannot settle it here");

	# groups, limits, parents and keys go on where they were
	is( $query->("SELECT payload, attempt FROM queue.dequeue_batch('$prefix states', 100) ORDER BY job_id"),
		qq{"held"|2\n"head of group"|2\n"first of limit"|2\n"bound"|2\n"unique"|1\n"parent"|1},
		"$name: takers find what waits, and nothing else");
	is( $query->("SELECT payload, state FROM queue.job WHERE $states AND state IN ('blocked', 'delayed') ORDER BY job_id"),
		qq{"next of group"|blocked\n"next of limit"|blocked\n"delayed"|delayed\n"retried"|delayed\n"child"|blocked},
		"$name: what was blocked or delayed still is");
	$query->("SELECT count(queue.complete(job_id)) FROM queue.job WHERE $states AND payload::text ~ 'head|first|parent'");
	is( $query->("SELECT payload FROM queue.dequeue_batch('$prefix states', 100) ORDER BY job_id"),
		qq{"next of group"\n"next of limit"\n"child"}, "$name: one after the other");
	is( $query->("SELECT queue.enqueue('$prefix states', '1', unique_key => 'u') IN (SELECT job_id FROM queue.job WHERE payload = '\"unique\"')"),
		't', "$name: the key is taken");
	cmp_ok($query->("SELECT queue.enqueue('$prefix states', '\"new\"')"), '>',
		$query->('SELECT max(job_id) FROM (SELECT job_id FROM queue.job WHERE payload <> \'"new"\'
			UNION ALL SELECT job_id FROM queue.job_archive) AS j'), "$name: ids go on");
	is($query->("SELECT count(*) FROM queue.dequeue_batch('$prefix paused')"), '0', "$name: the pause holds");
	is($query->("SELECT count(*) FROM queue.dequeue_batch('$prefix aging', 10)"), '0', "$name: so does the throttle");
	$query->("SELECT queue.throttle('$prefix aging', '0')");
	is( $query->("SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('$prefix aging', 10)"),
		'3', "$name: until it ends");
	ok( $node->poll_query_until($database, "SELECT status = 'completed' FROM queue.batch_status('$prefix batch')"),
		"$name: a batch comes to its end");
	is($query->("SELECT queue.redrive('$prefix dead')"), '1', "$name: dead letters can go back");
	is($query->("SELECT queue.requeue_failed('$prefix kept failed')"), '1', "$name: failed jobs, too");
	is( $query->(qq{SET ROLE producer; SELECT queue.enqueue('$prefix states', '1') > 0;
			RESET ROLE; SET ROLE consumer; SELECT count(*) FROM queue.dequeue_batch('$prefix states', 10)}),
		"t\n2", "$name: privileges are of use");
	check_counters($node, "$name, later", $database);
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

# Losses of power: the machine's, not only those of processes.  What was written
# and not yet synced may be lost, and pages may be torn.
#
# A library under the server saves what each write replaces until the file is
# synced, see test/power.c.  When all processes are dead, much of it is put back,
# sector by sector, as a generator with a seed wants it.  What was acknowledged
# with synchronous_commit must still be there; the server repairs its pages by
# their images in the WAL, so ours must be there, too.
#
# Besides the load of QueueTest.pm, there are sessions that write down what each
# call has returned:
#
#	bulk	puts 300 jobs at once into a queue, of three kinds
#	take	takes 150 of them and completes them, in one transaction
#	handle	puts jobs into a queue with a handler, whose effect is a row
#
# SEED repeats the choice of what is lost (but not the load).

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

my $seed = $ENV{SEED} || int rand 1e9;
note("SEED=$seed");
srand($seed);

my $library = power_library() or plan skip_all => 'the library of losses cannot be compiled here';
my $node = PostgreSQL::Test::Cluster->new('main');
my $dir = PostgreSQL::Test::Utils::tempdir();

sub start
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;
	my $offset = -s $node->logfile || 0;

	return if ok(start_with_power($node, $library), "$name: the server starts");
	diag(slurp_file($node->logfile, $offset));
	die 'the server does not start';
}

# Pages are written early and often: few buffers, a busy background writer.
# Segments are small, so that they are used again.  With checksums, a torn page
# cannot be overlooked.
$node->init(extra => [ '--wal-segsize=1', '--data-checksums' ]);
$node->append_conf('postgresql.conf', q{
fsync = on
full_page_writes = on
shared_buffers = 2MB
wal_buffers = 64kB
bgwriter_delay = 10ms
bgwriter_lru_maxpages = 1000
bgwriter_lru_multiplier = 10
min_wal_size = 8MB
max_wal_size = 1GB
checkpoint_timeout = 1h
autovacuum_naptime = 1s
log_statement = none
queue.max_executors = 2
queue.maintenance_interval = 100ms
});
start('new');
create_extension($node, 'postgres');
create_load($node);
$node->safe_psql('postgres', q{
	CREATE TABLE effect (n int);
	CREATE FUNCTION note(payload jsonb) RETURNS void LANGUAGE sql SET search_path = public AS
		$$INSERT INTO effect VALUES ((payload ->> 'n')::int)$$;
	SELECT queue.create_queue('handled');
	SELECT queue.set_handler('handled', 'public.note', concurrency => 2);
	SELECT queue.create_queue('plain', keep_completed => '1 day'),
		queue.create_queue('unique', keep_completed => '1 day'),
		queue.create_queue('groups', keep_completed => '1 day')});

# ---------------------------------------------------------------------
# Sessions that write down what they are told
# ---------------------------------------------------------------------

my %script = (
	bulk => sub {
		my ($n) = @_;
		my ($queue, $options) = @{ [
			[ 'plain', 'null::jsonb' ],
			[ 'unique', q{jsonb_build_object('unique_keys', array_agg(format('%s %s', call, i) ORDER BY i))} ],
			[ 'groups', q{jsonb_build_object('group_keys', array_agg((i % 200)::text ORDER BY i))} ] ]->[ $n % 3 ] };

		return qq{
			SELECT string_agg(id::text, ' ') FROM (
				SELECT array_agg(jsonb_build_object('call', call, 'i', i) ORDER BY i) AS payloads, $options AS options
				FROM generate_series(1, 300) AS i, (SELECT $n AS call) AS c) AS jobs,
			queue.enqueue_batch('$queue', payloads, options => options, priority => $n % 5) AS id};
	},
	take => sub {
		my ($n) = @_;
		my $queue = qw(plain unique groups)[ $n % 3 ];

		return qq{SELECT string_agg(job_id::text, ' ') FROM queue.dequeue_batch('$queue', 150)
			WHERE queue.complete(job_id, attempt => attempt)};
	},
	handle => sub { my ($n) = @_; return qq{SELECT $n WHERE queue.enqueue('handled', '{"n": $n}') > 0} },
);
my %next = map { $_ => 1 } keys %script;
my %told = map { $_ => [] } keys %script;

sub start_session
{
	my ($kind) = @_;
	my %session = (kind => $kind, file => "$dir/$kind.$next{$kind}", stderr => '');
	# the large ones leave some time to the others, and to who drains the queues in the end
	my $pause = $kind eq 'handle' ? '' : 'DO $$BEGIN PERFORM pg_sleep(0.04); END$$;';

	append_to_file("$session{file}.sql", join('', map { $script{$kind}->($_) . ";\n$pause\n" } $next{$kind} .. $next{$kind} + 1999));
	$next{$kind} += 2000;
	$session{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$session{file}.sql" ],
		'<', \undef, '>', "$session{file}.out", '2>', \$session{stderr});
	return \%session;
}

sub finish_session
{
	my ($session) = @_;

	$session->{handle}->finish;
	unlike($session->{stderr}, qr/ERROR/, "$session->{kind}: no error but for the lost connection");
	push @{ $told{ $session->{kind} } }, split(' ', slurp_file("$session->{file}.out"));
	return;
}

# of those ids, or numbers, the ones that a query does not give
sub count_missing
{
	my ($told, $query) = @_;
	my $ids = join(',', @$told);

	return $node->safe_psql('postgres', qq{SELECT count(*) FROM unnest('{$ids}'::bigint[]) AS told
		WHERE told NOT IN ($query)});
}

sub check_sessions
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;
	my $here = q{SELECT job_id, payload FROM queue.job_live
		UNION ALL SELECT job_id, payload FROM queue.job_parked
		UNION ALL SELECT job_id, payload FROM queue.job_archive};

	is(count_missing($told{bulk}, "SELECT job_id FROM ($here) AS j"), '0',
		"$name: of " . @{ $told{bulk} } . ' jobs put in by hundreds, none is lost');
	is(count_missing($told{take}, q{SELECT job_id FROM queue.job_archive WHERE state = 'c'}), '0',
		"$name: of " . @{ $told{take} } . ' completions of these, none is lost');
	is($node->safe_psql('postgres', "SELECT job_id, count(*) FROM ($here) AS j GROUP BY 1 HAVING count(*) > 1 LIMIT 5"),
		'', "$name: nothing is there twice");
	is( $node->safe_psql('postgres', qq{
			SELECT payload -> 'call', count(*) FROM ($here) AS j WHERE payload ? 'call'
			GROUP BY 1 HAVING count(*) <> 300 OR count(DISTINCT payload -> 'i') <> 300 LIMIT 5}),
		'', "$name: a call is there as a whole, or not at all");
	return;
}

# ---------------------------------------------------------------------
# Losses of power
# ---------------------------------------------------------------------

my $marks = $node->data_dir . '/pg_stat_tmp/queue_marks';
my $statistics = $node->data_dir . '/pg_stat/queue.stat';

sub scrawl
{
	my ($file) = @_;

	open(my $handle, '>', $file) or die "$file: $!";
	binmode $handle;
	print $handle map { chr int rand 256 } 1 .. 1 + int rand 5000;
	close $handle;
	return;
}

sub wait_for_load
{
	my ($more) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM done');

	$node->poll_query_until('postgres', "SELECT count(*) > $before + $more FROM done")
	  or die 'the load does not get on';
	return;
}

my @loads;
my %lost;
for my $when ('under load', 'as a checkpoint begins', 'as it ends', 'after recovery', 'as a checkpoint begins')
{
	my @sessions;
	my $checkpoint;

	if ($when ne 'after recovery')
	{
		push @loads, start_load($node);
		@sessions = map { start_session($_) } qw(bulk bulk take handle);
		wait_for_load(200);
		$node->safe_psql('postgres', 'CHECKPOINT');
		wait_for_load(200);
		$node->safe_psql('postgres', 'CHECKPOINT') if $when =~ /ends/;
		if ($when =~ /begins/)
		{
			$checkpoint = IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', 'CHECKPOINT' ],
				'<', \undef, '>', \my $out, '2>', \my $err);
			Time::HiRes::sleep(rand(0.1));
		}
	}
	my $now = power_off($node, wal => @sessions ? 50 : 0);
	$lost{$_} += $now->{$_} for keys %$now;
	note("$when: sectors lost: $now->{data} of data, $now->{wal} of WAL, $now->{other} of others; $now->{torn} pages are torn");
	$checkpoint->finish if $checkpoint;
	stop_load($loads[-1]) if @sessions;
	finish_session($_) for @sessions;

	# of files of ours that nobody syncs, anything may be left
	scrawl($marks) if $when =~ /begins/;
	unlink $marks if $when =~ /ends/;
	scrawl($statistics) if $when =~ /load/;
	start($when);
	check_sessions($when);
	check_counters($node, $when);
	check_structure($node, $when);
}
cmp_ok($lost{$_}, '>', 0, "there was something to repair: $_") for qw(data wal torn);
ok(!-e $statistics, 'the file of statistics that was torn is gone');
check_load($node, 'in the end', @loads);

# ---------------------------------------------------------------------
# What is left is done once
# ---------------------------------------------------------------------

wait_for($node, q{SELECT count(*) FROM queue.job WHERE queue_name = 'handled'}, 'handlers come to their end', '0');
is(count_missing($told{handle}, 'SELECT n FROM effect'), '0', 'of ' . @{ $told{handle} } . ' jobs with handlers, none is lost');
is($node->safe_psql('postgres', 'SELECT n, count(*) FROM effect GROUP BY 1 HAVING count(*) > 1 LIMIT 5'), '', 'none is done twice');
is($node->safe_psql('postgres', q{SELECT state, count(*) FROM queue.job_archive WHERE state <> 'c' GROUP BY 1}), '', 'none has failed');
$node->safe_psql('postgres', qq{
	DO \$\$ BEGIN
		LOOP
			PERFORM FROM queue.dequeue_batch('$_', 1000) WHERE queue.complete(job_id, attempt => attempt);
			EXIT WHEN NOT FOUND;
			COMMIT;
		END LOOP;
	END \$\$}) for qw(plain unique groups);
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.job'), '0', 'what was put in by hundreds can be taken');
check_sessions('in the end');
check_counters($node, 'in the end');

# The power may also go while a clean shutdown writes the statistics.
$node->stop;
ok(-s $statistics, 'a clean shutdown saves the statistics');
truncate($statistics, int rand(-s $statistics));
my $offset = -s $node->logfile;
start('half of the statistics');
like(slurp_file($node->logfile, $offset), qr{ignoring file "pg_stat/queue.stat"}, 'half of them is not believed');
check_counters($node, 'with half of the statistics');
check_structure($node, 'in the end');
$node->stop;
# a torn map of free space, or of visibility, is none to the server, until it writes it anew
my ($output, $damages);
IPC::Run::run([ 'pg_checksums', '--check', '-D', $node->data_dir ], '>', \$output, '2>', \$damages);
like($output, qr/^Blocks scanned: +\d{4}/m, 'all pages are read');
is(join("\n", grep { !/_(?:fsm|vm)"/ } split /\n/, $damages), '', 'none is damaged');
done_testing();

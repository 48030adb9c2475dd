# What a crash leaves: of one transaction, of a server under load, of prepared
# transactions.
#
# Committed work stays, the rest never happened.  An uncommitted claim is back
# at once, with its attempt unspent; a committed one is held until its lease
# ends, and then its holder is fenced off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");
my $take = q{SELECT payload, attempt FROM queue.dequeue_batch('q')};

# ---------------------------------------------------------------------
# A taker is killed with -9
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.create_queue('q', visibility_timeout => '1 hour')});
$node->safe_psql('postgres', q{SELECT queue.enqueue('q', '"uncommitted"')});

my $taker = $node->background_psql('postgres', on_error_stop => 0);
is(scalar $taker->query("BEGIN; $take"), '"uncommitted"|1', 'a taker has the job, uncommitted');
kill_backend($node, scalar $taker->query('SELECT pg_backend_pid()'));
$taker->{run}->finish;

is($node->safe_psql('postgres', $take), '"uncommitted"|1', 'after the crash it is there, its attempt unspent');
$node->safe_psql('postgres', q{SELECT queue.complete(job_id) FROM queue.job});
check_counters($node, 'after an uncommitted claim');

# A claim may be undone by a crash that comes before its WAL is on disk, unless
# a setting forbids it.
$node->safe_psql('postgres', q{SELECT queue.enqueue('q', '"committed"'), queue.enqueue('q', '"brief"')});
$taker = $node->background_psql('postgres', on_error_stop => 0);
$taker->query_safe('SET queue.async_claims = off');
is(scalar $taker->query_safe($take), '"committed"|1', 'a taker holds a job for an hour');
is( scalar $taker->query_safe(q{SELECT payload FROM queue.dequeue_batch('q', visibility_timeout => '1 ms')}),
	'"brief"', 'and one for a moment');
kill_backend($node, scalar $taker->query('SELECT pg_backend_pid()'));
$taker->{run}->finish;

wait_for($node, $take, 'the lease that has ended is taken over', '"brief"|2');
is($node->safe_psql('postgres', $take), '', 'the other one is honoured');
is( $node->safe_psql('postgres', q{SELECT payload, queue.complete(job_id, attempt => 1) FROM queue.job ORDER BY 1}),
	"\"brief\"|f\n\"committed\"|t", 'its holder may still settle it; the other is fenced off');
is( $node->safe_psql('postgres', q{SELECT queue.complete(job_id, attempt => 2) FROM queue.job}),
	't', 'the one who took over completes');
is( $node->safe_psql('postgres', q{SELECT event, attempt FROM queue.job_log}),
	'stalled|1', 'the log tells of the attempt that stalled');
check_counters($node, 'after a committed claim');
check_structure($node, 'after two crashes');

# ---------------------------------------------------------------------
# Prepared transactions across a crash
# ---------------------------------------------------------------------

for my $end ('COMMIT', 'ROLLBACK')
{
	$node->safe_psql('postgres', q{
		SELECT queue.purge_queue('q');
		SELECT queue.enqueue_batch('q', ARRAY['"take"', '"complete"', '"later"']::jsonb[])});
	# each of them needs a table of its own kind to be told
	$node->safe_psql('postgres', q{
		BEGIN;
		SELECT queue.enqueue('q', '"enqueue"', run_at => '2000-01-01');
		SELECT queue.enqueue('q', '"park"', delay => '1 day');
		PREPARE TRANSACTION 'enqueue';
		BEGIN;
		SELECT * FROM queue.dequeue_batch('q');
		PREPARE TRANSACTION 'take';
		BEGIN;
		SELECT queue.complete(job_id) FROM queue.dequeue_batch('q');
		PREPARE TRANSACTION 'complete'});
	$node->stop('immediate');
	$node->start;

	is($node->safe_psql('postgres', $take), '"later"|1', "$end PREPARED: until then, only the rest can be taken");
	is($node->safe_psql('postgres', $take), '', "$end PREPARED: the hint is behind them");
	$node->safe_psql('postgres', "$end PREPARED '$_'") for qw(enqueue take complete);

	my $all = q{SELECT payload, attempt FROM queue.dequeue_batch('q', 10)};
	is( $node->safe_psql('postgres', $all),
		$end eq 'COMMIT' ? '"enqueue"|1' : "\"take\"|1\n\"complete\"|1",
		"$end PREPARED: what it gives back is there at once");
	is( $node->safe_psql('postgres', q{SELECT state, count(*) FROM queue.job GROUP BY state ORDER BY state}),
		$end eq 'COMMIT' ? "active|3\ndelayed|1" : 'active|3',
		"$end PREPARED: nothing else");
	check_counters($node, "after $end PREPARED");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM queue._prepared'), '0', "$end PREPARED: its notes are gone");
	$node->safe_psql('postgres', q{SELECT queue.cancel(job_id) FROM queue.job});
}

# ---------------------------------------------------------------------
# A server under load: an immediate shutdown, a killed backend, another shutdown
# ---------------------------------------------------------------------

create_load($node);
my @loads;
for my $crash (qw(shutdown kill shutdown))
{
	my $load = start_load($node);
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM done');

	push @loads, $load;
	$node->poll_query_until('postgres', "SELECT count(*) > $before + 300 FROM done")
	  or die 'the load does not get going';
	if ($crash eq 'shutdown')
	{
		$node->stop('immediate');
		stop_load($load);
		$node->start;
	}
	else
	{
		kill_backend($node, $node->safe_psql('postgres',
			q{SELECT pid FROM pg_stat_activity WHERE application_name = 'load' LIMIT 1}));
		stop_load($load);
	}
	check_counters($node, "after a crash ($crash) under load");
}
check_load($node, 'after three crashes', @loads);
check_counters($node, 'after three crashes');
check_structure($node, 'after three crashes');

$node->stop;
done_testing();

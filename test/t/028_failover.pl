# Failover: what a standby has when it takes over, and what those who were at
# work meanwhile may rely on.
#
# 003_standby promotes under a load of producers and takers.  Here, handlers run
# while the primary dies; a standby that lags is promoted; a producer is
# cancelled while it waits for the standby; and two servers fail over and back.

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

my $primary = new_node('primary', streaming => 1, conf => q{
log_statement = none
queue.max_executors = 2
});
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub set
{
	my ($node, $setting, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SHOW $setting", $value) or die "$setting is not $value";
	return;
}

my $processes = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('queue launcher', 'queue maintenance')};

# ---------------------------------------------------------------------
# A producer that is cancelled while it waits for the standby
# ---------------------------------------------------------------------

create_load($primary);
$primary->safe_psql('postgres', q{
	CREATE TABLE effect (job_id bigint, node text DEFAULT current_setting('cluster_name'));
	CREATE FUNCTION note(job queue.job_context) RETURNS void LANGUAGE plpgsql AS
		'BEGIN INSERT INTO effect VALUES (job.job_id); PERFORM pg_sleep(0.005); END';
	SELECT queue.create_queue('handled');
	SELECT queue.set_handler('handled', 'public.note');
	SELECT queue.create_queue('q', visibility_timeout => '1 h');
	SELECT queue.create_queue('short', visibility_timeout => '1 s')});
set($primary, 'synchronous_standby_names', '*');
$primary->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby is not synchronous';

$standby->stop;
my $enqueue = q{SELECT queue.enqueue('q', '"once"', unique_key => 'order 7')};
my %producer = (stdout => '', stderr => '');
$producer{handle} = IPC::Run::start([ 'psql', '-XAtq', '-d', $primary->connstr('postgres'), '-c', $enqueue ],
	'<', \undef, '>', \$producer{stdout}, '2>', \$producer{stderr});
my $waits = q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%order 7%'};
$primary->poll_query_until('postgres', "SELECT count(*) FROM ($waits) AS p", '1') or die 'the producer does not wait';
is($primary->safe_psql('postgres', q{SELECT count(*) FROM queue.job WHERE queue_name = 'q'}), '0',
	'nobody sees a job before the standby has it');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('q')}), '0', 'nor takes it');
$primary->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM ($waits) AS p");
$producer{handle}->finish;
like($producer{stderr}, qr/canceling wait for synchronous replication/, 'who is cancelled is warned');
my $job_id = $producer{stdout} =~ s/\s//gr;
$standby->start;
is($primary->safe_psql('postgres', $enqueue), $job_id, 'who tries again with the unique key gets the same job');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM queue.job WHERE queue_name = 'q'}), '1', 'there is one');

# ---------------------------------------------------------------------
# The primary dies under load, with handlers and leases
# ---------------------------------------------------------------------

$primary->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby is not synchronous';
$primary->safe_psql('postgres', q{
	SELECT queue.set_handler('handled', 'public.note', concurrency => 2);
	SELECT count(*) FROM queue.enqueue_batch('handled', array_fill('1'::jsonb, ARRAY[600]));
	SELECT queue.enqueue('short', '"of a dead taker"');
	SELECT queue.enqueue('q', '"delayed"', delay => '1 s')});
# a claim that must be there after a failover waits for the standby
$primary->safe_psql('postgres', q{
	SET queue.async_claims = off;
	SELECT count(*) FROM queue.dequeue_batch('q', worker => 'holder');
	SELECT count(*) FROM queue.dequeue_batch('short', worker => 'dead')});
my $load = start_load($primary);
$primary->safe_psql('postgres', q{SELECT queue.start_processing('handled')});
$primary->poll_query_until('postgres', q{SELECT count(*) > 300 FROM done}) or die 'the load does not get going';
$primary->poll_query_until('postgres', q{SELECT count(*) > 50 FROM effect}) or die 'handlers do not run';
my $last_id = $primary->safe_psql('postgres',
	q{SELECT max(job_id) FROM (SELECT job_id FROM queue.job UNION ALL SELECT job_id FROM queue.job_archive) AS j});
is($standby->safe_psql('postgres', $processes), '0', 'none of our processes runs on the standby');
$primary->stop('immediate');
stop_load($load);
# what the monitor of a cluster would do
$standby->promote;
$standby->poll_query_until('postgres', $processes, '2') or die 'no processes after the promotion';
pass('our processes start after the promotion');
set($standby, 'synchronous_standby_names', '');

ok($standby->poll_query_until('postgres', q{SELECT waiting + active + delayed = 0 FROM queue.queue_stats('handled')}),
	'handlers run on');
is($standby->safe_psql('postgres', q{SELECT count(*), count(DISTINCT job_id), count(DISTINCT node) > 1 FROM effect}),
	'600|600|t', 'each job took effect once, before or after');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM queue.list_jobs('handled', 'completed', 1000)}), '600', 'and is completed');
is($standby->safe_psql('postgres', q{SELECT payload FROM queue.dequeue_batch('q', 10, wait => '20 s')}), '"delayed"',
	'a delayed job becomes due; a lease goes on');
is($standby->safe_psql('postgres', qq{SELECT queue.complete($job_id, attempt => 1)}), 't', 'its holder may complete');
is($standby->safe_psql('postgres', q{SELECT attempt FROM queue.dequeue_batch('short', wait => '20 s')}), '2',
	'what nobody completes is taken over when its lease ends');
check_load($standby, 'after promotion', $load);
my $first_id = $standby->safe_psql('postgres', q{SELECT queue.enqueue('q', '1')});
cmp_ok($first_id, '>', $last_id, 'ids go on');
# a backend's block of ids begins where the WAL says: none was given out before
is( $standby->safe_psql('postgres', q{
		SELECT count(*) - count(DISTINCT job_id) FROM (SELECT job_id FROM queue.job UNION ALL SELECT job_id FROM queue.job_archive) AS j}),
	'0', 'and none is there twice');
check_counters($standby, 'after promotion');
check_structure($standby, 'after promotion');

# ---------------------------------------------------------------------
# Back again, to a standby that lags
# ---------------------------------------------------------------------

# the old primary is made anew, and follows at a distance
$standby->backup('again');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($standby, 'again', has_streaming => 1);
$third->append_conf('postgresql.conf', "recovery_min_apply_delay = 0\n");
$third->start;
$standby->safe_psql('postgres', q{SELECT queue.create_queue('async')});
$standby->safe_psql('postgres', q{SELECT count(*) FROM queue.enqueue_batch('async', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 100) AS i))});
$standby->wait_for_catchup($third);
# from here on it gets nothing: the network is gone
$third->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$third->reload;
$standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication') or die 'it is still connected';
$standby->safe_psql('postgres', q{
	SELECT count(*) FROM queue.enqueue_batch('async', ARRAY(SELECT to_jsonb(i) FROM generate_series(101, 130) AS i));
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('async', 10)});
my $lag = $standby->safe_psql('postgres', q{SELECT max(job_id) FROM queue.job WHERE queue_name = 'async'});
$standby->stop('immediate');
$third->promote;
$third->poll_query_until('postgres', $processes, '2') or die 'no processes after the promotion';
is( $third->safe_psql('postgres', q{SELECT count(*), min(payload::int), max(payload::int) FROM queue.dequeue_batch('async', 1000)}),
	'100|1|100', 'an asynchronous standby has what it had received: no more is lost, and completions since are undone');
# ids of what is lost are not told apart by themselves: jumps of the sequence are logged ahead
cmp_ok($third->safe_psql('postgres', q{SELECT queue.enqueue('async', '1')}), '>', $first_id, 'ids go on there');
note("the last id that was lost is $lag");
check_counters($third, 'after an asynchronous failover');
check_structure($third, 'after an asynchronous failover');
$third->stop;

for my $node ($primary, $standby, $third)
{
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, $node->name . ': no process came to a bad end');
}
done_testing();

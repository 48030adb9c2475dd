# An administrator rebuilds tables and indexes while jobs pass through them.
#
# Producers and takers go to heap and btree directly, with relations that they
# have looked up before: a table that is rewritten, an index that is replaced by
# another, and an index of somebody else must not confuse them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\n");

create_load($node);
# jobs that nobody takes, so that there is something to rebuild
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('still');
	SELECT count(*) FROM queue.enqueue_batch('still', array_fill('1'::jsonb, ARRAY[3000]));
	SELECT count(*) FROM queue.enqueue_batch('still', array_fill('2'::jsonb, ARRAY[3000]), delay => '1 day')});

my $load = start_load($node);
my $done = 0;
for my $command (
	'REINDEX TABLE CONCURRENTLY queue.job_live',
	'VACUUM FULL queue.job_live',
	'CREATE INDEX CONCURRENTLY of_somebody ON queue.job_live (source) WHERE source IS NOT NULL',
	q{CREATE INDEX of_somebody_else ON queue.job_live ((payload->>'n'))},
	'REINDEX TABLE CONCURRENTLY queue.job_parked',
	'CLUSTER queue.job_live USING job_live_pkey',
	'REINDEX TABLE queue.job_live',
	'DROP INDEX CONCURRENTLY queue.of_somebody',
	'DROP INDEX queue.of_somebody_else',
	'VACUUM FULL queue.job_parked',
	'VACUUM (FREEZE) queue.job_live',
	'ALTER TABLE queue.job_live SET (fillfactor = 90)',
	'REINDEX TABLE CONCURRENTLY queue.job_archive',
	'ANALYZE')
{
	my ($ret, $stdout, $stderr) = $node->psql('postgres', $command);
	is($stderr, '', $command);
	# the load goes on behind it
	$done = $node->safe_psql('postgres', 'SELECT count(*) FROM done') + 50;
	$node->poll_query_until('postgres', "SELECT count(*) > $done FROM done")
	  or die "nothing moves after $command: $load->{stderr}";
}
stop_load($load, terminate => 1);
unlike($load->{stderr}, qr/ERROR/, 'no client met an error') || diag($load->{stderr});

check_load($node, 'after rebuilding', $load);
check_counters($node, 'after rebuilding');
check_structure($node, 'after rebuilding');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('still', 10000)}), '3000',
	'what stood still is there');
$node->stop;

done_testing();

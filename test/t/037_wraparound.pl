# Numbers that come to their end: ids of transactions, which begin anew, and ids
# of jobs, which do not.
#
# The server is brought near the end of its transaction ids in three leaps, each
# of which freezes what is there.  From there on it goes by itself: jobs in every
# state, leases, groups, a prepared transaction and a load are carried over the
# end, and nothing is kept from being frozen by what the extension holds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('main', conf => q{
log_statement = none
max_prepared_transactions = 5
queue.maintenance_interval = 100ms
queue.vacuum_threshold = 1000
});
sub query { return $node->safe_psql('postgres', $_[0]); }

# the next transaction id; the commit log must have a page for it
sub leap
{
	my ($xid) = @_;
	my $dir = $node->data_dir;

	$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
	$node->command_ok([ 'vacuumdb', '--all', '--freeze', '--quiet', '--maintenance-db', $node->connstr('postgres') ], 'all is frozen');
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->stop;
	run_command([ 'pg_resetwal', '-x', $xid, '-u', $xid - 1_000_000, $dir ]);
	# 4 transactions a byte, 32 pages a segment
	for my $segment (int($xid / 4 / 8192 / 32), int(($xid + 100_000) / 4 / 8192 / 32))
	{
		my $file = sprintf '%s/pg_xact/%04X', $dir, $segment & 0xFFF;

		next if -e $file;
		open my $handle, '>', $file or die "$file: $!";
		print $handle "\0" x (8192 * 32);
		close $handle;
	}
	$node->start;
	return;
}

$node->safe_psql('postgres', 'CREATE ROLE owner; CREATE ROLE producer; CREATE ROLE consumer');
my $end = 2**32;
leap($_) for 1_500_000_000, 3_000_000_000, $end - 20_000;
cmp_ok(query('SELECT txid_current()'), '>=', $end - 20_000, 'there are 20,000 transaction ids left');

# ---------------------------------------------------------------------
# Over the end
# ---------------------------------------------------------------------

create_states($node, 'postgres', 'a');
query(q{SELECT queue.create_queue('q', visibility_timeout => '1 h'); SELECT queue.create_queue('short', visibility_timeout => '100 ms')});
query(q{SELECT queue.enqueue('q', '"held"'), queue.enqueue('q', '"prepared"'), queue.enqueue('short', '"expired"')});
query(q{SELECT queue.dequeue_batch('q', 1); SELECT queue.dequeue_batch('short', 1)});
query(q{BEGIN; SELECT queue.complete(job_id) FROM queue.dequeue_batch('q'); SELECT queue.enqueue('q', '"of a prepared one"');
	PREPARE TRANSACTION 'over the end'});
my $before = states_of($node, 'postgres');

create_load($node, settings => q{visibility_timeout => '1 min'});
my $load = start_load($node);
$node->poll_query_until('postgres', "SELECT txid_snapshot_xmax(txid_current_snapshot()) > $end + 500") or die 'the end does not come';
stop_load($load, terminate => 1);
ok(drain_load($node), 'all of a load can be taken that has gone on over the end');
check_load($node, 'over the end', $load);
query(q{COMMIT PREPARED 'over the end'});
is(query('SELECT count(*) FROM queue._prepared'), '0', 'a prepared transaction is finished on the other side');
is(query(q{SELECT payload, attempt FROM queue.dequeue_batch('short', wait => '10 s')}), '"expired"|2', 'a lease that has ended');
is(query(q{SELECT payload FROM queue.dequeue_batch('q', 10)}), '"of a prepared one"', 'one that has not, and what was prepared');
is(query(q{SELECT queue.complete(job_id, attempt => 1) FROM queue.job WHERE queue_name = 'q' AND payload = '"held"'}), 't', 'whoever holds a job completes it');
my $after = states_of($node, 'postgres');
is($after->{$_}, $before->{$_}, "the same $_") for qw(privileges groups places parents bindings);
check_counters($node, 'over the end');
check_structure($node, 'over the end');

# the vacuum of the extension goes on: what is dead is older than its mark
query(q{SELECT queue.create_queue('many'); SELECT count(*) FROM queue.enqueue_batch('many', array_fill('1'::jsonb, ARRAY[3000]));
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('many', 3000)});
wait_for($node, q{SELECT vacuum_count + autovacuum_count > 0 FROM pg_stat_all_tables WHERE relid = 'queue.job_live'::regclass},
	'the live table is vacuumed');

# nothing of ours is in the way of freezing
$node->command_ok([ 'vacuumdb', '--all', '--freeze', '--quiet', '--maintenance-db', $node->connstr('postgres') ], 'all can be frozen');
is(query(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relfrozenxid <> 0 AND age(relfrozenxid) > 1000}),
	'0', 'and is');

# ---------------------------------------------------------------------
# The last ids of jobs
# ---------------------------------------------------------------------

query(q{SELECT setval('queue._job_id_block', seqmax - 1) FROM pg_sequence WHERE seqrelid = 'queue._job_id_block'::regclass});
is(query(q{SELECT max(id) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[64])) AS id}), '9007199254740991',
	'the last id of a job is 2^53 - 1');
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{\set VERBOSITY sqlstate
	SELECT queue.enqueue('q', '"too many"')});
like($stderr, qr/ERROR:  2200H/, 'then no job can be put in');
is(query(q{SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('q', 100)}), '64', 'but all be taken');
check_counters($node, 'at the end');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');
done_testing();

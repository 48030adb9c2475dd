# Recovery to a point in time: a base backup and the WAL up to a moment between
# the taking of a job and its completion.
#
# The recovered server is the same cluster, so leases live on: a job that was
# held is held until its lease ends, and then runs again, although it was
# completed on the other timeline.  Who holds a job there has the attempt of
# then; once somebody has taken the job here, he is refused.  Ids of jobs that
# were there at the point are not given out again; ids of jobs that are undone
# may be, as nothing knows of them any more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $old = PostgreSQL::Test::Cluster->new('old');
$old->init(has_archiving => 1, allows_streaming => 1);
$old->append_conf('postgresql.conf', "max_connections = 100\nlog_statement = none\nqueue.maintenance_interval = 100ms\n");
$old->start;
create_extension($old, 'postgres');
$old->safe_psql('postgres', 'CREATE ROLE owner; CREATE ROLE producer; CREATE ROLE consumer');

# nothing in the base backup: all of it comes by WAL
$old->backup('backup');
create_states($old, 'postgres', 'a');
$old->safe_psql('postgres', q{
	SELECT queue.create_queue('short', visibility_timeout => '2 s', log_level => 'all');
	SELECT queue.create_queue('long', visibility_timeout => '1 day');
	SELECT queue.enqueue('short', '"short"'), queue.enqueue('long', '"long"'), queue.enqueue('long', '"waiting"');
	SELECT queue.dequeue_batch('short', worker => 'there'); SELECT queue.dequeue_batch('long', worker => 'there')});
$old->safe_psql('postgres', q{CREATE TABLE at_point (id bigint); SELECT pg_create_restore_point('between')});

# what the point in time undoes
my $ids = $old->safe_psql('postgres', q{
	SELECT count(queue.complete(job_id, '"there"', attempt => attempt)) FROM queue.job WHERE queue_name IN ('short', 'long') AND state = 'active';
	SELECT max(id) FROM queue.enqueue_batch('long', array_fill('"after"'::jsonb, ARRAY[1000])) AS id});
$ids =~ s/^\d+\n//;
is( $old->safe_psql('postgres', q{SELECT count(*) FROM queue.job_finished WHERE result = '"there"'}),
	'2', 'both are completed there');
my $segment = $old->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
$old->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")
  or die 'the WAL is not archived';
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init_from_backup($old, 'backup', has_restoring => 1, standby => 0);
$new->append_conf('postgresql.conf', "recovery_target_name = 'between'\nrecovery_target_action = 'promote'\n");
$new->start;
$new->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the recovery does not end';

is($new->safe_psql('postgres', 'SELECT count(*) FROM at_point'), '0', 'the table is there: the point was reached');
is($new->safe_psql('postgres', q{SELECT count(*) FROM queue.job_finished WHERE result = '"there"'}),
	'0', 'and not passed: what was completed there is not');
is($new->safe_psql('postgres', q{SELECT count(*) FROM queue.job WHERE payload = '"after"'}), '0', 'nor is enqueued what was');
check_counters($new, 'recovered');
wait_for($new, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('queue launcher', 'queue maintenance')},
	'the workers are there', '2');

# leases live on, and end
is($new->safe_psql('postgres', q{SELECT payload FROM queue.dequeue_batch('long', 10)}), '"waiting"', 'what is held there is held here');
wait_for($new, q{SELECT payload, attempt FROM queue.dequeue_batch('short', worker => 'here')},
	'until its lease ends', '"short"|2');
is($new->safe_psql('postgres', q{SELECT queue.complete(job_id, attempt => 1) FROM queue.job WHERE payload = '"short"'}),
	'f', 'the holder of the other timeline is refused');
is($new->safe_psql('postgres', q{SELECT queue.complete(job_id, attempt => 2) FROM queue.job WHERE payload = '"short"'}),
	't', 'ours is not');
is($new->safe_psql('postgres', q{SELECT queue.complete(job_id, attempt => 1) FROM queue.job WHERE payload = '"long"'}),
	't', 'whose lease has not ended may settle here');

# sessions of then are gone, and so are leases that were bound to them
is($new->safe_psql('postgres', q{SELECT payload FROM queue.dequeue_batch('a states', 1)}), '"bound"',
	'leases that were bound to a session end');

my $next = $new->safe_psql('postgres', q{SELECT max(id) FROM queue.enqueue_batch('long', array_fill('1'::jsonb, ARRAY[100])) AS id});
cmp_ok($next, '>', $new->safe_psql('postgres', q{SELECT max(job_id) FROM queue.job WHERE payload NOT IN ('1', '"after"')}),
	'ids go on');
note("the other timeline gave out ids up to $ids, this one goes on at $next");
is( $new->safe_psql('postgres', q{SELECT count(*) FROM (SELECT FROM (SELECT job_id FROM queue.job_live UNION ALL
		SELECT job_id FROM queue.job_parked UNION ALL SELECT job_id FROM queue.job_archive) AS j
		GROUP BY job_id HAVING count(*) > 1) AS twice}),
	'0', 'no id is there twice');
check_counters($new, 'later');
check_structure($new, 'later');
$new->stop;
done_testing();

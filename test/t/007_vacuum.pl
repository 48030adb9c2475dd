# What is dead goes: versions of rows by the extension's own vacuum, finished
# jobs and the log by truncating whole leaves.
#
# autovacuum has a naptime of an hour here, so whatever is vacuumed, we did.

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
queue.vacuum_threshold = 5000
queue.maintenance_interval = 50
});

# ---------------------------------------------------------------------
# A stream of jobs through a small table
# ---------------------------------------------------------------------

# each job is enqueued, taken and completed, a hundred at a time
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('stream', keep_completed => '0');
	CREATE PROCEDURE stream(jobs int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. jobs / 100 LOOP
			PERFORM queue.enqueue_batch('stream', array_fill('{"a": "payload of a hundred bytes"}'::jsonb, ARRAY[100]));
			COMMIT;
			PERFORM job_id FROM queue.dequeue_batch('stream', 100);
			COMMIT;
			PERFORM queue.complete_many(array_agg(job_id)) FROM queue.job WHERE queue_name = 'stream';
			COMMIT;
		END LOOP;
	END $$});

my $size = q{SELECT pg_total_relation_size('queue.job_live')};
my $vacuums = q{SELECT vacuum_count FROM pg_stat_all_tables WHERE relid = 'queue.job_live'::regclass};

$node->safe_psql('postgres', 'CALL stream(10000)');
wait_for($node, "SELECT vacuum_count > 0 FROM ($vacuums) AS v", 'the live table is vacuumed');
# from here on the space is used again
$node->safe_psql('postgres', 'CALL stream(20000)');
my $before = $node->safe_psql('postgres', $size);
$node->safe_psql('postgres', 'CALL stream(40000)');
my $after = $node->safe_psql('postgres', $size);
# 40,000 jobs in two versions each are more than 20 MB
cmp_ok($after - $before, '<', 6 * 1024 * 1024, "and stays small: from $before to $after bytes");
wait_for($node, q{SELECT n_tup_hot_upd > 0.95 * n_tup_upd AND n_tup_upd > 60000
		FROM pg_stat_all_tables WHERE relid = 'queue.job_live'::regclass}, 'claims are HOT updates');
is($node->safe_psql('postgres', q{SELECT autovacuum_count FROM pg_stat_all_tables WHERE relid = 'queue.job_live'::regclass}),
	'0', 'without any help of autovacuum');
check_structure($node, 'after the stream');

# An old snapshot keeps everything; no vacuum is wasted on that, but one comes
# when it has gone.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$node->safe_psql('postgres', 'CALL stream(10000)');
# one may have been due already, one may find it out
my $held = $node->safe_psql('postgres', $vacuums);
$node->safe_psql('postgres', 'CALL stream(20000)');
my $still = $node->safe_psql('postgres', $vacuums);
cmp_ok($still - $held, '<=', 1, 'no vacuum after the other under an old snapshot');
$reader->query_safe('COMMIT');
wait_for($node, "SELECT vacuum_count > $still FROM ($vacuums) AS v", 'but at its end');

# Its lock is one that it does not wait for, and nobody waits for it.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE queue.job_live IN SHARE UPDATE EXCLUSIVE MODE');
$node->safe_psql('postgres', 'CALL stream(10000)');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE NOT granted}),
	'0', 'it waits for no lock');
$locker->query_safe('COMMIT');

# ---------------------------------------------------------------------
# Finished jobs
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('kept', keep_completed => '1 h', keep_failed => '2 days', max_attempts => 1);
	SELECT count(*) FROM queue.enqueue_batch('kept', array_fill('1'::jsonb, ARRAY[3000]));
	SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('kept', 2000);
	SELECT queue.fail_many(array_agg(job_id), 'no') FROM queue.dequeue_batch('kept', 1000)});
my $kept = q{SELECT completed, failed FROM queue.queue_stats('kept')};
is($node->safe_psql('postgres', $kept), '2000|1000', 'finished jobs are kept');
is( $node->safe_psql('postgres', q{SELECT a.state, count(DISTINCT a.leaf), bool_and(a.leaf > 0), bool_and(a.expires_at < l.expires_before)
		FROM queue.job_archive AS a JOIN queue._leaf AS l ON l.ring = 'a' AND l.leaf = a.leaf GROUP BY 1 ORDER BY 1}),
	"c|1|t|t\nf|1|t|t", 'each in the leaf of its retention');
$node->safe_psql('postgres', 'SELECT count(*) FROM queue.maintain()');
is($node->safe_psql('postgres', $kept), '2000|1000', 'as long as that lasts');

# The hour is over.  A reader whose snapshot is older must not lose what it sees.
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $leaf = $node->safe_psql('postgres', q{
	SELECT DISTINCT format('queue._archive_%s', to_char(leaf, 'FM00')) FROM queue.job_archive WHERE state = 'c'});
$node->safe_psql('postgres', q{
	UPDATE queue._leaf SET expires_before = now() WHERE ring = 'a'
		AND leaf = (SELECT DISTINCT leaf FROM queue.job_archive WHERE state = 'c')});
$node->safe_psql('postgres', 'SELECT count(*) FROM queue.maintain()') for 1 .. 3;
is(scalar $reader->query_safe(q{SELECT count(*) FROM queue.job_archive WHERE state = 'c'}), '2000',
	'an old snapshot still sees what has expired since');
$reader->query_safe('COMMIT');

# the maintenance worker needs nobody to call it
wait_for($node, "SELECT pg_relation_size('$leaf') = 0", 'then its leaf is truncated');
is($node->safe_psql('postgres', $kept), '0|1000', 'and counted no more');
is( $node->safe_psql('postgres', "SELECT n_tup_del FROM pg_stat_all_tables WHERE relid = '$leaf'::regclass"),
	'0', 'nothing was deleted row by row');
check_counters($node, 'after a leaf has gone');

# a reader of the leaf, or a settler at work in it, only delays it
$node->safe_psql('postgres', q{
	UPDATE queue._leaf SET expires_before = now() WHERE ring = 'a'
		AND leaf = (SELECT DISTINCT leaf FROM queue.job_archive WHERE state = 'f')});
$reader->query_safe(q{BEGIN; SELECT count(*) FROM queue.job_archive});
$node->safe_psql('postgres', 'SET lock_timeout = 1; SELECT count(*) FROM queue.maintain()') for 1 .. 3;
is($node->safe_psql('postgres', $kept), '0|1000', 'a reader keeps the leaf; nobody waits');
$reader->query_safe('COMMIT');
$node->safe_psql('postgres', 'SELECT count(*) FROM queue.maintain()') for 1 .. 3;
is($node->safe_psql('postgres', $kept), '0|0', 'queue.maintain() truncates as well');

# what is finished from now on goes into other leaves
$node->safe_psql('postgres', q{
	SELECT queue.enqueue('kept', '1');
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('kept')});
is( $node->safe_psql('postgres', q{SELECT count(*) FROM queue.job_archive AS a JOIN queue._leaf AS l
		ON l.ring = 'a' AND l.leaf = a.leaf AND l.expires_before > a.expires_at WHERE a.leaf > 0}),
	'1', 'the ring goes on');

# the log is a ring as well
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM queue.job_log'), '0', 'there is a log');
$node->safe_psql('postgres', q{UPDATE queue._leaf SET expires_before = now() WHERE ring = 'l' AND expires_before IS NOT NULL});
wait_for($node, 'SELECT count(*) = 0 FROM (SELECT count(*) FROM queue.maintain()) AS m, queue.job_log',
	'which goes likewise');

check_counters($node, 'at the end');
check_structure($node, 'at the end');
$reader->quit;
$locker->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

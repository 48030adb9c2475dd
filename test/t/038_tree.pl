# Many index entries at once: see src/tree.c.
#
# They go into a leaf together only where that is simple; the server has to do
# the rest.  So there must be as much of the rest as possible: leaves that are
# full, entries between others, ids that are taken, for sure or perhaps, by a
# job that is there, has been there, or whose producer has yet to decide.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $primary = new_node('primary', streaming => 1, conf => q{
log_statement = none
autovacuum = off
# who replays compares each page with what it became here
wal_consistency_checking = 'btree'
wal_keep_size = 4GB
});
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# the whole structure: parents, high keys, each entry found from the root, each row by each index
sub check_trees
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $name, $database) = @_;
	$database ||= 'postgres';

  SKIP:
	{
		skip 'no amcheck here', 1
		  if $node->safe_psql($database, q{SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'}) eq '0';
		my ($ret, $stdout, $stderr) = $node->psql($database, q{
			SELECT FROM pg_index WHERE indrelid IN ('queue.job_live'::regclass, 'queue.job_parked'::regclass)
			HAVING count(bt_index_parent_check(indexrelid, true, true)) < 0});
		is($stdout . $stderr, '', "$name: the trees are sound");
	}
	return;
}

# ---------------------------------------------------------------------
# Where there is nothing else
# ---------------------------------------------------------------------

my $many = q{SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[%d]) %s)};
$primary->safe_psql('postgres', q{SELECT queue.create_queue('q')});
for my $count (1, 2, 3, 1000, 2500)
{
	$primary->safe_psql('postgres', sprintf($many, $count, $_)) for '', q{, delay => '1 h'};
}
check_trees($primary, 'one after the other');

# ---------------------------------------------------------------------
# All over the tree
# ---------------------------------------------------------------------

# Queues and priorities alternate, so that each call adds in another place: most
# of them between others; calls of all sizes; due times go backwards.
$primary->safe_psql('postgres', q{
	SELECT queue.create_queue(format('q%s', n)) FROM generate_series(1, 5) AS n;
	CREATE FUNCTION put(n int) RETURNS bigint LANGUAGE sql AS $$
		SELECT count(*) FROM queue.enqueue_batch(format('q%s', n % 5 + 1),
			array_fill(to_jsonb(n), ARRAY[CASE n % 4 WHEN 0 THEN n * 7 % 500 ELSE n % 30 END + 1]),
			priority => n * 31 % 7, delay => CASE WHEN n % 3 = 0 THEN make_interval(secs => 100000 - n) END)$$;
	SELECT sum(put(n)) FROM generate_series(1, 300) AS n});
check_trees($primary, 'all over');
is( $primary->safe_psql('postgres', q{
		SELECT count(*) > 1000, count(*) FILTER (WHERE row_number <> place) FROM (
			SELECT row_number() OVER (PARTITION BY queue_name ORDER BY priority, run_at, job_id), place
			FROM generate_series(1, 5) AS n, format('q%s', n) AS queue_name,
				queue.dequeue_batch(queue_name, 10000) WITH ORDINALITY AS j (job_id, payload, priority, attempt,
					max_attempts, enqueued_at, lease_expires_at, batch_id, group_key, source, headers, place)
				JOIN queue.job_live AS l USING (job_id, priority)) AS s}),
	't|0', 'jobs come in their order');
$primary->safe_psql('postgres', q{SELECT queue.purge_queue(queue_name) FROM queue.queue});
$primary->safe_psql('postgres', q{SELECT queue.complete_many(array_agg(job_id)) FROM queue.job});

# several producers, a taker, and vacuum, at once
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/put.sql", "\\set n random(1, 400)\nSELECT put(:n);\n");
append_to_file("$dir/take.sql", q{\set n random(1, 5)
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q' || :n, 1000);
});
append_to_file("$dir/vacuum.sql", "VACUUM queue.job_live, queue.job_parked;\n");
$primary->command_ok([ 'pgbench', '--no-vacuum', '-c', 8, '-j', 2, '-t', 25, '-f', "$dir/put.sql\@10",
		'-f', "$dir/take.sql\@3", '-f', "$dir/vacuum.sql\@1", $primary->connstr('postgres') ], 'producers, takers, vacuum');
check_trees($primary, 'all at once');
check_counters($primary, 'all at once');

# ---------------------------------------------------------------------
# Ids that are taken
# ---------------------------------------------------------------------

# where leaves have room, and new rows lie behind old ones
$primary->safe_psql('postgres', 'CREATE DATABASE fresh');
create_extension($primary, 'fresh');

# as somebody may have it who restores a dump by halves
sub again
{
	$primary->safe_psql('fresh', q{SELECT setval('queue._job_id_block', value) FROM block});
	return $primary->psql('fresh', q{\set VERBOSITY sqlstate
		SELECT count(*) FROM queue.enqueue_batch('taken', array_fill('2'::jsonb, ARRAY[200]))});
}

$primary->safe_psql('fresh', q{
	SELECT queue.create_queue('taken', keep_completed => '0');
	CREATE TABLE block AS SELECT last_value AS value FROM queue._job_id_block;
	SELECT count(*) FROM queue.enqueue_batch('taken', array_fill('1'::jsonb, ARRAY[200]))});
my $refused = qr/ERROR:  23505/;
my ($ret, $stdout, $stderr) = again();
like($stderr, $refused, 'the first id is taken');
$primary->safe_psql('fresh', q{
	CREATE TABLE middle AS SELECT job_id FROM queue.job WHERE queue_name = 'taken' ORDER BY job_id LIMIT 1 OFFSET 150;
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('taken', 200) WHERE job_id NOT IN (SELECT job_id FROM middle)});
($ret, $stdout, $stderr) = again();
like($stderr, $refused, 'one in the middle is, between entries of dead rows');
$primary->safe_psql('fresh', 'VACUUM queue.job_live');
($ret, $stdout, $stderr) = again();
like($stderr, $refused, 'one in the middle is, alone');
is($primary->safe_psql('fresh', q{SELECT active, waiting, total FROM queue.queue_stats('taken')}), '1|0|1', 'nothing is left of them');
# who had them is gone, its entries are not
$primary->safe_psql('fresh', q{SELECT queue.complete(job_id) FROM middle});
($ret, $stdout, $stderr) = again();
is("$stdout$stderr", '200', 'all have been, and are free');
check_trees($primary, 'ids once more', 'fresh');
check_counters($primary, 'ids once more', 'fresh');

# somebody is about to have them
for ([ 'ROLLBACK', qr/^200$/, 'then they are free' ], [ 'COMMIT', $refused, 'then they are taken' ])
{
	my ($command, $expected, $name) = @$_;
	my ($out, $err) = ('', '');

	$primary->safe_psql('fresh', q{
		SELECT queue.purge_queue('taken'); SELECT setval('queue._job_id_block', value) FROM block});
	my $first = $primary->background_psql('fresh');
	$first->query_safe(q{BEGIN; SELECT count(*) FROM queue.enqueue_batch('taken', array_fill('1'::jsonb, ARRAY[150]))});
	$primary->safe_psql('fresh', q{SELECT setval('queue._job_id_block', value) FROM block});
	my $second = IPC::Run::start([ 'psql', '-XqAt', '-v', 'VERBOSITY=sqlstate', '-d', $primary->connstr('fresh'), '-c',
			q{SELECT count(*) FROM queue.enqueue_batch('taken', array_fill('2'::jsonb, ARRAY[200]))} ],
		'<', \undef, '>', \$out, '2>', \$err);
	ok($primary->poll_query_until('fresh', q{SELECT count(*) = 1 FROM pg_stat_activity
			WHERE query LIKE '%taken%' AND wait_event = 'transactionid'}), 'somebody is about to have them: wait');
	$first->query_safe($command);
	$second->finish;
	$first->quit;
	like("$out$err", $expected, $name);
	is( $primary->safe_psql('fresh', q{SELECT min(payload::text), max(payload::text), count(*) FROM queue.job WHERE queue_name = 'taken'}),
		$command eq 'COMMIT' ? '1|1|150' : '2|2|200', 'and the jobs are those of one');
}
check_trees($primary, 'who came first', 'fresh');
check_counters($primary, 'who came first', 'fresh');

# ---------------------------------------------------------------------
# Serializable transactions
# ---------------------------------------------------------------------

# Each reads what the other writes; the one that reads jobs locks what it has read
# of the index.  (A superuser may read the table; our own reads take no such locks.)
$primary->safe_psql('fresh', q{SELECT queue.create_queue('serial'); CREATE TABLE note (n int PRIMARY KEY);
	SELECT count(*) FROM queue.enqueue_batch('serial', array_fill('1'::jsonb, ARRAY[10]));
	REINDEX TABLE queue.job_live});		# there is room in the leaf
my $reader = $primary->background_psql('fresh', on_error_stop => 0);
my $writer = $primary->background_psql('fresh', on_error_stop => 0);
my $begin = 'SET default_transaction_isolation = serializable; SET enable_seqscan = off; SET enable_bitmapscan = off; BEGIN';
$reader->query($begin);
$writer->query($begin);
$reader->query(q{SELECT count(*) FROM queue.job_live WHERE job_id > 9000000000});
$writer->query('SELECT count(*) FROM note WHERE n = 1');
$reader->query('INSERT INTO note VALUES (1)');
$writer->query(q{SELECT count(*) FROM queue.enqueue_batch('serial', array_fill('2'::jsonb, ARRAY[100]))});
$reader->query('COMMIT');
$writer->query('COMMIT');
like($writer->{stderr}, qr/could not serialize access/, 'a reader of the leaf is in the way of a serializable producer');
$reader->quit;
$writer->quit;
is($primary->safe_psql('fresh', q{SELECT count(*) FROM queue.job WHERE queue_name = 'serial'}), '10', 'and there is nothing of it');

# ---------------------------------------------------------------------
# Borders of leaves
# ---------------------------------------------------------------------

# Leaves that are nearly empty, and stay: blocks of ids go between those that are
# left, and here and there from one leaf into the next.
my $block = $primary->safe_psql('fresh', 'SELECT last_value + 1 FROM queue._job_id_block');
$primary->safe_psql('fresh', q{
	SELECT queue.create_queue('sparse', keep_completed => '0');
	SELECT count(*) FROM queue.enqueue_batch('sparse', array_fill('1'::jsonb, ARRAY[3000]));
	SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('sparse', 3000) WHERE job_id % 128 <> 0});
$primary->safe_psql('fresh', 'VACUUM queue.job_live');
for my $odd (grep { $_ % 2 } $block .. $block + 45)
{
	$primary->safe_psql('fresh', sprintf(q{SELECT setval('queue._job_id_block', %d);
		SELECT count(*) FROM queue.enqueue_batch('sparse', array_fill('2'::jsonb, ARRAY[64]))}, $odd - 1));
}
check_trees($primary, 'between the leaves', 'fresh');
is( $primary->safe_psql('fresh', q{SELECT count(*), count(DISTINCT job_id) FROM queue.job WHERE payload = '2' AND queue_name = 'sparse'}),
	'1472|1472', 'and all of them are there');

# ---------------------------------------------------------------------
# Crashes, and the standby
# ---------------------------------------------------------------------

for my $round (1 .. 2)
{
	my $handle = IPC::Run::start([ 'pgbench', '--no-vacuum', '-c', 6, '-j', 2, '-T', 600, '-f', "$dir/put.sql\@3",
			'-f', "$dir/take.sql\@1", $primary->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');
	my $jobs = $primary->safe_psql('postgres', q{SELECT sum(enqueued_total) + 2000 FROM queue.queue_stats()});
	$primary->poll_query_until('postgres', "SELECT sum(enqueued_total) > $jobs FROM queue.queue_stats()") or die 'nothing is put in';
	$primary->safe_psql('postgres', 'CHECKPOINT') if $round == 2;
	$primary->stop('immediate');
	$handle->finish;
	$primary->start;
	check_trees($primary, "crash $round");
	check_structure($primary, "crash $round");
	check_counters($primary, "crash $round");
}

$primary->wait_for_catchup($standby);
pass('the standby has replayed it all, page for page');
$primary->stop;
$standby->promote;
check_trees($standby, 'the standby, promoted');
$standby->safe_psql('postgres', 'SELECT sum(put(n)) FROM generate_series(1, 100) AS n');
check_trees($standby, 'and in use');
check_counters($standby, 'and in use');
unlike(slurp_file($standby->logfile), qr/inconsistent page/, 'no page was another one there');
$standby->stop;

done_testing();

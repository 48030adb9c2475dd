# Totals and times outlive a clean restart, and not a crash; the maintenance
# worker writes metric_history, which a queue at rest does not fill.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $node = new_node('main', conf => q{
log_statement = none
restart_after_crash = on
queue.metrics_interval = 1
queue.max_queues = 32
});
my $file = $node->data_dir . '/pg_stat/queue.stat';

# what must be the same after a restart
sub totals
{
	my ($database) = @_;
	return $node->safe_psql($database || 'postgres', q{
		SELECT queue_name, enqueued_total, taken_total, completed_total, failed_total, retried_total, stalled_total,
			wait_mean_ms, wait_p99_ms, processing_mean_ms, processing_p50_ms, stats_reset
		FROM queue.queue_stats() ORDER BY 1});
}

sub run_jobs
{
	my ($queue, $jobs, $database) = @_;
	$node->safe_psql($database || 'postgres', qq{
		SELECT queue.enqueue_batch('$queue', array_agg(to_jsonb(i))) FROM generate_series(1, $jobs) AS i;
		SELECT count(*) FROM queue.dequeue_batch('$queue', $jobs);
		SELECT queue.complete_many(array_agg(job_id)) FROM queue.job WHERE queue_name = '$queue'});
	return;
}

# two databases, one with an extension that is created anew
$node->safe_psql('postgres', q{SELECT queue.create_queue(q) FROM unnest('{a,b}'::text[]) AS q});
$node->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($node, 'other');
$node->safe_psql('other', q{SELECT queue.create_queue('a')});
run_jobs('a', 100);
run_jobs('b', 10);
run_jobs('a', 7, 'other');
my ($first, $other) = (totals(), totals('other'));
like($first, qr/^a\|100\|100\|100\|0\|0\|0\|/, 'totals');

# the history, while all is quiet
wait_for($node, q{SELECT (SELECT sum(completed_count) FROM queue.metric_history) = 110}, 'the worker writes the history');
my $rows = $node->safe_psql('postgres', 'SELECT count(*), max(at) FROM queue.metric_history');
$node->safe_psql('postgres', q{SELECT queue.create_queue('c')});
run_jobs('c', 1);
wait_for($node, q{SELECT EXISTS (SELECT FROM queue.metric_history JOIN queue.queue USING (queue_id)
	WHERE queue_name = 'c' AND completed_count > 0)}, 'and goes on');
is($node->safe_psql('postgres', q{SELECT count(*), max(at) FROM queue.metric_history JOIN queue.queue USING (queue_id)
	WHERE queue_name <> 'c'}), $rows, 'but a queue at rest gets no rows');
$node->safe_psql('postgres', q{SELECT queue.drop_queue('c')});

# what has expired goes
$node->safe_psql('postgres', q{
	INSERT INTO queue.metric_history SELECT queue_id, at - interval '31 days', seconds, waiting, delayed, blocked, active, completed,
		failed, cancelled, oldest_waiting_ms, enqueued_count, taken_count, completed_count, failed_count, retried_count, stalled_count,
		wait_mean_ms, wait_p95_ms, processing_mean_ms, processing_p95_ms, live_bytes, paused FROM queue.metric_history;
	SELECT count(*) FROM queue.maintain()});
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.metric_history WHERE at < now() - interval '30 days'}), '0',
	'rows that have expired are removed');

$node->safe_psql('postgres', q{
	INSERT INTO queue.metric_history SELECT DISTINCT ON (at) 4711, at, seconds, waiting, delayed, blocked, active, completed,
		failed, cancelled, oldest_waiting_ms, enqueued_count, taken_count, completed_count, failed_count, retried_count, stalled_count,
		wait_mean_ms, wait_p95_ms, processing_mean_ms, processing_p95_ms, live_bytes, paused FROM queue.metric_history;
	SELECT count(*) FROM queue.maintain()});
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.metric_history WHERE queue_id = 4711}), '0',
	'so are those of a queue that is gone');

# restart
$node->stop;
ok(-s $file, 'a shutdown leaves a file');
$node->start;
is(totals(), $first, 'after a restart, totals and times are the same');
ok(!-e $file, 'the file is gone');
is(totals('other'), $other, 'in every database');
run_jobs('b', 1);
like(totals(), qr/^b\|11\|11\|11\|/m, 'and go on');
wait_for($node, q{SELECT sum(completed_count) = 111 FROM queue.metric_history}, 'so does the history, without a gap or a double');

# nobody asks for them: they are kept all the same
$first = totals();
$node->restart;
$node->restart;
is(totals(), $first, 'over several restarts');
is(totals('other'), $other, 'also where nobody has looked');

# an extension that was created anew has nothing of the old one
$node->safe_psql('other', q{DROP EXTENSION queue; CREATE EXTENSION queue; SELECT queue.create_queue('a')});
$node->restart;
like(totals('other'), qr/^a\|0\|0\|0\|/, 'a new extension begins anew');

# a reset, over a restart
$node->safe_psql('postgres', q{SELECT queue.stats_reset('a')});
$first = totals();
like($first, qr/^a\|0\|0\|0\|.*^b\|11\|/ms, 'one queue is reset');
$node->restart;
is(totals(), $first, 'and stays so');

# damage
$node->stop;
my $content = slurp_file($file);
open my $out, '>', $file or die "could not write $file: $!";
binmode $out;
print $out substr($content, 0, 100) . 'x' . substr($content, 101);
close $out;
$node->start;
like(totals(), qr/^b\|0\|0\|0\|/m, 'a damaged file is ignored');
like(slurp_file($node->logfile), qr/ignoring file "pg_stat\/queue.stat"/, 'and the log says so');

# crash of a backend, and of the server
run_jobs('b', 5);
my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue launcher'});
kill_backend($node, $pid);
like(totals(), qr/^b\|0\|0\|0\|/m, 'a crash forgets them');
run_jobs('b', 5);
wait_for($node, q{SELECT max(completed_count) >= 5 FROM queue.metric_history JOIN queue.queue USING (queue_id)
	WHERE queue_name = 'b'}, 'the history goes on');
$node->stop('immediate');
ok(!-e $file, 'an immediate shutdown leaves no file');
$node->start;
like(totals(), qr/^b\|0\|0\|0\|/m, 'and forgets them');
check_counters($node, 'at the end');

# by hand, where no maintenance worker has room, in a transaction that is prepared
$node->append_conf('postgresql.conf', q{
max_worker_processes = 1
max_logical_replication_workers = 0
max_prepared_transactions = 1
});
$node->restart;
my $write = q{SELECT items > 0 FROM queue.maintain() WHERE step = 'rows of metrics written'};
run_jobs('b', 1);
wait_for($node, $write, 'maintain() writes the history');
my $before = $node->safe_psql('postgres', 'SELECT sum(completed_count) FROM queue.metric_history');
for my $finish (qw(COMMIT ROLLBACK))
{
	run_jobs('b', 3);
	# a row for each second
	for (1 .. 100)
	{
		my $written = $node->safe_psql('postgres', "BEGIN; $write; PREPARE TRANSACTION 'metrics'");
		$node->safe_psql('postgres', ($written eq 't' ? $finish : 'ROLLBACK') . q{ PREPARED 'metrics'});
		last if $written eq 't';
		Time::HiRes::sleep(0.1);
	}
}
run_jobs('b', 1);
wait_for($node, $write, 'and again');
is($node->safe_psql('postgres', "SELECT sum(completed_count) - $before FROM queue.metric_history"), '4',
	'what a prepared transaction has written is not written again');

# who asks for metrics while the extension is being dropped waits, and finds it gone
my $dropper = $node->background_psql('postgres');
$dropper->query_safe('BEGIN');
$dropper->query_safe('DROP EXTENSION queue');
my $error = '';
my $asker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT count(*) FROM queue._metrics()' ],
	'<', \undef, '>', \my $answer, '2>', \$error);
wait_for($node, q{SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity AS a USING (pid)
	WHERE NOT granted AND a.query LIKE '%_metrics%' AND a.pid <> pg_backend_pid()}, 'metrics wait for a DROP EXTENSION');
$dropper->query_safe('COMMIT');
$dropper->quit;
$asker->finish;
like($error, qr/extension "queue" has been dropped/, 'and tell that it was dropped');

$node->stop;
done_testing();

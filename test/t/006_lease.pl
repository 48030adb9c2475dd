# Leases that run out: again and again, with takers and without, across a
# restart, and while others hold theirs.
#
# Every attempt counts, also one that ended in silence; a job whose attempts are
# used up becomes failed, by the next taker or by the maintenance worker alone;
# and the log has a row for each attempt that stalled.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\n");
my $log = q{SELECT l.event, l.attempt, l.worker FROM queue.job_log AS l JOIN queue.queue AS q USING (queue_id)
	WHERE q.queue_name = '%s' ORDER BY l.at, l.attempt};

# ---------------------------------------------------------------------
# A taker that never settles, time and again
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('again', max_attempts => 3, visibility_timeout => '1 ms');
	SELECT queue.enqueue('again', '"poison"')});
for my $attempt (1 .. 3)
{
	wait_for($node, qq{SELECT payload, attempt FROM queue.dequeue_batch('again', worker => 'w$attempt')},
		"attempt $attempt is given out", "\"poison\"|$attempt");
}
# there is no fourth; no taker comes any more, and the job is failed all the same
wait_for($node, q{SELECT failed = 1 AND active = 0 FROM queue.queue_stats('again')},
	'after the last one the maintenance worker fails the job');
is( $node->safe_psql('postgres', q{SELECT state, attempt, error FROM queue.list_jobs('again')}),
	'failed|3|lease expired', 'with an error that tells why');
is($node->safe_psql('postgres', sprintf($log, 'again')), "stalled|1|w1\nstalled|2|w2\nstalled|3|w3",
	'the log has each attempt');

# the same with takers, who come to the job before the worker does: they look
# behind the hint only after the worker's note, so let them race for it
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('takers', max_attempts => 2, visibility_timeout => '5 ms');
	SELECT queue.enqueue_batch('takers', array_fill('1'::jsonb, ARRAY[50]))});
wait_for($node, q{
	SELECT s.failed = 50 AND s.waiting + s.active = 0
	FROM (SELECT count(*) FROM queue.dequeue_batch('takers', 10)) AS taken, queue.queue_stats('takers') AS s},
	'takers and the worker together fail fifty jobs');
is( $node->safe_psql('postgres', q{
		SELECT event, attempt, count(*), count(DISTINCT job_id)
		FROM queue.job_log JOIN queue.queue USING (queue_id) WHERE queue_name = 'takers' GROUP BY 1, 2 ORDER BY 2}),
	"stalled|1|50|50\nstalled|2|50|50", 'each attempt of each job stalled once');
check_counters($node, 'after stalled jobs');

# a batch beyond what the worker fails in one transaction
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('many', max_attempts => 1, visibility_timeout => '1 ms');
	SELECT count(*) FROM queue.enqueue_batch('many', array_fill('1'::jsonb, ARRAY[2500]));
	SELECT count(*) FROM queue.dequeue_batch('many', 2500)});
wait_for($node, q{SELECT failed = 2500 AND active = 0 FROM queue.queue_stats('many')},
	'the worker fails 2,500 at once');
check_counters($node, 'after many stalled jobs');

# jobs that run on are no obstacle for one that has stalled behind them
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('behind');
	SELECT count(*) FROM queue.enqueue_batch('behind', array_fill('"held"'::jsonb, ARRAY[2000]));
	SELECT count(*) FROM queue.dequeue_batch('behind', 2000, visibility_timeout => '1 hour');
	SELECT queue.enqueue('behind', '"stalled"');
	SELECT count(*) FROM queue.dequeue_batch('behind', visibility_timeout => '1 ms')});
wait_for($node, q{SELECT payload, attempt FROM queue.dequeue_batch('behind')},
	'a stalled job behind 2,000 that run is taken over', '"stalled"|2');

# ---------------------------------------------------------------------
# Extending and bringing forward the end
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('extend');
	SELECT queue.enqueue('extend', '1');
	SELECT queue.extend(job_id, '1 ms') FROM queue.dequeue_batch('extend', visibility_timeout => '1 day')});
wait_for($node, q{SELECT attempt FROM queue.dequeue_batch('extend', visibility_timeout => '1 s')},
	'a lease can be shortened, and ends then', '2');
$node->safe_psql('postgres', q{SELECT queue.extend(job_id, '1 day', attempt => 2) FROM queue.job WHERE queue_name = 'extend'});
wait_for($node, q{SELECT clock_timestamp() > taken_at + interval '1.1 s' FROM queue.job WHERE queue_name = 'extend'},
	'(time passes)');
is($node->safe_psql('postgres', q{SELECT attempt FROM queue.dequeue_batch('extend')}), '',
	'and prolonged: the old end means nothing');

# ---------------------------------------------------------------------
# Across a restart
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('restart');
	SELECT queue.enqueue_batch('restart', ARRAY['"held"', '"stalled"', '"waiting"']::jsonb[]);
	SELECT payload FROM queue.dequeue_batch('restart', visibility_timeout => '1 day', worker => 'before');
	SELECT payload FROM queue.dequeue_batch('restart', visibility_timeout => '1 ms', worker => 'before')});
my $restarted = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
$node->restart;
# a taker comes before any sweep: it begins at the left edge
my $got = $node->safe_psql('postgres', q{SELECT payload, attempt FROM queue.dequeue_batch('restart', 2)});
is($got, "\"stalled\"|2\n\"waiting\"|1", 'after a restart, the lease that has ended is taken over');
is( $node->safe_psql('postgres', q{SELECT payload, queue.complete(job_id, attempt => 1) FROM queue.job WHERE queue_name = 'restart' AND payload = '"stalled"'}),
	'"stalled"|f', 'its old holder is fenced off');
is( $node->safe_psql('postgres', q{SELECT payload, queue.complete(job_id, attempt => 1) FROM queue.job WHERE queue_name = 'restart' AND payload = '"held"'}),
	'"held"|t', 'the lease that has not ended is honoured');

# a lease that ends after the restart, with nobody left who knew of it but the row
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('later', visibility_timeout => '2 s');
	SELECT queue.enqueue('later', '1');
	SELECT payload FROM queue.dequeue_batch('later')});
$node->restart;
is($node->safe_psql('postgres', q{SELECT attempt FROM queue.dequeue_batch('later')}), '', 'a lease lives through a restart');
wait_for($node, q{SELECT attempt FROM queue.dequeue_batch('later')}, 'and ends after it', '2');

# and one whose attempts are used up by then, with no taker at all
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('alone', max_attempts => 1, visibility_timeout => '1 ms');
	SELECT queue.enqueue('alone', '1');
	SELECT payload FROM queue.dequeue_batch('alone', visibility_timeout => '1 s')});
$node->restart;
wait_for($node, q{SELECT state FROM queue.list_jobs('alone')}, 'the worker alone fails what stalled across a restart', 'failed');
check_counters($node, 'after restarts');

# ---------------------------------------------------------------------
# A queue that is paused, and one that is dropped, while leases run out
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('paused', max_attempts => 1);
	SELECT queue.enqueue_batch('paused', ARRAY['1', '2']::jsonb[]);
	SELECT payload FROM queue.dequeue_batch('paused', visibility_timeout => '1 ms');
	SELECT queue.pause_queue('paused')});
wait_for($node, q{SELECT waiting, active, failed FROM queue.queue_stats('paused')},
	'a pause keeps no attempt alive', '1|0|1');

check_structure($node, 'at the end');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

# Batches: closed by grace and completed by the worker alone, under load, and
# with a crash after the last job.

use strict;
use warnings;

use lib 'test/lib';
use QueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $node = new_node('batch');
my $callbacks = q{SELECT count(*) FROM queue.job WHERE queue_name = 'callback' AND headers->>'batch_id' = '%s'};

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('callback');
	SELECT queue.create_queue('q', batch_grace => '1 s')});

# ---------------------------------------------------------------------
# By grace: nobody closes it, nobody asks
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.enqueue_batch('q', ARRAY['1', '2']::jsonb[], batch_id => 'grace');
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('q')});
wait_for($node, q{SELECT clock_timestamp() > max(at) + interval '1.2 s' FROM queue.batch_progress WHERE batch_id = 'grace'},
	'(the grace time passes)');
is($node->safe_psql('postgres', q{SELECT status, open FROM queue.batch_status('grace')}), 'open|1',
	'a batch with an unfinished job stays open');
$node->safe_psql('postgres', q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('q')});
is($node->safe_psql('postgres', q{SELECT status FROM queue.batch_status('grace')}), 'open',
	'and is open still when the last has just ended');
wait_for($node, q{SELECT status, closed_by, processed FROM queue.batch_status('grace')},
	'then the grace time closes it', 'completed|grace|2');
is( $node->safe_psql('postgres', q{
		SELECT s.closed_at - max(a.finished_at) BETWEEN '1 s' AND '10 s'
		FROM queue.batch_status('grace') AS s, queue.job_archive AS a WHERE a.batch_id = 'grace' GROUP BY s.closed_at}),
	't', 'that long after its last job');
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{SELECT queue.enqueue('q', '3', batch_id => 'grace')});
like($stderr, qr/batch "grace" is closed/, 'and nothing is added to it any more');

# ---------------------------------------------------------------------
# Eight takers of one batch
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_batch('load', callback_queue => 'callback');
	SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[4000]), batch_id => 'load');
	SELECT queue.close_batch('load')});
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/take.sql", q{
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 1 + (random() * 2)::int);
});
$node->command_ok(
	[ 'pgbench', '--no-vacuum', '--client', 8, '--jobs', 2, '--transactions', 500, '-f', "$dir/take.sql",
		$node->connstr('postgres') ],
	'eight takers take all');
$node->safe_psql('postgres', q{
	SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 4000)});
wait_for($node, q{SELECT status, total, processed, open FROM queue.batch_status('load')},
	'the batch is complete, and its counts are right', 'completed|4000|4000|0');
is($node->safe_psql('postgres', sprintf($callbacks, 'load')), '1', 'with one callback');
is( $node->safe_psql('postgres', q{SELECT headers->>'processed' FROM queue.job WHERE queue_name = 'callback'}),
	'4000', 'which knows how many there were');
wait_for($node, q{SELECT count(*), bool_and(folded) FROM queue.batch_progress WHERE batch_id = 'load'},
	'what is folded is one row', '1|t');

# ---------------------------------------------------------------------
# A crash after the last job has ended, before the batch is complete
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_batch('crash', callback_queue => 'callback');
	SELECT queue.enqueue('q', '1', batch_id => 'crash');
	SELECT queue.close_batch('crash')});
# whoever changes the order of a queue lets no job into it, and the worker must not wait
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN});
$session->query_safe(q{SELECT queue.alter_queue('callback', aging_interval => '1 min')});
$node->safe_psql('postgres', q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('q')});
wait_for($node, q{SELECT bool_and(folded) FROM queue.batch_progress WHERE batch_id = 'crash'},
	'the worker has looked');
is($node->safe_psql('postgres', q{SELECT status, open FROM queue.batch_status('crash')}), 'closed|0',
	'and cannot complete the batch yet');
$node->safe_psql('postgres', q{
	SELECT queue.enqueue('q', '1', delay => '0.1 s');
	SELECT queue.create_batch('beside');
	SELECT queue.close_batch('beside')});
wait_for($node, q{SELECT status FROM queue.batch_status('beside')}, 'but does all else', 'completed');
$node->stop('immediate');
eval { $session->quit };
$node->start;
wait_for($node, q{SELECT status FROM queue.batch_status('crash')}, 'after a crash it is complete', 'completed');
is($node->safe_psql('postgres', sprintf($callbacks, 'crash')), '1', 'with one callback');

# code behind a callback cannot end the worker by saying that it was cancelled
$node->safe_psql('postgres', q{
	CREATE FUNCTION fake(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'fake' USING ERRCODE = 'query_canceled'; END $$;
	SELECT queue.create_queue('fake', validator => 'fake');
	SELECT queue.create_batch('fake', callback_queue => 'fake');
	SELECT queue.close_batch('fake')});
wait_for($node, q{SELECT status, callback_error FROM queue.batch_status('fake')}, 'a fake cancel is an error like others',
	'completed|57014: fake');

# many times: at once after the last end, whatever the worker has done by then
for my $n (1 .. 5)
{
	$node->safe_psql('postgres', qq{
		SELECT queue.create_batch('crash $n', callback_queue => 'callback');
		SELECT queue.enqueue('q', '1', batch_id => 'crash $n', priority => 1);
		SELECT queue.close_batch('crash $n');
		SELECT queue.complete(job_id) FROM queue.dequeue_batch('q')});
	Time::HiRes::usleep($n * 10_000) if $n > 1;
	$node->stop('immediate');
	$node->start;
}
wait_for($node, q{SELECT count(*) FROM queue.batch_progress_view WHERE batch_id LIKE 'crash _' AND status = 'completed'},
	'five more crashes', '5');
is( $node->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT headers->>'batch_id') FROM queue.job
		WHERE queue_name = 'callback' AND headers->>'batch_id' LIKE 'crash _'}),
	'5|5', 'each with one callback');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.batch_progress_view AS b JOIN queue.job AS j ON j.job_id = b.callback_job_id
		WHERE j.headers->>'batch_id' = b.batch_id}),
	'7', 'that the batch knows');

check_structure($node, 'at the end');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

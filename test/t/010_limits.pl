# More queues, priorities and databases than shared memory has room for.
#
# Without a slot there is no hint and there are no counters.  That is slower,
# the log says it once, and nothing else changes.

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
queue.max_databases = 1
max_prepared_transactions = 2
queue.max_queues = 16
queue.max_hints = 32
});

# a life of a job in every way, over all queues of a database
sub check_queues
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($database, $queues) = @_;
	my $all = "(SELECT 'q' || i AS name FROM generate_series(1, $queues) AS i) AS q";
	my $jobs = 4 * $queues;
	my $count = sub { $node->safe_psql($database, "SELECT count(*) FROM $all, $_[0]") };

	# the middle one to complete, the others to be seen again
	$node->safe_psql($database, qq{
		SELECT queue.create_queue(q.name, max_attempts => 2) FROM $all;
		SELECT queue.enqueue(q.name, to_jsonb(p), priority => p) FROM $all, generate_series(1, 3) AS p;
		SELECT queue.enqueue(q.name, '4', delay => '1 ms') FROM $all});
	is($count->(q{queue.dequeue_batch(q.name) AS j WHERE j.payload = '1'}), $queues, "$database: the best of each queue");
	is($count->(q{queue.dequeue_batch(q.name, 10, visibility_timeout => '1 ms') AS j}), 3 * $queues,
		"$database: all the others, also what became due");
	is( $node->safe_psql($database, q{SELECT count(*) FILTER (WHERE done)
			FROM (SELECT queue.complete(job_id) AS done FROM queue.job WHERE payload = '1') AS j}),
		$queues, "$database: completed");
	# the maintenance worker looks after some of them only
	my $seen = 0;
	for (1 .. 100)
	{
		$seen += $count->(q{queue.dequeue_batch(q.name, 10, visibility_timeout => '1 ms') AS j});
		last if $seen == 3 * $queues;
	}
	is($seen, 3 * $queues, "$database: whose lease has ended is taken over");
	ok( $node->poll_query_until($database, qq{
			SELECT count(*) = 3 * $queues FROM queue.job_archive
			WHERE state = 'f' AND (SELECT count(*) >= 0 FROM $all, queue.dequeue_batch(q.name))}),
		"$database: and failed when its attempts are used up");
	is($node->safe_psql($database, 'SELECT count(*) FROM queue.job'), '0', "$database: nothing is left");

	# rollbacks leave nothing behind either
	$node->safe_psql($database, qq{
		SELECT queue.enqueue(q.name, '1') FROM $all;
		BEGIN;
		SELECT count(*) FROM $all, queue.dequeue_batch(q.name);
		ROLLBACK});
	is($count->('queue.dequeue_batch(q.name)'), $queues, "$database: claims that are rolled back");
	check_structure($node, $database, $database);
	return;
}

check_queues('postgres', 40);
is( $node->safe_psql('postgres', q{SELECT count(*) > 0 AND count(*) < 40 FROM queue.queue_stats() WHERE waiting IS NOT NULL}),
	't', 'some queues have counters');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.queue_stats() AS s WHERE s.active <>
			(SELECT count(*) FROM queue.job AS j WHERE j.queue_name = s.queue_name AND state = 'active')}),
	'0', 'and those are right');
like(slurp_file($node->logfile), qr/queue has no room left in shared memory/, 'the log tells');

# a queue gets a slot while transactions are under way that have met none
$node->safe_psql('postgres', q{SELECT queue.drop_queue(queue_name, true) FROM queue.queue;
	SELECT count(queue.create_queue('r' || i)) FROM generate_series(1, 20) AS i;
	SELECT count(queue.enqueue('r' || i, '1')) FROM generate_series(1, 20) AS i});
wait_for($node, 'SELECT count(waiting) > 0 FROM queue.queue_stats()', 'some of them are counted', 't');
my $late = $node->safe_psql('postgres', q{SELECT queue_name FROM queue.queue_stats() WHERE waiting IS NULL LIMIT 1});
isnt($late, '', 'one of 20 queues has no slot');
# and a class that has no hint, of a queue that has a slot
wait_for($node, 'SELECT count(*) FROM queue._hints()', 'all hints are used up', '32');
my $narrow = $node->safe_psql('postgres', q{SELECT queue_name FROM queue.queue_stats() WHERE waiting IS NOT NULL LIMIT 1});
my $unhinted = $node->background_psql('postgres');
$unhinted->query_safe("BEGIN; SELECT queue.enqueue('$narrow', '2', priority => 7)");
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; SELECT queue.enqueue('$late', '2'), queue.complete(job_id) FROM queue.dequeue_batch('$late')");
$node->safe_psql('postgres', qq{BEGIN; SELECT queue.enqueue('$late', '3'); PREPARE TRANSACTION 'late'});
$node->safe_psql('postgres', qq{SELECT queue.drop_queue(queue_name, true) FROM queue.queue WHERE queue_name NOT IN ('$late', '$narrow')});
wait_for($node, qq{SELECT waiting = 1 FROM queue.queue_stats('$late')}, 'it gets one when others go', 't');
# the hint is behind what there is
is($node->safe_psql('postgres', qq{SELECT count(*) FROM queue.dequeue_batch('$late', 10)}), '0', 'there is nothing to take yet');
$session->query_safe('COMMIT');
$session->quit;
is($node->safe_psql('postgres', qq{SELECT payload FROM queue.dequeue_batch('$late', 10)}), '2', 'what the first has put in is there at its commit');
$node->safe_psql('postgres', q{COMMIT PREPARED 'late'});
is($node->safe_psql('postgres', qq{SELECT payload FROM queue.dequeue_batch('$late', 10)}), '3', 'and what was prepared');
check_counters($node, 'a slot that came late');
is($node->safe_psql('postgres', qq{SELECT payload FROM queue.dequeue_batch('$narrow', 10)}), '1', 'in the queue without a hint there is one job');
wait_for($node, qq{SELECT count(*) FROM queue.dequeue_batch('$narrow'); SELECT count(*) FROM queue._hints() WHERE order_class = 7 AND hint_order_at = 'infinity'},
	'its other class gets a hint, behind all that there is', "0\n1");
$unhinted->query_safe('COMMIT');
$unhinted->quit;
is($node->safe_psql('postgres', qq{SELECT payload FROM queue.dequeue_batch('$narrow', 10)}), '2', 'what is committed then is there at once');
$node->safe_psql('postgres', q{SELECT count(queue.create_queue('s' || i)) FROM generate_series(1, 40) AS i});

# queues that go make room for others
$node->safe_psql('postgres', q{SELECT queue.drop_queue(queue_name, true) FROM queue.queue ORDER BY queue_id LIMIT 38});
$node->restart;
check_counters($node, 'after most queues have gone');

$node->safe_psql('postgres', 'CREATE DATABASE second');
create_extension($node, 'second');
check_queues('second', 3);
is( $node->safe_psql('second', q{SELECT count(*), count(waiting) FROM queue.queue_stats()}),
	'3|0', 'a database without room has no counters');

# it gets its room while a transaction is under way
$session = $node->background_psql('second');
$session->query_safe("BEGIN; SELECT queue.enqueue('q1', '2')");
$node->safe_psql('postgres', 'DROP EXTENSION queue');
ok($node->poll_query_until('second', q{SELECT count(waiting) = 3 FROM queue.queue_stats()}), 'a database gets room when the extension leaves another');
is($node->safe_psql('second', q{SELECT count(*) FROM queue.dequeue_batch('q1', 10)}), '0', 'there is nothing to take yet');
$session->query_safe('COMMIT');
$session->quit;
is($node->safe_psql('second', q{SELECT payload FROM queue.dequeue_batch('q1', 10)}), '2', 'what was under way is there at once');
check_counters($node, 'a database that came late', 'second');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

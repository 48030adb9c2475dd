# Which transactions wait for the disk.
#
# A transaction that has done nothing but take jobs need not: if a crash undoes
# it, the jobs wait again.  Whatever else it writes makes it wait as always, and
# so do a take-over of a lease and the setting queue.async_claims = off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

# the WAL writer, who flushes what others leave behind, comes once in ten seconds
my $node = new_node('main', conf => q{
log_statement = none
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
queue.maintenance_interval = 60000
});
$node->safe_psql('postgres', q{
	CREATE TABLE work (i int);
	CREATE SEQUENCE number;
	SELECT queue.create_queue('q', visibility_timeout => '1 day', max_attempts => 1000);
	SELECT queue.create_queue('brief', visibility_timeout => '1 ms', max_attempts => 1000)});
my $session = $node->background_psql('postgres');

# How many of six runs of a transaction were on disk when it had returned?
# Others write, too, and pruning a page is writing: so not each of them counts.
sub flushed
{
	my ($transaction) = @_;
	my $flushed = 0;

	for my $i (1 .. 6)
	{
		$node->safe_psql('postgres', q{SELECT queue.enqueue('q', '1')});
		my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
		my $answer = $session->query_safe("$transaction;
			SELECT pg_current_wal_insert_lsn() > '$lsn', pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()");
		my ($wrote, $is) = $answer =~ /^([tf])\|([tf])\z/m or die "unexpected answer: $answer";
		die "it has written nothing: $transaction" if $wrote ne 't';
		$flushed++ if $is eq 't';
	}
	return $flushed;
}

my $take = q{SELECT payload FROM queue.dequeue_batch('q')};

sub does_not_wait
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $transaction) = @_;
	my $flushed = flushed($transaction);

	return cmp_ok($flushed, '<=', 2, "$name does not wait: $flushed of 6 are on disk");
}

sub waits
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $transaction) = @_;
	my $flushed = flushed($transaction);

	return cmp_ok($flushed, '>=', 4, "$name waits: $flushed of 6 are on disk");
}

does_not_wait('a claim', $take);
does_not_wait('a claim in a transaction block', "BEGIN; $take; COMMIT");
does_not_wait('two claims', "BEGIN; $take; $take; COMMIT");
is($session->query_safe('SHOW synchronous_commit'), 'on', 'the setting is as before');

waits('an enqueue', q{SELECT queue.enqueue('q', '2')});
waits('a completion', q{SELECT queue.complete(job_id) FROM (SELECT job_id FROM queue.job WHERE state = 'active' LIMIT 1) AS j});
waits('taking and completing', q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('q')});
waits('complete_and_dequeue()', q{SELECT payload FROM queue.complete_and_dequeue(
	ARRAY(SELECT job_id FROM queue.job WHERE state = 'active' LIMIT 1), 'q')});
waits('a claim after a write', "BEGIN; INSERT INTO work VALUES (1); $take; COMMIT");
waits('a write after a claim', "BEGIN; $take; INSERT INTO work VALUES (1); COMMIT");
waits('a write between two claims', "BEGIN; $take; INSERT INTO work VALUES (1); $take; COMMIT");
waits('a row lock after a claim', "BEGIN; $take; SELECT i FROM work LIMIT 1 FOR UPDATE; COMMIT");
waits('a number of a sequence after a claim', "BEGIN; $take; SELECT setval('number', 1); COMMIT");
waits('an enqueue after a claim', "BEGIN; $take; SELECT queue.enqueue('q', '3'); COMMIT");
waits('a write in a subtransaction', "BEGIN; $take; SAVEPOINT s; INSERT INTO work VALUES (1); RELEASE s; COMMIT");
waits('a write in a subtransaction before the claim', "BEGIN; SAVEPOINT s; INSERT INTO work VALUES (1); RELEASE s; $take; COMMIT");
waits('a write in the statement of the claim', q{WITH job AS (SELECT job_id FROM queue.dequeue_batch('q')) INSERT INTO work SELECT job_id FROM job});

# an attempt that others may have seen must not be handed out again
waits('a take-over', q{DO $$
	BEGIN
		PERFORM queue.enqueue('brief', '1');
		PERFORM payload FROM queue.dequeue_batch('brief');
		COMMIT;
		FOR i IN 1 .. 1000 LOOP
			PERFORM payload FROM queue.dequeue_batch('brief') WHERE attempt > 1;
			EXIT WHEN FOUND;
			COMMIT;
			PERFORM pg_sleep(0.01);
		END LOOP;
	END $$});

$session->query_safe('SET queue.async_claims = off');
waits('a claim with queue.async_claims = off', $take);
$session->query_safe('SET queue.async_claims = on');
does_not_wait('a claim with queue.async_claims = on again', $take);

# who does not want to wait anyhow need not, and is not made to
$session->query_safe('SET synchronous_commit = off');
does_not_wait('a write with synchronous_commit = off', 'INSERT INTO work VALUES (1)');
$session->query_safe('RESET synchronous_commit');
waits('a write after that', 'INSERT INTO work VALUES (1)');

# ---------------------------------------------------------------------
# What it means: a crash may undo a claim, and nothing else
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.drop_queue('q', true); SELECT queue.create_queue('q', visibility_timeout => '1 day')});
my $undone = 0;
for my $round (1 .. 3)
{
	$node->safe_psql('postgres', q{SELECT queue.purge_queue('q'), queue.enqueue('q', '"later"')});
	$session->query_safe($take);
	# nothing else may happen between, or it would take the claim along to disk
	$node->stop('immediate');
	$session->{run}->finish;
	$node->start;
	my $state = $node->safe_psql('postgres', q{SELECT state, attempt FROM queue.job WHERE queue_name = 'q'});
	like($state, qr/^(active\|1|waiting\|0)$/, "after a crash, the claim has happened or not: $state");
	$undone++ if $state eq 'waiting|0';
	check_counters($node, "after crash $round");
	$node->safe_psql('postgres', q{SELECT queue.cancel(job_id) FROM queue.job});
	$session = $node->background_psql('postgres');
}
cmp_ok($undone, '>', 0, "$undone of 3 were undone");
$session->quit;

$node->stop;
done_testing();

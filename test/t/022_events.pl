# Events: what happens to the jobs of a queue with notify is told by NOTIFY, as
# often as it happens, and by few messages; what is undone is not told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $node = new_node('events', conf => "queue.notify_interval = '50 ms'\n");

# One session that listens: psql prints what has come after each command.
my ($in, $out, $err) = ('', '', '');
my $listener = IPC::Run::start(
	[ 'psql', '-XAtq', '-f', '-', '-d', $node->connstr('postgres') ],
	'<', \$in, '>', \$out, '2>', \$err,
	my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my $asked = 0;

sub ask
{
	my ($sql) = @_;
	$asked++;
	$in .= "$sql\n\\echo asked $asked\n";
	$listener->pump until $out =~ /^asked $asked$/m;
	return;
}

my @told;

# All that has been told so far.  A message may be split over two reads, but not
# when the answer to a question has come after it.
sub told
{
	ask('SELECT 1;');
	@told = map { JSON::PP::decode_json($_) }
	  $out =~ /^Asynchronous notification "queue\..*?" with payload "(.*)" received from/gm;
	return @told;
}

sub sum
{
	my ($queue, $event) = @_;
	my $sum = 0;
	$sum += $_->{count} foreach grep { $_->{queue} eq $queue && $_->{event} eq $event } @told;
	return $sum;
}

# Poll until so many have been told, as a test of its own; more would be as wrong.
sub told_ok
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($queue, $event, $count, $name) = @_;
	for (1 .. 300)
	{
		told();
		last if sum($queue, $event) >= $count;
		Time::HiRes::sleep(0.1);
	}
	return is(sum($queue, $event), $count, $name);
}

# After this, what was committed before it has been told: the worker looks at
# all queues at once.
my $fences = 0;

sub fence
{
	$node->safe_psql('postgres', q{SELECT queue.enqueue('fence', '1')});
	told_ok('fence', 'enqueued', ++$fences, "fence $fences");
	return;
}

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('on', notify => true, max_attempts => 2, backoff_base => '1 day', batch_grace => '0');
	SELECT queue.create_queue('off');
	SELECT queue.create_queue('fence', notify => true);
	SELECT queue.create_queue('Odd "name"', notify => true)});
ask(qq{LISTEN "queue.$_";}) foreach 'on', 'off', 'fence', 'Odd ""name""';

# ---------------------------------------------------------------------
# Each kind
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.enqueue('on', '1')});
told_ok('on', 'enqueued', 1, 'an enqueue is told');
my $job = $node->safe_psql('postgres', q{SELECT job_id FROM queue.dequeue_batch('on') WHERE queue.complete(job_id)});
told_ok('on', 'completed', 1, 'a completion is told');
{
	my ($event) = grep { $_->{event} eq 'completed' } @told;
	is(join(' ', sort keys %$event), 'at count event job_id queue state', 'what a message has');
	is($event->{job_id}, $job, 'the job');
	is($event->{state}, 'completed', 'its state');
	like($event->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/, 'the time');
}

$node->safe_psql('postgres', q{
	SELECT queue.enqueue_batch('on', ARRAY['2', '3', '4', '5', '6']::jsonb[]);
	SELECT queue.fail(job_id, 'again') FROM queue.dequeue_batch('on');
	SELECT queue.fail(job_id, 'no', retry => false) FROM queue.dequeue_batch('on');
	SELECT queue.cancel(job_id) FROM (SELECT job_id FROM queue.job WHERE queue_name = 'on' AND state = 'waiting' LIMIT 1) AS j;
	SELECT queue.dequeue_batch('on', visibility_timeout => '1 ms')});
told_ok('on', 'retried', 1, 'a retry is told');
told_ok('on', 'failed', 1, 'a failure is told');
told_ok('on', 'cancelled', 1, 'a cancellation is told');
is(sum('on', 'enqueued'), 6, 'jobs are counted, not calls');
is((map { $_->{state} } grep { $_->{event} eq 'retried' } @told)[0], 'delayed', 'the state of what is retried');
# whoever takes the job over says so
$node->poll_query_until('postgres', q{SELECT bool_or(queue.complete(job_id)) FROM queue.dequeue_batch('on', 2)
	WHERE attempt = 2});
told_ok('on', 'stalled', 1, 'a lease that has ended is told');

$node->safe_psql('postgres', q{SELECT queue.enqueue('Odd "name"', '1')});
told_ok('Odd "name"', 'enqueued', 1, 'the channel of an odd name');

# ---------------------------------------------------------------------
# Transactions
# ---------------------------------------------------------------------

fence();
my $before = sum('on', 'enqueued');
$node->safe_psql('postgres', q{
	BEGIN; SELECT queue.enqueue('on', '1'); ROLLBACK;
	BEGIN;
	SAVEPOINT a; SELECT queue.enqueue('on', '1'); ROLLBACK TO a;
	SAVEPOINT b; SELECT queue.enqueue('on', '1'); SAVEPOINT c; SELECT queue.enqueue('on', '1'); RELEASE b;
	SELECT queue.enqueue('on', '1');
	COMMIT});
fence();
is(sum('on', 'enqueued') - $before, 3, 'what is rolled back is not told, what a subtransaction leaves is');

$node->safe_psql('postgres', q{
	BEGIN; SELECT queue.enqueue('on', '1'), queue.enqueue('on', '2'); PREPARE TRANSACTION 'kept';
	BEGIN; SELECT queue.enqueue('on', '1'); PREPARE TRANSACTION 'undone'});
fence();
is(sum('on', 'enqueued') - $before, 3, 'a prepared transaction tells nothing');
$node->safe_psql('postgres', q{COMMIT PREPARED 'kept'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'});
fence();
is(sum('on', 'enqueued') - $before, 5, 'COMMIT PREPARED tells it, ROLLBACK PREPARED does not');

# ---------------------------------------------------------------------
# Many, and none
# ---------------------------------------------------------------------

$node->append_conf('postgresql.conf', "queue.notify_interval = '1 h'\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('queue.notify_interval') = '1h'});
# the worker has read it, or will tell what is here and then wait
$node->safe_psql('postgres', q{SELECT queue.enqueue('on', '1')}) for 1 .. 20;
$node->append_conf('postgresql.conf', "queue.notify_interval = '50 ms'\n");
$node->reload;
told_ok('on', 'enqueued', $before + 25, 'one message stands for many');
cmp_ok(scalar(grep { $_->{count} > 1 && $_->{event} eq 'enqueued' } @told), '>', 0, 'and says for how many');

$node->safe_psql('postgres', q{
	SELECT queue.enqueue('off', '1');
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('off')});
fence();
is(scalar(grep { $_->{queue} eq 'off' } @told), 0, 'a queue without notify tells nothing');
$node->safe_psql('postgres', q{
	SELECT queue.alter_queue('off', notify => true);
	SELECT queue.enqueue('off', '1')});
told_ok('off', 'enqueued', 1, 'it does from the moment that it is switched on');

# the worker is woken before it can know of the queue, or of its setting
ask('LISTEN "queue.later";');
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('later');
	BEGIN; SELECT queue.alter_queue('later', notify => true); SELECT queue.enqueue('later', '1'); COMMIT});
told_ok('later', 'enqueued', 1, 'nor is what happens together with it lost');
ask('LISTEN "queue.new";');
$node->safe_psql('postgres', q{
	BEGIN; SELECT queue.create_queue('new', notify => true); SELECT queue.enqueue('new', '1'); COMMIT});
told_ok('new', 'enqueued', 1, 'nor of a new queue');

# ---------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.enqueue_batch('fence', ARRAY['1', '2']::jsonb[], batch_id => 'import 7');
	SELECT queue.close_batch('import 7')});
$fences += 2;
$node->safe_psql('postgres', q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('fence', 100)});
told_ok('fence', 'batch_completed', 1, 'a complete batch is told');
is((map { $_->{batch_id} } grep { $_->{event} eq 'batch_completed' } @told)[0], 'import 7', 'which one');

unlike($out . $err, qr/ERROR/, 'nothing has failed');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC/, 'nor in the server');
$in .= "\\q\n";
$listener->finish;
done_testing();

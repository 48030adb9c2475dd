# A restore under the eyes of the maintenance worker: rows that come table after
# table, each in a transaction of its own, and a worker that would mend what is
# there half way.
#
# A job waits behind the head of its group, whose row in queue.group_head is still
# to come; one is due, one belongs to a batch whose counts are still to come.  As
# long as who fills the tables is at it, by whichever way, rounds of the worker
# leave all of that alone; when he has ended, in whichever way, they go on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes;

my $node = new_node('main', conf => "log_statement = none\nqueue.maintenance_interval = 100ms\n");
my $worker = q{pg_stat_activity WHERE backend_type = 'queue maintenance' AND datname = current_database()};
my @tables = qw(batch batch_progress group_head job_parked);
sub query { return $node->safe_psql('postgres', $_[0]); }

# what a dump has of each table
query(q{
	SELECT queue.create_queue('q');
	SELECT queue.enqueue('q', '"head"', group_key => 'g', delay => '1 day'), queue.enqueue('q', '"next"', group_key => 'g'),
		queue.enqueue('q', '"due"', delay => '1 day'), queue.create_batch('b');
	SELECT queue.enqueue('q', '"of a batch"', batch_id => 'b', delay => '1 day'), queue.close_batch('b');
	CREATE SCHEMA spare});
query("CREATE TABLE spare.$_ AS SELECT * FROM queue.$_") for @tables;
query(q{UPDATE spare.job_parked SET run_at = now() WHERE payload = '"due"'});
my %rows = map { $_ => query("COPY spare.$_ TO stdout") . "\n" } @tables;

# ---------------------------------------------------------------------
# Who restores
# ---------------------------------------------------------------------

sub start_session
{
	my %session = (stdin => '', stdout => '', stderr => '');

	$session{handle} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
		'<', \$session{stdin}, '>', \$session{stdout}, '2>', \$session{stderr});
	return \%session;
}

# let it do something, and wait until it has
sub run_in
{
	my ($session, $sql) = @_;

	$session->{stdout} = '';
	$session->{stdin} .= "$sql\n\\echo done\n";
	$session->{handle}->pump until $session->{stdout} =~ /done/ || !$session->{handle}->pumpable;
	die $session->{stderr} if $session->{stderr} ne '';
	return;
}

sub copy_of { my ($table) = @_; return "COPY queue.$table FROM stdin;\n$rows{$table}\\.\n"; }

# let it begin to fill a table, and wait until the server knows
sub begin_copy
{
	my ($session, $table) = @_;

	$session->{stdin} .= "COPY queue.$table FROM stdin;\n$rows{$table}";
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$session->{handle}->pump_nb;
		return if query("SELECT count(*) FROM pg_stat_progress_copy WHERE relid = 'queue.$table'::regclass");
		Time::HiRes::sleep(0.1);
	}
	die 'COPY does not begin';
}

# ---------------------------------------------------------------------
# What the worker does
# ---------------------------------------------------------------------

sub begin_anew
{
	query('DELETE FROM queue.job_live');
	query("DELETE FROM queue.$_") for @tables;
	return;
}

sub state_of_all
{
	return query(q{
		SELECT concat(payload, ' ', state) FROM queue.job
		UNION ALL SELECT concat('head ', payload) FROM queue.group_head JOIN queue.job USING (job_id)
		UNION ALL SELECT concat('batch ', batch_id, ' ', completed_at IS NOT NULL) FROM queue.batch
		UNION SELECT concat('batch ', batch_id, ' has counts') FROM queue.batch_progress ORDER BY 1}) =~ s/\n/, /gr;
}

# some rounds, in which it has looked whether the restore is over
sub rounds_pass
{
	my %seen;

	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$seen{ query("SELECT query_start FROM $worker AND query = 'waiting for the end of a restore'") || next } = 1;
		return if keys %seen == 4;
	}
	continue
	{
		Time::HiRes::sleep(0.01);
	}
	die 'the worker does not wait';
}

sub check_waits
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;
	my $state = state_of_all();

	rounds_pass();
	return is(state_of_all(), $state, "$name: the worker leaves all of it as it is");
}

sub check_goes_on
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $expected) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if state_of_all() eq $expected;
		Time::HiRes::sleep(0.1);
	}
	is(state_of_all(), $expected, "$name: the worker goes on");
	return check_counters($node, $name);
}

my $restored = '"due" waiting, "head" delayed, "next" blocked, "of a batch" delayed, batch b f, batch b has counts, head "head"';
# without the rows of queue.group_head
my $mended = '"due" waiting, "head" delayed, "next" waiting, "of a batch" delayed, head "next"';

begin_anew();
my $session = start_session();
run_in($session, copy_of('job_parked'));
run_in($session, 'BEGIN; ' . copy_of('group_head'));
check_waits('a transaction that has filled a table');
run_in($session, copy_of('batch_progress') . copy_of('batch'));
check_waits('and two more');
run_in($session, 'COMMIT;');
check_goes_on('committed', $restored);
$session->{handle}->kill_kill;

begin_anew();
$session = start_session();
run_in($session, copy_of('job_parked'));
run_in($session, 'BEGIN; ' . copy_of('group_head'));
check_waits('before an abort');
run_in($session, 'ROLLBACK;');
check_goes_on('aborted', $mended);
$session->{handle}->kill_kill;

begin_anew();
$session = start_session();
run_in($session, copy_of('job_parked') . 'BEGIN; ' . copy_of('group_head'));
check_waits('before the client is killed');
$session->{handle}->kill_kill(grace => 0);
check_goes_on('the client is killed', $mended);

begin_anew();
$session = start_session();
run_in($session, copy_of('job_parked'));
begin_copy($session, 'group_head');
check_waits('in the middle of a table');
$session->{handle}->kill_kill(grace => 0);
check_goes_on('the client is killed in the middle of a table', $mended);

# two of pg_restore -j: one has ended, the other is at it
begin_anew();
$session = start_session();
begin_copy($session, 'group_head');
query(copy_of('job_parked'));
check_waits('one of two has ended');
run_in($session, "\\.\n" . copy_of('batch_progress') . copy_of('batch'));
$session->{handle}->kill_kill;
check_goes_on('both have ended', $restored);

# the first table is one that the extension does not watch
begin_anew();
$session = start_session();
run_in($session, copy_of('batch'));
run_in($session, 'BEGIN; ' . copy_of('batch_progress'));
query("SELECT pg_terminate_backend(pid) FROM $worker");
check_waits('a batch whose counts are still to come, and a new worker');
run_in($session, 'COMMIT; ' . copy_of('job_parked') . copy_of('group_head'));
check_goes_on('then the rest', $restored);
$session->{handle}->kill_kill;

# pg_dump --inserts
begin_anew();
$session = start_session();
run_in($session, 'INSERT INTO queue.job_parked SELECT * FROM spare.job_parked;');
run_in($session, 'BEGIN; INSERT INTO queue.group_head SELECT * FROM spare.group_head;');
check_waits('rows that are inserted');
run_in($session, 'COMMIT; ' . copy_of('batch_progress') . copy_of('batch'));
check_goes_on('inserted', $restored);
$session->{handle}->kill_kill;

# pg_restore --disable-triggers
begin_anew();
$session = start_session();
run_in($session, "ALTER TABLE queue.$_ DISABLE TRIGGER ALL;") for @tables;
run_in($session, copy_of('job_parked'));
run_in($session, "ALTER TABLE queue.$_ ENABLE TRIGGER ALL;") for @tables;
check_waits('without triggers');
run_in($session, copy_of('group_head') . copy_of('batch_progress') . copy_of('batch'));
check_goes_on('restored without triggers', $restored);
$session->{handle}->kill_kill;

check_structure($node, 'at the end');
$node->stop;
done_testing();

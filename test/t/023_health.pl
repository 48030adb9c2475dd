# What only the server can see, as queue.queue_health() tells it: who holds back
# the horizon, workers that do not run, slots that are used up; and what takes a
# past to compare with: shares of failures, a growing backlog.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('main', streaming => 1, conf => q{
log_statement = none
queue.vacuum_threshold = 1000
queue.maintenance_interval = 50
queue.health_interval = 100
autovacuum = off
});

$node->safe_psql('postgres', q{
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	CREATE ROLE browser LOGIN;
	SELECT queue.create_queue('q', keep_completed => '0', max_attempts => 1);
	SELECT queue.grant_queue('q', 'browser', 'browse');
	CREATE PROCEDURE stream(jobs int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. jobs / 100 LOOP
			PERFORM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[100]));
			COMMIT;
			PERFORM queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('q', 100);
			COMMIT;
		END LOOP;
	END $$});

sub alert
{
	my ($code, $condition) = @_;
	$condition ||= 'true';
	return qq{SELECT count(*) = 1 FROM queue.health_alerts() WHERE queue_name IS NULL AND code = '$code' AND $condition};
}

# what it says, and what to do
sub alert_ok
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($code, $message, $recommendation, $name) = @_;
	my $found = $node->safe_psql('postgres', qq{SELECT message || ' ' || recommendation FROM queue.health_alerts() WHERE code = '$code'});

	return like($found, qr/^$message.* $recommendation/, $name);
}

sub no_alert
{
	my ($code) = @_;
	return qq{SELECT count(*) = 0 FROM queue.health_alerts() WHERE queue_name IS NULL AND code = '$code'};
}

# as a role: whether an alert is there
sub alert_as
{
	my ($role, $code) = @_;
	return $node->safe_psql('postgres', qq{SET ROLE $role; SELECT count(*) FROM queue.health_alerts() WHERE code = '$code'});
}

wait_for($node, q{SELECT status = 'healthy' AND score = 100 AND alerts = '[]' FROM queue.queue_health() WHERE queue_name IS NULL},
	'a server at rest is healthy');

# ---------------------------------------------------------------------
# Who holds back the horizon.  Each is ten seconds old before it is told.
# ---------------------------------------------------------------------

# a slot of a standby that is away, as its feedback has left it
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('away', true)});
$standby->append_conf('postgresql.conf', q{
primary_slot_name = 'away'
hot_standby_feedback = on
wal_receiver_status_interval = 1s
});
$standby->start;
wait_for($node, q{SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'away'}, 'the standby gives feedback');
$standby->stop;

my $reader = $node->background_psql('postgres');
$reader->query_safe(q{SET application_name = 'report'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1});
$node->safe_psql('postgres', q{CREATE TABLE t (); BEGIN; INSERT INTO t DEFAULT VALUES; PREPARE TRANSACTION 'forgotten'});
$node->safe_psql('postgres', 'CALL stream(2000)');

wait_for($node, alert('old_snapshot', q{message ~ 'application ''report''' AND message ~ 'idle in transaction' AND value > 10}),
	'an old snapshot is told: whose');
wait_for($node, alert('prepared_transaction', q{message ~ '^prepared transaction ''forgotten''' AND value > 10}),
	'a prepared transaction, too');
wait_for($node, alert('replication_slot', q{message ~ 'slot away \(inactive\)'}),
	'a replication slot, too');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.health_alerts() WHERE queue_name IS NULL
			AND message ~ '\m[2-9]\d\d\d dead row versions in queue.job_live wait to be removed'}),
	'1', 'what it has cost is told of the oldest');
is( $node->safe_psql('postgres', q{SELECT status FROM queue.queue_health() WHERE queue_name IS NULL}),
	'degraded', 'that is a warning');
is(alert_as('monitor', 'old_snapshot'), '1', 'pg_monitor sees whose it is');
is(alert_as('browser', 'old_snapshot'), '0', 'others do not');
is(alert_as('browser', 'prepared_transaction'), '1', 'but what they may see');

$reader->query_safe('COMMIT');
$reader->quit;
wait_for($node, no_alert('old_snapshot'), 'and no more, when it has gone');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'forgotten'});
wait_for($node, no_alert('prepared_transaction'), 'nor the prepared transaction');
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('away')});
wait_for($node, q{SELECT status = 'healthy' FROM queue.queue_health() WHERE queue_name IS NULL},
	'healthy again, when the vacuum has been');

# ---------------------------------------------------------------------
# Shares and growth
# ---------------------------------------------------------------------

# the samples must be there before what they are compared with
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('r', max_attempts => 1, keep_failed => '0', keep_completed => '0',
		health_thresholds => '{"attempts": 10, "waiting_age": 0, "waiting_critical": null}')});
my $queue_alert = q{SELECT severity || ' ' || message FROM queue.health_alerts('r') WHERE code = '%s'};
for (1 .. 300)
{
	$node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.enqueue_batch('r', array_fill('1'::jsonb, ARRAY[20]));
		SELECT count(CASE WHEN i % 5 > 0 THEN queue.complete(job_id)::text ELSE queue.fail(job_id, 'no') END)
		FROM (SELECT job_id, row_number() OVER () AS i FROM queue.dequeue_batch('r', 20)) AS j});
	last if $node->safe_psql('postgres', sprintf $queue_alert, 'failures') ne '';
}
like($node->safe_psql('postgres', sprintf $queue_alert, 'failures'),
	qr/^warning 20 % of the last \d+ attempts, in \d+ seconds?, have failed$/, 'a share of failures is told');
$node->safe_psql('postgres', q{SELECT queue.alter_queue('r', health_thresholds => '{"attempts": 1000000}')});
is($node->safe_psql('postgres', sprintf $queue_alert, 'failures'), '', 'but not of too few attempts');

$node->safe_psql('postgres', q{SELECT queue.alter_queue('r', health_thresholds => '{"waiting_age": 0, "waiting_critical": null}')});
my $growing = '';
for (1 .. 600)
{
	$node->safe_psql('postgres', q{SELECT count(*) FROM queue.enqueue_batch('r', array_fill('1'::jsonb, ARRAY[20]))});
	$growing = $node->safe_psql('postgres', sprintf $queue_alert, 'growing');
	last if $growing ne '';
}
like($growing, qr/^warning the backlog has grown from \d+ to \d+ waiting jobs in \d+ seconds?$/, 'a growing backlog is told');
wait_for($node, q{SELECT count(*) = 0 FROM queue.health_alerts('r') WHERE code = 'growing'}, 'and no more, when it stays');

# leases that end; fewer than failures_warning, so that they are told for themselves
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('s', max_attempts => 100, keep_completed => '0',
		health_thresholds => '{"attempts": 10, "stalled_percent": 2, "failures_warning": 100}')});
my $stalled = '';
for (1 .. 300)
{
	$node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.enqueue_batch('s', array_fill('1'::jsonb, ARRAY[10]));
		SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('s', 9);
		SELECT count(*) FROM queue.dequeue_batch('s', 1, visibility_timeout => '1 ms')});
	$stalled = $node->safe_psql('postgres', q{SELECT severity || ' ' || (value > threshold AND value < 60) || ' ' || threshold || ' ' || message || ' ' || recommendation
		FROM queue.health_alerts('s') WHERE code = 'stalled'});
	last if $stalled ne '';
}
like($stalled, qr/^warning true 2 \d+ % of the last \d+ attempts, in \d+ seconds?, have lost their lease Raise visibility_timeout/,
	'leases that end are told');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.health_alerts('s') WHERE code = 'failures'}), '0', 'by themselves');
$node->safe_psql('postgres', q{SELECT queue.purge_queue('s'); SELECT queue.drop_queue('s', true)});

# a busy queue, in which each job is taken soon, is healthy however many there are
$node->safe_psql('postgres', q{SELECT queue.create_queue('busy')});
$node->safe_psql('postgres', q{
	SELECT count(*) FROM queue.enqueue_batch('busy', array_fill('1'::jsonb, ARRAY[500]));
	SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('busy', 200)}) for 1 .. 10;
is( $node->safe_psql('postgres', q{SELECT h.status, count(a) FILTER (WHERE a ->> 'severity' <> 'info')
		FROM queue.queue_health('busy') AS h LEFT JOIN jsonb_array_elements(h.alerts) AS a ON true GROUP BY 1}),
	'healthy|0', 'many jobs that do not wait for long are no trouble');
$node->safe_psql('postgres', q{SELECT queue.drop_queue('busy', true)});

# ---------------------------------------------------------------------
# The table of jobs
# ---------------------------------------------------------------------

# updates that are not HOT, for an index that somebody has added; the samples are of that time
$node->append_conf('postgresql.conf', "queue.health_interval = 2s\n");
$node->reload;
$node->safe_psql('postgres', q{
	CREATE INDEX foreign_index ON queue.job_live (lease_expires_at);
	SELECT queue.create_queue('hot', keep_completed => '0')});
my $hot = '';
for (1 .. 300)
{
	$node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.enqueue_batch('hot', array_fill('1'::jsonb, ARRAY[500]));
		SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('hot', 500)});
	last if $node->safe_psql('postgres', alert('hot_updates', 'value < 80 AND threshold = 80')) eq 't';
	Time::HiRes::sleep(0.1);
}
alert_ok('hot_updates', 'only \d+ % of the last \d+ updates of queue.job_live were HOT', 'Its fillfactor must be 50',
	'updates that are not HOT are told');
$node->safe_psql('postgres', q{DROP INDEX queue.foreign_index; SELECT queue.drop_queue('hot', true)});
wait_for($node, no_alert('hot_updates'), 'and no more, when they are of the past');
$node->append_conf('postgresql.conf', "queue.health_interval = 100ms\n");
$node->reload;

# a vacuum that does not get at the table
my $vacuum = $node->background_psql('postgres');
$vacuum->query_safe(q{BEGIN; LOCK TABLE queue.job_live IN SHARE UPDATE EXCLUSIVE MODE});
$node->safe_psql('postgres', 'CALL stream(8000)');
wait_for($node, alert('vacuum', q{value > 5000 AND threshold = 5000 AND severity = 'warning'}), 'a vacuum that is behind is told');
alert_ok('vacuum', '\d+ row versions in queue.job_live are dead, \d+ are alive; the last vacuum was ', 'See in the server\'s log',
	'what to do against it');
$vacuum->query_safe('COMMIT');
$vacuum->quit;
wait_for($node, no_alert('vacuum'), 'and no more, when it has been');

# a query on a standby that tells of it, without a slot
$standby->append_conf('postgresql.conf', q{
primary_slot_name = ''
max_standby_streaming_delay = -1
});
$standby->start;
my $far = $standby->background_psql('postgres');
$standby->poll_query_until('postgres', 'SELECT pg_is_in_recovery()');
$far->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class});
wait_for($node, q{SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL}, 'a standby gives feedback', '1');
$node->safe_psql('postgres', 'CALL stream(2000)');
wait_for($node, alert('standby_feedback', q{value > 1 AND threshold = 300}), 'a query on a standby is told');
alert_ok('standby_feedback', q{standby 'standby' \(user \S+, process \d+, by hot_standby_feedback\) has held back the horizon for at least },
	'End the long query on the standby', 'whose it is');
$far->query_safe('COMMIT');
$far->quit;
wait_for($node, no_alert('standby_feedback'), 'and no more, when it has ended');
$standby->stop;

# ---------------------------------------------------------------------
# explain_job(): those who run and those who wait
# ---------------------------------------------------------------------

my $taker = $node->background_psql('postgres');
$node->safe_psql('postgres', q{SELECT queue.create_queue('e'); SELECT queue.enqueue('e', '1', priority => 9) FROM queue.pause_queue('e')});
my $explain = q{SELECT string_agg(e, ' ') FROM queue.job AS j, queue.explain_job(j.job_id) AS e WHERE j.queue_name = 'e' AND j.priority = };
$taker->query_until(qr/started/, "\\echo started\nSELECT payload FROM queue.dequeue_batch('e', wait => '30 s');\n");
wait_for($node, $explain . 9, 'a taker that waits is there, but the queue is paused',
	'Queue "e" is paused: nothing is taken from it until queue.resume_queue(). It is the next to be taken from queue "e".');
$node->safe_psql('postgres', q{SELECT queue.resume_queue('e')});
wait_for($node, "SELECT ($explain 9) ~ '^It is running: taken at '", 'it takes the job');
$taker->quit;

$node->append_conf('postgresql.conf', "queue.max_executors = 1\n");
$node->reload;
my $locker = $node->background_psql('postgres');
$locker->query_safe('SELECT pg_advisory_lock(1)');
$node->safe_psql('postgres', q{
	CREATE FUNCTION run(job queue.job_context) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_xact_lock(1)';
	SELECT queue.set_handler('e', 'run');
	SELECT queue.enqueue('e', '1', priority => 1)});
wait_for($node, "SELECT ($explain 1) ~ '^It is running in executor \\d+, since .*, attempt 1 of 3\\.\$'", 'an executor that runs a job');
$node->safe_psql('postgres', q{SELECT queue.enqueue('e', '2', priority => 2)});
is($node->safe_psql('postgres', $explain . 2),
	q{It is the next to be taken from queue "e". 1 executor of the queue's owner, of at most 1, runs its handler.},
	'and one that waits for it');
$locker->query_safe('SELECT pg_advisory_unlock(1)');
wait_for($node, q{SELECT count(*) = 0 FROM queue.job WHERE queue_name = 'e' AND priority < 9}, 'both have run');
$locker->quit;

# ---------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------

my $maintenance = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue maintenance' AND datname = 'postgres'});
kill 'STOP', $maintenance or die "could not stop $maintenance: $!";
wait_for($node, alert('maintenance', q{severity = 'critical' AND message ~ '^the maintenance worker has been busy'}),
	'a maintenance worker that does not get on is told');
is( $node->safe_psql('postgres', q{SELECT status FROM queue.queue_health() WHERE queue_name IS NULL}),
	'unhealthy', 'that is critical');
kill 'CONT', $maintenance;
wait_for($node, no_alert('maintenance'), 'and no more, when it does');

# no room for the launcher
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_logical_replication_workers = 0\n");
$node->restart;
wait_for($node, alert('launcher', q{severity = 'critical' AND message = 'the launcher is not running'
	AND recommendation ~ 'max_worker_processes'}), 'a launcher that is missing is told');

# room for the launcher alone
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
$node->restart;
wait_for($node, alert('worker_slots', q{value = 1}), 'used up worker slots are told');
wait_for($node, alert('maintenance', q{message ~ 'is not running'}), 'and a maintenance worker that is missing');
is($node->safe_psql('postgres', no_alert('launcher')), 't', 'the launcher is there');
alert_ok('worker_slots', 'a worker found no free slot .* ago: all of the server\'s are used up', 'Raise the configuration parameter "max_worker_processes"',
	'what to do against it');
is($node->safe_psql('postgres', q{SET ROLE browser; SELECT status FROM queue.queue_health() WHERE queue_name IS NULL}),
	'unhealthy', 'to whom it may concern');

# more queues than shared memory has slots
$node->append_conf('postgresql.conf', "max_worker_processes = 16\nqueue.max_queues = 16\n");
$node->restart;
$node->safe_psql('postgres', q{SELECT count(queue.create_queue('n' || i)) FROM generate_series(1, 20) AS i});
wait_for($node, alert('shared_memory'), 'used up slots are told');
is($node->safe_psql('postgres', no_alert('maintenance')), 't', 'the maintenance worker is there');
wait_for($node, no_alert('worker_slots'), 'and worker slots');
wait_for($node, q{SELECT count(*) > 0 FROM queue.queue_health() WHERE status IS NULL AND alerts @> '[{"code": "no_counters"}]'},
	'of queues that got none, too');

done_testing();

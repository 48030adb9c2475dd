# pg_dump and restore: everything comes along, nobody's lease does.
#
# A dump carries queues with their settings, owners and privileges, jobs in
# every state, history and log, and where the ids have got to.  Who held a job
# there holds it no more: it waits here.  The restore goes on while the
# maintenance worker of the new database is at work already.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $old = new_node('old', conf => "log_statement = none\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

$old->safe_psql('postgres', q{
	CREATE ROLE owner; CREATE ROLE producer; CREATE ROLE consumer;
	SELECT queue.create_queue('plain');
	SELECT queue.create_queue('My "queue"', max_attempts => 2, backoff => 'fixed', backoff_base => '7 s',
		backoff_jitter => 0, visibility_timeout => '1 day', default_priority => 3, aging_interval => '1 min',
		keep_completed => '3 days', keep_failed => '1000 years', log_level => 'errors');
	SELECT queue.alter_queue('My "queue"', owner => 'owner');
	SELECT queue.grant_queue('My "queue"', 'producer', 'enqueue');
	SELECT queue.grant_queue('My "queue"', 'consumer', 'dequeue, browse');
	SELECT queue.create_queue('paused'); SELECT queue.pause_queue('paused')});
# jobs in every state; the label in the payload says which
$old->safe_psql('postgres', q{
	SELECT queue.enqueue('plain', '"held"');
	SELECT queue.dequeue_batch('plain', visibility_timeout => '1 day', worker => 'there');
	SELECT queue.enqueue('plain', '"held, second attempt"');
	SELECT queue.fail(job_id, 'first', retry_in => '0') FROM queue.dequeue_batch('plain');
	SELECT queue.dequeue_batch('plain', visibility_timeout => '1 day', worker => 'there');
	SELECT queue.enqueue('plain', '"waiting"', headers => '{"a": 1}', source => 'here', batch_id => 'b');
	SELECT queue.enqueue('plain', '"urgent"', priority => -7, options => '{"keep_completed": "1 h"}');
	SELECT queue.enqueue('plain', '"delayed"', delay => '1 day');
	SELECT queue.enqueue('plain', '"soon"', delay => '1 s');

	SELECT queue.enqueue('My "queue"', '"failed"');
	SELECT queue.fail(job_id, 'for good', retry => false) FROM queue.dequeue_batch('My "queue"');
	SELECT queue.enqueue('My "queue"', '"completed"');
	SELECT queue.complete(job_id, '{"r": 1}') FROM queue.dequeue_batch('My "queue"');
	SELECT queue.cancel(queue.enqueue('My "queue"', '"cancelled"'));
	SELECT queue.enqueue('My "queue"', '"retried"');
	SELECT queue.fail(job_id, 'try again', retry_in => '1 day') FROM queue.dequeue_batch('My "queue"');
	SELECT queue.enqueue_batch('paused', ARRAY['1', '2']::jsonb[])});

# what must be the same on both sides; held jobs are told apart by their attempts
my %same = (
	settings => q{SELECT * FROM queue.queue ORDER BY queue_id},
	privileges => q{SELECT * FROM queue.privilege ORDER BY 1, 2, 3},
	jobs => q{SELECT job_id, queue_name, priority, attempt, max_attempts, enqueued_at, batch_id, source, headers,
		options, last_error, payload FROM queue.job WHERE payload <> '"soon"' ORDER BY job_id},
	finished => q{SELECT * FROM queue.job_archive ORDER BY job_id},
	log => q{SELECT * FROM queue.job_log ORDER BY at, job_id},
	grants => q{SELECT p.oid::regprocedure::text, a.grantee::regrole::text, a.privilege_type
		FROM pg_proc AS p, aclexplode(p.proacl) AS a WHERE pronamespace = 'queue'::regnamespace ORDER BY 1, 2, 3},
);
my %expected = map { $_ => $old->safe_psql('postgres', $same{$_}) } keys %same;
my $last_id = $old->safe_psql('postgres', 'SELECT max(job_id) FROM (SELECT job_id FROM queue.job UNION ALL SELECT job_id FROM queue.job_archive) AS j');

$old->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", $old->connstr('postgres') ], 'pg_dump');
$old->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", $old->connstr('postgres') ], 'pg_dump -Fc');
# both in one transaction of pg_dump, and of the load that goes on meanwhile
create_load($old, settings => q{visibility_timeout => '1 min'});
my $load = start_load($old, produce => 3);
$old->poll_query_until('postgres', 'SELECT count(*) > 100 FROM done') or die 'the load does not get going';
$old->command_ok([ 'pg_dump', '-f', "$dir/load.sql", $old->connstr('postgres') ], 'pg_dump under load');
stop_load($load, terminate => 1);

# ---------------------------------------------------------------------
# Into a fresh cluster; into another database; in parallel
# ---------------------------------------------------------------------

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
$new->append_conf('postgresql.conf', "log_statement = none\n");
$new->start;
$new->safe_psql('postgres', 'CREATE ROLE owner; CREATE ROLE producer; CREATE ROLE consumer');

sub check_restored
{
	my ($node, $database, $name) = @_;

	is($node->safe_psql($database, $same{$_}), $expected{$_}, "$name: the same $_") for sort keys %same;
	is($node->safe_psql($database, q{SELECT count(*) FROM queue.job WHERE state = 'active'}),
		'0', "$name: nobody holds a job");
	check_counters($node, $name, $database);

	# a holder over there is none here
	is( $node->safe_psql($database, q{SELECT payload, queue.complete(job_id, attempt => attempt) FROM queue.job
			WHERE payload::text ~ 'held' ORDER BY job_id}),
		qq{"held"|f\n"held, second attempt"|f}, "$name: who held a job there cannot settle it here");
	is( $node->safe_psql($database, q{SELECT payload, attempt FROM queue.dequeue_batch('plain', 10) WHERE payload <> '"soon"'}),
		qq{"urgent"|1\n"held"|2\n"held, second attempt"|3\n"waiting"|1}, "$name: takers find everything, in order");
	is( $node->safe_psql($database, q{SELECT attempt, queue.complete(job_id, attempt => 2) FROM queue.job WHERE payload = '"held"'}),
		'2|t', "$name: and hold it");
	is( $node->safe_psql($database, q{SELECT count(*) FROM queue.dequeue_batch('paused')}), '0', "$name: the pause holds");
	ok( $node->poll_query_until($database, q{SELECT state <> 'delayed' FROM queue.job WHERE payload = '"soon"'}),
		"$name: what is delayed becomes due");

	# history goes on from where it was
	is( $node->safe_psql($database, q{SELECT queue.requeue_failed('My "queue"')}), '1', "$name: a failed job can be requeued");
	cmp_ok($node->safe_psql($database, q{SELECT queue.enqueue('plain', '"new"')}), '>', $last_id, "$name: ids go on");
	is( $node->safe_psql($database, q{
			SET ROLE producer;
			SELECT queue.enqueue('My "queue"', '1') > 0;
			RESET ROLE; SET ROLE consumer;
			SELECT count(*) FROM queue.dequeue_batch('My "queue"', 10)}),
		"t\n2", "$name: privileges are of use");
	check_counters($node, "$name, later", $database);
	return;
}

my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d');
$new->command_ok([ @psql, $new->connstr('postgres'), '-f', "$dir/plain.sql" ], 'restore');
check_restored($new, 'postgres', 'into a fresh cluster');

# the same cluster makes no difference
$old->safe_psql('postgres', 'CREATE DATABASE same');
$old->command_ok([ @psql, $old->connstr('same'), '-f', "$dir/plain.sql" ], 'restore beside the original');
check_restored($old, 'same', 'beside the original');

$new->safe_psql('postgres', 'CREATE DATABASE parallel');
$new->command_ok([ 'pg_restore', '-j', 3, '-d', $new->connstr('parallel'), "$dir/custom" ], 'pg_restore -j');
check_restored($new, 'parallel', 'in parallel');

# ---------------------------------------------------------------------
# A dump that was made under load
# ---------------------------------------------------------------------

$new->safe_psql('postgres', 'CREATE DATABASE load');
$new->command_ok([ @psql, $new->connstr('load'), '-f', "$dir/load.sql" ], 'restore of a dump under load');
is( $new->safe_psql('load', q{SELECT count(*) FROM (SELECT FROM (
		SELECT job_id FROM queue.job_live UNION ALL SELECT job_id FROM queue.job_parked
		UNION ALL SELECT job_id FROM queue.job_archive) AS j GROUP BY job_id HAVING count(*) > 1) AS twice}),
	'0', 'every job is in one place');
is( $new->safe_psql('load', q{SELECT count(*) FROM done FULL JOIN
		(SELECT payload FROM queue.job_archive JOIN queue.queue USING (queue_id) WHERE queue_name = 'load') AS j
		ON (run, client, n) = ((payload->>'run')::int, (payload->>'client')::int, (payload->>'n')::int)
		WHERE run IS NULL OR payload IS NULL}),
	'0', 'what is done is in the archive, and nothing else');
check_counters($new, 'of a dump under load', 'load');
my $waiting = $new->safe_psql('load', q{SELECT count(*) FROM queue.job WHERE queue_name = 'load'});
is($new->safe_psql('load', q{SELECT count(*) FROM queue.dequeue_batch('load', 100000)}), $waiting,
	"all $waiting jobs of it can be taken");
check_structure($new, 'of a dump under load', 'load');

# ---------------------------------------------------------------------
# Everything that jobs may have beside them, by every way there is
# ---------------------------------------------------------------------

$old->safe_psql('postgres', 'CREATE DATABASE states');
create_extension($old, 'states');
create_states($old, 'states', 'a');
my $before = states_of($old, 'states');
my $states = $old->connstr('states');
$old->command_ok([ 'pg_dump', '-f', "$dir/states.sql", $states ], 'pg_dump, plain');
$old->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/states", $states ], 'pg_dump -Fc');
$old->command_ok([ 'pg_dump', '--schema-only', '-f', "$dir/schema.sql", $states ], 'pg_dump --schema-only');
$old->command_ok([ 'pg_dump', '--data-only', '-f', "$dir/data.sql", $states ], 'pg_dump --data-only');
$old->command_ok([ 'pg_dump', '--inserts', '-f', "$dir/inserts.sql", $states ], 'pg_dump --inserts');

$new->safe_psql('postgres', "CREATE DATABASE $_") for qw(states_plain states_custom states_parts states_inserts states_without);
$new->command_ok([ @psql, $new->connstr('states_plain'), '-f', "$dir/states.sql" ], 'plain: restore');
check_states($new, 'states_plain', 'a', $before, 'plain');

my @restore = ('pg_restore', '-j', 2, '--exit-on-error', '-d', $new->connstr('states_custom'));
$new->command_ok([ @restore, "$dir/states" ], 'custom: restore');
check_states($new, 'states_custom', 'a', $before, 'custom');
# over what has become of it, while the maintenance worker is at work there
$new->command_ok([ @restore, '--clean', '--if-exists', "$dir/states" ], 'once more: restore --clean');
check_states($new, 'states_custom', 'a', $before, 'once more');
check_structure($new, 'once more', 'states_custom');

$new->command_ok([ @psql, $new->connstr('states_parts'), '-f', "$dir/schema.sql" ], 'in parts: the schema');
is($new->safe_psql('states_parts', 'SELECT count(*) FROM queue.queue'), '0', 'in parts: which is empty');
ok( $new->poll_query_until('states_parts', q{
		SELECT count(*) > 0 FROM pg_stat_activity
		WHERE backend_type = 'queue maintenance' AND datname = current_database()}),
	'in parts: a worker serves it');
$new->command_ok([ @psql, $new->connstr('states_parts'), '-f', "$dir/data.sql" ], 'in parts: the data');
check_states($new, 'states_parts', 'a', $before, 'in parts');
check_structure($new, 'in parts', 'states_parts');

$new->command_ok([ @psql, $new->connstr('states_inserts'), '-f', "$dir/inserts.sql" ], 'inserts: restore');
check_states($new, 'states_inserts', 'a', $before, 'inserts');
check_structure($new, 'inserts', 'states_inserts');

$new->command_ok([ @psql, $new->connstr('states_without'), '-f', "$dir/schema.sql" ], 'without triggers: the schema');
$new->command_ok([ 'pg_restore', '--data-only', '--disable-triggers', '-j', 2, '--exit-on-error', '-d', $new->connstr('states_without'), "$dir/states" ],
	'without triggers: the data');
check_states($new, 'states_without', 'a', $before, 'without triggers');
check_structure($new, 'without triggers', 'states_without');

$new->stop;
$old->stop;
done_testing();

# A standby: what can be called there, and what it has when it is promoted.
#
# Nothing is changed on a standby: verbs refuse, readers read, counters are
# null, no worker runs.  Promoted under a load that was acknowledged only with
# the standby's confirmation, it has every job, honours every lease, and serves.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes qw(time);

my $primary = new_node('primary', streaming => 1, conf => "log_statement = none\n");
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', q{
	SELECT queue.create_queue('q', visibility_timeout => '1 day', max_attempts => 1);
	SELECT queue.enqueue_batch('q', ARRAY['"held"', '"failed"', '"waiting"']::jsonb[]);
	SELECT queue.enqueue('q', '"delayed"', delay => '1 day', batch_id => 'batch');
	SELECT payload FROM queue.dequeue_batch('q');
	SELECT queue.fail(job_id, 'no') FROM queue.dequeue_batch('q')});
create_load($primary);
$primary->wait_for_catchup($standby);

# ---------------------------------------------------------------------
# On the standby
# ---------------------------------------------------------------------

is( $standby->safe_psql('postgres', q{SELECT payload, state FROM queue.job ORDER BY job_id}),
	qq{"held"|active\n"waiting"|waiting\n"delayed"|delayed}, 'jobs can be read');
is( $standby->safe_psql('postgres', q{SELECT s.state, s.error FROM queue.job_archive AS a, queue.job_status(a.job_id) AS s}),
	'failed|no', 'job_status() works');
is( $standby->safe_psql('postgres', q{SELECT count(*) FROM queue.list_jobs('q')}), '4', 'list_jobs() works');
is( $standby->safe_psql('postgres', q{SELECT queue_name, paused, num_nulls(waiting, delayed, blocked, active, completed, failed, cancelled, total)
		FROM queue.queue_stats('q')}),
	'q|f|8', 'queue_stats() tells what it knows');

is( $standby->safe_psql('postgres', q{
		SELECT h.queue_name, h.status, a ->> 'code' FROM queue.queue_health() AS h
			LEFT JOIN jsonb_array_elements(h.alerts) AS a ON true WHERE h.queue_name IS NULL OR h.queue_name = 'q'}),
	"||standby\nq||", 'queue_health() works, and claims nothing');
is( $standby->safe_psql('postgres', q{SELECT count(*) FROM queue.health_alerts('q')}), '0', 'health_alerts() works');
is( $standby->safe_psql('postgres', q{
		SELECT string_agg(substring(e FROM '^It (?:is|was|failed)[a-z ]*|^It is the next'), ', ' ORDER BY j.job_id)
		FROM (SELECT job_id FROM queue.job WHERE queue_name = 'q' UNION SELECT job_id FROM queue.job_archive) AS j,
			queue.explain_job(j.job_id) AS e}),
	'It is running, It failed for good at , It is the next to be taken from queue , It is delayed until ',
	'explain_job() works');
like($standby->safe_psql('postgres', 'SELECT queue.report()'), qr/<\/html>/, 'report() works');
is($standby->safe_psql('postgres', q{SELECT count(*) > 1 FROM queue.top()}), 't', 'top() works');
is( $standby->safe_psql('postgres', q{SELECT total, open, status FROM queue.batch_status('batch')}),
	'1|1|open', 'batch_status() works');
my @views = split /\n/, $standby->safe_psql('postgres', q{
	SELECT relname FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind = 'v' ORDER BY 1});
cmp_ok(scalar @views, '>', 3, 'views: ' . join(', ', @views));
is($standby->safe_psql('postgres', join(' UNION ALL ', map { "SELECT count(*) >= 0 FROM queue.$_" } @views)),
	join("\n", ('t') x @views), 'all of them can be read');
my (undef, undef, $wait_error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nCALL queue.wait('q', '1 s')");
like($wait_error, qr/ERROR:  25006: /, 'nobody waits for jobs there');

# every function but those that read; before they look at their arguments
my @functions = split /\n/, $standby->safe_psql('postgres', q{
	SELECT format('%s(%s)', proname, array_to_string(array_fill('null'::text, ARRAY[pronargs]), ', '))
	FROM pg_proc
	WHERE pronamespace = 'queue'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype
		AND proname !~ '^_' AND proname NOT IN ('job_status', 'job_history', 'list_jobs', 'queue_stats', 'batch_status',
			'queue_health', 'health_alerts', 'explain_job', 'report', 'top', 'version')
	ORDER BY proname});
my @wrong;
for my $call (@functions)
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT queue.$call");
	push @wrong, "$call: $error" if $error !~ /ERROR:  25006: /;
}
cmp_ok(scalar @functions, '>', 20, 'functions that write: ' . @functions);
is(join("\n", @wrong), '', 'whatever writes refuses with 25006');
is( $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'queue%'}),
	'0', 'no process of ours runs');

# the same in a read-only transaction of the primary
my ($ret, $stdout, $stderr) = $primary->psql('postgres',
	qq{\\set VERBOSITY verbose\nBEGIN READ ONLY; SELECT queue.enqueue('q', '1')});
like($stderr, qr/ERROR:  25006: /, 'a read-only transaction refuses as well');

# ---------------------------------------------------------------------
# Promotion under load
# ---------------------------------------------------------------------

# from here on, a commit is acknowledged when the standby has it
$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'\n");
$primary->reload;
$primary->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication})
  or die 'the standby is not synchronous';

my $load = start_load($primary);
$primary->poll_query_until('postgres', 'SELECT count(*) > 500 FROM done') or die 'the load does not get going';
my $last_id = $primary->safe_psql('postgres', 'SELECT max(job_id) FROM queue.job_archive');
$primary->stop('immediate');
stop_load($load);
$standby->promote;

my $begun = time();
$standby->poll_query_until('postgres',
	q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type IN ('queue launcher', 'queue maintenance')});
cmp_ok(time() - $begun, '<', 10, 'the workers start after promotion');

# it must not wait for a standby of its own
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$standby->reload;
$standby->poll_query_until('postgres', 'SHOW synchronous_standby_names', '');

check_counters($standby, 'after promotion');
is( $standby->safe_psql('postgres', q{SELECT payload, attempt FROM queue.dequeue_batch('q', 10)}),
	'"waiting"|1', 'leases are honoured');
is( $standby->safe_psql('postgres', q{SELECT queue.complete(job_id, attempt => 1) FROM queue.job WHERE payload = '"held"'}),
	't', 'and their holders may settle');
cmp_ok($standby->safe_psql('postgres', q{SELECT queue.enqueue('q', '1')}), '>', $last_id, 'ids go on');
check_load($standby, 'after promotion', $load);
check_counters($standby, 'after a drain');
check_structure($standby, 'after promotion');

# it can be the primary of another load
my $next = start_load($standby);
$standby->poll_query_until('postgres', "SELECT count(*) > 200 FROM done WHERE run = $next->{run}")
  or die 'the load does not get going';
stop_load($next, terminate => 1);
check_load($standby, 'as a primary', $load, $next);
check_counters($standby, 'as a primary');

$standby->stop;
done_testing();

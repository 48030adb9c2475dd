# Executors that die: what becomes of the job they ran, of the jobs they held,
# and of what handlers wrote.
#
# A handler's effects are rows that it writes; they and the completion are one
# transaction, so after anything at all a completed job has exactly one row, and
# another job none.
#
# QUEUE_STORM_SECONDS makes the storm longer.

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

my $seconds = $ENV{QUEUE_STORM_SECONDS} || 6;
my $node = new_node('main', conf => q{
restart_after_crash = on
queue.max_executors = 4
queue.executor_idle_timeout = '2 s'
log_statement = none
});

$node->safe_psql('postgres', q{
	CREATE TABLE done (job_id bigint, attempt int, kind text, pid int DEFAULT pg_backend_pid());
	CREATE TABLE begun (job_id bigint, attempt int);
	CREATE FUNCTION work(job queue.job_context) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
	BEGIN
		INSERT INTO done VALUES (job.job_id, job.attempt, job.payload ->> 'kind');
		CASE job.payload ->> 'kind'
			WHEN 'poison' THEN PERFORM pg_sleep(600);
			WHEN 'suicide' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(600);
			WHEN 'brief' THEN PERFORM pg_sleep(0.001);
			WHEN 'slow' THEN PERFORM pg_sleep(0.2);
			WHEN 'bad' THEN PERFORM 1 / 0;
			ELSE NULL;
		END CASE;
	END $$;
	SELECT queue.create_queue('q', backoff => 'fixed', backoff_base => '1 ms');
	SELECT queue.set_handler('q', 'public.work');
});

# the executor that runs a job of that kind, as its activity tells nobody: by its row lock
sub runner
{
	my $pid;

	for (1 .. 600)
	{
		$pid = $node->safe_psql('postgres', q{
			SELECT min(pid) FROM pg_stat_activity
			WHERE backend_type = 'queue executor' AND wait_event = 'PgSleep'});
		last if $pid ne '';
		Time::HiRes::sleep(0.1);
	}
	return $pid;
}

sub enqueue
{
	my ($kinds) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT queue.enqueue('q', jsonb_build_object('kind', kind)) FROM unnest('{$kinds}'::text[]) AS kind});
}

# one row per completed job, and none of others
sub check_effects
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	is( $node->safe_psql('postgres', q{
			SELECT coalesce(a.job_id, d.job_id), a.state, a.attempt, d.n
			FROM (SELECT job_id, count(*) AS n FROM done GROUP BY 1) AS d
			FULL JOIN queue.job_archive AS a USING (job_id)
			WHERE (coalesce(a.state, '?') = 'c') <> (coalesce(d.n, 0) = 1) OR d.n > 1}),
		'', "$name: every completed job has been effected exactly once");
	check_counters($node, $name);
	return;
}

my $rest = q{SELECT count(*) FROM queue.job};

# ---------------------------------------------------------------------
# A job that takes the server down
# ---------------------------------------------------------------------

# first some fast ones, so that an executor claims many at once
enqueue(join(',', ('brief') x 100));
wait_for($node, $rest, 'jobs are done', '0');
$node->safe_psql('postgres', q{SELECT queue.stop_processing('q')});
enqueue(join(',', ('quick') x 5, 'poison', ('quick') x 20));
$node->safe_psql('postgres', q{SELECT queue.start_processing('q')});
for my $round (1 .. 3)
{
	my $pid = runner();

	isnt($pid, '', "round $round: the poison runs");
	kill_backend($node, $pid);
}
wait_for($node, $rest, 'it ends', '0');
is( $node->safe_psql('postgres', q{
		SELECT payload ->> 'kind', state, attempt, count(*), min(split_part(error, ' (', 1))
		FROM queue.job_archive WHERE payload ->> 'kind' <> 'brief' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3}),
	"poison|f|3|1|the server crashed while it ran the job\nquick|c|1|25|",
	'the crashes are charged to the job that ran, and to no other');
check_effects('after three crashes');

# ---------------------------------------------------------------------
# One that ends its executor
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.stop_processing('q')});
enqueue(join(',', ('quick') x 5, 'suicide', ('quick') x 20));
$node->safe_psql('postgres', q{SELECT queue.start_processing('q')});
wait_for($node, $rest, 'a job that ends its executor three times is over', '0');
is( $node->safe_psql('postgres', q{
		SELECT payload ->> 'kind', state, attempt, count(*)
		FROM queue.job_archive WHERE attempt > 1 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3}),
	"poison|f|3|1\nsuicide|f|3|1",
	'it has failed for good, and no other job has been charged');
# who looks at the lease between the end and the burial says it in other words
like( $node->safe_psql('postgres', q{SELECT error FROM queue.job_archive WHERE payload ->> 'kind' = 'suicide'}),
	qr/^(the worker process ended while it ran the job|session ended)/, 'its error says why');
check_effects('after three ends of an executor');

# ---------------------------------------------------------------------
# Shutdowns
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.set_handler('q', 'public.work', concurrency => 2)});
for my $mode ('fast', 'immediate')
{
	enqueue('poison,poison,quick,quick');
	$node->poll_query_until('postgres', q{
		SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'queue executor' AND wait_event = 'PgSleep'});
	my $began = Time::HiRes::time();
	$node->stop($mode);
	cmp_ok(Time::HiRes::time() - $began, '<', 30, "$mode shutdown does not wait for handlers");
	$node->start;
	wait_for($node, q{
		SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'queue executor' AND wait_event = 'PgSleep'},
		"$mode shutdown: the jobs run again");
	is( $node->safe_psql('postgres', q{SELECT DISTINCT attempt FROM queue.job WHERE state = 'active' AND payload ->> 'kind' = 'poison'}),
		$mode eq 'fast' ? '1' : '2', $mode eq 'fast' ? 'no attempt is charged' : 'the attempts are charged')
	  or diag($node->safe_psql('postgres', q{SELECT l.* FROM queue.job_log AS l JOIN queue.job USING (job_id)}));
	$node->safe_psql('postgres', q{SELECT queue.cancel(job_id) FROM queue.job WHERE payload ->> 'kind' = 'poison';
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	wait_for($node, $rest, "$mode shutdown: the others run", '0');
	check_effects("after a shutdown ($mode)");
}

# ---------------------------------------------------------------------
# A function that pretends to be cancelled must not end who calls it
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	CREATE FUNCTION pretend(payload jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'pretended' USING ERRCODE = payload ->> 'code'; END $$;
	SELECT queue.create_queue('p', max_attempts => 1, on_failed => 'public.pretend');
	SELECT queue.set_handler('p', 'public.pretend')});
my $before = $node->safe_psql('postgres', q{SELECT array_agg(pid) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'});
$node->safe_psql('postgres', q{
	SELECT queue.enqueue('p', jsonb_build_object('code', code)) FROM unnest('{57014,57P01,57P02,XX000}'::text[]) AS code});
wait_for($node, $rest, 'handlers and on_failed pretend to be cancelled: their jobs fail', '0');
$node->safe_psql('postgres', q{SELECT queue.stop_processing('p');
	SELECT queue.enqueue('p', '{"code": "57014"}');
	SELECT job_id FROM queue.dequeue_batch('p', visibility_timeout => '1 ms')});
wait_for($node, $rest, 'on_failed of a job whose lease has ended, too', '0');
is( $node->safe_psql('postgres', q{SELECT array_agg(pid) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'}),
	$before, 'the maintenance worker is still the same');
$node->safe_psql('postgres', q{SELECT queue.drop_queue('p')});

# ---------------------------------------------------------------------
# A storm
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	CREATE TABLE sent (job_id bigint);
	-- an attempt is given to one client only; those of executors are not here
	CREATE TABLE taken (job_id bigint, attempt int, PRIMARY KEY (job_id, attempt));
	CREATE ROLE other;
	GRANT USAGE ON SCHEMA public TO other;
	GRANT INSERT ON done TO other;
	SELECT queue.alter_queue('q', max_attempts => 5);
	SELECT queue.set_handler('q', 'public.work', concurrency => 3)});
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/produce.sql", q{
INSERT INTO sent SELECT queue.enqueue('q', jsonb_build_object('kind',
	CASE WHEN i % 50 = 0 THEN 'slow' WHEN i % 37 = 0 THEN 'bad' WHEN i % 7 = 0 THEN 'brief' ELSE 'quick' END))
FROM generate_series(1, 10) AS i, pg_sleep(0.005);
});
append_to_file("$dir/take.sql", q{
SELECT array_agg(job_id) AS jobs, array_agg(attempt) AS attempts FROM (
	SELECT t.* FROM queue.dequeue_batch('q', 3, '2 s') AS t) AS j \gset
\if :{?jobs}
INSERT INTO taken SELECT * FROM unnest(nullif(':jobs', '')::bigint[], nullif(':attempts', '')::int[]);
SELECT pg_sleep(0.002);
INSERT INTO done SELECT j, a, 'outside' FROM unnest(nullif(':jobs', '')::bigint[], nullif(':attempts', '')::int[]) AS t (j, a)
	WHERE queue.complete(j, attempt => a);
\endif
});
append_to_file("$dir/flap.sql", q{
SELECT queue.stop_processing('q');
SELECT queue.start_processing('q');
SELECT queue.pause_queue('q');
SELECT pg_sleep(0.01);
SELECT queue.resume_queue('q');
SELECT queue.alter_queue('q', owner => 'other');
SELECT pg_sleep(0.1);
SELECT queue.set_handler('q', null);
SELECT queue.alter_queue('q', owner => 'postgres');
SELECT queue.set_handler('q', 'public.work', concurrency => 3);
SELECT pg_sleep(0.2);
});
my @loads;
my @errors;
my $deadline = Time::HiRes::time() + $seconds;

sub start
{
	my ($script, $clients) = @_;
	my ($out, $err) = ('', '');

	push @errors, \$err;
	push @loads, IPC::Run::start(['pgbench', '--no-vacuum', '--time', 600, '--client', $clients,
		'-f', "$dir/$script.sql", $node->connstr('postgres') . ' application_name=storm'],
		'<', \undef, '>', \$out, '2>', \$err);
	return;
}

sub start_all
{
	start('produce', 2);
	start('take', 3);
	start('flap', 1);
	return;
}

srand(42);
start_all();
my ($ended, $crashed) = (0, 0);
while (Time::HiRes::time() < $deadline)
{
	Time::HiRes::sleep(0.05 + rand(0.2));
	my $pid = $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity
		WHERE backend_type IN ('queue executor', 'queue maintenance') ORDER BY backend_type = 'queue maintenance' AND random() < 0.8, random() LIMIT 1});
	next if $pid eq '';
	if (rand() < 0.08)
	{
		kill_backend($node, $pid);
		$crashed++;
		$_->finish for @loads;
		@loads = ();
		start_all();
	}
	else
	{
		$node->safe_psql('postgres', rand() < 0.6 ? "SELECT pg_terminate_backend($pid)" : "SELECT pg_cancel_backend($pid)");
		$ended++;
	}
}
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storm'});
$_->finish for @loads;
is(scalar(grep { $$_ =~ /duplicate key/ } @errors), 0, 'no attempt was given to two clients');
note("$ended workers were ended, $crashed crashed the server");
$node->safe_psql('postgres', q{
	SELECT queue.alter_queue('q', owner => 'postgres');
	SELECT queue.set_handler('q', 'public.work', concurrency => 3);
	SELECT queue.resume_queue('q');
	SELECT queue.start_processing('q')});
wait_for($node, $rest, 'the storm is over: nothing is left', '0')
  or diag($node->safe_psql('postgres', q{SELECT * FROM queue.job LIMIT 10}));
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM done JOIN sent USING (job_id)}), '>', 100, 'there was something to do');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM sent WHERE NOT EXISTS (SELECT FROM queue.job_archive AS a WHERE a.job_id = sent.job_id)}),
	'0', 'nothing is lost');
is( $node->safe_psql('postgres', q{
		SELECT payload ->> 'kind', attempt, count(*) FROM queue.job_archive AS a JOIN sent USING (job_id)
		WHERE state = 'f' AND (attempt <> 5 OR (payload ->> 'kind' <> 'bad' AND error NOT LIKE 'the %' AND error NOT LIKE 'canceling%'
			AND error NOT LIKE 'job % is not held%'))
		GROUP BY 1, 2}),
	'', 'what has failed has used up its attempts');
check_effects('after the storm');
check_structure($node, 'after the storm');

done_testing();

# Outside workers: those that are silent lose their jobs, those that live keep
# them; heartbeats and progress write nothing, have room enough or say so, and
# are forgotten by a restart.

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
queue.max_workers = 8
queue.max_progress = 4
queue.maintenance_interval = 100ms
});

sub query { return $node->safe_psql('postgres', $_[0]); }

# ---------------------------------------------------------------------
# Workers in several sessions, one of which falls silent
# ---------------------------------------------------------------------

query(q{
	CREATE ROLE one LOGIN;
	CREATE ROLE two LOGIN;
	SELECT queue.create_queue('q', visibility_timeout => '1 h', max_attempts => 2);
	SELECT queue.create_queue('theirs', visibility_timeout => '1 h');
	SELECT queue.grant_queue('q', 'one', 'dequeue, browse');
	SELECT queue.grant_queue('q', 'two', 'dequeue');
	SELECT queue.grant_queue('theirs', 'two', 'dequeue');
	SELECT queue.enqueue_batch('q', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 20) AS i));
	SELECT queue.enqueue_batch('theirs', '{"\"theirs\""}')});

my @session = map { $node->background_psql('postgres', on_error_die => 1) } 0 .. 3;
$_->query_safe('SET ROLE one') for @session[ 0, 1, 3 ];
$session[2]->query_safe('SET ROLE two');
for my $i (0 .. 2)
{
	$session[$i]->query_safe("SELECT queue.heartbeat('w$i', 'q', '{\"n\": $i}')");
	$session[$i]->query_safe("SELECT job_id FROM queue.dequeue_batch('q', 2, worker => 'w$i')");
}
# of the same name, in a queue that the silent one has nothing to do with
query(q{SELECT job_id FROM queue.dequeue_batch('theirs', worker => 'w1')});
# bound to a session that lives
$session[3]->query_safe(q{SELECT job_id FROM queue.dequeue_batch('q', worker => 'w1', bind_session => true)});
# one that has never told that it lives
query(q{SELECT job_id FROM queue.dequeue_batch('q', worker => 'w9')});
my $workers = q{SELECT worker, state, job_id IS NOT NULL, info->>'n' FROM queue.worker ORDER BY 1, 2};
is(query($workers), "w0|busy|t|0\nw1|busy|t|1\nw2|busy|t|2", 'three workers, each at a job');
is( query(q{SELECT count(*) FROM queue.worker JOIN pg_stat_activity USING (pid)}), '3',
	'each with the session that it called from');

# two of the same name, in the same queue: of another role, one goes on telling
query(q{
	SELECT queue.create_queue('same', visibility_timeout => '1 h');
	SELECT queue.grant_queue('same', 'one', 'dequeue');
	SELECT queue.enqueue('same', '1');
	SELECT queue.heartbeat('same', 'same');
	SELECT count(*) FROM queue.dequeue_batch('same', worker => 'same')});

# long enough for those who go on telling
query(q{ALTER SYSTEM SET queue.worker_timeout = '5s'; SELECT pg_reload_conf()});
my $beat = q{SELECT queue.heartbeat('w0', 'q', '{"n": 0}')};
my $beat2 = q{SELECT queue.heartbeat('w2', 'q', '{"n": 2}')};

# what is retaken, by a session that also does the telling of the others
query(q{CREATE TABLE retaken (payload jsonb, attempt int); GRANT ALL ON retaken TO one});
my $same = q{SELECT state FROM queue.worker WHERE worker = 'same' AND role <> 'one'};
my $taken = '0';
for (1 .. 600)
{
	$session[0]->query_safe($beat);
	$session[2]->query_safe($beat2);
	$session[0]->query_safe(q{SELECT queue.heartbeat('same', 'same')});
	query(q{INSERT INTO retaken SELECT payload, attempt FROM queue.dequeue_batch('q', 20, worker => 'next')});
	$taken = query(q{SELECT count(*) FROM retaken WHERE attempt = 2});
	last if $taken ne '0' && query($same) eq 'stale';
	Time::HiRes::sleep(0.1);
}
is(query(q{SELECT payload FROM retaken WHERE attempt = 2 ORDER BY payload}), "3\n4",
	'the jobs of the silent worker are retaken at once, an hour before their time');
is(query($workers), "same|busy|t|\nsame|stale|f|\nw0|busy|t|0\nw1|stale|f|1\nw2|busy|t|2",
	'it is stale, the others are not');
is( query(q{SELECT worker, count(*) FROM queue.job WHERE state = 'active' AND attempt = 1 AND worker <> 'next'
		GROUP BY 1 ORDER BY 1}),
	"same|1\nw0|2\nw1|2\nw2|2\nw9|1",
	'living workers, another queue, a bound session and one that never told keep theirs');
is( query(q{SELECT DISTINCT event, worker, error FROM queue.job_log}), 'stalled|w1|lease expired',
	'the log tells whose lease it was');

# the round that marks one ends leases at once; another has nothing to end
query(q{SELECT count(*) FROM queue.maintain()});
is(query(q{SELECT lease_expires_at > now() + interval '50 min' FROM queue.job WHERE queue_name = 'same'}), 't',
	'where two workers of a name take jobs, those of the silent one may be the other\'s, who lives');

# heard of again, it lives; what it lost stays lost
$session[1]->query_safe(q{SELECT queue.heartbeat('w1', 'q')});
is(query(q{SELECT state, info FROM queue.worker WHERE worker = 'w1'}), 'busy|', 'heard of again, it is live again');
is( query(q{SELECT bool_or(queue.complete(job_id, attempt => 1)) FROM queue.job JOIN retaken USING (payload, attempt)
		WHERE attempt = 2}), 'f', 'and fenced off from the jobs that it had');

# from here on, nobody is to live long
query(q{ALTER SYSTEM SET queue.worker_timeout = '500ms'; SELECT pg_reload_conf()});

# attempts that are used up: nobody need come
query(q{
	SELECT queue.create_queue('last', visibility_timeout => '1 h', max_attempts => 1);
	SELECT queue.enqueue('last', '1');
	SELECT queue.heartbeat('last', 'last');
	SELECT count(*) FROM queue.dequeue_batch('last', worker => 'last')});
wait_for($node, q{SELECT state || ' ' || error FROM queue.list_jobs('last')},
	'a lost worker spends an attempt, the last one for good', 'failed lease expired');

# a row that somebody has in hands
query(q{
	SELECT queue.create_queue('hands', visibility_timeout => '1 h');
	SELECT queue.enqueue_batch('hands', '{1,2}');
	SELECT queue.heartbeat('hands', 'hands');
	SELECT count(*) FROM queue.dequeue_batch('hands', 2, worker => 'hands')});
my $hands = $node->background_psql('postgres', on_error_die => 1);
$hands->query_safe(q{BEGIN});
$hands->query_safe(q{SELECT queue.extend(job_id, '2 h') FROM queue.job WHERE queue_name = 'hands' AND payload = '1'});
wait_for($node, q{SELECT payload FROM queue.dequeue_batch('hands', 2, worker => 'next')},
	'a row that somebody has in hands does not hold up the others', '2');
$hands->query_safe(q{ROLLBACK});
wait_for($node, q{SELECT payload FROM queue.dequeue_batch('hands', 2, worker => 'next')},
	'and its lease ends when that is over', '1');
$hands->quit;

# 0: never again
query(q{ALTER SYSTEM SET queue.worker_timeout = 0; SELECT pg_reload_conf()});

# ---------------------------------------------------------------------
# Nothing is written
# ---------------------------------------------------------------------

unlike(query(q{EXPLAIN (ANALYZE, WAL, TIMING off) SELECT queue.heartbeat('busy', 'q', jsonb_build_object('i', i)) FROM generate_series(1, 10000) AS i}),
	qr/WAL:/, '10,000 heartbeats write no WAL');
query(q{
	SELECT queue.create_queue('progress', visibility_timeout => '1 h');
	SELECT queue.enqueue_batch('progress', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 7) AS i));
	SELECT count(*) FROM queue.dequeue_batch('progress', 1)});
my $job_id = query(q{SELECT job_id FROM queue.job WHERE queue_name = 'progress' AND state = 'active'});
unlike(query(qq{EXPLAIN (ANALYZE, WAL, TIMING off) SELECT queue.set_progress($job_id, i / 100.0) FROM generate_series(1, 10000) AS i}),
	qr/WAL:/, 'nor do 10,000 steps of progress');
is(query(q{SELECT progress->'percent' FROM queue.job WHERE queue_name = 'progress' AND state = 'active'}), '100', 'which were heard');

# ---------------------------------------------------------------------
# No room
# ---------------------------------------------------------------------

# w0, w1, w2, last, same (twice), hands and busy; some are stale
is(query(q{SELECT count(*), count(*) FILTER (WHERE state = 'stale') > 0 FROM queue.worker}), '8|t', 'the table of workers is full');
my ($oldest) = split /\n/, query(q{SELECT worker || role FROM queue.worker WHERE state = 'stale' ORDER BY last_heartbeat});
my $num_stale = query(q{SELECT count(*) FROM queue.worker WHERE state = 'stale'});
query(q{SELECT queue.heartbeat('new 1')});
is(query(qq{SELECT count(*) FILTER (WHERE worker || role = '$oldest'), count(*) FILTER (WHERE state = 'stale') = $num_stale - 1 FROM queue.worker}),
	'0|t', 'the one that has been stale for longest is forgotten first');
query(qq{SELECT queue.heartbeat('new ' || i) FROM generate_series(2, $num_stale) AS i});
is(query(q{SELECT count(*) FROM queue.worker WHERE state <> 'stale'}), '8', 'then all are new');
my ($ret, $out, $err) = $node->psql('postgres', q{\set VERBOSITY verbose
	SELECT queue.heartbeat('one too many')});
like($err, qr/ERROR:  53400: too many workers.*room for 8,.*"queue\.max_workers"/s, 'who finds no room is told so');
query(q{SELECT queue.heartbeat('new 1')});
ok(1, 'while those that are known go on');

# of progress: that of jobs that are over goes first, then the oldest
query(q{CREATE FUNCTION job(n int) RETURNS bigint LANGUAGE sql AS $$
	SELECT job_id FROM queue.job WHERE queue_name = 'progress' AND payload = to_jsonb(n) $$});
query(q{SELECT count(*) FROM queue.dequeue_batch('progress', 3)});
query(q{SELECT queue.set_progress(job(n), n) FROM generate_series(2, 3) AS n});
query(q{BEGIN; SELECT count(*) FROM queue.dequeue_batch('progress'); SELECT queue.set_progress(job(5), 5); ROLLBACK});
my $told = q{SELECT string_agg(payload::text || ':' || (progress->>'percent'), ' ' ORDER BY payload) FROM queue.job WHERE queue_name = 'progress'};
is(query($told), '1:100 2:2 3:3', 'four entries, one of a job that was not taken after all');
query(q{SELECT queue.set_progress(job(4), 4)});
is(query($told), '1:100 2:2 3:3 4:4', 'that one makes room');
query(q{SELECT queue.set_progress(job(1), 99)});
query(q{SELECT count(*) FROM queue.dequeue_batch('progress', 1)});
query(q{SELECT queue.set_progress(job(5), 5)});
is(query($told), '1:99 3:3 4:4 5:5', 'then the one that was told longest ago does');
is(query(q{SELECT queue.complete(job(2)), queue.complete(job(3)); SELECT queue.set_progress(job(1), 98)}), "t|t\nt",
	'a job without is completed like any other');
is(query(q{SELECT payload, progress->'percent' FROM queue.list_jobs('progress', 'completed') ORDER BY 1}), "2|\n3|3",
	'what was known of it is kept');

# what a prepared transaction has settled is of no more use, either
query(q{SELECT count(*) FROM queue.dequeue_batch('progress'); SELECT queue.set_progress(job(6), 6)});
query(q{BEGIN; SELECT queue.complete(job(6)); PREPARE TRANSACTION 'six'});
is(query($told), '1:98 4:4 5:5 6:6', 'prepared: still shown');
query(q{COMMIT PREPARED 'six'});
query(q{SELECT count(*) FROM queue.dequeue_batch('progress'); SELECT queue.set_progress(job(7), 7)});
is(query($told), '1:98 4:4 5:5 7:7', 'committed: makes room');

# ---------------------------------------------------------------------
# A handler
# ---------------------------------------------------------------------

query(q{
	CREATE FUNCTION public.slow(job queue.job_context) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM queue.set_progress(job.job_id, 25, 'half of the half', attempt => job.attempt);
		PERFORM pg_advisory_xact_lock(1);
		RETURN to_jsonb(job.attempt);
	END $$;
	SELECT queue.create_queue('handled');
	SELECT queue.set_handler('handled', 'public.slow');
	ALTER SYSTEM SET queue.max_executors = 1;
	SELECT pg_reload_conf()});
my $gate = $node->background_psql('postgres', on_error_die => 1);
$gate->query_safe('SELECT pg_advisory_lock(1)');
query(q{SELECT queue.enqueue('handled', '1')});
wait_for($node, q{SELECT state, progress - 'at' FROM queue.job WHERE queue_name = 'handled'},
	'what a handler tells is seen while it runs', 'active|{"step": "half of the half", "percent": 25}');
is( query(q{SELECT w.worker = 'executor ' || w.pid, w.state, w.role = current_user, w.queue_name, a.backend_type,
		w.job_since <= clock_timestamp(), w.done
	FROM queue.worker AS w JOIN queue.job AS j USING (job_id) LEFT JOIN pg_stat_activity AS a ON a.pid = w.pid
	WHERE w.kind = 'executor'}),
	't|busy|t|handled|queue executor|t|0', 'and the view shows who runs it');
$gate->quit;
wait_for($node, q{SELECT state, result, progress->'percent' FROM queue.list_jobs('handled')},
	'it is kept with the job', 'completed|1|25');
wait_for($node, q{SELECT state, done, failed, mean_ms > 0, job_id FROM queue.worker WHERE kind = 'executor'},
	'then the executor is idle', 'idle|1|0|t|');

# ---------------------------------------------------------------------
# Under load; a restart; another extension
# ---------------------------------------------------------------------

append_to_file($node->basedir . '/beat.sql', q{
\set n random(1, 20)
SELECT queue.heartbeat('load ' || :n);
BEGIN;
SELECT job_id AS job FROM (SELECT job_id FROM queue.dequeue_batch('load', worker => 'load ' || :n) UNION ALL SELECT 0) AS j LIMIT 1 \gset
SELECT queue.set_progress(:job, 50);
SAVEPOINT s;
SELECT queue.complete(:job);
\if :n > 15
ROLLBACK TO s;
\endif
\if :n < 3
ROLLBACK;
\else
COMMIT;
\endif
SELECT queue.fail(:job, retry_in => '0');
SELECT count(*) FROM queue.worker;
});
query(q{ALTER SYSTEM SET queue.max_workers = 40; ALTER SYSTEM SET queue.max_progress = 2;
	SELECT queue.create_queue('load', max_attempts => 1000, visibility_timeout => '1 h');
	SELECT count(*) FROM queue.enqueue_batch('load', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 2000) AS i))});
$_->quit for @session;
my $leases = query(q{SELECT count(*) FROM queue.job WHERE state = 'active' AND lease_expires_at > now()});
$node->restart;
is(query(q{SELECT count(*) FROM queue.worker WHERE kind = 'outside'}), '0', 'a restart forgets the workers');
is(query(q{SELECT count(*) FROM queue.job WHERE state = 'active' AND lease_expires_at > now()}), $leases,
	'and ends no lease for it');
is(query(q{SELECT count(*) FROM queue.job WHERE queue_name = 'progress' AND state = 'active' AND progress IS NOT NULL}), '0',
	'nor does it know how far they are');
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 100, '-f', $node->basedir . '/beat.sql',
		$node->connstr('postgres') ], 'eight sessions tell, take and settle');
is( query(q{SELECT sum(w.done) = (SELECT count(*) FROM queue.list_jobs('load', 'completed', 10000)),
		sum(w.failed) = (SELECT count(*) FROM queue.job_log AS l JOIN queue.queue AS q USING (queue_id) WHERE q.queue_name = 'load')
	FROM queue.worker AS w WHERE w.worker LIKE 'load %'}),
	't|t', 'the counts of the workers are what was committed');
is(query(q{SELECT bool_and(progress->>'percent' = '50') FROM queue.list_jobs('load', 'completed', 10000) WHERE progress IS NOT NULL}), 't',
	'what is kept was told');
check_counters($node, 'at the end');
check_structure($node, 'at the end');

query(q{DROP EXTENSION queue CASCADE});
create_extension($node, 'postgres');
is(query(q{SELECT count(*) FROM queue.worker WHERE kind = 'outside'}), '0', 'the workers of a dropped extension are not those of the next');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

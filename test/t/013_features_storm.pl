# A storm over what jobs may have beside their row: unique keys, groups,
# parents, dead letters.
#
# As in 005_storm.pl every script keeps ledgers inside its own transactions.
# Besides that nothing is lost, nor done twice, this one knows:
#
# - of a group one job runs at a time, and those that one producer has enqueued
#   one after the other are done in that order;
# - of a unique key there is one unfinished job at most;
# - of a limit_key three jobs run at a time at most;
# - a child is done after its parents;
# - the counts of a batch are those of its jobs.
#
# Every script rolls back now and then.  Half of the work is done in the
# transaction that takes the job, the other half with a lease in between.
#
# QUEUE_STORM_SECONDS makes it longer than the few seconds of a test run.

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
log_statement = none
max_prepared_transactions = 50
queue.vacuum_threshold = 2000
});
$node->safe_psql('postgres', q{
	CREATE TABLE sent (job_id bigint PRIMARY KEY);
	CREATE TABLE done (n bigserial, job_id bigint NOT NULL, how text NOT NULL, group_key text, serial int);
	CREATE INDEX ON done (job_id);
	CREATE TABLE flow (parent_id bigint, child_id bigint);
	-- who runs a job of a group is in it; a second one at once is an error
	CREATE TABLE running (group_key text PRIMARY KEY, job_id bigint);

	SELECT queue.create_queue('dead', max_attempts => 1000, backoff_base => '10 ms', backoff => 'fixed');
	SELECT queue.create_queue('q', max_attempts => 3, backoff => 'fixed', backoff_base => '10 ms',
		visibility_timeout => '1 min', dead_letter_queue => 'dead', max_active_per_key => 3);

	-- at most three transactions run jobs of a key; one that has just committed lets go after it is visible
	CREATE FUNCTION run_limited(job bigint) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		key text := (SELECT limit_key FROM queue.job_live WHERE job_id = job);
	BEGIN
		FOR i IN 1..1000 LOOP
			IF key IS NULL OR pg_try_advisory_xact_lock(hashtext(key), 1) OR pg_try_advisory_xact_lock(hashtext(key), 2)
				OR pg_try_advisory_xact_lock(hashtext(key), 3) THEN
				RETURN;
			END IF;
			PERFORM pg_sleep(0.001);
		END LOOP;
		RAISE EXCEPTION 'a fourth job of % runs', key;
	END $$;

	-- takes, completes and enters into the ledger, in one transaction
	CREATE FUNCTION work(queue_name text, batch_size int) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		job record;
		n bigint := 0;
	BEGIN
		FOR job IN SELECT * FROM queue.dequeue_batch(queue_name, batch_size) LOOP
			INSERT INTO running SELECT job.group_key, job.job_id WHERE job.group_key IS NOT NULL AND queue_name = 'q';
			DELETE FROM running AS r WHERE r.group_key = job.group_key AND queue_name = 'q';
			IF queue_name = 'q' THEN
				PERFORM run_limited(job.job_id);
			END IF;
			IF queue.complete(job.job_id, attempt => job.attempt) THEN
				INSERT INTO done (job_id, how, group_key, serial)
				VALUES (job.job_id, 'completed', job.group_key, (job.payload ->> 'serial')::int);
				n := n + 1;
			END IF;
		END LOOP;
		RETURN n;
	END $$;

	-- one job of the producer of that number, who enqueues one after the other
	CREATE TABLE producer (client int PRIMARY KEY, serial int);
	INSERT INTO producer SELECT i, 0 FROM generate_series(0, 31) AS i;
	CREATE FUNCTION next_of_group(client int) RETURNS void LANGUAGE sql AS $$
		WITH next AS (
			UPDATE producer SET serial = serial + 1 WHERE producer.client = next_of_group.client RETURNING serial
		) INSERT INTO sent SELECT queue.enqueue('q', jsonb_build_object('serial', serial), group_key => 'own ' || client)
		FROM next $$;

	-- a job that depends on up to three unfinished or completed ones
	CREATE FUNCTION child(rule text) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		parents bigint[] := ARRAY(SELECT job_id FROM (
			SELECT job_id FROM queue.list_jobs('q', max_jobs => 20)) AS j ORDER BY random() LIMIT 1 + random() * 2);
		id bigint;
	BEGIN
		id := queue.enqueue('q', '{"kind": "child"}', depends_on => parents, on_parent_failure => rule);
		INSERT INTO sent VALUES (id);
		IF rule <> 'run' THEN
			INSERT INTO flow SELECT unnest(parents), id;
		END IF;
		RETURN id;
	EXCEPTION WHEN undefined_object THEN
		RETURN null;		-- one of them was a dead letter, or gone, meanwhile
	END $$});

# it may have been cancelled meanwhile; extend() waits for who is at it, and keeps others away
my $held = q{
SELECT coalesce(max(job_id), 0) AS job, coalesce(max(attempt), 0) AS attempt FROM queue.dequeue_batch('q') \gset
INSERT INTO running SELECT group_key, job_id FROM (
	SELECT group_key, job_id FROM queue.job WHERE job_id = :job AND group_key IS NOT NULL OFFSET 0) AS j
	WHERE queue.extend(job_id, '1 min', attempt => :attempt) IS NOT NULL;
};
my $done = q{
BEGIN;
DELETE FROM running WHERE job_id = :job;
};
my $complete = q{
INSERT INTO done (job_id, how, group_key, serial)
SELECT job_id, 'completed', group_key, (payload ->> 'serial')::int FROM queue.job
WHERE job_id = :job AND queue.complete(:job, attempt => :attempt);
};
my @scripts = (
	['own_group', 60, q{
SELECT next_of_group(:client_id);
}],
	['own_group_late', 20, q{
BEGIN;
SELECT next_of_group(:client_id);
SELECT next_of_group(:client_id);
\sleep 1 ms
COMMIT;
}],
	['own_group_abort', 10, q{
BEGIN;
SELECT next_of_group(:client_id);
SAVEPOINT s;
SELECT next_of_group(:client_id);
ROLLBACK TO s;
SELECT next_of_group(:client_id);
\sleep 1 ms
ROLLBACK;
}],
	['shared_group', 40, q{
\set g random(1, 5)
INSERT INTO sent SELECT queue.enqueue('q', '{}', group_key => 'shared ' || :g);
}],
	['shared_group_late', 20, q{
\set g random(1, 5)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('q', '{}', group_key => 'shared ' || :g);
\sleep 2 ms
COMMIT;
}],
	['shared_group_batch', 10, q{
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2,3,4}', options => '{"group_keys": ["shared 1", "shared 2", "shared 1", null]}');
}],
	['shared_group_delayed', 10, q{
\set g random(1, 5)
INSERT INTO sent SELECT queue.enqueue('q', '{}', group_key => 'shared ' || :g, delay => '5 ms');
}],
	['group_prepared', 5, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue('q', '{}', group_key => 'shared 1');
PREPARE TRANSACTION 'group :client_id';
\sleep 2 ms
COMMIT PREPARED 'group :client_id';
}],
	['limit', 40, q{
\set k random(1, 4)
INSERT INTO sent SELECT queue.enqueue('q', '{}', options => jsonb_build_object('limit_key', 'limit ' || :k));
}],
	['limit_late', 20, q{
\set k random(1, 4)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('q', '{}', options => jsonb_build_object('limit_key', 'limit ' || :k));
SAVEPOINT s;
SELECT queue.enqueue('q', '{}', options => jsonb_build_object('limit_key', 'limit ' || :k));
ROLLBACK TO s;
\sleep 1 ms
COMMIT;
}],
	['limit_abort', 10, q{
BEGIN;
SELECT queue.enqueue_batch('q', '{1,2,3,4}', options => '{"limit_key": "limit 1"}');
SELECT work('q', 3);
\sleep 1 ms
ROLLBACK;
}],
	['limit_batch', 10, q{
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2,3,4,5}', options => '{"limit_keys": ["limit 1", "limit 2", "limit 1", null, "limit 1"]}');
}],
	['limit_delayed', 20, q{
\set k random(1, 4)
INSERT INTO sent SELECT queue.enqueue('q', '{}', options => jsonb_build_object('limit_key', 'limit ' || :k), delay => '5 ms');
}],
	['limit_group', 20, q{
\set g random(1, 5)
INSERT INTO sent SELECT queue.enqueue('q', '{}', group_key => 'shared ' || :g, options => '{"limit_key": "limit 1"}');
}],
	['limit_unique', 10, q{
\set k random(1, 4)
SET client_min_messages = warning;
INSERT INTO sent SELECT queue.enqueue('q', '{}', unique_key => 'limited ' || :k, on_conflict => 'replace',
	delay => (random() * 2)::int * interval '1 ms', options => jsonb_build_object('limit_key', 'limit ' || :k)) ON CONFLICT DO NOTHING;
}],
	['limit_prepared', 5, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2}', options => '{"limit_key": "limit 2"}');
PREPARE TRANSACTION 'limit :client_id';
\sleep 2 ms
COMMIT PREPARED 'limit :client_id';
}],
	# in any snapshot, three at most are where takers find them; a fourth is an error
	['limit_watch', 30, q{
SELECT 1 / CASE WHEN max(n) > 3 THEN 0 ELSE 1 END FROM (
	SELECT count(*) AS n FROM queue.job_live JOIN queue.queue USING (queue_id)
	WHERE queue_name = 'q' AND limit_key IS NOT NULL GROUP BY limit_key) AS k;
}],
	['unique', 40, q{
\set k random(1, 10)
INSERT INTO sent SELECT queue.enqueue('q', '{}', unique_key => 'key ' || :k) ON CONFLICT DO NOTHING;
}],
	['unique_late', 20, q{
\set k random(1, 10)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('q', '{}', unique_key => 'key ' || :k) ON CONFLICT DO NOTHING;
\sleep 1 ms
COMMIT;
}],
	['unique_abort', 10, q{
\set k random(1, 10)
BEGIN;
INSERT INTO sent SELECT queue.enqueue('q', '{}', unique_key => 'key ' || :k) ON CONFLICT DO NOTHING;
\sleep 1 ms
ROLLBACK;
}],
	['unique_replace', 10, q{
\set k random(1, 10)
SET client_min_messages = warning;
INSERT INTO sent SELECT queue.enqueue('q', '{}', unique_key => 'key ' || :k, on_conflict => 'replace', delay => '2 ms')
ON CONFLICT DO NOTHING;
}],
	['unique_serializable', 10, q{
\set k random(1, 10)
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT queue.enqueue('q', '{}', unique_key => 'key ' || :k) AS id \gset
COMMIT;
INSERT INTO sent VALUES (:id) ON CONFLICT DO NOTHING;
}],
	['batch', 20, q{
\set b random(1, 3)
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2,3}', batch_id => 'storm ' || :b);
}],
	['batch_late', 10, q{
\set b random(1, 3)
BEGIN;
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2}', batch_id => 'storm ' || :b);
\sleep 1 ms
COMMIT;
}],
	['batch_abort', 5, q{
BEGIN;
INSERT INTO sent SELECT queue.enqueue_batch('q', '{1,2}', batch_id => 'storm 1');
SELECT work('q', 2);
ROLLBACK;
}],
	['child', 20, q{
SELECT child('fail');
}],
	['child_run', 10, q{
SELECT child('run');
}],
	['child_late', 10, q{
BEGIN;
SELECT child('fail');
\sleep 1 ms
COMMIT;
}],
	['child_abort', 5, q{
BEGIN;
SELECT child('fail');
\sleep 1 ms
ROLLBACK;
}],
	['flow', 20, q{
BEGIN;
SELECT queue.enqueue('q', '{}') AS a, queue.enqueue('q', '{}') AS b \gset
SELECT queue.enqueue('q', '{}', depends_on => ARRAY[:a, :b]) AS c \gset
INSERT INTO sent VALUES (:a), (:b), (:c);
INSERT INTO flow VALUES (:a, :c), (:b, :c);
COMMIT;
}],
	['work', 150, q{
\set count random(1, 10)
SELECT work('q', :count);
}],
	['work_abort', 20, q{
BEGIN;
SELECT work('q', 3);
\sleep 1 ms
ROLLBACK;
}],
	['work_savepoint', 20, q{
BEGIN;
SAVEPOINT s;
SELECT work('q', 2);
ROLLBACK TO s;
SELECT work('q', 2);
COMMIT;
}],
	['work_prepared', 5, q{
BEGIN;
SELECT work('q', 2);
PREPARE TRANSACTION 'work :client_id';
\sleep 2 ms
COMMIT PREPARED 'work :client_id';
}],
	['hold', 80, "$held \\sleep 1 ms\n $done $complete COMMIT;\n"],
	['hold_abort', 20, "$held $done $complete ROLLBACK;\n $done $complete COMMIT;\n"],
	['fail', 20, "$held $done SELECT queue.fail(:job, 'storm', attempt => :attempt);\nCOMMIT;\n"],
	['fail_for_good', 10, "$held $done SELECT queue.fail(:job, 'storm', retry => false, attempt => :attempt);\nCOMMIT;\n"],
	['release', 10, "$held $done SELECT queue.release(:job, attempt => :attempt);\nCOMMIT;\n"],
	['cancel', 10, q{
SELECT coalesce(max(job_id), 0) AS job FROM (
	SELECT job_id FROM queue.list_jobs('q', max_jobs => 30) WHERE state <> 'active' ORDER BY random() LIMIT 1) AS j \gset
BEGIN;
INSERT INTO done (job_id, how) SELECT :job, 'cancelled' WHERE queue.cancel(:job);
DELETE FROM running WHERE job_id = :job;
COMMIT;
}],
	['dead', 20, q{
SELECT work('dead', 5);
}],
	['redrive', 10, q{
SET client_min_messages = warning;
SELECT queue.redrive('dead', 10);
}],
	['maintain', 2, q{
SELECT count(*) FROM queue.maintain();
}],
);

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/$_->[0].sql", $_->[2]) for @scripts;

my ($stdout, $stderr);
my $ok = IPC::Run::run(
	[ 'pgbench', '--no-vacuum', '--time', $seconds, '--client', 24, '--jobs', 2,
		(map { ('-f', "$dir/$_->[0].sql\@$_->[1]") } @scripts),
		'-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>', \$stdout, '2>', \$stderr);
note($stdout);
# who wants two keys in different orders may meet a deadlock; pgbench counts it
is($stderr, '', 'the storm meets no error');
ok($ok, 'pgbench ends well');

sub value { return $node->safe_psql('postgres', $_[0]); }

is(value('SELECT count(*) FROM (SELECT FROM queue.job WHERE unique_key IS NOT NULL GROUP BY queue_name, unique_key
	HAVING count(*) > 1) AS twice'), '0', 'no unique key has two jobs');
is(value('SELECT count(*) FROM (SELECT FROM queue.job WHERE group_key IS NOT NULL AND state <> \'blocked\'
	GROUP BY queue_name, group_key HAVING count(*) > 1) AS twice'), '0', 'no group has two heads');

# Take and complete what can be taken, with dead letters sent back, until
# nothing is left or nothing happens any more.
my $left = -1;
my $since = time();
while (time() - $since < 8)
{
	$node->safe_psql('postgres', q{SET client_min_messages = warning; SELECT queue.redrive('dead')});
	$node->safe_psql('postgres', qq{SELECT work('$_', 1000)}) for 'q', 'dead';
	my $now = value('SELECT count(*) FROM queue.job');
	$left = $now, $since = time() if $now != $left;
	last if $now eq '0';
	Time::HiRes::sleep(0.02);
}
is($left, '0', 'nothing is left behind')
  or note(value(q{SELECT d.parent_id, d.child_id, j.state, j.enqueued_at, a.state, a.taken_at, a.finished_at, a.queue_id, a.options,
		a.run_at, a.unique_key, a.group_key, a.origin, a.payload, done.n, done.how
		FROM queue.dependency AS d LEFT JOIN queue.job AS j ON j.job_id = d.child_id
		LEFT JOIN queue.job_archive AS a ON a.job_id = d.parent_id LEFT JOIN done ON done.job_id = d.parent_id}));

my $outcome = q{(SELECT job_id FROM done UNION ALL SELECT job_id FROM queue.job_archive WHERE state = 'f') AS o};
is(value("SELECT count(*) FROM sent WHERE job_id NOT IN (SELECT job_id FROM $outcome)"), '0', 'no job is lost');
is(value("SELECT count(*) FROM $outcome WHERE job_id NOT IN (SELECT job_id FROM sent)"), '0', 'no job is unexpected');
is(value("SELECT count(*) FROM (SELECT FROM $outcome GROUP BY job_id HAVING count(*) > 1) AS twice"), '0',
	'no job is finished twice');
$node->safe_psql('postgres', q{SELECT queue.close_batch('storm ' || i) FROM generate_series(1, 3) AS i});
is( value(q{SELECT string_agg(b::text, ' ' ORDER BY b) FROM (
		SELECT batch_id, total, processed, failed, cancelled, open FROM queue.batch_progress_view) AS b}),
	value(q{SELECT string_agg(b::text, ' ' ORDER BY b) FROM (
		SELECT batch_id, count(*)::numeric AS total, count(*) FILTER (WHERE state = 'completed')::numeric AS processed,
			count(*) FILTER (WHERE state = 'failed')::numeric AS failed,
			count(*) FILTER (WHERE state = 'cancelled')::numeric AS cancelled, 0::numeric AS open
		FROM (SELECT batch_id, CASE WHEN origin IS NULL THEN state ELSE 'failed' END AS state
			FROM queue.job_finished WHERE batch_id IS NOT NULL) AS j GROUP BY batch_id) AS b}),
	'the batches count their jobs');
wait_for($node, q{SELECT count(completed_at) = 3 FROM queue.batch_progress_view}, 'and are complete');
is(value('SELECT count(*) FROM running'), '0', 'nobody is left in a group');

# what was neither failed nor cancelled, and has one producer, keeps its order
is( value(q{SELECT count(*) FROM (
		SELECT serial < lag(serial) OVER (PARTITION BY group_key ORDER BY n) AS wrong
		FROM done WHERE group_key LIKE 'own %' AND serial > 0 AND job_id NOT IN (SELECT job_id FROM queue.job_log)
	) AS o WHERE wrong}),
	'0', 'jobs of one producer and group are done in their order');
cmp_ok(value(q{SELECT count(*) FROM done WHERE group_key LIKE 'own %'}), '>', 100, 'of which there are some');
is( value(q{SELECT count(*) FROM flow
		JOIN done AS p ON p.job_id = parent_id AND p.how = 'completed'
		JOIN done AS c ON c.job_id = child_id AND c.how = 'completed' WHERE c.n < p.n
		AND child_id NOT IN (SELECT job_id FROM queue.job_log)}),
	'0', 'no child is done before its parents');
cmp_ok(value('SELECT count(*) FROM flow'), '>', 20, 'of which there are some');
is(value('SELECT count(*) FROM queue.dependency'), '0', 'no dependency is left');
is(value('SELECT count(*) FROM queue.unique_key WHERE NOT settled'), '0', 'no key is left');
is(value('SELECT count(*) FROM queue.group_head WHERE job_id <> 0'), '0', 'no group has a head');
is(value('SELECT count(*) FROM queue.limit_place WHERE job_id <> 0'), '0', 'no place of a limit_key is taken');
cmp_ok(value(q{SELECT count(*) FROM queue.job_finished WHERE limit_key IS NOT NULL}), '>', 100, 'of which there were some');
check_counters($node, 'after the storm');
check_structure($node, 'after the storm');

$node->stop;
done_testing();

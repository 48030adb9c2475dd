# Handlers that try to get out of their security context, or to leave something
# behind for the next job.
#
# One queue of alice's takes attacks: jobs whose payload is the SQL that its
# handler executes.  After each attack another queue of alice's, served by the
# same executor, and one of bob's tell what they find: who they are, every
# setting that is not as it is in a fresh executor, cursors, prepared statements,
# temporary tables, locks.  At the end nobody has written what only a superuser
# may write, and nobody has become anything.
#
# An attack that is refused where the handler acts must fail its job; one that
# SQL allows to the owner must succeed, and its effects must be there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes;

# bob keeps one of the two executors, so alice's jobs all meet in the other
my $node = new_node('main', conf => q{
queue.max_executors = 2
queue.executor_idle_timeout = '1 h'
log_statement = none
log_min_messages = warning
});

$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SCHEMA bob AUTHORIZATION bob;
	CREATE TABLE vault (what text, who text DEFAULT current_user);
	SELECT queue.create_queue(name, backoff => 'fixed', backoff_base => '1 ms', max_attempts => 1)
	FROM unnest('{attack,probe,retried,bob,other}'::text[]) AS name;
	SELECT queue.alter_queue(name, owner => 'alice') FROM unnest('{attack,probe,retried}'::text[]) AS name;
	SELECT queue.alter_queue(name, owner => 'bob') FROM unnest('{bob,other}'::text[]) AS name;
	SELECT queue.grant_queue('bob', 'alice', 'enqueue');

	-- what a handler finds; the settings are those that differ from a fresh server
	CREATE FUNCTION public.probe() RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		last text := 'none';
	BEGIN
		BEGIN
			last := lastval();
		EXCEPTION WHEN object_not_in_prerequisite_state THEN
		END;
		RETURN jsonb_build_object(
			'current_user', current_user, 'role', current_setting('role'),
			'settings', (SELECT string_agg(name || '=' || setting, ', ' ORDER BY name COLLATE "C")
				FROM pg_catalog.pg_settings WHERE source IN ('session', 'override')),
			'custom', coalesce(current_setting('custom.mine', true), ''),
			'transaction', current_setting('transaction_isolation') || current_setting('transaction_read_only'),
			'timeouts', current_setting('statement_timeout') || current_setting('lock_timeout'),
			'listening', (SELECT count(*) FROM pg_listening_channels()),
			'prepared', (SELECT count(*) FROM pg_prepared_statements),
			'cursors', (SELECT count(*) FROM pg_cursors WHERE name NOT LIKE '<%'),
			'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
			'temporary', (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
				+ (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema())
				+ (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema()),
			'sequence', last);
	END $$;
});

# each of the two has handlers of the same text, in a schema of its own
for my $role ('alice', 'bob')
{
	$node->safe_psql('postgres', qq{
		SET SESSION AUTHORIZATION $role;
		CREATE FUNCTION $role.attack(job queue.job_context) RETURNS text LANGUAGE plpgsql AS \$\$
		DECLARE
			result text;
		BEGIN
			EXECUTE replace(job.payload ->> 'do', ':id', job.job_id::text);
			IF job.payload ? 'get' THEN
				EXECUTE job.payload ->> 'get' INTO result;
			END IF;
			RETURN result;
		END \$\$;
		CREATE FUNCTION $role.probe(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.probe()'});
}

$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION bob;
	-- what bob lets everybody do as bob
	CREATE TABLE bob.guestbook (what text);
	CREATE FUNCTION bob.as_bob(todo text) RETURNS text SECURITY DEFINER LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE todo;
		RETURN current_user;
	END $$;
	GRANT USAGE ON SCHEMA bob TO alice;
	SELECT queue.set_handler('bob', 'bob.probe', min_workers => 1);

	SET SESSION AUTHORIZATION alice;
	CREATE TABLE alice.seen (what text, who text DEFAULT current_user);
	-- what runs late: at the commit, behind the completion of the job
	CREATE TABLE alice.late (what text, tell boolean DEFAULT true);
	CREATE FUNCTION alice.run_late() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF new.tell THEN
			INSERT INTO alice.seen VALUES ('late');
		END IF;
		EXECUTE new.what;
		RETURN null;
	END $$;
	CREATE CONSTRAINT TRIGGER run AFTER INSERT ON alice.late DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION alice.run_late();
	-- one that catches
	CREATE FUNCTION alice.try(todo text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE todo;
		RETURN 'done';
	EXCEPTION WHEN others OR query_canceled THEN
		RETURN sqlstate;
	END $$;
	CREATE FUNCTION alice.do(todo text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE todo;
		RETURN 'done';
	END $$;
	CREATE SEQUENCE alice.seq;
	CREATE TABLE alice.effect (n int);
	SELECT queue.set_handler('attack', 'alice.attack');
	SELECT queue.set_handler('probe', 'alice.probe');
});

# Enqueue a job, wait for its end, return "state|result" or "state|error", the
# error's first line.
sub run
{
	my ($queue, $payload) = @_;
	my $id = $node->safe_psql('postgres', qq{SELECT queue.enqueue('$queue', \$payload\$$payload\$payload\$)});

	$node->poll_query_until('postgres', "SELECT count(*) FROM queue.job_archive WHERE job_id = $id", '1')
	  or die $node->safe_psql('postgres', "SELECT * FROM queue.job WHERE job_id = $id");
	return $node->safe_psql('postgres', qq{
		SELECT state::text || '|' || coalesce(split_part(error, E'\\n', 1), result #>> '{}', '')
		FROM queue.job_archive WHERE job_id = $id});
}

sub json
{
	my ($text) = @_;

	$text =~ s/([\\"])/\\$1/g;
	$text =~ s/\n/\\n/g;
	$text =~ s/\t/ /g;
	return $text;
}

my $clean_alice = run('probe', 'null');
my $clean_bob = run('bob', 'null');
my $clean_settings = 'search_path=pg_catalog, alice, pg_temp';
like($clean_alice, qr/^c\|.*"current_user": "alice"/, 'a handler is its queue\'s owner');
like($clean_alice, qr/"settings": "[^"]*search_path=pg_catalog, alice, pg_temp/, 'it has the search_path of its schema');
like($clean_bob, qr/^c\|.*"current_user": "bob"/, 'and another is the other');

my $refused_role = qr/^f\|cannot set parameter "(role|session_authorization)" within security-definer function/;

# name => [SQL, state and result]
sub attack
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $sql, $expected, $get) = @_;
	my $payload = '{"do": "' . json($sql) . '"' . ($get ? ', "get": "' . json($get) . '"' : '') . '}';

	like(run('attack', $payload), $expected, $name);
	is(run('probe', 'null'), $clean_alice, "$name: the owner's next job is clean");
	is(run('bob', 'null'), $clean_bob, "$name: so is somebody else's");
	return;
}

# the same at the commit, behind the completion
sub late
{
	my ($sql) = @_;

	return 'INSERT INTO alice.late VALUES ($late$' . $sql . '$late$)';
}

my $rob = 'INSERT INTO public.vault VALUES (1)';
my $done = qr/^c\|/;

# ---------------------------------------------------------------------
# To be somebody else
# ---------------------------------------------------------------------

attack('no privilege', $rob, qr/^f\|permission denied for table vault/);
my @leave = (
	'SET ROLE postgres', 'SET ROLE bob', 'SET ROLE NONE', 'RESET ROLE', 'SET LOCAL ROLE postgres',
	'SET SESSION AUTHORIZATION postgres', 'SET SESSION AUTHORIZATION DEFAULT',
	'RESET SESSION AUTHORIZATION', 'SET LOCAL SESSION AUTHORIZATION bob',
	q{SELECT set_config('role', 'postgres', false)}, q{SELECT set_config('role', 'none', true)},
	q{SELECT set_config('session_authorization', 'postgres', false)});
for my $leave (@leave)
{
	like(run('attack', '{"do": "' . json("$leave; $rob") . '"}'), $refused_role, $leave);
	like(run('attack', '{"do": "' . json(late("$leave; $rob")) . '"}'), $refused_role,
		"$leave, deferred to the commit");
}
attack('all of them, caught', join('; ', map { 'SELECT alice.try($t$' . $_ . '$t$)' } @leave),
	qr/^c\|alice$/, 'SELECT current_user');
attack('RESET ALL and the others of its kind', late(q{RESET ALL; SELECT alice.try('DISCARD ALL'); DISCARD TEMP; DISCARD PLANS; DISCARD SEQUENCES}),
	$done);
attack('a function with SET role', q{
	CREATE FUNCTION alice.set_role() RETURNS void LANGUAGE sql SET role = postgres AS 'INSERT INTO public.vault VALUES (2)';
	SELECT alice.set_role()}, qr/^f\|(cannot set parameter "role"|permission denied to set role)/);
attack('one of bob\'s, SECURITY DEFINER', 'SELECT 1', qr/^c\|bob$/,
	q{SELECT bob.as_bob('INSERT INTO bob.guestbook VALUES (current_user)')});
attack('and out of there', q{SELECT bob.as_bob('RESET ROLE')}, $refused_role);
attack('a deferred trigger, queued as bob',
	q{GRANT USAGE ON SCHEMA alice TO bob; GRANT INSERT ON alice.late, alice.seen TO bob;
		SELECT bob.as_bob('INSERT INTO alice.late VALUES (''SELECT alice.try($t$RESET ROLE$t$), alice.try($t$INSERT INTO vault VALUES (3)$t$)'')')}, $done);
attack('events that make more events', q{
	SET CONSTRAINTS ALL DEFERRED;
	INSERT INTO alice.late VALUES ('SET CONSTRAINTS ALL DEFERRED; INSERT INTO alice.late VALUES ($t$SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO alice.late VALUES ($u$SELECT alice.try($v$RESET SESSION AUTHORIZATION; INSERT INTO public.vault VALUES (4)$v$)$u$)$t$)')}, $done);
attack('a trigger of a table ON COMMIT DELETE ROWS', q{
	CREATE TEMP TABLE gone (a text CHECK (alice.try('RESET ROLE') <> 'done'), b text DEFAULT alice.try('SET ROLE postgres')) ON COMMIT DELETE ROWS;
	CREATE FUNCTION pg_temp.out() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM alice.try($t$RESET ROLE; INSERT INTO public.vault VALUES (5)$t$); RETURN null; END';
	CREATE TRIGGER out AFTER DELETE OR TRUNCATE ON gone FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.out();
	CREATE INDEX ON gone ((a || 'x')); INSERT INTO gone VALUES (1)}, qr/^c\|42501/, 'SELECT b FROM gone');
attack('a cursor WITH HOLD, filled at the commit', q{
	DECLARE held CURSOR WITH HOLD FOR SELECT alice.try('RESET ROLE; INSERT INTO public.vault VALUES (6)'),
		alice.do('INSERT INTO alice.seen VALUES (''held''); SET custom.mine = 1; SET work_mem = 64')}, $done);
attack('a large one', q{
	SET work_mem = 64; DECLARE held CURSOR WITH HOLD FOR SELECT repeat('x', 1000) FROM generate_series(1, 20000)}, $done);
attack('one that fails at the commit', q{
	DECLARE held CURSOR WITH HOLD FOR SELECT alice.do('RESET ROLE')}, $refused_role);
attack('an error in a subtransaction', q{
	DO $d$ BEGIN
		BEGIN PERFORM bob.as_bob('SELECT 1/0'); EXCEPTION WHEN division_by_zero THEN END;
		INSERT INTO alice.seen VALUES ('after an error');
		INSERT INTO public.vault VALUES (7);
	END $d$}, qr/^f\|permission denied for table vault/);
attack('one at the commit', late(q{SELECT alice.try('SELECT bob.as_bob(''SELECT 1/0'')'), alice.try('INSERT INTO public.vault VALUES (8)')}), $done);
attack('the function of an index', q{
	CREATE FUNCTION alice.key(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
		'BEGIN PERFORM alice.try($t$RESET ROLE; INSERT INTO public.vault VALUES (9)$t$); RETURN $1; END';
	CREATE TABLE alice.indexed (a text); CREATE INDEX ON alice.indexed (alice.key(a));
	INSERT INTO alice.indexed VALUES (1); ANALYZE alice.indexed}, $done);
attack('a superuser\'s means', 'SELECT 1', qr/^c\|((42501|25001)( |$))+$/, q{SELECT string_agg(alice.try(todo), ' ') FROM unnest(ARRAY[
		'COPY alice.effect TO ''/tmp/nothing''', 'CREATE ROLE mallory SUPERUSER', 'ALTER ROLE alice SUPERUSER', 'GRANT postgres TO alice',
		'SET session_replication_role = replica', 'SET log_statement = ''all''', 'ALTER SYSTEM SET work_mem = 64',
		'SELECT pg_read_file(''postgresql.conf'')', 'SELECT lo_import(''postgresql.conf'')', 'LOAD ''dblink''',
		'DELETE FROM queue.job_live', 'SELECT * FROM queue.job_live', 'INSERT INTO queue.queue (queue_id) VALUES (99)',
		'UPDATE pg_authid SET rolsuper = true', 'DROP EXTENSION queue', 'DROP FUNCTION bob.as_bob',
		'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION alice.run_late()', 'SELECT * FROM bob.guestbook']) AS todo});

attack('dblink, and other ways into a session of one\'s own', 'SELECT 1', qr/^c\|(42501 ?)+$/, q{SELECT string_agg(alice.try(todo), ' ') FROM unnest(ARRAY[
	'CREATE EXTENSION dblink', 'CREATE FOREIGN DATA WRAPPER w', 'COPY (SELECT 1) TO PROGRAM ''psql''',
	'CREATE FUNCTION alice.c() RETURNS int LANGUAGE c AS ''libc'', ''system''', 'ALTER ROLE alice BYPASSRLS',
	'ALTER ROLE bob SET search_path = alice', 'ALTER DATABASE postgres SET search_path = alice',
	'ALTER FUNCTION alice.attack(queue.job_context) OWNER TO postgres', 'CREATE SCHEMA x AUTHORIZATION postgres',
	'REASSIGN OWNED BY postgres TO alice', 'SELECT pg_reload_conf()', 'SELECT pg_switch_wal()', 'SELECT pg_stat_reset()',
	'SELECT lo_export(1, ''/tmp/x'')']) AS todo});
attack('one\'s own settings, which a session would begin with',
	q{ALTER ROLE alice SET search_path = alice, pg_catalog; ALTER ROLE alice SET statement_timeout = '1ms'; ALTER ROLE alice IN DATABASE postgres SET work_mem = 64}, $done);
$node->safe_psql('postgres', 'ALTER ROLE alice RESET ALL; ALTER ROLE alice IN DATABASE postgres RESET ALL');
attack('SET ROLE in a function in a function', q{
	CREATE FUNCTION alice.three() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = alice AS
		'BEGIN PERFORM set_config(''role'', ''postgres'', true); INSERT INTO public.vault VALUES (10); END';
	CREATE FUNCTION alice.two() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM alice.three(); END';
	CREATE FUNCTION alice.one() RETURNS void LANGUAGE sql AS 'SELECT alice.two()'; SELECT alice.one()}, $refused_role);
attack('a procedure that SETs locally', q{
	CREATE PROCEDURE alice.proc() LANGUAGE plpgsql AS 'BEGIN SET LOCAL ROLE postgres; INSERT INTO public.vault VALUES (11); END'; CALL alice.proc()}, $refused_role);
attack('a foreign key, deferred, whose action runs a trigger', q{
	CREATE TABLE alice.p (id int PRIMARY KEY); CREATE TABLE alice.c (id int REFERENCES alice.p ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
	CREATE FUNCTION alice.gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM alice.try($t$RESET ROLE; INSERT INTO public.vault VALUES (12)$t$); RETURN old; END';
	CREATE TRIGGER gone BEFORE DELETE ON alice.c FOR EACH ROW EXECUTE FUNCTION alice.gone();
	SET CONSTRAINTS ALL DEFERRED; INSERT INTO alice.c VALUES (1); INSERT INTO alice.p VALUES (1); DELETE FROM alice.p}, $done);
attack('one that does not hold at the commit', q{
	CREATE TABLE alice.p2 (id int PRIMARY KEY); CREATE TABLE alice.c2 (id int REFERENCES alice.p2 DEFERRABLE INITIALLY DEFERRED); INSERT INTO alice.c2 VALUES (1)},
	qr/^f\|insert or update on table "c2" violates foreign key/);
attack('a large object that stays open', q{SELECT lo_open(lo_create(4711), 393216); SELECT lo_truncate(lo_open(4711, 131072), 100)}, $done);
attack('a temporary table ON COMMIT DROP', q{
	CREATE TEMP TABLE pg_locks (a int DEFAULT 1, b int GENERATED ALWAYS AS (a + 1) STORED) ON COMMIT DROP; INSERT INTO pg_temp.pg_locks DEFAULT VALUES}, $done);
attack('functions, types and operators in pg_temp', q{
	CREATE FUNCTION pg_temp.now() RETURNS text LANGUAGE sql AS 'SELECT 1::text'; CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (alice.try('RESET ROLE') <> 'done');
	CREATE OPERATOR pg_temp.= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4ne); CREATE AGGREGATE pg_temp.count(int) (sfunc = int4larger, stype = int4)}, $done);
attack('a snapshot for others, a message in the log of changes', q{SELECT pg_export_snapshot(); SELECT pg_logical_emit_message(false, 'a', 'b')}, $done);
attack('DISCARD in pieces', 'DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP; DEALLOCATE ALL; UNLISTEN *; RESET ALL', qr/^[cf]\|/);
attack('LOCK of what is ours', 'LOCK TABLE queue.job_live', qr/^f\|permission denied/);

# ---------------------------------------------------------------------
# To leave something behind
# ---------------------------------------------------------------------

my @settings = (
	'statement_timeout = 1', 'lock_timeout = 1', 'idle_in_transaction_session_timeout = 1',
	'default_transaction_read_only = on', q{default_transaction_isolation = 'serializable'},
	'default_transaction_deferrable = on', 'search_path = alice', 'row_security = off',
	'synchronous_commit = off', q{DateStyle = 'German'}, q{TimeZone = 'Asia/Tokyo'}, 'work_mem = 64',
	'enable_indexscan = off', q{check_function_bodies = off}, q{client_encoding = 'LATIN1'},
	'client_min_messages = error', 'custom.mine = 1', 'queue.async_claims = off',
	q{default_tablespace = 'none'}, q{temp_tablespaces = ''}, q{bytea_output = 'escape'}, 'xmlbinary = hex',
	q{plan_cache_mode = 'force_generic_plan'}, 'application_name = mallory');
for my $kind ('SET', 'SET LOCAL')
{
	attack("$kind in the handler", join('; ', map { "$kind $_" } grep { !/tablespace = 'none'/ } @settings), $done);
	attack("$kind at the commit", late(join('; ', map { "$kind $_" } grep { !/tablespace = 'none'/ } @settings)), $done);
}
attack('SET TRANSACTION READ ONLY', 'SET TRANSACTION READ ONLY', $done);
attack('and at the commit', late('SET TRANSACTION READ ONLY'), $done);
attack('SET SESSION CHARACTERISTICS', late('SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE'), $done);
attack('a handler that changes a setting, and fails', 'SET search_path = alice; SET statement_timeout = 1; SELECT 1/0', qr/^f\|division by zero/);
attack('one that fails at the commit', late('SET search_path = alice; SET statement_timeout = 1; SELECT 1/0'), qr/^f\|division by zero/);
attack('a temporary table that shadows', q{
	CREATE TEMP TABLE pg_class (a int); CREATE TEMP TABLE pg_settings (a int); CREATE TEMP TABLE effect (n int);
	CREATE FUNCTION pg_temp.current_user() RETURNS text LANGUAGE sql AS 'SELECT 1::text'; CREATE TYPE pg_temp.job_context AS (a int)}, $done);
attack('temporary tables, at the commit', late(q{CREATE TEMP TABLE pg_locks (a int); CREATE TEMP SEQUENCE s; SELECT nextval('s')}), $done);
attack('a temporary table of a failed job', q{CREATE TEMP TABLE pg_locks (a int); SELECT 1/0}, qr/^f\|/);
attack('prepared statements', q{PREPARE p AS SELECT 1; PREPARE q AS SELECT current_user; EXECUTE p; DEALLOCATE p}, $done);
attack('at the commit', late('PREPARE p AS SELECT 1'), $done);
attack('of a failed job', 'PREPARE p AS SELECT 1; SELECT 1/0', qr/^f\|/);
attack('advisory locks', 'SELECT pg_advisory_lock(1), pg_advisory_xact_lock(2), pg_advisory_lock_shared(3), pg_advisory_lock(1)', $done);
attack('at the commit', late('SELECT pg_advisory_lock(1), pg_advisory_xact_lock(2)'), $done);
attack('of a failed job', 'SELECT pg_advisory_lock(1), 1/0', qr/^f\|/);
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'no advisory lock is left');
attack('a sequence', q{SELECT nextval('alice.seq'), setval('alice.seq', 100)}, $done);
# no number of a series that another job has begun
attack('setseed()', 'SELECT setseed(0.5); SET seed = 0.5', $done);
my $series = $node->safe_psql('postgres', 'SELECT setseed(0.5); SELECT random() FROM generate_series(1, 3)');
for my $end ('', '; SELECT 1/0')
{
	run('attack', qq{{"do": "SELECT setseed(0.5); SET seed = 0.5$end"}});
	my ($number) = run('attack', '{"do": "SELECT 1", "get": "SELECT random()"}') =~ /^c\|"?([\d.e-]+)/;
	ok(defined $number && $series !~ /^\Q$number\E$/m, 'the random numbers of the next job are its own');
}
attack('LISTEN', 'LISTEN a', qr/^f\|cannot execute LISTEN within a background process/);
attack('and at the commit', late('LISTEN a'), qr/^f\|cannot execute LISTEN within a background process/);
attack('NOTIFY, UNLISTEN', q{NOTIFY a; UNLISTEN *; SELECT pg_notify('b', 'c')}, $done);

# ---------------------------------------------------------------------
# To end what is not theirs
# ---------------------------------------------------------------------

attack('COMMIT', 'DO $d$ BEGIN COMMIT; END $d$', qr/^f\|invalid transaction termination/);
attack('ROLLBACK', 'DO $d$ BEGIN ROLLBACK; END $d$', qr/^f\|invalid transaction termination/);
attack('COMMIT by dynamic SQL', 'COMMIT', qr/^f\|EXECUTE of transaction commands is not implemented/);
attack('PREPARE TRANSACTION', q{PREPARE TRANSACTION 'x'}, qr/^f\|EXECUTE of transaction commands is not implemented/);
attack('COMMIT in a deferred trigger', late('DO $d$ BEGIN COMMIT; END $d$'), qr/^f\|invalid transaction termination/);
attack('CALL queue.wait()', q{CALL queue.wait('attack', '1 s')}, qr/^f\|queue.wait\(\) cannot run inside a transaction block/);
attack('to cancel itself', 'SELECT pg_cancel_backend(pg_backend_pid())', qr/^f\|(must be|permission denied)/);
attack('to terminate itself', 'SELECT pg_terminate_backend(pg_backend_pid())', qr/^f\|(must be|permission denied)/);
attack('to terminate other workers', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE pid <> pg_backend_pid() AND datname IS NOT NULL ORDER BY pid}, qr/^f\|(must be|permission denied)/);
attack('a fake cancel', q{DO $d$ BEGIN RAISE EXCEPTION 'fake' USING ERRCODE = 'query_canceled'; END $d$}, qr/^f\|fake/);
attack('a fake shutdown', q{DO $d$ BEGIN RAISE EXCEPTION 'fake' USING ERRCODE = 'admin_shutdown'; END $d$}, qr/^f\|fake/);
attack('a fake cancel at the commit', late(q{DO $d$ BEGIN RAISE EXCEPTION 'fake' USING ERRCODE = 'query_canceled'; END $d$}), qr/^f\|fake/);

# ---------------------------------------------------------------------
# Too much, and nonsense
# ---------------------------------------------------------------------

attack('recursion', q{
	CREATE FUNCTION alice.deep(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN alice.deep(n + 1); END';
	SELECT alice.deep(1)}, qr/^f\|stack depth limit exceeded/);
attack('at the commit', late(q{
	CREATE FUNCTION alice.deep(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN alice.deep(n + 1); END';
	SELECT alice.deep(1)}), qr/^f\|stack depth limit exceeded/);
attack('a result that is too long', 'SELECT 1', qr/^f\|/, q{SELECT repeat('x', 300 * 1024 * 1024)});
attack('an error that is long', q{DO $d$ BEGIN RAISE EXCEPTION '%', repeat('x', 50 * 1024 * 1024) USING DETAIL = repeat('y', 1000000), HINT = repeat('z', 1000000); END $d$},
	qr/^f\|xxx/);
attack('NULL', 'SELECT 1', qr/^c\|$/, 'SELECT NULL::text');
attack('an error without a message', q{DO $d$ BEGIN RAISE EXCEPTION USING MESSAGE = ''; END $d$}, qr/^f\| \(SQLSTATE P0001\)/);

# ---------------------------------------------------------------------
# With the job itself, and the queue
# ---------------------------------------------------------------------

my $not_held = qr/^f\|job \d+ is not held any more/;

attack('to complete itself', 'SELECT queue.complete(:id)', $not_held);
attack('to fail itself', q{SELECT queue.fail(:id, 'so', retry => true)}, $not_held);
attack('to cancel itself', 'SELECT queue.cancel(:id)', $not_held);
attack('to release itself', 'SELECT queue.release(:id)', $not_held);
attack('to release itself and take itself again',
	q{SELECT queue.release(:id); SELECT * FROM queue.dequeue_batch('attack', visibility_timeout => '1 h')}, $not_held);
attack('to extend itself', q{SELECT queue.extend(:id, '1 ms')}, $done);
attack('to settle itself at the commit', late(q{
	SELECT queue.complete(:id), queue.fail(:id), queue.release(:id), queue.cancel(:id), queue.retry_job(:id)}), $done);
attack('to take and to complete jobs of its own queue', q{
	SELECT queue.enqueue('attack', '{"do": "SELECT 1/0"}', priority => 1);
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('attack', 10)}, $done);
attack('to run itself by hand', q{
	SELECT queue.enqueue('attack', '{"do": "SELECT queue.process_next(''attack'')"}');
	SELECT queue.enqueue('attack', jsonb_build_object('do', 'RESET ROLE'));
	SELECT queue.process_next('attack'); SELECT queue.process_next('attack')}, $done);
attack('to run itself directly, without end', q{
	SELECT queue.set_mode('attack', 'direct');
	CREATE FUNCTION alice.again() RETURNS void LANGUAGE plpgsql AS
		$f$ BEGIN PERFORM queue.enqueue('attack', '{"do": "SELECT alice.again()"}'); END $f$;
	SELECT alice.again()}, qr/^f\|stack depth limit exceeded/);
attack('to leave from a handler in a handler', q{
	SELECT queue.set_mode('attack', 'direct');
	SELECT queue.enqueue('attack', '{"do": "RESET ROLE"}')}, $refused_role);
attack('to drop its own queue', q{SELECT queue.drop_queue('attack', true)}, $not_held);
attack('to drop its own function', q{DROP FUNCTION alice.attack; SELECT 1/0}, qr/^f\|division by zero/);
attack('to give its queue to somebody', q{SELECT queue.alter_queue('attack', owner => 'bob')}, qr/^f\|must be member of role "bob"/);
attack('to name a function for bob', q{SELECT queue.set_handler('bob', 'alice.attack')}, qr/^f\|(permission denied|must be owner)/);
attack('to take bob\'s jobs', q{SELECT * FROM queue.dequeue_batch('bob')}, qr/^f\|permission denied/);
attack('jobs that depend on what the commit does', q{
	SELECT queue.enqueue('attack', '{"do": "SELECT 1"}', group_key => 'g', unique_key => i::text, batch_id => 'b', delay => '1 ms')
	FROM generate_series(1, 3) AS i;
	SELECT queue.enqueue('attack', '{"do": "SELECT 1"}', group_key => 'g', depends_on => ARRAY[
		queue.enqueue('attack', '{"do": "SELECT 1"}', group_key => 'g')])}, $done);
wait_for($node, 'SELECT count(*) FROM queue.job', 'those have run', '0');
attack('to be paused and stopped by itself', q{
	SELECT queue.pause_queue('attack'); SELECT queue.stop_processing('attack');
	SELECT queue.resume_queue('attack'); SELECT queue.start_processing('attack')}, $done);

# its own ends: these stay
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('doomed'); SELECT queue.alter_queue('doomed', owner => 'alice');
	SELECT queue.create_queue('lost', backoff => 'fixed', backoff_base => '1 ms', max_attempts => 2); SELECT queue.alter_queue('lost', owner => 'alice');
	SET SESSION AUTHORIZATION alice;
	CREATE FUNCTION alice.other(payload jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$;
	CREATE FUNCTION alice.doomed(payload jsonb) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO alice.late VALUES ('SELECT queue.drop_queue(''doomed'', true)'); RETURN 'x'; END $$;
	CREATE FUNCTION alice.lost(payload jsonb) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN DROP FUNCTION alice.lost(jsonb); RETURN 'gone'; END $$;
	SELECT queue.set_handler('doomed', 'alice.doomed');
	SELECT queue.set_handler('lost', 'alice.lost')});
$node->safe_psql('postgres', q{SELECT queue.enqueue('doomed', '1') FROM generate_series(1, 5)});
wait_for($node, q{SELECT count(*) FROM queue.queue WHERE queue_name = 'doomed'}, 'a queue that is dropped behind its job\'s completion is gone', '0');
is(run('lost', '1'), 'c|gone', 'a handler may drop itself');
like(run('lost', '1'), qr/^f\|function alice.lost\(jsonb\) does not exist/, 'the next job says so');
$node->safe_psql('postgres', q{SET SESSION AUTHORIZATION alice; SELECT queue.set_handler('lost', 'alice.other')});
is(run('lost', '1'), 'c|other', 'another handler takes over');
is(run('probe', 'null'), $clean_alice, 'the owner\'s next job is clean');

# a type that is no jsonb after all
$node->safe_psql('postgres', q{SET SESSION AUTHORIZATION alice;
	CREATE FUNCTION alice.odd(payload jsonb) RETURNS json LANGUAGE sql AS $$ SELECT (payload #>> '{}')::json $$;
	SELECT queue.set_handler('lost', 'alice.odd')});
like(run('lost', '"\"\\\\u0000\""'), qr/^f\|unsupported Unicode escape sequence/, 'json that jsonb cannot hold');
like(run('lost', '"{"'), qr/^f\|invalid input syntax for type json/, 'no json at all');
is(run('lost', 'null'), 'c|', 'null');
isnt($node->psql('postgres', q{SET SESSION AUTHORIZATION alice;
	CREATE FUNCTION alice.many(payload jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT 1::text';
	SELECT queue.set_handler('lost', 'alice.many')}), 0, 'a function that returns a set is no handler');

# ---------------------------------------------------------------------
# A handler that will not end
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT queue.alter_queue('attack', job_timeout => '200 ms')});
attack('a timeout', 'SELECT pg_sleep(600)', qr/^f\|job timeout/);
attack('at the commit', late('SELECT pg_sleep(600)'), qr/^f\|job timeout/);
attack('one that is swallowed', q{DO $d$ BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN END $d$}, qr/^f\|job timeout/);
attack('one that is swallowed for ever', q{DO $d$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN END; END LOOP; END $d$},
	qr/^f\|(job timeout|session ended)/);
attack('and at the commit', late(q{DO $d$ BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN END $d$}), qr/^(f\|job timeout|c\|)/);
attack('a short one after that', 'SELECT pg_sleep(0.1)', $done);

# ---------------------------------------------------------------------
# What they have come to
# ---------------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT * FROM vault'), '', 'nobody has been a superuser');
# since 18, a deferred trigger runs as whoever has caused it: once bob's SECURITY DEFINER function
is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM alice.seen ORDER BY 1'),
	$node->safe_psql('postgres', 'SHOW server_version_num') >= 180000 ? "alice\nbob" : 'alice',
	'what ran late ran as the owner');
is($node->safe_psql('postgres', q{SELECT count(*) > 10 FROM alice.seen WHERE what = 'late'}), 't', 'and it did run');
is($node->safe_psql('postgres', q{SELECT count(*) FROM alice.seen WHERE what = 'held'}), '1', 'so did a cursor');
is($node->safe_psql('postgres', 'SELECT * FROM bob.guestbook'), 'bob', 'what bob allows is done as bob');
is($node->safe_psql('postgres', q{SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper AND rolname <> current_user}),
	'', 'there are no other superusers');
check_counters($node, 'after all');

done_testing();

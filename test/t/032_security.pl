# Hostile users: what each role may call and read, objects that lie in wait for
# the extension, functions that lie in wait for whoever enqueues, names that want
# to be code, and roles that change.
#
# The tables of this file say of every function and every relation of the
# extension who may use it.  One that is not in its table is a failure, so nobody
# adds an object without deciding that.

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
log_min_messages = fatal
queue.notify_interval = 100
});
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database || 'postgres', $sql);
}

# the error of a statement: SQLSTATE and message, or nothing
sub error_of
{
	my ($sql, $database) = @_;
	my ($ret, $out, $err) = $node->psql($database || 'postgres', "\\set VERBOSITY verbose\n$sql");

	return $err =~ /(?:ERROR|FATAL): +(.*)/ ? $1 : $ret == 0 ? '' : $err;
}

# ---------------------------------------------------------------------
# What the catalog says
# ---------------------------------------------------------------------

# SECURITY DEFINER, and why: none
my %definer;
# not in C, and pinned
my %not_c;
# something that PUBLIC may call, and why: none
my %public;

is(sql(q{SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND prosecdef ORDER BY 1}),
	join("\n", sort keys %definer), 'functions with the rights of their owner');
is( sql(q{SELECT proname FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
		WHERE pronamespace = 'queue'::regnamespace AND (lanname <> 'c' OR EXISTS (SELECT FROM unnest(proconfig)))}),
	join("\n", sort keys %not_c), 'functions that are not in C, or set something');
is( sql(q{SELECT proname FROM pg_proc AS p, aclexplode(coalesce(proacl, acldefault('f', proowner)))
		WHERE pronamespace = 'queue'::regnamespace AND grantee = 0}),
	join("\n", sort keys %public), 'functions that PUBLIC may call');
is( sql(q{SELECT relname FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind = 'v' AND relname <> '_batch'
		AND NOT coalesce(reloptions, '{}') && '{security_barrier=true,security_invoker=true}'}),
	'', 'views that let the functions of a query look behind them');
is(sql(q{SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND proleakproof}), '',
	'functions that a filter may be pushed past');
is(sql(q{SELECT extrelocatable FROM pg_extension WHERE extname = 'queue'}), 'f', 'its schema is its own');
like(slurp_file("$FindBin::RealBin/../../queue.control"), qr/^superuser = true\ntrusted = false/m, 'a superuser installs it');

# the scripts: what stands outside of CREATE FUNCTION names no function, operator
# or type by a name that a search_path could lead elsewhere
for my $file (grep { -e } map { glob "$FindBin::RealBin/../../sql/$_" } 'queue.sql', 'queue--*.sql')
{
	my ($base) = $file =~ m{([^/]*)$};
	my $text = slurp_file($file);

	$text =~ s{/\*.*?\*/}{}gs;
	$text =~ s/--[^\n]*//g;
	$text =~ s/'(?:[^']|'')*'/''/g;
	# what look like operators are the options of an error
	$text =~ s/\bRAISE EXCEPTION USING\b[^;]*//g;
	# on the way between releases: the server refuses to replace what is not the extension's
	$text =~ s/\bCREATE OR REPLACE VIEW queue\./CREATE VIEW queue./g if $base =~ /--.*--/;
	# without what has parameters, options or columns with defaults in parentheses
	my @statements = grep { !/^\s*(COMMENT|CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)|CREATE TYPE|GRANT|REVOKE|\\echo)\b/ } split /;/, $text;
	my @unqualified;
	for (@statements)
	{
		s/\b(?:WITH|SET) \([^)]*\)//g;
		s/\bOPERATOR\(pg_catalog\.[^)]*\)//g;
		push @unqualified, $_ =~ /((?:^|[^<>=!~+*\/|&%-])[<>=!~+\/|&%-]+(?![<>=!~+\/|&%*-]))/ && !/^\s*CREATE (TABLE|INDEX)/ ? "operator $1 in: $_" : ();
		my $is_table = /^\s*(CREATE|ALTER) (TABLE|INDEX|SEQUENCE|TRIGGER)/;
		while (/(?<![\w."])([a-z_]\w*)\s*\(/g)
		{
			push @unqualified, "function $1 in: $_" unless $is_table || $1 =~ /^(in|values|q)$/;
		}
	}
	is(join("\n", @unqualified), '', "$base: nothing is named without its schema");
	unlike($text, qr/\b(OR REPLACE|IF NOT EXISTS|SECURITY DEFINER|\@extschema\@)/i, "$base: nothing takes over an object of somebody else");
}

# ---------------------------------------------------------------------
# Who may call what
# ---------------------------------------------------------------------

# in the order of the columns below
my @roles = qw(none enqueue dequeue browse admin owner monitor);
my $roles = '{' . join(',', @roles) . '}';

sql(q{
	CREATE ROLE heir;
	SELECT queue.create_queue('q'), queue.create_queue('theirs');
	CREATE TABLE public.job (done bigint, held bigint, waiting bigint)});
sql("CREATE ROLE r_$_ LOGIN") for @roles;
sql(q{
	SELECT queue.alter_queue('q', owner => 'r_owner');
	SELECT queue.grant_queue('q', ('r_' || p)::regrole, p) FROM unnest('{enqueue,dequeue,browse,admin}'::text[]) AS p;
	GRANT pg_monitor TO r_monitor;
	GRANT USAGE ON SCHEMA queue TO r_none;
	INSERT INTO job SELECT queue.enqueue('q', '"done"'), queue.enqueue('q', '"held"'), queue.enqueue('q', '"waiting"');
	SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('q');
	SELECT job_id FROM queue.dequeue_batch('q', visibility_timeout => '1 h');
	SELECT queue.create_batch('batch');
	SELECT queue.enqueue('q', '1', batch_id => 'batch');
	CREATE FUNCTION public.handle(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT 1::text';
	SELECT queue.schedule('s', '* * * * *', 'q', '1', create_cron_job => false);
	SELECT queue.set_handler('q', 'public.handle');
	-- +: it does it, 0: as if there were no such job, or none that it may see, -: permission denied
	CREATE FUNCTION public.try(role text, call text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		r jsonb;
		answer text;
	BEGIN
		EXECUTE format('SET LOCAL ROLE %I', 'r_' || role);
		IF call LIKE 'CALL %' THEN
			EXECUTE call;
		END IF;
		EXECUTE 'SELECT to_jsonb(r) FROM ' || call || ' AS r' INTO r;
		answer := CASE WHEN r IS NULL OR r IN ('null', 'false', '0')
			OR r IN ('{"job_id": null}') OR (r #>> '{}') LIKE '%There is no job%' THEN '0' ELSE '+' END;
		RAISE EXCEPTION USING ERRCODE = 'P0001';
	EXCEPTION
		WHEN raise_exception THEN RETURN answer;
		WHEN active_sql_transaction THEN RETURN '+';
		WHEN undefined_object THEN RETURN '0';
		WHEN insufficient_privilege THEN RETURN '-';
	END $$;
});

# function	EXECUTE and outcome, by role	call; %1 is a failed job, %2 one that is held, %3 one that waits
my $table = q{
_announce	-------	-------	queue._announce()
_dml_trigger	-------	-------
_fire	-+--++-	-------	queue._fire('s')
_hints	-------	-------	queue._hints()
_may	---+++-	---+++-	queue._may((SELECT queue_id FROM queue.queue WHERE queue_name = 'q'), 'browse')
_metrics	---++++	---++++	queue._metrics()
_progress	---+++-	---000-	queue._progress(1, %2, 1, now())
_require_preload	-------	-------	queue._require_preload()
_state	---+++-	---+++-	queue._state('w', 0)
_upgraded	-------	-------	queue._upgraded()
_workers	--++++-	--0000-	queue._workers()
alter_queue	----++-	----++-	queue.alter_queue('q', max_attempts => 9)
batch_status	-+-+++-	-0-+++-	queue.batch_status('batch')
bind	----++-	----++-	queue.bind('a.b', 'q')
cancel	-+--++-	-+--++-	queue.cancel(%3)
clean	----++-	----++-	queue.clean('q', '0')
close_batch	-+--++-	----++-	queue.close_batch('batch')
complete	--+-++-	--+-++-	queue.complete(%2)
complete_and_dequeue	--+-++-	--+-++-	queue.complete_and_dequeue('{%2}', 'q')
complete_many	--+-++-	--+-++-	queue.complete_many('{%2}')
create_batch	-+--++-	-+--++-	queue.create_batch('mine')
create_queue	-----+-	-----+-	queue.create_queue('mine')
dequeue_batch	--+-++-	--+-++-	queue.dequeue_batch('q')
drop_queue	----++-	----++-	queue.drop_queue('q', true)
enqueue	-+--++-	-+--++-	queue.enqueue('q', '1')
enqueue_batch	-+--++-	-+--++-	queue.enqueue_batch('q', '{1}')
enqueue_trigger	-+--++-	-------
explain_job	---+++-	---+++-	queue.explain_job(%3)
extend	--+-++-	--+-++-	queue.extend(%2, '1 h')
fail	--+-++-	--+-++-	queue.fail(%2)
fail_many	--+-++-	--+-++-	queue.fail_many('{%2}')
grant_queue	----++-	----++-	queue.grant_queue('q', 'heir', 'browse')
health_alerts	---++++	---++++	(SELECT count(*) + 1 AS n FROM queue.health_alerts('q'))
heartbeat	--+-++-	--+-++-	queue.heartbeat('w', 'q')
job_history	---+++-	---+++-	queue.job_history(%1)
job_status	---+++-	---+++-	queue.job_status(%1)
list_jobs	---+++-	---+++-	queue.list_jobs('q')
maintain	-------	-------	queue.maintain()
pause_queue	----++-	----++-	queue.pause_queue('q')
process_next	--+-++-	--+-++-	queue.process_next('q')
publish	-+--++-	-0--00-	queue.publish('no.such', '1')
purge_queue	----++-	----++-	queue.purge_queue('q')
queue_health	---++++	---++++	queue.queue_health('q')
queue_stats	---+++-	---+++-	queue.queue_stats('q')
redrive	----++-	----00-	queue.redrive('q')
release	--+-++-	--+-++-	queue.release(%2)
report	---+++-	---+++-	queue.report()
requeue_failed	----++-	----++-	queue.requeue_failed('q')
reset_queue_setting	----++-	----++-	queue.reset_queue_setting('q', 'max_attempts')
resume_queue	----++-	----++-	queue.resume_queue('q')
retry_job	----++-	----++-	queue.retry_job(%1)
revoke_queue	----++-	----++-	queue.revoke_queue('q', 'r_enqueue', 'enqueue')
schedule	-+--++-	-0--00-	queue.schedule('t', '* * * * *', 'q', '1', create_cron_job => false)
set_handler	----++-	-----+-	queue.set_handler('q', 'public.handle')
set_mode	----++-	----++-	queue.set_mode('q', 'direct')
set_progress	--+-++-	--+-++-	queue.set_progress(%2, 50)
sign_off	--+-++-	--0-00-	queue.sign_off('w')
start_processing	----++-	----++-	queue.start_processing('q')
stats_reset	----++-	----++-	queue.stats_reset('q')
stop_processing	----++-	----++-	queue.stop_processing('q')
throttle	--+-++-	--0-00-	queue.throttle('q', '0')
top	---+++-	---+++-	queue.top()
unbind	----++-	----00-	queue.unbind('a.b', 'q')
unschedule	-+--++-	----++-	queue.unschedule('s')
version	---++++	---++++	queue.version()
wait	--+-++-	--+-++-	CALL queue.wait('q', '0')
};
my %expected = map { my ($name, @row) = split /\t/; ($name => \@row) } grep { /\S/ } split /\n/, $table;

# he owns a queue, but may create none unless a superuser says so
sql('GRANT EXECUTE ON FUNCTION queue.create_queue TO r_owner');
my @functions = split /\n/, sql(q{SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace ORDER BY 1});
is(join(' ', grep { !$expected{$_} } @functions), '', 'every function has a row in the table');
my %there = map { $_ => 1 } @functions;
is(join(' ', grep { !$there{$_} } sort keys %expected), '', 'and every row a function');

sub outcomes
{
	my ($what) = @_;
	my @wrong;

	for my $name (grep { $expected{$_} && $expected{$_}[2] } @functions)
	{
		my $call = $expected{$name}[2];
		my $got = sql(q{SELECT string_agg(try(r, replace(replace(replace($call$} . $call . q{$call$, '%1', done::text), '%2', held::text), '%3', waiting::text)), ''
			ORDER BY n) FROM job, unnest('} . $roles . q{'::text[]) WITH ORDINALITY AS a (r, n)});
		my $want = $expected{$name}[1];
		push @wrong, "$name: $got, not $want" if $got ne $want;
	}
	is(join("\n", @wrong), '', $what);
	return;
}

sub execute_of
{
	my ($name) = @_;

	return sql(qq{SELECT string_agg(CASE WHEN has_function_privilege('r_' || r, p.oid, 'EXECUTE') THEN '+' ELSE '-' END, '' ORDER BY n)
		FROM pg_proc AS p, unnest('$roles'::text[]) WITH ORDINALITY AS a (r, n)
		WHERE pronamespace = 'queue'::regnamespace AND proname = '$name'});
}

my @wrong;
for my $name (grep { $expected{$_} } @functions)
{
	my $got = execute_of($name);

	push @wrong, "$name: $got, not $expected{$name}[0]" if $got ne $expected{$name}[0];
}
is(join("\n", @wrong), '', 'each role may call what its privilege says');
outcomes('each role does what its privilege says');

# relation	who may read it; nobody may do more
my %readable = (
	job => '---+++-', job_finished => '---+++-', queue => '---+++-', privilege => '---+++-', job_archive => '---+++-',
	job_log => '---+++-', binding => '---+++-', batch_progress_view => '---+++-', worker => '--++++-', schedule => '---+++-',
	metric_history => '---+++-', metrics => '---++++',
	map { $_ => '-------' } qw(job_live job_parked unique_key group_head limit_place dependency batch batch_progress _batch
	  _leaf _archive_count _prepared _queue_id _job_id_block),
	(map { sprintf '_archive_%02d', $_ } 0 .. 15), (map { sprintf '_log_%02d', $_ } 0 .. 7));
@wrong = ();
for (split /\n/, sql(q{
	SELECT c.relname, string_agg(CASE WHEN c.relkind = 'S' THEN
			CASE WHEN has_sequence_privilege('r_' || r, c.oid, 'USAGE, SELECT, UPDATE') THEN '!' ELSE '-' END
		WHEN has_table_privilege('r_' || r, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
			OR has_any_column_privilege('r_' || r, c.oid, 'INSERT, UPDATE, REFERENCES') THEN '!'
		WHEN has_any_column_privilege('r_' || r, c.oid, 'SELECT') THEN '+' ELSE '-' END, '' ORDER BY n)
	FROM pg_class AS c, unnest('} . $roles . q{'::text[]) WITH ORDINALITY AS a (r, n)
	WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') GROUP BY c.relname}))
{
	my ($name, $got) = split /\|/;

	push @wrong, "$name: $got, not " . ($readable{$name} || 'in the table') if $got ne ($readable{$name} || '');
}
is(join("\n", @wrong), '', 'each role may read what its privilege says, and write nothing');

# ---------------------------------------------------------------------
# Rights that come and go
# ---------------------------------------------------------------------

# whoever owns a queue grants and revokes: that must not touch what others have by other means
sql(q{
	CREATE ROLE byhand;
	GRANT USAGE ON SCHEMA queue TO byhand;
	GRANT EXECUTE ON FUNCTION queue.queue_health TO byhand});
is(sql(q{SET SESSION AUTHORIZATION r_owner;
	SELECT queue.revoke_queue('q', 'byhand', 'browse');
	SELECT queue.grant_queue('q', 'pg_monitor', 'browse');
	SELECT queue.revoke_queue('q', 'pg_monitor', 'browse');
	RESET SESSION AUTHORIZATION;
	SELECT has_function_privilege('byhand', 'queue.queue_health(text)', 'EXECUTE'), has_schema_privilege('byhand', 'queue', 'USAGE'),
		has_function_privilege('pg_monitor', 'queue.queue_health(text)', 'EXECUTE'), has_schema_privilege('pg_monitor', 'queue', 'USAGE'),
		has_table_privilege('pg_monitor', 'queue.metrics', 'SELECT')}) =~ s/^\n+//r, 't|t|t|t|t',
	'an owner takes no rights that he did not give');
sql('REVOKE EXECUTE ON FUNCTION queue.queue_health FROM byhand; REVOKE USAGE ON SCHEMA queue FROM byhand; DROP ROLE byhand');
like(error_of(q{SET ROLE r_owner; SELECT queue.alter_queue('q', owner => 4294967295::oid::regrole)}), qr/^42704: role 4294967295 does not exist/,
	'no queue for a number that is no role');
like(error_of(q{SELECT queue.alter_queue('q', owner => '-')}), qr/^42704: role 0 does not exist/, 'nor for nobody');
like(error_of(q{SET ROLE r_owner; SELECT queue.grant_queue('q', 0::oid::regrole, 'admin')}), qr/^42704/, 'PUBLIC has nothing');

# topics belong to nobody, as doc/reference.md says of bind()
sql(q{CREATE ROLE publisher; SELECT queue.grant_queue('theirs', 'publisher', 'enqueue'), queue.bind('news', 'theirs')});
is(sql(q{SET ROLE publisher; SELECT count(*) FROM queue.publish('news', '1')}), '1', 'a topic');
sql(q{SET ROLE r_owner; SELECT queue.bind('#', 'q')});
like(error_of(q{SET ROLE publisher; SELECT queue.publish('news', '1')}), qr/^42501: permission denied for queue "q"/, 'whoever binds to it can refuse it');
sql(q{SET ROLE r_owner; SELECT queue.grant_queue('q', 'publisher', 'enqueue')});
is(sql(q{SET ROLE publisher; SELECT count(*) FROM queue.publish('news', '1')}), '2', 'or listen');
sql(q{SELECT queue.unbind('#', 'q'), queue.unbind('news', 'theirs'), queue.revoke_queue('q', 'publisher', 'enqueue'),
	queue.revoke_queue('theirs', 'publisher', 'enqueue'), queue.purge_queue('theirs'); DROP ROLE publisher});

# what was granted cannot be granted on
for my $sql ('EXECUTE ON FUNCTION queue.enqueue', 'SELECT ON queue.job', 'USAGE ON SCHEMA queue')
{
	my ($ret, $out, $err) = $node->psql('postgres', "SET ROLE r_admin; GRANT $sql TO r_none");

	like($err, qr/no privileges were granted/, "no grant option: $sql");
}

# membership: with INHERIT, without, by SET ROLE, and gone at once; in an open session
sql(q{CREATE ROLE member IN ROLE r_browse; CREATE ROLE distant NOINHERIT IN ROLE r_browse; CREATE ROLE grandchild IN ROLE distant});
is(sql(q{SET ROLE member; SELECT count(*) > 0 FROM queue.list_jobs('q')}), 't', 'a member');
like(error_of(q{SET ROLE distant; SELECT count(*) FROM queue.list_jobs('q')}), qr/^42501/, 'NOINHERIT');
like(error_of(q{SET ROLE grandchild; SELECT count(*) FROM queue.job}), qr/^42501/, 'a member of NOINHERIT');
is(sql(q{SET SESSION AUTHORIZATION distant; SET ROLE r_browse; SELECT count(*) > 0 FROM queue.job}), 't', 'NOINHERIT after SET ROLE');
is(sql(q{SET ROLE r_browse; SELECT count(*) > 0 FROM queue.job; RESET ROLE; SET ROLE r_enqueue; SELECT queue.enqueue('q', '1') IS NOT NULL}), "t\nt",
	'one session, one role after the other');
like(error_of(q{SET ROLE r_browse; SELECT count(*) FROM queue.job; SET ROLE r_enqueue; SELECT * FROM queue.job}), qr/^42501/, 'nothing stays from the role before');
is(sql(q{SET SESSION AUTHORIZATION member; SELECT count(*) > 0 FROM queue.job;
	RESET SESSION AUTHORIZATION; REVOKE r_browse FROM member; GRANT r_enqueue TO member;
	SET SESSION AUTHORIZATION member; SELECT has_table_privilege('queue.job', 'SELECT'), queue.enqueue('q', '1') IS NOT NULL}), "t\nf|t",
	'a membership that goes, and one that comes');
sql('DROP ROLE member, distant, grandchild');

# a role that is renamed; one that leaves its things to another; one that is gone
sql(q{CREATE ROLE gone LOGIN; SELECT queue.create_queue('gone'); SELECT queue.alter_queue('gone', owner => 'gone');
	SELECT queue.grant_queue('theirs', 'gone', 'browse, enqueue');
	SELECT queue.enqueue('theirs', '1'), queue.enqueue('gone', '1')});
sql('ALTER ROLE gone RENAME TO "left; DROP"');
is(sql(q{SET ROLE "left; DROP"; SELECT count(*) FROM queue.job; SELECT owner::text FROM queue.queue WHERE queue_name = 'gone'}), qq{2\n"left; DROP"},
	'a role keeps everything under another name');
sql('REASSIGN OWNED BY "left; DROP" TO heir; DROP OWNED BY "left; DROP"');
is(sql(q{SELECT owner::text FROM queue.queue WHERE queue_name = 'gone'}), '"left; DROP"', 'REASSIGN OWNED does not know of queues');
like(error_of(q{SET ROLE "left; DROP"; SELECT queue.enqueue('gone', '1')}), qr/^42501: permission denied for schema queue/, 'DROP OWNED takes the rights');
sql('DROP ROLE "left; DROP"; SELECT queue.maintain()');
like(error_of(q{SELECT queue.alter_queue('gone', validator => 'public.handle')}), qr/^42704|^42P13/, 'nothing runs as a role that is gone');
is(sql(q{SELECT count(*) FROM queue.privilege AS p WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = p.grantee)}), '0', 'nor has it rights');
is(sql(q{SELECT count(*) FROM queue.dequeue_batch('gone')}), '1', 'its jobs are there');
sql(q{SELECT queue.drop_queue('gone', true)});

# ---------------------------------------------------------------------
# To see what others may see
# ---------------------------------------------------------------------

sql(q{
	CREATE SCHEMA spy;
	GRANT ALL ON SCHEMA spy TO r_browse;
	SELECT queue.enqueue('theirs', '"secret"', source => 'secret', headers => '"secret"', unique_key => 'secret') FROM generate_series(1, 50);
	SELECT queue.enqueue('theirs', '"secret"', source => 'secret') FROM generate_series(1, 50);
	SELECT queue.fail(job_id, 'secret', retry => false) FROM queue.dequeue_batch('theirs', 20, worker => 'secret');
	ANALYZE queue.job_archive, queue.job_live, queue.job_log, queue.queue});
sql(q{
	SET ROLE r_browse;
	-- cheaper than anything, an operator with an estimator, a cast, a support for ORDER BY: each tells what it is given
	CREATE FUNCTION spy.told(what text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS
		$$BEGIN IF what ~ 'secret' THEN RAISE EXCEPTION 'told: %', what USING ERRCODE = 'ZZ999'; END IF; RETURN true; END$$;
	CREATE FUNCTION spy.told(a jsonb, b jsonb) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS
		$$BEGIN RETURN spy.told(a::text) AND spy.told(b::text); END$$;
	CREATE OPERATOR spy.=== (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = spy.told, RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
	CREATE VIEW spy.job AS SELECT * FROM queue.job;
	CREATE VIEW spy.leak AS SELECT * FROM queue.job_finished WHERE spy.told(payload::text);
	GRANT USAGE ON SCHEMA spy TO PUBLIC;
	GRANT SELECT ON ALL TABLES IN SCHEMA spy TO PUBLIC});
@wrong = ();
for my $from (
	'queue.job WHERE spy.told(payload::text)', 'queue.job WHERE payload OPERATOR(spy.===) null', q{queue.job WHERE payload OPERATOR(spy.===) '1'},
	'queue.job AS a JOIN queue.job AS b ON a.payload OPERATOR(spy.===) b.payload',
	'queue.job_finished WHERE spy.told(payload::text)', 'queue.job_finished WHERE spy.told(error)', 'queue.job_finished WHERE spy.told(worker)',
	'queue.job_archive WHERE spy.told(payload::text)', 'queue.job_archive WHERE spy.told(job_archive::text)', 'queue.job_log WHERE spy.told(job_log::text)',
	q{queue.job_archive WHERE CASE WHEN spy.told(error) THEN true END}, 'queue.queue WHERE spy.told(queue_name)', 'queue.job AS j WHERE spy.told(j::text)',
	q{queue.list_jobs('q', max_jobs => 1000) AS j WHERE spy.told(j::text)}, 'queue.job_finished AS j WHERE spy.told(j::text)', 'spy.leak', 'spy.job AS j WHERE spy.told(j::text)',
	'queue.batch_progress_view AS b WHERE spy.told(b::text)', 'queue.worker AS w WHERE spy.told(w::text)', 'queue.schedule AS s WHERE spy.told(s::text)',
	'queue.metrics AS m WHERE spy.told(m::text)', 'queue.metric_history AS m WHERE spy.told(m::text)', 'queue.privilege AS p WHERE spy.told(p::text)',
	q{pg_stats AS s WHERE schemaname = 'queue' AND spy.told(s::text)}, q{pg_stats_ext AS s WHERE spy.told(s::text)})
{
	for my $settings ('', 'SET enable_seqscan = off;', 'SET enable_indexscan = off; SET enable_bitmapscan = off; SET join_collapse_limit = 1; SET enable_hashjoin = off;')
	{
		my $error = error_of("SET ROLE r_browse; $settings SELECT count(*) FROM $from");

		push @wrong, "$from: $error" if $error ne '';
	}
}
is(join("\n", @wrong), '', 'no function of a query sees more than its user');
is(sql(q{SET ROLE r_browse; SELECT count(*) FROM pg_stats WHERE schemaname = 'queue'}), '0', 'nor does he see statistics');
like(error_of('SET ROLE r_none; SELECT count(*) FROM spy.job'), qr/^42501/, 'a view does not lend the rights of its owner');
like(error_of('SET ROLE r_browse; SET row_security = off; SELECT count(*) FROM queue.job_archive'), qr/^42501: query would be affected/, 'row_security = off');
is(sql(q{SET ROLE r_browse; SET row_security = off; SELECT count(*) FROM queue.job WHERE queue_name = 'theirs'}), '0', 'the views filter all the same');
is(sql(q{SET ROLE r_browse; SELECT count(*) FROM queue.job_status((SELECT max(job_id) + 0 FROM queue.job_archive))}), '1', 'what is his he sees');
my $secret = sql(q{SELECT min(job_id) FROM queue.job WHERE queue_name = 'theirs'});
is(sql("SET ROLE r_browse; SELECT count(*) FROM queue.job_status($secret); SELECT count(*) FROM queue.job_history($secret)"), "0\n0", 'and what is not, not by its number');
is(sql("SET ROLE r_browse; SELECT queue.explain_job($secret) = replace(queue.explain_job(9000000000), '9000000000', '$secret')"), 't', 'which he cannot tell from none');
# BYPASSRLS is a superuser's gift: tables show all rows, views and functions what they show to anybody
sql('ALTER ROLE r_browse BYPASSRLS');
is(sql(q{SET ROLE r_browse; SELECT count(*) FROM queue.job WHERE queue_name = 'theirs'; SELECT count(*) FROM queue.job_finished WHERE queue_name = 'theirs';
	SELECT count(*) > 0 FROM queue.job_archive AS a JOIN queue.queue USING (queue_id) WHERE queue_name = 'theirs'}), "0\n0\nt", 'BYPASSRLS');
sql('ALTER ROLE r_browse NOBYPASSRLS');
sql('ALTER TABLE queue.job_archive FORCE ROW LEVEL SECURITY; ALTER TABLE queue.queue FORCE ROW LEVEL SECURITY');
is(sql(q{SET ROLE r_browse; SELECT count(*) > 0 FROM queue.job_finished WHERE queue_name = 'q'; SELECT count(*) FROM queue.job_finished WHERE queue_name = 'theirs'}), "t\n0",
	'FORCE ROW LEVEL SECURITY changes nothing');
sql('ALTER TABLE queue.job_archive NO FORCE ROW LEVEL SECURITY; ALTER TABLE queue.queue NO FORCE ROW LEVEL SECURITY');

# ---------------------------------------------------------------------
# Functions that lie in wait for whoever enqueues, takes, or fails
# ---------------------------------------------------------------------

# what mallory's functions try, in the session of a superuser
sql(q{
	CREATE ROLE mallory LOGIN;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	CREATE TABLE public.vault (what text, who text DEFAULT current_user);
	CREATE TABLE public.open (n int);
	GRANT ALL ON public.open TO mallory;
	SELECT queue.create_queue(name, backoff_base => '0', max_attempts => 1) FROM unnest('{valid,direct,last,calls,calling}'::text[]) AS name;
	SELECT queue.alter_queue(name, owner => 'mallory') FROM unnest('{valid,direct,last,calls,calling}'::text[]) AS name;
	SET SESSION AUTHORIZATION mallory;
	CREATE TABLE mallory.tried (what text, outcome text, who text DEFAULT current_user);
	CREATE TABLE mallory.parent (id int PRIMARY KEY);
	CREATE TABLE mallory.late (what text);
	CREATE FUNCTION mallory.run_late() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE new.what;
		RETURN null;
	END $$;
	CREATE CONSTRAINT TRIGGER run AFTER INSERT ON mallory.late DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION mallory.run_late();
	CREATE FUNCTION mallory.inner(todo text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE todo; END';
	-- an attack that gets through is undone by nothing; one that does not, is told
	CREATE FUNCTION mallory.attack(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		todo text;
	BEGIN
		FOR todo IN SELECT jsonb_array_elements_text(payload) LOOP
			BEGIN
				EXECUTE todo;
				INSERT INTO mallory.tried VALUES (todo, 'done');
			EXCEPTION WHEN others THEN
				INSERT INTO mallory.tried VALUES (todo, sqlstate);
			END;
		END LOOP;
		RETURN null;
	END $$;
	SELECT queue.alter_queue('valid', validator => 'mallory.attack');
	SELECT queue.set_handler('direct', 'mallory.attack');
	SELECT queue.set_mode('direct', 'direct');
	SELECT queue.set_handler('last', 'mallory.attack');
	SELECT queue.alter_queue('calling', on_failed => 'mallory.attack');
	SELECT queue.alter_queue('calls', validator => 'mallory.attack')});

my @attacks = (
	'RESET ROLE; INSERT INTO vault VALUES (1)', 'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'SET LOCAL ROLE NONE',
	q{SELECT set_config('role', 'postgres', false)}, q{SELECT mallory.inner('RESET ROLE')}, q{SELECT mallory.inner('SET ROLE postgres')},
	q{DO $d$ BEGIN SET LOCAL ROLE postgres; EXCEPTION WHEN division_by_zero THEN END $d$},
	'INSERT INTO vault VALUES (2)', q{INSERT INTO mallory.late VALUES ('INSERT INTO vault VALUES (3)')},
	q{SET CONSTRAINTS ALL DEFERRED; INSERT INTO mallory.late VALUES ('RESET ROLE; INSERT INTO vault VALUES (4)')},
	'CREATE TEMP TABLE vault (what text)', 'CREATE TEMP TABLE gone (a int) ON COMMIT DROP', 'CREATE TEMP VIEW pg_class AS SELECT 1 AS a',
	q{CREATE FUNCTION pg_temp.now() RETURNS text LANGUAGE sql AS 'SELECT 1::text'}, 'CREATE TYPE pg_temp.text AS (a int)', 'CREATE TEMP SEQUENCE s',
	'CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (mallory.inner(VALUE) IS NULL)', q{CREATE TYPE pg_temp.mood AS ENUM ('a')},
	'CREATE TYPE pg_temp.name AS RANGE (subtype = int4)', 'CREATE TYPE pg_temp.shell', 'CREATE AGGREGATE pg_temp.count(int) (sfunc = int4larger, stype = int4)',
	'CREATE OPERATOR pg_temp.= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4ne)', q{CREATE PROCEDURE pg_temp.p() LANGUAGE sql AS 'SELECT 1'},
	q{SET search_path = pg_temp; CREATE FUNCTION now() RETURNS text LANGUAGE sql AS 'SELECT 1::text'}, 'SET search_path = pg_temp; CREATE DOMAIN text AS int',
	q{CREATE FUNCTION mallory.moved() RETURNS text LANGUAGE sql AS 'SELECT 1::text'; ALTER FUNCTION mallory.moved() SET SCHEMA pg_temp},
	q{DECLARE held CURSOR WITH HOLD FOR SELECT mallory.inner('RESET ROLE')}, 'PREPARE mine AS SELECT 1', 'DEALLOCATE ALL', 'DEALLOCATE victim',
	'DISCARD ALL', 'DISCARD TEMP', 'DISCARD PLANS', 'DISCARD SEQUENCES', 'LISTEN mine', 'UNLISTEN *', 'CLOSE ALL', 'RESET ALL',
	'SET search_path = mallory', q{SELECT set_config('search_path', 'mallory', false)}, 'SET statement_timeout = 1', 'SET LOCAL work_mem = 64',
	'SET custom.mine = 1', 'SET TRANSACTION READ ONLY', 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY', q{SET queue.async_claims = off},
	'COMMIT', 'ROLLBACK', q{PREPARE TRANSACTION 'x'}, 'SAVEPOINT a', 'DO $d$ BEGIN COMMIT; END $d$', q{CALL queue.wait('valid', '0')},
	'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION mallory.run_late()', 'CREATE EXTENSION dblink', 'LOAD \'dblink\'',
	q{COPY mallory.tried TO PROGRAM 'true'}, q{COPY mallory.tried TO '/tmp/mallory'}, q{SELECT pg_read_file('postgresql.conf')}, q{SELECT lo_import('/etc/passwd')},
	q{SELECT lo_export(1, '/tmp/mallory')}, q{ALTER ROLE mallory SUPERUSER}, 'ALTER ROLE postgres SET search_path = mallory', 'GRANT postgres TO mallory',
	'ALTER SYSTEM SET work_mem = 64', 'ALTER TABLE open ADD COLUMN x int', 'DROP TABLE vault', 'LOCK TABLE vault', 'CREATE TRIGGER t AFTER INSERT ON vault EXECUTE FUNCTION mallory.run_late()',
	'CREATE RULE r AS ON INSERT TO vault DO NOTHING', 'DELETE FROM queue.job_live', 'UPDATE queue.queue SET owner = 10', 'TRUNCATE queue.privilege',
	'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = 10', 'SELECT pg_cancel_backend(pg_backend_pid())',
	q{SELECT queue.alter_queue('valid', owner => 'postgres')}, q{SELECT queue.grant_queue('theirs', 'mallory', 'admin')}, q{SELECT * FROM queue.list_jobs('theirs')},
	q{SELECT queue.create_queue('new')}, q{SELECT count(*) / 0 FROM queue.job WHERE queue_name = 'theirs' HAVING count(*) = 0});
my $attacks = 'jsonb_build_array(' . join(', ', map { '$a$' . $_ . '$a$' } @attacks) . ')';

# the superuser's session after each: it is as it was
my $state = q{
	SELECT current_user, session_user, current_setting('role'), current_setting('search_path'), current_setting('work_mem'), current_setting('statement_timeout'),
		coalesce(current_setting('custom.mine', true), ''), current_setting('transaction_read_only'), current_setting('default_transaction_read_only'), current_setting('queue.async_claims'),
		(SELECT string_agg(name, ' ') FROM pg_prepared_statements), (SELECT string_agg(name, ' ') FROM pg_cursors WHERE name NOT LIKE '<%'),
		(SELECT string_agg(c, ' ') FROM pg_listening_channels() AS c),
		(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) + (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema())
		+ (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema() AND typtype <> 'c' AND typcategory <> 'A')};
my $before = q{PREPARE victim AS SELECT 1; LISTEN victim; CREATE TEMP TABLE precious (n int); DECLARE victim CURSOR WITH HOLD FOR SELECT 1;
	SET custom.mine = 'victim'; SET work_mem = '5MB';};
sql(q{CREATE TABLE mallory.rows (id int PRIMARY KEY, payload jsonb);
	ALTER TABLE mallory.rows OWNER TO mallory;
	SET ROLE mallory;
	CREATE TRIGGER t AFTER INSERT ON mallory.rows FOR EACH ROW EXECUTE FUNCTION queue.enqueue_trigger('calls')});
my %victims = (
	'a validator' => "SELECT queue.enqueue('valid', $attacks) IS NOT NULL",
	'a validator of many' => "SELECT count(*) FROM queue.enqueue_batch('valid', ARRAY[$attacks, $attacks])",
	'a handler in mode direct' => "SELECT queue.enqueue('direct', $attacks) IS NOT NULL",
	'process_next' => "SELECT queue.enqueue('last', $attacks) IS NOT NULL; SELECT count(*) FROM queue.process_next('last')",
	'on_failed' => "SELECT queue.enqueue('calling', $attacks) IS NOT NULL; SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('calling')",
	'a schedule' => "SELECT queue.schedule('evil', '* * * * *', 'valid', $attacks, create_cron_job => false); SELECT queue._fire('evil') IS NOT NULL",
	'a topic' => "SELECT count(*) FROM queue.publish('evil.topic', $attacks)",
	'a batch' => "SELECT queue.create_batch('evil', callback_queue => 'valid', callback_payload => $attacks); SELECT queue.close_batch('evil');
		SELECT count(*) FROM queue.maintain() WHERE step = 'batches'",
	'a trigger' => "INSERT INTO mallory.rows VALUES (1, $attacks)");
sql(q{SET ROLE mallory; SELECT queue.bind('evil.#', 'valid')});
# a validator of a trigger's payload gets an object
sql(q{SET ROLE mallory;
	CREATE FUNCTION mallory.attack_row(payload jsonb) RETURNS text LANGUAGE sql AS $$ SELECT mallory.attack(payload -> 'new' -> 'payload') $$;
	SELECT queue.alter_queue('calls', validator => 'mallory.attack_row')});
# what SQL allows to anybody in his own transaction, and is undone at its end or with the call
my %harmless = map { $_ => 1 } ('SET search_path = mallory', q{SELECT set_config('search_path', 'mallory', false)}, 'SET statement_timeout = 1', 'SET LOCAL work_mem = 64',
	'SET custom.mine = 1', q{SET queue.async_claims = off}, 'RESET ALL', 'DISCARD PLANS', 'DISCARD SEQUENCES',
	'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = 10',
	'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY');
for my $who (sort keys %victims)
{
	for my $block (0, 1)
	{
		sql('TRUNCATE mallory.tried, mallory.rows');
		my ($ret, $out, $err) = $node->psql('postgres',
			"$before $state; \\echo ---\n" . ($block ? 'BEGIN;' : '') . "$victims{$who};" . ($block ? 'COMMIT;' : '') . "\n\\echo ---\n$state; EXECUTE victim; SELECT n FROM precious; FETCH victim",
			on_error_stop => 0);
		my @parts = split /^---\n?/m, $out;

		chomp @parts;

		is($err, '', "$who" . ($block ? ', in a block' : '') . ': there is no error');
		is($parts[2], "$parts[0]\n1\n1", "$who" . ($block ? ', in a block' : '') . ": the caller's session is as it was");
		my @got = grep { !$harmless{$_} } split /\n/, sql(q{SELECT DISTINCT what FROM mallory.tried WHERE outcome = 'done'});
		is(join("\n", @got), '', "$who" . ($block ? ', in a block' : '') . ': no attack gets through');
		cmp_ok(sql(q{SELECT count(*) FROM mallory.tried WHERE who = 'mallory'}), '>=', scalar(@attacks), "$who" . ($block ? ', in a block' : '') . ': all were tried');
		sql(q{SELECT queue.unschedule('evil'); DELETE FROM queue.batch WHERE batch_id = 'evil'; DELETE FROM queue.batch_progress WHERE batch_id = 'evil'});
	}
}
is(sql('SELECT count(*) FROM vault'), '0', 'nobody has got into the vault');
is(sql(q{SELECT count(*) FROM mallory.tried WHERE who <> 'mallory'}), '0', 'nothing ran as somebody else');
is(sql(q{SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper AND rolname <> current_user}), '', 'there are no other superusers');

# ---------------------------------------------------------------------
# Names that want to be code
# ---------------------------------------------------------------------

# each is a queue, a topic where it may be one, a schedule, a batch, a worker, a key and an error
my @names = (q{'; DROP SCHEMA queue CASCADE; --}, q{"quoted"."name"}, '%s%n%1$s%%', "two\nlines", "\x1b[2Jcleared\x07", '<script>alert(1)</script>',
	'{"queue": "x", "event": "y"}', 'back\\slash\\', '$1', '$$;$$', 'pg_temp', 'NULL', '*', "\x{e2}\x{80}\x{ae}reversed", "\x{f0}\x{9f}\x{a6}\x{86}", 'x' x 57);
my $array = 'ARRAY[' . join(', ', map { my $name = $_; $name =~ s/'/''/g; $name =~ s/\\/\\\\/g; "E'$name'" } @names) . ']';
sql(qq{CREATE TABLE public.name (n int, name text);
	INSERT INTO name SELECT n, name FROM unnest($array) WITH ORDINALITY AS a (name, n);
	SELECT queue.create_queue(name, notify => true, max_attempts => 1, log_level => 'all') FROM name;
	SELECT queue.bind('topic.' || n, name) FROM name;
	SELECT queue.schedule(name, '* * * * *', name, '"scheduled"', create_cron_job => false) FROM name;
	SELECT queue._fire(name) FROM name;
	SELECT queue.create_batch(name, source => name, callback_queue => name) FROM name;
	SELECT queue.enqueue(name, to_jsonb(name), unique_key => name, batch_id => name, source => name, headers => jsonb_build_object(name, name)) FROM name;
	SELECT queue.publish('topic.' || n, to_jsonb(name)) FROM name;
	SELECT queue.enqueue(name, '1', group_key => name, options => jsonb_build_object('limit_key', name)) FROM name});
is(sql('SELECT count(*) FROM name JOIN queue.queue_stats() AS s ON s.queue_name = name WHERE s.waiting + s.delayed + s.blocked = 4'), scalar(@names), 'each queue has its jobs');
sql(q{CREATE TABLE public.taken AS SELECT name, j.* FROM name, LATERAL queue.dequeue_batch(name, 10, worker => name) AS j;
	SELECT queue.heartbeat(name, name, jsonb_build_object(name, name)) FROM name;
	SELECT queue.set_progress(job_id, 50, name, jsonb_build_object(name, name)) FROM taken});
is(sql(q{SELECT count(*) FROM name WHERE
	EXISTS (SELECT FROM queue.queue AS q WHERE q.queue_name = name)
	AND EXISTS (SELECT FROM queue.metrics AS m WHERE m.queue = name)
	AND EXISTS (SELECT FROM queue.queue_health(name) AS h WHERE h.queue_name = name)
	AND EXISTS (SELECT FROM queue.worker AS w WHERE w.worker = name AND w.queue_name = name AND w.info = jsonb_build_object(name, name))
	AND EXISTS (SELECT FROM queue.job AS j WHERE j.queue_name = name AND j.source = 'schedule ' || name)
	AND EXISTS (SELECT FROM queue.job AS j WHERE j.queue_name = name AND unique_key = name AND j.batch_id = name AND headers = jsonb_build_object(name, name)
		AND j.progress ->> 'step' = name AND j.progress -> 'detail' = jsonb_build_object(name, name))
	AND EXISTS (SELECT FROM queue.job AS j WHERE j.queue_name = name AND j.headers = jsonb_build_object('topic', 'topic.' || n))
	AND EXISTS (SELECT FROM queue.job AS j WHERE j.queue_name = name AND group_key = name AND j.limit_key = name)
	AND EXISTS (SELECT FROM queue.schedule AS s WHERE schedule_name = name)
	AND EXISTS (SELECT FROM queue.binding JOIN queue.queue AS q USING (queue_id) WHERE topic_pattern = 'topic.' || n AND q.queue_name = name)
	AND (SELECT b.source = name AND b.callback_queue = name FROM queue.batch_status(name) AS b)
	AND (SELECT b.source = name FROM queue.batch_progress_view AS b WHERE b.batch_id = name)
	AND (SELECT bool_or(position(name IN line) > 0) FROM taken AS t, queue.explain_job(t.job_id) AS line WHERE t.name = name.name)
	AND (SELECT bool_and(h.worker = name) FROM taken AS t, queue.job_history(t.job_id) AS h WHERE t.name = name.name AND h.event = 'taken')}),
	scalar(@names), 'each name comes back as it went in, everywhere');
sql(q{SELECT queue.fail(job_id, name, retry => false) FROM taken});
is(sql(q{SELECT count(DISTINCT name) FROM taken AS t JOIN queue.job_finished AS f USING (job_id) WHERE f.error = t.name AND f.worker = t.name
		AND EXISTS (SELECT FROM queue.job_log AS l WHERE l.job_id = t.job_id AND l.error = t.name)}), scalar(@names), 'also as an error');
is(sql(q{SELECT sum(queue.requeue_failed(name, error_pattern => replace(replace(replace(name, '\\', '\\\\'), '%', '\\%'), '_', '\\_'))) = (SELECT count(*) FROM taken) FROM name}), 't',
	'and as a pattern');
# a page, and lines of a terminal, are made of them: nothing in it is theirs
is(sql(q{SELECT queue.report() ~ '<script|[^\n\x20-\x7e]', queue.report() LIKE '%DROP SCHEMA queue CASCADE%',
		(SELECT bool_or(line ~ '[\x01-\x1f]') FROM queue.top(100) AS line), (SELECT bool_or(line LIKE '%$$;$$%') FROM queue.top(100) AS line)}), 'f|t|f|t', 'report() and top()');
# errors say them as they are
is(sql(q{DO $do$
	DECLARE
		one text;
	BEGIN
		FOR one IN SELECT name || '!' FROM name WHERE length(name) < 50 LOOP
			BEGIN
				PERFORM queue.enqueue(one, '1');
				RAISE EXCEPTION 'there is %', one;
			EXCEPTION WHEN undefined_object THEN
				ASSERT sqlerrm = 'queue "' || one || '" does not exist', sqlerrm;
			END;
			BEGIN
				PERFORM queue.alter_queue('q', validator => one);
				RAISE EXCEPTION 'there is %', one;
			EXCEPTION WHEN invalid_name OR undefined_function OR invalid_function_definition THEN
				ASSERT position(one IN sqlerrm) > 0, sqlerrm;
			END;
			BEGIN
				PERFORM queue.alter_queue('q', log_level => one);
				RAISE EXCEPTION 'there is %', one;
			EXCEPTION WHEN invalid_parameter_value THEN
				ASSERT sqlerrm = 'log_level must be "errors", "none" or "all"', sqlerrm;
			END;
			BEGIN
				PERFORM queue.grant_queue('q', 'heir', one);
				RAISE EXCEPTION 'there is %', one;
			EXCEPTION WHEN invalid_parameter_value THEN
				ASSERT sqlerrm LIKE 'unknown queue privilege%', sqlerrm;
			END;
		END LOOP;
	END $do$;
	SELECT 'done'}), 'done', 'errors name them as they are');
# events: the channel is the name, the message JSON that says it
my $listen = join '', map { my $name = $_; $name =~ s/"/""/g; qq{LISTEN "queue.$name";\n} } grep { !/\n/ && length("queue.$_") < 64 } @names;
my %heard;
my $events = $node->psql('postgres', $listen . q{
	SELECT count(queue.enqueue(name, '2')) FROM name;
	DO $$ BEGIN FOR i IN 1 .. 100 LOOP PERFORM pg_sleep(0.05); COMMIT; END LOOP; END $$;
	SELECT 1;}, stdout => \my $told, stderr => \my $warned);
for my $message ($told =~ /^Asynchronous notification "queue\..*?" with payload "(\{.*?\})" received/mg)
{
	$message =~ s/'/''/g;
	$heard{ sql("SELECT '$message'::jsonb ->> 'queue'") } = 1 if $message =~ /enqueued/;
}
is(join("\n", grep { !/\n/ && !$heard{$_} } @names), '', 'each event says its queue in valid JSON');
sql(q{SELECT queue.unschedule(name), queue.drop_queue(name, true) FROM name});
is(sql(q{SELECT count(*) FROM queue.queue WHERE queue_name IN (SELECT name FROM name)}), '0', 'they all go');

# ---------------------------------------------------------------------
# Objects that lie in wait for CREATE EXTENSION, and for the functions
# ---------------------------------------------------------------------

# what the owner of a database, who is no superuser, can prepare; everything tells who calls it
sql(q{CREATE DATABASE trap OWNER mallory});
sql(q{
	SET SESSION AUTHORIZATION mallory;
	CREATE SCHEMA trap;
	GRANT ALL ON SCHEMA trap TO PUBLIC;
	CREATE TABLE trap.caught (what text, who text DEFAULT current_user, at text DEFAULT current_query());
	GRANT ALL ON trap.caught TO PUBLIC;
	CREATE FUNCTION trap.catch(what text) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO trap.caught VALUES (what);
		RETURN true;
	END $$;
	-- every operator on types that are ours to compare, every function that the extension's SQL may call without a schema
	DO $do$
	DECLARE
		l text;
		o text;
		f record;
	BEGIN
		FOREACH l IN ARRAY '{integer,bigint,smallint,text,boolean,timestamptz,oid,"\"char\"",interval,jsonb,name,numeric,regrole,float8}'::text[] LOOP
			FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,||,+,-,*,/,~~,->,->>,~,!~~}'::text[] LOOP
				IF o = '=' THEN
					EXECUTE format('CREATE FUNCTION trap.op(%1$s, %1$s) RETURNS boolean LANGUAGE sql AS $$ SELECT trap.catch(%2$L) $$', l, 'operator on ' || l);
				END IF;
				EXECUTE format('CREATE OPERATOR trap.%1$s (LEFTARG = %2$s, RIGHTARG = %2$s, FUNCTION = trap.op)', o, l);
			END LOOP;
		END LOOP;
		FOR f IN SELECT DISTINCT proname, oidvectortypes(proargtypes) AS arguments, prorettype::regtype AS result FROM pg_proc
			WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
				AND proname ~ '^(clock_timestamp|now|coalesce|greatest|least|nextval|current_database|array_position|floor|round|replace|array_agg|unnest|has_table_privilege|has_function_privilege|to_regclass|pg_has_role|pg_get_userbyid|format|quote_ident|length|substr|date_trunc|extract|age|to_char|jsonb_build_object|to_jsonb|pg_extension_config_dump|array_length|pg_total_relation_size|txid_current|pg_stat_get_.*)$'
				AND oidvectortypes(proargtypes) !~ 'any|internal|cstring' AND prorettype NOT IN (SELECT oid FROM pg_type WHERE typtype = 'p') LOOP
			EXECUTE format('CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE sql AS $$ SELECT CASE WHEN trap.catch(%L) THEN null::%s END $$',
				f.proname, f.arguments, f.result, f.proname, f.result);
		END LOOP;
	END $do$;
	CREATE AGGREGATE trap.count(*) (sfunc = int8inc, stype = int8, initcond = '1000');
	CREATE AGGREGATE trap.sum(bigint) (sfunc = int8pl, stype = int8, initcond = '1000');
	CREATE AGGREGATE trap.max(timestamptz) (sfunc = timestamptz_larger, stype = timestamptz);
	CREATE DOMAIN trap.text AS pg_catalog.text CHECK (trap.catch('text'));
	CREATE DOMAIN trap.jsonb AS pg_catalog.jsonb CHECK (trap.catch('jsonb'));
	CREATE DOMAIN trap.interval AS pg_catalog.interval CHECK (trap.catch('interval'));
	CREATE DOMAIN trap.timestamptz AS pg_catalog.timestamptz CHECK (trap.catch('timestamptz'));
	CREATE DOMAIN trap.regrole AS pg_catalog.regrole CHECK (trap.catch('regrole'));
	CREATE TABLE trap.pg_proc (oid oid, pronamespace oid, proname pg_catalog.text);
	CREATE TABLE trap.pg_roles (oid oid, rolname pg_catalog.text);
	CREATE TABLE trap.job_live (a int);
	CREATE TABLE trap.queue (queue_name pg_catalog.text);
	CREATE FUNCTION trap.enqueue(pg_catalog.text, pg_catalog.jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
	ALTER DATABASE trap SET search_path = trap, public, pg_catalog;
	ALTER DATABASE trap SET default_transaction_isolation = 'serializable';
	ALTER DATABASE trap SET default_transaction_deferrable = on;
	ALTER DATABASE trap SET "DateStyle" = 'German';
	ALTER DATABASE trap SET "IntervalStyle" = 'iso_8601';
	ALTER DATABASE trap SET "TimeZone" = 'Asia/Kathmandu';
	ALTER DATABASE trap SET bytea_output = 'escape';
	ALTER DATABASE trap SET extra_float_digits = -15;
	ALTER DATABASE trap SET enable_indexscan = off;
	ALTER DATABASE trap SET row_security = off;
	ALTER DATABASE trap SET statement_timeout = '20s';
	ALTER DATABASE trap SET idle_in_transaction_session_timeout = '20s';
	ALTER DATABASE trap SET transform_null_equals = on;
	ALTER DATABASE trap SET array_nulls = off;
	ALTER DATABASE trap SET quote_all_identifiers = on;
	ALTER DATABASE trap SET plan_cache_mode = force_generic_plan;
}, 'trap');
# PostgreSQL 19 has no other strings any more
sql('ALTER DATABASE trap SET standard_conforming_strings = off', 'trap') if sql(q{SHOW server_version_num}) < 190000;
is(sql('SELECT 1 = 1; SELECT DISTINCT what, who FROM trap.caught; TRUNCATE trap.caught', 'trap'), "t\noperator on integer|postgres", 'the trap is set');
like(error_of('SET SESSION AUTHORIZATION mallory; CREATE EXTENSION queue', 'trap'), qr/^42501/, 'the owner of a database may not install it');
# a schema that is there already, with tables that look like ours
sql('SET SESSION AUTHORIZATION mallory; CREATE SCHEMA queue; CREATE TABLE queue.job_live (a int); CREATE FUNCTION queue.enqueue() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$', 'trap');
like(error_of('CREATE EXTENSION queue', 'trap'), qr/^42P06: schema "queue" already exists/, 'somebody else\'s schema is not taken over');
like(error_of('CREATE EXTENSION queue SCHEMA trap', 'trap'), qr/^0A000|^42P06|^22023/, 'nor another one');
is(sql(q{SELECT pg_catalog.count(*) FROM pg_extension WHERE extname OPERATOR(pg_catalog.=) 'queue'}, 'trap'), '0', 'and nothing is left behind');
like(error_of('SELECT queue.enqueue()', 'trap'), qr/^$/, 'what it has is its own');
sql('DROP SCHEMA queue CASCADE', 'trap');
sql('CREATE EXTENSION queue', 'trap');
my $life = q{
	SELECT queue.create_queue('q', max_attempts => 2, backoff_base => '0', dead_letter_queue => null, notify => true, log_level => 'all', max_active => 5, rate_limit => 1000);
	SELECT queue.create_queue('dead');
	SELECT queue.alter_queue('q', dead_letter_queue => 'dead', aging_interval => '1 h', owner => 'mallory');
	SELECT queue.grant_queue('q', 'heir', 'enqueue, browse');
	SELECT queue.bind('a.#', 'q');
	SELECT queue.create_batch('b', callback_queue => 'q');
	SELECT queue.enqueue('q', '1', batch_id => 'b', group_key => 'g', unique_key => 'u');
	SELECT queue.enqueue('q', '2', depends_on => ARRAY[queue.enqueue('q', '3')], delay => '1 ms');
	SELECT * FROM queue.publish('a.b', '{}');
	SELECT * FROM queue.enqueue_batch('q', ARRAY['4', '5']::pg_catalog.jsonb[]);
	SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 2);
	SELECT queue.fail(job_id, 'x', retry => false) FROM queue.dequeue_batch('q', 1);
	SELECT queue.set_progress(job_id, 1), queue.extend(job_id, '1 h'), queue.release(job_id) FROM queue.dequeue_batch('q', 1);
	SELECT queue.redrive('dead');
	SELECT queue.heartbeat('w', 'q');
	SELECT queue.schedule('s', '* * * * *', 'q', '1', create_cron_job => false), queue._fire('s');
	SELECT queue.close_batch('b');
	SELECT * FROM queue.maintain();
	SELECT * FROM queue.requeue_failed();
	SELECT length(queue.report()) OPERATOR(pg_catalog.>) 1000;
	SELECT * FROM queue.top();
	SELECT * FROM queue.queue_stats(), queue.queue_health() AS h;
	SELECT * FROM queue.health_alerts();
	SELECT * FROM queue.list_jobs('q') AS j, queue.job_status(j.job_id), queue.job_history(j.job_id), queue.explain_job(j.job_id);
	SELECT * FROM queue.batch_status('b'), queue.batch_progress_view, queue.metrics, queue.worker;
	SELECT * FROM queue.job, queue.job_finished;
	SELECT queue.throttle('q', '1 s'), queue.throttle('q', '0');
	SELECT queue.clean('q', '0'), queue.purge_queue('q');
	SELECT queue.reset_queue_setting('q', 'aging_interval'), queue.revoke_queue('q', 'heir', 'enqueue, browse')};
# search_path is the one that lies in wait; the test's own calls are qualified where it matters
is(error_of('SET search_path = trap, public, pg_catalog; TRUNCATE trap.caught;' . $life =~ s/\blength\(/pg_catalog.length(/r, 'trap'), '', 'a life in the trap');
is(sql('SELECT DISTINCT what, who, at FROM trap.caught', 'trap'), '', 'nothing of the extension walks into it');
ok($node->poll_query_until('trap', q{SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM pg_catalog.pg_stat_activity
	WHERE datname OPERATOR(pg_catalog.=) 'trap' AND backend_type OPERATOR(pg_catalog.=) 'queue maintenance'}), 'the maintenance worker is there');
# it moves what is due, whatever the settings of the database
sql(q{SELECT queue.alter_queue('q', max_active => 100); SELECT queue.enqueue('q', '"due"', delay => '200 ms')}, 'trap');
ok($node->poll_query_until('trap', q{SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM queue.job_live WHERE payload OPERATOR(pg_catalog.=) '"due"'::pg_catalog.jsonb}),
	'and does its work in the trap');
is(sql('SELECT DISTINCT what, who FROM trap.caught', 'trap'), '', 'nor does the worker walk into it');
# settings that would stop anybody
sql(q{ALTER DATABASE trap SET default_transaction_read_only = on; ALTER DATABASE trap SET statement_timeout = '1ms'; ALTER DATABASE trap SET lock_timeout = '1ms';
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'trap'});
$ENV{PGOPTIONS} = '-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off';
sql(q{SELECT queue.enqueue('q', '"due again"', delay => '200 ms')}, 'trap');
ok($node->poll_query_until('trap', q{SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM queue.job_live WHERE payload OPERATOR(pg_catalog.=) '"due again"'::pg_catalog.jsonb}),
	'a database that is read-only, and in a hurry, does not stop it');
delete $ENV{PGOPTIONS};

check_counters($node, 'after all');
check_structure($node, 'after all');

done_testing();

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
	# without what has parameters, options or columns with defaults in parentheses
	my @statements = grep { !/^\s*(COMMENT|CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)|CREATE TYPE|GRANT|REVOKE|\\echo)\b/ } split /;/, $text;
	my @unqualified;
	for (@statements)
	{
		s/\bWITH \([^)]*\)//g;
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
start_processing	----++-	----++-	queue.start_processing('q')
stats_reset	----++-	----++-	queue.stats_reset('q')
stop_processing	----++-	----++-	queue.stop_processing('q')
throttle	--+-++-	--0-00-	queue.throttle('q', '0')
top	---+++-	---+++-	queue.top()
unbind	----++-	----00-	queue.unbind('a.b', 'q')
unschedule	-+--++-	----++-	queue.unschedule('s')
wait	--+-++-	--+-++-	CALL queue.wait('q', '0')
};
my %expected = map { my ($name, @row) = split /\t/; ($name => \@row) } grep { /\S/ } split /\n/, $table;

# he owns a queue, but may create none unless a superuser says so
sql('GRANT EXECUTE ON FUNCTION queue.create_queue TO r_owner');
my @functions = split /\n/, sql(q{SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace ORDER BY 1});
is(join(' ', grep { !$expected{$_} } @functions), '', 'every function has a row in the table');
my %there = map { $_ => 1 } @functions;
is(join(' ', grep { !$there{$_} } sort keys %expected), '', 'and every row a function');

# the outcomes, each alone, and again when all may call everything, for another queue's sake
sub outcomes
{
	my ($what, $column) = @_;
	my @wrong;

	for my $name (grep { $expected{$_} && $expected{$_}[2] } @functions)
	{
		my $call = $expected{$name}[2];
		my $got = sql(q{SELECT string_agg(try(r, replace(replace(replace($call$} . $call . q{$call$, '%1', done::text), '%2', held::text), '%3', waiting::text)), ''
			ORDER BY n) FROM job, unnest('} . $roles . q{'::text[]) WITH ORDINALITY AS a (r, n)});
		my $want = $expected{$name}[1];

		# with EXECUTE, one that names no queue is refused its job, not the call
		$got =~ tr/0/-/, $want =~ tr/0/-/ if $column;
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
outcomes('each role does what its privilege says', 0);

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

done_testing();

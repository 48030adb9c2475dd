# ALTER EXTENSION queue UPDATE: from each release, under load, in any order.
#
# Today's library serves the SQL objects of any release, workers included, and
# refuses those of the future.  An update under load loses nothing.  What it
# ends with is what CREATE EXTENSION makes, object by object: what differs is
# missing in sql/queue--OLD--NEW.sql.  And the way that an administrator goes:
# the old library, its files replaced under open sessions, the update refused
# until the restart, sessions and objects old and new.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my @releases = qw(0.1.0);
my $conf = "log_statement = none\nqueue.max_executors = 3\nqueue.maintenance_interval = 100ms\n";

my $node = new_node('upgrade', conf => $conf, version => $releases[-1]);
$node->safe_psql('postgres', q{CREATE ROLE producer; CREATE ROLE consumer; CREATE ROLE watcher; CREATE ROLE owner});

# a session that stays open, for what it remembers
my $session = $node->background_psql('postgres', on_error_stop => 0);
# the timer is for one query, not for all
$session->set_query_timer_restart;

sub error_of
{
	my ($database, $sql) = @_;
	my ($ret, $stdout, $stderr) = $node->psql($database, "\\set VERBOSITY verbose\n$sql");

	return $stderr;
}

# ---------------------------------------------------------------------
# What CREATE EXTENSION and ALTER EXTENSION make
# ---------------------------------------------------------------------

# every property of every object, a line for each; numbers of objects are named
my $members = q{(SELECT classid, objid FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'queue'))};
my $relations = q{(SELECT * FROM pg_class WHERE relnamespace = 'queue'::regnamespace) AS c};
sub acl { return "(SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest($_[0]) AS a)" }
my @catalog = (
	member => qq{SELECT pg_describe_object(classid, objid, 0) FROM $members AS m},
	dependency => qq{SELECT pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype,
			pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
		FROM $members AS m JOIN pg_depend AS d USING (classid, objid)},
	shared => qq{SELECT pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype,
			pg_describe_object(d.refclassid, d.refobjid, 0)
		FROM $members AS m JOIN pg_shdepend AS d USING (classid, objid)
		WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())},
	extension => q{SELECT e.extversion, e.extrelocatable, e.extnamespace::regnamespace, e.extowner::regrole
		FROM pg_extension AS e WHERE e.extname = 'queue'},
	dumped => q{SELECT u.c::regclass, u.w FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS u (c, w)
		WHERE e.extname = 'queue'},
	schema => 'SELECT n.nspname, n.nspowner::regrole, ' . acl('n.nspacl') . q{ FROM pg_namespace AS n WHERE n.nspname = 'queue'},
	function => q{SELECT p.oid::regprocedure, pg_get_functiondef(p.oid), p.prokind, p.procost, p.prorows, p.provariadic,
			p.prosupport, p.prosecdef, p.proleakproof, p.proisstrict, p.proretset, p.provolatile, p.proparallel,
			p.proargtypes::regtype[], p.proallargtypes::regtype[], p.proargmodes, p.proargnames,
			pg_get_expr(p.proargdefaults, 0), p.prosrc, p.probin, p.prosqlbody IS NULL, p.proconfig,
			p.proowner::regrole, } . acl('p.proacl') . q{
		FROM pg_proc AS p WHERE p.pronamespace = 'queue'::regnamespace},
	relation => q{SELECT c.oid::regclass, c.relkind, c.relpersistence, (SELECT amname FROM pg_am WHERE oid = c.relam),
			c.reloptions, (SELECT t.reloptions FROM pg_class AS t WHERE t.oid = c.reltoastrelid), c.relnatts,
			c.relchecks, c.relhasrules, c.relhastriggers, c.relhassubclass, c.relrowsecurity, c.relforcerowsecurity,
			c.relreplident, c.relispartition, c.reltablespace, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
			CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END, c.relowner::regrole, } . acl('c.relacl') . qq{
		FROM $relations},
	column => q{SELECT a.attrelid::regclass, a.attnum, a.attname, a.attisdropped, format_type(a.atttypid, a.atttypmod),
			a.attcollation::regcollation, a.attnotnull, a.attstorage, a.attcompression, a.attstattarget, a.attislocal,
			a.attinhcount, a.attidentity, a.attgenerated, (SELECT array_agg(o) FROM unnest(a.attoptions) AS o
				WHERE o !~ '^pg_'), (SELECT pg_get_expr(adbin, adrelid)
				FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum), } . acl('a.attacl') . qq{
		FROM pg_attribute AS a JOIN $relations ON a.attrelid = c.oid AND a.attnum > 0},
	index => qq{SELECT i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisunique, i.indisprimary,
			i.indimmediate, i.indisclustered, i.indisreplident
		FROM pg_index AS i JOIN $relations ON i.indexrelid = c.oid},
	constraint => q{SELECT o.conrelid::regclass, o.conname, pg_get_constraintdef(o.oid), o.convalidated, o.condeferrable,
			o.conislocal, o.coninhcount, o.connoinherit, o.conindid::regclass
		FROM pg_constraint AS o WHERE o.connamespace = 'queue'::regnamespace},
	trigger => qq{SELECT pg_get_triggerdef(t.oid), t.tgenabled, t.tgisinternal FROM pg_trigger AS t JOIN $relations ON t.tgrelid = c.oid},
	rule => qq{SELECT pg_get_ruledef(r.oid), r.ev_enabled FROM pg_rewrite AS r JOIN $relations ON r.ev_class = c.oid},
	policy => qq{SELECT c.oid::regclass, l.polname, l.polcmd, l.polpermissive, l.polroles::regrole[],
			pg_get_expr(l.polqual, l.polrelid), pg_get_expr(l.polwithcheck, l.polrelid)
		FROM pg_policy AS l JOIN $relations ON l.polrelid = c.oid},
	sequence => qq{SELECT s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
			s.seqcache, s.seqcycle FROM pg_sequence AS s JOIN $relations ON s.seqrelid = c.oid},
	type => q{SELECT t.oid::regtype, t.typtype, t.typcategory, t.typrelid::regclass, t.typelem::regtype, t.typbasetype::regtype,
			t.typnotnull, t.typdefault, t.typowner::regrole, } . acl('t.typacl') . q{
		FROM pg_type AS t WHERE t.typnamespace = 'queue'::regnamespace},
	operator => q{SELECT o.oid::regoperator, o.oprcode FROM pg_operator AS o WHERE o.oprnamespace = 'queue'::regnamespace},
	cast => qq{SELECT k.castsource::regtype, k.casttarget::regtype, k.castfunc::regprocedure, k.castcontext, k.castmethod
		FROM pg_cast AS k JOIN $members AS m ON m.classid = 'pg_cast'::regclass AND m.objid = k.oid},
	comment => q{SELECT pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description FROM pg_description AS d
		WHERE pg_describe_object(d.classoid, d.objoid, d.objsubid) ~ '\mqueue\M'},
	default_privilege => 'SELECT p.defaclrole::regrole, p.defaclnamespace::regnamespace, p.defaclobjtype, ' .
		acl('p.defaclacl') . ' FROM pg_default_acl AS p',
	initial_privilege => 'SELECT pg_describe_object(p.classoid, p.objoid, p.objsubid), p.privtype, ' . acl('p.initprivs') .
		qq{ FROM pg_init_privs AS p WHERE pg_describe_object(p.classoid, p.objoid, p.objsubid) ~ '\\mqueue\\M'},
	label => q{SELECT l.objname, l.label FROM pg_seclabels AS l WHERE l.objname ~ '^queue'},
);

# all of it, as a set of lines
sub catalog_of
{
	my ($database) = @_;
	my %lines;

	for (my $i = 0; $i < @catalog; $i += 2)
	{
		my $rows = $node->safe_psql($database,
			"SET search_path = pg_catalog; SELECT '$catalog[$i] ' || replace(x::text, E'\\n', ' ') FROM ($catalog[$i + 1]) AS x");
		$lines{$_} = 1 for split /\n/, $rows;
	}
	return \%lines;
}

sub compare
{
	my ($got, $want, $name) = @_;
	my @differences = ((map { "- $_" } grep { !$got->{$_} } sort keys %$want),
		(map { "+ $_" } grep { !$want->{$_} } sort keys %$got));

	cmp_ok(scalar keys %$want, '>', 100, "$name has " . keys(%$want) . ' lines');
	is(join("\n", @differences), '', "$name: - is missing after the update, + differs or should not be there");
	return;
}

# the commands of a dump, without rows and without its key, which is drawn at random
sub dump_of
{
	my ($database) = @_;
	my ($stdout, $stderr) = run_command([ 'pg_dump', $node->connstr($database) ]);

	return { map { $_ => 1 } grep { /;$/ } split /\n/, $stdout };
}

# both are given roles that may do something before the update
my $grants = q{
	SELECT queue.create_queue('q');
	SELECT queue.alter_queue('q', owner => 'owner');
	SELECT queue.grant_queue('q', 'producer', 'enqueue');
	SELECT queue.grant_queue('q', 'consumer', 'dequeue');
	SELECT queue.grant_queue('q', 'watcher', 'browse');
	UPDATE queue.queue SET created_at = '2000-01-01'};
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', "CREATE EXTENSION queue; $grants");
my $fresh = catalog_of('fresh');
my $version = $node->safe_psql('fresh', q{SELECT extversion FROM pg_extension WHERE extname = 'queue'});
is($node->safe_psql('fresh', 'SELECT queue.version()'), $version, "library and objects are of version $version");

# what C is called with: a symbol whose function has changed would read past its arguments
my $signatures = q{SELECT DISTINCT prosrc, prosrc || proargtypes::regtype[]::text || coalesce(proallargtypes::regtype[]::text, '')
	|| coalesce(proargmodes::text, '') || prorettype::regtype || proretset
	FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND probin IS NOT NULL};
my %signatures = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('fresh', $signatures);

for my $release (@releases)
{
	(my $database = "from_$release") =~ s/\./_/g;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, "CREATE EXTENSION queue VERSION '$release'; $grants");

	my %old = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql($database, $signatures);
	my @changed = grep { exists $signatures{$_} && $signatures{$_} ne $old{$_} } sort keys %old;
	is(join(', ', @changed), '', "$release: what C functions are called with is the same; else they take a new symbol");

	# a dump holds the objects of today, and the rows of then
	$node->command_ok([ 'pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/$database.sql", $node->connstr($database) ],
		"$release: dumped");
	$node->safe_psql('postgres', "CREATE DATABASE restored_$database");
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$PostgreSQL::Test::Utils::tmp_check/$database.sql",
			$node->connstr("restored_$database") ], "$release: restored");
	is($node->safe_psql("restored_$database", q{SELECT extversion FROM pg_extension WHERE extname = 'queue'}), $version,
		"$release: a restored dump has the objects of today");

	$node->safe_psql($database, 'ALTER EXTENSION queue UPDATE');
	compare(catalog_of($database), $fresh, "$release: the catalog");
	compare(dump_of($database), dump_of('fresh'), "$release: a dump");
	$node->safe_psql('postgres', "DROP DATABASE $database; DROP DATABASE restored_$database");
}
like(error_of('fresh', 'SELECT queue._upgraded()'), qr/ERROR:  0A000: /, '_upgraded() is for scripts');

# ---------------------------------------------------------------------
# Objects of the release, library of today
# ---------------------------------------------------------------------

is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'queue'}), $releases[-1],
	'the objects are the old ones');
ok( $node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity
		WHERE backend_type = 'queue maintenance' AND datname = 'postgres'}),
	'a worker serves them');

# no function fails otherwise than it would with the objects of today
my $calls = q{
	SELECT format('%s(%s)', p.proname, array_to_string(array_fill('null'::text, ARRAY[pronargs]), ', '))
	FROM pg_proc AS p
	WHERE pronamespace = 'queue'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype
		AND proname NOT IN ('_upgraded', '_announce', 'report')
	ORDER BY 1};
my @wrong;
for my $call (split /\n/, $node->safe_psql('postgres', $calls))
{
	my ($old, $new) = map { error_of($_, "SELECT queue.$call") =~ /(\w{5}): / ? $1 : 'no error' } 'postgres', 'fresh';
	push @wrong, "$call: $old, $new" if $old ne $new;
}
is(join("\n", @wrong), '', 'functions answer in the same way to nulls');

# all verbs, and what they come to
my $verbs = q{
	CREATE FUNCTION handle(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT jsonb_build_object('did', payload)$$;
	SELECT queue.create_queue('dead');
	SELECT queue.create_queue('all', max_attempts => 2, backoff => 'fixed', backoff_base => '0', backoff_jitter => 0,
		max_active_per_key => 1, required_keys => '{n}', log_level => 'all', notify => true, dead_letter_queue => 'dead',
		health_thresholds => '{"waiting_warning": 1000}', no_retry_sqlstates => '{22}');
	SELECT queue.alter_queue('all', max_attempts => 1, max_depth => 1000);
	SELECT queue.reset_queue_setting('all', 'max_depth');
	SELECT queue.grant_queue('all', 'producer', 'enqueue'), queue.grant_queue('all', 'consumer', 'dequeue, browse'),
		queue.revoke_queue('all', 'watcher', 'admin');
	SELECT queue.create_batch('b', callback_queue => 'dead', callback_payload => '{"batch": true}');
	SELECT queue.enqueue('all', '{"n": 1}', batch_id => 'b', unique_key => 'u', priority => 1);
	SELECT queue.enqueue('all', '{"n": 1}', unique_key => 'u');
	SELECT count(*) FROM queue.enqueue_batch('all', ARRAY['{"n": 2}']::jsonb[], batch_id => 'b');
	SELECT queue.enqueue('all', '{"n": 3}');
	SELECT queue.enqueue('all', '{"n": 4}', group_key => 'g'), queue.enqueue('all', '{"n": 5}', group_key => 'g');
	SELECT queue.enqueue('all', '{"n": 6}', options => '{"limit_key": "k"}'), queue.enqueue('all', '{"n": 7}', options => '{"limit_key": "k"}');
	SELECT queue.enqueue('all', '{"n": 8}', depends_on => ARRAY[(SELECT min(job_id) FROM queue.job)]);
	SELECT queue.enqueue('all', '{"n": 9}', delay => '1 day');
	SELECT queue.bind('a.*', 'all');
	SELECT queue.publish('a.b', '{"n": 10}');
	SELECT queue.unbind('a.*', 'all');
	SELECT queue.schedule('s', '* * * * *', 'all', '{"n": 11}', create_cron_job => false);
	SELECT queue.unschedule('s');
	SELECT queue.close_batch('b');
	SELECT queue.heartbeat('w', queue_name => 'all', info => '{}');
	SELECT queue.pause_queue('all'); SELECT queue.resume_queue('all'); SELECT queue.throttle('all', '0');
	SELECT count(queue.extend(job_id, '1 h', attempt => attempt)) FROM queue.dequeue_batch('all', 100, worker => 'w');
	SELECT count(queue.set_progress(job_id, 50)) FROM queue.job WHERE state = 'active';
	SELECT queue.release(job_id) FROM queue.job WHERE payload = '{"n": 2}';
	SELECT queue.fail(job_id, 'no') FROM queue.job WHERE payload = '{"n": 3}';
	SELECT queue.complete(job_id, '1', attempt => attempt) FROM queue.job WHERE state = 'active';
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('all', 100);
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('all', 100);
	SELECT queue.cancel(job_id) FROM queue.job WHERE payload = '{"n": 9}';
	SELECT queue.redrive('dead');
	SELECT count(*) FROM queue.job_history((SELECT min(job_id) FROM queue.job_finished));
	SELECT count(*) FROM queue.batch_status('b');
	SELECT count(*) FROM queue.list_jobs('all'), queue.queue_stats('all'), queue.queue_health('all'), queue.top();
	SELECT count(*) FROM queue.health_alerts();
	SELECT length(queue.report()) > 1000;
	SELECT count(*) FROM queue.metrics, queue.worker, queue.batch_progress_view;
	SELECT queue.explain_job(max(job_id)) FROM queue.job;
	SELECT queue.set_mode('dead', 'fallback', 'all'); SELECT queue.set_mode('dead', 'queued');
	SELECT queue.create_queue('handled'); SELECT queue.set_handler('handled', 'handle', concurrency => 2);
	SELECT queue.enqueue('handled', '"by the server"');
	SELECT queue.stats_reset('all');
	BEGIN; SELECT queue.enqueue('all', '{"n": 12}'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p';
	CALL queue.wait('all', '0');
	SELECT * FROM queue.maintain();
	SELECT queue.clean('all', '1 year')};
my (undef, undef, $stderr) = $node->psql('postgres', "SET client_min_messages = warning;\n$verbs", on_error_stop => 0);
is($stderr, '', 'every verb does what it did');
my $done = q{SELECT payload FROM queue.job_finished WHERE queue_name = 'all' AND state = 'completed' ORDER BY payload->'n'};
is($node->safe_psql('postgres', $done), join("\n", map { "{\"n\": $_}" } 1, 2, 4, 5, 6, 7, 8, 10), 'and jobs end as they did');
wait_for($node, q{SELECT result FROM queue.job_finished WHERE queue_name = 'handled'}, 'the server runs handlers',
	'{"did": "by the server"}');
wait_for($node, q{SELECT status FROM queue.batch_status('b')}, 'batches come to their end', 'completed');
check_counters($node, 'old objects');

# it lets go of functions that are not there yet
$session->query_safe(q{SELECT queue.grant_queue('all', 'watcher', 'browse')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE proname = 'version' AND pronamespace = 'queue'::regnamespace}),
	'0', 'what is new is not there');

# ---------------------------------------------------------------------
# The update, under load
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	CREATE TABLE handled (n int);
	CREATE FUNCTION count_handled(payload jsonb) RETURNS void LANGUAGE sql
		AS $$INSERT INTO handled VALUES ((payload->>'n')::int)$$;
	SELECT queue.create_queue('counted'); SELECT queue.set_handler('counted', 'count_handled', concurrency => 2);
	SELECT count(*) FROM queue.enqueue_batch('counted', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 2000) AS n))});
create_load($node);
my $load = start_load($node, produce => 2);
$node->poll_query_until('postgres', 'SELECT count(*) > 200 FROM done') or die 'the load does not get going';
my $offset = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER EXTENSION queue UPDATE');
is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'queue'}), $version, 'updated');
my $seen = $node->safe_psql('postgres', 'SELECT count(*) FROM done');
ok($node->poll_query_until('postgres', "SELECT count(*) > $seen + 200 FROM done"), 'the load goes on');
stop_load($load, terminate => 1);
check_load($node, 'an update under load', $load);
unlike($load->{stderr}, qr/ERROR/, 'no client saw an error');
wait_for($node, 'SELECT count(*) || \' \' || count(DISTINCT n) FROM handled', 'the server has run each handler once', '2000 2000');
unlike(slurp_file($node->logfile, $offset), qr/(?:ERROR|FATAL|PANIC):  (?!terminating|database \d+ does not exist)/, 'nor did a worker');
check_counters($node, 'an update under load');
check_structure($node, 'an update under load');

is($session->query_safe(q{SELECT queue.enqueue('all', '{"n": 20}') > 0}), 't', 'a session that was open goes on');
is( $node->safe_psql('postgres', q{SET ROLE watcher; SELECT queue.version() IS NOT NULL}),
	't', 'roles may do what has come to their privileges');
$node->safe_psql('postgres', q{ALTER EXTENSION queue UPDATE});

# ---------------------------------------------------------------------
# Objects of the future
# ---------------------------------------------------------------------

my $future = q{UPDATE pg_extension SET extversion = '%s' WHERE extname = 'queue'; SELECT queue.pause_queue('none')};
$node->psql('postgres', sprintf($future, '99.0.0'));
my $error = error_of('postgres', q{SELECT queue.enqueue('all', '{"n": 21}')});
like($error, qr/ERROR:  55000: .*older than its SQL objects/, 'a library that is older than the objects refuses them');
like($error, qr/HINT:  Install the files of version 99\.0\.0 and restart the server/, 'and says what to do');
like(error_of('postgres', 'SELECT queue._require_preload()'), qr/ERROR:  55000: /, 'scripts can ask for it');
$node->psql('postgres', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'queue'");
is($node->safe_psql('postgres', q{SELECT queue.enqueue('all', '{"n": 21}') > 0}), 't', 'nothing came of it');

# somebody's own columns
$node->safe_psql('postgres', 'ALTER TABLE queue.unique_key ADD COLUMN mine int');
like(error_of('postgres', q{SELECT queue.enqueue('all', '{"n": 22}')}), qr/ERROR:  55000: .*"unique_key" is not as the extension made it/,
	'a table that somebody has changed is refused');
$session->query(q{SELECT queue.enqueue('all', '{"n": 22}')});
like($session->{stderr}, qr/not as the extension made it/, 'in a session that was open, too');
$session->quit;
$node->stop;

# ---------------------------------------------------------------------
# The library of a release, and its files replaced under it
# ---------------------------------------------------------------------

# A second install of the server, for a library of its own.  It finds its files
# relative to its programs, so it may be anywhere.
sub make_install
{
	my ($root) = @_;
	my %dir = map { my ($stdout) = run_command([ 'pg_config', "--$_" ]); $_ => $stdout }
	  qw(bindir pkglibdir sharedir includedir includedir-server libdir);

	for (qw(bindir pkglibdir sharedir))
	{
		system_or_bail('mkdir', '-p', "$root$dir{$_}");
		system_or_bail('cp', $_ eq 'bindir' ? '-R' : '-Rs', "$dir{$_}/.", "$root$dir{$_}");
	}
	system_or_bail('rm', '-f', "$root$dir{pkglibdir}/queue.so", glob "$root$dir{sharedir}/extension/queue{.control,--*}");
	for (qw(includedir includedir-server libdir))
	{
		next if -e "$root$dir{$_}";
		system_or_bail('mkdir', '-p', dirname("$root$dir{$_}"));
		system_or_bail('ln', '-s', $dir{$_}, "$root$dir{$_}");
	}
	return \%dir;
}

# as a package does: new files beside the old ones, then renamed
sub replace_files
{
	my ($root, $dir) = @_;

	for my $file ("$dir->{pkglibdir}/queue.so", glob "$dir->{sharedir}/extension/queue{.control,--*}")
	{
		system_or_bail('cp', $file, "$root$file.new");
		rename("$root$file.new", "$root$file") or die "could not rename $root$file.new: $!";
	}
	return;
}

for my $release (@releases)
{
  SKIP:
	{
		my $source = ($ENV{QUEUE_RELEASES} || '') . "/$release";
		my $root = "$PostgreSQL::Test::Utils::tmp_check/install_$release";

		skip "the repository has no source of $release", 1 if !-d $source;
		my $dir = make_install($root);
		{
			# what this make was told is not for that one
			local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL COPT)};
			delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL COPT)};
			system_or_bail('make', '-s', '-C', $source, "PG_CONFIG=$root$dir->{bindir}/pg_config", 'all', 'install');
		}

		$node = PostgreSQL::Test::Cluster->new("old_$release", install_path => dirname("$root$dir->{bindir}"));
		$node->init;
		$node->append_conf('postgresql.conf', $conf);
		$node->start;
		create_extension($node, 'postgres');
		is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'queue'}), $release,
			"$release runs");
		$node->safe_psql('postgres', q{
			SELECT queue.create_queue('q', visibility_timeout => '1 day');
			SELECT count(*) FROM queue.enqueue_batch('q', array_fill('1'::jsonb, ARRAY[100]));
			SELECT count(*) FROM queue.dequeue_batch('q', 10, worker => 'there');
			SELECT queue.enqueue('q', '2', delay => '1 day')});
		create_load($node);
		my @loads = (start_load($node, produce => 2));
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		$session->set_query_timer_restart;
		is($session->query_safe('SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch(\'q\', 10)'), '10',
			"$release: a session");

		replace_files($root, $dir);
		like(error_of('postgres', 'ALTER EXTENSION queue UPDATE'),
			qr/ERROR:  55000: .*library "queue" is older.*HINT:  Restart the server/s, "$release: no update before a restart");
		$session->query('ALTER EXTENSION queue UPDATE');
		like($session->{stderr}, qr/library "queue" is older/, "$release: nor in a session that was open");
		$session->{stderr} = '';
		is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'queue'}), $release,
			"$release: the objects stay");
		isnt(error_of('template1', 'CREATE EXTENSION queue'), '', "$release: nor is today's created");
		is($session->query_safe('SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch(\'q\', 10)'), '10',
			"$release: the session goes on");
		is($node->safe_psql('postgres', 'SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch(\'q\', 10)'), '10',
			"$release: so do new ones");
		$node->poll_query_until('postgres', 'SELECT count(*) > 200 FROM done') or die 'the load does not get going';

		# the load ends with the server
		$node->stop;
		stop_load($loads[0]);
		eval { $session->quit };
		$node->start;
		check_counters($node, "$release: a restart");
		is($node->safe_psql('postgres', 'SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch(\'q\', 10)'), '10',
			"$release: the library of today takes over");
		push @loads, start_load($node, produce => 2);
		$node->poll_query_until('postgres', "SELECT count(*) > 100 FROM done WHERE run = $loads[1]{run}")
		  or die 'the load does not get going';
		$node->safe_psql('postgres', 'ALTER EXTENSION queue UPDATE');
		my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM done');
		ok($node->poll_query_until('postgres', "SELECT count(*) > $before + 200 FROM done"), "$release: the load goes on");
		stop_load($loads[1], terminate => 1);
		check_load($node, "$release: the whole way", @loads);
		unlike($loads[1]{stderr}, qr/ERROR/, "$release: no client saw an error from the update");
		is($node->safe_psql('postgres', q{SELECT queue.version(), (SELECT extversion FROM pg_extension WHERE extname = 'queue')}),
			"$version|$version", "$release: everything is of today");
		is( $node->safe_psql('postgres', q{SELECT state, count(*) FROM queue.job WHERE queue_name = 'q' GROUP BY 1 ORDER BY 1}),
			"active|10\ndelayed|1\nwaiting|50", "$release: leases and all else live on");
		is($node->safe_psql('postgres', q{SELECT count(queue.complete(job_id, attempt => 1)) FROM queue.job WHERE state = 'active'}),
			'10', "$release: holders settle their jobs");
		check_counters($node, "$release: the whole way");
		check_structure($node, "$release: the whole way");
		$node->stop;
	}
}
done_testing();

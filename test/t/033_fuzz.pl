# Every function of the extension with arguments of every kind.
#
# The functions and their arguments come from pg_proc, so a new one is called
# without being listed here.  A generator with a seed makes values: the edges of
# each type, nulls, hostile strings, arrays of odd shapes, deep and large jsonb,
# and often enough what makes sense, or no call would get far.  Two sessions run
# what it makes, under one role after the other, with and without transactions,
# savepoints and prepared transactions.
#
# A call succeeds, or it ends with one of the errors that doc/reference.md gives
# for the function.  It never ends with an internal error (class XX), with a
# timeout or with the server; what the extension itself raises has a detail and a
# hint.  Afterwards the counters equal the tables, and those their indexes.
#
# SEED makes the same calls again (two sessions may meet differently),
# FUZZ_SECONDS makes it last longer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $seed = defined $ENV{SEED} ? $ENV{SEED} : time() % 1000000;
my $seconds = $ENV{FUZZ_SECONDS} || 12;
my $calls = 800;				# of a session, and a round

note("SEED=$seed FUZZ_SECONDS=$seconds");

my $node = new_node('main', conf => q{
log_statement = none
log_min_messages = fatal
queue.max_payload_size = 64kB
max_stack_depth = 1500kB
lock_timeout = 30s
});
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');

# ---------------------------------------------------------------------
# Who and what is there
# ---------------------------------------------------------------------

my @roles = qw(fuzz_none fuzz_enqueue fuzz_dequeue fuzz_browse fuzz_admin fuzz_owner fuzz_super);
my @queues = ('f1', 'f2', 'f3', "f4 '; DROP TABLE queue.queue; --", "f5 %s%n \"<&>\"\n\\", 'f6');

# a text as SQL has it
sub quoted
{
	my ($text) = @_;

	$text =~ s/'/''/g;
	$text =~ s/\\/\\\\/g;
	return "E'$text'";
}

my $names = 'ARRAY[' . join(', ', map { quoted($_) } @queues) . ']';

$node->safe_psql('postgres', join(';', map { "CREATE ROLE $_ LOGIN" . ($_ eq 'fuzz_super' ? ' SUPERUSER' : '') } @roles) . q{;
	CREATE SCHEMA fuzz;
	GRANT USAGE, CREATE ON SCHEMA fuzz TO PUBLIC;
	CREATE FUNCTION fuzz.validate(payload jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		IF payload ? 'error' THEN
			RAISE EXCEPTION 'refused' USING ERRCODE = 'ZZ001', HINT = 'No.', DETAIL = 'No.';
		END IF;
		RETURN payload IS DISTINCT FROM '"no"';
	END $$;
	CREATE FUNCTION fuzz.handle(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF payload ? 'error' THEN
			RAISE EXCEPTION '%', '%s%n' USING ERRCODE = 'ZZ002', HINT = 'No.', DETAIL = 'No.';
		END IF;
		RETURN payload;
	END $$;
	CREATE FUNCTION fuzz.context(job queue.job_context) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(job)';
	CREATE FUNCTION fuzz.many(payload jsonb) RETURNS SETOF text LANGUAGE sql AS $$ SELECT 'x' $$;
	CREATE TABLE fuzz.changed1 (id int PRIMARY KEY, "a'b" text, "%s" jsonb);
	CREATE TABLE fuzz.changed2 (LIKE fuzz.changed1 INCLUDING ALL);
	ALTER TABLE fuzz.changed1 OWNER TO fuzz_owner;
	ALTER TABLE fuzz.changed2 OWNER TO fuzz_owner;
	-- any job
	CREATE FUNCTION fuzz.job() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS $$
		SELECT job_id FROM (
			(SELECT job_id FROM queue.job_live ORDER BY random() LIMIT 3)
			UNION ALL (SELECT job_id FROM queue.job_parked ORDER BY random() LIMIT 2)
			UNION ALL (SELECT job_id FROM queue.job_archive ORDER BY finished_at DESC LIMIT 2)) AS j
		ORDER BY random() LIMIT 1 $$;
	CREATE FUNCTION fuzz.jobs() RETURNS bigint[] LANGUAGE sql AS $$
		SELECT array_agg(fuzz.job()) FROM generate_series(1, 4) $$;
	-- what the calls have dropped, given away and paused
	CREATE FUNCTION fuzz.restore() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS $$
	DECLARE
		name text;
		role text;
	BEGIN
		FOREACH name IN ARRAY } . $names . q{ LOOP
			IF NOT EXISTS (SELECT FROM queue.queue AS q WHERE q.queue_name = name) THEN
				PERFORM queue.create_queue(name, backoff_base => '1 ms', visibility_timeout => '1 s', max_depth => 10000);
			END IF;
			FOREACH role IN ARRAY '{enqueue,dequeue,browse,admin}'::text[] LOOP
				PERFORM queue.grant_queue(name, ('fuzz_' || role)::regrole, role) FROM queue.queue AS q
				WHERE q.queue_name = name AND NOT EXISTS (SELECT FROM queue.privilege AS p WHERE p.queue_id = q.queue_id
					AND p.grantee = ('fuzz_' || role)::regrole AND p.privilege = role);
			END LOOP;
			PERFORM queue.purge_queue(name) FROM queue.queue_stats(name) AS s WHERE s.waiting + s.delayed + s.blocked > 300;
		END LOOP;
		PERFORM queue.alter_queue(q.queue_name, owner => 'fuzz_owner') FROM queue.queue AS q WHERE owner <> 'fuzz_owner'::regrole;
		PERFORM queue.drop_queue(q.queue_name, true) FROM queue.queue AS q WHERE q.queue_name <> ALL (} . $names . q{);
		IF random() < 0.3 THEN
			UPDATE queue.queue SET health_thresholds = null, dead_letter_queue = null, throttled_until = null, rate_limit = null,
				max_active = null, max_depth = 10000, mode = 'queued', target_queue = null, paused = false, validator = null;
		END IF;
	END $$;
	GRANT EXECUTE ON FUNCTION queue.create_queue, queue.maintain TO fuzz_owner;
	GRANT USAGE ON SCHEMA queue TO fuzz_none;
	SELECT fuzz.restore();
});

my @functions;
for (split /\n/, $node->safe_psql('postgres', q{
	SELECT p.proname, p.prokind, p.pronargs - p.pronargdefaults, string_agg(a.name || ' ' || a.type, ',' ORDER BY a.n)
	FROM pg_proc AS p LEFT JOIN LATERAL (
		SELECT t.n, p.proargnames[t.n] AS name, format_type(t.type, null) AS type
		FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS t (type, n)) AS a ON true
	WHERE p.pronamespace = 'queue'::regnamespace AND p.prorettype <> 'trigger'::regtype
	GROUP BY p.oid, p.proname, p.prokind, p.pronargs, p.pronargdefaults ORDER BY p.proname}))
{
	my ($name, $kind, $required, $arguments) = split /\|/;
	my @arguments = map { [ split / /, $_, 2 ] } split /,/, $arguments;

	push @functions, { name => $name, kind => $kind, required => $required, arguments => \@arguments };
}
cmp_ok(scalar(@functions), '>', 50, 'functions are found');
my %waits = map { $_->{name} => 1 } grep { grep { $_->[0] =~ /^(wait|timeout)$/ } @{ $_->{arguments} } } @functions;

# ---------------------------------------------------------------------
# The errors that doc/reference.md gives
# ---------------------------------------------------------------------

my %documented;
my @common;
{
	my $text = slurp_file("$root/doc/reference.md");
	my %section;
	my %refers;

	for my $section (split /^(?=##+ )/m, $text)
	{
		next unless $section =~ /^##+ (\S.*?)(\(\))?\n/;
		my $title = lc $1;
		$title =~ s/ /-/g;
		$section{$title} = [ $section =~ /[`|] ?`?([0-9][0-9A-Z]{4}|2BP01|42P13)`/g ];
		$refers{$title} = [];
		for my $errors ($section =~ /^Errors(.*?)(?:\n\n|\z)/msg)
		{
			push @{ $refers{$title} }, $errors =~ /\(#([^)]*)\)/g;
		}
		# what a text argument may name, and what is in a table, stands elsewhere
		push @{ $refers{$title} }, 'functions-that-a-queue-names' if $section =~ /validator|`handler`/;
	}
	for my $title (keys %section)
	{
		my %seen;
		my @todo = ($title);

		while (defined(my $next = shift @todo))
		{
			next if $seen{$next}++ || !$section{$next};
			$documented{$title}{$_} = 1 for @{ $section{$next} };
			push @todo, @{ $refers{$next} };
		}
	}
	@common = @{ $section{'errors-of-all-functions'} };
}
ok($documented{enqueue}{53400} && $documented{publish}{53400} && $documented{set_handler}{42883},
	'the errors of doc/reference.md are found');

# where doc/reference.md has no section: what is called by the extension itself
$documented{_fire} = { %{ $documented{schedule} } };
$documented{_state} = { 22023 => 1 };
$documented{_upgraded} = { '0A000' => 1 };

# of any function: what the server says of a transaction that has failed, of the
# validators and handlers here, and of a deadlock between the two sessions
my %anywhere = map { $_ => 1 } @common, qw(25P02 ZZ001 ZZ002 40P01 55P03);

# ---------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------

sub pick
{
	return $_[ int(rand(@_)) ];
}

sub chance
{
	return rand() < $_[0];
}

my @strings = map { quoted($_) } (
	'', ' ', 'a', 'null', "'", '"', '\\', "it''s", "'; DROP SCHEMA queue CASCADE; --", '%', '%s%s%n%n', '%1$s', '$1', '$$',
	"a\nb", "\t", "\x01\x7f", '<script>alert(1)</script>', '&amp;', '{"a": 1}', 'pg_temp', 'queue.queue', '../../etc/passwd',
	"\x{c3}\x{bc}", "\x{f0}\x{9f}\x{a6}\x{86}", "\x{e2}\x{80}\x{ae}x", 'x' x 57, 'x' x 58, 'x' x 63, 'x' x 64, 'x' x 100,
	'x' x 101, 'x' x 200, 'x' x 201, 'x' x 1000, 'x' x 1001, 'x' x 20000, '*', '#', 'a.b.c', 'a..b', '.', '#.#.#.*', '0', '-1',
	'1e999', 'infinity', 'NaN', 'now', '1 month', "\x{c3}\x{bc}" x 29);
my @words = map { "'$_'" } qw(
	exponential fixed errors all none ignore replace error fail run block waiting delayed blocked active completed failed
	cancelled enqueue dequeue browse admin queued direct mirror fallback max_attempts validator aging_interval
	max_active_per_key dead_letter_queue health_thresholds required_keys Enqueue 42 22012);
push @words, q{'enqueue, browse'}, q{'admin enqueue'}, q{'* * * * *'}, q{'5 seconds'}, q{'%error%'}, q{'\\'}, q{'%\\%%'};
my @function_names = map { "'$_'" } (
	'fuzz.validate', 'fuzz.handle', 'fuzz.context', 'fuzz.handle(jsonb)', 'fuzz.context(queue.job_context)', 'fuzz.many',
	'fuzz.none', 'none.none', 'pg_catalog.now', 'fuzz.handle(text)', 'fuzz.handle(', '"fuzz"."handle"', '"', 'a.b.c', '()', 'x()',
	'pg_catalog.jsonb_typeof', 'pg_catalog.jsonb_pretty');
my @jsons = map { "'$_'::jsonb" } (
	'null', '{}', '[]', 'true', '1', '"s"', '"no"', '{"error": 1}', '[1, null, {"a": [{}]}]', '{"": null}', '1e1000', '-0.0000001',
	'{"a": 1, "b": {"c": [1, 2]}}', '"%s%n"', '{"%s": "<b>"}', '{"topic": 1}');
push @jsons, q{('"' || repeat('x', 60000) || '"')::jsonb}, q{('"' || repeat('x', 100000) || '"')::jsonb},
  q{(repeat('[', 2000) || repeat(']', 2000))::jsonb}, q{(repeat('{"a":', 1000) || '1' || repeat('}', 1000))::jsonb},
  q{(SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 500) AS i)};
my @option_names = qw(
	backoff backoff_base backoff_max backoff_jitter visibility_timeout job_timeout keep_completed keep_failed unique_for
	limit_key unique_keys group_keys limit_keys on_conflict priority delay max_attempts source batch_id group_by_keys columns
	waiting_warning none %s);
my @option_values = (
	'null', 'true', '0', '1', '-1', '0.5', '1e300', '-1e300', '1e-300', '"1 s"', '"-1 s"', '"1 month"', '"300000 years"', '"nonsense"',
	'""', '[]', '[null]', '["a", null]', '["a", "a"]', '{}', '"exponential"', '"replace"', '"infinity"', '["id"]', '["%s"]', '99999999999',
	'"' . ('x' x 1001) . '"', '"' . ('9' x 400) . '"');
my @intervals = map { "'$_'::interval" } (
	'0', '1 us', '1 ms', '1 s', '1 min', '1 h', '1 day', '10 days', '-1 us', '-1 s', '1 month', '-1 month', '1 month -30 days',
	'1 day -24 hours', '1 year', '1000 days', '1001 days', '100 years', '290000 years', '106751991 days', '106751992 days',
	'2147483647 days', '-2147483648 days', '2147483647 months', '-2147483648 months', '9223372036854775807 us',
	'-9223372036854775807 us', '2147483647 days 9223372036854775807 us');
push @intervals, map { "'$_'::interval" } ('infinity', '-infinity') if $version >= 170000;
my @times = map { "'$_'::timestamptz" } (
	'now', 'infinity', '-infinity', 'epoch', '294276-12-31 23:59:59.999999+00', '4713-01-01 00:00:00+00 BC', '2000-01-01', 'tomorrow');
push @times, q{clock_timestamp() + '50 ms'}, q{clock_timestamp() - '1 h'::interval};

my %values = (
	integer => [ map { "$_" } 0, 1, 2, 3, 10, 100, 1024, 1025, 32767, 32768, -1, -32768, -32769, 2147483647, '(-2147483648)' ],
	bigint => [ map { "($_)::bigint" } 0, 1, 2, 64, -1, '1 << 53', 9223372036854775807, '-9223372036854775808', 10000 ],
	smallint => [ map { "($_)::smallint" } 0, 1, -1, 32767, -32768 ],
	real => [ map { "'$_'::real" } qw(0 -0 0.5 1 50 100 100.001 -1 NaN Infinity -Infinity 3.4e38 1e-45) ],
	boolean => [qw(true false)],
	interval => \@intervals,
	'timestamp with time zone' => \@times,
	'"char"' => [ map { "$_\::\"char\"" } "'w'", "'a'", "'d'", "'c'", "'f'", "'x'", "''", "'?'", "'%'" ],
	regrole => [ (map { "'$_'::regrole" } @roles, 'pg_monitor', 'pg_read_all_data', 'postgres', '-'),
		map { "$_\::oid::regrole" } 99999, 4294967295, 0 ],
	'bigint[]' => [ "'{}'::bigint[]", "'{null}'::bigint[]", 'ARRAY[fuzz.job(), null]', 'ARRAY[ARRAY[fuzz.job()], ARRAY[1]]', 'fuzz.jobs()',
		'fuzz.jobs() || fuzz.jobs()', "'[5:6]={1,2}'::bigint[]", 'array_fill(1::bigint, ARRAY[5000])',
		"'{-9223372036854775808,9223372036854775807}'::bigint[]", '(SELECT array_agg(i) FROM generate_series(1::bigint, 3000) AS i)' ],
	'integer[]' => [ "'{}'::int[]", "'{null}'::int[]", "'{1}'::int[]", "'{1,1,1,1}'::int[]", "'{{1},{2}}'::int[]", "'[0:3]={0,-1,2147483647,null}'::int[]" ],
	'text[]' => [ "'{}'::text[]", "'{null}'::text[]", "'{a,b}'::text[]", "'{{a},{b}}'::text[]", "'{22012,23}'::text[]", "'{\"\",\"%s\"}'::text[]",
		"array_fill('x'::text, ARRAY[1000])", "ARRAY[repeat('x', 10000)]" ],
	'jsonb[]' => [ "'{}'::jsonb[]", 'ARRAY[null::jsonb]', "ARRAY['1', '2']::jsonb[]", "ARRAY[ARRAY['1'], ARRAY['2']]::jsonb[]",
		"array_fill('{}'::jsonb, ARRAY[500])", "ARRAY['1', null]::jsonb[]", "ARRAY['{\"error\": 1}']::jsonb[]",
		"'[7:8]={1,2}'::jsonb[]" ],
);

# a jsonb of options, mostly with names that mean something
sub options
{
	my %options = map { $_ => pick(@option_values) } map { pick(@option_names) } 1 .. 1 + int(rand(3));
	my $json = '{' . join(', ', map { "\"$_\": $options{$_}" } sort keys %options) . '}';

	return quoted($json) . '::jsonb';
}

sub value
{
	my ($name, $type) = @_;

	return "NULL::$type" if chance(0.06);
	if ($type eq 'text')
	{
		return pick(@strings) if chance(0.25);
		return quoted(pick(@queues)) if $name =~ /queue/;
		return pick(@function_names) if $name =~ /^(validator|on_failed|handler)$/;
		return pick(map { "'$_'" } qw(a a.b a.b.c x)) if $name eq 'topic';
		return pick(map { "'$_'" } 'a.*', '#', 'a.#', '*.b', 'x') if $name eq 'topic_pattern';
		return pick(map { "'key $_'" } 1 .. 4) if $name =~ /_key$|^batch_id$|^worker$|^schedule_name$|^source$/;
		return pick("'enqueue'", "'enqueue, dequeue'", "'browse'", "'admin'") if $name eq 'privileges';
		return pick(@words);
	}
	if ($type eq 'jsonb')
	{
		return options() if $name =~ /options|thresholds/ && chance(0.8);
		return pick(@jsons);
	}
	return 'fuzz.job()' if $type eq 'bigint' && $name =~ /job_id/ && chance(0.8);
	# or most of what is called would wait for long
	return pick("'0'::interval", "'1 ms'::interval", @intervals) if $name =~ /^(wait|timeout)$/;
	return pick(@{ $values{$type} || die "no values of type $type" });
}

# one call; optional arguments come rarely where there are many
sub call
{
	my ($function) = @_;
	my @arguments = @{ $function->{arguments} };
	my $share = chance(0.1) ? 1 : 3 / (@arguments + 1);
	my @given;

	for my $i (0 .. $#arguments)
	{
		my ($name, $type) = @{ $arguments[$i] };

		next if $i >= $function->{required} && !chance($share);
		push @given, "$name => " . value($name, $type);
	}
	return ($function->{kind} eq 'p' ? 'CALL ' : 'SELECT * FROM ') . "queue.$function->{name}(" . join(', ', @given) . ')';
}

# a change of a row that becomes a job
sub trigger
{
	my ($session) = @_;
	my $queue = quoted(chance(0.8) ? pick(@queues) : 'none');
	my $options = options();

	$options =~ s/::jsonb$//;
	$options = pick(q{''}, q{'[]'}, q('{'), q{'1'}) if chance(0.1);
	return join ';',
	  "DROP TRIGGER IF EXISTS enqueue ON fuzz.changed$session",
	  'CREATE TRIGGER enqueue ' . pick('BEFORE', 'AFTER') . " INSERT OR UPDATE OR DELETE ON fuzz.changed$session FOR EACH ROW"
	  . " EXECUTE FUNCTION queue.enqueue_trigger($queue, $options)",
	  "INSERT INTO fuzz.changed$session VALUES (1, " . pick(@strings) . ', ' . pick(@jsons) . ') ON CONFLICT (id) DO UPDATE SET "a\'b" = excluded."a\'b"',
	  "DELETE FROM fuzz.changed$session";
}

# ---------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------

my $prepared = 0;

# the script of a session; what is sent stands in @$sent, by number: [role, function, statement]
sub script
{
	my ($session, $sent) = @_;
	my $script = "\\set VERBOSITY verbose\nSET client_min_messages = error;\nSET statement_timeout = '60s';\n";
	my $role = 'fuzz_super';
	my $open = 0;
	my $send = sub {
		my ($name, $statement) = @_;

		push @$sent, [ $role, $name, $statement ];
		$script .= "\\warn #$#$sent\n$statement;\n";
		return;
	};

	for my $n (1 .. $calls)
	{
		if (!$open && $n % 20 == 1)
		{
			$role = 'fuzz_super';
			$send->('', 'RESET ROLE');
			$send->('', 'SELECT fuzz.restore()');
			$role = pick(@roles, 'fuzz_owner', 'fuzz_owner', 'fuzz_admin');
			$send->('', "SET ROLE $role");
		}
		if (!$open && chance(0.06))
		{
			$send->('', 'BEGIN ISOLATION LEVEL ' . pick('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
				. pick('', '', '', '', ' READ ONLY'));
			$open = 3 + int(rand(6));
			next;
		}
		$send->('', pick('SAVEPOINT a', 'ROLLBACK TO a', 'ROLLBACK TO a', 'RELEASE a')) if $open > 1 && chance(0.7);
		if ($open && --$open == 0)
		{
			my $gid = "fuzz $session " . ++$prepared;

			$send->('', pick('COMMIT', 'COMMIT', 'ROLLBACK',
				"PREPARE TRANSACTION '$gid';\n" . pick('COMMIT', 'ROLLBACK') . " PREPARED '$gid'"));
			next;
		}
		if (chance(0.04))
		{
			$send->('enqueue_trigger', trigger($session));
			next;
		}
		# many puts, or there is nothing to take, and to end
		my $function = chance(0.15) ? (grep { $_->{name} eq 'enqueue' } @functions)[0] : pick(@functions);
		# a wait may be long: the timeout ends it; in a transaction it would end that, after a minute
		my $waits = $waits{ $function->{name} } || 0;

		next if $waits && $open;
		$send->('', q{SET statement_timeout = '20ms'}) if $waits;
		$send->($function->{name}, call($function));
		# the first may be cut off itself
		$send->('', q{SET statement_timeout = '60s'}) for 1 .. 3 * $waits;
	}
	$send->('', 'COMMIT') if $open;
	return $script;
}

# the functions of our own sources, to tell our errors from the server's
my %own;
for my $file (glob "$root/src/*.c")
{
	my ($base) = $file =~ m{([^/]*)$};

	$own{"$_, $base"} = 1 for slurp_file($file) =~ /^(\w+)\(/mg;
}

my %seen;
my %problems;

sub problem
{
	my ($kind, $sent, $error) = @_;
	my ($role, $name, $statement) = @$sent;

	$statement = substr($statement, 0, 600) . '...' if length $statement > 600;
	# one of each kind is enough
	$problems{"$kind: $name $1"} //= "$role: $statement\n$error" if $error =~ /^(.{0,40})/;
	return;
}

sub judge
{
	my ($sent, $text) = @_;
	my ($role, $name) = @$sent;

	for my $error (split /^(?=psql:.*?: (?:ERROR|FATAL|PANIC|error):)/m, $text)
	{
		next unless $error =~ s/^psql:.*?: (ERROR|FATAL|PANIC|error): +//;
		my $level = $1;
		my ($state) = $error =~ /^(\w{5}): /;
		my ($location) = $error =~ /^LOCATION: +(\w+, \w+\.c)/m;

		if ($level ne 'ERROR' || !defined $state)
		{
			problem('the session ends', $sent, $error);
			next;
		}
		$seen{"$name $state"}++;
		problem('internal error', $sent, $error) if $state =~ /^XX|^58/;
		# what is around the calls: a savepoint that is not there, and the like
		next if $name eq '';
		if ($state eq '57014')
		{
			problem('timeout', $sent, $error) unless $waits{$name};
			next;
		}
		problem('undocumented', $sent, $error) unless $anywhere{$state} || $documented{$name}{$state};
		problem('no detail or hint', $sent, $error)
		  if $location && $own{$location} && $error !~ /^DETAIL: .*^HINT: /ms && $state !~ /^XX/;
	}
	return;
}

# run a script; false if the session has not come to its end
sub judge_session
{
	my ($sent, $err) = @_;
	my $number;
	my %text;

	for my $line (split /^/, $err)
	{
		if ($line =~ /^#(\d+)$/)
		{
			$number = $1;
			$text{$number} = '';
		}
		elsif (defined $number)
		{
			$text{$number} .= $line;
		}
	}
	judge($sent->[$_], $text{$_}) for sort { $a <=> $b } keys %text;
	return defined $number && $number == $#$sent;
}

srand($seed);
my $deadline = time() + $seconds;
my $rounds = 0;
my $done = 0;
my $complete = 1;
while ($complete && ($rounds == 0 || time() < $deadline))
{
	my @sessions;

	$rounds++;
	for my $n (1 .. 2)
	{
		my %session = (sent => [], out => '', err => '');
		my $file = PostgreSQL::Test::Utils::tempdir() . "/$rounds.$n.sql";

		append_to_file($file, script($n, $session{sent}));
		$session{handle} = IPC::Run::start(
			[ 'psql', '-XAtq', '-o', '/dev/null', '-f', $file, '-d', $node->connstr('postgres') . ' user=fuzz_super' ],
			'<', \undef, '>', \$session{out}, '2>', \$session{err}, IPC::Run::timeout(600));
		push @sessions, \%session;
	}
	for my $session (@sessions)
	{
		$session->{handle}->finish;
		$complete &&= judge_session($session->{sent}, $session->{err});
		$done += grep { $_->[1] ne '' } @{ $session->{sent} };
		diag(substr($session->{err}, -2000)) unless $complete;
	}
}
note("$done calls in $rounds rounds");
if ($ENV{FUZZ_VERBOSE})
{
	diag("$_: $seen{$_}") for sort keys %seen;
}

ok($complete, "the sessions come to their end (SEED=$seed)");
is(scalar(keys %problems), 0, "no error that should not be (SEED=$seed)");
diag("$_\n\t$problems{$_}") for sort keys %problems;

# every function has got as far as an answer of its own, and not only to its privilege
my %answered = map { /^(\S+) / ? ($1 => 1) : () } grep { !/ (42501|25P02)$/ } keys %seen;
note('errors of ' . keys(%answered) . ' functions');

$node->safe_psql('postgres', q{
	SELECT fuzz.restore();
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'fuzz%'});
# the worker frees what belongs to queues that are gone, and counts those that had to do without
wait_for($node, 'SELECT count(*) FROM queue.queue_stats() WHERE waiting IS NULL', 'all queues have counters', '0');
check_counters($node, "after $done calls (SEED=$seed)");
check_structure($node, "after $done calls (SEED=$seed)");

done_testing();

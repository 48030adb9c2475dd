# The documents keep to the truth: their examples run, their links lead
# somewhere, what they name exists, and doc/reference.md says of every function,
# setting and column what the catalog says.
#
# A block of SQL opens with ```sql, or, if its last statement is to end with
# an error, with ```sql error and the SQLSTATE.  The blocks of a document are
# one session of a superuser, in a database that has nothing in it but, for the
# guide, tables as other queues have them.  What it takes another extension for is
# ```pgsql, and does not run.  Programs are
# parsed by their interpreters, where these are; the worker in bash, which takes
# nothing but psql, does run.
#
# The shape of doc/reference.md, as far as it is read here:
#
#	## GROUP
#	### FUNCTION()		a ```text block with the signature, "name(arguments)" and
#						an arrow with the result; a table of parameters, if there
#						are any; "Privilege: `...`"; an example
#	### queue.RELATION	a table of columns
#
# and tables that begin with the column "setting", "option", "state" or
# "privilege".

use strict;
use warnings;

use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = dirname(__FILE__) . '/../..';
my @documents = grep { -e "$root/$_" }
  ('README.md', map { 'doc/' . basename($_) } glob("$root/doc/*.md"));

my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init;
$node->start;

# ok if there are no problems, else all of them
sub no_problems
{
	my ($name, @problems) = @_;
	ok(!@problems, $name);
	diag("$name:", map { "\n  $_" } @problems) if @problems;
	return;
}

# what is wrong with a list of words, by what it should be, as one problem
sub difference
{
	my ($what, $is, $should) = @_;
	return if "@$is" eq "@$should";
	my %is = map { $_ => 1 } @$is;
	my %should = map { $_ => 1 } @$should;
	my @missing = grep { !$is{$_} } @$should;
	my @wrong = grep { !$should{$_} } @$is;
	return "$what: the order is wrong" unless @missing || @wrong;
	return "$what: " . join '; ',
	  @missing ? 'missing ' . join(', ', @missing) : (),
	  @wrong ? 'wrong ' . join(', ', @wrong) : ();
}

# ---------------------------------------------------------------------
# Every document
# ---------------------------------------------------------------------

# The psql script of a document has as many lines as the document, so that
# psql's messages tell the line.  After a block that is to end with an error,
# it prints the line and the SQLSTATE.
sub script_of
{
	my ($text) = @_;
	my ($script, $number, $fence, %expected, @problems) = ('', 0, '');
	my $last = '';

	foreach my $line (split /\n/, $text)
	{
		$number++;
		if ($fence eq '' && $line =~ /^```\s*(.*?)\s*$/)
		{
			$fence = $1 eq '' ? 'text' : $1;
			push @problems, "line $number: what is \"$fence\"?"
			  if $fence =~ /^sql\b/ && $fence !~ /^sql( error \w{5})?$/;
			$script .= '\set ON_ERROR_STOP off' if $fence =~ /^sql error/;
			$last = ';';
		}
		elsif ($line =~ /^```/)
		{
			if ($fence =~ /^sql error (\w+)/)
			{
				$expected{$number} = $1;
				$script .=
				  "\\set ON_ERROR_STOP on \\echo \@$number :SQLSTATE";
			}
			push @problems, "line $number: the block ends in mid-statement"
			  if $fence =~ /^sql/ && $last !~ /;\s*$|^\\|\\g\w*\b/;
			$fence = '';
		}
		elsif ($fence =~ /^sql/)
		{
			$script .= $line;
			my $code = $line =~ s/--.*//r;
			$last = $code if $code =~ /\S/;
		}
		$script .= "\n";
	}
	push @problems, 'a block does not end' if $fence ne '';
	return ($script, \%expected, @problems);
}

sub run_document
{
	my ($document, $database) = @_;
	my ($script, $expected, @problems) =
	  script_of(slurp_file("$root/$document"));

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, slurp_file("$root/test/other_queues.sql")) if $document eq 'doc/guide.md';
	my $ran = IPC::Run::run(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', '-', '-d',
			$node->connstr($database)
		],
		'<', \$script, '>', \my $out, '2>', \my $err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	if (!$ran)
	{
		# the last message is the error that ended it
		$err =~ s/.*^(?=psql:)//ms;
		push @problems, split /\n/, $err =~ s/<stdin>/$document/gr;
	}
	foreach my $line (sort { $a <=> $b } keys %$expected)
	{
		my ($state) = $out =~ /^\@$line (\w+)$/m;
		push @problems,
		  "line $line: expected SQLSTATE $expected->{$line}, got $state"
		  if defined $state && $state ne $expected->{$line};
	}
	no_problems("the examples of $document run", @problems);
	return;
}

# the heading's part of a link to it, as GitHub makes it
sub anchor
{
	my ($heading) = @_;
	$heading = lc $heading;
	$heading =~ s/[^\w\- ]//g;
	$heading =~ tr/ /-/;
	return $heading;
}

sub anchors
{
	my ($text) = @_;
	$text =~ s/^```.*?^```//gms;
	return map { anchor($_) => 1 } $text =~ /^#+ (.*?)\s*$/gm;
}

sub check_links
{
	my ($document) = @_;
	my $text = slurp_file("$root/$document");
	my @problems;

	foreach my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^\w+:/;
		my ($path, $anchor) = $link =~ /^([^#]*)#?(.*)$/;
		my $target = $path eq '' ? $document : dirname($document) . "/$path";
		if (!-e "$root/$target")
		{
			push @problems, "there is no $target";
			next;
		}
		next if $anchor eq '';
		my %anchors = anchors(slurp_file("$root/$target"));
		push @problems, "$target has no heading for #$anchor"
		  unless $anchors{$anchor};
	}
	no_problems("the links of $document lead somewhere", @problems);
	return;
}

# every queue.something is an object or a setting; queue.c and the like are files
sub check_names
{
	my ($document, $names) = @_;
	my %unknown;

	foreach my $name (slurp_file("$root/$document") =~
		/(?<![\w."-])queue\.([a-z_][a-z0-9_]*)/g)
	{
		$unknown{$name} = 1
		  unless $names->{$name} || $name =~ /^(c|h|so|sql|control)$/;
	}
	no_problems("what $document names exists",
		map { "there is no queue.$_" } sort keys %unknown);
	return;
}

my $number = 0;
my %database = map { $_ => 'doc_' . $number++ } @documents;
run_document($_, $database{$_}) foreach @documents;

# what came over, by the guide, from where
is( $node->safe_psql($database{'doc/guide.md'}, q{
	SELECT source, count(*), count(*) FILTER (WHERE payload ->> 'to' ~ '^\d@') FROM queue.job
	WHERE queue_name = 'mail' AND source ~ '^(pgmq \d|send|Mail)$' GROUP BY source ORDER BY source COLLATE "C"}),
	"Mail|2|2\npgmq 1|1|1\npgmq 2|1|1\npgmq 3|1|1\nsend|4|4",
	'the jobs of other queues are moved, those that somebody has are not');

$node->safe_psql('postgres', 'CREATE EXTENSION queue');
my %names = map { $_ => 1 } split /\n/, $node->safe_psql(
	'postgres', q{
	SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace
	UNION SELECT relname FROM pg_class WHERE relnamespace = 'queue'::regnamespace
	UNION SELECT substr(name, 7) FROM pg_settings WHERE name LIKE 'queue.%'});
check_links($_) foreach @documents;
check_names($_, \%names) foreach @documents;

# ---------------------------------------------------------------------
# Programs
# ---------------------------------------------------------------------

my $programs = 0;
my %parser = (
	bash => [ 'bash', '-n' ],
	js => [ 'node', '--check' ],
	python => [ 'python3', '-c', 'import ast, sys; ast.parse(open(sys.argv[1]).read())' ]);

# the files that the blocks in a language of a document make
sub programs
{
	my ($document, $language) = @_;
	my @files;

	foreach my $text (slurp_file("$root/$document") =~ /^```$language\n(.*?)^```/gms)
	{
		my $file = "$PostgreSQL::Test::Utils::tmp_check/program_" . $programs++ . ".$language";
		append_to_file($file, $text);
		push @files, $file;
	}
	return @files;
}

sub parse_programs
{
	my ($document) = @_;
	my @problems;

	foreach my $language (sort keys %parser)
	{
		my @parser = @{ $parser{$language} };
		next unless grep { -x "$_/$parser[0]" } split /:/, $ENV{PATH};
		foreach my $file (programs($document, $language))
		{
			my ($out, $err);
			IPC::Run::run([ @parser, $file ], '<', \undef, '>', \$out, '2>', \$err)
			  or push @problems, $err;
		}
	}
	no_problems("the programs of $document parse", @problems);
	return;
}

# one job that its command does, one that it does not; then it is to stop
sub run_worker
{
	my ($file) = programs('doc/guide.md', 'bash');
	my $command = "$file.command";

	append_to_file($command, qq{#!/bin/bash\nread -r payload\n[ "\$payload" = '"good"' ] || { echo "it's bad" >&2; false; }\n});
	$node->safe_psql('postgres', q{
		SELECT queue.create_queue('worker', max_attempts => 2, backoff_base => '0');
		SELECT queue.enqueue_batch('worker', '{"\"good\"","\"bad\""}')});
	my ($out, $err);
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
	my $worker = IPC::Run::start([ 'bash', $file, 'worker', 'bash', $command ],
		'<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	ok( $node->poll_query_until('postgres', q{
			SELECT completed = 1 AND failed = 1 FROM queue.queue_stats('worker')}),
		'the worker in bash ends its jobs') or diag($err);
	is( $node->safe_psql('postgres', q{SELECT attempt, error FROM queue.list_jobs('worker', 'failed')}),
		q{2|it's bad}, '... with their errors');
	$worker->signal('TERM');
	ok($worker->finish, '... and stops when told to');
	is($err, '', '... with nothing to say');
	return;
}

parse_programs($_) foreach @documents;
run_worker() if -e "$root/doc/guide.md";

if (!-e "$root/doc/reference.md")
{
	done_testing();
	exit;
}

# ---------------------------------------------------------------------
# doc/reference.md in pieces
# ---------------------------------------------------------------------

my $reference = slurp_file("$root/doc/reference.md");
my (%functions_of, %section, @groups);    # by group; by heading

{
	my ($group, $heading) = ('', '');
	my $code = 0;
	foreach my $line (split /\n/, $reference)
	{
		$code = !$code if $line =~ /^```/;
		if (!$code && $line =~ /^## (.*?)\s*$/)
		{
			$group = $1;
			$heading = '';
		}
		elsif (!$code && $line =~ /^### (.*?)\s*$/)
		{
			$heading = $1;
			if ($heading =~ /^(\w+)\(\)$/)
			{
				push @groups, $group unless $functions_of{$group};
				push @{ $functions_of{$group} }, $1;
			}
		}
		else
		{
			$section{$heading} .= "$line\n";
		}
	}
}

# the rows of a table whose header begins with a word, as a list of cells
sub table
{
	my ($text, $first) = @_;
	my @rows;
	while ($text =~ /^\| \Q$first\E .*\n\|[-| ]+\|\n((?:\|.*\n)*)/gm)
	{
		foreach my $row (split /\n/, $1)
		{
			my @cells = split /\s*(?<!\\)\|\s*/, $row, -1;
			s/^`(.*)`$/$1/ foreach @cells;
			push @rows, [ @cells[ 1 .. $#cells - 1 ] ];
		}
	}
	return @rows;
}

my %type_names;

# the catalog's name of a type
sub type_name
{
	my ($type) = @_;
	$type_names{$type} //= $node->safe_psql('postgres',
		"SELECT coalesce(to_regtype(\$\$$type\$\$)::text, '')")
	  || "(no type \"$type\")";
	return $type_names{$type};
}

# [name, type, default] of each argument or column of a list
sub split_arguments
{
	my ($list) = @_;
	my @arguments;
	foreach my $argument (split /,\s*(?=\w+ )/, $list)
	{
		my ($name, $type, $default) =
		  $argument =~ /^\s*(\w+) (.+?)(?: = (.+?))?\s*$/;
		push @arguments, [ $name // $argument, $type // '', $default ];
	}
	return @arguments;
}

# "name type" of each, to be compared
sub names_and_types
{
	return map { "$_->[0] " . type_name($_->[1]) } @_;
}

sub names_types_and_defaults
{
	return map { "$_->[0] $_->[1] = " . ($_->[2] // '') } @_;
}

# ---------------------------------------------------------------------
# Functions
# ---------------------------------------------------------------------

# "name type" of arguments and of columns that are returned, the type that is
# returned, and the expressions of the defaults
my %catalog;
foreach my $row (
	split /\n/,
	$node->safe_psql(
		'postgres', q{
	SELECT p.proname,
		coalesce(string_agg(a.name || ' ' || a.type::regtype, ', ' ORDER BY a.n)
			FILTER (WHERE a.mode = 'i'), ''),
		string_agg(a.name || ' ' || a.type::regtype, ', ' ORDER BY a.n)
			FILTER (WHERE a.mode = 't'),
		CASE WHEN p.proretset THEN 'setof ' ELSE '' END || p.prorettype::regtype,
		coalesce(string_agg(coalesce(pg_get_function_arg_default(p.oid, a.n::int), '-'),
			E'\x02' ORDER BY a.n) FILTER (WHERE a.mode = 'i'), '')
	FROM pg_proc AS p
		LEFT JOIN unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames,
			coalesce(p.proargmodes, array_fill('i'::"char", ARRAY[p.pronargs::int])))
			WITH ORDINALITY AS a (type, name, mode, n) ON a.type IS NOT NULL
	WHERE p.pronamespace = 'queue'::regnamespace AND p.proname !~ '^_'
	GROUP BY p.oid}))
{
	my ($name, $arguments, $columns, $result, $defaults) = split /\|/, $row, -1;
	$catalog{$name} = {
		arguments => [ split /, /, $arguments ],
		columns => [ split /, /, $columns ],
		result => $columns eq '' ? $result : 'table',
		defaults => [ split /\x02/, $defaults ],
	};
}

# the least privilege on a queue that lets one call a function
my %privilege_of;
my @privileges = qw(enqueue dequeue browse admin);
$node->safe_psql(
	'postgres', join ';', q{SELECT queue.create_queue('docs')},
	map {
		"CREATE ROLE docs_$_; SELECT queue.grant_queue('docs', 'docs_$_', '$_')"
	} @privileges);
foreach my $privilege (reverse @privileges)
{
	$privilege_of{$_} = $privilege foreach split /\n/,
	  $node->safe_psql(
		'postgres', qq{
		SELECT proname FROM pg_proc
		WHERE pronamespace = 'queue'::regnamespace
			AND has_function_privilege('docs_$privilege', oid, 'EXECUTE')});
}

# are the defaults written the same values as those of the catalog?
sub check_defaults
{
	my ($name, @arguments) = @_;
	my @problems;

	for my $i (0 .. $#arguments)
	{
		my ($argument, $type, $documented) = @{ $arguments[$i] };
		my $actual = $catalog{$name}->{defaults}->[$i] // '-';

		if (defined $documented && $actual ne '-')
		{
			$node->psql(
				'postgres',
				"SELECT ($documented)::$type IS NOT DISTINCT FROM ($actual)::$type",
				stdout => \my $same,
				stderr => \my $error);
			next if $same eq 't';
		}
		elsif (!defined $documented && $actual eq '-')
		{
			next;
		}
		push @problems,
		  sprintf "%s(): the default of %s is %s, not %s", $name, $argument,
		  $actual, $documented // '-';
	}
	return @problems;
}

sub check_function
{
	my ($name) = @_;
	my $text = $section{"$name()"};
	my $function = $catalog{$name};
	my @problems;

	return "$name(): there is no such function" unless $function;

	my ($list, $result) =
	  $text =~ /^```text\nqueue\.$name\((.*?)\)\s*→ (.*?)\s*^```/ms;
	return "$name(): no signature" unless defined $result;
	my @arguments = split_arguments($list);
	push @problems,
	  difference("$name(): arguments", [ names_and_types(@arguments) ],
		$function->{arguments});
	push @problems, check_defaults($name, @arguments) unless @problems;
	push @problems,
	  difference(
		"$name(): table of parameters",
		[ names_types_and_defaults(table($text, 'parameter')) ],
		[ names_types_and_defaults(@arguments) ]);

	my @columns;
	if ($result =~ /^table \((.*)\)$/s)
	{
		@columns = split_arguments($1);
		$result = 'table';
	}
	else
	{
		my ($set, $type) = $result =~ /^(setof )?(.*)$/;
		$result = ($set // '') . type_name($type);
	}
	push @problems, "$name(): the result is $function->{result}, not $result"
	  if $result ne $function->{result};
	push @problems,
	  difference("$name(): columns", [ names_and_types(@columns) ],
		$function->{columns});
	my @described = table($text, 'column');
	push @problems,
	  difference("$name(): table of columns", [ names_and_types(@described) ],
		$function->{columns})
	  if @described;

	my ($privilege) = $text =~ /^Privilege: `(\w+)`/m;
	my $needed = $privilege_of{$name} // 'EXECUTE';
	push @problems, "$name(): the privilege is $needed"
	  if ($privilege // '') ne $needed;
	push @problems, "$name(): no errors" unless $text =~ /^Errors: /m;
	push @problems, "$name(): no example"
	  unless $text =~ /^```sql\n(?:(?!```).*\n)*?.*\bqueue\.$name\(/m;
	return @problems;
}

my %documented = map { $_ => 1 } map { @$_ } values %functions_of;
no_problems(
	'every function has a section in doc/reference.md',
	map { "$_()" } grep { !$documented{$_} } sort keys %catalog);
foreach my $group (@groups)
{
	no_problems("doc/reference.md tells the functions under \"$group\"",
		map { check_function($_) } @{ $functions_of{$group} });
}

# ---------------------------------------------------------------------
# Tables and views
# ---------------------------------------------------------------------

{
	my %columns = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql(
		'postgres', q{
		SELECT c.relname, string_agg(a.attname || ' ' || a.atttypid::regtype, ', ' ORDER BY a.attnum)
		FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
		WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind IN ('r', 'p', 'v')
			AND has_table_privilege('docs_browse', c.oid, 'SELECT') AND NOT a.attisdropped
		GROUP BY c.oid});
	my @described = map { /^queue\.(\w+)$/ ? $1 : () } sort keys %section;
	my @problems;

	foreach my $relation (@described)
	{
		my @columns = table($section{"queue.$relation"}, 'column');
		push @problems, exists $columns{$relation}
		  ? difference("queue.$relation", [ names_and_types(@columns) ],
			[ split /, /, $columns{$relation} ])
		  : "nobody may read queue.$relation";
		delete $columns{$relation};
	}
	# one reads the view over it
	delete $columns{job_archive};
	push @problems, map { "queue.$_ has no section" } sort keys %columns;
	no_problems('doc/reference.md tells the tables and views', @problems);
}

# ---------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------

# a number with a unit as a number of the unit that the server counts in
sub in_unit
{
	my ($value, $unit) = @_;
	my %factors = (
		kB => { kB => 1, MB => 1024, GB => 1024**2, TB => 1024**3 },
		ms => { ms => 1, s => 1000, min => 60000, h => 3600000 },
		s => { s => 1, min => 60, h => 3600 },
		min => { min => 1, h => 60, d => 1440 },
		'' => {});

	return $value unless $value =~ /^(\d+) ?([a-zA-Z]+)$/;
	my $factor = $factors{$unit}->{$2};
	return defined $factor ? $1 * $factor : $value;
}

{
	my %settings = map { my @f = split /\|/, $_, -1; $f[0] => \@f } split /\n/,
	  $node->safe_psql(
		'postgres', q{
		SELECT name, CASE vartype WHEN 'bool' THEN 'boolean' ELSE vartype END, boot_val,
			min_val || ' to ' || max_val, context, unit
		FROM pg_settings WHERE name LIKE 'queue.%'});
	my @problems;

	foreach my $row (grep { $_->[0] =~ /^queue\./ } table($reference, 'setting'))
	{
		my ($name, $type, $default, $range, $context) = @$row;
		my $setting = delete $settings{$name};
		if (!$setting)
		{
			push @problems, "there is no setting $name";
			next;
		}
		my (undef, $a_type, $a_default, $a_range, $a_context, $unit) = @$setting;
		my $in_unit = join ' to ', map { in_unit($_, $unit) } split / to /, $range;
		push @problems, "the type of $name is $a_type" if $type ne $a_type;
		push @problems, "the default of $name is $a_default $unit"
		  if in_unit($default, $unit) ne $a_default;
		push @problems, "the range of $name is $a_range $unit"
		  if $in_unit ne $a_range;
		push @problems, "the context of $name is $a_context"
		  if $context ne $a_context;
	}
	push @problems, map { "$_ is missing" } sort keys %settings;
	no_problems('doc/reference.md tells the settings of the server', @problems);
}

# ---------------------------------------------------------------------
# What only the library knows, and says in the hint of an error
# ---------------------------------------------------------------------

# the words of "... are a, b and c." in the hint that a query gets
sub hinted
{
	my ($sql) = @_;
	$node->psql('postgres', $sql, stderr => \my $error);
	my ($list) = $error =~ /^HINT: .* are (.*)\.$/m;
	return sort split /, | and /, $list // $error;
}

foreach my $case (
	[
		'setting', 'settings of a queue',
		"SELECT queue.reset_queue_setting('docs', '')"
	],
	[
		'option', 'options of a job',
		"SELECT queue.enqueue('docs', '{}', options => '{\"\": 1}')"
	],
	[ 'state', 'states', "SELECT queue.list_jobs('docs', '')" ],
	[
		'privilege', 'privileges',
		"SELECT queue.grant_queue('docs', current_user::regrole, 'x')"
	])
{
	my ($first, $what, $sql) = @$case;
	my @documented =
	  sort grep { !/^queue\./ } map { $_->[0] } table($reference, $first);
	no_problems("doc/reference.md tells the $what",
		difference($what, \@documented, [ hinted($sql) ]));
}

# settings of a queue are arguments of create_queue(), with the same defaults
{
	my @settings = map { [ @$_[ 0 .. 2 ] ] }
	  grep { $_->[0] !~ /^queue\./ } table($reference, 'setting');
	my @arguments = map { [ @$_[ 0 .. 2 ] ] }
	  table($section{'create_queue()'} // '', 'parameter');
	shift @arguments;
	is_deeply(\@settings, \@arguments,
		'settings of a queue are those that create_queue() takes');
}

# each SQLSTATE has the name that follows it
{
	my %errors = $reference =~ /`([0-9A-Z]{5})` ([a-z]+(?:_[a-z]+)+)/g;
	my @problems;

	foreach my $state (sort keys %errors)
	{
		$node->psql(
			'postgres',
			"DO 'BEGIN RAISE SQLSTATE ''$state''; EXCEPTION WHEN $errors{$state} THEN NULL; END'",
			stderr => \my $error);
		push @problems, "SQLSTATE $state is not $errors{$state}: $error"
		  if $error ne '';
	}
	no_problems('the SQLSTATEs of doc/reference.md have their names', @problems);
}

done_testing();

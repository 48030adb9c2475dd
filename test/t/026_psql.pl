# What one sees in psql: descriptions that fit a terminal of 100 columns, a
# comment on everything that people use, and queue.top(), whatever the names and
# the numbers.

use strict;
use warnings;

use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $node = new_node('psql');

# what psql shows, as characters
sub shows
{
	my ($command, %environment) = @_;
	my ($out, $err) = ('', '');

	local %ENV = (%ENV, PSQL_PAGER => '', PGCLIENTENCODING => 'UTF8', %environment);
	IPC::Run::run([ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', $command ],
		'<', \undef, '>', \$out, '2>', \$err)
	  or diag($err);
	utf8::decode($out) if $ENV{PGCLIENTENCODING} eq 'UTF8';
	return $out;
}

# columns that a line takes on a terminal
sub columns
{
	my ($line) = @_;
	my $columns = 0;

	foreach my $character (split //, $line)
	{
		next if $character =~ /\p{Mn}|\p{Cf}/;
		$columns += $character =~ /\p{EastAsianWidth=Wide}|\p{EastAsianWidth=Fullwidth}/ ? 2 : 1;
	}
	return $columns;
}

sub too_wide
{
	return map { columns($_) . ": $_" } grep { columns($_) > 100 } split /\n/, $_[0];
}

# ---------------------------------------------------------------------
# Descriptions
# ---------------------------------------------------------------------

# the columns; below them psql lists triggers, in a form of its own
my $relations = 0;
foreach my $relation (split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind IN ('r', 'p', 'v') AND relname !~ '^_'
	ORDER BY 1}))
{
	my ($table) = split /^\S/m, shows("\\d queue.$relation");
	is_deeply([ too_wide($table) ], [], "\\d queue.$relation fits");
	like($table, qr/\n .*\|/, '... and has columns');
	$relations++;
}
cmp_ok($relations, '>', 10, 'there are relations');
is_deeply([ too_wide(shows('\d queue.job')) ], [], 'all of \d queue.job fits');

# each public function, view and table with a comment of one line that psql shows
foreach my $list (
	[ 'function', q{SELECT proname, obj_description(oid, 'pg_proc') FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND proname !~ '^_'}, shows('\df+ queue.*') ],
	[ 'view', q{SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind = 'v'}, shows('\dv+ queue.*') ],
	[ 'table', q{SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind IN ('r', 'p') AND relname !~ '^_'}, shows('\dt+ queue.*') ])
{
	my ($what, $query, $shown) = @$list;
	my @bad;

	foreach my $row (split /\n/, $node->safe_psql('postgres', $query))
	{
		my ($name, $comment) = split /\|/, $row, 2;
		push @bad, $name unless length $comment && length $comment <= 160 && index($shown, $comment) >= 0;
	}
	is_deeply(\@bad, [], "each $what has a comment that reads well in a list");
}

# ---------------------------------------------------------------------
# queue.top()
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	SELECT queue.create_queue(CASE i % 5 WHEN 0 THEN repeat(U&'\961F', 18) WHEN 1 THEN repeat(U&'e\0301', 18)
		WHEN 2 THEN repeat(U&'\202E', 4) || repeat('x', 40) ELSE repeat('w', 53) END || i, rate_limit => 1)
	FROM generate_series(1, 25) AS i;
	SELECT count(queue.enqueue(queue_name, '1', run_at => '1900-01-01')) FROM queue.queue, generate_series(1, 3);
	SELECT count(*) FROM queue.dequeue_batch((SELECT max(queue_name) FROM queue.queue), 3, worker => 'w');
	SELECT queue.create_queue('big', max_depth => 240000);
	SELECT count(*) FROM queue.enqueue_batch('big', array_fill('1'::jsonb, ARRAY[120000]), run_at => '1800-01-01');
	SELECT count(*) FROM queue.enqueue_batch('big', array_fill('1'::jsonb, ARRAY[120000]), delay => '1 d');
	SELECT queue.pause_queue(queue_name) FROM queue.queue WHERE queue_id % 2 = 0;
	SELECT queue.throttle(queue_name, '1 h') FROM queue.queue WHERE queue_id % 2 = 1 AND queue_name <> 'big'});
wait_for($node, q{SELECT waiting = 120000 AND oldest_waiting_age > '1 d' FROM queue.queue_stats('big')}, 'there is a backlog');
wait_for($node, q{SELECT bool_and(oldest_waiting_age > '1 d') FROM queue.queue_stats() WHERE waiting > 0}, 'all of it is old');

my $top = shows('SELECT queue.top()');
is_deeply([ too_wide($top) ], [], 'queue.top() fits, with psql\'s frame');
like($top, qr/^ big .*  120k +0 +120k +0 \d{5}d /m, 'with large numbers');
like($top, qr/paused$/m, 'and states');
is(scalar(() = $top =~ /~ /g), 14, 'names are cut, those that have to be');
like($top, qr/^ and 6 more/m, 'and queues');
unlike($top, qr/\x{202E}/, 'nothing turns the direction of a line');
my ($heading) = $top =~ /^( queue .* wait)/m;
my @lines = $top =~ /^( \S.*? +(?:3|0|120k)) +\d+ +(?:0|120k) +0 /gm;
is_deeply([ map { columns($_) } @lines ], [ map { columns($heading) } 1 .. 20 ], 'the columns are under their heading');

is_deeply(
	[ too_wide(shows(q{SELECT queue.top()}, PGOPTIONS => '-c search_path=')) ],
	[], 'whatever the search path');
$node->safe_psql('postgres', q{SELECT queue.drop_queue(queue_name, true) FROM queue.queue WHERE queue_name !~ '^(big|w)'});
like(shows('SELECT queue.top()', PGCLIENTENCODING => 'LATIN1'), qr/^ big +=+-+ +120k /m, 'a terminal without blocks has bars');

done_testing();

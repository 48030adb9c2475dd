# pg_upgrade: from server to server, with jobs in every state.
#
# QUEUE_SERVERS has the program directories of servers with the extension, the
# oldest first (UPGRADE_FROM= of test/bin/run makes them); without it, the way
# is from this server to itself.  Files are taken as they are, but leases end:
# the new cluster is another one.  No process of ours runs while pg_upgrade is
# at work.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my @servers = split ' ', $ENV{QUEUE_SERVERS} || '';
my $dir = PostgreSQL::Test::Utils::tempdir();

if (@servers < 2)
{
	my ($own) = run_command([ 'pg_config', '--bindir' ]);
	@servers = ($own, $own);
}

sub make_node
{
	my ($number) = @_;
	my $node = PostgreSQL::Test::Cluster->new("server$number", install_path => dirname($servers[$number]));

	# what is the default since 18
	$node->init(extra => ['--data-checksums']);
	$node->append_conf('postgresql.conf', "log_statement = none\nqueue.maintenance_interval = 100ms\n");
	return $node;
}

my $node = make_node(0);
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE owner; CREATE ROLE producer; CREATE ROLE consumer');
create_extension($node, 'postgres');
create_states($node, 'postgres', 0);

for my $number (1 .. $#servers)
{
	my $before = states_of($node, 'postgres');
	my $version = $node->safe_psql('postgres', 'SHOW server_version_num');
	isnt($node->safe_psql('postgres', q{SELECT count(*) FROM queue.job WHERE state = 'active'}), '0', 'some jobs are held');
	# the other way: a dump, by the programs of the newer server
	$node->command_ok([ "$servers[$number]/pg_dump", '-f', "$dir/$number.sql", $node->connstr('postgres') ], "pg_dump of $version");
	# parts of other extensions need not be there
	$node->safe_psql('postgres', 'DROP EXTENSION IF EXISTS amcheck');
	$node->stop;

	my $upgraded = make_node($number);
	chdir $dir;		# it leaves files behind
	local $ENV{PATH} = "$servers[$number]:$ENV{PATH}";
	$upgraded->command_ok(
		[ "$servers[$number]/pg_upgrade", '--no-sync', '-d', $node->data_dir, '-D', $upgraded->data_dir,
		  '-b', $servers[$number - 1], '-B', $servers[$number],
		  '-s', $upgraded->host, '-p', $node->port, '-P', $upgraded->port ],
		"pg_upgrade from $version");

	# as pg_upgrade does
	$upgraded->command_ok([ 'pg_ctl', '-w', '-D', $upgraded->data_dir, '-l', $upgraded->logfile, '-o', '-b', 'start' ],
		'the server starts for pg_upgrade');
	is( $upgraded->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'queue%'}),
		'0', 'no process of ours runs then');
	$upgraded->command_ok([ 'pg_ctl', '-w', '-D', $upgraded->data_dir, 'stop' ], 'and it stops');

	$upgraded->start;
	my $name = "$version to " . $upgraded->safe_psql('postgres', 'SHOW server_version_num');
	check_states($upgraded, 'postgres', $number - 1, $before, $name);
	$upgraded->psql('postgres', 'CREATE EXTENSION amcheck');
	check_structure($upgraded, $name);
	$upgraded->safe_psql('postgres', 'CREATE DATABASE dumped');
	$upgraded->command_ok([ "$servers[$number]/psql", '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $upgraded->connstr('dumped'), '-f', "$dir/$number.sql" ],
		"$name, by a dump: restore");
	check_states($upgraded, 'dumped', $number - 1, $before, "$name, by a dump");
	$upgraded->safe_psql('postgres', 'DROP DATABASE dumped');

	# workers and executors
	$upgraded->append_conf('postgresql.conf', "queue.max_executors = 2\n");
	$upgraded->reload;
	$upgraded->safe_psql('postgres', sprintf(q{SELECT queue.start_processing('%d handled')}, $number - 1));
	ok( $upgraded->poll_query_until('postgres', sprintf(
			q{SELECT count(*) = 1 FROM queue.job_finished WHERE queue_name = '%d handled' AND result = '{"did": true}'}, $number - 1)),
		"$name: the server runs handlers");
	# what is over goes where it has always gone, and goes away
	is( $upgraded->safe_psql('postgres', sprintf(
			q{SELECT queue.clean('%d "ended"', '0') > 0 AND NOT EXISTS (SELECT FROM queue.list_jobs('%d "ended"', 'completed'))},
			$number - 1, $number - 1)),
		't', "$name: finished jobs can be cleaned away");
	create_states($upgraded, 'postgres', $number);
	check_counters($upgraded, "$name, with more");
	$node = $upgraded;
}

$node->stop;
done_testing();

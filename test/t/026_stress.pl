# A short run of what "make stress" does for as long as one likes: see
# test/stress/storm.pl.  Then one whose database is tampered with before the
# checks, which must see it.
#
# SEED repeats the plan of a run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my $dir = "$FindBin::RealBin/../stress";

sub storm
{
	my ($name, $seed, $seconds, $sabotage) = @_;
	my $little = $seed % 4 == 3 && !$sabotage ? slurp_file("$dir/little_room.conf") : '';
	my $node = new_node($name, conf => slurp_file("$dir/server.conf") . $little);

	local %ENV = (%ENV, PGDATA => $node->data_dir, PGHOST => $node->host, PGPORT => $node->port,
		PGUSER => $node->safe_psql('postgres', 'SELECT current_user'),
		STRESS_LOG => $node->logfile, STRESS_DIR => PostgreSQL::Test::Utils::tempdir(),
		STRESS_SABOTAGE => $sabotage);
	my $ok = IPC::Run::run([ $^X, "$dir/storm.pl", $seed, $seconds ], '<', \undef, '>&', \my $output);
	note($output);
	$node->stop('immediate');
	return ($ok, $output);
}

my $seed = $ENV{SEED} || int rand 1e9;
my ($ok, $output) = storm('storm', $seed, 20);
ok($ok, "the storm of seed $seed does no harm") or diag($output);
like($output, qr/^stress: seed $seed, 20 s: ok \(attempted \d{3}/m, 'and has a verdict');

# one is done twice, one is completed and not done, two are gone, and a key and a failure are nobody's
($ok, $output) = storm('sabotage', $seed, 6, q{
	WITH own AS (
		SELECT d.*, row_number() OVER (ORDER BY seq) AS n
		FROM stress.done AS d JOIN queue.job_archive AS a USING (job_id) JOIN queue.queue USING (queue_id)
		WHERE token NOT LIKE '0.%' AND key NOT LIKE 'cb %' AND unique_key IS NULL AND queue_name <> 'brief'
	), twice AS (
		INSERT INTO stress.done (token, job_id, attempt, key) SELECT token, job_id, attempt, key FROM own WHERE n = 1
	), undone AS (
		DELETE FROM stress.done WHERE job_id IN (SELECT job_id FROM own WHERE n IN (2, 3))
	), gone AS (
		DELETE FROM queue.job_archive WHERE job_id IN (SELECT job_id FROM own WHERE n = 3)
	), copy AS (
		DELETE FROM queue.job_archive WHERE job_id IN (
			SELECT job_id FROM queue.job_archive JOIN queue.queue USING (queue_id)
			WHERE queue_name = 'mirror' AND NOT EXISTS (SELECT FROM own WHERE job_archive.job_id = own.job_id AND n <= 3) LIMIT 1)
	), failure AS (
		INSERT INTO stress.failure VALUES (1, 1)
	) INSERT INTO queue.unique_key (queue_id, unique_key, job_id, taken_until, settled)
	SELECT queue_id, 'sabotage', 1, '-infinity', false FROM queue.queue LIMIT 1});
ok(!$ok, 'what is tampered with is found');
like($output, qr/^stress: seed $seed, 6 s: FAILED/m, 'and has another verdict');
like($output, qr/^$_/m, "one of the problems: $_")
  for '\d+ jobs are lost', '\d+ jobs are done more than once', '\d+ jobs are completed without being done',
	'\d+ completions were acknowledged and are gone', '1 unique keys are left',
	'\d+ messages have not reached their queues', '\d+ jobs have failed without on_failed',
	'the counters are not those of the tables';
done_testing();

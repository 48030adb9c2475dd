# Many of everything, as far as seconds go: queues, batches, clients behind a
# pooler; and the settings of the server, from one end to the other.
#
# What takes longer is in test/bin/scale.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', conf => q{
log_statement = none
queue.max_queues = 400
queue.max_hints = 900
});
sub query { return $node->safe_psql('postgres', $_[0]); }

# ---------------------------------------------------------------------
# Queues, three times as many as have room
# ---------------------------------------------------------------------

my $queues = 1200;
sub for_queues
{
	my ($call) = @_;
	return query("DO \$\$ BEGIN FOR i IN 1 .. $queues LOOP PERFORM $call; "
		. 'IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END $$');
}

for_queues("queue.create_queue('q' || i)");
for_queues("queue.enqueue('q' || i, '1')");
is(query("SELECT count(queue.complete(job_id)) FROM generate_series(1, $queues) AS i, queue.dequeue_batch('q' || i)"),
	$queues, "$queues queues: each has its job");
for_queues("queue.enqueue('q' || i, '2', delay => '100 ms')");
my $done = 0;
for (1 .. 600)
{
	$done += query("SELECT count(queue.complete(job_id)) FROM generate_series(1, $queues) AS i, queue.dequeue_batch('q' || i)");
	last if $done == $queues;
	Time::HiRes::sleep(0.1);
}
is($done, $queues, 'and one that becomes due');
is(query('SELECT count(*) FROM queue.queue_stats()'), $queues, 'queue_stats() has them all');
is(query('SELECT count(*) FROM queue.queue_health() WHERE queue_name IS NOT NULL'), $queues, 'so has queue_health()');
like(query('SELECT queue.report()'), qr/<\/html>/, 'there is a report');
is(query('SELECT count(*) > 1 FROM queue.top()'), 't', 'and a table');
is(query('SELECT count(*) FROM queue.metrics'), $queues, 'and metrics');
my @told = slurp_file($node->logfile) =~ /queue has no room left/g;
is(scalar @told, 1, 'the log tells once that there is no room');
is(query(q{SELECT count(*) FROM queue.health_alerts() WHERE code = 'shared_memory'}), '1', 'and an alert');
check_structure($node, 'many queues');

# ---------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------

query(q{SELECT queue.create_queue('batch'); SELECT queue.create_queue('callback');
	SELECT count(queue.create_batch('b' || i, callback_queue => 'callback', callback_payload => to_jsonb(i)))
	FROM generate_series(1, 1000) AS i;
	SELECT count(queue.enqueue('batch', '1', batch_id => 'b' || i % 1000 + 1)) FROM generate_series(1, 3000) AS i;
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('batch', 2500);
	SELECT count(*) FROM (SELECT queue.close_batch('b' || i) FROM generate_series(1, 1000) AS i) AS c;
	SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('batch', 500)});
wait_for($node, q{SELECT count(*) = 1000 AND count(DISTINCT payload) = 1000 FROM queue.job WHERE queue_name = 'callback'},
	'1,000 batches are complete, and have called back once');

# ---------------------------------------------------------------------
# Settings, from one end to the other
# ---------------------------------------------------------------------

query(q{SELECT queue.create_queue('settings')});
sub check_serves
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	query(q{SELECT queue.enqueue('settings', '1', delay => '50 ms')});
	return is(query(q{SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('settings', wait => '50 s')}), '1', $name);
}

my @reloaded = split /\n/, query(q{SELECT name || '|' || min_val || '|' || max_val FROM pg_settings
	WHERE name LIKE 'queue.%' AND context = 'sighup' ORDER BY 1});
cmp_ok(scalar @reloaded, '>', 8, 'settings that are reloaded: ' . @reloaded);
for my $end (1, 2)
{
	my $name = $end == 1 ? 'the least' : 'the most';
	my @wanted;

	for (@reloaded)
	{
		my @setting = split /\|/;
		# pg_settings shows values without units, as they are taken
		$node->append_conf('postgresql.conf', "$setting[0] = $setting[$end]");
		push @wanted, "$setting[0]|$setting[$end]";
	}
	$node->reload;
	wait_for($node, q{SELECT string_agg(name || '|' || setting, ' ' ORDER BY name) FROM pg_settings
		WHERE name LIKE 'queue.%' AND context = 'sighup'}, "$name of all", join(' ', @wanted));
	check_serves("$name of all: jobs become due and are taken");
}
my $offset = -s $node->logfile;
for (@reloaded)
{
	my ($name, $least, $most) = split /\|/;
	$node->append_conf('postgresql.conf', "$name = 9999999999");
}
$node->reload;
my $refused = 0;
for (1 .. 600)
{
	$refused = () = slurp_file($node->logfile, $offset) =~ /invalid value for parameter "queue\.|outside the valid range for parameter "queue\./g;
	last if $refused >= @reloaded;
	Time::HiRes::sleep(0.1);
}
is($refused, scalar @reloaded, 'what is out of range is refused, in the log, each once');
is(query(q{SELECT count(*) FROM pg_settings WHERE name LIKE 'queue.%' AND context = 'sighup' AND setting <> max_val}), '0',
	'and nothing changes');
check_serves('nor does what they do');

# those of a session
for (split /\n/, query(q{SELECT name || '|' || min_val || '|' || max_val FROM pg_settings
	WHERE name LIKE 'queue.%' AND context IN ('user', 'superuser') AND vartype = 'integer' ORDER BY 1}))
{
	my ($name, $least, $most) = split /\|/;
	is(query("SET $name = $least; SET $name = $most; SELECT 'set'"), 'set', "$name: the least, and the most");
	my (undef, undef, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET $name = " . ($most + 1));
	like($stderr, qr/ERROR:  22023: /, "$name: not more");
}
query(q{SET queue.max_wait = 0; SELECT queue.dequeue_batch('settings', wait => '1 h')});
pass('no wait where none is allowed');

# back to the defaults, with room for all queues
$node->append_conf('postgresql.conf', "queue.max_queues = 2000\nqueue.max_hints = 5000");
for (@reloaded)
{
	my ($name) = split /\|/;
	$node->append_conf('postgresql.conf', "$name = " . query("SELECT boot_val FROM pg_settings WHERE name = '$name'"));
}
$node->restart;
wait_for($node, 'SELECT count(*) = count(waiting) FROM queue.queue_stats()', 'with more room, all queues have counts');

# ---------------------------------------------------------------------
# Behind PgBouncer, one transaction a connection
# ---------------------------------------------------------------------

SKIP:
{
	my $bouncer = start_bouncer($node, 4) or skip 'pgbouncer is not installed', 1;
	my $pooled = sub {
		my ($sql) = @_;
		my ($out, $err) = run_command([ 'psql', '-XAtq', '-d', $bouncer->{connstr}, '-v', 'ON_ERROR_STOP=1', map { ('-c', $_) } split /;\s*/, $sql ]);
		return $out . $err;
	};

	# a verb after the other, each by whichever connection
	is($pooled->(q{
			SELECT count(queue.create_queue('p' || i, max_attempts => 2)) FROM generate_series(1, 2) AS i;
			CREATE FUNCTION note(job queue.job_context) RETURNS jsonb LANGUAGE sql AS 'SELECT job.payload';
			SELECT queue.set_handler('p2', 'public.note');
			SELECT queue.stop_processing('p2');
			SELECT count(queue.enqueue('p1', to_jsonb(i), unique_key => i::text, group_key => 'g')) FROM generate_series(1, 3) AS i;
			SELECT queue.enqueue('p1', '4', batch_id => 'pooled', priority => 9);
			SELECT queue.bind('a.*', 'p2');
			SELECT count(*) FROM generate_series(1, 2), LATERAL queue.publish('a.b', '5');
			SELECT payload FROM queue.dequeue_batch('p1', worker => 'w')}) =~ s/^\d{2,}$/id/mr,
		"2\n\n\n3\nid\n\n2\n1", 'jobs are put in and taken');
	like($pooled->(q{SELECT queue.heartbeat('w', 'p1');
			SELECT queue.set_progress(job_id, 50) FROM queue.job WHERE queue_name = 'p1' AND payload = '1';
			SELECT queue.extend(job_id, '1 h', attempt => 1) IS NOT NULL FROM queue.job WHERE queue_name = 'p1' AND payload = '1';
			SELECT queue.release(job_id, attempt => 1) FROM queue.job WHERE queue_name = 'p1' AND payload = '1';
			SELECT queue.fail(job_id, 'no', retry_in => '0') FROM queue.dequeue_batch('p1');
			SELECT state FROM queue.process_next('p2');
			CALL queue.wait('p1', '1 s')}), qr/\bt\b.*completed/s, 'jobs are told of, given back, failed, run');
	is($pooled->(q{SELECT c.payload FROM queue.dequeue_batch('p1') AS j,
				LATERAL queue.complete_and_dequeue(ARRAY[j.job_id], 'p1') AS c;
			SELECT queue.pause_queue('p1');
			SELECT count(*) FROM queue.dequeue_batch('p1');
			SELECT queue.resume_queue('p1');
			SELECT queue.throttle('p1', '1 h') IS NOT NULL;
			SELECT count(*) FROM queue.dequeue_batch('p1', wait => '200 ms');
			SELECT queue.throttle('p1', '0') IS NULL;
			SELECT state FROM queue.list_jobs('p1', 'completed', 1);
			SELECT count(*) FROM queue.queue_stats('p1');
			SELECT queue.cancel(job_id) FROM queue.job WHERE queue_name = 'p1' AND payload = '3'}),
		"2\n\n0\n\nt\n0\nt\ncompleted\n1\nt", 'completed, stopped, looked at, cancelled');

	# forty clients, four connections
	query(q{SELECT count(*) FROM queue.enqueue_batch('p2', array_fill('6'::jsonb, ARRAY[2000]))});
	my $script = PostgreSQL::Test::Utils::tempdir() . '/pool.sql';
	append_to_file($script, "SELECT count(queue.complete(job_id)) FROM queue.dequeue_batch('p2', 2, wait => '1 s');\n");
	$node->command_ok([ 'pgbench', '-n', '-c', 40, '-j', 2, '-t', 26, '-f', $script, $bouncer->{connstr} ], 'forty clients share four connections');
	is(query(q{SELECT count(*) FROM queue.job WHERE queue_name = 'p2'}), '0', 'each job is done');

	# what belongs to a session belongs to the pooler's: it outlives the client
	query(q{SELECT queue.purge_queue('p1'); SELECT queue.enqueue('p1', '7')});
	is($pooled->(q{SELECT payload FROM queue.dequeue_batch('p1', visibility_timeout => '1 h', bind_session => true)}), '7',
		'a lease that is bound to a session');
	is(query(q{SELECT count(*) FROM queue.dequeue_batch('p1')}), '0', 'does not end with the client');
	run_command([ 'psql', '-Xq', '-d', $bouncer->{admin}, '-c', 'RECONNECT' ]);
	is(query(q{SELECT payload FROM queue.dequeue_batch('p1', wait => '50 s')}), '7', 'but with the connection of the pooler');
	stop_bouncer($bouncer);
}

# those of the start, at the least
my $smallest = join "\n", map { s/\|/ = /r } split /\n/, query(q{SELECT name || '|' || min_val FROM pg_settings
	WHERE name LIKE 'queue.%' AND context = 'postmaster'});
$node->append_conf('postgresql.conf', $smallest);
$node->restart;
check_serves('the least room in shared memory: jobs become due and are taken');
is(query('SELECT count(*) = count(q) FROM queue.queue AS q LEFT JOIN queue.queue_stats() USING (queue_name)'), 't', 'all queues are there');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process came to a bad end');

done_testing();

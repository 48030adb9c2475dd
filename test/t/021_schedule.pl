# Schedules: on pg_cron where it is, with an error that helps where it is not.
# Whatever fires them, and however often, a minute brings one job.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $node = new_node('schedule');

# the SQLSTATE of what a command fails with, or 00000
sub state_of
{
	my ($database, $sql, @options) = @_;
	my ($ret, $out, $err) = $node->psql($database, "\\set VERBOSITY verbose\n$sql", @options);
	return $err =~ /(?:ERROR|FATAL):  (\w{5}):/ ? $1 : '00000';
}

# what it says to that
sub says
{
	my ($database, $sql) = @_;
	my ($ret, $out, $err) = $node->psql($database, $sql);
	return $err;
}

# Two firings that lie in the same minute, if it does not end between them: so
# perhaps not the first two.
sub fire_twice
{
	my ($database, $name) = @_;
	for (1 .. 3)
	{
		my ($minute, $first, $second, $after) = split /\|/, $node->safe_psql($database, qq{
			SELECT date_trunc('minute', clock_timestamp()) AS m \\gset
			SELECT queue._fire('$name') AS a \\gset
			SELECT queue._fire('$name') AS b \\gset
			SELECT :'m', :a, :b, date_trunc('minute', clock_timestamp())});
		return ($first, $second) if $minute eq $after;
	}
	return;
}

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('q');
	CREATE ROLE producer LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE reader LOGIN;
	SELECT queue.grant_queue('q', 'producer', 'enqueue');
	SELECT queue.grant_queue('q', 'boss', 'admin');
	SELECT queue.grant_queue('q', 'reader', 'browse')});

# ---------------------------------------------------------------------
# Without pg_cron
# ---------------------------------------------------------------------

my $nightly = q{SELECT queue.schedule('nightly', '* * * * *', 'q', '{"a": 1}', priority => 3, source => 'cron',
	options => '{"limit_key": "k"}')};
is(state_of('postgres', "$nightly;"), '55000', 'without pg_cron');
like(says('postgres', "$nightly;"), qr/HINT:  Install its package/, 'the hint says what to install');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.schedule'), '0', 'nothing was stored');

# the row alone; something else fires it
my $alone = q{SELECT queue.schedule('alone', '* * * * *', 'q', '{"a": 1}', priority => 3, source => 'cron',
	headers => '{"h": 2}', options => '{"limit_key": "k"}', create_cron_job => false)};
is($node->safe_psql('postgres', "$alone IS NULL"), 't', 'a schedule without a cron job');
{
	my ($first, $second) = fire_twice('postgres', 'alone');
	is($first, $second, 'the second firing of a minute returns the job of the first');
	is( $node->safe_psql('postgres', "SELECT payload, priority, source, headers, limit_key FROM queue.job WHERE job_id = $first"),
		'{"a": 1}|3|cron|{"h": 2}|k', 'the job is as the schedule says');
	is( $node->safe_psql('postgres', q{SELECT last_job_id, last_fired_at > now() - interval '2 min' FROM queue.schedule}),
		"$first|t", 'the schedule tells when it fired');
	# even if the job is over
	$node->safe_psql('postgres', q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('q', 10)});
	($first, $second) = fire_twice('postgres', 'alone');
	is($first, $second, 'so it does if that job is complete');
}
$node->safe_psql('postgres', q{UPDATE queue.schedule SET last_fired_at = last_fired_at - interval '1 min'});
{
	my $last = $node->safe_psql('postgres', q{SELECT last_job_id FROM queue.schedule});
	isnt($node->safe_psql('postgres', q{SELECT queue._fire('alone')}), $last, 'another minute, another job');
}
$node->safe_psql('postgres', q{
	SELECT queue.schedule('alone', '5 seconds', 'q', '2', create_cron_job => false);
	UPDATE queue.schedule SET last_fired_at = last_fired_at - interval '1 s'});
{
	my $last = $node->safe_psql('postgres', q{SELECT last_job_id FROM queue.schedule});
	my $job = $node->safe_psql('postgres', q{SELECT queue._fire('alone')});
	isnt($job, $last, 'a schedule in seconds fires once a second');
	is($node->safe_psql('postgres', "SELECT payload, source FROM queue.job WHERE job_id = $job"),
		'2|schedule alone', 'a schedule of the same name replaces the first');
}

# errors
is(state_of('postgres', q{SELECT queue.schedule('x', '* * * * *', 'none', '1', create_cron_job => false)}), '42704', 'no such queue');
is(state_of('postgres', q{SELECT queue.schedule('', '* * * * *', 'q', '1', create_cron_job => false)}), '42602', 'no name');
is(state_of('postgres', q{SELECT queue.schedule(repeat('x', 58), '* * * * *', 'q', '1', create_cron_job => false)}), '42602', 'a long name');
is(state_of('postgres', q{SELECT queue.schedule('x', null, 'q', '1', create_cron_job => false)}), '22004', 'no time');
is(state_of('postgres', q{SELECT queue.schedule('x', '* * * * *', 'q', null, create_cron_job => false)}), '22004', 'no payload');
is(state_of('postgres', q{SELECT queue.schedule('x', '* * * * *', 'q', '1', priority => 99999, create_cron_job => false)}), '22023', 'a bad priority');
is(state_of('postgres', q{SELECT queue.schedule('x', '* * * * *', 'q', '1', options => '{"no": 1}', create_cron_job => false)}), '22023', 'a bad option');
is(state_of('postgres', q{SELECT queue._fire('x')}), '42704', 'no such schedule');
is($node->safe_psql('postgres', q{SELECT queue.unschedule('x')}), 'f', 'nor one to remove');

# privileges
is(state_of('postgres', $alone, extra_params => [ '-U', 'stranger' ]), '42501', 'a stranger may not create one');
is(state_of('postgres', $alone, extra_params => [ '-U', 'producer' ]), '42501', 'a producer may not replace that of another');
my $own = q{SELECT queue.schedule('own', '* * * * *', 'q', '1', create_cron_job => false)};
is(state_of('postgres', $own, extra_params => [ '-U', 'producer' ]), '00000', 'but have one of its own');
is(state_of('postgres', q{SELECT queue._fire('own')}, extra_params => [ '-U', 'producer' ]), '00000', 'which it may fire');
is(state_of('postgres', q{SELECT queue._fire('own')}, extra_params => [ '-U', 'boss' ]), '42501', 'nobody else may');
is(state_of('postgres', q{SELECT queue._fire('own')}), '00000', 'but a superuser');
is(state_of('postgres', q{SELECT queue.unschedule('alone')}, extra_params => [ '-U', 'producer' ]), '42501', 'nor remove it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.schedule}, extra_params => [ '-U', 'reader' ]), '2', 'who may browse sees them');
$node->safe_psql('postgres', q{
	UPDATE queue.schedule SET last_fired_at = '2000-01-01';
	SELECT queue.revoke_queue('q', 'producer', 'enqueue')});
is(state_of('postgres', q{SELECT queue._fire('own')}), '42501', 'it enqueues with the rights of its owner');
is($node->safe_psql('postgres', q{SELECT queue.unschedule('own')}, extra_params => [ '-U', 'boss' ]), 't', 'who has admin on the queue may remove it');

# with the queue
is(state_of('postgres', q{SELECT queue.purge_queue('q'); SELECT queue.drop_queue('q')}), '2BP01', 'a queue is not dropped while it has schedules');
is(state_of('postgres', q{SELECT queue.drop_queue('q', cascade => true)}), '00000', 'but with them');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.schedule'), '0', 'and they are gone');

# a dump keeps them
$node->safe_psql('postgres', q{
	SELECT queue.create_queue('q');
	SELECT queue.schedule('it''s', '1 2 * * *', 'q', '{"a": 1}', source => 's', create_cron_job => false);
	SELECT queue._fire('it''s');
	CREATE DATABASE restored});
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ], 'restore');
is( $node->safe_psql('restored', 'SELECT * FROM queue.schedule'),
	$node->safe_psql('postgres', 'SELECT * FROM queue.schedule'), 'the schedule is there');
ok($node->safe_psql('restored', q{SELECT queue._fire('it''s')}), 'and fires');

# ---------------------------------------------------------------------
# With pg_cron
# ---------------------------------------------------------------------

my $sharedir = `pg_config --sharedir`;
chomp $sharedir;
SKIP:
{
	if (!-e "$sharedir/extension/pg_cron.control")
	{
		note("no pg_cron in $sharedir/extension: what needs it is skipped");
		skip 'no pg_cron here', 1;
	}

	# its library looks for its database; background workers need no password
	$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'queue, pg_cron'
cron.use_background_workers = on
cron.database_name = 'crons'
});
	$node->restart;
	$node->safe_psql('postgres', 'CREATE DATABASE crons');
	like(says('crons', 'CREATE EXTENSION queue; SELECT queue.create_queue(\'q\');'
			. q{SELECT queue.schedule('x', '* * * * *', 'q', '1')}),
		qr/HINT:  Call CREATE EXTENSION pg_cron/, 'the hint where only the extension is missing');
	$node->safe_psql('crons', 'CREATE EXTENSION pg_cron');

	# elsewhere: the call that the hint gives makes the cron job there
	my $elsewhere = q{SELECT queue.schedule('o''clock $x', '0 0 1 1 *', 'q', '1'};
	is(state_of('postgres', "$elsewhere)"), '55000', 'pg_cron in another database');
	my ($call) = says('postgres', "$elsewhere)") =~ /: (SELECT cron\.schedule_in_database\(.*\))$/m;
	ok($call, 'the hint has the call to make there');
	$node->safe_psql('postgres', "$elsewhere, create_cron_job => false)");
	my $cron_job = $node->safe_psql('crons', $call);
	my $command = $node->safe_psql('crons',
		"SELECT command FROM cron.job WHERE jobid = $cron_job AND database = 'postgres' AND username = current_user");
	ok($node->safe_psql('postgres', $command), 'and its command fires the schedule');
	my ($undo) = says('postgres', q{SELECT queue.unschedule('o''clock $x')}) =~ /: (SELECT cron\.unschedule\(.*\))$/m;
	is($node->safe_psql('crons', $undo), 't', 'the notice of unschedule has the call to undo it');

	# here
	$node->safe_psql('crons', q{
		GRANT USAGE ON SCHEMA cron TO producer;
		SELECT queue.grant_queue('q', 'producer', 'enqueue');
		SELECT queue.grant_queue('q', 'boss', 'admin')});
	my $id = $node->safe_psql('crons', q{SELECT queue.schedule('nightly', '* * * * *', 'q', '{"a": 1}')},
		extra_params => [ '-U', 'producer' ]);
	is( $node->safe_psql('crons', 'SELECT jobname, schedule, command, username FROM cron.job'),
		q{queue: nightly|* * * * *|SELECT queue._fire('nightly')|producer}, 'the cron job');
	is($node->safe_psql('crons', 'SELECT cron_job_id, owner FROM queue.schedule'), "$id|producer", 'the schedule has its number');
	like(says('crons', q{SELECT queue.schedule('bad', 'every day', 'q', '1')}),
		qr/every day.*CONTEXT:  .*pg_cron, for the queue schedule "bad"/s, 'an error of pg_cron tells the schedule');
	is($node->safe_psql('crons', q{SELECT count(*) FROM queue.schedule}), '1', 'which is not stored');
	is(state_of('crons', q{SELECT queue.schedule('x', '* * * * *', 'q', '1')}, extra_params => [ '-U', 'boss' ]), '42501',
		'without the privilege to call pg_cron');

	# fires by itself, as does maintenance
	$node->safe_psql('crons', q{SELECT cron.schedule('queue maintenance', '* * * * *', 'SELECT queue.maintain()')});
	ok( $node->poll_query_until('crons', q{SELECT last_job_id IS NOT NULL FROM queue.schedule}),
		'pg_cron fires it');
	is( $node->safe_psql('crons', q{SELECT payload, source FROM queue.job WHERE job_id = (SELECT last_job_id FROM queue.schedule)}),
		'{"a": 1}|schedule nightly', 'its job is there');
	ok( $node->poll_query_until('crons', q{SELECT count(*) > 0 FROM cron.job_run_details
			WHERE command = 'SELECT queue.maintain()' AND status = 'succeeded'}),
		'pg_cron calls queue.maintain()');

	# again, and no more
	is( $node->safe_psql('crons', q{SELECT queue.schedule('nightly', '1 2 3 4 5', 'q', '2')}, extra_params => [ '-U', 'producer' ]),
		$id, 'schedule again: the same cron job');
	is( $node->safe_psql('crons', q{SELECT schedule FROM cron.job WHERE jobname = 'queue: nightly'}), '1 2 3 4 5', 'at another time');
	$node->safe_psql('crons', q{SELECT queue.schedule('nightly', '1 2 3 4 5', 'q', '2', create_cron_job => false)}, extra_params => [ '-U', 'producer' ]);
	is($node->safe_psql('crons', q{SELECT count(*) FROM cron.job WHERE jobname LIKE 'queue:%'}), '0', 'without one, it is removed');
	$node->safe_psql('crons', q{SELECT queue.schedule('nightly', '1 2 3 4 5', 'q', '2')}, extra_params => [ '-U', 'producer' ]);
	is($node->safe_psql('crons', q{SELECT queue.unschedule('nightly')}, extra_params => [ '-U', 'boss' ]), 't', 'unschedule, by another');
	is($node->safe_psql('crons', q{SELECT count(*) FROM cron.job WHERE jobname LIKE 'queue:%'}), '0', 'removes the cron job');

	# the number in a restored row may be another's job
	$node->safe_psql('crons', q{
		SELECT queue.schedule('copy', '1 2 3 4 5', 'q', '1');
		UPDATE queue.schedule SET cron_job_id = (SELECT jobid FROM cron.job WHERE jobname = 'queue maintenance');
		SELECT queue.unschedule('copy')});
	is($node->safe_psql('crons', q{SELECT count(*) FROM cron.job WHERE jobname = 'queue maintenance'}), '1', 'a job of somebody else stays');
	$node->safe_psql('crons', q{SELECT cron.unschedule('queue: copy')});

	$node->safe_psql('crons', q{SELECT queue.schedule('a', '1 2 3 4 5', 'q', '1'); SELECT queue.drop_queue('q', cascade => true)});
	is($node->safe_psql('crons', q{SELECT count(*) FROM cron.job WHERE jobname LIKE 'queue:%'}), '0', 'the cron jobs go with the queue');
	$node->safe_psql('crons', q{SELECT queue.create_queue('q'); SELECT queue.schedule('a', '1 2 3 4 5', 'q', '1'); DROP EXTENSION pg_cron CASCADE});
	is($node->safe_psql('crons', q{SELECT queue.unschedule('a')}), 't', 'without pg_cron all goes on');

	# a schema of that name that is not its own
	$node->safe_psql('crons', q{
		CREATE SCHEMA cron;
		CREATE FUNCTION cron.schedule(text, text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1'});
	is(state_of('crons', q{SELECT queue.schedule('a', '1 2 3 4 5', 'q', '1')}), '55000', 'nobody else is called');
	unlike(slurp_file($node->logfile), qr/TRAP|PANIC/, 'nothing has crashed');
}

done_testing();

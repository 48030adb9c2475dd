# Storms against the limits of queues.
#
# Takers hold jobs for a while and let them go in every way: complete, release,
# fail, roll back, also to a savepoint, complete and take the next, or never come
# back, so that the lease ends.  Some die.  A checker looks all the time:
#
#	max_active	jobs that are active, by what is committed, are never more;
#				nor are those that open transactions hold, together with those
#	rate		what was taken, by the log of those whose claim has committed, is
#				never more in any stretch of time than the rate and one bucket
#
# And nobody sleeps for ever: at the end everything is done by takers that wait.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $node = new_node('main', conf => q{
log_statement = none
restart_after_crash = on
});

$node->safe_psql('postgres', q{
	SELECT queue.create_queue('few', max_active => 3, max_attempts => 1000, backoff_base => '10 ms', backoff_max => '20 ms', keep_completed => '0');
	SELECT queue.create_queue('rate', rate_limit => 20, rate_period => '1 s', max_attempts => 1000);
	CREATE TABLE taken (at timestamptz NOT NULL);

	-- Claims that are not committed: each taker shows them by a lock that names the
	-- (sub)transaction and the job.
	CREATE FUNCTION hold(job_id bigint) RETURNS bigint LANGUAGE sql AS $$
		SELECT pg_advisory_xact_lock(xmin::text::int, (job_id % 2000000000)::int)
		FROM queue.job_live WHERE job_id = hold.job_id;
		SELECT job_id;
	$$;
	-- What is active, and the claims that were open before that, and still are
	-- after: so one that ends in between is not counted twice, nor is one that is
	-- undone.  Locks are released later than that.
	CREATE FUNCTION held() RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		open text[] := ARRAY(SELECT classid || ' ' || objid FROM pg_locks WHERE locktype = 'advisory' AND granted);
		active int[] := ARRAY(SELECT (job_id % 2000000000)::int FROM queue.job WHERE queue_name = 'few' AND state = 'active');
	BEGIN
		RETURN (SELECT count(DISTINCT id) FROM unnest(active || ARRAY(
			SELECT split_part(claim, ' ', 2)::int FROM unnest(open) AS claim
			WHERE pg_xact_status(split_part(claim, ' ', 1)::xid8) = 'in progress')) AS id);
	END
	$$;

	-- one turn of a taker, as luck will have it
	CREATE PROCEDURE turn(luck int) LANGUAGE plpgsql AS $$
	DECLARE
		ids bigint[];
		spare bigint[];
	BEGIN
		ids := ARRAY(SELECT hold(job_id) FROM queue.dequeue_batch('few', 1 + luck % 3,
			visibility_timeout => CASE WHEN luck % 20 = 19 THEN interval '50 ms' END,
			wait => CASE WHEN luck % 2 = 0 THEN interval '1 s' ELSE '0' END));
		IF luck % 7 = 6 THEN
			BEGIN
				PERFORM hold(job_id) FROM queue.dequeue_batch('few', 2);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END IF;
		PERFORM pg_sleep(luck % 4 * 0.002);
		IF luck % 10 < 3 THEN
			ROLLBACK;
			RETURN;
		END IF;
		IF luck % 10 < 8 THEN
			COMMIT;
		END IF;
		IF luck % 20 = 19 THEN
			RETURN;				-- never to come back
		END IF;
		IF luck % 5 = 0 THEN
			PERFORM queue.release(id) FROM unnest(ids) AS id;
		ELSIF luck % 5 = 1 THEN
			PERFORM queue.fail(id, 'e') FROM unnest(ids) AS id;
		ELSIF luck % 5 = 2 THEN
			-- in the places of those that it completes
			ids := ARRAY(SELECT job_id FROM queue.complete_and_dequeue(ids, 'few', 3));
			IF luck % 3 = 0 THEN
				ROLLBACK;		-- those of before run out by themselves
				RETURN;
			END IF;
			COMMIT;
			PERFORM queue.complete_many(ids);
		ELSE
			PERFORM queue.complete_many(ids);
		END IF;
	END
	$$});
# what is let down for good is back soon
$node->safe_psql('postgres', q{SELECT queue.alter_queue('few', visibility_timeout => '200 ms')});

my $turns = $node->basedir . '/turn.sql';
append_to_file($turns, qq{\\set luck random(0, 9999)\nCALL turn(:luck);\n});

sub start_turns
{
	my ($clients, $script, %params) = @_;
	my %load = (out => '');
	my @command = ('pgbench', '--no-vacuum', '--client', $clients, '--jobs', 2,
		'-f', $script, ($params{transactions} ? ('-t', $params{transactions}) : ('-T', $params{seconds})),
		$node->connstr('postgres') . ' application_name=load');

	$load{handle} = IPC::Run::start(\@command, '<', \undef, '>', \$load{out}, '2>', \$load{out});
	return \%load;
}

# Look as often as one can until a load has ended; returns the most ever seen.
sub watch
{
	my ($load) = @_;
	my ($most, $looks) = (0, 0);

	while ($load->{handle}->pumpable)
	{
		$load->{handle}->pump_nb;
		my ($status, $held) = $node->psql('postgres',
			q{SELECT max(held()) FROM generate_series(1, 20)});
		next if $status != 0 || $held eq '';
		$most = $held if $held > $most;
		$looks += 20;
	}
	$load->{handle}->finish;
	return ($most, $looks);
}

sub enqueue
{
	my ($queue, $count) = @_;
	$node->safe_psql('postgres', "SELECT count(*) FROM queue.enqueue_batch('$queue', array_fill('1'::jsonb, ARRAY[$count]))");
	return;
}

# Takers that wait, and do nothing but take and complete, until nothing is left.
sub drain
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;
	my $script = $node->basedir . '/drain.sql';

	unlink $script;
	append_to_file($script, q{SELECT queue.complete(job_id) FROM queue.dequeue_batch('few', 1, wait => '1 s');} . "\n");
	my $load = start_turns(6, $script, seconds => 60);
	wait_for($node, q{SELECT count(*) = 0 FROM queue.job WHERE queue_name = 'few'}, "$name: everything gets done");
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'load'});
	$load->{handle}->finish;
	return;
}

# 1. the storm
enqueue('few', 3000);
my ($most, $looks) = watch(start_turns(12, $turns, seconds => 8));
cmp_ok($looks, '>', 100, "max_active: looked $looks times");
cmp_ok($most, '<=', 3, 'max_active: never more than three');
is($most, 3, 'max_active: but three');
drain('max_active');
check_counters($node, 'max_active');

# 2. a crash in the middle: whoever counts first, nobody takes too many
enqueue('few', 3000);
my $load = start_turns(8, $turns, seconds => 60);
wait_for($node, q{SELECT active > 0 FROM queue.queue_stats('few')}, 'crash: takers are at it');
my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE application_name = 'load' LIMIT 1});
kill_backend($node, $pid);
$load->{handle}->finish;
($most, $looks) = watch(start_turns(12, $turns, seconds => 5));
cmp_ok($looks, '>', 20, "crash: looked $looks times");
cmp_ok($most, '<=', 3, 'crash: never more than three');
# clients that are terminated in whatever they are doing
$load = start_turns(12, $turns, seconds => 60);
wait_for($node, q{SELECT active > 0 FROM queue.queue_stats('few')}, 'terminate: takers are at it');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'load'});
$load->{handle}->finish;
drain('crash');
check_counters($node, 'crash');

# 3. nobody takes: places of leases that have ended, and of sessions, are free all the same
enqueue('few', 9);
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM queue.dequeue_batch('few', 2, visibility_timeout => '1 h', bind_session => true);
		SELECT count(*) FROM queue.dequeue_batch('few', 9, visibility_timeout => '20 ms')}),
	"2\n1", 'all places are taken');
wait_for($node, q{SELECT active = 0 AND waiting = 9 FROM queue.queue_stats('few')}, 'and free when the leases have ended');
is($node->safe_psql('postgres', q{SELECT string_agg(attempt::text, ',' ORDER BY attempt DESC) FROM queue.job WHERE queue_name = 'few'}),
	'1,1,1,0,0,0,0,0,0', 'the attempts are spent');
drain('leases');

# 4. the rate: 20 a second, with aborts; each taker tells when its claim was made
enqueue('rate', 3000);
my $rate = $node->basedir . '/rate.sql';
append_to_file($rate, q{\set luck random(0, 9)
BEGIN;
WITH job AS MATERIALIZED (SELECT job_id FROM queue.dequeue_batch('rate', 1 + :luck % 3, wait => '1 s'))
INSERT INTO taken SELECT clock_timestamp() FROM job WHERE queue.complete(job_id);
\if :luck < 3
ROLLBACK;
\else
COMMIT;
\endif
});
my $began = $node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())');
$load = start_turns(12, $rate, seconds => 6);
$load->{handle}->finish;
my ($taken, $seconds) = split /\|/, $node->safe_psql('postgres',
	"SELECT count(*), extract(epoch FROM max(at)) - $began FROM taken");
cmp_ok($taken, '<=', 20 + 20 * $seconds, "rate: $taken were taken in $seconds seconds");
cmp_ok($taken, '>=', 30, 'rate: and not too few');
# a transaction writes down the time after it took: as late as the machine is slow
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT at, count(*) OVER (ORDER BY at RANGE BETWEEN CURRENT ROW AND '1 s' FOLLOWING) AS n FROM taken) AS t
		WHERE n > 2 * 20 + 5}),
	'0', 'rate: in no second more than a bucket and what a second brings');

# 5. after a restart the bucket is empty, and a throttle holds on
$node->safe_psql('postgres', q{SELECT queue.alter_queue('rate', rate_period => '1 h')});
is($node->safe_psql('postgres', q{SELECT queue.throttle('few', '1 h') > now()}), 't', 'throttled');
wait_for($node, q{SELECT throttled_until > now() FROM queue.queue WHERE queue_name = 'few'}, 'the throttle is saved');
enqueue('few', 3);
$node->restart;
is($node->safe_psql('postgres', q{SELECT rate_available FROM queue.queue_stats('rate')}), '0', 'restart: the bucket is empty');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('few')}), '0', 'restart: the throttle holds');
is($node->safe_psql('postgres', q{SELECT throttled_until > now() + interval '50 min' FROM queue.queue_stats('few')}), 't', 'restart: and is shown');
$node->safe_psql('postgres', q{SELECT queue.throttle('few', '0')});
wait_for($node, q{SELECT throttled_until IS NULL FROM queue.queue WHERE queue_name = 'few'}, 'that it was lifted is saved, too');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.dequeue_batch('few', 9)}), '3', 'lifted');
# a queue that is made after the start has a full one
is($node->safe_psql('postgres', q{SELECT queue.create_queue('new', rate_limit => 7, rate_period => '1 h'); SELECT rate_available FROM queue.queue_stats('new')}),
	"\n7", 'a new queue has a full bucket');

# 6. maintain() gives back, too: where no worker runs, it is all there is
$node->safe_psql('postgres', q{SELECT queue.maintain()});
check_structure($node, 'at the end');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no process came to a bad end');

done_testing();

# What monitoring/ has for Prometheus and Grafana: the exporters' queries as a
# role that is in pg_monitor and nothing else, the alert rules and their own
# tests, the dashboard.  The exporters, promtool and Prometheus are the real
# ones; what is not installed is skipped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;
use Time::HiRes ();

my $root = "$FindBin::RealBin/../..";
my $files = "$root/monitoring";
my $tempdir = PostgreSQL::Test::Utils::tempdir();
my $http = HTTP::Tiny->new(timeout => 60, http_proxy => undef, proxy => undef);
my @running;

END
{
	my $status = $?;
	eval { $_->kill_kill(grace => 5) } foreach @running;
	$? = $status;
}

sub find_program
{
	my ($name) = @_;
	my ($path) = grep { -x } map { "$_/$name" } split /:/, $ENV{PATH};
	return $path;
}

my $postgres_exporter = find_program('prometheus-postgres-exporter');
my $sql_exporter = find_program('prometheus-sql-exporter');
my $promtool = find_program('promtool');
my $prometheus = find_program('prometheus');

# Start a server, and wait until it answers.  Its output is in a file.
sub start_program
{
	my ($name, $url, $env, @command) = @_;
	my $log = "$tempdir/$name.log";
	local @ENV{ keys %$env } = values %$env;

	push @running, IPC::Run::start(\@command, '<', \undef, '>', $log, '2>&1');
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $http->get($url)->{success};
		last unless $running[-1]->pumpable;
		Time::HiRes::sleep(0.1);
	}
	diag(slurp_file($log));
	return 0;
}

# The result and the output of promtool.
sub promtool
{
	my ($input, @arguments) = @_;
	my $output = '';
	my $ok = IPC::Run::run([ $promtool, @arguments ], '<', \$input, '>', \$output, '2>&1');
	return ($ok, $output);
}

sub promtool_ok
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $input, @arguments) = @_;
	my ($ok, $output) = promtool($input, @arguments);
	ok($ok, $name) or diag($output);
	return;
}

# Samples of the text format: by metric and labels (sorted, without those that
# only one exporter has), their values.
sub parse_metrics
{
	my ($text) = @_;
	my %samples;

	foreach my $line (grep { /^[a-z]/ } split /\n/, $text)
	{
		my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or next;
		my %labels = ($labels // '') =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;
		delete $labels{server};
		$samples{$name}{ join ',', map { "$_=$labels{$_}" } sort keys %labels } = $value;
	}
	return \%samples;
}

sub get_metrics
{
	my ($port) = @_;
	my $response = $http->get("http://127.0.0.1:$port/metrics");
	return $response->{success} ? $response->{content} : '';
}

# Poll the metrics of an exporter for a line.
sub wait_for_metric
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($port, $pattern, $name) = @_;
	my $text;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$text = get_metrics($port);
		return pass($name) if $text =~ $pattern;
		Time::HiRes::sleep(0.1);
	}
	diag($text);
	return fail($name);
}

# ---------------------------------------------------------------------
# A server with queues, and a role that may watch it
# ---------------------------------------------------------------------

my $node = new_node('main', conf => "log_statement = none\n");
my $host = $node->host;
my $port = $node->port;

# one of each: waiting, delayed, blocked, active, completed, failed, cancelled;
# a name that needs quoting
$node->safe_psql('postgres', q{
	CREATE ROLE queue_exporter LOGIN IN ROLE pg_monitor CONNECTION LIMIT 5;
	ALTER ROLE queue_exporter SET default_transaction_read_only = on;
	SELECT queue.create_queue('mail', max_attempts => 3);
	SELECT queue.create_queue('letters');
	SELECT queue.create_queue('order', max_attempts => 1, dead_letter_queue => 'letters');
	SELECT queue.create_queue('off');
	SELECT queue.create_queue('empty');
	SELECT queue.enqueue('mail', '1') FROM generate_series(1, 6);
	SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('mail', 2);
	SELECT queue.fail(job_id, 'no', retry => false) FROM queue.dequeue_batch('mail', 1);
	SELECT queue.fail(job_id, 'not yet', retry_in => '1 h') FROM queue.dequeue_batch('mail', 1);
	SELECT count(*) FROM queue.dequeue_batch('mail', 1, worker => 'w');
	SELECT queue.cancel(queue.enqueue('mail', '1'));
	SELECT queue.enqueue('mail', '1', group_key => 'g'), queue.enqueue('mail', '1', group_key => 'g');
	SELECT queue.heartbeat('w', 'mail');
	SELECT queue.enqueue('order', '1');
	SELECT queue.fail(job_id, 'no') FROM queue.dequeue_batch('order', 1);
	SELECT queue.enqueue('off', '1');
	SELECT queue.pause_queue('off')});
wait_for($node, q{SELECT count(*) = 5 FROM queue.metrics WHERE jobs_waiting IS NOT NULL}, 'the jobs have been counted');
wait_for($node, q{SELECT count(*) = 1 FROM queue.metrics WHERE queue = 'mail' AND jobs_waiting = 2 AND jobs_delayed = 1
	AND jobs_blocked = 1 AND jobs_active = 1 AND jobs_completed = 2 AND jobs_failed = 1 AND jobs_cancelled = 1 AND workers = 1},
	'there is a job in each state');

# what a scrape locks, as long as it lasts, lets everybody go on, and it writes nothing
{
	my @queries = slurp_file("$files/postgres_exporter.yml") =~ /^  query: \|\n((?:    .*\n)+)/mg;
	is(scalar @queries, 4, 'four queries');
	my $locks = $node->safe_psql('postgres', join ';', 'BEGIN',
		(map { "SELECT FROM ($_) AS q" } @queries),
		q{SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'
			AND mode NOT IN ('AccessShareLock', 'RowExclusiveLock')},
		'SELECT pg_current_xact_id_if_assigned()', 'COMMIT');
	$locks =~ s/\n//g;
	is($locks, '', 'a scrape takes no strong lock, and no transaction id');
}

# by metric and queue, from queue.queue_stats()
my @gauges = qw(waiting delayed blocked active completed failed cancelled);
my @totals = qw(enqueued taken completed failed retried stalled);

sub check_values
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($samples, $name) = @_;
	my $columns = join ', ', @gauges, map { "${_}_total" } @totals;
	my (@got, @want);

	foreach my $row (split /\n/, $node->safe_psql('postgres',
		"SELECT queue_name, $columns FROM queue.queue_stats()"))
	{
		my ($queue, @values) = split /\|/, $row;
		push @want, $row;
		push @got, join '|', $queue, map { $samples->{$_}{"datname=postgres,queue=$queue"} // 'none' }
		  (map { "queue_jobs_$_" } @gauges), (map { "queue_${_}_total" } @totals);
	}
	is("@got", "@want", "$name: the same numbers as queue_stats()");

	my $of = sub { $samples->{ $_[0] }{"datname=postgres,queue=$_[1]"} // 'none' };
	is($of->('queue_paused', 'off') . $of->('queue_paused', 'mail'), '10', "$name: paused");
	is($of->('queue_workers', 'mail') . $of->('queue_workers_stale', 'mail'), '10', "$name: workers");
	cmp_ok($of->('queue_oldest_waiting_age_seconds', 'mail'), '>', 0, "$name: age of the oldest job");
	is($of->('queue_oldest_waiting_age_seconds', 'empty'), 0, "$name: 0 if there is none");
	is($of->('queue_health_score', ''), $node->safe_psql('postgres',
		q{SELECT score FROM queue.queue_health() WHERE queue_name IS NULL}), "$name: health of the server");
	is($samples->{queue_alerts_active}{'code=dead_letters,datname=postgres,queue=letters,severity=warning'},
		1, "$name: alerts of queues");
	is($samples->{queue_server_maintenance_running}{'datname=postgres'}
		. $samples->{queue_server_launcher_running}{'datname=postgres'}, '11', "$name: processes");
	is($samples->{queue_wait_seconds_bucket}{'datname=postgres,le=+Inf,queue=mail'}, 5, "$name: histogram of waits");
	is($samples->{queue_processing_seconds_count}{'datname=postgres,queue=mail'}, 4, "$name: times of processing");
	return;
}

# ---------------------------------------------------------------------
# The exporters
# ---------------------------------------------------------------------

my ($postgres_port, $sql_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
my $samples;

SKIP:
{
	skip 'no postgres_exporter here', 1 unless $postgres_exporter;
	ok(start_program('postgres_exporter', "http://127.0.0.1:$postgres_port/",
		{ DATA_SOURCE_NAME => "user=queue_exporter host=$host port=$port dbname=postgres sslmode=disable" },
		$postgres_exporter, "--extend.query-path=$files/postgres_exporter.yml",
		'--disable-default-metrics', '--disable-settings-metrics',
		'--no-collector.database', '--no-collector.bgwriter',
		"--web.listen-address=127.0.0.1:$postgres_port"), 'postgres_exporter runs');

	my $text = get_metrics($postgres_port);
	like($text, qr/^pg_exporter_last_scrape_error 0$/m, 'postgres_exporter: no query fails');
	unlike($text, qr/ NaN$/m, 'postgres_exporter: all numbers are known');
	$samples = parse_metrics($text);
	check_values($samples, 'postgres_exporter');
	unlike(slurp_file("$tempdir/postgres_exporter.log"), qr/err=/, 'postgres_exporter: its log has no errors');

  SKIP:
	{
		skip 'no promtool here', 1 unless $promtool;
		my ($ok, $output) = promtool($text, 'check', 'metrics');
		ok($ok && $output eq '', 'postgres_exporter: promtool finds nothing amiss') or diag($output);
	}
}

# Its metrics, as the job queue_sql of prometheus.yml renames them.  Where
# Prometheus is, it does that itself below.
sub rename_metrics
{
	my ($text) = @_;
	my @lines;

	foreach my $line (grep { /^sql_queue/ } split /\n/, $text)
	{
		my ($query, $labels, $value) = $line =~ /^sql_(\w+)\{(.*)\} (\S+)$/ or next;
		my ($column) = $labels =~ /\bcol="(\w+)"/;
		$labels =~ s/\bbound=/le=/;
		$labels = join ',', grep { !/^(driver|user|sql_job|col|host|database)=/ } split /,/, $labels;
		$query =~ s/_times$//;
		push @lines, "${query}_$column\{$labels} $value";
	}
	return join "\n", @lines;
}

SKIP:
{
	skip 'no sql_exporter here', 1 unless $sql_exporter;
	my $config = slurp_file("$files/sql_exporter.yml");
	# soon enough for a test
	ok($config =~ s/^  interval: \K15s$/500ms/m, 'sql_exporter: the interval');
	append_to_file("$tempdir/sql_exporter.yml", $config);
	ok(start_program('sql_exporter', "http://127.0.0.1:$sql_port/",
		{ DATA_SOURCE_NAME => "postgres://queue_exporter@/postgres?host=$host&port=$port", LOGLEVEL => 'warn' },
		$sql_exporter, '-config.file', "$tempdir/sql_exporter.yml",
		'-web.listen-address', "127.0.0.1:$sql_port"), 'sql_exporter runs');
	# the last of its queries
	wait_for_metric($sql_port, qr/^sql_queue_server\{/m, 'sql_exporter has asked');

	my $text = get_metrics($sql_port);
	unlike($text, qr/^sql_exporter_last_scrape_failed\{.*\} 1$/m, 'sql_exporter: no query fails');
	my $renamed = parse_metrics(rename_metrics($text));
	check_values($renamed, 'sql_exporter');
	unlike(slurp_file("$tempdir/sql_exporter.log"), qr/"level":"(error|warn)"/, 'sql_exporter: its log has no errors');

  SKIP:
	{
		skip 'no postgres_exporter here', 1 unless $samples;
		my $names = sub { [ grep { /^queue_/ } sort keys %{ $_[0] } ] };
		is_deeply($names->($renamed), $names->($samples), 'both exporters have the same metrics');
		is_deeply([ sort keys %{ $renamed->{queue_wait_seconds_bucket} } ],
			[ sort keys %{ $samples->{queue_wait_seconds_bucket} } ], 'and the same buckets');
	}
  SKIP:
	{
		skip 'no promtool here', 1 unless $promtool;
		my ($ok, $output) = promtool($text, 'check', 'metrics');
		ok($ok && $output eq '', 'sql_exporter: promtool finds nothing amiss') or diag($output);
	}
}

# ---------------------------------------------------------------------
# Rules and dashboard
# ---------------------------------------------------------------------

my $rules = slurp_file("$files/alerts.yml");
my $operations = slurp_file("$root/doc/operations.md");
my @alerts = $rules =~ /^  - alert: (\w+)$/mg;
cmp_ok(scalar @alerts, '>', 10, 'there are alerts');

# each says what it takes to act on it
{
	my %anchors = map { lc s/[^\w -]//gr =~ tr/ /-/r => 1 } $operations =~ /^#+ (.*)$/mg;
	my $tests = slurp_file("$files/alerts_test.yml");
	my @problems;

	foreach my $rule (split /^  - alert: /m, $rules =~ s/\A.*?^  - alert: //msr)
	{
		my ($alert) = $rule =~ /^(\w+)/;
		push @problems, "$alert has no $_" foreach grep { $rule !~ /^ +$_: ./m }
		  qw(expr for severity summary description runbook);
		my ($anchor) = $rule =~ m{^ +runbook: doc/operations\.md#(\S+)$}m;
		push @problems, "$alert: there is no heading $anchor" unless $anchors{ $anchor // '' };
		push @problems, "$alert never fires in alerts_test.yml"
		  unless $tests =~ /alertname: $alert\n +exp_alerts:\n/;
		push @problems, "$alert never holds back in alerts_test.yml"
		  unless $tests =~ /alertname: $alert, exp_alerts: \[\]/;
	}
	is(join("\n", @problems), '', 'alerts are complete');
}

my $dashboard = eval { JSON::PP::decode_json(slurp_file("$files/grafana.json")) };
ok($dashboard, 'the dashboard is JSON') or diag($@);

# with what Grafana would put in for variables
my @expressions = map { $_->{expr} } map { @{ $_->{targets} || [] } } @{ $dashboard->{panels} };
cmp_ok(scalar @expressions, '>', 20, 'the dashboard has queries');
foreach (@expressions)
{
	s/\$__rate_interval/5m/g;
	s/\$(datname|queue)\b/.+/g;
}
unlike("@expressions", qr/\$/, 'no other variables');
is(scalar(grep { ref $_->{datasource} && $_->{datasource}{uid} ne '${datasource}' } @{ $dashboard->{panels} }),
	0, 'the source is a variable everywhere');
{
	my (%ids, %places);
	$ids{ $_->{id} }++, $places{"$_->{gridPos}{x} $_->{gridPos}{y}"}++ foreach @{ $dashboard->{panels} };
	is(scalar(grep { $_ > 1 } values %ids, values %places), 0, 'no panel hides another');
}

# the metrics that an expression names
sub names_of
{
	my ($expression) = @_;
	$expression =~ s/"(?:[^"\\]|\\.)*"//g;
	$expression =~ s/\{[^}]*\}|\[[^\]]*\]//g;
	$expression =~ s/\b(?:by|without|on|ignoring)\s*\([^)]*\)//g;
	return grep { !/^(?:and|or|unless|offset|bool|by)$/ } $expression =~ /\b([a-zA-Z_]\w*)\b(?!\s*\()/g;
}

my @rule_expressions = map { s/^ +//mgr } $rules =~ /^    expr: (?:\|\n)?((?:.|\n)*?)\n    for:/mg;
is(scalar @rule_expressions, scalar @alerts, 'an expression for each alert');

SKIP:
{
	skip 'no postgres_exporter here', 1 unless $samples;
	# what Prometheus and sql_exporter add; exporters tell of histograms by three names
	my %known = map { $_ => 1 } keys %$samples,
	  qw(up scrape_duration_seconds ALERTS sql_exporter_last_scrape_failed);
	my %unknown = map { $_ => 1 } grep { !$known{$_} } map { names_of($_) } @expressions, @rule_expressions;
	is(join(' ', sort keys %unknown), '', 'dashboard and rules name no metric that is not there');

	my %metrics = map { s/_(?:bucket|sum|count)$//r => 1 } grep { /^queue_/ } keys %$samples;
	my @documented = sort $operations =~ /^\| `(queue_\w+)` \|/mg;
	is_deeply(\@documented, [ sort keys %metrics ], 'doc/operations.md tells the metrics');
}

SKIP:
{
	skip 'no promtool here', 3 unless $promtool;
	promtool_ok('prometheus.yml, and the rules', '', 'check', 'config', "$files/prometheus.yml");
	promtool_ok('the rules pass their tests', '', 'test', 'rules', "$files/alerts_test.yml");
	my $n = 0;
	append_to_file("$tempdir/dashboard.yml", "groups:\n- name: dashboard\n  rules:\n" . join '',
		map { $n++; "  - record: panel:$n\n    expr: |\n      $_\n" } @expressions);
	promtool_ok('the queries of the dashboard are sound', '', 'check', 'rules', "$tempdir/dashboard.yml");
}

# ---------------------------------------------------------------------
# All of it together
# ---------------------------------------------------------------------

my $prometheus_port = PostgreSQL::Test::Cluster::get_free_port();

# The series of a query; undef if it is refused.
sub query
{
	my ($expression) = @_;
	my $response = $http->get("http://127.0.0.1:$prometheus_port/api/v1/query?"
		. $http->www_form_urlencode({ query => $expression }));
	return undef unless $response->{success};
	return JSON::PP::decode_json($response->{content})->{data}{result};
}

sub wait_for_query
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($expression, $count, $name) = @_;
	my $result;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$result = query($expression);
		return pass($name) if $result && @$result == $count;
		Time::HiRes::sleep(0.1);
	}
	diag(JSON::PP::encode_json($result || []));
	return fail($name);
}

# names and labels of a job's series, without what tells where they are from
sub series_of
{
	my ($job) = @_;
	my @series;

	foreach my $series (@{ query(qq({__name__=~"queue_.+",job="$job"})) })
	{
		my %labels = %{ $series->{metric} };
		delete @labels{qw(job instance server host database)};
		push @series, join ',', map { "$_=$labels{$_}" } sort keys %labels;
	}
	return [ sort @series ];
}

SKIP:
{
	skip 'Prometheus or an exporter is not here', 1
	  unless $prometheus && $postgres_exporter && $sql_exporter;
	my $config = slurp_file("$files/prometheus.yml");
	$config =~ s/localhost:9187/127.0.0.1:$postgres_port/;
	$config =~ s/localhost:9237/127.0.0.1:$sql_port/;
	$config =~ s/scrape_interval: \K15s/500ms/g;
	append_to_file("$tempdir/prometheus.yml", "global:\n  evaluation_interval: 500ms\n$config");
	append_to_file("$tempdir/alerts.yml", $rules);
	ok(start_program('prometheus', "http://127.0.0.1:$prometheus_port/-/ready", {},
		$prometheus, "--config.file=$tempdir/prometheus.yml", "--storage.tsdb.path=$tempdir/prometheus",
		"--web.listen-address=127.0.0.1:$prometheus_port", '--log.level=warn'), 'Prometheus runs');

	wait_for_query('count by (job) (rate(queue_enqueued_total[5m]))', 2, 'it has scraped both exporters, twice');
	my $series = series_of('queue');
	cmp_ok(scalar @$series, '>', 200, 'there are series');
	# one may be a scrape behind
	for (1 .. 100)
	{
		last if "@{ series_of('queue_sql') }" eq "@$series";
		Time::HiRes::sleep(0.1);
		$series = series_of('queue');
	}
	is_deeply(series_of('queue_sql'), $series, 'both jobs have the same series');

	# in a quiet database, few have nothing to show
	my @empty;
	foreach my $expression (@expressions)
	{
		my $result = query($expression);
		push @empty, $expression if !$result || (!@$result && $expression !~ /ALERTS|> 0$/);
	}
	is(join("\n", @empty), '', 'all queries of the dashboard return something');

	wait_for_query('ALERTS{alertname="QueueDeadLetters",queue="letters",alertstate="pending",job="queue"}', 1,
		'an alert is on its way');
	is(join(' ', sort map { $_->{metric}{alertname} } @{ query('ALERTS{alertstate="firing"}') }), '', 'none fires yet');
	my $groups = JSON::PP::decode_json($http->get("http://127.0.0.1:$prometheus_port/api/v1/rules")->{content});
	is(scalar(grep { $_->{health} eq 'ok' } @{ $groups->{data}{groups}[0]{rules} }), scalar @alerts,
		'all rules are evaluated without an error');

	# who may not read, or cannot connect, is told apart from a queue at rest
	my ($down) = grep { /pg_up/ } @rule_expressions;
	is(scalar @{ query($down) }, 0, 'nothing is wrong with the exporters');
	$node->safe_psql('postgres', 'REVOKE pg_monitor FROM queue_exporter');
	wait_for_query($down, 2, 'both exporters tell that they may not read');
	$node->safe_psql('postgres', 'GRANT pg_monitor TO queue_exporter');
	wait_for_query($down, 0, 'and that they may again');
	$node->stop('fast');
	wait_for_query($down, 2, 'both exporters tell that they cannot connect');
	$node->start;
	wait_for_query($down, 0, 'and that they can again');
	wait_for_query('count by (job) (queue_jobs_waiting{queue="mail"})', 2, 'they go on');
}

while (my $program = pop @running)
{
	$program->kill_kill(grace => 5);
}
$node->stop;
done_testing();

# queue.report() as a browser shows it: on a phone and on a desk, in light and
# dark, and as it is printed; with queues that are well and that are not, with
# names and errors that mean harm or are hard to set, with nothing, and with more
# queues than it shows.
#
# The pages are frames of one wide page, which has the checker: test/lib/page.js
# writes down what is wrong with each frame.  The frames are the report's own
# bytes, but for copies in which a fault is planted: each kind of fault must be
# found, or the checker is blind.  Errors of the console come from the browser's
# own log, with the name of the file.

use strict;
use warnings;

use Cwd;
use File::Basename;
use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueTest;
use Test::More;

my ($chromium) = grep { -x $_ } map { ("$_/chromium", "$_/chromium-browser") } split /:/, $ENV{PATH};
plan skip_all => 'needs chromium: test/bin/setup optional' unless $chromium;

my $node = new_node('report', conf => q{
log_statement = none
queue.metrics_interval = 1h
queue.worker_timeout = 1h
});
my $dir = PostgreSQL::Test::Utils::tempdir();

# ---------------------------------------------------------------------
# What is to be seen
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
-- healthy: a mailer that is at work
SELECT queue.create_queue('emails', max_active => 500);
SELECT count(*) FROM queue.enqueue_batch('emails', array_fill('{"to": "ann@example.org"}'::jsonb, ARRAY[6000]), batch_id => 'newsletter 12');
SELECT queue.close_batch('newsletter 12');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('emails', 1000, worker => 'mailer-1');
SELECT queue.complete_many(array_agg(job_id)) FROM queue.dequeue_batch('emails', 1000, worker => 'mailer-2');
SELECT count(queue.fail(job_id, 'mailbox full', retry => false)) FROM queue.dequeue_batch('emails', 17, worker => 'mailer-2');
SELECT queue.heartbeat('mailer-' || i, 'emails', '{"host": "m1"}') FROM generate_series(1, 4) AS i;
SELECT count(queue.set_progress(job_id, (100 * random())::real, 'rendering')) FROM queue.dequeue_batch('emails', 40, worker => 'mailer-1');
SELECT count(*) FROM queue.dequeue_batch('emails', 3, worker => 'mailer-3');

-- at rest
SELECT queue.create_queue('search index');
SELECT count(queue.enqueue('search index', '{}', delay => '1 d')) FROM generate_series(1, 12);
SELECT queue.create_queue('empty');

-- sick: nobody takes, and what was taken has failed
SELECT queue.create_queue('billing', max_attempts => 1, max_depth => 900);
SELECT count(queue.enqueue('billing', jsonb_build_object('order', i, 'amount', i * 3.99, 'customer', 'customer ' || i % 7),
	run_at => now() - i * interval '40 s')) FROM generate_series(1, 900) AS i;
SELECT count(queue.fail(job_id, CASE WHEN job_id % 3 = 0 THEN
	E'could not connect to "payments.internal" (10.0.0.' || job_id || E'): Connection timed out\n\tIs the server running on that host and accepting\n\tTCP/IP connections on port 5432?'
	WHEN job_id % 3 = 1 THEN E'Traceback (most recent call last):\n  File "/srv/billing/worker.py", line 88, in handle\n    charge(order)\n  File "/srv/billing/charge.py", line 12, in charge\n    raise CardDeclined(order.card)\nbilling.errors.CardDeclined: card 4711-' || job_id || ' was declined by the issuer'
	ELSE 'HTTP 503 Service Unavailable' END))
FROM queue.dequeue_batch('billing', 60, worker => 'billing-eu-west-1b-7f9c64d8b5-x2x4q');
SELECT queue.create_queue('paused reports', keep_completed => '0');
SELECT count(queue.enqueue('paused reports', '{"day": 1}')) FROM generate_series(1, 40);
SELECT queue.pause_queue('paused reports');
SELECT queue.create_queue('api', rate_limit => 10, max_active => 2);
SELECT count(queue.enqueue('api', '{"call": 1}')) FROM generate_series(1, 20);
SELECT count(*) FROM queue.dequeue_batch('api', 2, worker => 'caller', visibility_timeout => '1 h');
SELECT queue.throttle('api', '1 h') > now() AS throttled;
SELECT queue.create_queue('undeliverable');
SELECT queue.create_queue('many', keep_failed => '1 d', max_attempts => 1);
SELECT count(*) FROM queue.enqueue_batch('many', array_fill('{}'::jsonb, ARRAY[15000]), delay => '1 h');
CREATE FUNCTION work(payload jsonb) RETURNS void LANGUAGE sql RETURN null;
SELECT queue.create_queue('handled');
SELECT queue.set_handler('handled', 'work');
SELECT queue.stop_processing('handled');

-- what means harm, or is hard to set
CREATE TABLE harm (n int, name text);
INSERT INTO harm VALUES
	(1, '<script>window.pwned=1</script>'),
	(2, '"><img src=x onerror=window.pwned=2>'),
	(3, '</code></td></table><svg/onload=window.pwned=3>'),
	(4, ''' onmouseover=''window.pwned=4'),
	(5, repeat('w', 57)),
	(6, U&'\05EA\05D5\05E8 \05D4\05D4\05D5\05D3\05E2\05D5\05EA 123 (\05E1\05D2\05D5\05E8)'),
	(7, U&'\+01F4E8 emoji \+01F468\200D\+01F469\200D\+01F467 \+01F1EA\+01F1FA'),
	(8, U&'\202Eesrever &amp; &lt;b&gt;'),
	(9, 'javascript:window.pwned=9');
SELECT queue.create_queue(name, max_attempts => 1) FROM harm;
SELECT count(queue.enqueue(name, jsonb_build_object('html', name, 'long', repeat('x', 300)), source => name, batch_id => name,
	headers => jsonb_build_object(name, name))) FROM harm, generate_series(1, 3);
SELECT count(queue.fail(j.job_id, harm.name || ' ' || CASE n WHEN 5 THEN repeat('W', 300) WHEN 7 THEN repeat(U&'\+01F600', 80)
	WHEN 6 THEN repeat(harm.name || ' ', 20) WHEN 8 THEN E'\x01\x1b[31mred\x7f' ELSE repeat('many words ', 20) END))
FROM harm, queue.dequeue_batch(harm.name, worker => harm.name) AS j;
SELECT queue.heartbeat(name, name, jsonb_build_object(name, name)) FROM harm;
SELECT queue.schedule(name, '0 3 * * *', name, to_jsonb(name), create_cron_job => false) FROM harm WHERE n <> 5;
SELECT queue.schedule('nightly', '30 2 * * 1-5', 'emails', '{}', create_cron_job => false);
SELECT queue._fire('nightly') IS NOT NULL AS fired;
SELECT queue.fail(job_id, null, retry => false) FROM queue.dequeue_batch('emails', 1, worker => 'mailer-2');

-- six hours, every minute
INSERT INTO queue.metric_history (queue_id, at, seconds, waiting, delayed, blocked, active, completed, failed, cancelled,
	enqueued_count, taken_count, completed_count, failed_count, retried_count, stalled_count, wait_p95_ms, processing_p95_ms,
	live_bytes, paused)
SELECT queue_id, date_trunc('minute', now()) - i * interval '1 min', 60,
	CASE queue_name WHEN 'emails' THEN 300 + 250 * sin(i / 30.0) WHEN 'billing' THEN (360 - i) * 2 ELSE i % 7 END,
	0, 0, i % 5, 0, 0, 0, 50 + 20 * sin(i / 40.0), 40, 48 + 19 * sin(i / 37.0), i % 9, 0, 0,
	120 + 80 * cos(i / 20.0), 900 + 700 * sin(i / 25.0), 0, false
FROM queue.queue, generate_series(0, 359) AS i WHERE queue_name IN ('emails', 'billing', 'api', 'search index');});
# somebody who was heard of once
$node->safe_psql('postgres', q{SELECT queue.heartbeat('silent', 'emails')});
$node->append_conf('postgresql.conf', "queue.worker_timeout = 1s\n");
$node->reload;
wait_for($node, q{SELECT state = 'stale' FROM queue.worker WHERE worker = 'silent'}, 'a worker falls silent');
$node->append_conf('postgresql.conf', "queue.worker_timeout = 1h\n");
$node->reload;
$node->safe_psql('postgres', q{SELECT queue.heartbeat('mailer-' || i, 'emails') FROM generate_series(1, 3) AS i});

$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(nothing hundred);
create_extension($node, $_) foreach qw(nothing hundred);
$node->safe_psql('hundred', q{
	SELECT queue.create_queue(format('%s%s of customer %s', CASE WHEN i % 9 = 0 THEN 'synchronisation.' END,
		(ARRAY['mail', 'import', 'invoice', 'thumbnail'])[i % 4 + 1], i), max_attempts => 1) FROM generate_series(1, 110) AS i;
	SELECT count(queue.enqueue(queue_name, '{}')) FROM queue.queue, generate_series(1, 20);
	SELECT count(queue.fail(job_id, 'it went wrong')) FROM queue.queue AS q, queue.dequeue_batch(q.queue_name, q.queue_id % 3 * 8)
		WHERE q.queue_id % 3 > 0});
wait_for($node, q{SELECT count(*) > 2 FROM queue.health_alerts()}, 'there are problems');
ok($node->poll_query_until('hundred', q{SELECT count(*) > 30 FROM queue.health_alerts()}), 'and more than are open to the eye');

# ---------------------------------------------------------------------
# Pages and faults
# ---------------------------------------------------------------------

my (%frames, %faults);

sub write_page
{
	my ($name, $html) = @_;
	append_to_file("$dir/$name.html", $html);
	return;
}

my %report = map { $_ => $node->safe_psql($_, 'SELECT queue.report()') . "\n" } qw(postgres nothing hundred);

sub without_policy
{
	my ($html) = @_;
	$html =~ s/<meta http-equiv="Content-Security-Policy"[^>]*>//;
	return $html;
}

# a copy with something wrong, and what is to be found
sub plant
{
	my ($name, $from, $to, $found) = @_;
	my $html = $name =~ /^script/ ? without_policy($report{postgres}) : $report{postgres};

	$html =~ s/$from/$to/g or die "nothing to plant $name in";
	write_page("fault_$name", $html);
	$frames{"fault_$name"} = [390];
	$faults{$name} = $found;
	return;
}

foreach my $database (sort keys %report)
{
	write_page($database, $report{$database});
	$frames{$database} = [ 390, 820, 1440 ];
}
write_page('without_policy', without_policy($report{postgres}));
$frames{without_policy} = [1440];
# as if all the world were paper
write_page('paper', $report{postgres} =~ s/\@media screen/\@media speech/gr =~ s/\@media print/\@media all/gr);
$frames{paper} = [ 700, 1000 ];    # A4 within its margins, upright and not

my $main = qr/(?<=<main>\n)/;
plant('overflow', $main, '<div style="width:700px">wide</div>', qr/wider than the window/);
plant('left', $main, '<div style="position:absolute;left:-9px">out</div>', qr/sticks out.*out/);
plant('clipped', $main, '<div style="width:50px;overflow:hidden;white-space:nowrap">clipped text</div>', qr/clipped/);
plant('contrast', $main, '<p style="color:#888;background:#fff">faint</p>', qr/contrast 3\.5\d of "faint"/);
plant('large', $main, '<p style="color:#aaa;background:#fff;font-size:30px">large</p>', qr/contrast 2\.3\d of "large"/);
plant('label', qr/(?=<\/style>)/, 'td[data-l]::before{color:#808080!important}', qr/contrast [34]\.\d\d of "waiting"/);
plant('heading', $main, '<h4>deep</h4>', qr/h4 after h1/);
plant('header', qr/<th scope="col">queue<\/th>/, '', qr/columns under/);
plant('svg', qr/<title>[^<]*waiting[^<]*<\/title>/, '', qr/svg without a title/);
plant('target', $main, '<a href="#queues" style="font-size:8px;padding:0">tiny</a>', qr/small to touch: tiny/);
plant('link', $main, '<a href="#nowhere">link to nowhere</a>', qr/leads nowhere/);
plant('network', $main, '<img src="http://127.0.0.1:9/" alt="net"/>', qr/asks for http/);
plant('script', $main, '<script>window.pwned=1</script>', qr/pwned/);
plant('script_error', $main, '<script>there_is_no_such_function()</script>', qr/a SCRIPT/);
plant('handler', $main, '<p onclick="x()">handler</p>', qr/onclick/);
plant('language', qr/ lang="en"/, '', qr/no language/);
plant('viewport', qr/<meta name="viewport"[^>]*>/, '', qr/no viewport/);
plant('title', qr/<title>[^<]*<\/title>/, '<title></title>', qr/no title/);
plant('hostile', qr/&#x3C;script&#x3E;/, '', qr/is not there as text: <script>/);

# ---------------------------------------------------------------------
# Look
# ---------------------------------------------------------------------

# names of harm that are shown as they are
my @texts = split /\n/, $node->safe_psql('postgres', 'SELECT name FROM harm WHERE n <> 8');

sub js_string
{
	my ($text) = @_;
	$text =~ s/([^ !#-;=?-\[\]-~])/sprintf '\\u{%x}', ord $1/ge;
	return "\"$text\"";
}

my @cases = map { my $name = $_; map { [ $name, $_ ] } @{ $frames{$name} } } sort keys %frames;

# a page that shows all frames, and what is wrong with each
sub write_wrapper
{
	my ($dark) = @_;
	my $html = "<!DOCTYPE html><meta charset=\"utf-8\"><pre id=\"findings\"></pre>\n<script>"
	  . slurp_file("$FindBin::RealBin/../lib/page.js") . "</script>\n";

	$html .= qq{<iframe src="$_->[0].html" style="width:$_->[1]px;height:900px;border:0"></iframe>\n} foreach @cases;
	$html .= "<script>\nconst texts = [" . join(', ', map { js_string(decode_text($_)) } @texts) . "];\nconst cases = ["
	  . join(', ', map { my ($name, $width) = @$_; qq{["$name", $width, } . ($name =~ /^(nothing|hundred)$/ ? '[]' : 'texts') . ']' } @cases)
	  . "];\n"
	  . "const dark = $dark;\n" . q{
addEventListener('load', () => {
  const lines = [];
  cases.forEach(([name, width, texts], i) => {
    const expected = { width, dark, texts, desk: width >= 1440 || name === 'paper' };
    let problems;
    try { problems = check(document.querySelectorAll('iframe')[i].contentWindow, expected); }
    catch (error) { problems = [`the checker failed: ${error.stack}`]; }
    for (const problem of [...problems, 'checked']) lines.push(`${name}@${width}\t${problem.replace(/\s+/g, ' ')}`);
  });
  document.getElementById('findings').textContent = lines.map(encodeURIComponent).join('\n');
});
</script>
};
	append_to_file("$dir/wrapper_$dark.html", $html);
	return;
}

sub decode_text
{
	my ($text) = @_;
	utf8::decode($text);
	return $text;
}

sub browse
{
	my ($url, @options) = @_;
	my ($out, $err) = ('', '');
	my $profile = PostgreSQL::Test::Utils::tempdir();
	my $done = IPC::Run::run(
		[
			$chromium, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
			'--disable-background-networking', '--disable-component-update', '--disable-sync',
			"--user-data-dir=$profile", '--allow-file-access-from-files', '--enable-logging=stderr',
			'--hide-scrollbars', @options, $url
		],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return ($done, $out, $err);
}

# the findings of each case, and the messages of the console by file
sub look
{
	my ($dark) = @_;
	my (%findings, %console);

	write_wrapper($dark ? 'true' : 'false');
	my ($done, $out, $err) = browse("file://$dir/wrapper_" . ($dark ? 'true' : 'false') . '.html',
		'--window-size=1600,1200', '--blink-settings=preferredColorScheme=' . ($dark ? 0 : 1), '--dump-dom');
	my ($found) = $out =~ /<pre id="findings">(.*?)<\/pre>/s;
	foreach my $line (split /\n/, $found // '')
	{
		$line =~ s/%(..)/chr hex $1/ge;
		my ($case, $problem) = split /\t/, $line, 2;
		push @{ $findings{$case} }, $problem;
	}
	push @{ $console{$2} }, $1 while $err =~ /CONSOLE.*?\] ?(.*), source: \S*?(\w+)\.html/g;
	ok($done && $found, 'the browser shows the pages') or diag("$out\n$err");
	return (\%findings, \%console);
}

sub no_findings
{
	my ($name, @findings) = @_;
	my $checked = grep { $_ eq 'checked' } @findings;
	my @problems = grep { $_ ne 'checked' } @findings;

	splice @problems, 20 if @problems > 20;
	ok($checked && !@problems, $name);
	diag("$name:", map { "\n  $_" } @problems) if @problems;
	return;
}

foreach my $dark (0, 1)
{
	my $scheme = $dark ? 'dark' : 'light';
	my ($findings, $console) = look($dark);

	foreach my $case (grep { $_->[0] !~ /^fault_/ } @cases)
	{
		my ($name, $width) = @$case;
		no_findings("$name, $width wide, $scheme", @{ $findings->{"$name\@$width"} || [] });
	}
	is_deeply([ map { @{ $console->{$_} } } grep { !/^fault_/ } sort keys %$console ], [], "nothing on the console, $scheme");

	foreach my $fault (sort keys %faults)
	{
		my @found = @{ $findings->{"fault_$fault\@390"} || [] };
		ok(scalar(grep { $_ =~ $faults{$fault} } @found), "a planted fault is found, $scheme: $fault")
		  or diag(join "\n", @found);
	}
	like(join("\n", @{ $console->{fault_script_error} || [] }), qr/there_is_no_such_function/, 'a planted error of a script, too');
	like(join("\n", @{ $console->{fault_network} || [] }), qr/Content Security Policy/, 'the page itself keeps the network out');
	like(join("\n", @{ $console->{fault_handler} || [] }), qr/Content Security Policy/, 'and code');
}

# on paper
my ($printed) = browse("file://$dir/postgres.html", '--no-pdf-header-footer', "--print-to-pdf=$dir/report.pdf");
ok($printed && -s "$dir/report.pdf", 'it can be printed');

done_testing();

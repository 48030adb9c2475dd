# One client of the storm: it puts jobs in and takes them out, in every way that
# there is, and writes down what it knows.
#
# Its log is what the verdict rests on: a line for each thing that it wanted from
# the server, with what it was told about it:
#
#	c	committed: the server has said so
#	r	rolled back: the server has said so, or the client has never sent a COMMIT
#	u	unknown: the connection ended while the answer was due
#	p	prepared, under the name that follows; see the lines about that name
#
# (time sent, time of the answer, outcome, kind, fields ...)
#
#	enqueue	key, queue, job, unique key, group, serial, parents, rule	job is "-" if unknown
#	publish	key, topic, jobs
#	done	token, jobs													"?" if unknown
#	cancel	job
#	final	job, attempt		failed for good by the client's wish
#	batch	name				with a callback whose key is "cb" and the name
#	close	name				of such a batch
#	prepare	name, decision		the transaction itself
#	finish	name, decision
#	hold	job, attempt, queue, group, limit_key, end: the client believed to hold it from the answer to the end at least
#	give	job					what it gave back by fail, release or sign_off
#	progress	job, attempt, percent
#	returned	worker			it has signed off, and holds nothing
#	kept	worker				or something
#	off		worker				it has signed off, and is not heard of again
#	odd		code, message, query	an error that nobody expects
#	wrong	what				an answer that must not be
#
# A number drawn by a client depends on the seed, on the number of the client, and
# on what it met; so a seed repeats the plan of a storm, not each of its waves.

package Client;

use strict;
use warnings;

use Connection;
use Time::HiRes qw(time sleep);

# queue.worker_timeout
my $silence = 1;

sub new
{
	my ($class, %self) = @_;
	my $self = bless { keys => 0, tokens => 0, serials => [ 0, 0, 0 ], holds => [], mine => [], settled => [], prepared => [],
		beat_at => 0, named => {}, %self }, $class;

	open $self->{log}, '>', "$self->{dir}/client.$self->{number}" or die "no log: $!";
	srand $self->{seed} * 1000 + $self->{number};
	return $self;
}

sub run
{
	my ($self) = @_;

	while (time() < $self->{until})
	{
		$self->connect or next;
		$self->step;
		sleep(rand 0.004);
	}
	$self->end_hold($_) for @{ $self->{holds} };
	if ($self->{number} % 2 && $self->connect)
	{
		my $sent = time();
		my $outcome = $self->sign_off('alone');
		$self->tell($outcome, $sent, [ 'off', $self->name ]);
	}
	# half of what is prepared is left for others to find
	$self->finish_prepared while @{ $self->{prepared} } > 1;
	$self->{connection}->close if $self->{connection};
	close $self->{log};
	return;
}

sub connect
{
	my ($self) = @_;

	return 1 if $self->{connection} && $self->{connection}{socket};
	$_->{bound} and $self->end_hold($_) for @{ $self->{holds} };
	$self->{holds} = [ grep { !$_->{over} } @{ $self->{holds} } ];
	$self->{connection} = Connection->open('postgres', "stress client $self->{number}");
	sleep 0.05, return 0 if !$self->{connection};
	$self->{heard} = time();
	return $self->quietly(q{SET lock_timeout = '5 s'; SET client_min_messages = error});
}

# ---------------------------------------------------------------------
# Questions and answers
# ---------------------------------------------------------------------

sub note
{
	my ($self, @fields) = @_;

	print { $self->{log} } join("\t", map { defined $_ && $_ ne '' ? s/[\t\n]/ /gr : '-' } @fields), "\n";
	return;
}

sub ask
{
	my ($self, $sql, @expected) = @_;
	my $answer = $self->{connection}->query($sql);

	if ($answer->{status} eq 'ok')
	{
		$self->{heard} = time();
		return $answer->{rows};
	}
	$self->note(time(), 0, '-', 'odd', $answer->{code}, $answer->{message}, $sql)
	  if $answer->{code} ne '' && !$Connection::usual{ $answer->{code} } && !grep { $_ eq $answer->{code} } @expected;
	die $answer;
}

sub quietly
{
	my ($self, $sql, @expected) = @_;

	return eval { $self->ask($sql, @expected) };
}

# Some parts, each of which is one statement, in a transaction of a kind; returns
# its outcome.  A part pushes what it wants on $self->{wanted} before it asks.
sub transaction
{
	my ($self, $kind, @parts) = @_;
	my $sent = time();
	my ($outcome, $name) = ('r');

	$self->{wanted} = [];
	eval {
		if ($kind eq 'alone')
		{
			$outcome = eval { $parts[0]->(); 'c' } || ($@->{status} && $@->{status} eq 'lost' ? 'u' : 'r');
			die $@ if $@ && !ref $@;
			return 1;
		}
		$self->ask($kind eq 'serializable' ? 'BEGIN ISOLATION LEVEL SERIALIZABLE' : 'BEGIN');
		if ($kind eq 'savepoint')
		{
			$self->ask('SAVEPOINT s');
			shift(@parts)->();
			$self->ask('ROLLBACK TO s');
			$self->tell('r', $sent, @{ $self->{wanted} });
			$self->{wanted} = [];
		}
		$_->() for @parts;
		sleep(rand 0.01) if rand() < 0.3;
		if ($kind eq 'rollback')
		{
			$self->ask('ROLLBACK');
		}
		elsif ($kind eq 'prepared')
		{
			$name = "$self->{number}." . ++$self->{names};
			my $decision = rand() < 0.7 ? 'c' : 'r';
			my $told = $self->outcome_of("PREPARE TRANSACTION '$name'", 'PREPARE TRANSACTION');
			$self->tell($told, $sent, [ 'prepare', $name, $decision ]);
			$outcome = "p$name" if $told ne 'r';
			push @{ $self->{prepared} }, { name => $name, decision => $decision, at => time() + rand 2 } if $told ne 'r';
		}
		elsif (rand() < 0.01 && !$self->{in_order})
		{
			$self->{connection}->abandon('COMMIT');
			$outcome = 'u';
		}
		else
		{
			$outcome = $self->outcome_of('COMMIT', 'COMMIT');
		}
		1;
	} or do {
		die $@ if !ref $@;
		# this may be cancelled, too
		1 until $self->quietly('ROLLBACK') || !$self->{connection}{socket};
	};
	$self->tell($outcome, $sent, @{ $self->{wanted} });
	return $outcome;
}

# of what ends a transaction
sub outcome_of
{
	my ($self, $sql, $tag, @expected) = @_;
	my $answer = $self->{connection}->query($sql);

	$self->note(time(), 0, '-', 'odd', $answer->{code}, $answer->{message}, $sql)
	  if $answer->{code} ne '' && !$Connection::usual{ $answer->{code} } && !grep { $_ eq $answer->{code} } @expected;
	return 'u' if $answer->{status} eq 'lost';
	$self->{code} = $answer->{code};
	return $answer->{status} eq 'ok' && $answer->{tag} eq $tag ? 'c' : 'r';
}

sub tell
{
	my ($self, $outcome, $sent, @wanted) = @_;
	my $now = time();

	$self->note($sent, $now, $outcome, @$_) for @wanted;
	return;
}

sub want
{
	my ($self, @want) = @_;
	my $want = [@want];

	push @{ $self->{wanted} }, $want;
	return $want;
}

sub finish_prepared
{
	my ($self) = @_;
	my $prepared = shift @{ $self->{prepared} } or return;
	my $verb = $prepared->{decision} eq 'c' ? 'COMMIT' : 'ROLLBACK';
	my $sent = time();

	return if !$self->connect;
	# if the answer to PREPARE or to this was lost, there may be none of that name
	my $told = $self->outcome_of("$verb PREPARED '$prepared->{name}'", "$verb PREPARED", '42704');
	$self->tell($told, $sent, [ 'finish', $prepared->{name}, $prepared->{decision} ]);
	push @{ $self->{prepared} }, $prepared if $told ne 'c' && !($told eq 'r' && $self->{code} eq '42704');
	return;
}

# ---------------------------------------------------------------------
# Putting in
# ---------------------------------------------------------------------

sub pick { return $_[ rand @_ ]; }

# (weight => value, ...)
sub draw
{
	my @choices = @_;
	my $sum = 0;

	$sum += $choices[ 2 * $_ ] for 0 .. $#choices / 2;
	my $at = rand $sum;
	while (@choices > 2)
	{
		$at -= shift @choices;
		return $choices[0] if $at < 0;
		shift @choices;
	}
	return $choices[1];
}

sub new_key { my ($self) = @_; return "$self->{number}." . ++$self->{keys}; }

# One call of enqueue(): the parameters by name, as SQL, and what the log says of it.
sub enqueue
{
	my ($self, $queue, %o) = @_;
	my $key = $self->new_key;
	my %argument = %{ $o{arguments} || {} };
	my %payload = (key => $key, %{ $o{payload} || {} });

	for my $name (qw(unique_key group_key batch_id))
	{
		$argument{$name} = Connection::quote($o{$name}) if defined $o{$name};
	}
	$argument{options} = Connection::quote(qq({"limit_key": "$o{limit_key}"})) if defined $o{limit_key};
	$argument{depends_on} = "'{" . join(',', @{ $o{parents} }) . "}'" if $o{parents};
	my $json = '{' . join(', ', map { qq("$_": "$payload{$_}") } sort keys %payload) . '}';
	my $arguments = join '', map { ", $_ => $argument{$_}" } sort keys %argument;
	my $want = $self->want('enqueue', $key, $queue, '-', $o{unique_key}, $o{group_key}, $payload{serial},
		join(',', @{ $o{parents} || [] }), $o{rule});
	my $rows = $self->ask("SELECT queue.enqueue('$queue', '$json'$arguments)", @{ $o{errors} || [] });

	$want->[3] = $rows->[0][0];
	push @{ $self->{mine} }, $want->[3];
	shift @{ $self->{mine} } if @{ $self->{mine} } > 50;
	return $want->[3];
}

sub enqueue_many
{
	my ($self, $queue, $n, $arguments) = @_;
	my @wants = map { $self->want('enqueue', $self->new_key, $queue, '-') } 1 .. $n;
	my $payloads = join ', ', map { qq('{"key": "$_->[1]"}') } @wants;
	my $rows = $self->ask("SELECT queue.enqueue_batch('$queue', ARRAY[$payloads]::jsonb[]$arguments)");

	$self->note(time(), 0, '-', 'wrong', "enqueue_batch of $n jobs returned " . @$rows) if @$rows != $n;
	$wants[$_][3] = $rows->[$_][0] for 0 .. $#$rows;
	return;
}

# one message, a job in each queue that hears of the topic
sub publish
{
	my ($self) = @_;
	my $topic = pick(qw(news news.paid news.paid.late other.paid nobody.listens));
	my %argument = %{ some_arguments() };
	my $want = $self->want('publish', $self->new_key, $topic, '-');
	my $arguments = join '', map { ", $_ => $argument{$_}" } sort keys %argument;
	my $rows = $self->ask(qq{SELECT queue.publish('$topic', '{"key": "$want->[1]"}'$arguments)});

	$want->[3] = join ',', map { $_->[0] } @$rows;
	return;
}

sub transaction_kind
{
	my ($self) = @_;
	my $kind = draw(50, 'alone', 24, 'block', 8, 'savepoint', 7, 'rollback', 7, 'prepared', 4, 'serializable');

	return $kind eq 'prepared' && @{ $self->{prepared} } > 1 ? 'block' : $kind;
}

# priority and due time, now and then
sub some_arguments
{
	my %arguments;

	$arguments{priority} = 1 + int rand 4 if rand() < 0.3;
	$arguments{delay} = sprintf "'%d ms'", rand 500 if rand() < 0.2;
	$arguments{run_at} = sprintf "now() - '%d s'::interval", rand 1000 if !$arguments{delay} && rand() < 0.05;
	return \%arguments;
}

sub produce
{
	my ($self) = @_;
	my $kind = $self->transaction_kind;
	my $number = $self->{number};
	my @n = $kind eq 'alone' ? 1 : 1 .. 1 + rand 4;
	my $what = draw(30, 'plain', 12, 'many', 10, 'run', 14, 'own group', 8, 'group', 8, 'limit', 4, 'both',
		10, 'unique', 5, 'replace', 8, 'batch', 8, 'flow', 8, 'publish', 6, 'direct', 5, 'mirror', 5, 'fallback');
	my %make = (
		plain => sub { $self->enqueue(pick(qw(plain plain mortal capped aged brief brief)), arguments => some_arguments()) },
		many => sub {
			$self->enqueue_many(pick(qw(plain mortal brief capped)), int rand 40,
				pick('', '', ', priority => 2', ", delay => '50 ms'"));
		},
		run => sub {
			$self->enqueue('run', arguments => some_arguments(), rand() < 0.3 ? (group_key => 'run ' . int rand 3) : (),
				payload => { kind => draw(80, 'quick', 8, 'slow', 5, 'better', 3, 'bad', 2, 'long') });
		},
		group => sub { $self->enqueue('keyed', group_key => 'shared ' . int rand 5, arguments => some_arguments()) },
		limit => sub { $self->enqueue('keyed', limit_key => 'limit ' . int rand 4, arguments => some_arguments()) },
		both => sub { $self->enqueue('keyed', group_key => 'shared ' . int rand 5, limit_key => 'limit 1') },
		unique => sub { $self->enqueue(pick(qw(keyed plain)), unique_key => 'unique ' . int rand 8) },
		replace => sub {
			$self->enqueue('keyed', unique_key => 'unique ' . int rand 8,
				arguments => { on_conflict => "'replace'", delay => sprintf "'%d ms'", rand 20 },
				rand() < 0.3 ? (limit_key => 'limit 2') : ());
		},
		batch => sub {
			# whoever comes after the grace time is too late
			$self->enqueue(pick(qw(plain mortal keyed run direct mirror fallback)), batch_id => $self->{batch} || "grace $number", errors => ['55000']);
		},
		flow => sub {
			# all of one transaction, or of jobs that may be over, also without a trace
			my @parents = map { $self->enqueue(pick(qw(plain mortal keyed))) } 1 .. 1 + rand 2;
			push @parents, pick(@{ $self->{mine} }) if rand() < 0.3;
			my $rule = pick(qw(fail run));
			my %parents = map { ($_ => 1) } @parents;
			$self->enqueue(pick(qw(plain mortal run)), parents => [ sort { $a <=> $b } keys %parents ], rule => $rule,
				arguments => { on_parent_failure => "'$rule'" }, errors => ['42704']);
		},
		publish => sub { $self->publish },
		direct => sub {
			# what the handler says is the error of the call
			$self->enqueue('direct', arguments => some_arguments(), errors => ['ST002'],
				payload => { kind => draw(80, 'quick', 8, 'slow', 5, 'bad') });
		},
		mirror => sub { $self->enqueue('mirror', arguments => some_arguments()) },
		fallback => sub { $self->enqueue('fallback', arguments => some_arguments()) });

	if ($what eq 'own group')
	{
		$kind = 'block' if $kind eq 'prepared' || $kind eq 'serializable';
		my $own = int rand 3;
		my $serial = sub { $self->enqueue('keyed', group_key => "own $number.$own", payload => { serial => ++$self->{serials}[$own] }) };
		# a commit that is under way might be overtaken by the next one
		$self->{in_order} = 1;
		$self->transaction($kind, map { $serial } 1, @n);
		$self->{in_order} = 0;
		return;
	}
	$kind = 'block' if $what eq 'flow' && $kind eq 'alone';
	$self->transaction($kind, map { $make{$what} } @n, $kind eq 'savepoint' ? 1 : ());
	return;
}

# a batch with a callback: created, filled for a while, closed
sub turn_batch
{
	my ($self) = @_;

	if ($self->{batch})
	{
		my $sent = time();
		my $batch = $self->{batch};

		$self->{batch} = undef;
		my $rows = $self->quietly("SELECT queue.close_batch('$batch')");
		$self->tell('c', $sent, [ 'close', $batch ]) if $rows;
		return;
	}
	my $batch = "$self->{number}." . ++$self->{batches};
	my $outcome = $self->transaction('alone', sub {
		$self->want('batch', $batch);
		$self->ask(qq{SELECT queue.create_batch('$batch', callback_queue => 'plain', callback_payload => '{"key": "cb $batch"}')});
	});
	$self->{batch} = $batch if $outcome eq 'c';
	return;
}

# ---------------------------------------------------------------------
# Taking out
# ---------------------------------------------------------------------

sub new_token { my ($self) = @_; return "$self->{number}." . ++$self->{tokens}; }

# what takes, completes and notes it in one transaction
sub work
{
	my ($self) = @_;
	my $queue = draw(5, 'plain', 4, 'keyed', 3, 'brief', 2, 'mortal', 2, 'aged', 2, 'dead', 1, 'capped', 1, 'run', 1, 'mirror',
		1, 'fallback', 1, 'overflow');
	my $work = sub {
		my $token = $self->new_token;
		my $want = $self->want('done', $token, '?');
		my $n = draw(6, 1, 3, 1 + int rand 10, 1, 100);
		my $rows = $self->ask("SELECT stress.work('$queue', $n, '$token')");
		$want->[2] = join ',', map { $_->[0] } @$rows;
	};
	my $kind = $self->transaction_kind;

	$self->transaction($kind, ($work) x ($kind eq 'savepoint' ? 2 : 1));
	return;
}

# takes with a lease; what it believes to hold is kept
sub take
{
	my ($self) = @_;
	my $queue = draw(4, 'plain', 4, 'keyed', 2, 'brief', 3, 'mortal', 1, 'aged', 1, 'dead', 4, 'capped', 1, 'mirror', 1, 'fallback');
	my $n = draw(6, 1, 3, 1 + int rand 10, 1, 100);
	my $bound = rand() < 0.15;
	my $named = !$bound && rand() < 0.3 && ($self->{beat_at} > time() - $silence / 3 || $self->beat);
	my @arguments = ("'$queue'", $n);

	push @arguments, sprintf "visibility_timeout => '%d ms'", 10 + rand 300 if !$named && rand() < 0.2;
	push @arguments, sprintf "wait => '%d ms'", rand 500 if rand() < 0.4;
	push @arguments, 'bind_session => true' if $bound;
	# who falls silent does not hold them for that long
	push @arguments, q{visibility_timeout => '8 s', worker => '} . $self->name . q{'} if $named;
	my $rows = $self->quietly("SELECT job_id, attempt, extract(epoch FROM lease_expires_at), group_key, payload ->> 'key',"
		  . " payload ->> 'serial', (SELECT limit_key FROM queue.job_live AS l WHERE l.job_id = t.job_id)"
		  . ' FROM queue.dequeue_batch(' . join(', ', @arguments) . ') AS t') || [];
	$self->hold($queue, $_, bound => $bound, named => $named) for @$rows;
	return;
}

sub hold
{
	my ($self, $queue, $row, %how) = @_;
	my %hold = (queue => $queue, from => time(), %how);

	@hold{qw(job attempt ends group key serial limit)} = @$row;
	# a crash may have undone that we had it
	$_->{job} == $hold{job} and $self->end_hold($_) for @{ $self->{holds} };
	$self->{holds} = [ grep { !$_->{over} } @{ $self->{holds} } ];
	$self->{named}{ $hold{job} } = 1 if $hold{named};
	push @{ $self->{holds} }, \%hold;
	return;
}

# From then on the client does not rely on holding it any more.
sub end_hold
{
	my ($self, $hold, $at) = @_;

	return if $hold->{over};
	# a lease that is bound ends with the session, of which we hear late
	$at = $hold->{bound} ? $self->{heard} : time() if !$at;
	$at = $hold->{ends} if $hold->{ends} < $at;
	# who has not been heard of may have lost it
	$at = $self->{beat_at} + $silence if $hold->{named} && $self->{beat_at} + $silence < $at;
	$self->note($hold->{from}, $hold->{from}, 'c', 'hold', @$hold{qw(job attempt queue group limit)}, $at);
	$hold->{over} = 1;
	return;
}

# complete some that are held, and note it
sub complete
{
	my ($self, $token, @holds) = @_;
	my $want = $self->want('done', $token, '?');
	my @done;

	# in the order of the ids there is no deadlock
	for my $hold (sort { $a->{job} <=> $b->{job} } @holds)
	{
		my $rows = $self->ask(
			'INSERT INTO stress.done (token, job_id, attempt, key, group_key, serial) SELECT '
			  . Connection::quote($token, @$hold{qw(job attempt key group)}) . ', ' . Connection::quote($hold->{serial}) . '::int'
			  . " WHERE queue.complete($hold->{job}, attempt => $hold->{attempt}) RETURNING job_id");
		push @done, $rows->[0][0] if @$rows;
	}
	$want->[2] = join ',', @done;
	return;
}

sub settle
{
	my ($self) = @_;
	my @holds = splice @{ $self->{holds} }, 0, draw(5, 1, 2, 1 + int rand 10, 1, 100);
	my $hold = $holds[0] or return;
	my ($job, $attempt) = @$hold{qw(job attempt)};
	my $how = draw(50, 'complete', 5, 'complete and abort', 6, 'complete many', 5, 'complete and dequeue', 8, 'fail', 3, 'fail many',
		7, 'release', 6, 'extend', 5, 'walk away', 2, 'cancel', 3, 'final', 3, 'late', 4, 'progress');

	if ($how eq 'late')
	{
		# it holds this one for longer than it may
		my $left = $hold->{ends} - time();

		sleep($left > 0.3 ? 0.3 : $left + 0.02) if $left > 0;
	}
	if ($how eq 'extend')
	{
		my $rows = $self->quietly(sprintf "SELECT extract(epoch FROM queue.extend($job, '%d ms', $attempt))", 100 + rand 3000);

		$hold->{ends} = $rows->[0][0] if $rows && defined $rows->[0][0];
		# what was not told may have been shorter
		$self->end_hold($hold) if !$rows || !defined $rows->[0][0];
		push @{ $self->{holds} }, grep { !$_->{over} } @holds;
		return;
	}
	if ($how eq 'progress')
	{
		my $sent = time();
		my $percent = int rand 100;
		my $longer = rand() < 0.3;
		my $outcome = $self->transaction('alone', sub {
			my $want = $self->want('progress', $job, $attempt, $percent);
			my $rows = $self->ask("SELECT queue.set_progress($job, $percent, 'storm', "
				  . ($longer ? "extend_by => '2 s', " : '') . "attempt => $attempt)");
			$want->[0] = 'no progress' if $rows->[0][0] ne 't';
		});
		# two seconds may be less than before
		$hold->{ends} = $sent + 2 if $longer && $sent + 2 < $hold->{ends};
		push @{ $self->{holds} }, @holds;
		return;
	}
	$self->end_hold($_) for @holds;
	if ($how eq 'walk away')
	{
		return;
	}
	if ($how eq 'fail' || $how eq 'fail many' || $how eq 'release')
	{
		my $sql = $how eq 'fail' ? "queue.fail($job, 'storm', attempt => $attempt" . pick('', ", retry_in => '0'") . ')'
		  : $how eq 'release' ? "queue.release($job, attempt => $attempt" . pick('', ", delay => '20 ms'") . ')'
		  : 'queue.fail_many(ARRAY[' . join(',', map { $_->{job} } @holds) . "], 'storm', ARRAY["
		  . join(',', map { $_->{attempt} } @holds) . '])';

		@holds = ($hold) if $how ne 'fail many';
		$self->transaction(draw(8, 'alone', 1, 'block', 1, 'rollback'), sub {
			$self->want('give', $_->{job}) for @holds;
			$self->ask("SELECT $sql");
		});
		return;
	}
	if ($how eq 'cancel' || $how eq 'final')
	{
		# a job of which nothing is kept would be gone without a trace
		return if $hold->{queue} eq 'brief';
		$self->transaction('alone', sub {
			$self->want($how, $job, $attempt);
			$self->ask($how eq 'cancel' ? "SELECT queue.cancel($job)"
				: "SELECT queue.fail($job, 'storm', retry => false, attempt => $attempt)");
		});
		return;
	}
	my $token = $self->new_token;
	my $outcome;
	if ($how eq 'complete many')
	{
		$outcome = $self->transaction('block', sub {
			my $want = $self->want('done', $token, '?');
			my $jobs = join ',', map { $_->{job} } @holds;
			my $attempts = join ',', map { $_->{attempt} } @holds;
			$self->ask("SELECT queue.complete_many(ARRAY[$jobs], ARRAY[$attempts])")->[0][0] == @holds
			  or die { status => 'error' };
			$self->ask('INSERT INTO stress.done (token, job_id, attempt, key, group_key, serial) VALUES '
				  . join ', ', map { '(' . Connection::quote($token, @$_{qw(job attempt key group serial)}) . ')' } @holds);
			$want->[2] = $jobs;
		});
	}
	elsif ($how eq 'complete and dequeue')
	{
		my $next;

		# it does not tell what it has completed; but who can extend a lease holds it
		$outcome = $self->transaction('block', sub {
			my $want = $self->want('done', $token, '?');
			$self->ask("SELECT queue.extend($job, '10 s', $attempt)")->[0][0] or die { status => 'error' };
			$next = $self->ask("SELECT job_id, attempt, extract(epoch FROM lease_expires_at), group_key, payload ->> 'key',"
				. " payload ->> 'serial', (SELECT limit_key FROM queue.job_live AS l WHERE l.job_id = t.job_id)"
				. " FROM queue.complete_and_dequeue(ARRAY[$job], '$hold->{queue}', 2, attempts => ARRAY[$attempt]) AS t");
			$self->ask('INSERT INTO stress.done (token, job_id, attempt, key, group_key, serial) VALUES ('
				  . Connection::quote($token, @$hold{qw(job attempt key group serial)}) . ')');
			$want->[2] = $job;
		});
		if ($outcome eq 'c')
		{
			$self->hold($hold->{queue}, $_) for @$next;
		}
		@holds = ($hold);
	}
	elsif ($how eq 'complete and abort')
	{
		$self->transaction('rollback', sub { $self->complete($token, @holds) });
		$token = $self->new_token;
		$outcome = $self->transaction('block', sub { $self->complete($token, @holds) });
	}
	else
	{
		# what is prepared holds no job of a queue with max_active, but completes it
		# who signs off would wait for it
		my $kind = @{ $self->{prepared} } < 2 && rand() < 0.05 && !grep({ $_->{named} } @holds) ? 'prepared' : 'block';
		$outcome = $self->transaction($kind, sub { $self->complete($token, @holds) });
	}
	# it may have lost the job, and the attempt with it, to a crash
	push @{ $self->{settled} }, [ $job, $attempt ] if $outcome eq 'c' && grep { $_ eq $job } split /,/, $self->{wanted}[0][2];
	shift @{ $self->{settled} } if @{ $self->{settled} } > 20;
	return;
}

# an attempt that is long over must not settle anything
sub stale
{
	my ($self) = @_;
	my $settled = pick(@{ $self->{settled} }) or return;
	my ($job, $attempt) = @$settled;
	my $sql = pick("queue.complete($job, attempt => $attempt)", "queue.fail($job, 'stale', attempt => $attempt) IS NOT NULL",
		"queue.release($job, attempt => $attempt)", "queue.extend($job, '1 s', $attempt) IS NOT NULL");
	my $rows = $self->quietly("SELECT $sql");

	$self->note(time(), 0, '-', 'wrong', "$sql was true after the job had been completed") if $rows && $rows->[0][0] eq 't';
	return;
}

# ---------------------------------------------------------------------
# A worker that tells that it lives
# ---------------------------------------------------------------------

sub name { my ($self) = @_; return "client $self->{number}"; }

sub beat
{
	my ($self) = @_;
	my $sent = time();
	my $name = $self->name;

	# it has been silent for too long: what it held may be somebody else's by now
	if ($self->{beat_at} + $silence < $sent)
	{
		$_->{named} and $self->end_hold($_) for @{ $self->{holds} };
		$self->{holds} = [ grep { !$_->{over} } @{ $self->{holds} } ];
	}
	$self->quietly("SELECT queue.heartbeat('$name'" . pick(')', qq{, info => '{"sent": $sent}')})) or return 0;
	$self->{beat_at} = $sent;
	return 1;
}

# It gives back whatever it has taken by its name, also what it has forgotten.
sub sign_off
{
	my ($self, $kind) = @_;
	my $name = $self->name;

	$_->{named} and $self->end_hold($_) for @{ $self->{holds} };
	$self->{holds} = [ grep { !$_->{over} } @{ $self->{holds} } ];
	my $outcome = $self->transaction($kind || draw(6, 'alone', 2, 'block', 1, 'rollback'), sub {
		$self->want('give', $_) for sort keys %{ $self->{named} };
		$self->ask("SELECT queue.sign_off('$name')");
	});
	return $outcome if $outcome ne 'c';
	$self->{named} = {};
	# what is claimed beside a sweep may be missed, and ends by its own time
	my $sent = time();
	my $kept = $self->quietly("SELECT count(*) FROM queue.job WHERE worker = '$name' AND state = 'active' AND lease_expires_at > now()");
	$self->tell('c', $sent, [ $kept->[0][0] ? 'kept' : 'returned', $name ]) if $kept;
	return $outcome;
}

# ---------------------------------------------------------------------
# Other things
# ---------------------------------------------------------------------

sub cancel
{
	my ($self) = @_;
	my $job = pick(@{ $self->{mine} }) or return;
	my $kind = $self->transaction_kind;

	$self->transaction($kind eq 'savepoint' ? 'block' : $kind, sub {
		$self->want('cancel', $job);
		$self->ask("SELECT queue.cancel($job) WHERE NOT EXISTS (SELECT FROM queue.job_status($job) WHERE queue_name = 'brief')");
	});
	return;
}

# as if the client had died: the session ends, what it held is held until the leases end
sub leave
{
	my ($self) = @_;

	$_->{bound} and $self->end_hold($_) for @{ $self->{holds} };
	$self->{holds} = [ grep { !$_->{over} } @{ $self->{holds} } ];
	if (rand() < 0.5)
	{
		$self->quietly('BEGIN');
		$self->quietly(q{SELECT count(*) FROM queue.dequeue_batch('plain', 5)});
		$self->quietly(q{SELECT queue.enqueue('plain', '{"key": "left"}')}, '25P02');
	}
	CORE::close $self->{connection}{socket} if $self->{connection}{socket};
	$self->{connection}{socket} = undef;
	return;
}

sub look
{
	my ($self) = @_;
	my $job = pick(@{ $self->{mine} }) || 1;

	$self->quietly('SELECT count(*) FROM ' . pick("queue.job_status($job)", "queue.job_history($job)",
		"queue.explain_job($job)", "queue.list_jobs('keyed')", 'queue.queue_stats()', 'queue.queue_health()',
		'queue.health_alerts()', 'queue.top()', 'queue.metrics', 'queue.worker', 'queue.batch_progress_view',
		"queue.batch_status('grace $self->{number}')", 'queue.report()'));
	return;
}

# run a handler in the own transaction, in the place of an executor; there may be none
sub handle
{
	my ($self) = @_;

	$self->transaction(draw(3, 'alone', 1, 'block', 1, 'rollback'),
		sub { $self->ask(q{SELECT * FROM queue.process_next('run')}, '55000') });
	return;
}

# wait for a job and take none; or take some and be cancelled by a timeout
sub dawdle
{
	my ($self) = @_;
	my $queue = pick(qw(plain keyed capped));

	if (rand() < 0.5)
	{
		$self->quietly("CALL queue.wait('$queue', '200 ms')");
	}
	else
	{
		my $ms = int(1 + rand 10);

		$self->quietly("SET statement_timeout = '$ms ms'");
		$self->produce for 1 .. 2;
		$self->work for 1 .. 2;
		$self->quietly("SELECT count(*) FROM queue.dequeue_batch('$queue', 20, visibility_timeout => '20 ms', wait => '50 ms')");
		1 until $self->quietly('SET statement_timeout = 0') || !$self->{connection}{socket};
	}
	return;
}

sub step
{
	my ($self) = @_;
	my $prepared = $self->{prepared}[0];

	return $self->finish_prepared if $prepared && $prepared->{at} < time();
	return $self->measure if ++$self->{steps} % 30 == 1;
	my $step = draw($self->{full} ? 2 : 38, 'produce', 25, 'work', 20, 'take', 60 * (@{ $self->{holds} } > 0), 'settle',
		2, 'stale', 3, 'cancel', 2, 'turn_batch', 0.7, 'leave', 3, 'beat', 0.7, 'sign_off', 1.5, 'look', 1.5, 'dawdle', 1, 'handle');
	$self->$step;
	return;
}

# producers are slower where there is much to do
sub measure
{
	my ($self) = @_;
	my $rows = $self->quietly('SELECT count(*) > 1000 FROM queue.job');

	$self->{full} = $rows->[0][0] eq 't' if $rows;
	return;
}

1;

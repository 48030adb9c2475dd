# The verdict over a storm.
#
# What the clients were told, by their logs, is compared with what is in the
# database after everything that can be taken has been taken and completed:
#
#	lost		its enqueue was acknowledged, and it has no end: it is neither done,
#				nor cancelled or failed for good by somebody's wish or rule
#	unexpected	it has an end, and was never attempted, or its transaction was
#				rolled back
#	recovered	it has an end, and nobody could know whether its enqueue had committed
#	copies		a message, or a job with a mirror, is in each of its queues once, or in none
#	doubled		it was taken again while a client may have been working on it: each time
#				must be explained, by the log of jobs (a lease that ended) or by a crash.
#				Work in the transaction that completes the job is never doubled.
#
# Lost and unexpected must be none.  recovered and doubled are only reported.

package Check;

use strict;
use warnings;

my $most_told = 10;

sub new
{
	my ($class, %self) = @_;

	return bless { problems => [], jobs => {}, odd => {}, %self }, $class;
}

sub problem
{
	my ($self, $what, @jobs) = @_;

	push @{ $self->{problems} }, $what;
	$self->{jobs}{$_} = 1 for @jobs;
	return;
}

# many of a kind are one problem with some examples
sub problems
{
	my ($self, $what, @examples) = @_;

	return if !@examples;
	my $some = join ', ', @examples[ 0 .. (@examples > $most_told ? $most_told : @examples) - 1 ];
	$self->problem(@examples . " $what: $some", map { /^(\d+)\b(?!\.)/ ? $1 : () } @examples[ 0 .. (@examples > 3 ? 2 : $#examples) ]);
	return;
}

sub rows
{
	my ($self, $sql) = @_;
	my $answer = $self->{connection}->query($sql);

	die "$sql: $answer->{code} $answer->{message}\n" if $answer->{status} ne 'ok';
	return @{ $answer->{rows} };
}

sub value { my ($self, $sql) = @_; return ($self->rows($sql))[0][0]; }

# ---------------------------------------------------------------------
# What the clients know
# ---------------------------------------------------------------------

sub read_logs
{
	my ($self) = @_;
	my (%prepare, %finish, @lines);

	for my $file (sort glob "$self->{dir}/*")
	{
		my ($client) = $file =~ m{/client\.(\d+)$};

		open my $log, '<', $file or die "$file: $!";
		while (my $line = <$log>)
		{
			chomp $line;
			my ($sent, $told, $outcome, $kind, @fields) = split /\t/, $line;
			my %line = (client => $client, sent => $sent, told => $told, outcome => $outcome, kind => $kind, fields => \@fields);

			if ($kind eq 'odd')
			{
				$self->problem("an error that nobody expects: @fields");
			}
			elsif ($kind eq 'wrong')
			{
				$self->problem("@fields");
			}
			elsif ($kind eq 'prepare')
			{
				$prepare{ $fields[0] } = { told => $outcome, decision => $fields[1] };
			}
			elsif ($kind eq 'finish')
			{
				$finish{ $fields[0] }{$outcome} = 1;
			}
			else
			{
				push @lines, \%line;
			}
		}
	}
	for my $name (keys %prepare)
	{
		my $p = $prepare{$name};

		# what was prepared has been finished as it was decided, by the client or at the end
		$p->{outcome} = $p->{told} eq 'c' || $finish{$name}{c} || $self->{finished}{$name} ? $p->{decision}
		  : $finish{$name}{u} ? 'u' : 'r';
	}
	for my $line (@lines)
	{
		$line->{outcome} = $prepare{$1}{outcome} if $line->{outcome} =~ /^p(.+)/;
		push @{ $self->{log}{ $line->{kind} } }, $line;
	}
	return;
}

sub log_of { my ($self, $kind) = @_; return @{ $self->{log}{$kind} || [] }; }

# ---------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------

sub read_database
{
	my ($self) = @_;

	# what has become of each job: rows of what is over, and of what is done
	for ($self->rows(q{
		SELECT a.job_id, q.queue_name, a.state, a.payload ->> 'key', a.attempt, a.max_attempts, a.unique_key, a.error,
			a.progress ->> 'percent'
		FROM queue.job_archive AS a JOIN queue.queue AS q USING (queue_id)}))
	{
		my %row;

		@row{qw(job queue state key attempt max_attempts unique error percent)} = @$_;
		push @{ $self->{archive}{ $row{job} } }, \%row;
	}
	for ($self->rows('SELECT job_id, seq, token, attempt, key, group_key, serial, kind, by FROM stress.done ORDER BY seq'))
	{
		my %row;

		@row{qw(job seq token attempt key group serial kind by)} = @$_;
		push @{ $self->{done}{ $row{job} } }, \%row;
		push @{ $self->{by_token}{ $row{token} } }, $row{job} if defined $row{token};
	}
	for ($self->rows(q{SELECT l.job_id, extract(epoch FROM l.at), l.event, l.message, (q.on_failed IS NOT NULL)::int
		FROM queue.job_log AS l LEFT JOIN queue.queue AS q USING (queue_id) ORDER BY at}))
	{
		push @{ $self->{history}{ $_->[0] } }, { at => $_->[1], event => $_->[2], message => $_->[3] || '', calls => $_->[4] };
	}
	$self->{calls}{ $_->[0] }++ for $self->rows('SELECT job_id FROM stress.failure');
	return;
}

sub has_event
{
	my ($self, $job, @events) = @_;
	my %wanted = map { ($_ => 1) } @events;

	return scalar grep { $wanted{ $_->{event} } } @{ $self->{history}{$job} || [] };
}

sub check_total
{
	my ($self) = @_;
	my (%outcome, @lost, @unexpected, @mixed, %count);

	$self->expect_copies;
	for my $line ($self->log_of('enqueue'))
	{
		my ($key, $queue, $job, $unique) = @{ $line->{fields} };

		$outcome{$key} = $line->{outcome};
		$self->{queue}{$key} = $queue;
		$count{attempted}++;
		next if $line->{outcome} ne 'c';
		$count{acknowledged}++;
		my $archived = $self->{archive}{$job};
		my $done = $self->{done}{$job};
		push @lost, "$job ($key in $queue)" if !$archived && !$done;
		# of a unique key the id may be another job's, and its payload a later one's
		if (($unique // '-') ne '-')
		{
			push @mixed, "$job ($key)" if grep { ($_->{unique} || '-') ne $unique } @{ $archived || [] };
		}
		else
		{
			push @mixed, "$job ($key)" if grep { ($_->{key} || '-') ne $key } @{ $archived || [] }, @{ $done || [] };
		}
	}
	for my $line ($self->log_of('publish'))
	{
		my ($key, $topic, $jobs) = @{ $line->{fields} };

		$outcome{$key} = $line->{outcome};
		next if $line->{outcome} ne 'c';
		for my $job (grep { /\d/ } split /,/, $jobs)
		{
			push @lost, "$job ($key of $topic)" if !$self->{archive}{$job};
		}
	}
	# a callback is attempted by who creates the batch
	$outcome{"cb $_->{fields}[0]"} = $_->{outcome} for $self->log_of('batch');

	my %seen;
	for my $job (keys %{ { map { ($_ => 1) } keys %{ $self->{archive} }, keys %{ $self->{done} } } })
	{
		my ($row) = (@{ $self->{archive}{$job} || [] }, @{ $self->{done}{$job} || [] });
		my $key = $row->{key};

		next if ($row->{queue} || '') eq 'temporary';
		$key = '-' if !defined $key;
		push @unexpected, "$job ($key)" if !$outcome{$key} || $outcome{$key} eq 'r';
		# of some there are more: see check_copies
		push @mixed, "$job ($key again)" if $seen{$key}++ && !$self->{copies}{$key};
		push @{ $self->{copies}{$key}{have} }, $row->{queue} if $self->{copies}{$key};
		$count{recovered}++ if ($outcome{$key} || '') eq 'u';
	}
	$self->{count}{$_} = $count{$_} || 0 for qw(attempted acknowledged recovered);
	$self->{count}{done} = keys %{ $self->{done} };
	$self->problems('jobs are lost', @lost);
	$self->problems('jobs are unexpected', @unexpected);
	$self->problems('jobs are not what was put in', @mixed);
	return;
}

# Who hears of a topic: as setup.sql says, in other words.
sub audience
{
	my ($topic) = @_;
	my %audience = (
		'news' => 'plain', 'news.paid' => 'capped plain run', 'news.paid.late' => 'capped plain', 'other.paid' => 'plain',
		'nobody.listens' => '');

	return ($audience{$topic}, $topic =~ /^news/);
}

# What is put into several queues at once, or into one or another.
sub expect_copies
{
	my ($self) = @_;

	for my $line ($self->log_of('publish'))
	{
		my ($key, $topic) = @{ $line->{fields} };
		my ($audience, $aged) = audience($topic);

		$self->{copies}{$key} = { want => [ $audience, $aged ? join ' ', sort 'aged', split / /, $audience : () ],
			outcome => $line->{outcome}, have => [] };
		$self->{count}{published}++;
	}
	for my $line ($self->log_of('enqueue'))
	{
		my ($key, $queue) = @{ $line->{fields} };

		next if $queue ne 'mirror' && $queue ne 'fallback';
		$self->{copies}{$key} = { want => [ $queue eq 'mirror' ? 'mirror plain' : ('fallback', 'overflow') ],
			outcome => $line->{outcome}, have => [] };
	}
	return;
}

# A message reaches each queue that is bound to its topic, once and in one
# transaction; so do the two jobs of a queue with a mirror.
sub check_copies
{
	my ($self) = @_;
	my @wrong;

	for my $key (sort keys %{ $self->{copies} })
	{
		my $copies = $self->{copies}{$key};
		my $have = join ' ', sort @{ $copies->{have} };

		next if $copies->{outcome} ne 'c' && $have eq '';
		push @wrong, "$key (in $have, but wanted in " . join(', or ', @{ $copies->{want} }) . ')'
		  if $copies->{outcome} eq 'r' || !grep { $_ eq $have } @{ $copies->{want} };
	}
	$self->problems('messages have not reached their queues', @wrong);
	return;
}

# on_failed is called once for each job that has failed for good, and what it did
# for a job is there, unless it has raised an error.  A handler never runs for
# longer than the job_timeout.
sub check_failures
{
	my ($self) = @_;
	my (@wrong, @long);

	for my $job (sort { $a <=> $b } keys %{ { %{ $self->{history} || {} }, %{ $self->{calls} || {} } } })
	{
		my @events = grep { $_->{calls} && $_->{event} eq 'failed' && $_->{message} !~ /^not moved: / } @{ $self->{history}{$job} || [] };
		my $errors = grep { $_->{message} eq 'on_failed raised an error' } @events;
		my $failed = @events - $errors;
		my $calls = $self->{calls}{$job} || 0;

		$self->{count}{failed} += $failed;
		push @wrong, "$job (has failed $failed times; $calls calls, $errors errors)"
		  if $calls + $errors != $failed || $calls && $job % 10 == 0;
	}
	$self->problems('jobs have failed without on_failed, or the other way round', @wrong);
	for my $done (map { @$_ } values %{ $self->{done} })
	{
		push @long, $done->{job} if ($done->{kind} || '') eq 'long' && $done->{by} !~ /^stress /;
	}
	$self->problems('jobs have run for longer than they may', @long);
	return;
}

# What was told last of the attempt that has completed a job is in its row,
# unless a crash came in between.
sub check_progress
{
	my ($self) = @_;
	my (%last, %done, @wrong);

	# then whatever was told of longest ago is forgotten
	return if $self->{little_room};
	for my $line (sort { $a->{told} <=> $b->{told} } grep { $_->{outcome} ne 'r' } $self->log_of('progress'))
	{
		$last{ $line->{fields}[0] } = $line;
		$self->{count}{progress}++;
	}
	for my $line (grep { $_->{outcome} eq 'c' } $self->log_of('done'))
	{
		$done{$_} = $line for split /,/, $line->{fields}[1];
	}
	for my $job (keys %last)
	{
		my ($told, $done, $row) = ($last{$job}, $done{$job}, $self->{archive}{$job} && $self->{archive}{$job}[0]);

		next if !$done || !$row || $told->{outcome} ne 'c' || $told->{fields}[1] != $row->{attempt} || $told->{client} != $done->{client};
		next if grep { $_->{to} >= $told->{sent} && $_->{from} <= $done->{told} } @{ $self->{crashes} };
		push @wrong, "$job (told $told->{fields}[2], has " . (defined $row->{percent} ? $row->{percent} : 'none') . ')'
		  if !defined $row->{percent} || $row->{percent} != $told->{fields}[2];
	}
	$self->problems('jobs have another progress than was told of them', @wrong);
	return;
}

# who has signed off is unknown, who has fallen silent is stale, and holds nothing
sub check_workers
{
	my ($self) = @_;
	my $alive = q{SELECT worker || coalesce(' with job ' || job_id, '') FROM queue.worker
		WHERE kind = 'outside' AND (state <> 'stale' OR job_id IS NOT NULL)};
	my @alive;

	for (1 .. 100)
	{
		@alive = map { $_->[0] } $self->rows($alive) or last;
		Time::HiRes::sleep(0.1);
	}
	$self->problems('workers are alive that have been silent for long', @alive);
	my $kept = $self->log_of('kept');
	$self->{count}{kept} = $kept;
	$self->problem("$kept times a worker has kept what it should have given back by signing off")
	  if $kept > 1 + $self->log_of('returned') / 50;
	my %off = map { ($_->{fields}[0] => 1) } grep { $_->{outcome} eq 'c' } $self->log_of('off');
	$self->problems('workers have signed off and are known', grep { $off{$_} }
		map { $_->[0] } $self->rows(q{SELECT worker FROM queue.worker WHERE kind = 'outside'}));
	return;
}

# each job has one end, and the right one
sub check_ends
{
	my ($self) = @_;
	my (%cancelled, %final, @doubled, @without, @wrong);

	$cancelled{ $_->{fields}[0] } = 1 for grep { $_->{outcome} ne 'r' } $self->log_of('cancel');
	$final{ $_->{fields}[0] } = 1 for grep { $_->{outcome} ne 'r' } $self->log_of('final');
	for my $job (keys %{ $self->{done} })
	{
		my @done = @{ $self->{done}{$job} };
		my $archived = $self->{archive}{$job};

		push @doubled, "$job (" . join(', ', map { $_->{token} || 'an executor' } @done) . ')' if @done > 1;
		push @without, $job if $archived && $archived->[0]{state} ne 'c';
		# what is kept for a second only is gone
		push @without, $job if !$archived && ($self->{queue}{ $done[0]{key} || '' } || '') ne 'brief';
	}
	for my $job (keys %{ $self->{archive} })
	{
		my ($row, @more) = @{ $self->{archive}{$job} };

		next if $row->{queue} eq 'temporary';
		push @doubled, "$job (has " . (1 + @more) . ' ends)' if @more;
		push @without, $job if $row->{state} eq 'c' && !$self->{done}{$job};
		push @wrong, "$job (completed by attempt $self->{done}{$job}[0]{attempt}, when it was at $row->{attempt})"
		  if $row->{state} eq 'c' && $self->{done}{$job} && $self->{done}{$job}[0]{attempt} != $row->{attempt};
		push @wrong, "$job (cancelled)" if $row->{state} eq 'x' && !$cancelled{$job};
		push @wrong, "$job (failed: " . ($row->{error} || '') . ')'
		  if $row->{state} eq 'f' && !$final{$job} && ($row->{error} || '') !~ /^parent job /
		  && ($row->{attempt} < $row->{max_attempts}) && !($row->{queue} eq 'run' && $row->{error} =~ /ST002/);
	}
	$self->problems('jobs are done more than once', @doubled);
	$self->problems('jobs are completed without being done, or the other way round', @without);
	$self->problems('jobs have an end that nobody has wished for', @wrong);

	# what was acknowledged as done stays done, and what was rolled back is not
	my (@undone, @redone, %token);
	for my $line ($self->log_of('done'))
	{
		my ($token, $jobs) = @{ $line->{fields} };
		my $want = join ',', sort { $a <=> $b } grep { /\d/ } split /,/, $jobs;
		my $have = join ',', sort { $a <=> $b } @{ $self->{by_token}{$token} || [] };

		$token{$token} = 1;
		push @undone, "$token: $jobs, but $have" if $line->{outcome} eq 'c' && $want ne $have;
		push @redone, "$token: $have" if $line->{outcome} eq 'r' && $have ne '';
	}
	push @redone, map { "$_: @{ $self->{by_token}{$_} }" } grep { !$token{$_} } keys %{ $self->{by_token} };
	$self->problems('completions were acknowledged and are gone', @undone);
	$self->problems('completions were rolled back and are there', @redone);
	return;
}

# jobs that one client has put into a group one after the other are done in that order
sub check_order
{
	my ($self) = @_;
	my (%last, @wrong);

	for my $done (sort { $a->{seq} <=> $b->{seq} } map { @$_ } values %{ $self->{done} })
	{
		next if ($done->{group} || '') !~ /^own / || $self->has_event($done->{job}, 'requeued', 'moved');
		my $last = $last{ $done->{group} };

		push @wrong, "$done->{job} ($done->{serial} of $done->{group} after $last->{serial})"
		  if $last && $last->{serial} > $done->{serial};
		$last{ $done->{group} } = $done;
		$self->{count}{ordered}++;
	}
	$self->problems('jobs of groups are out of order', @wrong);

	my @early;
	for my $line ($self->log_of('enqueue'))
	{
		my ($key, undef, $child, undef, undef, undef, $parents) = @{ $line->{fields} };
		my @again = ('failed', 'requeued', 'moved');

		next if $line->{outcome} ne 'c' || !$parents || $parents eq '-' || $self->has_event($child, @again);
		my $done = $self->{done}{$child} or next;
		for my $parent (split /,/, $parents)
		{
			next if $self->has_event($parent, @again);
			my $before = $self->{done}{$parent};

			$self->{count}{flows}++;
			push @early, "$child (before $parent)" if $before && $before->[0]{seq} > $done->[0]{seq};
		}
	}
	$self->problems('children are done before their parents', @early);
	return;
}

# What clients believed to hold, until they gave it up, the lease ended, somebody
# cancelled it or the server crashed: never two at once.
sub check_holds
{
	my ($self) = @_;
	my (%by_job, %cancelled, %given, %first, %holders);

	for my $line (grep { $_->{outcome} ne 'r' } $self->log_of('cancel'))
	{
		push @{ $cancelled{ $line->{fields}[0] } }, { from => $line->{sent}, to => $line->{told} };
	}
	for my $line (grep { $_->{outcome} ne 'r' } $self->log_of('give'))
	{
		push @{ $given{ $line->{fields}[0] } }, { from => $line->{sent}, to => $line->{told} };
	}
	for my $line (sort { $a->{sent} <=> $b->{sent} } $self->log_of('hold'))
	{
		my %hold = (from => $line->{sent}, client => $line->{client});

		@hold{qw(job attempt queue group limit until)} = @{ $line->{fields} };
		# of a claim that a crash has undone the attempt is given out again, so who had it can give it back
		my $first = $first{"$hold{job} $hold{attempt}"} ||= \%hold;
		my $twice = grep { $_->{from} <= $hold{from} && $_->{to} >= $first->{from} } @{ $self->{crashes} };
		# a claim may be undone by a crash, or a cancel, that began before we were told of it
		for my $end (map { $_->{from} < $hold{from} && $_->{to} > $hold{from} ? $hold{from} : $_->{from} }
			@{ $cancelled{ $hold{job} } || [] }, @{ $twice ? $given{ $hold{job} } || [] : [] }, @{ $self->{crashes} })
		{
			$hold{until} = $end if $end < $hold{until} && $end >= $hold{from};
		}
		push @{ $by_job{ $hold{job} } }, \%hold;
		next if $hold{until} <= $hold{from};
		push @{ $holders{"job $hold{job}"} }, \%hold;
		push @{ $holders{"$hold{queue}: group $hold{group}"} }, \%hold if $hold{group} ne '-';
		push @{ $holders{"$hold{queue}: limit_key $hold{limit}"} }, \%hold if $hold{limit} ne '-';
		push @{ $holders{'queue capped'} }, \%hold if $hold{queue} eq 'capped';
	}
	my @crowded;
	for my $name (sort keys %holders)
	{
		my $most = $name =~ /limit_key/ ? 3 : $name eq 'queue capped' ? 5 : 1;
		my @running;

		next if $name =~ /limit_key/ && $name !~ /^keyed/;
		for my $hold (sort { $a->{from} <=> $b->{from} } @{ $holders{$name} })
		{
			@running = ((grep { $_->{until} > $hold->{from} } @running), $hold);
			push @crowded, "$hold->{job} (number " . @running . " of $name, with "
			  . join(', ', map { "$_->{job} $_->{attempt} of client $_->{client}" } @running) . ')'
			  if @running > $most;
		}
	}
	$self->problems('jobs were held beside too many others', @crowded);
	$self->explain_takes(\%by_job);
	return;
}

# Why was a job taken again that somebody had?
sub explain_takes
{
	my ($self, $by_job) = @_;
	my (%given, @unexplained);

	for my $line (grep { $_->{outcome} ne 'r' } $self->log_of('give'), $self->log_of('final'), $self->log_of('cancel'))
	{
		push @{ $given{ $line->{fields}[0] } }, $line;
	}
	# taken and completed in one transaction is a take as well
	for my $line (grep { $_->{outcome} eq 'c' } $self->log_of('done'))
	{
		for my $job (grep { /\d/ } split /,/, $line->{fields}[1])
		{
			push @{ $by_job->{$job} }, { job => $job, from => $line->{told}, client => $line->{client}, done => 1 }
			  if $by_job->{$job};
		}
	}
	for my $job (keys %$by_job)
	{
		my @takes = sort { $a->{from} <=> $b->{from} } @{ $by_job->{$job} };

		for my $i (1 .. $#takes)
		{
			my ($one, $two) = @takes[ $i - 1, $i ];
			# a client may have been told late what it has taken
			my ($from, $to) = ($one->{from} - 1, $two->{from});

			next if $two->{done} && grep { $_->{client} eq $two->{client} } @takes[ 0 .. $i - 1 ];
			next if grep { $_->{told} >= $from && $_->{sent} <= $to } @{ $given{$job} || [] };
			if ((grep { $_->{from} <= $to && $_->{to} >= $from - 2 } @{ $self->{crashes} })
				|| grep { $_->{at} >= $from && $_->{at} <= $to && $_->{event} =~ /^(stalled|retried|released|requeued|moved|failed)$/ }
				@{ $self->{history}{$job} || [] })
			{
				$self->{count}{doubled}++;
				next;
			}
			push @unexplained, "$job (client $one->{client} at $one->{from}, client $two->{client} at $two->{from})";
		}
	}
	$self->problems('jobs were taken twice, and nothing tells why', @unexplained);
	return;
}

sub check_batches
{
	my ($self) = @_;
	my @counts = $self->rows(q{
		SELECT b.batch_id, row (b.total, b.processed, b.failed, b.cancelled, b.open, b.completed_at IS NOT NULL)::text,
			row (coalesce(j.total, 0), coalesce(j.processed, 0), coalesce(j.failed, 0), coalesce(j.cancelled, 0), 0, true)::text
		FROM queue.batch_progress_view AS b LEFT JOIN (
			SELECT batch_id, count(*) AS total, count(*) FILTER (WHERE state = 'completed') AS processed,
				count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
			FROM (
				SELECT batch_id, CASE WHEN origin IS NULL THEN state ELSE 'failed' END AS state
				FROM queue.job_finished WHERE batch_id IS NOT NULL) AS j
			GROUP BY batch_id) AS j USING (batch_id)});
	my %callbacks;
	my @wrong = map { "$_->[0] (tells $_->[1], has $_->[2])" } grep { $_->[1] ne $_->[2] } @counts;

	$self->{count}{batches} = @counts;
	$self->problems('batches are wrong', @wrong);
	for my $row (map { @$_ } values %{ $self->{archive} })
	{
		$callbacks{ $row->{key} }++ if ($row->{key} || '') =~ /^cb /;
	}
	my @callbacks;
	for my $line ($self->log_of('batch'))
	{
		my $n = $callbacks{"cb $line->{fields}[0]"} || 0;

		push @callbacks, "$line->{fields}[0] ($n)" if $n > 1 || $line->{outcome} eq 'c' && $n != 1 || $line->{outcome} eq 'r' && $n;
	}
	$self->problems('batches have not had one callback', @callbacks);
	return;
}

# nothing is left that belongs to a job, and all counts are those of the tables
sub check_rest
{
	my ($self) = @_;
	my %none = (
		'jobs that wait for parents' => 'queue.dependency',
		'unique keys' => 'queue.unique_key WHERE NOT settled',
		'heads of groups' => 'queue.group_head WHERE job_id <> 0',
		'places of a limit_key' => 'queue.limit_place WHERE job_id <> 0',
		'rows of prepared transactions' => 'queue._prepared',
		'jobs that are live' => 'queue.job_live',
		'jobs that are parked' => 'queue.job_parked',
		'queues with looks under way' => 'queue._hints() WHERE looks <> 0',
	);
	for my $what (sort keys %none)
	{
		my $n = $self->value("SELECT count(*) FROM $none{$what}");

		$self->problem("$n $what are left") if $n;
	}
	my ($want, $have) = ('', '');
	for (1 .. 100)
	{
		$want = join '; ', map { join ' ', map { defined $_ ? $_ : '-' } @$_ } $self->rows(QueueCheck::counts_of_tables());
		my @counters = $self->rows(QueueCheck::counters());
		$have = join '; ', map { join ' ', map { defined $_ ? $_ : '-' } @$_ } @counters;
		if ($self->{little_room})
		{
			# what has no slot has no counters
			my %known = map { ($_->[0] => 1) } grep { defined $_->[1] } @counters;
			$_ = join '; ', grep { /^(.*?)(?: [-\d]+){7}$/ && $known{$1} } split /; / for $want, $have;
		}
		last if $want eq $have;
		Time::HiRes::sleep(0.1);
	}
	$self->problem("the counters are not those of the tables: $have, but $want") if $want ne $have;
	if ($self->value(q{SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'}))
	{
		for my $query (QueueCheck::structure())
		{
			my $answer = $self->{connection}->query($query);

			$self->problem("a table or index is damaged: $answer->{message} " . join ' ', map { "@$_[0 .. 1]" } @{ $answer->{rows} })
			  if $answer->{status} ne 'ok' || @{ $answer->{rows} };
		}
	}
	return;
}

# What the server's log says.  Its lines begin with the SQLSTATE.
sub check_server_log
{
	my ($self, $file, $kills) = @_;
	my (%odd, $killed);

	open my $log, '<', $file or die "$file: $!";
	while (my $line = <$log>)
	{
		$self->problem("the server's log: $line") if $line =~ /PANIC:  |TRAP: |was terminated by signal (?!9\b)|exited with exit code (?![12]\b)/;
		$killed++ if $line =~ /was terminated by signal 9/;
		next if $line =~ /cannot reindex invalid index/;
		$odd{"$1 $2"}++ if $line =~ /^(XX\w{3}|5800\w|53200|P0004|ST001) .*?((?:ERROR|FATAL|WARNING|LOG):  .*)/;
	}
	$self->problem("the server's log: $_ ($odd{$_} times)") for sort keys %odd;
	$self->problem("$killed processes were killed, but only $kills by us") if ($killed || 0) > $kills;
	return;
}

1;

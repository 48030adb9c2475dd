# A connection of a client that knows what it knows.
#
# After each query the client must be able to tell three things apart: the server
# has done it (ok), the server has said that it has not (error), or nobody has
# said anything (lost: the connection has ended, or no answer came in time).
# psql cannot say that of every statement, and nothing else that speaks the
# protocol from Perl belongs to the server's packages; so this speaks it: over a
# Unix socket, simple queries, text only.

package Connection;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes ();

# What any call may meet in a storm: cancelled, thrown out, crashed, a deadlock
# with who locks tables, lock_timeout.
# 25P02: a cancel that came after the answer has broken the transaction
our %usual = map { ($_ => 1) } qw(25P02 57014 57P01 57P02 57P03 57P05 40P01 40001 55P03 53300 08006);

# nothing that a client asks for may take that long
our $patience = 120;

# Returns undef if there is no server, or it does not want us; the reason is in
# $Connection::error then.
our $error;

sub open
{
	my ($class, $database, $name) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => "$ENV{PGHOST}/.s.PGSQL.$ENV{PGPORT}");

	$error = 'no socket';
	return if !$socket;
	my $self = bless { socket => $socket, select => IO::Select->new($socket), buffer => '' }, $class;
	my $startup = pack('N', 196608) . join("\0", user => $ENV{PGUSER} || 'postgres', database => $database,
		application_name => $name, '') . "\0";
	my $answer = $self->send(pack('N', 4 + length $startup) . $startup) ? $self->receive : $self->lost('');
	return $self if $answer->{status} eq 'ok';
	$error = "$answer->{code} $answer->{message}";
	return;
}

# Returns { status, rows, tag, code, message }.
sub query
{
	my ($self, $sql) = @_;

	return $self->lost('') if !$self->{socket};
	# an answer may lie there although nothing can be sent any more: why we were thrown out
	$self->request($sql);
	return $self->receive;
}

# asks, and leaves the answer for receive()
sub request
{
	my ($self, $sql) = @_;

	return $self->send('Q' . pack('N', 5 + length $sql) . "$sql\0");
}

# asks, and is gone before the answer
sub abandon
{
	my ($self, $sql) = @_;

	$self->request($sql);
	return $self->lost('');
}

sub close
{
	my ($self) = @_;

	if ($self->{socket})
	{
		$self->send('X' . pack('N', 4));
		CORE::close $self->{socket};
	}
	$self->{socket} = undef;
	return;
}

sub send
{
	my ($self, $message) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $message)
	{
		my $n = syswrite $self->{socket}, $message;
		return 0 if !defined $n;
		substr $message, 0, $n, '';
	}
	return 1;
}

sub lost
{
	my ($self, $message, $code) = @_;

	CORE::close $self->{socket} if $self->{socket};
	$self->{socket} = undef;
	return { status => 'lost', rows => [], tag => '', code => $code || '', message => $message };
}

# one message of the server, as (type, body); nothing if there is none
sub message
{
	my ($self, $deadline) = @_;

	while (length $self->{buffer} < 5 || length $self->{buffer} < 1 + unpack 'xN', $self->{buffer})
	{
		my $left = $deadline - Time::HiRes::time();

		return 'timeout' if $left <= 0 || !$self->{select}->can_read($left);
		return if !sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
	}
	my ($type, $length) = unpack 'aN', $self->{buffer};
	my $body = substr $self->{buffer}, 5, $length - 4;
	substr $self->{buffer}, 0, $length + 1, '';
	return ($type, $body);
}

# everything until the server is ready for the next query
sub receive
{
	my ($self) = @_;
	my %answer = (status => 'ok', rows => [], tag => '', code => '', message => '');
	my $deadline = Time::HiRes::time() + $patience;

	while (1)
	{
		my ($type, $body) = $self->message($deadline);

		return $self->lost($answer{message}, $answer{code}) if !defined $type;
		return $self->lost("no answer in $patience s", 'hang') if $type eq 'timeout';
		if ($type eq 'D')
		{
			push @{ $answer{rows} }, row($body);
		}
		elsif ($type eq 'C')
		{
			($answer{tag}) = unpack 'Z*', $body;
		}
		elsif ($type eq 'E')
		{
			my %field = map { (substr($_, 0, 1) => substr $_, 1) } grep { length } split /\0/, $body;

			@answer{qw(status code message)} = ('error', $field{C}, $field{M});
			return $self->lost($field{M}, $field{C}) if $field{V} ne 'ERROR';
		}
		elsif ($type eq 'Z')
		{
			return \%answer;
		}
		elsif ($type eq 'R' && unpack('N', $body) != 0)
		{
			return $self->lost('the server wants a password');
		}
	}
}

sub row
{
	my ($body) = @_;
	my ($n, $at) = (unpack('n', $body), 2);
	my @row;

	for (1 .. $n)
	{
		my $length = unpack 'l>', substr $body, $at, 4;
		$at += 4;
		push @row, $length < 0 ? undef : substr $body, $at, $length;
		$at += $length if $length > 0;
	}
	return \@row;
}

# texts, numbers and nulls as SQL
sub quote
{
	return join ', ', map {
		my $text = $_;
		defined $text ? do { $text =~ s/'/''/g; "'$text'" } : 'null'
	} @_;
}

1;

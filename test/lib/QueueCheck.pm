# Queries by which tests judge a database at rest.

package QueueCheck;

use strict;
use warnings;

my $states = 'waiting, delayed, blocked, active, completed, failed, cancelled';

# the counts of each queue, from its rows
sub counts_of_tables
{
	my $filters = join ', ', map { "count(*) FILTER (WHERE state = '$_') AS $_" } split /, /, $states;

	return qq{
		SELECT q.queue_name, $filters FROM queue.queue AS q LEFT JOIN (
			SELECT queue_id, queue._state(state, lease_owner) AS state FROM queue.job_live
			UNION ALL SELECT queue_id, queue._state(state, lease_owner) FROM queue.job_parked
			UNION ALL SELECT queue_id, queue._state(state, 0) FROM queue.job_archive
		) AS j USING (queue_id) GROUP BY q.queue_name ORDER BY q.queue_name};
}

# the same, from the counters
sub counters
{
	return qq{SELECT queue_name, $states FROM queue.queue_stats() ORDER BY queue_name};
}

# Rows against indexes, by amcheck: an error or a row is a damage.  What a
# REINDEX CONCURRENTLY left behind cannot be checked.
sub structure
{
	return (
		q{SELECT FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid
			WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind = 'i' AND i.indisvalid
			HAVING count(bt_index_check(c.oid, true)) < 0},
		q{SELECT c.relname, v.* FROM pg_class AS c, verify_heapam(c.oid) AS v
			WHERE c.relnamespace = 'queue'::regnamespace AND c.relkind = 'r'});
}

1;

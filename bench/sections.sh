# shellcheck shell=bash disable=SC2154 # set by bench/run
#
# Functions of bench/run: what is measured.  A section measures its cells and
# prints their rows; a cell prints the driver's line of one measurement.

# ---------------------------------------------------------------------
# What the driver is told to do, on either side
# ---------------------------------------------------------------------

# statements SIDE BATCH: set take, settle and put.  All sides return the same:
# id and payload when taking, how many when settling and when putting many.
statements()
{
	local picked="SELECT id FROM job
		WHERE queue_id = 1 AND status = 'w' AND run_at <= now()
		ORDER BY priority, run_at, id LIMIT \$1::int FOR UPDATE SKIP LOCKED"
	local claimed="UPDATE job SET status = 'r', attempt = attempt + 1,
		lease_until = now() + interval '30 s'"

	case $1-$([ "$2" -eq 1 ] && echo one || echo many) in
		queue-*one)
			take="SELECT job_id, payload
				FROM queue.dequeue_batch('bench', \$1::int)"
			settle="SELECT queue.complete(\$1::bigint)"
			put="SELECT queue.enqueue('bench', \$1::jsonb)"
			;;
		queue-*many)
			take="SELECT job_id, payload
				FROM queue.dequeue_batch('bench', \$1::int)"
			settle="SELECT queue.complete_many(\$1::bigint[])"
			put="SELECT count(*)
				FROM queue.enqueue_batch('bench', \$1::jsonb[])"
			;;
		classic-*one)
			take="$claimed WHERE id = ($picked) RETURNING id, payload"
			settle="DELETE FROM job WHERE id = \$1::bigint"
			put="INSERT INTO job (queue_id, priority, run_at, payload)
				VALUES (1, 5, now(), \$1::jsonb) RETURNING id"
			;;
		classic-*many)
			# an array, as a join may be planned to read the whole table
			take="$claimed WHERE id = ANY (ARRAY($picked)) RETURNING id, payload"
			settle="DELETE FROM job WHERE id = ANY (\$1::bigint[])"
			# without the count, too, the server would not keep the memory it
			# needs for the array, and be a quarter slower
			put="WITH i AS (INSERT INTO job (queue_id, priority, run_at, payload)
				SELECT 1, 5, now(), unnest(\$1::jsonb[]) RETURNING id)
				SELECT count(*) FROM i"
			;;
		pgq-one)
			put="SELECT pgq.insert_event('bench', 'mail', \$1::text)"
			;;
		pgq-many)
			put="SELECT count(pgq.insert_event('bench', 'mail', x))
				FROM unnest(\$1::text[]) AS x"
			;;
	esac
	if [ "$1" = classic-keep ]; then
		settle="UPDATE job SET status = 'd', finished_at = now()
			WHERE ${settle#* WHERE }"
	fi
	# all jobs are those of one batch
	[ "$1" != queue-batched ] || put="${put%)}, batch_id => 'bench')"
}

table() { if [[ $1 == queue* ]]; then echo queue.job_live; else echo job; fi; }

jobs_in() { sql -c "SELECT count(*) FROM $(table "$1")"; }

tidy() { sql -c "VACUUM (ANALYZE) $(table "$1")"; }

# prepare SIDE JOBS [SETTINGS]: a new database, with a backlog that is at rest
prepare()
{
	fresh "${1%-*}" bench "${3-keep_completed => '0'}"
	fill "$1" "$2"
	tidy "$1"
}

# fill SIDE JOBS: put as many, in thousands
fill()
{
	local take settle put
	[ "$2" -gt 0 ] || return 0
	statements "$1" 1000
	"$driver" -c 2 -b 1000 -n "$2" put "$put" >/dev/null
}

# ---------------------------------------------------------------------
# Taking
# ---------------------------------------------------------------------

# More jobs than 4 takers of that batch take in the time; classic SQL never
# takes half as many in large batches.
enough()
{
	local jobs=$((window * ($2 < 10 ? 40000 : $2 < 100 ? 250000 : 600000)))
	[[ $1 == queue || $2 -lt 10 ]] || jobs=$((jobs / 2))
	echo $jobs
}

# take SIDE BATCH SYNC: take and complete, two transactions for each batch
cell_take()
{
	local keep=("keep_completed => '0'")
	[ "$1" != queue-keep ] || keep=("")
	prepare "$1" "$(enough "$1" "$2")" "${keep[@]}"
	statements "$1" "$2"
	PGOPTIONS="-c synchronous_commit=$3" \
		drive -c 4 -b "$2" -t "$window" take "$take" "$settle"
}

section_drain()
{
	local cells=() kind
	for kind in queue classic; do
		cells+=("take $kind 100 off" "take $kind 10 off"
			"take $kind-keep 100 off")
	done
	measure "${cells[@]}"
	heading 'take and complete, 4 takers, synchronous_commit off, jobs/s' \
		queue classic
	row 'batch 100' 'take queue 100 off' 'take classic 100 off' 4
	row 'batch 10' 'take queue 10 off' 'take classic 10 off' 2.5
	row 'batch 100, completed jobs kept' \
		'take queue-keep 100 off' 'take classic-keep 100 off' 2
}

section_sync()
{
	measure 'take queue 1 on' 'take classic 1 on'
	heading 'take and complete, 4 takers, synchronous_commit on, jobs/s' \
		queue classic
	row 'batch 1' 'take queue 1 on' 'take classic 1 on' 1.5
}

# together SIDE BATCH SYNC: 8 takers of one batch's jobs, or of plain ones
cell_together()
{
	prepare "$1" "$(enough queue "$2")"
	statements "$1" "$2"
	PGOPTIONS="-c synchronous_commit=$3" \
		drive -c 8 -b "$2" -t "$window" take "$take" "$settle"
}

section_batch()
{
	local size
	measure 'together queue-batched 1 off' 'together queue 1 off' \
		'together queue-batched 10 off' 'together queue 10 off' \
		'together queue-batched 1 on' 'together queue 1 on'
	heading 'take and complete, 8 takers of one batch, jobs/s' 'one batch' plain
	for size in 1 10; do
		row "$size at a time" "together queue-batched $size off" \
			"together queue $size off" 0.9
	done
	row '1 at a time, synchronous_commit on' 'together queue-batched 1 on' \
		'together queue 1 on' 0.9
}

# chain BATCH SYNC: complete_and_dequeue in the place of the two calls
cell_chain()
{
	prepare queue $((2 * $(enough queue "$1")))
	PGOPTIONS="-c synchronous_commit=$2" \
		drive -c 4 -b "$1" -t "$window" chain "SELECT job_id, payload
			FROM queue.complete_and_dequeue(\$1::bigint[], 'bench', \$2::int)"
	# all that was taken must have been completed, but for each taker's last
	sql -c "DO \$\$BEGIN ASSERT $((4 * $1)) >=
		(SELECT count(*) FROM queue.job_live WHERE state = 'a'); END\$\$"
}

section_combined()
{
	local batch
	measure 'chain 1 off' 'take queue 1 off' 'chain 10 off' \
		'take queue 10 off' 'chain 1 on' 'take queue 1 on'
	heading 'complete_and_dequeue, 4 takers, jobs/s' 'one call' 'two calls'
	for batch in 1 10; do
		row "batch $batch" "chain $batch off" "take queue $batch off" 1.4
	done
	row 'batch 1, synchronous_commit on' 'chain 1 on' 'take queue 1 on'
}

# rush SIDE: take one by one for longer, with nobody to vacuum.  The lock is
# vacuum's own: vacuum passes by, and nobody else notices, as the session that
# holds it has no snapshot.
cell_rush()
{
	local seconds=$((full ? 30 : 5 * window))
	prepare "$1" $((seconds * 40000))
	statements "$1" 1
	hold BEGIN "LOCK TABLE $(table "$1") IN SHARE UPDATE EXCLUSIVE MODE"
	drive -c 4 -b 1 -t "$seconds" take "$take" "$settle"
	let_go
}

section_fastdrain()
{
	local side part
	measure 'rush queue' 'rush classic'
	for side in queue classic; do
		for part in first last; do
			sed "s/rate=/whole=/; s/$part=/rate=/; s/cpu=/whole_cpu=/" \
				"$results/rush $side" >"$results/$part $side"
		done
	done
	heading 'take and complete one by one without vacuum, 4 takers, jobs/s' \
		'last fifth' 'first fifth'
	# no slower: that is what two fifths differ by when nothing changes
	row queue 'last queue' 'first queue' 0.95
	row classic 'last classic' 'first classic'
	columns queue classic
	row 'last fifth of the time' 'last queue' 'last classic'
}

# ---------------------------------------------------------------------
# Taking in bad company
# ---------------------------------------------------------------------

# pass COMMAND...: take jobs, and put as many back behind the others.  Uses
# its caller's variables.
pass()
{
	local jobs
	line=$("$@")
	jobs=$(jobs_in "$side")
	passed=$((passed + left - jobs))
	fill "$side" $((backlog - jobs))
	left=$(jobs_in "$side")
}

# measure_batches POINT: the rate in batches of 1, 10 and 100
measure_batches()
{
	local batch line
	for batch in 1 10 100; do
		statements "$side" $batch
		# short enough that the points of the curve stay where they belong
		pass drive -c 4 -b $batch -t "$window" -n $((batch < 10 ? 20000 : \
			batch < 100 ? 40000 : 80000)) take "$take" "$settle"
		record "$side $batch $1" "$line"
	done
}

# under_snapshot SIDE: jobs pass while a snapshot from before them is held
under_snapshot()
{
	local side=$1 backlog=200000 passed=0 left point batch size line
	prepare "$side" $backlog
	left=$(jobs_in "$side")
	measure_batches free
	tidy "$side"
	hold 'BEGIN ISOLATION LEVEL REPEATABLE READ' 'SELECT 1'
	size=$(total_size "$side")
	passed=0
	for point in $points; do
		# in small batches, as each claim leaves something behind; but classic
		# SQL would not come to an end
		batch=10
		[ "$side" = queue ] || batch=1000
		statements "$side" $batch
		while [ $passed -lt "$point" ]; do
			pass "$driver" -c 4 -b $batch -n $((point - passed < 100000 ? \
				point - passed : 100000)) take "$take" "$settle"
		done
		measure_batches "$point"
	done
	record "growth $side" "bytes=$((($(total_size "$side") - size) / passed))"
	let_go
}

total_size() { sql -c "SELECT pg_total_relation_size('$(table "$1")')"; }

section_snapshot()
{
	local round batch point points='0 50000 200000' last
	[ "$full" -eq 0 ] || points='0 100000 300000 1000000'
	last=${points##* }
	for ((round = 1; round <= runs; round++)); do
		progress "$section: round $round of $runs: queue"
		under_snapshot queue
		# classic SQL falls so far that once will do
		[ $round -eq 1 ] || continue
		progress "$section: classic"
		under_snapshot classic
	done
	heading 'under a REPEATABLE READ snapshot, 4 takers, jobs/s' queue classic
	for batch in 1 10 100; do
		row "batch $batch, no snapshot yet" "queue $batch free" \
			"classic $batch free"
		for point in $points; do
			row "batch $batch, $(thousands "$point") jobs passed" \
				"queue $batch $point" "classic $batch $point"
		done
	done
	columns "$(thousands "$last")" '0 passed'
	for batch in 1 10 100; do
		row "queue, batch $batch" "queue $batch $last" "queue $batch 0" 0.9
	done
	for batch in 1 10 100; do
		row "classic, batch $batch" "classic $batch $last" "classic $batch 0"
	done
	fact 'growth of queue.job_live' \
		"$(values 'growth queue' bytes | median)" B/job '<=' 650
	fact 'growth of the classic table' \
		"$(values 'growth classic' bytes | median)" B/job
}

# beside COMPANY BATCH: take from the queue that has this company
cell_beside()
{
	local want=$backlog
	export PGDATABASE=beside_$1
	[ "$1" != ready ] || want=$((backlog + company))
	fill queue $((want - $(jobs_in queue)))
	tidy queue
	statements queue "$2"
	drive -c 4 -b "$2" -t "$window" -n $((backlog * 3 / 4)) \
		take "$take" "$settle"
}

section_backlog()
{
	local backlog=200000 company=200000 kind batch cells=() put
	# three times as often: a tenth is not much more than the noise
	local runs=$((3 * runs))
	[ "$full" -eq 0 ] || company=1000000
	for kind in none delayed failed grouped ready; do
		progress "$section: $(thousands $company) $kind"
		fresh queue beside_$kind "keep_completed => '0', max_attempts => 1"
		case $kind in
			delayed)
				# in front of the others, were they ready
				"$driver" -c 2 -b 1000 -n $company put "SELECT count(*)
					FROM queue.enqueue_batch('bench', \$1::jsonb[],
						priority => 1, delay => '1 day')" >/dev/null
				;;
			grouped)
				# behind one that somebody holds; these are put in one by one
				sql -c "SELECT queue.enqueue('bench', '{}', group_key => 'g')" \
					-c "SELECT job_id FROM queue.dequeue_batch('bench',
						visibility_timeout => '1 day')" >/dev/null
				"$driver" -c 2 -b 1000 -n 100000 put "SELECT count(*)
					FROM queue.enqueue_batch('bench', \$1::jsonb[], options =>
						jsonb_build_object('group_keys', array_fill('g'::text,
							ARRAY[cardinality(\$1::jsonb[])])))" >/dev/null
				;;
			failed)
				fill queue $company
				"$driver" -c 2 -b 1000 take "SELECT job_id, payload
					FROM queue.dequeue_batch('bench', \$1::int)" \
					"SELECT queue.fail_many(\$1::bigint[], 'no')" >/dev/null
				;;
		esac
		cells+=("beside $kind 1" "beside $kind 100")
	done
	measure "${cells[@]}"
	heading "beside $(thousands $company) others, 4 takers, jobs/s" beside alone
	for kind in delayed failed grouped ready; do
		for batch in 1 100; do
			row "$kind, batch $batch" "beside $kind $batch" \
				"beside none $batch" 0.9
		done
	done
}

# ---------------------------------------------------------------------
# Putting
# ---------------------------------------------------------------------

# put SIDE BATCH CLIENTS SYNC
cell_put()
{
	fresh "$1"
	statements "$1" "$2"
	PGOPTIONS="-c synchronous_commit=$4" \
		drive -c "$3" -b "$2" -t "$window" put "$put"
}

# copy BATCH CLIENTS SYNC: into a table with one index
cell_copy()
{
	fresh classic
	PGOPTIONS="-c synchronous_commit=$3" \
		drive -c "$2" -b "$1" -t "$window" copy 'COPY plain (payload) FROM STDIN'
}

section_enqueue()
{
	local cells=() clients sync sides='queue classic'
	if [ -e "$("$PG_CONFIG" --sharedir)/extension/pgq.control" ]; then
		sides="$sides pgq"
	fi
	for clients in 1 4; do
		for side in $sides; do
			cells+=("put $side 1000 $clients off")
		done
		cells+=("copy 1000 $clients off" "copy 100000 $clients off")
	done
	for sync in off on; do
		for side in $sides; do
			cells+=("put $side 1 4 $sync")
		done
	done
	measure "${cells[@]}"

	heading 'enqueue, jobs/s' queue other
	for clients in 1 4; do
		row "1,000 a call, $clients client(s): INSERT" \
			"put queue 1000 $clients off" "put classic 1000 $clients off" 1.2
		row "1,000 a call, $clients client(s): COPY" \
			"put queue 1000 $clients off" "copy 1000 $clients off"
		row "1,000 a call, $clients client(s): COPY of 100,000" \
			"put queue 1000 $clients off" "copy 100000 $clients off" 0.5
		[[ $sides != *pgq ]] ||
			row "1,000 a call, $clients client(s): PgQ" \
				"put queue 1000 $clients off" "put pgq 1000 $clients off"
	done
	for sync in off on; do
		row "1 a call, 4 clients, sync $sync: INSERT" \
			"put queue 1 4 $sync" "put classic 1 4 $sync"
		[[ $sides != *pgq ]] ||
			row "1 a call, 4 clients, sync $sync: PgQ" \
				"put queue 1 4 $sync" "put pgq 1 4 $sync"
	done
	[[ $sides == *pgq ]] || echo '  (PgQ is not installed)'
}

# ---------------------------------------------------------------------
# Watching, and the long run
# ---------------------------------------------------------------------

cell_stats()
{
	export PGDATABASE=stats_$1
	drive -t "$window" call "$([ "$1" = queue ] &&
		echo "SELECT * FROM queue.queue_stats('bench')" ||
		echo 'SELECT status, count(*) FROM job GROUP BY status')"
}

section_stats()
{
	local side
	for side in queue classic; do
		progress "$section: a million jobs for $side"
		fresh $side stats_$side
		fill $side 1000000
		tidy $side
	done
	measure 'stats queue' 'stats classic'
	heading 'counts by state at 1,000,000 jobs' '' ''
	fact 'queue_stats(), median' "$(values 'stats queue' p50 | median)" ms '<=' 1
	fact 'queue_stats(), 99 of 100' "$(values 'stats queue' p99 | median)" ms
	fact 'classic count, median' "$(values 'stats classic' p50 | median)" ms
}

# steady SIDE: a given load, and the size of the table while it lasts
steady()
{
	local side=$1 rate=20000 start at putting taking
	fresh "$side" bench "keep_completed => '0'"
	statements "$side" 100
	start=$(date +%s)
	"$driver" -c 4 -b 100 -p 2 -t $((seconds + 1)) take "$take" "$settle" \
		>"$results/taken $side" &
	taking=$!
	"$driver" -c 2 -b 100 -r $rate -t "$seconds" put "$put" >/dev/null &
	putting=$!
	for ((at = 10; at <= seconds; at += 10)); do
		progress "$section: $side, $at of $seconds s"
		sleep $((start + at - $(date +%s)))
		record "size $side" "at=$at rate=$(sql -c "SELECT round(
			pg_total_relation_size('$(table "$side")') / 1e6, 1)")"
	done
	wait $putting
	wait $taking
}

section_steady()
{
	local seconds=60 side at
	[ "$full" -eq 0 ] || seconds=180
	for side in queue classic; do
		steady $side
	done
	heading "2 producers, 4 takers, batch 100, $seconds s" queue classic
	row 'jobs/s' 'taken queue' 'taken classic'
	for ((at = 10; at <= seconds; at += 10)); do
		for side in queue classic; do
			grep "at=$at " "$results/size $side" >"$results/size $side $at"
		done
		row "MB after $at s" "size queue $at" "size classic $at"
	done
	fact 'jobs/s of 20,000' "$(values 'taken queue')" jobs/s '>=' 19800
	values 'size queue' | sed 1,2d | sort -g | tail -n 1 >"$results/most"
	fact 'largest after 30 s' "$(cat "$results/most")" MB '<=' 150
	fact 'largest after 30 s, to the size at 30 s' "$(paste "$results/most" \
		<(values 'size queue 30') | awk '{ printf "%.2f", $1 / $2 }')" \
		'' '<=' 1.1
}

# ---------------------------------------------------------------------
# Handing over
# ---------------------------------------------------------------------

# hand HOW: from the end of the producer's call to the taker's receipt
cell_hand()
{
	local taking="DELETE FROM job WHERE id = (SELECT id FROM job
		WHERE queue_id = 1 AND status = 'w' AND run_at <= now()
		ORDER BY priority, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
	local putting="INSERT INTO job (queue_id, priority, run_at, payload)
		VALUES (1, 5, now(), '{}')"
	case $1 in
		wait)
			prepare queue 0
			drive -n 500 hand "SELECT queue.enqueue('bench', '{}')" \
				"SELECT job_id, queue.complete(job_id)
				FROM queue.dequeue_batch('bench', wait => '5 s')"
			;;
		listen)
			prepare classic 0
			drive -n 500 -l jobs hand "WITH i AS ($putting)
				SELECT pg_notify('jobs', '')" "$taking"
			;;
		poll)
			prepare classic 0
			drive -n 100 -p 100 hand "$putting" "$taking"
			;;
	esac
}

section_longpoll()
{
	local how
	measure 'hand wait' 'hand listen' 'hand poll'
	progress
	printf '\nlongpoll: from the producer'"'"'s commit to the taker, ms\n'
	fact 'wait, median' "$(values 'hand wait' p50 | median)" ms '<=' 0.3
	fact 'wait, 99 of 100' "$(values 'hand wait' p99 | median)" ms '<=' 2
	fact 'the round trip that puts it in' "$(values 'hand wait' put | median)" ms
	for how in listen poll; do
		fact "$how, median" "$(values "hand $how" p50 | median)" ms
		fact "$how, 99 of 100" "$(values "hand $how" p99 | median)" ms
	done
}

# ---------------------------------------------------------------------
# Handlers
# ---------------------------------------------------------------------

# let the executors run all jobs that there are, and print the rate
run_handlers()
{
	sql -c "SELECT queue.set_handler('bench', 'public.handle', 2)" >/dev/null
	sql <<'SQL'
SELECT clock_timestamp() AS begun, waiting AS jobs FROM queue.queue_stats() \gset
DO $$BEGIN
	WHILE (SELECT waiting + active > 0 FROM queue.queue_stats()) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END$$;
SELECT format('rate=%s total=%s client=0', (:jobs / extract(epoch FROM clock_timestamp() - :'begun'))::int, :jobs);
SQL
}

# handle HOW SYNC: a function for each job, one transaction each, called by two
# executors or by two takers
cell_handle()
{
	prepare queue $((window * ($([ "$2" = on ] && echo 10000 || echo 80000))))
	sql -c "CREATE FUNCTION public.handle(payload jsonb) RETURNS void
		LANGUAGE plpgsql AS 'BEGIN END'"
	sql -c "ALTER SYSTEM SET synchronous_commit = $2" -c 'SELECT pg_reload_conf()' >/dev/null
	if [ "$1" = executor ]; then
		clock run_handlers
	else
		PGOPTIONS="-c synchronous_commit=$2" \
			drive -c 2 -b 1 -t "$window" chain "SELECT job_id, payload FROM (
				SELECT job_id, payload, public.handle(payload) AS result, queue.complete(job_id) AS done
				FROM queue.dequeue_batch('bench', \$2::int)) AS j
				WHERE \$1::bigint[] IS NOT NULL AND done AND result IS NOT NULL"
	fi
	sql -c 'ALTER SYSTEM RESET synchronous_commit' -c 'SELECT pg_reload_conf()' >/dev/null
}

section_handlers()
{
	local sync
	measure 'handle executor off' 'handle taker off' 'handle executor on' 'handle taker on'
	heading 'a function for each job, one transaction each, by two, jobs/s' executors takers
	for sync in off on; do
		row "synchronous_commit $sync" "handle executor $sync" "handle taker $sync"
	done
	progress
	fact 'executors, synchronous_commit off' "$(values 'handle executor off' | median)" jobs/s '>=' 20000
}

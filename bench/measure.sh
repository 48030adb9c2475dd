# shellcheck shell=bash disable=SC2154 # set by bench/run
#
# Functions of bench/run: the server, how one measurement is made, and how
# the results become a table.  They use the sandbox's.

sql() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

# ---------------------------------------------------------------------
# The server and its databases
# ---------------------------------------------------------------------

start_server()
{
	sandbox_start bench 'shared_buffers = 2GB' 'max_wal_size = 8GB' \
		'checkpoint_timeout = 30min' 'fsync = on' 'autovacuum = on' 'jit = off' \
		'plan_cache_mode = force_generic_plan' 'max_worker_processes = 32'
	postmaster=$(head -n 1 "$PGDATA/postmaster.pid")
	results=$SANDBOX/results
	mkdir "$results"
	# commits wait for the disk only where a measurement asks for it
	export PGOPTIONS='-c synchronous_commit=off'
}

build_driver()
{
	driver=$SANDBOX/driver
	"${CC:-gcc}" -O2 -Wall -Wextra -pthread -o "$driver" \
		-I "$("$PG_CONFIG" --includedir)" "$PROJECT/bench/driver.c" \
		-L "$("$PG_CONFIG" --libdir)" -lpq
}

# fresh SIDE [NAME [SETTINGS]]: a new database, with what SIDE needs; SETTINGS
# are arguments of create_queue.  The checkpoint keeps the full-page images of
# what is there out of what follows.
fresh()
{
	local name=${2:-bench}
	PGDATABASE=postgres sql -c 'SET client_min_messages = warning' \
		-c "DROP DATABASE IF EXISTS $name WITH (FORCE)" \
		-c "CREATE DATABASE $name"
	export PGDATABASE=$name
	case $1 in
		queue)
			sql -c 'CREATE EXTENSION queue' \
				-c "SELECT queue.create_queue('bench'${3:+, $3})"
			;;
		classic)
			sql -f "$PROJECT/bench/classic.sql"
			;;
		pgq)
			sql -c 'SET client_min_messages = warning' \
				-c 'CREATE EXTENSION pgq' -c "SELECT pgq.create_queue('bench')"
			;;
	esac >/dev/null
	sql -c CHECKPOINT
}

# hold STATEMENT...: a session that sits in a transaction until let_go
hold()
{
	local reply=
	coproc holder { exec psql -XAtq -v ON_ERROR_STOP=1; }
	# bash forgets these names when the session ends
	holder_pid=${holder_PID:?}
	exec {holder_in}>&"${holder[1]}" {holder_out}<&"${holder[0]}"
	printf '%s;\n' "$@" "SELECT 'held'" >&"$holder_in"
	while [ "$reply" != held ]; do
		read -r -u "$holder_out" reply || sandbox_fail 'could not hold a transaction'
	done
}

let_go()
{
	echo '\q' >&"$holder_in"
	exec {holder_in}>&- {holder_out}<&-
	wait "$holder_pid" || :
}

# ---------------------------------------------------------------------
# One measurement
# ---------------------------------------------------------------------

# field NAME: of the lines on standard input, which are NAME=VALUE...
field() { sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p"; }

# CPU ticks so far: those of everything, and those of the server
ticks()
{
	cat /proc/stat /proc/[0-9]*/stat 2>/dev/null | awk -v server="$postmaster" '
		$1 == "cpu" { all = $2 + $3 + $4 + $7 + $8 + $9 }
		# what ended backends have used is in the sums of their parent
		$1 == server { own += $14 + $15 + $16 + $17 }
		$4 == server { own += $14 + $15 }
		END { print all, own }'
}

# Wait until the machine has nothing else to do, but not for ever.
await_idle()
{
	local tries before after
	for ((tries = 0; tries < 20; tries++)); do
		read -r before _ <<<"$(ticks)"
		sleep 0.3
		read -r after _ <<<"$(ticks)"
		[ $((after - before)) -gt $((3 * $(nproc))) ] || return 0
	done
}

# drive ARGUMENT...: run the driver
drive() { clock "$driver" "$@"; }

# clock COMMAND...: run what prints such a line as the driver's, and add to it
# what CPU time the server used for a job, in us, and how many CPUs others kept
# busy meanwhile
clock()
{
	local line all own all_after own_after start
	await_idle
	read -r all own <<<"$(ticks)"
	start=$EPOCHREALTIME
	line=$("$@")
	read -r all_after own_after <<<"$(ticks)"
	awk -v line="$line" -v jobs="$(field total <<<"$line")" \
		-v start="$start" -v end="$EPOCHREALTIME" \
		-v client="$(field client <<<"$line")" \
		-v own=$((own_after - own)) -v all=$((all_after - all)) 'BEGIN {
			other = ((all - own) / 100 - client) / (end - start)
			printf "%s cpu=%.2f other=%.2f\n", line,
				own * 1e4 / (jobs > 0 ? jobs : 1), (other > 0 ? other : 0) }'
}

is_disturbed()
{
	awk -v other="$(field other <<<"$1")" 'BEGIN { exit other < 0.4 }'
}

# A measurement is a cell: a line of words, of which the first names the
# function cell_WORD that makes it from the others.  Its results, one line for
# each run, are kept under the whole line of words.
record() { printf '%s\n' "$2" >>"$results/$1"; }

# measure CELL...: each in turn, and that over and over, so that what disturbs
# the machine disturbs all alike; every other round backwards.  A run beside
# which others used much CPU is made again, once.
measure()
{
	local round cell line order
	for ((round = 1; round <= runs; round++)); do
		order=()
		for cell; do
			if ((round % 2 == 1)); then
				order+=("$cell")
			else
				order=("$cell" "${order[@]}")
			fi
		done
		for cell in "${order[@]}"; do
			for _ in 1 2; do
				progress "$section: round $round of $runs: $cell"
				# shellcheck disable=SC2086 # the words are its arguments
				line=$(cell_$cell)
				is_disturbed "$line" || break
			done
			record "$cell" "$line"
		done
	done
}

progress()
{
	[ ! -t 2 ] || printf '\r\033[K%s' "${1:-}" >&2
}

# ---------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------

met=0
missed=0

# values CELL [FIELD]: of all its runs, in order
values() { field "${2:-rate}" <"$results/$1"; }

median()
{
	sort -g | awk '{ v[NR] = $1 } END {
		if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

thousands() { printf '%.0f' "$1" | sed ':a; s/\B[0-9]\{3\}\>/,&/; ta'; }

heading()
{
	progress
	printf '\n%s: %s\n' "$section" "$1"
	columns "${@:2}"
}

columns() { printf '  %-42s %12s %12s %6s %6s  %s\n' '' "$@" ratio CPU target; }

# judge VALUE [>=|<= TARGET]: set verdict, and count it
judge()
{
	verdict=
	[ $# -gt 1 ] || return 0
	if awk -v v="$1" -v op="$2" -v target="$3" \
		'BEGIN { exit !(op == ">=" ? v >= target : v <= target) }'; then
		verdict="$2 $3  PASS"
		met=$((met + 1))
	else
		verdict="$2 $3  MISSED"
		missed=$((missed + 1))
	fi
}

# ratio CELL CELL [FIELD]: the median of the ratios run by run, as a drift of
# the machine's speed leaves those alone
ratio()
{
	paste <(values "$1" "${3:-}") <(values "$2" "${3:-}") |
		awk '$2 > 0 { printf "%.3f\n", $1 / $2 }' | median
}

# row LABEL CELL CELL [TARGET]: the rates of both and their ratio, and the ratio
# of the CPU time for a job, which a busy machine does not change as much
row()
{
	local ratio cpu line
	ratio=$(ratio "$2" "$3")
	cpu=$(ratio "$3" "$2" cpu)
	judge "$ratio" ${4:+'>=' "$4"}
	while read -r line; do
		if is_disturbed "$line"; then
			verdict="$verdict (disturbed)"
			break
		fi
	done <<<"$(cat "$results/$2" "$results/$3")"
	printf '  %-42s %12s %12s %6.2f %6s  %s\n' "$1" \
		"$(thousands "$(values "$2" | median)")" \
		"$(thousands "$(values "$3" | median)")" \
		"$ratio" "${cpu:+$(printf '%.2f' "$cpu")}" "$verdict"
}

# fact LABEL VALUE UNIT [>=|<= TARGET]: a figure that is no ratio
fact()
{
	judge "$2" "${@:4}"
	printf '  %-42s %25s %-13s  %s\n' "$1" "$2" "$3" "$verdict"
}

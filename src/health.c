/*-------------------------------------------------------------------------
 *
 * health.c
 *		How queues do, and the installation: queue.queue_health() and
 *		queue.health_alerts().
 *
 * An alert compares a number with a threshold.  The numbers are counters in
 * shared memory, one look at the oldest waiting job of each queue, the samples
 * below, and, of the server, what its own views show to the caller.  No table
 * of jobs is read, so that it is as fast with a million jobs as with one.
 *
 * Shares and growth need a past: every queue.health_interval the maintenance
 * worker puts a sample of each queue's counters into a ring in its slot.  Only
 * that worker writes there; readers copy the ring under its spinlock.  Attempts
 * that end are counted when the verb runs, not at its commit: a rollback leaves
 * them counted, which a share does not mind.
 *
 * Many waiting jobs are no trouble where they are taken fast.  So counts of
 * waiting jobs, and everything that keeps jobs from being taken, matter only
 * if the oldest waiting job is old.
 *
 * Who holds back the horizon is found in pg_stat_activity and its kin, read as
 * the caller, who sees there what he may see.  How long a snapshot without a
 * time of its own (a replication slot's) has been held, is told by samples of
 * the next transaction id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "compat.h"
#include "health.h"
#include "internal.h"
#include "limit.h"
#include "pool.h"
#include "stats.h"
#include "wait.h"
#include "worker.h"
#include "xact.h"

QUEUE_FUNCTION(queue_queue_health);
QUEUE_FUNCTION(queue_health_alerts);

/* ---------------------------------------------------------------------
 * Thresholds
 * --------------------------------------------------------------------- */

/* times are in seconds, shares in percent */
typedef enum Threshold
{
	T_FAILED, T_FAILED_PERCENT, T_WAITING_WARNING, T_WAITING_CRITICAL, T_WAITING_AGE,
	T_OLDEST_WARNING, T_OLDEST_CRITICAL, T_IDLE, T_GROWTH_PERCENT, T_FAILURES_WARNING,
	T_FAILURES_CRITICAL, T_STALLED_PERCENT, T_ATTEMPTS, T_FULL_PERCENT, T_DEAD_LETTERS
} Threshold;
#define NUM_THRESHOLDS	(T_DEAD_LETTERS + 1)

static const struct
{
	const char *name;
	double		value;
}			thresholds_info[NUM_THRESHOLDS] = {
	[T_FAILED] = {"failed", 10},
	[T_FAILED_PERCENT] = {"failed_percent", 1},
	[T_WAITING_WARNING] = {"waiting_warning", 50},
	[T_WAITING_CRITICAL] = {"waiting_critical", 100},
	[T_WAITING_AGE] = {"waiting_age", 300},
	[T_OLDEST_WARNING] = {"oldest_warning", 3 * 3600},
	[T_OLDEST_CRITICAL] = {"oldest_critical", 24 * 3600},
	[T_IDLE] = {"idle", 3600},
	[T_GROWTH_PERCENT] = {"growth_percent", 50},
	[T_FAILURES_WARNING] = {"failures_warning", 10},
	[T_FAILURES_CRITICAL] = {"failures_critical", 50},
	[T_STALLED_PERCENT] = {"stalled_percent", 5},
	[T_ATTEMPTS] = {"attempts", 20},
	[T_FULL_PERCENT] = {"full_percent", 80},
	[T_DEAD_LETTERS] = {"dead_letters", 0},
};

/* of the installation */
#define HORIZON_SECONDS		300 /* a snapshot may be that old */
#define HORIZON_LEAST		10	/* or that, while a vacuum is due */
#define DENIED_SECONDS		60	/* since a worker found no slot */
#define JUMP_LEAST			1	/* seconds that a clock may jump */
#define JUMP_SECONDS		3600	/* how long that is told */
#define HOT_PERCENT			80
#define HOT_UPDATES			1000	/* before their share says something */
#define BEHIND				5	/* times queue.vacuum_threshold */

/* a number that is never reached, so that an alert is off */
#define NEVER				get_float8_infinity()

static int
find_threshold(const JsonbValue *key)
{
	for (int t = 0; t < NUM_THRESHOLDS; t++)
		if (strlen(thresholds_info[t].name) == key->val.string.len &&
			memcmp(thresholds_info[t].name, key->val.string.val, key->val.string.len) == 0)
			return t;
	return -1;
}

static char *
list_thresholds(void)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int t = 0; t < NUM_THRESHOLDS; t++)
		appendStringInfo(&list, "%s%s", t == 0 ? "" : t == NUM_THRESHOLDS - 1 ? " and " : ", ",
						 thresholds_info[t].name);
	return list.data;
}

static void
read_thresholds(Jsonb *jsonb, double *thresholds)
{
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	JsonbValue	key,
				value;
	JsonbIteratorToken token;

	(void) JsonbIteratorNext(&iterator, &value, true);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) == WJB_KEY)
	{
		int			t = find_threshold(&key);
		char	   *name = pnstrdup(key.val.string.val, key.val.string.len);
		double		number = -1;

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (t < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown health threshold \"%s\"", name),
					 errdetail("There is no threshold of that name."),
					 errhint("Thresholds are %s.", list_thresholds())));
		if (value.type == jbvNumeric)
			number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
														NumericGetDatum(value.val.numeric)));
		else if (value.type == jbvNull)
			number = NEVER;
		if (!(number >= 0) || (value.type == jbvNumeric && number > 1e15))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid health threshold \"%s\"", name),
					 errdetail("It must be a number from 0 to 1e15, or null for no such alert."),
					 errhint("Times are in seconds, shares in percent.")));
		thresholds[t] = number;
	}
}

void
QueueHealthCheckThresholds(Datum thresholds)
{
	Jsonb	   *jsonb = DatumGetJsonbP(thresholds);
	double		ignored[NUM_THRESHOLDS];

	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("health_thresholds must be a JSON object"),
				 errdetail("It is an array, or a single value."),
				 errhint("For example: {\"failed\": 100, \"waiting_age\": 60}.")));
	read_thresholds(jsonb, ignored);
}

static void
thresholds_of(const QueueSettings *settings, double *thresholds)
{
	Datum		value;
	bool		null;

	for (int t = 0; t < NUM_THRESHOLDS; t++)
		thresholds[t] = thresholds_info[t].value;
	if (!settings->has_thresholds)
		return;
	value = QueueSettingRead(settings->queue_id, SETTING_HEALTH_THRESHOLDS, &null);
	if (!null)
		read_thresholds(DatumGetJsonbP(value), thresholds);
}

/* ---------------------------------------------------------------------
 * Samples: the maintenance worker's part
 * --------------------------------------------------------------------- */

/* has the clock gone on as time has?  A machine that was suspended counts. */
static void
compare_clocks(Installation *installation, TimestampTz now)
{
	static TimestampTz known;
	static int64 known_usecs;
	int64		usecs = QueueMonotonicUsecs();
	int64		jump = (now - known) - (usecs - known_usecs);

	if (known != 0 && Max(jump, -jump) > JUMP_LEAST * USECS_PER_SEC)
	{
		pg_atomic_write_u64(&installation->clock_jump, (uint64) jump);
		pg_atomic_write_u64(&installation->clock_jumped_at, (uint64) now);
		ereport(LOG,
				(errmsg("the clock has jumped by %lld ms", (long long) (jump / 1000)),
				 errdetail("Due times, leases and limits follow the clock."),
				 errhint("Let the clock be adjusted slowly, as by chronyd or ntpd.")));
	}
	known = now;
	known_usecs = usecs;
}

/* how many attempts of a queue have ended so, since a reset */
static uint64
attempts_ended(QueueSlot *slot, AttemptEnd end)
{
	pg_atomic_uint64 *total = slot->totals.total;

	switch (end)
	{
		case ATTEMPT_COMPLETED:
			return pg_atomic_read_u64(&total[TOTAL_COMPLETED]);
		case ATTEMPT_FAILED:
			return pg_atomic_read_u64(&total[TOTAL_FAILED]) +
				pg_atomic_read_u64(&total[TOTAL_RETRIED]);
		case ATTEMPT_STALLED:
			return pg_atomic_read_u64(&total[TOTAL_STALLED]);
	}
	return 0;					/* keep compiler quiet */
}

static void
sample_queue(Installation *installation, QueueSlot *slot, TimestampTz now)
{
	QueueSample sample = {.at = now};
	int64		count[NUM_COUNTS];

	sample.waiting = QueueStatsRead(installation, slot, count) ? count[COUNT_WAITING] : -1;
	for (int e = 0; e < NUM_ATTEMPT_ENDS; e++)
		sample.ended[e] = attempts_ended(slot, (AttemptEnd) e);
	SpinLockAcquire(&slot->sample_mutex);
	slot->samples[slot->num_samples % HEALTH_SAMPLES] = sample;
	slot->num_samples++;
	SpinLockRelease(&slot->sample_mutex);
}

static void
sample_installation(Installation *installation, Oid live_id, TimestampTz now)
{
	Datum		live = ObjectIdGetDatum(live_id);
	InstallationSample sample = {.at = now};

	QueueWorkerBegin("sampling for queue.queue_health()");
	sample.updates = DatumGetInt64(OidFunctionCall1(F_PG_STAT_GET_TUPLES_UPDATED, live));
	sample.hot_updates = DatumGetInt64(OidFunctionCall1(F_PG_STAT_GET_TUPLES_HOT_UPDATED, live));
	QueueWorkerCommit();
	sample.next_xid = ReadNextFullTransactionId();
	SpinLockAcquire(&installation->sample_mutex);
	installation->samples[installation->num_samples % HEALTH_SAMPLES] = sample;
	installation->num_samples++;
	SpinLockRelease(&installation->sample_mutex);
}

void
QueueHealthRound(Installation *installation, Oid live_id)
{
	static TimestampTz sampled_at;
	TimestampTz now = GetCurrentTimestamp();

	pg_atomic_write_u64(&installation->round_at, (uint64) now);
	compare_clocks(installation, now);
	if (!QueueHasPassed(sampled_at, queue_health_interval, now))
		return;
	sampled_at = now;
	sample_installation(installation, live_id, now);
	for (int q = 0; q < queue_max_queues; q++)
		if (QueueSlots[q].installation == installation - Installations)
			sample_queue(installation, &QueueSlots[q], now);
}

/* the samples that are kept, the oldest first; returns how many */
static int
read_samples(QueueSlot *slot, QueueSample *samples)
{
	uint64		n;
	int			count;

	SpinLockAcquire(&slot->sample_mutex);
	n = slot->num_samples;
	count = (int) Min(n, HEALTH_SAMPLES);
	for (int i = 0; i < count; i++)
		samples[i] = slot->samples[(n - count + i) % HEALTH_SAMPLES];
	SpinLockRelease(&slot->sample_mutex);
	return count;
}

static int
read_installation_samples(Installation *installation, InstallationSample *samples)
{
	uint64		n;
	int			count;

	SpinLockAcquire(&installation->sample_mutex);
	n = installation->num_samples;
	count = (int) Min(n, HEALTH_SAMPLES);
	for (int i = 0; i < count; i++)
		samples[i] = installation->samples[(n - count + i) % HEALTH_SAMPLES];
	SpinLockRelease(&installation->sample_mutex);
	return count;
}

/* ---------------------------------------------------------------------
 * Alerts
 * --------------------------------------------------------------------- */

typedef enum Severity
{
	SEVERITY_CRITICAL,
	SEVERITY_WARNING,
	SEVERITY_INFO
} Severity;

static const char *const severities[] = {"critical", "warning", "info"};

typedef struct Alert
{
	Severity	severity;
	const char *code;
	char	   *message;
	double		value;			/* NaN: none, as in the next */
	double		threshold;
	const char *recommendation;
} Alert;

/* of one queue, or of the installation */
typedef struct Health
{
	const char *queue_name;		/* NULL: the installation */
	bool		unknown;		/* so it has no status */
	List	   *alerts;
	int			count[lengthof(severities)];
} Health;

#define NOTHING		get_float8_nan()

static void
add_alert(Health *health, Severity severity, const char *code, double value, double threshold,
		  char *message, const char *recommendation)
{
	Alert	   *alert = palloc(sizeof(Alert));

	*alert = (Alert) {severity, code, message, value, threshold, recommendation};
	health->alerts = lappend(health->alerts, alert);
	health->count[severity]++;
}

/* the worst first, else in the order in which they were found */
static List *
sort_alerts(const Health *health)
{
	List	   *sorted = NIL;
	ListCell   *lc;

	for (Severity severity = SEVERITY_CRITICAL; severity <= SEVERITY_INFO; severity++)
		foreach(lc, health->alerts)
			if (((Alert *) lfirst(lc))->severity == severity)
				sorted = lappend(sorted, lfirst(lc));
	return sorted;
}

static int
score_of(const Health *health)
{
	return Max(0, 100 - 50 * health->count[SEVERITY_CRITICAL] -
			   10 * Min(health->count[SEVERITY_WARNING], 4));
}

static const char *
status_of(const Health *health)
{
	if (health->count[SEVERITY_CRITICAL] > 0)
		return "unhealthy";
	return health->count[SEVERITY_WARNING] > 0 ? "degraded" : "healthy";
}

char *
QueueSpell(int64 usecs)
{
	static const struct
	{
		const char *name;
		int64		usecs;
	}			units[] = {
		{"day", USECS_PER_DAY}, {"hour", USECS_PER_HOUR}, {"minute", USECS_PER_MINUTE}
	};
	int64		seconds = Max(usecs, 0) / USECS_PER_SEC;

	for (int i = 0; i < lengthof(units); i++)
		if (usecs >= 2 * units[i].usecs)
			return psprintf("%lld %ss", (long long) (usecs / units[i].usecs), units[i].name);
	return psprintf("%lld second%s", (long long) seconds, seconds == 1 ? "" : "s");
}

/* what one or more are called */
#define JOBS(n)		((n) == 1 ? "job" : "jobs")

/* ---------------------------------------------------------------------
 * Of a queue
 * --------------------------------------------------------------------- */

/* what is known about a queue */
typedef struct Known
{
	const QueueSettings *settings;
	QueueSlot  *slot;
	TimestampTz now;
	double		threshold[NUM_THRESHOLDS];
	int64		count[NUM_COUNTS];
	int64		age;			/* of the oldest waiting job, microseconds; -1: none */
	bool		old;			/* it is so old that its waiting is to be told */
	bool		letters;		/* it is another queue's dead_letter_queue */
} Known;

static double
seconds(int64 usecs)
{
	return (double) usecs / USECS_PER_SEC;
}

static Severity
if_old(const Known *known)
{
	return known->old ? SEVERITY_WARNING : SEVERITY_INFO;
}

/* nothing is remembered of the time before */
TimestampTz
QueueHealthKnownSince(const QueueSettings *settings)
{
	return Max((TimestampTz) pg_atomic_read_u64(&Shared->started_at), settings->created_at);
}

/* jobs wait: for how long, how many, and do others end? */
static void
check_waiting(Health *health, const Known *known)
{
	const double *threshold = known->threshold;
	int64		waiting = known->count[COUNT_WAITING];
	double		age = seconds(known->age);
	bool		critical = age > threshold[T_OLDEST_CRITICAL];
	TimestampTz since = Max((TimestampTz) pg_atomic_read_u64(&known->slot->completed_at),
							QueueHealthKnownSince(known->settings));

	if (critical || age > threshold[T_OLDEST_WARNING])
		add_alert(health, critical ? SEVERITY_CRITICAL : SEVERITY_WARNING, "oldest_waiting", age,
				  threshold[critical ? T_OLDEST_CRITICAL : T_OLDEST_WARNING],
				  psprintf("the oldest waiting job has waited for %s", QueueSpell(known->age)),
				  "See queue.explain_job() of the job; start more workers, or look why those that run take none.");

	critical = waiting > threshold[T_WAITING_CRITICAL];
	if (known->old && (critical || waiting > threshold[T_WAITING_WARNING]))
		add_alert(health, critical ? SEVERITY_CRITICAL : SEVERITY_WARNING, "waiting", waiting,
				  threshold[critical ? T_WAITING_CRITICAL : T_WAITING_WARNING],
				  psprintf("%lld %s waiting, the oldest for %s", (long long) waiting,
						   waiting == 1 ? "job is" : "jobs are", QueueSpell(known->age)),
				  "Start more workers, or raise the queue's concurrency or limits.");

	if (age > threshold[T_IDLE] && seconds(known->now - since) > threshold[T_IDLE])
		add_alert(health, SEVERITY_CRITICAL, "idle", seconds(known->now - since), threshold[T_IDLE],
				  psprintf("no job has been completed for %s, though jobs wait",
						   QueueSpell(known->now - since)),
				  "Look whether workers run, and whether they hang: queue.worker, and the jobs that are active in queue.job.");
}

/* does something keep takers away? */
static void
check_takers(Health *health, const Known *known)
{
	const QueueSettings *settings = known->settings;
	int64		waiting = known->count[COUNT_WAITING];
	int64		available = -1;
	TimestampTz taker_at = Max((TimestampTz) pg_atomic_read_u64(&known->slot->taker_at),
							   QueueHealthKnownSince(settings));
	TimestampTz throttled = QueueLimitRead(known->slot, settings, &available);

	if (settings->paused)
		add_alert(health, if_old(known), "paused", waiting, NOTHING,
				  psprintf("the queue is paused, and %lld %s", (long long) waiting,
						   waiting == 1 ? "job waits" : "jobs wait"),
				  "Call queue.resume_queue() when the jobs may be taken.");
	if (throttled != 0)
		add_alert(health, if_old(known), "throttled", seconds(throttled - known->now), NOTHING,
				  psprintf("the queue is throttled for another %s, and %lld %s",
						   QueueSpell(throttled - known->now), (long long) waiting,
						   waiting == 1 ? "job waits" : "jobs wait"),
				  "Look why its workers call queue.throttle(); queue.throttle(queue_name, '0') ends it.");
	if (settings->max_active >= 0 && known->count[COUNT_ACTIVE] >= settings->max_active)
		add_alert(health, if_old(known), "max_active", known->count[COUNT_ACTIVE], settings->max_active,
				  psprintf("as many jobs are active as max_active allows, and %lld %s",
						   (long long) waiting, waiting == 1 ? "job waits" : "jobs wait"),
				  "Raise max_active, or make the jobs shorter.");
	if (settings->has_handler && !settings->processing)
		add_alert(health, if_old(known), "processing_stopped", waiting, NOTHING,
				  psprintf("processing is stopped, and %lld %s", (long long) waiting,
						   waiting == 1 ? "job waits" : "jobs wait"),
				  "Call queue.start_processing() when the handler may run.");
	else if (settings->has_handler && queue_max_executors == 0)
		add_alert(health, if_old(known), "no_executors", 0, NOTHING,
				  "the queue has a handler, but the server may start no executor",
				  "Raise the configuration parameter \"queue.max_executors\", or let a client call queue.process_next().");
	else if (known->old && !settings->paused && throttled == 0 &&
			 !QueueHasWaiters(known->slot) && pg_atomic_read_u32(&known->slot->running) == 0 &&
			 seconds(known->now - taker_at) > known->threshold[T_WAITING_AGE])
		add_alert(health, SEVERITY_WARNING, "no_takers",
				  seconds(known->now - taker_at), known->threshold[T_WAITING_AGE],
				  psprintf("nobody has come to take a job for %s", QueueSpell(known->now - taker_at)),
				  "Start workers that call queue.dequeue_batch(), or name a handler by queue.set_handler().");
}

/* how the last attempts have ended, and whether more jobs wait than before */
static void
check_samples(Health *health, const Known *known)
{
	const double *threshold = known->threshold;
	QueueSample samples[HEALTH_SAMPLES];
	int			count = read_samples(known->slot, samples);
	int64		ended[NUM_ATTEMPT_ENDS];
	int64		attempts = 0;
	int64		then,
				middle,
				waiting = known->count[COUNT_WAITING];
	double		share;
	char	   *span;

	if (count == 0)
		return;
	span = QueueSpell(known->now - samples[0].at);
	for (int e = 0; e < NUM_ATTEMPT_ENDS; e++)
	{
		/* fewer than then: they were reset */
		ended[e] = Max((int64) (attempts_ended(known->slot, (AttemptEnd) e) - samples[0].ended[e]), 0);
		attempts += ended[e];
	}
	if (attempts > 0 && attempts >= threshold[T_ATTEMPTS])
	{
		bool		critical;

		share = 100.0 * (ended[ATTEMPT_FAILED] + ended[ATTEMPT_STALLED]) / attempts;
		critical = share > threshold[T_FAILURES_CRITICAL];
		if (critical || share > threshold[T_FAILURES_WARNING])
			add_alert(health, critical ? SEVERITY_CRITICAL : SEVERITY_WARNING, "failures", share,
					  threshold[critical ? T_FAILURES_CRITICAL : T_FAILURES_WARNING],
					  psprintf("%.0f %% of the last %lld attempts, in %s, have failed", share,
							   (long long) attempts, span),
					  "See the errors in queue.job_log; pause the queue while what it needs is down.");
		share = 100.0 * ended[ATTEMPT_STALLED] / attempts;
		if (share > threshold[T_STALLED_PERCENT])
			add_alert(health, SEVERITY_WARNING, "stalled", share, threshold[T_STALLED_PERCENT],
					  psprintf("%.0f %% of the last %lld attempts, in %s, have lost their lease", share,
							   (long long) attempts, span),
					  "Raise visibility_timeout, or call queue.extend() during long jobs; look for workers that crash.");
	}

	/* it must have grown from the first half of the time to the second, too */
	then = samples[0].waiting;
	middle = samples[count / 2].waiting;
	if (count < HEALTH_SAMPLES / 4 || then < 0 || middle < then || waiting < middle ||
		waiting <= threshold[T_WAITING_WARNING])
		return;
	share = then > 0 ? 100.0 * (waiting - then) / then : waiting > 0 ? 1e3 : 0;
	if (share > threshold[T_GROWTH_PERCENT])
		add_alert(health, if_old(known), "growing", share, threshold[T_GROWTH_PERCENT],
				  psprintf("the backlog has grown from %lld to %lld waiting jobs in %s",
						   (long long) then, (long long) waiting, span),
				  "More jobs come than are taken: start more workers, or slow down the producers.");
}

static void
check_counts(Health *health, const Known *known)
{
	const QueueSettings *settings = known->settings;
	const int64 *count = known->count;
	int64		finished = count[COUNT_COMPLETED] + count[COUNT_FAILED];
	int64		depth = count[COUNT_WAITING] + count[COUNT_DELAYED] + count[COUNT_BLOCKED] + count[COUNT_ACTIVE];
	double		share = finished > 0 ? 100.0 * count[COUNT_FAILED] / finished : 0;
	int64		letters = count[COUNT_WAITING] + count[COUNT_DELAYED];

	if (count[COUNT_FAILED] > known->threshold[T_FAILED] && share > known->threshold[T_FAILED_PERCENT])
		add_alert(health, SEVERITY_WARNING, "failed", count[COUNT_FAILED], known->threshold[T_FAILED],
				  psprintf("%lld %s failed for good, %.0f %% of those that are kept",
						   (long long) count[COUNT_FAILED],
						   count[COUNT_FAILED] == 1 ? "job has" : "jobs have", share),
				  "See queue.list_jobs(queue_name, 'failed'); then queue.requeue_failed(), or queue.clean().");
	if (settings->max_depth >= 0)
	{
		share = 100.0 * depth / settings->max_depth;
		if (depth >= settings->max_depth)
			add_alert(health, SEVERITY_CRITICAL, "full", depth, settings->max_depth,
					  psprintf("the queue is full: it has %lld unfinished %s", (long long) depth, JOBS(depth)),
					  "Every enqueue is refused: start more workers, or raise max_depth.");
		else if (share >= known->threshold[T_FULL_PERCENT])
			add_alert(health, SEVERITY_WARNING, "nearly_full", share, known->threshold[T_FULL_PERCENT],
					  psprintf("the queue is %.0f %% full", share),
					  "Enqueues will be refused: start more workers, or raise max_depth.");
	}
	if (known->letters && letters > known->threshold[T_DEAD_LETTERS])
		add_alert(health, SEVERITY_WARNING, "dead_letters", letters, known->threshold[T_DEAD_LETTERS],
				  psprintf("%lld dead %s here", (long long) letters, letters == 1 ? "letter is" : "letters are"),
				  "See their last_error in queue.job, then call queue.redrive(), or cancel them.");
}

static void
check_queue(Health *health, const QueueSettings *settings, bool letters, Installation *installation,
			QueueStore *live)
{
	Known		known = {.settings = settings, .letters = letters};
	TimestampTz oldest = PG_INT64_MAX;

	known.slot = installation ? QueueXactSlot(settings->queue_id) : NULL;
	if (known.slot == NULL)
	{
		health->unknown = true;
		if (settings->paused)
			add_alert(health, SEVERITY_INFO, "paused", NOTHING, NOTHING, pstrdup("the queue is paused"),
					  "Call queue.resume_queue() when the jobs may be taken.");
		if (installation)
			add_alert(health, SEVERITY_WARNING, "no_counters", NOTHING, NOTHING,
					  pstrdup("the queue has no place in shared memory, so nothing is known of its jobs"),
					  "Raise the configuration parameter \"queue.max_queues\", or drop queues.");
		return;
	}
	thresholds_of(settings, known.threshold);
	if (!QueueStatsEnsure(installation) || !QueueStatsRead(installation, known.slot, known.count))
	{
		health->unknown = true;
		add_alert(health, SEVERITY_INFO, "no_counters", NOTHING, NOTHING,
				  pstrdup("the jobs are being counted"), "Look again in a moment.");
		return;
	}
	known.age = -1;
	if (known.count[COUNT_WAITING] > 0)
		oldest = QueueOldestWaiting(live, settings, known.slot);
	known.now = GetCurrentTimestamp();
	if (oldest != PG_INT64_MAX)
		known.age = Max(known.now - oldest, 0);
	known.old = known.age >= 0 && seconds(known.age) >= known.threshold[T_WAITING_AGE];
	/* dead letters wait for a person */
	if (known.age >= 0 && !letters)
	{
		check_waiting(health, &known);
		check_takers(health, &known);
	}
	check_samples(health, &known);
	check_counts(health, &known);
}

/* ---------------------------------------------------------------------
 * Of the installation
 * --------------------------------------------------------------------- */

static bool
is_monitor(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

static void
check_processes(Health *health, Installation *installation, TimestampTz now)
{
	bool		launcher,
				running = false,
				full;
	int64		late = (int64) queue_health_interval * 3000 + (int64) queue_maintenance_interval * 1000;
	TimestampTz round_at = (TimestampTz) pg_atomic_read_u64(&installation->round_at);
	TimestampTz denied_at = (TimestampTz) pg_atomic_read_u64(&Shared->worker_denied_at);
	TimestampTz jumped_at = (TimestampTz) pg_atomic_read_u64(&installation->clock_jumped_at);

	LWLockAcquire(Shared->lock, LW_SHARED);
	launcher = Shared->launcher != NULL;
	full = Shared->full_logged || installation->short_of_slots;
	for (int i = 0; i < queue_max_databases; i++)
		if (DatabaseEntries[i].database_id == MyDatabaseId && DatabaseEntries[i].pid != 0)
			running = true;
	LWLockRelease(Shared->lock);

	if (!launcher)
		add_alert(health, SEVERITY_CRITICAL, "launcher", NOTHING, NOTHING,
				  pstrdup("the launcher is not running"),
				  "See the server's log; the server starts it again within seconds, unless max_worker_processes is too small.");
	if (!running)
		add_alert(health, SEVERITY_CRITICAL, "maintenance", NOTHING, NOTHING,
				  pstrdup("the maintenance worker of this database is not running"),
				  "See the server's log, and raise max_worker_processes if slots are used up; meanwhile call queue.maintain() now and then.");
	else if (round_at != 0 && now - round_at > late)
		add_alert(health, SEVERITY_CRITICAL, "maintenance", seconds(now - round_at), seconds(late),
				  psprintf("the maintenance worker has been busy with one round for %s", QueueSpell(now - round_at)),
				  "See what it is doing, and what it waits for, in pg_stat_activity.");
	if (denied_at != 0 && !QueueHasPassed(denied_at, DENIED_SECONDS * 1000, now))
		add_alert(health, SEVERITY_WARNING, "worker_slots", max_worker_processes, max_worker_processes,
				  psprintf("a worker found no free slot %s ago: all of the server's are used up",
						   QueueSpell(now - denied_at)),
				  "Raise the configuration parameter \"max_worker_processes\".");
	if (full)
		add_alert(health, SEVERITY_WARNING, "shared_memory", NOTHING, NOTHING,
				  pstrdup("the slots in shared memory are used up: some queues go without counters or hints, and are slower"),
				  "Raise the configuration parameters \"queue.max_queues\" and \"queue.max_hints\".");
	if (jumped_at != 0 && !QueueHasPassed(jumped_at, JUMP_SECONDS * 1000, now))
	{
		int64		jump = (int64) pg_atomic_read_u64(&installation->clock_jump);

		add_alert(health, SEVERITY_WARNING, "clock", seconds(jump), JUMP_LEAST,
				  psprintf("the clock has jumped %s by %s, %s ago", jump < 0 ? "back" : "forward",
						   QueueSpell(Max(jump, -jump)), QueueSpell(now - jumped_at)),
				  "Leases and due times follow the clock: let it be adjusted slowly, as by chronyd or ntpd.");
	}
}

/* since when has the horizon been that old, at least?  *all: longer than we know */
static TimestampTz
held_since(Installation *installation, int64 age, TimestampTz now, bool *all)
{
	InstallationSample samples[HEALTH_SAMPLES];
	int			count = read_installation_samples(installation, samples);
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	for (int i = 0; i < count; i++)
		if (U64FromFullTransactionId(samples[i].next_xid) + (uint64) age > next)
		{
			*all = i == 0 && count == HEALTH_SAMPLES;
			return samples[i].at;
		}
	return now;
}

/*
 * Whoever holds the horizon back, as far as the caller may see.  A transaction
 * id counts in every database, for it is in the snapshots of all; a snapshot in
 * its own only.
 */
#define HOLDERS \
	"SELECT * FROM (" \
	"SELECT 'old_snapshot', format('process %s (user %s, application %s, %s)', a.pid," \
	" quote_ident(a.usename::text), quote_literal(a.application_name), COALESCE(a.state, a.backend_type))," \
	" a.xact_start," \
	" GREATEST(age(a.backend_xid), CASE WHEN a.datname = current_database() THEN age(a.backend_xmin) END) AS age" \
	" FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid()" \
	" AND a.backend_type NOT IN ('walsender', 'autovacuum worker', 'queue vacuum')" \
	" AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)" \
	" UNION ALL SELECT 'prepared_transaction', format('prepared transaction %s (user %s, database %s)'," \
	" quote_literal(p.gid), quote_ident(p.owner::text), quote_ident(p.database::text)), p.prepared, age(p.transaction)" \
	" FROM pg_prepared_xacts AS p" \
	" UNION ALL SELECT 'replication_slot', format('replication slot %s (%s)', quote_ident(s.slot_name::text)," \
	" CASE WHEN s.active THEN 'active' ELSE 'inactive' END), null, age(s.xmin)" \
	" FROM pg_replication_slots AS s WHERE s.xmin IS NOT NULL" \
	" UNION ALL SELECT 'standby_feedback', format('standby %s (user %s, process %s, by hot_standby_feedback)'," \
	" quote_literal(r.application_name), quote_ident(r.usename::text), r.pid), null, age(r.backend_xmin)" \
	" FROM pg_stat_replication AS r WHERE r.backend_xmin IS NOT NULL" \
	") AS h (code, who, since, age) WHERE h.age > 0 ORDER BY h.age DESC LIMIT 5"

static const char *
advice_on(const char *code)
{
	if (strcmp(code, "old_snapshot") == 0)
		return "End the transaction: pg_terminate_backend(), or set idle_in_transaction_session_timeout.";
	if (strcmp(code, "prepared_transaction") == 0)
		return "Finish it, by COMMIT PREPARED or ROLLBACK PREPARED.";
	if (strcmp(code, "replication_slot") == 0)
		return "Let its standby come back, or drop it by pg_drop_replication_slot().";
	return "End the long query on the standby, or set hot_standby_feedback to off there.";
}

/* returns how many were told */
static int
check_horizon(Health *health, Installation *installation, int64 dead, TimestampTz now)
{
	bool		due = dead >= queue_vacuum_threshold;
	int			told = 0;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *code = SPI_getvalue(row, desc, 1);
		bool		null;
		Datum		since = SPI_getbinval(row, desc, 3, &null);
		int32		age = DatumGetInt32(SPI_getbinval(row, desc, 4, &(bool) {false}));
		bool		exact = !null;
		bool		all = false;
		int64		held = now - (exact ? DatumGetTimestampTz(since) :
								  held_since(installation, age, now, &all));
		char	   *cost;

		if (!all && seconds(held) <= (due ? HORIZON_LEAST : HORIZON_SECONDS))
			continue;
		/* the oldest alone is to blame */
		cost = told++ > 0 ? pstrdup("nor can what died since be removed once the others are gone") :
			psprintf("%lld dead row versions in queue.job_live wait to be removed", (long long) dead);
		add_alert(health, dead >= (int64) queue_vacuum_threshold * 10 ? SEVERITY_CRITICAL : SEVERITY_WARNING,
				  pstrdup(code), seconds(held), HORIZON_SECONDS,
				  psprintf("%s has held back the horizon for %s%s (%d transactions); %s",
						   SPI_getvalue(row, desc, 2), exact ? "" : "at least ", QueueSpell(held), age, cost),
				  advice_on(code));
	}
	return told;
}

static void
check_vacuum(Health *health, Installation *installation, Oid live_id, bool held, int64 dead)
{
	Datum		live = ObjectIdGetDatum(live_id);
	InstallationSample samples[HEALTH_SAMPLES];
	int			count = read_installation_samples(installation, samples);
	int64		most = (int64) queue_vacuum_threshold * BEHIND;
	int64		rows = DatumGetInt64(OidFunctionCall1(F_PG_STAT_GET_LIVE_TUPLES, live));

	if (!held && dead > most && dead > rows)
	{
		bool		null;
		Datum		last;

		LOCAL_FCINFO(fcinfo, 1);
		InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
		fcinfo->args[0] = (NullableDatum) {live, false};
		last = pg_stat_get_last_vacuum_time(fcinfo);
		null = fcinfo->isnull;
		add_alert(health, SEVERITY_WARNING, "vacuum", dead, most,
				  psprintf("%lld row versions in queue.job_live are dead, %lld are alive; the last vacuum was %s",
						   (long long) dead, (long long) rows,
						   null ? "never" : timestamptz_to_str(DatumGetTimestampTz(last))),
				  is_monitor() ? "See in the server's log whether a vacuum fails, and raise max_worker_processes if slots are used up." :
				  "Somebody may hold the horizon back: ask a member of pg_monitor, who can see whom.");
	}
	if (count > 1)
	{
		int64		updates = samples[count - 1].updates - samples[0].updates;
		int64		hot = samples[count - 1].hot_updates - samples[0].hot_updates;
		double		share = updates > 0 ? 100.0 * hot / updates : 100;

		if (updates >= HOT_UPDATES && share < HOT_PERCENT)
			add_alert(health, SEVERITY_WARNING, "hot_updates", share, HOT_PERCENT,
					  psprintf("only %.0f %% of the last %lld updates of queue.job_live were HOT",
							   share, (long long) updates),
					  "Its fillfactor must be 50, and no index be added to it; large payloads, and dead rows that cannot be removed, leave no room, too.");
	}
}

static void
check_installation(Health *health, Installation *installation)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			live_id = QueueCatalogGet(false)->live;
	Oid			caller;
	Oid			user;
	int			context;
	int64		dead;
	bool		held;
	MemoryContext result = CurrentMemoryContext;

	if (RecoveryInProgress())
	{
		health->unknown = true;
		add_alert(health, SEVERITY_INFO, "standby", NOTHING, NOTHING,
				  pstrdup("this server is a standby: nothing is known here of jobs that wait or run"),
				  "Ask the primary.");
		return;
	}
	if (installation == NULL)
	{
		add_alert(health, SEVERITY_CRITICAL, "shared_memory", NOTHING, NOTHING,
				  pstrdup("the database has no place in shared memory"),
				  "Raise the configuration parameter \"queue.max_databases\".");
		return;
	}
	check_processes(health, installation, now);

	/* as the caller: who sees what in there is the server's affair */
	dead = (int64) pg_atomic_read_u64(&installation->dead);
	QueueSpiConnect();
	caller = QueueSpiCaller();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(caller, context);
	(void) QueueSpiExecute(HOLDERS, 0, NULL, NULL, NULL);
	SetUserIdAndSecContext(user, context);
	MemoryContextSwitchTo(result);
	held = check_horizon(health, installation, dead, now) > 0;
	QueueSpiFinish();
	check_vacuum(health, installation, live_id, held, dead);
}

/* ---------------------------------------------------------------------
 * The functions
 * --------------------------------------------------------------------- */

/* is it the dead_letter_queue of another? */
static bool
has_dead_letters(List *queues, const QueueSettings *settings)
{
	ListCell   *lc;

	foreach(lc, queues)
		if (strcmp(((QueueSettings *) lfirst(lc))->dead_letter_queue, settings->name) == 0)
			return true;
	return false;
}

/* those that the caller asks for, and may see */
static List *
choose_queues(FunctionCallInfo fcinfo, List *all)
{
	bool		monitor = is_monitor();
	List	   *chosen = NIL;
	ListCell   *lc;

	if (!PG_ARGISNULL(0))
	{
		text	   *name = PG_GETARG_TEXT_PP(0);
		QueueSettings *settings = palloc(sizeof(QueueSettings));

		if (!monitor ||
			!QueueSettingsByName(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), settings))
			QueueSettingsRequire(name, PRIVILEGE_BROWSE, settings);
		return list_make1(settings);
	}
	foreach(lc, all)
		if (monitor || (QueuePrivileges(lfirst(lc)) & PRIVILEGE_BROWSE))
			chosen = lappend(chosen, lfirst(lc));
	return chosen;
}

/* list of Health: the installation, unless a queue was asked for, and queues */
static List *
check_all(FunctionCallInfo fcinfo)
{
	Installation *installation = NULL;
	List	   *all = QueueSettingsAll();
	List	   *result = NIL;
	QueueStore	live;
	ListCell   *lc;
	List	   *queues = choose_queues(fcinfo, all);

	if (QueueSharedReady() && !RecoveryInProgress())
		installation = QueueInstallation(QueueCatalogGet(false)->live);
	if (PG_ARGISNULL(0))
	{
		Health	   *health = palloc0(sizeof(Health));

		check_installation(health, installation);
		result = lappend(result, health);
	}
	if (installation)
	{
		CommandCounterIncrement();
		QueueStoreOpen(&live, false);
	}
	foreach(lc, queues)
	{
		Health	   *health = palloc0(sizeof(Health));
		QueueSettings *settings = lfirst(lc);

		health->queue_name = settings->name;
		check_queue(health, settings, has_dead_letters(all, settings), installation, &live);
		result = lappend(result, health);
	}
	if (installation)
		QueueStoreClose(&live);
	return result;
}

static void
append_number(StringInfo json, const char *key, double number)
{
	appendStringInfo(json, ", \"%s\": ", key);
	if (isnan(number) || isinf(number))
		appendStringInfoString(json, "null");
	else
		appendStringInfoString(json, float8out_internal(number));
}

static void
append_text(StringInfo json, const char *key, const char *value)
{
	appendStringInfo(json, ", \"%s\": ", key);
	escape_json(json, value);
}

static Datum
alerts_as_jsonb(const Health *health)
{
	StringInfoData json;
	ListCell   *lc;
	const char *separator = "";

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(lc, sort_alerts(health))
	{
		Alert	   *alert = lfirst(lc);

		appendStringInfo(&json, "%s{\"severity\": \"%s\"", separator, severities[alert->severity]);
		append_text(&json, "code", alert->code);
		append_text(&json, "message", alert->message);
		append_number(&json, "value", alert->value);
		append_number(&json, "threshold", alert->threshold);
		append_text(&json, "recommendation", alert->recommendation);
		appendStringInfoChar(&json, '}');
		separator = ", ";
	}
	appendStringInfoChar(&json, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

Datum
queue_queue_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *all = check_all(fcinfo);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	foreach(lc, all)
	{
		Health	   *health = lfirst(lc);
		Datum		values[4] = {0};
		bool		nulls[4] = {0};

		nulls[0] = health->queue_name == NULL;
		if (!nulls[0])
			values[0] = CStringGetTextDatum(health->queue_name);
		nulls[1] = nulls[2] = health->unknown;
		values[1] = CStringGetTextDatum(status_of(health));
		values[2] = Int32GetDatum(score_of(health));
		values[3] = alerts_as_jsonb(health);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
queue_health_alerts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *all = check_all(fcinfo);
	ListCell   *lc,
			   *alert_lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	foreach(lc, all)
	{
		Health	   *health = lfirst(lc);

		foreach(alert_lc, sort_alerts(health))
		{
			Alert	   *alert = lfirst(alert_lc);
			Datum		values[7] = {0};
			bool		nulls[7] = {0};

			nulls[0] = health->queue_name == NULL;
			if (!nulls[0])
				values[0] = CStringGetTextDatum(health->queue_name);
			values[1] = CStringGetTextDatum(severities[alert->severity]);
			values[2] = CStringGetTextDatum(alert->code);
			values[3] = CStringGetTextDatum(alert->message);
			nulls[4] = isnan(alert->value) || isinf(alert->value);
			values[4] = Float8GetDatum(alert->value);
			nulls[5] = isnan(alert->threshold) || isinf(alert->threshold);
			values[5] = Float8GetDatum(alert->threshold);
			values[6] = CStringGetTextDatum(alert->recommendation);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

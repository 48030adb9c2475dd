/* The install script of today's version; the Makefile copies it to queue--<version>.sql. */

-- complain if the script is sourced in psql instead of CREATE EXTENSION
\echo Use "CREATE EXTENSION queue" to load this file. \quit

CREATE SCHEMA queue;
COMMENT ON SCHEMA queue IS 'durable job queue: functions to call, and the tables behind them';

-- Refuses at once, with what to do, where the library is not preloaded, or is older than this.
CREATE FUNCTION queue._require_preload() RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__require_preload';
COMMENT ON FUNCTION queue._require_preload() IS
	'internal: refuses to go on unless the library was preloaded, and is not older than the script';

SELECT queue._require_preload();

CREATE FUNCTION queue.version() RETURNS text
LANGUAGE c STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_version';
COMMENT ON FUNCTION queue.version IS
	'the version of the library; that of the SQL objects stands in pg_extension';

/* ---------------------------------------------------------------------
 * Queues and who may use them
 * --------------------------------------------------------------------- */

CREATE SEQUENCE queue._queue_id AS integer;
COMMENT ON SEQUENCE queue._queue_id IS 'internal: numbers of queues, never used twice';

CREATE TABLE queue.queue (
	queue_id            integer NOT NULL,
	queue_name          text COLLATE pg_catalog."C" NOT NULL,
	owner               regrole NOT NULL,
	paused              boolean NOT NULL,
	max_attempts        integer NOT NULL,
	backoff             text NOT NULL,
	backoff_base        interval NOT NULL,
	backoff_max         interval NOT NULL,
	backoff_jitter      real NOT NULL,
	visibility_timeout  interval NOT NULL,
	job_timeout         interval,
	default_priority    integer NOT NULL,
	aging_interval      interval,
	max_active          integer,
	rate_limit          integer,
	rate_period         interval NOT NULL,
	max_depth           bigint,
	keep_completed      interval NOT NULL,
	keep_failed         interval NOT NULL,
	dead_letter_queue   text COLLATE pg_catalog."C",
	required_keys       text[],
	validator           text,
	log_level           text NOT NULL,
	notify              boolean NOT NULL,
	on_failed           text,
	batch_grace         interval NOT NULL,
	max_active_per_key  integer,
	no_retry_sqlstates  text[],
	health_thresholds   jsonb,
	mode                text NOT NULL,
	target_queue        text COLLATE pg_catalog."C",
	handler             text,
	concurrency         integer NOT NULL,
	min_workers         integer NOT NULL,
	processing          boolean NOT NULL,
	throttled_until     timestamptz,
	created_at          timestamptz NOT NULL,
	CONSTRAINT queue_pkey PRIMARY KEY (queue_id),
	CONSTRAINT queue_queue_name_key UNIQUE (queue_name)
) USING heap;
COMMENT ON TABLE queue.queue IS 'one row per queue: its owner and every setting; change it with queue.alter_queue()';
COMMENT ON COLUMN queue.queue.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.queue.queue_name IS 'name of the queue, at most 57 bytes';
COMMENT ON COLUMN queue.queue.owner IS 'role that may do everything with the queue';
COMMENT ON COLUMN queue.queue.paused IS 'true while nothing may be taken';
COMMENT ON COLUMN queue.queue.max_attempts IS 'attempts after which a job is failed for good';
COMMENT ON COLUMN queue.queue.backoff IS 'how the delay before a retry grows: exponential or fixed';
COMMENT ON COLUMN queue.queue.backoff_base IS 'delay before the first retry';
COMMENT ON COLUMN queue.queue.backoff_max IS 'longest delay before a retry';
COMMENT ON COLUMN queue.queue.backoff_jitter IS 'share of the delay that is drawn at random, 0 to 1';
COMMENT ON COLUMN queue.queue.visibility_timeout IS 'how long a taker holds a job unless it asks otherwise';
COMMENT ON COLUMN queue.queue.job_timeout IS 'how long the handler may run for one job; null: as long as it takes';
COMMENT ON COLUMN queue.queue.default_priority IS 'priority of a job enqueued without one; lower runs first';
COMMENT ON COLUMN queue.queue.aging_interval IS 'waiting time that outweighs one step of priority; null: strict priority';
COMMENT ON COLUMN queue.queue.max_active IS 'jobs that may be active at once; null: no limit';
COMMENT ON COLUMN queue.queue.rate_limit IS 'jobs that may be taken in a rate_period; null: no limit';
COMMENT ON COLUMN queue.queue.rate_period IS 'time that rate_limit counts for';
COMMENT ON COLUMN queue.queue.max_depth IS 'unfinished jobs above which an enqueue is refused; null: no limit';
COMMENT ON COLUMN queue.queue.keep_completed IS 'how long completed jobs are kept; 0: not at all';
COMMENT ON COLUMN queue.queue.keep_failed IS 'how long failed and cancelled jobs are kept; 0: not at all';
COMMENT ON COLUMN queue.queue.dead_letter_queue IS 'queue that jobs move to when they have failed for good; null: they stay';
COMMENT ON COLUMN queue.queue.required_keys IS 'keys that every payload must have; null: none';
COMMENT ON COLUMN queue.queue.validator IS 'function that every payload must pass; null: none';
COMMENT ON COLUMN queue.queue.log_level IS 'what goes into queue.job_log: errors, all or none';
COMMENT ON COLUMN queue.queue.notify IS 'true if events are told by NOTIFY, on the channel queue.<name>';
COMMENT ON COLUMN queue.queue.on_failed IS 'function that is called when a job has failed for good; null: none';
COMMENT ON COLUMN queue.queue.batch_grace IS 'how long a batch that nobody closes stays open after its last job';
COMMENT ON COLUMN queue.queue.max_active_per_key IS 'jobs with the same limit_key that may be active at once; null: no limit';
COMMENT ON COLUMN queue.queue.no_retry_sqlstates IS 'errors of the handler after which a job is not retried: codes, or their first two characters; null: none';
COMMENT ON COLUMN queue.queue.health_thresholds IS 'thresholds of queue.queue_health() that differ from the defaults; null: none';
COMMENT ON COLUMN queue.queue.mode IS 'what an enqueue does: queued, direct, mirror or fallback; change it with queue.set_mode()';
COMMENT ON COLUMN queue.queue.target_queue IS 'queue that mirror and fallback lead to';
COMMENT ON COLUMN queue.queue.handler IS 'function that runs the jobs; change it with queue.set_handler()';
COMMENT ON COLUMN queue.queue.concurrency IS 'how many jobs of the queue the server runs at once at most';
COMMENT ON COLUMN queue.queue.min_workers IS 'how many workers are kept for the queue';
COMMENT ON COLUMN queue.queue.processing IS 'false while the server does not run the handler: see queue.stop_processing()';
COMMENT ON COLUMN queue.queue.throttled_until IS 'nothing is taken before, unless shared memory knows better: see queue.throttle()';
COMMENT ON COLUMN queue.queue.created_at IS 'when the queue was created';

CREATE TABLE queue.privilege (
	queue_id   integer NOT NULL,
	grantee    regrole NOT NULL,
	privilege  text COLLATE pg_catalog."C" NOT NULL,
	CONSTRAINT privilege_pkey PRIMARY KEY (queue_id, grantee, privilege)
) USING heap;
COMMENT ON TABLE queue.privilege IS 'who may do what with which queue; change it with queue.grant_queue() and queue.revoke_queue()';
COMMENT ON COLUMN queue.privilege.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.privilege.grantee IS 'role that holds the privilege, and its members with it';
COMMENT ON COLUMN queue.privilege.privilege IS 'enqueue, dequeue, browse or admin';

/* ---------------------------------------------------------------------
 * Jobs.  The fixed-width columns come first and are never null: C reads
 * them through one struct, JobHead in src/job.h.  Keep the two in step.
 * --------------------------------------------------------------------- */

CREATE SEQUENCE queue._job_id_block MAXVALUE 140737488355327;
COMMENT ON SEQUENCE queue._job_id_block IS 'internal: blocks of 64 job ids, one block at a time for a backend';

CREATE TABLE queue.job_live (
	job_id            bigint NOT NULL,
	order_at          timestamptz NOT NULL,
	run_at            timestamptz NOT NULL,
	enqueued_at       timestamptz NOT NULL,
	taken_at          timestamptz NOT NULL,
	lease_expires_at  timestamptz NOT NULL,
	lease_owner       bigint NOT NULL,
	queue_id          integer NOT NULL,
	attempt           integer NOT NULL,
	order_class       smallint NOT NULL,
	priority          smallint NOT NULL,
	max_attempts      smallint NOT NULL,
	state             "char" NOT NULL,
	worker            text,
	batch_id          text,
	group_key         text COLLATE pg_catalog."C",
	limit_key         text COLLATE pg_catalog."C",
	unique_key        text COLLATE pg_catalog."C",
	source            text,
	headers           jsonb,
	options           jsonb,
	origin            jsonb,
	last_error        text,
	progress          jsonb,
	payload           jsonb NOT NULL,
	CONSTRAINT job_live_pkey PRIMARY KEY (job_id)
) USING heap WITH (
	-- half a page for the claim's new row version: claims stay HOT
	fillfactor = 50,
	-- the maintenance worker vacuums first; autovacuum stands behind it
	vacuum_truncate = off,
	autovacuum_vacuum_scale_factor = 0.1,
	autovacuum_vacuum_threshold = 20000,
	autovacuum_vacuum_cost_delay = 0
);
-- their entries are of different jobs: there is nothing to deduplicate
CREATE INDEX _job_live_ready ON queue.job_live USING btree (queue_id, order_class, order_at, job_id)
	WITH (deduplicate_items = off);
COMMENT ON INDEX queue.job_live_pkey IS 'internal: a job by its id';
COMMENT ON INDEX queue._job_live_ready IS 'internal: the order in which jobs are taken; no column of it changes when one is';
COMMENT ON TABLE queue.job_live IS 'internal: jobs that may run now or are running; read the view queue.job';
COMMENT ON COLUMN queue.job_live.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job_live.order_at IS 'order key inside the class: due time, with aging plus priority times aging_interval; of a blocked job its due time';
COMMENT ON COLUMN queue.job_live.run_at IS 'when the job became or becomes due';
COMMENT ON COLUMN queue.job_live.enqueued_at IS 'when the job was enqueued';
COMMENT ON COLUMN queue.job_live.taken_at IS 'when the last attempt began; -infinity: never';
COMMENT ON COLUMN queue.job_live.lease_expires_at IS 'end of the lease of an active job';
COMMENT ON COLUMN queue.job_live.lease_owner IS 'installation, and session if bound to one, that the lease was given out by';
COMMENT ON COLUMN queue.job_live.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.job_live.attempt IS 'attempts begun so far; it fences off a taker whose lease has gone to another';
COMMENT ON COLUMN queue.job_live.order_class IS 'class of the order: the priority, or 0 with aging';
COMMENT ON COLUMN queue.job_live.priority IS 'priority, lower runs first';
COMMENT ON COLUMN queue.job_live.max_attempts IS 'attempts after which the job is failed for good';
COMMENT ON COLUMN queue.job_live.state IS 'w waiting, a active';
COMMENT ON COLUMN queue.job_live.worker IS 'name that the last taker gave';
COMMENT ON COLUMN queue.job_live.batch_id IS 'batch that the job belongs to';
COMMENT ON COLUMN queue.job_live.group_key IS 'group whose jobs run one at a time, in order';
COMMENT ON COLUMN queue.job_live.limit_key IS 'key that max_active_per_key counts by';
COMMENT ON COLUMN queue.job_live.unique_key IS 'key that no other unfinished job of the queue has';
COMMENT ON COLUMN queue.job_live.source IS 'tag that the producer gave';
COMMENT ON COLUMN queue.job_live.headers IS 'headers that the producer gave';
COMMENT ON COLUMN queue.job_live.options IS 'settings of this job that differ from its queue';
COMMENT ON COLUMN queue.job_live.origin IS 'of a dead letter: the queue it comes from, and what it was allowed there';
COMMENT ON COLUMN queue.job_live.last_error IS 'error of the last failed attempt';
COMMENT ON COLUMN queue.job_live.progress IS 'what was told last before an attempt ended: percent, step, detail, at';
COMMENT ON COLUMN queue.job_live.payload IS 'payload';

CREATE TABLE queue.job_parked (
	LIKE queue.job_live INCLUDING COMMENTS,
	CONSTRAINT job_parked_pkey PRIMARY KEY (job_id)
) USING heap WITH (
	vacuum_truncate = off,
	autovacuum_vacuum_scale_factor = 0.05,
	autovacuum_vacuum_threshold = 20000,
	autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX _job_parked_due ON queue.job_parked USING btree (queue_id, run_at, job_id)
	WITH (deduplicate_items = off);
CREATE INDEX _job_parked_group ON queue.job_parked USING btree (queue_id, group_key, order_at, job_id)
	WHERE state OPERATOR(pg_catalog.=) 'g';
CREATE INDEX _job_parked_limit ON queue.job_parked USING btree (queue_id, limit_key, order_at, job_id)
	WHERE state OPERATOR(pg_catalog.=) 'k';
COMMENT ON INDEX queue.job_parked_pkey IS 'internal: a job by its id';
COMMENT ON INDEX queue._job_parked_due IS 'internal: the order in which parked jobs become due';
COMMENT ON INDEX queue._job_parked_group IS 'internal: the order of those who wait in a group';
COMMENT ON INDEX queue._job_parked_limit IS 'internal: the order of those who wait for a place of their limit_key';
COMMENT ON TABLE queue.job_parked IS 'internal: jobs that cannot run yet; read the view queue.job';
COMMENT ON COLUMN queue.job_parked.run_at IS 'when the job becomes due; infinity: when something else lets it';
COMMENT ON COLUMN queue.job_parked.state IS 'd delayed, b blocked by parents, g blocked by its group, k blocked by others with its limit_key';

/* ---------------------------------------------------------------------
 * What jobs may have beside their row.  A plain job has none of it.
 * --------------------------------------------------------------------- */

CREATE TABLE queue.unique_key (
	queue_id    integer NOT NULL,
	unique_key  text COLLATE pg_catalog."C" NOT NULL,
	job_id      bigint NOT NULL,
	taken_until timestamptz NOT NULL,
	settled     boolean NOT NULL,
	CONSTRAINT unique_key_pkey PRIMARY KEY (queue_id, unique_key)
) USING heap;
COMMENT ON TABLE queue.unique_key IS 'internal: which unfinished job has which unique key';
COMMENT ON COLUMN queue.unique_key.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.unique_key.unique_key IS 'the key';
COMMENT ON COLUMN queue.unique_key.job_id IS 'the job that has it';
COMMENT ON COLUMN queue.unique_key.taken_until IS 'the key stays taken until then, even if the job is over; -infinity: no longer than the job lasts';
COMMENT ON COLUMN queue.unique_key.settled IS 'the job is over';

CREATE TABLE queue.group_head (
	queue_id   integer NOT NULL,
	group_key  text COLLATE pg_catalog."C" NOT NULL,
	job_id     bigint NOT NULL,
	at         timestamptz NOT NULL,
	CONSTRAINT group_head_pkey PRIMARY KEY (queue_id, group_key)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE queue.group_head IS 'internal: the one job of each group that may run';
COMMENT ON COLUMN queue.group_head.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.group_head.group_key IS 'the group';
COMMENT ON COLUMN queue.group_head.job_id IS 'its job that may run or is running; 0: none';
COMMENT ON COLUMN queue.group_head.at IS 'since when';

CREATE TABLE queue.limit_place (
	queue_id   integer NOT NULL,
	limit_key  text COLLATE pg_catalog."C" NOT NULL,
	place      integer NOT NULL,
	job_id     bigint NOT NULL,
	at         timestamptz NOT NULL,
	CONSTRAINT limit_place_pkey PRIMARY KEY (queue_id, limit_key, place)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE queue.limit_place IS 'internal: the jobs of each limit_key that may run, max_active_per_key at once';
COMMENT ON COLUMN queue.limit_place.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.limit_place.limit_key IS 'the key';
COMMENT ON COLUMN queue.limit_place.place IS 'number of the place, from 1 on';
COMMENT ON COLUMN queue.limit_place.job_id IS 'the job that has it; 0: none';
COMMENT ON COLUMN queue.limit_place.at IS 'since when';

CREATE TABLE queue.dependency (
	parent_id         bigint NOT NULL,
	child_id          bigint NOT NULL,
	parent_queue_id   integer NOT NULL,
	child_queue_id    integer NOT NULL,
	on_parent_failure text NOT NULL,
	CONSTRAINT dependency_pkey PRIMARY KEY (parent_id, child_id)
) USING heap;
CREATE INDEX _dependency_child ON queue.dependency USING btree (child_id, parent_id);
COMMENT ON INDEX queue._dependency_child IS 'internal: which parents a job still waits for';
COMMENT ON TABLE queue.dependency IS 'which job waits for which: one row for each parent that is not completed';
COMMENT ON COLUMN queue.dependency.parent_id IS 'job that must be completed first';
COMMENT ON COLUMN queue.dependency.child_id IS 'job that waits for it';
COMMENT ON COLUMN queue.dependency.parent_queue_id IS 'number of the parent''s queue';
COMMENT ON COLUMN queue.dependency.child_queue_id IS 'number of the child''s queue';
COMMENT ON COLUMN queue.dependency.on_parent_failure IS 'what becomes of the child if the parent fails for good: fail, run or block';

CREATE TABLE queue.batch (
	batch_id          text COLLATE pg_catalog."C" NOT NULL,
	source            text,
	owner             regrole NOT NULL,
	implicit          boolean NOT NULL,
	created_at        timestamptz NOT NULL,
	closed_at         timestamptz,
	closed_by         text,
	completed_at      timestamptz,
	callback_queue    text COLLATE pg_catalog."C",
	callback_payload  jsonb,
	callback_job_id   bigint,
	callback_error    text,
	CONSTRAINT batch_pkey PRIMARY KEY (batch_id)
) USING heap;
CREATE INDEX _batch_incomplete ON queue.batch USING btree (batch_id) WHERE completed_at IS NULL;
CREATE INDEX _batch_open ON queue.batch USING btree (closed_at) WHERE completed_at IS NULL;
COMMENT ON INDEX queue.batch_pkey IS 'internal: a batch by its name';
COMMENT ON INDEX queue._batch_open IS 'internal: batches that are not complete';
COMMENT ON INDEX queue._batch_incomplete IS 'internal: batches that may still become complete';
COMMENT ON TABLE queue.batch IS 'internal: one row per batch; read the view queue.batch_progress_view';
COMMENT ON COLUMN queue.batch.batch_id IS 'name of the batch';
COMMENT ON COLUMN queue.batch.source IS 'tag that its creator gave';
COMMENT ON COLUMN queue.batch.owner IS 'role that created it, or enqueued its first jobs';
COMMENT ON COLUMN queue.batch.implicit IS 'nobody created it: an enqueue did, and the grace time of its queues may close it';
COMMENT ON COLUMN queue.batch.created_at IS 'when it was created';
COMMENT ON COLUMN queue.batch.closed_at IS 'when it was closed; null: more jobs may be added';
COMMENT ON COLUMN queue.batch.closed_by IS 'close_batch, or grace: nobody did, and the grace time of its queues has passed';
COMMENT ON COLUMN queue.batch.completed_at IS 'when its last job had ended, after it was closed';
COMMENT ON COLUMN queue.batch.callback_queue IS 'queue that gets a job when the batch is complete';
COMMENT ON COLUMN queue.batch.callback_payload IS 'payload of that job';
COMMENT ON COLUMN queue.batch.callback_job_id IS 'number of that job';
COMMENT ON COLUMN queue.batch.callback_error IS 'why that job could not be enqueued';

CREATE TABLE queue.batch_progress (
	batch_id    text COLLATE pg_catalog."C" NOT NULL,
	queue_id    integer NOT NULL,
	added       bigint NOT NULL,
	completed   bigint NOT NULL,
	failed      bigint NOT NULL,
	cancelled   bigint NOT NULL,
	started_at  timestamptz,
	at          timestamptz NOT NULL,
	folded      boolean NOT NULL
) USING heap WITH (
	autovacuum_vacuum_scale_factor = 0.1,
	autovacuum_vacuum_threshold = 20000,
	autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX _batch_progress_id ON queue.batch_progress USING btree (folded, batch_id);
COMMENT ON INDEX queue._batch_progress_id IS 'internal: the changes of a batch; those that are new apart from those that are folded';
COMMENT ON TABLE queue.batch_progress IS 'internal: changes of the counts of batches, append-only, folded by the maintenance worker';
COMMENT ON COLUMN queue.batch_progress.batch_id IS 'name of the batch';
COMMENT ON COLUMN queue.batch_progress.queue_id IS 'number of the queue; 0: none, somebody has closed the batch';
COMMENT ON COLUMN queue.batch_progress.added IS 'jobs added';
COMMENT ON COLUMN queue.batch_progress.completed IS 'jobs completed';
COMMENT ON COLUMN queue.batch_progress.failed IS 'jobs failed for good, less those requeued';
COMMENT ON COLUMN queue.batch_progress.cancelled IS 'jobs cancelled, less those requeued';
COMMENT ON COLUMN queue.batch_progress.started_at IS 'when the first of the jobs that ended had been taken for its last attempt; null: none was';
COMMENT ON COLUMN queue.batch_progress.at IS 'when this was so';
COMMENT ON COLUMN queue.batch_progress.folded IS 'the sum of others; false: the maintenance worker has not seen it yet';

CREATE TABLE queue.binding (
	topic_pattern  text COLLATE pg_catalog."C" NOT NULL,
	queue_id       integer NOT NULL,
	CONSTRAINT binding_pkey PRIMARY KEY (topic_pattern, queue_id)
) USING heap;
COMMENT ON TABLE queue.binding IS 'which queues get a job for which topics';
COMMENT ON COLUMN queue.binding.topic_pattern IS 'words separated by dots; * stands for one word, # for any number';
COMMENT ON COLUMN queue.binding.queue_id IS 'number of the queue';

CREATE TABLE queue.schedule (
	schedule_name  text COLLATE pg_catalog."C" NOT NULL,
	cron           text NOT NULL,
	queue_id       integer NOT NULL,
	owner          regrole NOT NULL,
	cron_job_id    bigint,
	created_at     timestamptz NOT NULL,
	last_fired_at  timestamptz,
	last_job_id    bigint,
	priority       integer,
	max_attempts   integer,
	group_key      text COLLATE pg_catalog."C",
	source         text,
	headers        jsonb,
	options        jsonb,
	payload        jsonb NOT NULL,
	CONSTRAINT schedule_pkey PRIMARY KEY (schedule_name)
) USING heap;
COMMENT ON TABLE queue.schedule IS 'jobs that pg_cron enqueues by the clock; change it with queue.schedule() and queue.unschedule()';
COMMENT ON COLUMN queue.schedule.schedule_name IS 'name of the schedule';
COMMENT ON COLUMN queue.schedule.cron IS 'when it fires, as pg_cron reads it';
COMMENT ON COLUMN queue.schedule.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.schedule.owner IS 'role whose cron job fires it, and with whose rights it enqueues';
COMMENT ON COLUMN queue.schedule.cron_job_id IS 'its job in cron.job; null: made by hand, or not yet';
COMMENT ON COLUMN queue.schedule.created_at IS 'when it was created';
COMMENT ON COLUMN queue.schedule.last_fired_at IS 'when it enqueued a job last';
COMMENT ON COLUMN queue.schedule.last_job_id IS 'number of that job';
COMMENT ON COLUMN queue.schedule.priority IS 'priority of its jobs; null: that of the queue, as for the next';
COMMENT ON COLUMN queue.schedule.max_attempts IS 'attempts of its jobs';
COMMENT ON COLUMN queue.schedule.group_key IS 'group of its jobs';
COMMENT ON COLUMN queue.schedule.source IS 'source of its jobs; null: schedule and its name';
COMMENT ON COLUMN queue.schedule.headers IS 'headers of its jobs';
COMMENT ON COLUMN queue.schedule.options IS 'options of its jobs';
COMMENT ON COLUMN queue.schedule.payload IS 'payload of its jobs';

CREATE TYPE queue.job_context AS (
	job_id        bigint,
	queue_name    text,
	payload       jsonb,
	attempt       int,
	max_attempts  int,
	priority      int,
	enqueued_at   timestamptz,
	taken_at      timestamptz,
	batch_id      text,
	group_key     text,
	source        text,
	headers       jsonb,
	error         text
);
COMMENT ON TYPE queue.job_context IS 'what a handler, or on_failed, is told about a job';
COMMENT ON COLUMN queue.job_context.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job_context.queue_name IS 'name of its queue';
COMMENT ON COLUMN queue.job_context.payload IS 'payload';
COMMENT ON COLUMN queue.job_context.attempt IS 'attempts begun so far, this one included';
COMMENT ON COLUMN queue.job_context.max_attempts IS 'attempts after which it is failed for good';
COMMENT ON COLUMN queue.job_context.priority IS 'priority, lower runs first';
COMMENT ON COLUMN queue.job_context.enqueued_at IS 'when it was enqueued';
COMMENT ON COLUMN queue.job_context.taken_at IS 'when the last attempt began; null: none has';
COMMENT ON COLUMN queue.job_context.batch_id IS 'batch that the job belongs to';
COMMENT ON COLUMN queue.job_context.group_key IS 'group whose jobs run one at a time, in order';
COMMENT ON COLUMN queue.job_context.source IS 'tag that the producer gave';
COMMENT ON COLUMN queue.job_context.headers IS 'headers that the producer gave';
COMMENT ON COLUMN queue.job_context.error IS 'error of the last failed attempt; null: none has failed';

/* ---------------------------------------------------------------------
 * What is over: rings of leaf tables, each emptied by TRUNCATE when all of
 * it has expired.  Leaf 0 takes what no other leaf may hold.
 * --------------------------------------------------------------------- */

CREATE TABLE queue._leaf (
	ring            "char" NOT NULL,
	leaf            smallint NOT NULL,
	expires_before  timestamptz
) USING heap;
-- no key: a dump may be restored beside what the maintenance worker has begun;
-- of several rows for a leaf, the latest bound counts
COMMENT ON TABLE queue._leaf IS 'internal: which leaf tables may hold what expires before which time';
COMMENT ON COLUMN queue._leaf.ring IS 'a queue.job_archive, l queue.job_log';
COMMENT ON COLUMN queue._leaf.leaf IS 'number of the leaf table';
COMMENT ON COLUMN queue._leaf.expires_before IS 'everything in it expires before this time; null: empty and free';

CREATE TABLE queue.job_archive (
	job_id        bigint NOT NULL,
	finished_at   timestamptz NOT NULL,
	expires_at    timestamptz NOT NULL,
	enqueued_at   timestamptz NOT NULL,
	run_at        timestamptz NOT NULL,
	taken_at      timestamptz NOT NULL,
	queue_id      integer NOT NULL,
	attempt       integer NOT NULL,
	priority      smallint NOT NULL,
	max_attempts  smallint NOT NULL,
	leaf          smallint NOT NULL,
	state         "char" NOT NULL,
	worker        text,
	batch_id      text,
	group_key     text COLLATE pg_catalog."C",
	limit_key     text COLLATE pg_catalog."C",
	unique_key    text COLLATE pg_catalog."C",
	source        text,
	headers       jsonb,
	options       jsonb,
	origin        jsonb,
	error         text,
	result        jsonb,
	progress      jsonb,
	payload       jsonb NOT NULL
) PARTITION BY LIST (leaf);
CREATE INDEX _job_archive_id ON queue.job_archive USING btree (job_id);
CREATE INDEX _job_archive_state ON queue.job_archive USING btree (queue_id, state, finished_at);
COMMENT ON INDEX queue._job_archive_id IS 'internal: a finished job by its id';
COMMENT ON INDEX queue._job_archive_state IS 'internal: finished jobs of a queue by state and time';
COMMENT ON TABLE queue.job_archive IS 'finished jobs, while their retention lasts';
COMMENT ON COLUMN queue.job_archive.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job_archive.finished_at IS 'when the job was completed, failed for good or cancelled';
COMMENT ON COLUMN queue.job_archive.expires_at IS 'when its retention ends; removed some time after that';
COMMENT ON COLUMN queue.job_archive.enqueued_at IS 'when the job was enqueued';
COMMENT ON COLUMN queue.job_archive.run_at IS 'when the job was last due';
COMMENT ON COLUMN queue.job_archive.taken_at IS 'when the last attempt began; -infinity: never';
COMMENT ON COLUMN queue.job_archive.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.job_archive.attempt IS 'attempts begun';
COMMENT ON COLUMN queue.job_archive.priority IS 'priority';
COMMENT ON COLUMN queue.job_archive.max_attempts IS 'attempts it was allowed';
COMMENT ON COLUMN queue.job_archive.leaf IS 'leaf table the row is in';
COMMENT ON COLUMN queue.job_archive.state IS 'c completed, f failed, x cancelled';
COMMENT ON COLUMN queue.job_archive.worker IS 'name that the last taker gave';
COMMENT ON COLUMN queue.job_archive.batch_id IS 'batch that the job belonged to';
COMMENT ON COLUMN queue.job_archive.group_key IS 'group whose jobs run one at a time, in order';
COMMENT ON COLUMN queue.job_archive.limit_key IS 'key that max_active_per_key counted by';
COMMENT ON COLUMN queue.job_archive.unique_key IS 'key that no other unfinished job of the queue has';
COMMENT ON COLUMN queue.job_archive.source IS 'tag that the producer gave';
COMMENT ON COLUMN queue.job_archive.headers IS 'headers that the producer gave';
COMMENT ON COLUMN queue.job_archive.options IS 'settings of this job that differed from its queue';
COMMENT ON COLUMN queue.job_archive.origin IS 'of a dead letter: the queue it comes from, and what it was allowed there';
COMMENT ON COLUMN queue.job_archive.error IS 'error of the last failed attempt';
COMMENT ON COLUMN queue.job_archive.result IS 'result that queue.complete() was given';
COMMENT ON COLUMN queue.job_archive.progress IS 'what was told last of how far it is: percent, step, detail, at';
COMMENT ON COLUMN queue.job_archive.payload IS 'payload';

CREATE TABLE queue._archive_00 PARTITION OF queue.job_archive FOR VALUES IN (0) USING heap;
CREATE TABLE queue._archive_01 PARTITION OF queue.job_archive FOR VALUES IN (1) USING heap;
CREATE TABLE queue._archive_02 PARTITION OF queue.job_archive FOR VALUES IN (2) USING heap;
CREATE TABLE queue._archive_03 PARTITION OF queue.job_archive FOR VALUES IN (3) USING heap;
CREATE TABLE queue._archive_04 PARTITION OF queue.job_archive FOR VALUES IN (4) USING heap;
CREATE TABLE queue._archive_05 PARTITION OF queue.job_archive FOR VALUES IN (5) USING heap;
CREATE TABLE queue._archive_06 PARTITION OF queue.job_archive FOR VALUES IN (6) USING heap;
CREATE TABLE queue._archive_07 PARTITION OF queue.job_archive FOR VALUES IN (7) USING heap;
CREATE TABLE queue._archive_08 PARTITION OF queue.job_archive FOR VALUES IN (8) USING heap;
CREATE TABLE queue._archive_09 PARTITION OF queue.job_archive FOR VALUES IN (9) USING heap;
CREATE TABLE queue._archive_10 PARTITION OF queue.job_archive FOR VALUES IN (10) USING heap;
CREATE TABLE queue._archive_11 PARTITION OF queue.job_archive FOR VALUES IN (11) USING heap;
CREATE TABLE queue._archive_12 PARTITION OF queue.job_archive FOR VALUES IN (12) USING heap;
CREATE TABLE queue._archive_13 PARTITION OF queue.job_archive FOR VALUES IN (13) USING heap;
CREATE TABLE queue._archive_14 PARTITION OF queue.job_archive FOR VALUES IN (14) USING heap;
CREATE TABLE queue._archive_15 PARTITION OF queue.job_archive FOR VALUES IN (15) USING heap;

CREATE TABLE queue.job_log (
	at        timestamptz NOT NULL,
	job_id    bigint NOT NULL,
	queue_id  integer NOT NULL,
	attempt   integer NOT NULL,
	leaf      smallint NOT NULL,
	event     text NOT NULL,
	worker    text,
	message   text,
	error     text
) PARTITION BY LIST (leaf);
CREATE INDEX _job_log_id ON queue.job_log USING btree (job_id);
COMMENT ON INDEX queue._job_log_id IS 'internal: what happened to a job';
COMMENT ON TABLE queue.job_log IS 'what happened to jobs: one row for every failed or stalled attempt, or for everything, by the log_level of the queue';
COMMENT ON COLUMN queue.job_log.at IS 'when it happened';
COMMENT ON COLUMN queue.job_log.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job_log.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.job_log.attempt IS 'the attempt it concerns';
COMMENT ON COLUMN queue.job_log.leaf IS 'leaf table the row is in';
COMMENT ON COLUMN queue.job_log.event IS 'retried, failed or stalled; with log_level all also enqueued, taken, completed, cancelled, released, moved or requeued';
COMMENT ON COLUMN queue.job_log.worker IS 'name that the taker gave';
COMMENT ON COLUMN queue.job_log.message IS 'what became of the job';
COMMENT ON COLUMN queue.job_log.error IS 'error of the attempt';

CREATE TABLE queue._log_00 PARTITION OF queue.job_log FOR VALUES IN (0) USING heap;
CREATE TABLE queue._log_01 PARTITION OF queue.job_log FOR VALUES IN (1) USING heap;
CREATE TABLE queue._log_02 PARTITION OF queue.job_log FOR VALUES IN (2) USING heap;
CREATE TABLE queue._log_03 PARTITION OF queue.job_log FOR VALUES IN (3) USING heap;
CREATE TABLE queue._log_04 PARTITION OF queue.job_log FOR VALUES IN (4) USING heap;
CREATE TABLE queue._log_05 PARTITION OF queue.job_log FOR VALUES IN (5) USING heap;
CREATE TABLE queue._log_06 PARTITION OF queue.job_log FOR VALUES IN (6) USING heap;
CREATE TABLE queue._log_07 PARTITION OF queue.job_log FOR VALUES IN (7) USING heap;

CREATE TABLE queue.metric_history (
	queue_id            integer NOT NULL,
	at                  timestamptz NOT NULL,
	seconds             integer NOT NULL,
	waiting             bigint NOT NULL,
	delayed             bigint NOT NULL,
	blocked             bigint NOT NULL,
	active              bigint NOT NULL,
	completed           bigint NOT NULL,
	failed              bigint NOT NULL,
	cancelled           bigint NOT NULL,
	oldest_waiting_ms   bigint,
	enqueued_count      bigint NOT NULL,
	taken_count         bigint NOT NULL,
	completed_count     bigint NOT NULL,
	failed_count        bigint NOT NULL,
	retried_count       bigint NOT NULL,
	stalled_count       bigint NOT NULL,
	wait_mean_ms        double precision,
	wait_p95_ms         double precision,
	processing_mean_ms  double precision,
	processing_p95_ms   double precision,
	live_bytes          bigint NOT NULL,
	paused              boolean NOT NULL,
	PRIMARY KEY (queue_id, at)
) USING heap;
COMMENT ON INDEX queue.metric_history_pkey IS 'internal: the numbers of a queue by time';
COMMENT ON TABLE queue.metric_history IS 'the numbers of each queue at full minutes, written by the maintenance worker; of a queue at rest once an hour';
COMMENT ON COLUMN queue.metric_history.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue.metric_history.at IS 'end of the minute';
COMMENT ON COLUMN queue.metric_history.seconds IS 'how long the counts of what happened (..._count) cover: all that happened since the row before happened in the last so many seconds';
COMMENT ON COLUMN queue.metric_history.waiting IS 'jobs that waited then';
COMMENT ON COLUMN queue.metric_history.delayed IS 'delayed jobs then';
COMMENT ON COLUMN queue.metric_history.blocked IS 'blocked jobs then';
COMMENT ON COLUMN queue.metric_history.active IS 'active jobs then';
COMMENT ON COLUMN queue.metric_history.completed IS 'completed jobs that were kept then';
COMMENT ON COLUMN queue.metric_history.failed IS 'failed jobs that were kept then';
COMMENT ON COLUMN queue.metric_history.cancelled IS 'cancelled jobs that were kept then';
COMMENT ON COLUMN queue.metric_history.oldest_waiting_ms IS 'how long the oldest waiting job had been due then, in milliseconds; null: none waited';
COMMENT ON COLUMN queue.metric_history.enqueued_count IS 'jobs that entered the queue since the row before';
COMMENT ON COLUMN queue.metric_history.taken_count IS 'jobs taken since the row before';
COMMENT ON COLUMN queue.metric_history.completed_count IS 'jobs completed since the row before';
COMMENT ON COLUMN queue.metric_history.failed_count IS 'jobs failed for good since the row before';
COMMENT ON COLUMN queue.metric_history.retried_count IS 'attempts failed since the row before that are to be retried';
COMMENT ON COLUMN queue.metric_history.stalled_count IS 'leases that ended since the row before';
COMMENT ON COLUMN queue.metric_history.wait_mean_ms IS 'milliseconds from due to taken, of jobs taken since the row before, on average; null: none';
COMMENT ON COLUMN queue.metric_history.wait_p95_ms IS 'the same, which 95 % of them did not exceed';
COMMENT ON COLUMN queue.metric_history.processing_mean_ms IS 'milliseconds from taken to completed or failed, of attempts settled since the row before, on average; null: none';
COMMENT ON COLUMN queue.metric_history.processing_p95_ms IS 'the same, which 95 % of them did not exceed';
COMMENT ON COLUMN queue.metric_history.live_bytes IS 'size of queue.job_live then, of all queues, with its indexes';
COMMENT ON COLUMN queue.metric_history.paused IS 'whether the queue was paused then';

CREATE TABLE queue._archive_count (
	leaf       smallint NOT NULL,
	queue_id   integer NOT NULL,
	completed  bigint NOT NULL,
	failed     bigint NOT NULL,
	cancelled  bigint NOT NULL
) USING heap;
COMMENT ON TABLE queue._archive_count IS 'internal: changes of how many finished jobs each leaf keeps, append-only, folded by the maintenance worker';
COMMENT ON COLUMN queue._archive_count.leaf IS 'number of the leaf table';
COMMENT ON COLUMN queue._archive_count.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue._archive_count.completed IS 'completed jobs added, less those removed';
COMMENT ON COLUMN queue._archive_count.failed IS 'failed jobs added, less those removed';
COMMENT ON COLUMN queue._archive_count.cancelled IS 'cancelled jobs added, less those removed';

CREATE TABLE queue._prepared (
	xid              bigint NOT NULL,
	queue_id         integer NOT NULL,
	order_class      integer NOT NULL,
	commit_order_at  timestamptz NOT NULL,
	commit_job_id    bigint NOT NULL,
	abort_order_at   timestamptz NOT NULL,
	abort_job_id     bigint NOT NULL,
	waiting          bigint NOT NULL,
	delayed          bigint NOT NULL,
	blocked          bigint NOT NULL,
	active           bigint NOT NULL,
	completed        bigint NOT NULL,
	failed           bigint NOT NULL,
	cancelled        bigint NOT NULL
) USING heap;
COMMENT ON TABLE queue._prepared IS 'internal: what a prepared transaction will have to tell shared memory when it ends';
COMMENT ON COLUMN queue._prepared.xid IS 'the prepared transaction';
COMMENT ON COLUMN queue._prepared.queue_id IS 'number of the queue';
COMMENT ON COLUMN queue._prepared.order_class IS 'class whose hint is concerned; 40000: parked jobs, 50000: none; 60003: the first key is a total and how much, 60004: a time and its bucket, the second their sum and number';
COMMENT ON COLUMN queue._prepared.commit_order_at IS 'least key that becomes claimable by its commit';
COMMENT ON COLUMN queue._prepared.commit_job_id IS 'second part of that key';
COMMENT ON COLUMN queue._prepared.abort_order_at IS 'least key that becomes claimable by its rollback';
COMMENT ON COLUMN queue._prepared.abort_job_id IS 'second part of that key';
COMMENT ON COLUMN queue._prepared.waiting IS 'change of the number of waiting jobs';
COMMENT ON COLUMN queue._prepared.delayed IS 'change of the number of delayed jobs';
COMMENT ON COLUMN queue._prepared.blocked IS 'change of the number of blocked jobs';
COMMENT ON COLUMN queue._prepared.active IS 'change of the number of active jobs';
COMMENT ON COLUMN queue._prepared.completed IS 'change of the number of completed jobs';
COMMENT ON COLUMN queue._prepared.failed IS 'change of the number of failed jobs';
COMMENT ON COLUMN queue._prepared.cancelled IS 'change of the number of cancelled jobs';

/* ---------------------------------------------------------------------
 * Administration
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue.create_queue(
	queue_name text,
	max_attempts int = 3,
	backoff text = 'exponential',
	backoff_base interval = '2s',
	backoff_max interval = '1h',
	backoff_jitter real = 0.1,
	visibility_timeout interval = '30s',
	job_timeout interval = null,
	default_priority int = 5,
	aging_interval interval = null,
	max_active int = null,
	rate_limit int = null,
	rate_period interval = '1s',
	max_depth bigint = null,
	keep_completed interval = '7d',
	keep_failed interval = '7d',
	dead_letter_queue text = null,
	required_keys text[] = null,
	validator text = null,
	log_level text = 'errors',
	notify boolean = false,
	on_failed text = null,
	batch_grace interval = '1min',
	max_active_per_key int = null,
	no_retry_sqlstates text[] = null,
	health_thresholds jsonb = null
) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_create_queue';
COMMENT ON FUNCTION queue.create_queue IS
	'creates a queue with the given settings; the caller owns it';

CREATE FUNCTION queue.alter_queue(
	queue_name text,
	max_attempts int = null,
	backoff text = null,
	backoff_base interval = null,
	backoff_max interval = null,
	backoff_jitter real = null,
	visibility_timeout interval = null,
	job_timeout interval = null,
	default_priority int = null,
	aging_interval interval = null,
	max_active int = null,
	rate_limit int = null,
	rate_period interval = null,
	max_depth bigint = null,
	keep_completed interval = null,
	keep_failed interval = null,
	dead_letter_queue text = null,
	required_keys text[] = null,
	validator text = null,
	log_level text = null,
	notify boolean = null,
	on_failed text = null,
	batch_grace interval = null,
	max_active_per_key int = null,
	no_retry_sqlstates text[] = null,
	health_thresholds jsonb = null,
	owner regrole = null
) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_alter_queue';
COMMENT ON FUNCTION queue.alter_queue IS
	'changes the settings that are given, of one queue, for jobs settled or enqueued from now on';

CREATE FUNCTION queue.reset_queue_setting(queue_name text, setting text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_reset_queue_setting';
COMMENT ON FUNCTION queue.reset_queue_setting IS
	'sets one setting of a queue back to its default';

CREATE FUNCTION queue.drop_queue(queue_name text, cascade boolean = false) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_drop_queue';
COMMENT ON FUNCTION queue.drop_queue IS
	'drops a queue; refuses while it has unfinished jobs, unless cascade drops them too';

CREATE FUNCTION queue.pause_queue(queue_name text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_pause_queue';
COMMENT ON FUNCTION queue.pause_queue IS
	'lets nothing more be taken from a queue, or from all that the caller administers';

CREATE FUNCTION queue.resume_queue(queue_name text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_resume_queue';
COMMENT ON FUNCTION queue.resume_queue IS
	'ends the pause of a queue, or of all that the caller administers';

CREATE FUNCTION queue.purge_queue(queue_name text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_purge_queue';
COMMENT ON FUNCTION queue.purge_queue IS
	'removes every job of a queue that is not running or finished; returns how many';

CREATE FUNCTION queue.grant_queue(queue_name text, role regrole, privileges text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_grant_queue';
COMMENT ON FUNCTION queue.grant_queue IS
	'grants a role privileges on a queue: a list of enqueue, dequeue, browse, admin';

CREATE FUNCTION queue.revoke_queue(queue_name text, role regrole, privileges text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_revoke_queue';
COMMENT ON FUNCTION queue.revoke_queue IS
	'takes privileges on a queue from a role: a list of enqueue, dequeue, browse, admin';

CREATE FUNCTION queue.set_handler(
	queue_name text,
	handler text,
	concurrency int = 1,
	min_workers int = 0
) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_set_handler';
COMMENT ON FUNCTION queue.set_handler IS
	'names the function that runs the jobs of a queue, as its owner; null: none does';

CREATE FUNCTION queue.start_processing(queue_name text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_start_processing';
COMMENT ON FUNCTION queue.start_processing IS
	'lets the server run the handler of a queue, or of all that the caller administers';

CREATE FUNCTION queue.stop_processing(queue_name text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_stop_processing';
COMMENT ON FUNCTION queue.stop_processing IS
	'lets the server start no more jobs of a queue, or of all that the caller administers; those that run go on';

CREATE FUNCTION queue.set_mode(queue_name text, mode text, target_queue text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_set_mode';
COMMENT ON FUNCTION queue.set_mode IS
	'says what an enqueue does: queued, direct (run the handler), mirror (enqueue into the target, too) or fallback (into the target if need be)';

CREATE FUNCTION queue.bind(topic_pattern text, queue_name text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_bind';
COMMENT ON FUNCTION queue.bind IS
	'lets a queue have a job for each topic that matches the pattern: * is one word, # any number';

CREATE FUNCTION queue.unbind(topic_pattern text, queue_name text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_unbind';
COMMENT ON FUNCTION queue.unbind IS
	'takes a pattern from a queue again; false if it was not bound';

CREATE FUNCTION queue.schedule(
	schedule_name text,
	cron text,
	queue_name text,
	payload jsonb,
	priority int = null,
	max_attempts int = null,
	group_key text = null,
	source text = null,
	headers jsonb = null,
	options jsonb = null,
	create_cron_job boolean = true
) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_schedule';
COMMENT ON FUNCTION queue.schedule IS
	'lets pg_cron enqueue a job by the clock, or replaces what the schedule of that name says; returns the number of the cron job';

CREATE FUNCTION queue.unschedule(schedule_name text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_unschedule';
COMMENT ON FUNCTION queue.unschedule IS
	'removes a schedule and its cron job; false if there is none';

CREATE FUNCTION queue._fire(schedule_name text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__fire';
COMMENT ON FUNCTION queue._fire IS
	'internal: called by pg_cron; enqueues the job of a schedule, once a minute at most; returns its number';

/* ---------------------------------------------------------------------
 * Producing
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue.enqueue(
	queue_name text,
	payload jsonb,
	priority int = null,
	delay interval = null,
	run_at timestamptz = null,
	max_attempts int = null,
	unique_key text = null,
	group_key text = null,
	batch_id text = null,
	source text = null,
	headers jsonb = null,
	on_conflict text = 'ignore',
	depends_on bigint[] = null,
	on_parent_failure text = 'fail',
	options jsonb = null
) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_enqueue';
COMMENT ON FUNCTION queue.enqueue IS
	'enqueues one job, as part of the caller''s transaction; returns its id';

CREATE FUNCTION queue.enqueue_batch(
	queue_name text,
	payloads jsonb[],
	priority int = null,
	delay interval = null,
	run_at timestamptz = null,
	max_attempts int = null,
	batch_id text = null,
	source text = null,
	headers jsonb = null,
	options jsonb = null
) RETURNS SETOF bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1000
AS 'MODULE_PATHNAME', 'queue_enqueue_batch';
COMMENT ON FUNCTION queue.enqueue_batch IS
	'enqueues one job per payload, all or none; returns their ids in the order of the payloads';

CREATE FUNCTION queue.publish(
	topic text,
	payload jsonb,
	priority int = null,
	delay interval = null,
	run_at timestamptz = null,
	max_attempts int = null,
	unique_key text = null,
	group_key text = null,
	batch_id text = null,
	source text = null,
	headers jsonb = null,
	on_conflict text = 'ignore',
	depends_on bigint[] = null,
	on_parent_failure text = 'fail',
	options jsonb = null
) RETURNS SETOF bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue_publish';
COMMENT ON FUNCTION queue.publish IS
	'enqueues one job into each queue that is bound to the topic, all or none; returns their ids';

CREATE FUNCTION queue.enqueue_trigger() RETURNS trigger
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_enqueue_trigger';
COMMENT ON FUNCTION queue.enqueue_trigger IS
	'row trigger: enqueues each change of a row, as the owner of the table; its arguments are the queue and, as JSON, options';

/* ---------------------------------------------------------------------
 * Consuming
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue.dequeue_batch(
	queue_name text,
	batch_size int = 1,
	visibility_timeout interval = null,
	worker text = null,
	wait interval = '0',
	bind_session boolean = false
) RETURNS TABLE (
	job_id bigint,
	payload jsonb,
	priority int,
	attempt int,
	max_attempts int,
	enqueued_at timestamptz,
	lease_expires_at timestamptz,
	batch_id text,
	group_key text,
	source text,
	headers jsonb
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
AS 'MODULE_PATHNAME', 'queue_dequeue_batch';
COMMENT ON FUNCTION queue.dequeue_batch IS
	'takes up to batch_size jobs in order of priority and age, and holds them for the visibility timeout; waits for the first';

CREATE FUNCTION queue.process_next(queue_name text) RETURNS TABLE (
	job_id bigint,
	state text,
	result jsonb,
	error text
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1
AS 'MODULE_PATHNAME', 'queue_process_next';
COMMENT ON FUNCTION queue.process_next IS
	'takes the next job of a queue and runs the handler on it, in the caller''s transaction; no row if there is none';

CREATE PROCEDURE queue.wait(queue_name text, timeout interval)
LANGUAGE c
AS 'MODULE_PATHNAME', 'queue_wait';
COMMENT ON PROCEDURE queue.wait IS
	'waits without a snapshot until there may be a job to take, or the timeout is over';

CREATE FUNCTION queue.throttle(queue_name text, duration interval = null) RETURNS timestamptz
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_throttle';
COMMENT ON FUNCTION queue.throttle IS
	'lets nothing be taken from a queue for a while, which grows from call to call if none is given; returns its end; not undone by a rollback';

CREATE FUNCTION queue.complete(job_id bigint, result jsonb = null, attempt int = null) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_complete';
COMMENT ON FUNCTION queue.complete IS
	'completes a job that is held; false if it is not held, or not by this attempt';

CREATE FUNCTION queue.complete_many(job_ids bigint[], attempts int[] = null) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_complete_many';
COMMENT ON FUNCTION queue.complete_many IS
	'completes the jobs that are held; returns how many were';

CREATE FUNCTION queue.complete_and_dequeue(
	job_ids bigint[],
	queue_name text,
	batch_size int = 1,
	visibility_timeout interval = null,
	worker text = null,
	wait interval = '0',
	bind_session boolean = false,
	attempts int[] = null
) RETURNS TABLE (
	job_id bigint,
	payload jsonb,
	priority int,
	attempt int,
	max_attempts int,
	enqueued_at timestamptz,
	lease_expires_at timestamptz,
	batch_id text,
	group_key text,
	source text,
	headers jsonb
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
AS 'MODULE_PATHNAME', 'queue_complete_and_dequeue';
COMMENT ON FUNCTION queue.complete_and_dequeue IS
	'completes the last jobs and takes the next ones in one call';

CREATE FUNCTION queue.fail(
	job_id bigint,
	error text = null,
	retry boolean = true,
	retry_in interval = null,
	attempt int = null
) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_fail';
COMMENT ON FUNCTION queue.fail IS
	'ends an attempt with an error; returns the new state: waiting, delayed or failed; null if the job is not held';

CREATE FUNCTION queue.fail_many(job_ids bigint[], error text = null, attempts int[] = null) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_fail_many';
COMMENT ON FUNCTION queue.fail_many IS
	'ends the attempts of the jobs that are held with an error; returns how many were';

CREATE FUNCTION queue.extend(job_id bigint, visibility_timeout interval, attempt int = null) RETURNS timestamptz
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_extend';
COMMENT ON FUNCTION queue.extend IS
	'holds a job for that long from now; returns the end of the lease, null if the job is not held';

CREATE FUNCTION queue.release(job_id bigint, delay interval = '0', attempt int = null) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_release';
COMMENT ON FUNCTION queue.release IS
	'gives a job back unprocessed, at once or after a delay, and spends no attempt; false if it is not held';

CREATE FUNCTION queue.set_progress(
	job_id bigint,
	percent real,
	step text = null,
	detail jsonb = null,
	extend_by interval = null,
	attempt int = null
) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_set_progress';
COMMENT ON FUNCTION queue.set_progress IS
	'tells how far a job that is held is, for everybody to see at once; null: as before; false if it is not held';

CREATE FUNCTION queue.heartbeat(worker text, queue_name text = null, info jsonb = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_heartbeat';
COMMENT ON FUNCTION queue.heartbeat IS
	'tells that a worker lives; the leases of one that has told so, and is silent since, end after queue.worker_timeout';

CREATE FUNCTION queue.sign_off(worker text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_sign_off';
COMMENT ON FUNCTION queue.sign_off IS
	'tells that a worker stops: its jobs are given back and spend no attempt, it is shown no more; returns how many jobs';

CREATE FUNCTION queue.cancel(job_id bigint) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_cancel';
COMMENT ON FUNCTION queue.cancel IS
	'cancels a job that is not finished, taken or not; false if there is none';

/* ---------------------------------------------------------------------
 * Failed jobs, status, operation
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue.requeue_failed(
	queue_name text = null,
	max_jobs bigint = null,
	batch_id text = null,
	error_pattern text = null,
	older_than interval = null
) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_requeue_failed';
COMMENT ON FUNCTION queue.requeue_failed IS
	'gives failed jobs fresh attempts, oldest failure first; returns how many';

CREATE FUNCTION queue.retry_job(job_id bigint) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_retry_job';
COMMENT ON FUNCTION queue.retry_job IS
	'gives one failed or cancelled job fresh attempts; false if there is none';

CREATE FUNCTION queue.redrive(queue_name text, max_jobs bigint = null) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_redrive';
COMMENT ON FUNCTION queue.redrive IS
	'sends dead letters back to the queues they come from, with fresh attempts, oldest first; returns how many';

CREATE FUNCTION queue.clean(
	queue_name text = null,
	older_than interval = null,
	state text = null
) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_clean';
COMMENT ON FUNCTION queue.clean IS
	'removes finished jobs older than that (null: whose retention has ended); returns how many';

CREATE FUNCTION queue.job_status(job_id bigint) RETURNS TABLE (
	job_id bigint,
	queue_name text,
	state text,
	progress jsonb,
	result jsonb,
	error text,
	attempt int,
	max_attempts int,
	priority int,
	worker text,
	batch_id text,
	group_key text,
	limit_key text,
	unique_key text,
	source text,
	headers jsonb,
	origin jsonb,
	payload jsonb,
	enqueued_at timestamptz,
	run_at timestamptz,
	taken_at timestamptz,
	lease_expires_at timestamptz,
	finished_at timestamptz,
	expires_at timestamptz
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1
AS 'MODULE_PATHNAME', 'queue_job_status';
COMMENT ON FUNCTION queue.job_status IS
	'tells everything about one job; no row if there is none that the caller may browse';

CREATE FUNCTION queue.list_jobs(queue_name text, state text = null, max_jobs int = 100) RETURNS TABLE (
	job_id bigint,
	queue_name text,
	state text,
	progress jsonb,
	result jsonb,
	error text,
	attempt int,
	max_attempts int,
	priority int,
	worker text,
	batch_id text,
	group_key text,
	limit_key text,
	unique_key text,
	source text,
	headers jsonb,
	origin jsonb,
	payload jsonb,
	enqueued_at timestamptz,
	run_at timestamptz,
	taken_at timestamptz,
	lease_expires_at timestamptz,
	finished_at timestamptz,
	expires_at timestamptz
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
AS 'MODULE_PATHNAME', 'queue_list_jobs';
COMMENT ON FUNCTION queue.list_jobs IS
	'lists jobs of a queue, of one state or all: unfinished ones in their order, finished ones newest first';

CREATE FUNCTION queue.queue_stats(queue_name text = null) RETURNS TABLE (
	queue_name text,
	waiting bigint,
	delayed bigint,
	blocked bigint,
	active bigint,
	completed bigint,
	failed bigint,
	cancelled bigint,
	total bigint,
	oldest_waiting_age interval,
	paused boolean,
	throttled_until timestamptz,
	max_active int,
	rate_limit int,
	rate_period interval,
	rate_available int,
	enqueued_total bigint,
	taken_total bigint,
	completed_total bigint,
	failed_total bigint,
	retried_total bigint,
	stalled_total bigint,
	enqueue_rate double precision,
	completion_rate double precision,
	failure_rate double precision,
	wait_mean_ms double precision,
	wait_p50_ms double precision,
	wait_p95_ms double precision,
	wait_p99_ms double precision,
	processing_mean_ms double precision,
	processing_p50_ms double precision,
	processing_p95_ms double precision,
	processing_p99_ms double precision,
	stats_reset timestamptz
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue_queue_stats';
COMMENT ON FUNCTION queue.queue_stats IS
	'counts the jobs of a queue, or of all that the caller may browse, by state, shows its limits, and what has happened since a reset; does not read the jobs';

CREATE FUNCTION queue.stats_reset(queue_name text = null) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_stats_reset';
COMMENT ON FUNCTION queue.stats_reset IS
	'begins the totals and times of queue_stats() anew, of one queue or of all that the caller administers; at once, also if rolled back';

CREATE FUNCTION queue.job_history(job_id bigint) RETURNS TABLE (
	at timestamptz,
	event text,
	attempt int,
	worker text,
	message text,
	error text
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue_job_history';
COMMENT ON FUNCTION queue.job_history IS
	'tells a job''s life in order: from its row, the archive and queue.job_log';

CREATE FUNCTION queue._metrics() RETURNS TABLE (
	queue text,
	jobs_waiting bigint,
	jobs_delayed bigint,
	jobs_blocked bigint,
	jobs_active bigint,
	jobs_completed bigint,
	jobs_failed bigint,
	jobs_cancelled bigint,
	oldest_waiting_age_seconds double precision,
	enqueued_total bigint,
	taken_total bigint,
	completed_total bigint,
	failed_total bigint,
	retried_total bigint,
	stalled_total bigint,
	wait_seconds_p50 double precision,
	wait_seconds_p95 double precision,
	wait_seconds_p99 double precision,
	wait_seconds_sum double precision,
	wait_seconds_count bigint,
	processing_seconds_p50 double precision,
	processing_seconds_p95 double precision,
	processing_seconds_p99 double precision,
	processing_seconds_sum double precision,
	processing_seconds_count bigint,
	paused int,
	throttled int,
	executors int,
	live_table_bytes bigint,
	stats_reset_timestamp_seconds double precision,
	wait_seconds_bucket bigint[],
	processing_seconds_bucket bigint[],
	bucket_bounds_seconds double precision[],
	workers int,
	workers_stale int
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue__metrics_2';
COMMENT ON FUNCTION queue._metrics IS 'internal: under the view queue.metrics';

CREATE FUNCTION queue.queue_health(queue_name text = null) RETURNS TABLE (
	queue_name text,
	status text,
	score int,
	alerts jsonb
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue_queue_health';
COMMENT ON FUNCTION queue.queue_health IS
	'tells whether a queue, or each that the caller may browse and the installation (null), is healthy, degraded or unhealthy, and why';

CREATE FUNCTION queue.health_alerts(queue_name text = null) RETURNS TABLE (
	queue_name text,
	severity text,
	code text,
	message text,
	value double precision,
	threshold double precision,
	recommendation text
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue_health_alerts';
COMMENT ON FUNCTION queue.health_alerts IS
	'the alerts of queue.queue_health(), one row for each, the worst of each queue first; queue_name is null where the installation is concerned';

CREATE FUNCTION queue.explain_job(job_id bigint) RETURNS SETOF text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 3
AS 'MODULE_PATHNAME', 'queue_explain_job';
COMMENT ON FUNCTION queue.explain_job IS
	'tells in words why a job has not run yet, or what became of it: one line for each reason, the decisive one first';

CREATE FUNCTION queue.report() RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_report';
COMMENT ON FUNCTION queue.report IS
	'tells how the queues that the caller may browse are, as one page of HTML for people';

CREATE FUNCTION queue.top(max_queues int = 20) RETURNS SETOF text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 20
AS 'MODULE_PATHNAME', 'queue_top';
COMMENT ON FUNCTION queue.top IS
	'tells how the queues that the caller may browse are, in lines of text for \watch: first those that need attention';

/* ---------------------------------------------------------------------
 * Batches
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue.create_batch(
	batch_id text = null,
	source text = null,
	callback_queue text = null,
	callback_payload jsonb = null
) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_create_batch';
COMMENT ON FUNCTION queue.create_batch IS
	'creates a batch, which stays open until close_batch(); returns its name, a new one if none is given';

CREATE FUNCTION queue.close_batch(batch_id text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_close_batch';
COMMENT ON FUNCTION queue.close_batch IS
	'lets no more jobs into a batch; it is complete when all that it has have ended';

CREATE FUNCTION queue.batch_status(batch_id text) RETURNS TABLE (
	batch_id text,
	source text,
	total bigint,
	processed bigint,
	failed bigint,
	status text,
	started_at timestamptz,
	completed_at timestamptz,
	cancelled bigint,
	open bigint,
	created_at timestamptz,
	closed_at timestamptz,
	closed_by text,
	callback_queue text,
	callback_job_id bigint,
	callback_error text
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1
AS 'MODULE_PATHNAME', 'queue_batch_status';
COMMENT ON FUNCTION queue.batch_status IS
	'tells how far a batch is, exactly as of the snapshot; no row if there is none that the caller may see';

CREATE FUNCTION queue.maintain() RETURNS TABLE (step text, items bigint)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 5
AS 'MODULE_PATHNAME', 'queue_maintain';
COMMENT ON FUNCTION queue.maintain IS
	'does once what the maintenance worker does all the time: due jobs, ended leases, retention';

/* ---------------------------------------------------------------------
 * Internal functions
 * --------------------------------------------------------------------- */

CREATE FUNCTION queue._may(queue_id int, privilege text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__may';
COMMENT ON FUNCTION queue._may IS
	'internal: has the current user this privilege on the queue?';

CREATE FUNCTION queue._state(state "char", lease_owner bigint) RETURNS text
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__state';
COMMENT ON FUNCTION queue._state IS
	'internal: the state of a job in words; a lease from before a restore does not count';

CREATE FUNCTION queue._progress(queue_id int, job_id bigint, attempt int, taken_at timestamptz) RETURNS jsonb
LANGUAGE c STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__progress';
COMMENT ON FUNCTION queue._progress IS
	'internal: what was told of that taking of a job, as long as it lasts; null: nothing';

CREATE FUNCTION queue._workers() RETURNS TABLE (
	worker text,
	kind text,
	pid int,
	role name,
	queue_name text,
	state text,
	job_id bigint,
	job_since timestamptz,
	started_at timestamptz,
	done bigint,
	failed bigint,
	mean_ms double precision,
	last_heartbeat timestamptz,
	info jsonb
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue__workers';
COMMENT ON FUNCTION queue._workers IS
	'internal: the workers that the current user may see; read the view queue.worker';

CREATE FUNCTION queue._dml_trigger() RETURNS trigger
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__dml_trigger';
COMMENT ON FUNCTION queue._dml_trigger IS
	'internal: tells shared memory that a superuser or a restore has changed a table of the queue by SQL';

CREATE FUNCTION queue._hints() RETURNS TABLE (
	queue_id int,
	order_class int,
	hint_order_at timestamptz,
	hint_job_id bigint,
	floor_order_at timestamptz,
	floor_job_id bigint,
	least_expiry timestamptz,
	generation bigint,
	looks int
)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'queue__hints';
COMMENT ON FUNCTION queue._hints IS
	'internal: the hints of this database as they stand in shared memory';

CREATE FUNCTION queue._announce() RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__announce';
COMMENT ON FUNCTION queue._announce IS
	'internal: tells the launcher, at commit, that this database has the extension';

CREATE FUNCTION queue._upgraded() RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__upgraded';
COMMENT ON FUNCTION queue._upgraded IS
	'internal: ends a script that upgrades the extension: grants what is new, and tells everybody';

CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue.job_live
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue.job_live ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue.job_parked
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue.job_parked ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue._archive_count
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue._archive_count ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue.queue
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue.queue ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue.privilege
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue.privilege ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue.binding
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue.binding ENABLE ALWAYS TRIGGER _dml;
CREATE TRIGGER _dml AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue._leaf
	FOR EACH STATEMENT EXECUTE FUNCTION queue._dml_trigger();
ALTER TABLE queue._leaf ENABLE ALWAYS TRIGGER _dml;

/* ---------------------------------------------------------------------
 * What people read
 * --------------------------------------------------------------------- */

CREATE VIEW queue.job WITH (security_barrier = true) AS
SELECT
	j.job_id,
	q.queue_name,
	queue._state(j.state, j.lease_owner) AS state,
	j.priority,
	CASE WHEN j.run_at OPERATOR(pg_catalog.=) 'infinity' THEN j.order_at ELSE j.run_at END AS run_at,
	j.attempt,
	j.max_attempts,
	pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) j.enqueued_at AS age,
	j.enqueued_at,
	CASE WHEN j.attempt OPERATOR(pg_catalog.>) 0 THEN j.taken_at END AS taken_at,
	CASE WHEN queue._state(j.state, j.lease_owner) OPERATOR(pg_catalog.=) 'active'
		THEN j.lease_expires_at END AS lease_expires_at,
	j.worker,
	j.batch_id,
	j.group_key,
	j.limit_key,
	j.unique_key,
	j.source,
	j.headers,
	j.options,
	j.origin,
	j.last_error,
	COALESCE(queue._progress(j.queue_id, j.job_id, j.attempt, j.taken_at), j.progress) AS progress,
	j.payload
FROM (SELECT * FROM queue.job_live UNION ALL SELECT * FROM queue.job_parked) AS j
	JOIN queue.queue AS q ON q.queue_id OPERATOR(pg_catalog.=) j.queue_id
WHERE queue._may(j.queue_id, 'browse');
COMMENT ON VIEW queue.job IS 'every unfinished job that the reader may browse';
COMMENT ON COLUMN queue.job.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job.queue_name IS 'name of its queue';
COMMENT ON COLUMN queue.job.state IS 'waiting, delayed, blocked or active';
COMMENT ON COLUMN queue.job.priority IS 'priority, lower runs first';
COMMENT ON COLUMN queue.job.run_at IS 'when the job became or becomes due';
COMMENT ON COLUMN queue.job.attempt IS 'attempts begun so far';
COMMENT ON COLUMN queue.job.max_attempts IS 'attempts after which it is failed for good';
COMMENT ON COLUMN queue.job.age IS 'time since it was enqueued';
COMMENT ON COLUMN queue.job.enqueued_at IS 'when it was enqueued';
COMMENT ON COLUMN queue.job.taken_at IS 'when the last attempt began';
COMMENT ON COLUMN queue.job.lease_expires_at IS 'end of the lease of an active job';
COMMENT ON COLUMN queue.job.worker IS 'name that the last taker gave';
COMMENT ON COLUMN queue.job.batch_id IS 'batch that the job belongs to';
COMMENT ON COLUMN queue.job.group_key IS 'group whose jobs run one at a time, in order';
COMMENT ON COLUMN queue.job.limit_key IS 'key that max_active_per_key counts by';
COMMENT ON COLUMN queue.job.unique_key IS 'key that no other unfinished job of the queue has';
COMMENT ON COLUMN queue.job.source IS 'tag that the producer gave';
COMMENT ON COLUMN queue.job.headers IS 'headers that the producer gave';
COMMENT ON COLUMN queue.job.options IS 'settings of this job that differ from its queue';
COMMENT ON COLUMN queue.job.origin IS 'of a dead letter: the queue it comes from, and what it was allowed there';
COMMENT ON COLUMN queue.job.last_error IS 'error of the last failed attempt';
COMMENT ON COLUMN queue.job.progress IS 'what was told last of how far it is: percent, step, detail, at';
COMMENT ON COLUMN queue.job.payload IS 'payload';

CREATE VIEW queue.job_finished WITH (security_barrier = true) AS
SELECT
	a.job_id,
	q.queue_name,
	queue._state(a.state, 0) AS state,
	a.priority,
	a.attempt,
	a.max_attempts,
	a.enqueued_at,
	a.run_at,
	CASE WHEN a.attempt OPERATOR(pg_catalog.>) 0 THEN a.taken_at END AS taken_at,
	a.finished_at,
	a.expires_at,
	a.worker,
	a.batch_id,
	a.group_key,
	a.limit_key,
	a.unique_key,
	a.source,
	a.headers,
	a.options,
	a.origin,
	a.error,
	a.result,
	a.progress,
	a.payload
FROM queue.job_archive AS a
	JOIN queue.queue AS q ON q.queue_id OPERATOR(pg_catalog.=) a.queue_id
WHERE queue._may(a.queue_id, 'browse');
COMMENT ON VIEW queue.job_finished IS 'every finished job that is kept and that the reader may browse';
COMMENT ON COLUMN queue.job_finished.job_id IS 'number of the job';
COMMENT ON COLUMN queue.job_finished.queue_name IS 'name of its queue';
COMMENT ON COLUMN queue.job_finished.state IS 'completed, failed or cancelled';
COMMENT ON COLUMN queue.job_finished.priority IS 'priority, lower runs first';
COMMENT ON COLUMN queue.job_finished.attempt IS 'attempts begun';
COMMENT ON COLUMN queue.job_finished.max_attempts IS 'attempts it was allowed';
COMMENT ON COLUMN queue.job_finished.enqueued_at IS 'when it was enqueued';
COMMENT ON COLUMN queue.job_finished.run_at IS 'when it was last due';
COMMENT ON COLUMN queue.job_finished.taken_at IS 'when the last attempt began';
COMMENT ON COLUMN queue.job_finished.finished_at IS 'when it was completed, failed for good or cancelled';
COMMENT ON COLUMN queue.job_finished.expires_at IS 'when its retention ends; removed some time after that';
COMMENT ON COLUMN queue.job_finished.worker IS 'name that the last taker gave';
COMMENT ON COLUMN queue.job_finished.batch_id IS 'batch that the job belonged to';
COMMENT ON COLUMN queue.job_finished.group_key IS 'group whose jobs run one at a time, in order';
COMMENT ON COLUMN queue.job_finished.limit_key IS 'key that max_active_per_key counted by';
COMMENT ON COLUMN queue.job_finished.unique_key IS 'key that no other unfinished job of the queue has';
COMMENT ON COLUMN queue.job_finished.source IS 'tag that the producer gave';
COMMENT ON COLUMN queue.job_finished.headers IS 'headers that the producer gave';
COMMENT ON COLUMN queue.job_finished.options IS 'settings of this job that differed from its queue';
COMMENT ON COLUMN queue.job_finished.origin IS 'of a dead letter: the queue it comes from, and what it was allowed there';
COMMENT ON COLUMN queue.job_finished.error IS 'error of the last failed attempt';
COMMENT ON COLUMN queue.job_finished.result IS 'result that queue.complete() was given';
COMMENT ON COLUMN queue.job_finished.progress IS 'what was told last of how far it is: percent, step, detail, at';
COMMENT ON COLUMN queue.job_finished.payload IS 'payload';

CREATE VIEW queue._batch AS
SELECT
	b.batch_id,
	b.source,
	b.owner,
	b.implicit,
	p.total,
	p.processed,
	p.failed,
	p.cancelled,
	p.total OPERATOR(pg_catalog.-) p.processed OPERATOR(pg_catalog.-) p.failed
		OPERATOR(pg_catalog.-) p.cancelled AS open,
	CASE WHEN b.completed_at IS NOT NULL THEN 'completed' WHEN b.closed_at IS NOT NULL THEN 'closed'
		ELSE 'open' END AS status,
	p.started_at,
	b.completed_at,
	b.created_at,
	b.closed_at,
	b.closed_by,
	b.callback_queue,
	b.callback_job_id,
	b.callback_error,
	p.queue_ids,
	p.at
FROM queue.batch AS b, LATERAL (
	SELECT
		COALESCE(pg_catalog.sum(d.added), 0)::bigint AS total,
		COALESCE(pg_catalog.sum(d.completed), 0)::bigint AS processed,
		COALESCE(pg_catalog.sum(d.failed), 0)::bigint AS failed,
		COALESCE(pg_catalog.sum(d.cancelled), 0)::bigint AS cancelled,
		pg_catalog.min(d.started_at) AS started_at,
		pg_catalog.array_agg(DISTINCT d.queue_id) AS queue_ids,
		pg_catalog.max(d.at) AS at
	FROM queue.batch_progress AS d
	WHERE d.batch_id OPERATOR(pg_catalog.=) b.batch_id AND d.folded IN (false, true)
) AS p
UNION ALL
-- whoever was to make its row has not committed, or never will
SELECT
	d.batch_id,
	null,
	0::oid::regrole,
	true,
	pg_catalog.sum(d.added)::bigint,
	pg_catalog.sum(d.completed)::bigint,
	pg_catalog.sum(d.failed)::bigint,
	pg_catalog.sum(d.cancelled)::bigint,
	pg_catalog.sum(d.added OPERATOR(pg_catalog.-) d.completed OPERATOR(pg_catalog.-) d.failed
		OPERATOR(pg_catalog.-) d.cancelled)::bigint,
	'open',
	pg_catalog.min(d.started_at),
	null,
	pg_catalog.min(d.at),
	null,
	null,
	null,
	null,
	null,
	pg_catalog.array_agg(DISTINCT d.queue_id),
	pg_catalog.max(d.at)
FROM queue.batch_progress AS d
WHERE NOT d.folded
	AND NOT EXISTS (SELECT FROM queue.batch AS b WHERE b.batch_id OPERATOR(pg_catalog.=) d.batch_id)
GROUP BY d.batch_id
HAVING pg_catalog.sum(d.added) OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW queue._batch IS 'internal: every batch with the sums of its counts';
COMMENT ON COLUMN queue._batch.batch_id IS 'name of the batch';
COMMENT ON COLUMN queue._batch.source IS 'tag that its creator, or its first producer, gave';
COMMENT ON COLUMN queue._batch.owner IS 'role that created it; 0: its row is missing';
COMMENT ON COLUMN queue._batch.implicit IS 'nobody created it: an enqueue did';
COMMENT ON COLUMN queue._batch.total IS 'jobs added';
COMMENT ON COLUMN queue._batch.processed IS 'jobs completed';
COMMENT ON COLUMN queue._batch.failed IS 'jobs failed for good, less those requeued';
COMMENT ON COLUMN queue._batch.cancelled IS 'jobs cancelled or removed, less those requeued';
COMMENT ON COLUMN queue._batch.open IS 'jobs that have not ended';
COMMENT ON COLUMN queue._batch.status IS 'open, closed or completed';
COMMENT ON COLUMN queue._batch.started_at IS 'when the first of the jobs that ended had been taken for its last attempt';
COMMENT ON COLUMN queue._batch.completed_at IS 'when it was found that its last job had ended, after it was closed';
COMMENT ON COLUMN queue._batch.created_at IS 'when it was created';
COMMENT ON COLUMN queue._batch.closed_at IS 'when it was closed';
COMMENT ON COLUMN queue._batch.closed_by IS 'close_batch or grace';
COMMENT ON COLUMN queue._batch.callback_queue IS 'queue that gets a job when the batch is complete';
COMMENT ON COLUMN queue._batch.callback_job_id IS 'number of that job';
COMMENT ON COLUMN queue._batch.callback_error IS 'why that job could not be enqueued';
COMMENT ON COLUMN queue._batch.queue_ids IS 'numbers of the queues that have jobs of it';
COMMENT ON COLUMN queue._batch.at IS 'when it changed last';

CREATE VIEW queue.batch_progress_view WITH (security_barrier = true) AS
SELECT
	b.batch_id,
	b.source,
	b.total,
	b.processed,
	b.failed,
	b.cancelled,
	b.open,
	CASE WHEN b.total OPERATOR(pg_catalog.>) 0 THEN pg_catalog.round(
		100.0 OPERATOR(pg_catalog.*) (b.total OPERATOR(pg_catalog.-) b.open)
		OPERATOR(pg_catalog./) b.total, 1) END AS percent,
	b.status,
	b.started_at,
	b.completed_at,
	b.created_at,
	b.closed_at,
	b.closed_by,
	b.callback_queue,
	b.callback_job_id,
	b.callback_error
FROM queue._batch AS b
WHERE pg_catalog.pg_has_role(b.owner, 'USAGE')
	OR EXISTS (SELECT FROM pg_catalog.unnest(b.queue_ids) AS q (queue_id) WHERE queue._may(q.queue_id, 'browse'));
COMMENT ON VIEW queue.batch_progress_view IS 'every batch that the reader owns, or may browse a queue of';
COMMENT ON COLUMN queue.batch_progress_view.batch_id IS 'name of the batch';
COMMENT ON COLUMN queue.batch_progress_view.source IS 'tag that its creator, or its first producer, gave';
COMMENT ON COLUMN queue.batch_progress_view.total IS 'jobs added';
COMMENT ON COLUMN queue.batch_progress_view.processed IS 'jobs completed';
COMMENT ON COLUMN queue.batch_progress_view.failed IS 'jobs failed for good, less those requeued';
COMMENT ON COLUMN queue.batch_progress_view.cancelled IS 'jobs cancelled or removed, less those requeued';
COMMENT ON COLUMN queue.batch_progress_view.open IS 'jobs that have not ended';
COMMENT ON COLUMN queue.batch_progress_view.percent IS 'share of its jobs that have ended, in percent; null: it has no jobs';
COMMENT ON COLUMN queue.batch_progress_view.status IS 'open, closed or completed';
COMMENT ON COLUMN queue.batch_progress_view.started_at IS 'when the first of the jobs that ended had been taken for its last attempt';
COMMENT ON COLUMN queue.batch_progress_view.completed_at IS 'when it was found that its last job had ended, after it was closed';
COMMENT ON COLUMN queue.batch_progress_view.created_at IS 'when it was created';
COMMENT ON COLUMN queue.batch_progress_view.closed_at IS 'when it was closed';
COMMENT ON COLUMN queue.batch_progress_view.closed_by IS 'close_batch or grace';
COMMENT ON COLUMN queue.batch_progress_view.callback_queue IS 'queue that gets a job when the batch is complete';
COMMENT ON COLUMN queue.batch_progress_view.callback_job_id IS 'number of that job';
COMMENT ON COLUMN queue.batch_progress_view.callback_error IS 'why that job could not be enqueued';

CREATE VIEW queue.worker WITH (security_barrier = true) AS
SELECT
	w.worker,
	w.kind,
	w.pid,
	w.role,
	w.queue_name,
	w.state,
	w.job_id,
	w.job_since,
	w.started_at,
	w.done,
	w.failed,
	w.mean_ms,
	w.last_heartbeat,
	w.info
FROM queue._workers() AS w;
COMMENT ON VIEW queue.worker IS 'who works: executors, and outside workers that call queue.heartbeat(), as far as the reader may see them';
COMMENT ON COLUMN queue.worker.worker IS 'name of the worker';
COMMENT ON COLUMN queue.worker.kind IS 'executor: in the server; outside: calls queue.heartbeat()';
COMMENT ON COLUMN queue.worker.pid IS 'process of the server that it is, or called from last';
COMMENT ON COLUMN queue.worker.role IS 'role that it works as';
COMMENT ON COLUMN queue.worker.queue_name IS 'queue that it works for; null: it has not said';
COMMENT ON COLUMN queue.worker.state IS 'starting, idle, busy, or stale: not heard of for queue.worker_timeout';
COMMENT ON COLUMN queue.worker.job_id IS 'job that it is at: of those that it holds, the one taken last';
COMMENT ON COLUMN queue.worker.job_since IS 'since when';
COMMENT ON COLUMN queue.worker.started_at IS 'when it was started, or first heard of';
COMMENT ON COLUMN queue.worker.done IS 'jobs completed since then';
COMMENT ON COLUMN queue.worker.failed IS 'attempts failed since then';
COMMENT ON COLUMN queue.worker.mean_ms IS 'milliseconds that they took on average';
COMMENT ON COLUMN queue.worker.last_heartbeat IS 'when it was last heard of; an executor always is';
COMMENT ON COLUMN queue.worker.info IS 'what it tells of itself';

CREATE VIEW queue.metrics WITH (security_barrier = true) AS
SELECT
	m.queue,
	m.jobs_waiting,
	m.jobs_delayed,
	m.jobs_blocked,
	m.jobs_active,
	m.jobs_completed,
	m.jobs_failed,
	m.jobs_cancelled,
	m.oldest_waiting_age_seconds,
	m.enqueued_total,
	m.taken_total,
	m.completed_total,
	m.failed_total,
	m.retried_total,
	m.stalled_total,
	m.wait_seconds_p50,
	m.wait_seconds_p95,
	m.wait_seconds_p99,
	m.wait_seconds_sum,
	m.wait_seconds_count,
	m.processing_seconds_p50,
	m.processing_seconds_p95,
	m.processing_seconds_p99,
	m.processing_seconds_sum,
	m.processing_seconds_count,
	m.paused,
	m.throttled,
	m.executors,
	m.live_table_bytes,
	m.stats_reset_timestamp_seconds,
	m.wait_seconds_bucket,
	m.processing_seconds_bucket,
	m.bucket_bounds_seconds,
	m.workers,
	m.workers_stale
FROM queue._metrics() AS m;
COMMENT ON VIEW queue.metrics IS 'the numbers of each queue as Prometheus names them, in seconds and bytes: of all queues for members of pg_monitor, else of those that the reader may browse';
COMMENT ON COLUMN queue.metrics.queue IS 'name of the queue';
COMMENT ON COLUMN queue.metrics.jobs_waiting IS 'jobs that wait';
COMMENT ON COLUMN queue.metrics.jobs_delayed IS 'delayed jobs';
COMMENT ON COLUMN queue.metrics.jobs_blocked IS 'blocked jobs';
COMMENT ON COLUMN queue.metrics.jobs_active IS 'active jobs';
COMMENT ON COLUMN queue.metrics.jobs_completed IS 'completed jobs that are kept';
COMMENT ON COLUMN queue.metrics.jobs_failed IS 'failed jobs that are kept';
COMMENT ON COLUMN queue.metrics.jobs_cancelled IS 'cancelled jobs that are kept';
COMMENT ON COLUMN queue.metrics.oldest_waiting_age_seconds IS 'for how long the oldest waiting job has been due; 0: none waits';
COMMENT ON COLUMN queue.metrics.enqueued_total IS 'jobs that entered the queue since the reset';
COMMENT ON COLUMN queue.metrics.taken_total IS 'jobs taken since the reset';
COMMENT ON COLUMN queue.metrics.completed_total IS 'jobs completed since the reset';
COMMENT ON COLUMN queue.metrics.failed_total IS 'jobs failed for good since the reset';
COMMENT ON COLUMN queue.metrics.retried_total IS 'failed attempts that were retried since the reset';
COMMENT ON COLUMN queue.metrics.stalled_total IS 'leases that ended since the reset';
COMMENT ON COLUMN queue.metrics.wait_seconds_p50 IS 'seconds from due to taken since the reset: the median; null: nothing was taken';
COMMENT ON COLUMN queue.metrics.wait_seconds_p95 IS 'the same, which 95 % did not exceed';
COMMENT ON COLUMN queue.metrics.wait_seconds_p99 IS 'the same, which 99 % did not exceed';
COMMENT ON COLUMN queue.metrics.wait_seconds_sum IS 'the same, the sum';
COMMENT ON COLUMN queue.metrics.wait_seconds_count IS 'of how many';
COMMENT ON COLUMN queue.metrics.processing_seconds_p50 IS 'seconds from taken to completed or failed since the reset: the median; null: nothing was settled';
COMMENT ON COLUMN queue.metrics.processing_seconds_p95 IS 'the same, which 95 % did not exceed';
COMMENT ON COLUMN queue.metrics.processing_seconds_p99 IS 'the same, which 99 % did not exceed';
COMMENT ON COLUMN queue.metrics.processing_seconds_sum IS 'the same, the sum';
COMMENT ON COLUMN queue.metrics.processing_seconds_count IS 'of how many';
COMMENT ON COLUMN queue.metrics.paused IS '1: the queue is paused';
COMMENT ON COLUMN queue.metrics.throttled IS '1: nothing is taken for a while';
COMMENT ON COLUMN queue.metrics.executors IS 'executors that run jobs of the queue now';
COMMENT ON COLUMN queue.metrics.live_table_bytes IS 'size of queue.job_live, of all queues, with its indexes';
COMMENT ON COLUMN queue.metrics.stats_reset_timestamp_seconds IS 'when the totals began, in seconds since 1970';
COMMENT ON COLUMN queue.metrics.wait_seconds_bucket IS 'how many of the waits were below each of bucket_bounds_seconds';
COMMENT ON COLUMN queue.metrics.processing_seconds_bucket IS 'how many of the processing times were below each of bucket_bounds_seconds';
COMMENT ON COLUMN queue.metrics.bucket_bounds_seconds IS 'bounds of these histograms, the same for all';
COMMENT ON COLUMN queue.metrics.workers IS 'outside workers that call queue.heartbeat() for the queue, and live';
COMMENT ON COLUMN queue.metrics.workers_stale IS 'those that fell silent, during the last day';

/* ---------------------------------------------------------------------
 * Privileges, row security, what a dump carries
 * --------------------------------------------------------------------- */

REVOKE ALL ON SCHEMA queue FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA queue FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA queue FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA queue FROM PUBLIC;
GRANT USAGE ON SCHEMA queue TO pg_monitor;
GRANT SELECT ON queue.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION queue._metrics, queue.version TO pg_monitor;

-- who watches servers watches queues: states and numbers, never a payload
GRANT USAGE ON SCHEMA queue TO pg_monitor;
GRANT EXECUTE ON FUNCTION queue.queue_health, queue.health_alerts TO pg_monitor;

ALTER TABLE queue.queue ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.queue FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.privilege ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.privilege FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.job_archive ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.job_archive FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.job_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.job_log FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.metric_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.metric_history FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.binding ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.binding FOR SELECT USING (queue._may(queue_id, 'browse'));
ALTER TABLE queue.schedule ENABLE ROW LEVEL SECURITY;
CREATE POLICY browse ON queue.schedule FOR SELECT USING (queue._may(queue_id, 'browse'));

SELECT pg_catalog.pg_extension_config_dump('queue._queue_id', '');
SELECT pg_catalog.pg_extension_config_dump('queue._job_id_block', '');
SELECT pg_catalog.pg_extension_config_dump('queue.queue', '');
-- a dropped role would come back as a bare number, which may be somebody else's there
SELECT pg_catalog.pg_extension_config_dump('queue.privilege',
	'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) grantee)');
SELECT pg_catalog.pg_extension_config_dump('queue.job_live', '');
SELECT pg_catalog.pg_extension_config_dump('queue.job_parked', '');
SELECT pg_catalog.pg_extension_config_dump('queue.unique_key', '');
SELECT pg_catalog.pg_extension_config_dump('queue.group_head', '');
SELECT pg_catalog.pg_extension_config_dump('queue.limit_place', '');
SELECT pg_catalog.pg_extension_config_dump('queue.dependency', '');
SELECT pg_catalog.pg_extension_config_dump('queue.batch', '');
SELECT pg_catalog.pg_extension_config_dump('queue.batch_progress', '');
SELECT pg_catalog.pg_extension_config_dump('queue.binding', '');
SELECT pg_catalog.pg_extension_config_dump('queue.schedule', '');
SELECT pg_catalog.pg_extension_config_dump('queue.metric_history', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_count', '');
SELECT pg_catalog.pg_extension_config_dump('queue._leaf', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_00', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_01', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_02', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_03', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_04', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_05', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_06', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_07', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_08', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_09', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_10', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_11', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_12', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_13', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_14', '');
SELECT pg_catalog.pg_extension_config_dump('queue._archive_15', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_00', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_01', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_02', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_03', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_04', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_05', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_06', '');
SELECT pg_catalog.pg_extension_config_dump('queue._log_07', '');

SELECT queue._announce();

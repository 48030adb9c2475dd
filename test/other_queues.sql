-- Tables as other queues have them, as far as doc/guide.md reads them, with
-- jobs to be moved and some that are not: for 020_docs.

CREATE SCHEMA pgmq;
CREATE TABLE pgmq.q_mail (
	msg_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	read_ct integer DEFAULT 0 NOT NULL,
	enqueued_at timestamptz DEFAULT now() NOT NULL,
	vt timestamptz NOT NULL,
	message jsonb,
	headers jsonb
);
CREATE FUNCTION pgmq.purge_queue(queue_name text) RETURNS bigint LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM pgmq.q_mail RETURNING 1) SELECT count(*) FROM gone
$$;
INSERT INTO pgmq.q_mail (vt, message, headers) VALUES
	(now(), '{"to": "1@example.org"}', null),
	(now(), '{"to": "2@example.org"}', '{"x-pgmq-group": "a"}'),
	(now() + interval '1 min', '{"to": "3@example.org"}', '{"trace": "t"}');

CREATE SCHEMA graphile_worker;
CREATE TABLE graphile_worker._private_tasks (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	identifier text NOT NULL UNIQUE
);
CREATE TABLE graphile_worker._private_job_queues (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	queue_name text NOT NULL UNIQUE
);
CREATE TABLE graphile_worker._private_jobs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	job_queue_id int,
	task_id int NOT NULL,
	payload json DEFAULT '{}' NOT NULL,
	priority smallint DEFAULT 0 NOT NULL,
	max_attempts smallint DEFAULT 25 NOT NULL,
	attempts smallint DEFAULT 0 NOT NULL,
	run_at timestamptz DEFAULT now() NOT NULL,
	key text UNIQUE,
	locked_at timestamptz
);
INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('send');
INSERT INTO graphile_worker._private_job_queues (queue_name) VALUES ('serial');
INSERT INTO graphile_worker._private_jobs (job_queue_id, task_id, payload, attempts, key, locked_at) VALUES
	(null, 1, '{"to": "1@example.org"}', 0, null, null),
	(1, 1, '{"to": "2@example.org"}', 3, 'two', null),
	(null, 1, '{"to": "somebody has it"}', 1, null, now()),
	(null, 1, '{"to": "failed"}', 25, null, null);

CREATE TYPE river_job_state AS ENUM
	('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');
CREATE TABLE river_job (
	id bigserial PRIMARY KEY,
	state river_job_state NOT NULL DEFAULT 'available',
	attempt smallint NOT NULL DEFAULT 0,
	max_attempts smallint NOT NULL,
	scheduled_at timestamptz NOT NULL DEFAULT now(),
	priority smallint NOT NULL DEFAULT 1,
	args jsonb NOT NULL,
	kind text NOT NULL,
	queue text NOT NULL DEFAULT 'default'
);
INSERT INTO river_job (state, attempt, max_attempts, args, kind, queue) VALUES
	('available', 0, 25, '{"to": "1@example.org"}', 'send', 'mail'),
	('retryable', 25, 25, '{"to": "2@example.org"}', 'send', 'mail'),
	('completed', 1, 25, '{"to": "done"}', 'send', 'mail'),
	('available', 0, 25, '{"to": "another queue"}', 'send', 'default');

CREATE TYPE oban_job_state AS ENUM
	('available', 'scheduled', 'executing', 'retryable', 'completed', 'discarded', 'cancelled');
CREATE TABLE oban_jobs (
	id bigserial PRIMARY KEY,
	state oban_job_state NOT NULL DEFAULT 'available',
	queue text NOT NULL DEFAULT 'default',
	worker text NOT NULL,
	args jsonb NOT NULL DEFAULT '{}',
	attempt integer NOT NULL DEFAULT 0,
	max_attempts integer NOT NULL DEFAULT 20,
	priority integer NOT NULL DEFAULT 0,
	scheduled_at timestamp NOT NULL DEFAULT timezone('UTC', now())
);
INSERT INTO oban_jobs (state, queue, worker, args) VALUES
	('available', 'mail', 'Mail', '{"to": "1@example.org"}'),
	('scheduled', 'mail', 'Mail', '{"to": "2@example.org"}'),
	('executing', 'mail', 'Mail', '{"to": "somebody has it"}');

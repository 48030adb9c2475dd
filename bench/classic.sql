-- The rival: a queue in a plain table, as tuned as its shape allows.
--
-- The partial index holds only what may be taken.  Its predicate makes every
-- claim a non-HOT update; an index without it would keep claims HOT, but
-- every claim would then walk past all that is running or done.  There is no
-- index on lease_until: expired leases are rare enough to be looked for by a
-- sequential scan now and then, and the index would cost a tenth of the rate.
CREATE TABLE job (
	id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	queue_id     integer NOT NULL,
	priority     smallint NOT NULL,
	run_at       timestamptz NOT NULL,
	status       "char" NOT NULL DEFAULT 'w',
	attempt      integer NOT NULL DEFAULT 0,
	lease_until  timestamptz,
	finished_at  timestamptz,
	payload      jsonb NOT NULL
) WITH (
	fillfactor = 70,
	autovacuum_vacuum_scale_factor = 0.01,
	autovacuum_vacuum_threshold = 10000,
	autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX ON job (queue_id, priority, run_at, id) WHERE status = 'w';

-- what COPY fills, to say how fast one table with one index can be
CREATE TABLE plain (
	id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	queue_id     integer NOT NULL DEFAULT 1,
	priority     smallint NOT NULL DEFAULT 5,
	run_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
	status       "char" NOT NULL DEFAULT 'w',
	attempt      integer NOT NULL DEFAULT 0,
	payload      jsonb NOT NULL
);

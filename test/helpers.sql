-- Helpers of the regression tests; \i does not mind which of them ran before.
SET client_min_messages = warning;

-- the names of batches that another test has used, and the worker has closed
DELETE FROM queue.batch_progress;
DELETE FROM queue.batch;

-- The counts of a queue as queue_stats() tells them, if the tables say the
-- same, else both.
CREATE OR REPLACE FUNCTION counts(queue_name text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	s record;
	told text;
	found text;
	archived text;
	summed text;
BEGIN
	SELECT * INTO s FROM queue.queue_stats(counts.queue_name);
	SELECT string_agg(state || ' ' || n, ', ' ORDER BY i) INTO told
	FROM (VALUES (1, 'waiting', s.waiting), (2, 'delayed', s.delayed),
		(3, 'blocked', s.blocked), (4, 'active', s.active),
		(5, 'completed', s.completed), (6, 'failed', s.failed),
		(7, 'cancelled', s.cancelled)) AS c (i, state, n)
	WHERE n IS DISTINCT FROM 0;

	SELECT string_agg(state || ' ' || n, ', ' ORDER BY i) INTO found
	FROM (
		SELECT array_position('{waiting,delayed,blocked,active,completed,failed,cancelled}', state) AS i,
			state, count(*) AS n
		FROM (
			SELECT j.state FROM queue.job AS j WHERE j.queue_name = counts.queue_name
			UNION ALL
			SELECT CASE a.state WHEN 'c' THEN 'completed' WHEN 'f' THEN 'failed' ELSE 'cancelled' END
			FROM queue.job_archive AS a JOIN queue.queue AS q USING (queue_id)
			WHERE q.queue_name = counts.queue_name
		) AS job
		GROUP BY state
	) AS c;

	-- what stands in for counting the archive after a crash, leaf by leaf
	SELECT string_agg(concat_ws(' ', leaf, state, n), ', ' ORDER BY leaf, state) INTO archived
	FROM (
		SELECT a.leaf, a.state, count(*) AS n
		FROM queue.job_archive AS a JOIN queue.queue AS q USING (queue_id)
		WHERE q.queue_name = counts.queue_name
		GROUP BY a.leaf, a.state
	) AS c;
	SELECT string_agg(concat_ws(' ', leaf, state, n), ', ' ORDER BY leaf, state) INTO summed
	FROM (
		SELECT c.leaf, v.state, sum(v.n) AS n
		FROM queue._archive_count AS c JOIN queue.queue AS q USING (queue_id),
			LATERAL (VALUES ('c', c.completed), ('f', c.failed), ('x', c.cancelled)) AS v (state, n)
		WHERE q.queue_name = counts.queue_name
		GROUP BY c.leaf, v.state
		HAVING sum(v.n) <> 0
	) AS c;

	IF told IS DISTINCT FROM found THEN
		RETURN format('queue_stats: %s; tables: %s', told, found);
	ELSIF archived IS DISTINCT FROM summed THEN
		RETURN format('job_archive: %s; _archive_count: %s', archived, summed);
	ELSIF s.total IS DISTINCT FROM s.waiting + s.delayed + s.blocked + s.active +
		s.completed + s.failed + s.cancelled THEN
		RETURN format('%s; total: %s', told, s.total);
	END IF;
	RETURN coalesce(told, 'none');
END
$$;

-- Calls of functions that must be refused, each with all that the error says.
CREATE OR REPLACE FUNCTION errors(VARIADIC calls text[]) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	call text;
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	FOREACH call IN ARRAY calls LOOP
		RETURN NEXT call;
		BEGIN
			EXECUTE 'SELECT * FROM ' || call;
			RETURN NEXT '    no error';
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
				detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			RETURN NEXT format('    %s %s', state, message);
			-- not the numbers and names of this very run
			detail := regexp_replace(detail, 'number is \d+', 'number is N');
			detail := replace(detail, format('"%s"', current_database()), 'DATABASE');
			detail := replace(detail, format('"%s"', session_user), 'SUPERUSER');
			IF detail <> '' THEN
				RETURN NEXT '    DETAIL ' || detail;
			END IF;
			IF hint <> '' THEN
				RETURN NEXT '    HINT ' || hint;
			END IF;
		END;
	END LOOP;
END
$$;

-- Look again and again, for ten seconds, until a condition holds.  Between two
-- looks there is no snapshot, so that nothing is held up by this one.
CREATE OR REPLACE PROCEDURE wait_until(condition text)
LANGUAGE plpgsql AS $$
DECLARE
	done boolean;
BEGIN
	FOR i IN 1..1000 LOOP
		EXECUTE 'SELECT ' || condition INTO done;
		EXIT WHEN done;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	IF done IS NOT TRUE THEN
		RAISE EXCEPTION 'waited in vain until %', condition;
	END IF;
END
$$;

-- Take, and while there is nothing to take, look again for ten seconds: a job
-- whose lease has just ended is found a moment later.
CREATE OR REPLACE FUNCTION take(queue_name text, batch_size int = 1,
	visibility_timeout interval = null, worker text = null)
RETURNS TABLE (job_id bigint, payload jsonb, attempt int)
LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..1000 LOOP
		RETURN QUERY SELECT t.job_id, t.payload, t.attempt
		FROM queue.dequeue_batch(take.queue_name, batch_size, visibility_timeout, worker) AS t;
		EXIT WHEN FOUND;
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;

RESET client_min_messages;

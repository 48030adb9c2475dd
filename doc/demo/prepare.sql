-- What the demo needs besides what it shows.

-- The records to import; the device of a vendor's own record is empty.
CREATE TABLE record (bus text, vendor text, device text, name text);

-- One row per file, its records as the payloads of jobs.
CREATE VIEW inventory AS
SELECT bus || '.ids' AS source, array_agg(to_jsonb(record)) AS payloads
FROM record
GROUP BY bus;

-- What every taker runs, as it could look in an application.
CREATE PROCEDURE take_devices(taker text)
LANGUAGE plpgsql
AS $$
DECLARE
	job_ids   bigint[];
	attempts  int[];
	payloads  jsonb[];
BEGIN
	LOOP
		-- The first transaction takes jobs.  If this session dies afterwards,
		-- their lease ends, and somebody else gets them.
		SELECT array_agg(j.job_id), array_agg(j.attempt), array_agg(j.payload)
		INTO job_ids, attempts, payloads
		FROM queue.dequeue_batch('device', 100, worker => taker) AS j;
		COMMIT;

		IF job_ids IS NULL THEN
			-- none may run now, but some may wait for a retry or be leased
			EXIT WHEN NOT EXISTS (
				SELECT FROM queue.queue_stats('device')
				WHERE waiting + delayed + active > 0);
			PERFORM pg_sleep(0.02);
			CONTINUE;
		END IF;

		-- The second one does the work and tells the queue about it: either
		-- both are there afterwards, or neither.  Naming the attempt keeps a
		-- taker that lost its lease from settling somebody else's.
		PERFORM queue.fail(j.job_id, problem(j.payload ->> 'name'), attempt => j.attempt)
		FROM unnest(job_ids, attempts, payloads) AS j (job_id, attempt, payload)
		WHERE problem(j.payload ->> 'name') IS NOT NULL;

		-- a job may come twice, so the work must bear that; in one order,
		-- because two takers could have the same device
		INSERT INTO device
		SELECT DISTINCT ON (d.bus, d.vendor, d.device) d.*
		FROM unnest(payloads) AS payload,
			jsonb_to_record(payload) AS d (bus text, vendor text, device text, name text)
		WHERE problem(d.name) IS NULL
		ORDER BY d.bus, d.vendor, d.device
		ON CONFLICT (bus, vendor, device) DO UPDATE SET name = excluded.name;

		-- those that failed are no longer held, and so left alone
		PERFORM queue.complete_many(job_ids, attempts);
		COMMIT;
	END LOOP;
END
$$;

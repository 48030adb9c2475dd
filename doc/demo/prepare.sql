-- What the demo needs besides what it shows.

-- The records to import; the device of a vendor's own record is empty.
CREATE TABLE record (bus text, vendor text, device text, name text);

-- One row per file, its records as the payloads of jobs.
CREATE VIEW inventory AS
SELECT bus || '.ids' AS source, array_agg(to_jsonb(record)) AS payloads
FROM record
GROUP BY bus;

-- queue.report() and queue.top(): escaping, an empty installation, privileges, width.

-- true where the server cannot read XML
CREATE FUNCTION well_formed(page text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN xmlparse(DOCUMENT regexp_replace(page, '^<!DOCTYPE html>', '')) IS NOT NULL;
EXCEPTION WHEN feature_not_supported THEN
	RETURN true;
END $$;

-- nothing there
SELECT well_formed(queue.report()), queue.report() LIKE '%There is no queue yet%' AS empty;
SELECT * FROM queue.top();

-- names and errors that mean harm
SELECT queue.create_queue(E'<script>alert("x")</script> & ''q''', max_attempts => 1);
SELECT queue.create_queue(repeat('w', 57), max_attempts => 1);
SELECT count(queue.enqueue(queue_name, '{"html": "</code><script>alert(1)</script>"}', source => '"><b>',
	batch_id => '<img src=x onerror=alert(1)>')) FROM queue.queue;
SELECT count(queue.fail(job_id, E'</code><script>\x01\x1b[31m' || U&'\202Egnp\FFFE')) FROM queue.queue AS q,
	queue.dequeue_batch(q.queue_name, worker => '<i onclick="x">');
SELECT well_formed(queue.report()), queue.report() ~ '<script|<img|<i |</code></code>' AS markup,
	queue.report() ~ '[^\n\x20-\x7e]' AS not_ascii, queue.report() LIKE '%&#x3C;script&#x3E;%' AS escaped;
-- the last hours, of which the minutes are told by the maintenance worker
INSERT INTO queue.metric_history (queue_id, at, seconds, waiting, delayed, blocked, active, completed, failed, cancelled,
	enqueued_count, taken_count, completed_count, failed_count, retried_count, stalled_count, wait_p95_ms, processing_p95_ms,
	live_bytes, paused)
SELECT queue_id, now() - interval '1 hour', 60, 7, 0, 0, 0, 0, 0, 0, 50, 40, 30, 20, 0, 0, 2000, 3000, 0, false FROM queue.queue;
SELECT well_formed(queue.report()), queue.report() LIKE '%at most 7</title>%' AS waiting,
	queue.report() ~ ': enqueued 20, completed 12, failed 8 \(jobs per minute\)' AS throughput,
	queue.report() ~ ': wait p95 2, processing p95 3 \(seconds' AS latency;

SELECT max(length(line)) <= 98 AS fits, count(*) FROM queue.top() AS line;
SELECT count(*) FROM queue.top(1);
SELECT queue.top(0);
SELECT queue.top(null);

-- only what one may browse
SELECT queue.create_queue('open'), queue.create_queue('secret');
CREATE ROLE report_reader;
SELECT queue.grant_queue('open', 'report_reader', 'browse');
SET ROLE report_reader;
SELECT queue.report() LIKE '%>open<%' AS open, queue.report() LIKE '%>secret<%' AS secret;
SELECT count(*) FILTER (WHERE line LIKE 'open%') AS open, count(*) FROM queue.top() AS line;
RESET ROLE;

SELECT queue.drop_queue(queue_name, true) FROM queue.queue ORDER BY queue_name;
DROP ROLE report_reader;
DROP FUNCTION well_formed(text);

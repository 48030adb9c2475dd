/* From 0.1.0 to 0.2.0.  It ends with the very objects that sql/queue.sql makes: see test/t/027_upgrade.pl. */

-- complain if the script is sourced in psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION queue UPDATE" to load this file. \quit

-- The library of 0.1.0 cannot tell that it is older than this.  Later scripts begin with
-- SELECT queue._require_preload(), as theirs can.
DO LANGUAGE plpgsql $do$
BEGIN
	CREATE FUNCTION queue.version() RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'queue_version';
EXCEPTION WHEN undefined_function THEN
	RAISE EXCEPTION USING
		ERRCODE = 'object_not_in_prerequisite_state',
		MESSAGE = 'the library "queue" is older than its SQL objects',
		DETAIL = 'The server still has the library that it was started with, they are of version 0.2.0.',
		HINT = 'Restart the server, then run ALTER EXTENSION queue UPDATE again.';
END
$do$;
COMMENT ON FUNCTION queue.version IS
	'the version of the library; that of the SQL objects stands in pg_extension';
REVOKE ALL ON FUNCTION queue.version FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.version TO pg_monitor;

COMMENT ON FUNCTION queue._require_preload() IS
	'internal: refuses to go on unless the library was preloaded, and is not older than the script';

CREATE FUNCTION queue._upgraded() RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue__upgraded';
COMMENT ON FUNCTION queue._upgraded IS
	'internal: ends a script that upgrades the extension: grants what is new, and tells everybody';
REVOKE ALL ON FUNCTION queue._upgraded FROM PUBLIC;

SELECT queue._upgraded();

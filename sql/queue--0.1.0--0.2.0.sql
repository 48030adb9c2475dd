/* From 0.1.0 to 0.2.0; it ends with the very objects that sql/queue.sql makes: test/t/027_upgrade.pl. */

-- complain if the script is sourced in psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION queue UPDATE" to load this file. \quit

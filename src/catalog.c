/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The OIDs of our relations, and each queue's settings.
 *
 * The tables are the truth.  What is cached here is forgotten when a relcache
 * invalidation arrives for one of our tables: DDL sends it, and whoever
 * changes a row of queue.queue, queue.privilege or queue._leaf sends one on
 * purpose (QueueCatalogInvalidate; the tables' triggers do it for a
 * superuser's own DML).  Privileges are forgotten when role memberships
 * change, too.
 *
 * Rows are read with a fresh snapshot, so that a pause counts for an open
 * REPEATABLE READ transaction as well.
 *
 * The SQL objects have a version, and so has the library.  Between a restart
 * with new files and ALTER EXTENSION UPDATE the objects are older: all that
 * they name goes on, and what they lack is an error that says what to do.  They
 * are newer where files were taken back, or a standby was not restarted: then
 * nothing is known of them, and nothing done.  Both are found out when the OIDs
 * are looked up, once for each invalidation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "finish.h"

/* columns of queue.queue */
enum
{
	Q_QUEUE_ID = 1, Q_QUEUE_NAME, Q_OWNER, Q_PAUSED, Q_MAX_ATTEMPTS, Q_BACKOFF,
	Q_BACKOFF_BASE, Q_BACKOFF_MAX, Q_BACKOFF_JITTER, Q_VISIBILITY_TIMEOUT, Q_JOB_TIMEOUT,
	Q_DEFAULT_PRIORITY, Q_AGING_INTERVAL, Q_MAX_ACTIVE, Q_RATE_LIMIT, Q_RATE_PERIOD,
	Q_MAX_DEPTH, Q_KEEP_COMPLETED, Q_KEEP_FAILED, Q_DEAD_LETTER_QUEUE, Q_REQUIRED_KEYS,
	Q_VALIDATOR, Q_LOG_LEVEL, Q_NOTIFY, Q_ON_FAILED, Q_BATCH_GRACE, Q_MAX_ACTIVE_PER_KEY,
	Q_NO_RETRY_SQLSTATES, Q_HEALTH_THRESHOLDS, Q_MODE, Q_TARGET_QUEUE, Q_HANDLER, Q_CONCURRENCY, Q_MIN_WORKERS,
	Q_PROCESSING, Q_THROTTLED_UNTIL, Q_CREATED_AT
};

#define Q_NATTS	Q_CREATED_AT

#define MAX_RETENTION_DAYS	INT64CONST(3650000)

typedef struct CachedQueue
{
	int32		queue_id;		/* hash key */
	QueueSettings settings;
	Oid			user;			/* whose privileges are cached, if any */
	int			privileges;
} CachedQueue;

typedef struct CachedName
{
	char		name[QUEUE_NAME_MAX + 1];	/* hash key, zero-padded */
	int32		queue_id;
} CachedName;

static QueueCatalog catalog;
static bool catalog_valid;
static uint64 generation = 1;

static HTAB *queues_by_id;
static HTAB *queues_by_name;
static bool queues_valid;
static bool privileges_valid;

static void
forget_relations(Datum arg, Oid relid)
{
	bool		ours;

	if (!OidIsValid(relid) || !catalog_valid)
	{
		catalog_valid = queues_valid = false;
		generation++;
		return;
	}
	ours = relid == catalog.live || relid == catalog.parked ||
		relid == catalog.queue || relid == catalog.privilege ||
		relid == catalog.leaf || relid == catalog.archive_count ||
		relid == catalog.unique_key || relid == catalog.group_head ||
		relid == catalog.limit_place || relid == catalog.dependency || relid == catalog.batch ||
		relid == catalog.batch_progress || relid == catalog.binding ||
		relid == catalog.prepared || relid == catalog.job_id_block;
	for (int i = 0; i < ARCHIVE_LEAVES && !ours; i++)
		ours = relid == catalog.archive_leaves[i];
	for (int i = 0; i < LOG_LEAVES && !ours; i++)
		ours = relid == catalog.log_leaves[i];
	if (ours)
	{
		catalog_valid = false;
		if (relid == catalog.queue || relid == catalog.privilege || relid == catalog.live)
			queues_valid = false;
		generation++;
	}
}

static void
forget_privileges(Datum arg, int cacheid, uint32 hashvalue)
{
	privileges_valid = false;
}

void
QueueCatalogInit(void)
{
	CacheRegisterRelcacheCallback(forget_relations, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_privileges, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, forget_privileges, (Datum) 0);
}

uint64
QueueCatalogGeneration(void)
{
	return generation;
}

void
QueueCatalogInvalidate(void)
{
	const QueueCatalog *cat = QueueCatalogGet(false);

	CacheInvalidateRelcacheByRelid(cat->queue);
	CacheInvalidateRelcacheByRelid(cat->leaf);
}

/* "1.2.3" as a number; of what looks otherwise, as far as it looks like that */
static int
version_number(const char *version)
{
	int			part[3] = {0};

	(void) sscanf(version, "%d.%d.%d", &part[0], &part[1], &part[2]);
	return (part[0] * 1000 + part[1]) * 1000 + part[2];
}

/* the version of the SQL objects; null: there is no extension */
static char *
extension_version(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("queue"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		null;

		version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
												   RelationGetDescr(rel), &null));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/* is the library newer than that?  It must not be older */
static bool
check_version(const char *version)
{
	int			theirs = version_number(version);
	int			ours = version_number(QUEUE_VERSION);

	if (theirs > ours)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the library \"queue\" is older than its SQL objects"),
				 errdetail("It is of version %s, they are of version %s.", QUEUE_VERSION, version),
				 errhint("Install the files of version %s and restart the server.", version)));
	return theirs < ours;
}

void
QueueRequireVersion(void)
{
	(void) check_version(extension_version());
}

void
QueueErrorOutdated(const char *missing)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s needs newer SQL objects", missing),
			 errdetail("The library \"queue\" is of version %s, its SQL objects are of version %s.",
					   QUEUE_VERSION, extension_version()),
			 errhint("Run ALTER EXTENSION queue UPDATE.")));
}

static Oid
our_relation(const QueueCatalog *cat, const char *name)
{
	Oid			relid = get_relname_relid(name, cat->schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", QUEUE_SCHEMA, name),
				 cat->outdated ? errdetail("The library \"queue\" is newer than its SQL objects.") :
				 errdetail("It is one of extension \"queue\", and was dropped."),
				 cat->outdated ? errhint("Run ALTER EXTENSION queue UPDATE.") :
				 errhint("Restore the database from a backup.")));
	return relid;
}

/*
 * A table whose rows we form or take apart by ourselves, with so many columns.
 * An older one may lack the last of them.
 */
static Oid
our_table(const QueueCatalog *cat, const char *name, int columns)
{
	Oid			relid = our_relation(cat, name);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int			natts;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	natts = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
	ReleaseSysCache(tuple);
	if (cat->outdated ? natts > columns : natts != columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not as the extension made it", name),
				 errdetail("It has %d columns, not %d.", natts, columns),
				 errhint("Undo the changes to its columns.")));
	return relid;
}

const QueueCatalog *
QueueCatalogGet(bool missing_ok)
{
	QueueCatalog fresh;
	uint64		before = generation;
	Oid			schema;
	char	   *version;
	char		name[NAMEDATALEN];

	if (likely(catalog_valid))
		return &catalog;

	schema = get_namespace_oid(QUEUE_SCHEMA, true);
	if (!OidIsValid(schema) || !OidIsValid(get_relname_relid("job_live", schema)) ||
		(version = extension_version()) == NULL)
	{
		if (missing_ok)
			return NULL;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"queue\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION queue.")));
	}

	memset(&fresh, 0, sizeof(fresh));
	fresh.schema = schema;
	fresh.outdated = check_version(version);
	fresh.live = our_relation(&fresh, "job_live");
	fresh.live_id = our_relation(&fresh, "job_live_pkey");
	fresh.live_ready = our_relation(&fresh, "_job_live_ready");
	fresh.parked = our_relation(&fresh, "job_parked");
	fresh.parked_id = our_relation(&fresh, "job_parked_pkey");
	fresh.parked_due = our_relation(&fresh, "_job_parked_due");
	fresh.parked_group = our_relation(&fresh, "_job_parked_group");
	fresh.parked_limit = our_relation(&fresh, "_job_parked_limit");
	fresh.unique_key = our_table(&fresh, "unique_key", 5);
	fresh.unique_key_key = our_relation(&fresh, "unique_key_pkey");
	fresh.group_head = our_table(&fresh, "group_head", 4);
	fresh.group_head_key = our_relation(&fresh, "group_head_pkey");
	fresh.limit_place = our_table(&fresh, "limit_place", 5);
	fresh.limit_place_key = our_relation(&fresh, "limit_place_pkey");
	fresh.dependency = our_table(&fresh, "dependency", 5);
	fresh.dependency_key = our_relation(&fresh, "dependency_pkey");
	fresh.dependency_child = our_relation(&fresh, "_dependency_child");
	fresh.batch = our_table(&fresh, "batch", 12);
	fresh.batch_key = our_relation(&fresh, "batch_pkey");
	fresh.batch_progress = our_table(&fresh, "batch_progress", 9);
	fresh.batch_progress_id = our_relation(&fresh, "_batch_progress_id");
	fresh.binding = our_table(&fresh, "binding", 2);
	fresh.queue = our_table(&fresh, "queue", Q_NATTS);
	fresh.queue_id_key = our_relation(&fresh, "queue_pkey");
	fresh.queue_name_key = our_relation(&fresh, "queue_queue_name_key");
	fresh.privilege = our_table(&fresh, "privilege", 3);
	fresh.privilege_key = our_relation(&fresh, "privilege_pkey");
	fresh.leaf = our_table(&fresh, "_leaf", 3);
	fresh.archive_count = our_table(&fresh, "_archive_count", 5);
	fresh.prepared = our_table(&fresh, "_prepared", 7 + NUM_COUNTS);
	fresh.job_id_block = our_relation(&fresh, "_job_id_block");
	for (int i = 0; i < ARCHIVE_LEAVES; i++)
	{
		snprintf(name, sizeof(name), "_archive_%02d", i);
		fresh.archive_leaves[i] = our_table(&fresh, name, ARCHIVE_NATTS);
	}
	for (int i = 0; i < LOG_LEAVES; i++)
	{
		snprintf(name, sizeof(name), "_log_%02d", i);
		fresh.log_leaves[i] = our_table(&fresh, name, 9);
	}
	catalog = fresh;

	/* if an invalidation arrived meanwhile, the next caller looks again */
	catalog_valid = generation == before;
	return &catalog;
}

Relation
QueueOpenTable(Oid relid, LOCKMODE mode)
{
	Relation	rel;

	/* one that the SQL objects do not have yet */
	if (!OidIsValid(relid))
		QueueErrorOutdated("this");
	rel = try_relation_open(relid, mode);
	/* we have waited for its lock, and DROP EXTENSION had it */
	if (rel == NULL)
	{
		catalog_valid = queues_valid = false;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"queue\" has been dropped"),
				 errdetail("It was dropped while this command was under way."),
				 errhint("Create it anew with CREATE EXTENSION queue, or try again if somebody has.")));
	}
	return rel;
}

int64
QueueIntervalUsecs(const Interval *interval, const char *argument)
{
	int64		usecs;

	if (!queue_interval_is_finite(interval))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be finite", argument),
				 errdetail("It is infinite."),
				 errhint("Give it in days, hours, minutes or seconds.")));
	if (interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not contain months or years", argument),
				 errdetail("Months differ in length."),
				 errhint("Give it in days, hours, minutes or seconds.")));
	if (pg_mul_s64_overflow((int64) interval->day, USECS_PER_DAY, &usecs) ||
		pg_add_s64_overflow(usecs, interval->time, &usecs))
		ereport(ERROR,
				(errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW),
				 errmsg("%s is out of range", argument),
				 errdetail("It is longer than some 290000 years."),
				 errhint("Give it in days, hours, minutes or seconds.")));
	return usecs;
}

int64
QueueRetentionUsecs(const Interval *interval, const char *argument)
{
	int64		days = (int64) interval->day + (int64) interval->month * DAYS_PER_MONTH +
		interval->time / USECS_PER_DAY;
	int64		usecs;

	/* what is longer, or never ends, is cut down to something that never overflows */
	if (days > MAX_RETENTION_DAYS)
		return MAX_RETENTION_DAYS * USECS_PER_DAY;
	if (days < -MAX_RETENTION_DAYS ||
		(usecs = days * USECS_PER_DAY + interval->time % USECS_PER_DAY) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", argument),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(interval)))),
				 errhint("0 means that such jobs are not kept.")));
	return Min(usecs, MAX_RETENTION_DAYS * USECS_PER_DAY);
}

static QueueMode
read_mode(Datum value)
{
	const char *word = TextDatumGetCString(value);

	for (QueueMode mode = MODE_QUEUED; mode <= MODE_FALLBACK; mode++)
		if (strcmp(word, QueueModeName(mode)) == 0)
			return mode;
	elog(ERROR, "unknown queue mode \"%s\"", word);
	return MODE_QUEUED;			/* keep compiler quiet */
}

const char *
QueueModeName(QueueMode mode)
{
	static const char *const names[] = {
		[MODE_QUEUED] = "queued",
		[MODE_DIRECT] = "direct",
		[MODE_MIRROR] = "mirror",
		[MODE_FALLBACK] = "fallback",
	};

	return names[mode];
}

static void
read_settings(HeapTuple tuple, TupleDesc desc, QueueSettings *settings)
{
	Datum		value[Q_NATTS];
	bool		null[Q_NATTS];

	/* changed since we looked; what an older one lacks is null */
	if (desc->natts > Q_NATTS)
		elog(ERROR, "table \"queue.queue\" has %d columns, expected %d", desc->natts, Q_NATTS);
	memset(null, true, sizeof(null));
	heap_deform_tuple(tuple, desc, value, null);
#define V(att)	value[(att) - 1]
	memset(settings, 0, sizeof(*settings));
	settings->queue_id = DatumGetInt32(V(Q_QUEUE_ID));
	strlcpy(settings->name, TextDatumGetCString(V(Q_QUEUE_NAME)), sizeof(settings->name));
	settings->owner = DatumGetObjectId(V(Q_OWNER));
	settings->paused = DatumGetBool(V(Q_PAUSED));
	settings->max_attempts = DatumGetInt32(V(Q_MAX_ATTEMPTS));
	settings->exponential = strcmp(TextDatumGetCString(V(Q_BACKOFF)), "exponential") == 0;
	settings->backoff_base = QueueIntervalUsecs(DatumGetIntervalP(V(Q_BACKOFF_BASE)), "backoff_base");
	settings->backoff_max = QueueIntervalUsecs(DatumGetIntervalP(V(Q_BACKOFF_MAX)), "backoff_max");
	settings->backoff_jitter = DatumGetFloat4(V(Q_BACKOFF_JITTER));
	settings->visibility_timeout = QueueIntervalUsecs(DatumGetIntervalP(V(Q_VISIBILITY_TIMEOUT)),
													  "visibility_timeout");
	if (!null[Q_JOB_TIMEOUT - 1])
		settings->job_timeout = QueueIntervalUsecs(DatumGetIntervalP(V(Q_JOB_TIMEOUT)),
												   "job_timeout");
	settings->default_priority = DatumGetInt32(V(Q_DEFAULT_PRIORITY));
	settings->aging = !null[Q_AGING_INTERVAL - 1];
	if (settings->aging)
		settings->aging_interval = QueueIntervalUsecs(DatumGetIntervalP(V(Q_AGING_INTERVAL)),
													  "aging_interval");
	settings->keep_completed = QueueRetentionUsecs(DatumGetIntervalP(V(Q_KEEP_COMPLETED)),
													  "keep_completed");
	settings->keep_failed = QueueRetentionUsecs(DatumGetIntervalP(V(Q_KEEP_FAILED)), "keep_failed");
	settings->log_errors = strcmp(TextDatumGetCString(V(Q_LOG_LEVEL)), "none") != 0;
	settings->log_all = strcmp(TextDatumGetCString(V(Q_LOG_LEVEL)), "all") == 0;
	settings->notify = DatumGetBool(V(Q_NOTIFY));
	settings->has_thresholds = !null[Q_HEALTH_THRESHOLDS - 1];
	settings->has_rules = !null[Q_REQUIRED_KEYS - 1] || !null[Q_VALIDATOR - 1];
	settings->has_on_failed = !null[Q_ON_FAILED - 1];
	settings->has_handler = !null[Q_HANDLER - 1];
	settings->has_no_retry = !null[Q_NO_RETRY_SQLSTATES - 1];
	settings->processing = DatumGetBool(V(Q_PROCESSING));
	settings->mode = read_mode(V(Q_MODE));
	settings->batch_grace = QueueIntervalUsecs(DatumGetIntervalP(V(Q_BATCH_GRACE)), "batch_grace");
	settings->max_depth = null[Q_MAX_DEPTH - 1] ? -1 : DatumGetInt64(V(Q_MAX_DEPTH));
#define LIMIT(att)	(null[(att) - 1] ? -1 : DatumGetInt32(V(att)))
	settings->max_active = LIMIT(Q_MAX_ACTIVE);
	settings->max_active_per_key = LIMIT(Q_MAX_ACTIVE_PER_KEY);
	settings->rate_limit = LIMIT(Q_RATE_LIMIT);
#undef LIMIT
	settings->rate_period = QueueIntervalUsecs(DatumGetIntervalP(V(Q_RATE_PERIOD)), "rate_period");
	if (!null[Q_THROTTLED_UNTIL - 1])
		settings->throttled_until = DatumGetTimestampTz(V(Q_THROTTLED_UNTIL));
	settings->created_at = DatumGetTimestampTz(V(Q_CREATED_AT));
	settings->concurrency = DatumGetInt32(V(Q_CONCURRENCY));
	settings->min_workers = DatumGetInt32(V(Q_MIN_WORKERS));
	if (!null[Q_DEAD_LETTER_QUEUE - 1])
		strlcpy(settings->dead_letter_queue, TextDatumGetCString(V(Q_DEAD_LETTER_QUEUE)),
				sizeof(settings->dead_letter_queue));
	if (!null[Q_TARGET_QUEUE - 1])
		strlcpy(settings->target_queue, TextDatumGetCString(V(Q_TARGET_QUEUE)),
				sizeof(settings->target_queue));
#undef V
}

/*
 * Settings are read as they are now.  To systable_beginscan(), NULL is a fresh
 * snapshot; SERIALIZABLE must not take predicate locks for them.
 */
static Snapshot
settings_snapshot(void)
{
	return IsolationIsSerializable() ? SnapshotSelf : NULL;
}

static void
reset_queues(void)
{
	HASHCTL		ctl;

	if (queues_by_id)
		hash_destroy(queues_by_id);
	if (queues_by_name)
		hash_destroy(queues_by_name);
	queues_by_id = queues_by_name = NULL;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(CachedQueue);
	queues_by_id = hash_create("queue settings", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.keysize = QUEUE_NAME_MAX + 1;
	ctl.entrysize = sizeof(CachedName);
	queues_by_name = hash_create("queue names", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	queues_valid = true;
}

/* read one row of queue.queue by either key, and remember it */
static bool
load_queue(const char *name, int32 queue_id, QueueSettings *settings)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	Relation	rel = QueueOpenTable(cat->queue, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	/* opening may have processed invalidations: the index may be another one now */
	cat = QueueCatalogGet(false);
	if (name)
	{
		ScanKeyInit(&key, Q_QUEUE_NAME, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
		key.sk_collation = C_COLLATION_OID;
	}
	else
		ScanKeyInit(&key, Q_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	scan = systable_beginscan(rel, name ? cat->queue_name_key : cat->queue_id_key, true,
							  settings_snapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		read_settings(tuple, RelationGetDescr(rel), settings);
		found = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!found)
		return false;

	if (queues_valid)
	{
		CachedQueue *queue = hash_search(queues_by_id, &settings->queue_id, HASH_ENTER, &found);
		char		padded[QUEUE_NAME_MAX + 1] = {0};
		CachedName *entry;

		queue->settings = *settings;
		queue->user = InvalidOid;
		strlcpy(padded, settings->name, sizeof(padded));
		entry = hash_search(queues_by_name, padded, HASH_ENTER, &found);
		entry->queue_id = settings->queue_id;
	}
	return true;
}

Datum
QueueSettingRead(int32 queue_id, QueueSetting setting, bool *null)
{
	static const int columns[] = {
		[SETTING_REQUIRED_KEYS] = Q_REQUIRED_KEYS,
		[SETTING_VALIDATOR] = Q_VALIDATOR,
		[SETTING_ON_FAILED] = Q_ON_FAILED,
		[SETTING_HANDLER] = Q_HANDLER,
		[SETTING_NO_RETRY_SQLSTATES] = Q_NO_RETRY_SQLSTATES,
		[SETTING_HEALTH_THRESHOLDS] = Q_HEALTH_THRESHOLDS,
	};
	const QueueCatalog *cat = QueueCatalogGet(false);
	Relation	rel = QueueOpenTable(cat->queue, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Datum		value = (Datum) 0;

	cat = QueueCatalogGet(false);
	ScanKeyInit(&key, Q_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	scan = systable_beginscan(rel, cat->queue_id_key, true, settings_snapshot(), 1, &key);
	tuple = systable_getnext(scan);
	*null = true;
	if (HeapTupleIsValid(tuple) && columns[setting] <= RelationGetDescr(rel)->natts)
	{
		value = heap_getattr(tuple, columns[setting], RelationGetDescr(rel), null);
		if (!*null)
			value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return value;
}

static CachedQueue *
cached_queue(int32 queue_id)
{
	if (!queues_valid)
		return NULL;
	return hash_search(queues_by_id, &queue_id, HASH_FIND, NULL);
}

bool
QueueSettingsById(int32 queue_id, QueueSettings *settings)
{
	CachedQueue *queue;

	(void) QueueCatalogGet(false);
	if (!queues_valid)
		reset_queues();
	queue = cached_queue(queue_id);
	if (queue)
	{
		*settings = queue->settings;
		return true;
	}
	return load_queue(NULL, queue_id, settings);
}

bool
QueueSettingsByName(const char *name, Size length, QueueSettings *settings)
{
	char		padded[QUEUE_NAME_MAX + 1] = {0};
	CachedName *entry;

	(void) QueueCatalogGet(false);
	if (length == 0 || length > QUEUE_NAME_MAX)
		return false;
	if (!queues_valid)
		reset_queues();
	memcpy(padded, name, length);
	entry = hash_search(queues_by_name, padded, HASH_FIND, NULL);
	if (entry)
	{
		CachedQueue *queue = cached_queue(entry->queue_id);

		if (queue && strcmp(queue->settings.name, padded) == 0)
		{
			*settings = queue->settings;
			return true;
		}
	}
	return load_queue(padded, 0, settings);
}

/* read queue.privilege for a role, which may be member of grantees */
static int
load_privileges(const QueueSettings *settings, Oid user)
{
	const QueueCatalog *cat = QueueCatalogGet(false);
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			privileges = 0;

	if (superuser_arg(user) ||
		(OidIsValid(settings->owner) && has_privs_of_role(user, settings->owner)))
		return PRIVILEGE_ALL;

	rel = QueueOpenTable(cat->privilege, AccessShareLock);
	cat = QueueCatalogGet(false);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(settings->queue_id));
	scan = systable_beginscan(rel, cat->privilege_key, true, settings_snapshot(), 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		null;
		Oid			grantee = DatumGetObjectId(heap_getattr(tuple, 2, RelationGetDescr(rel), &null));
		char	   *word = TextDatumGetCString(heap_getattr(tuple, 3, RelationGetDescr(rel), &null));

		if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(grantee)) ||
			!has_privs_of_role(user, grantee))
			continue;
		if (strcmp(word, "enqueue") == 0)
			privileges |= PRIVILEGE_ENQUEUE;
		else if (strcmp(word, "dequeue") == 0)
			privileges |= PRIVILEGE_DEQUEUE;
		else if (strcmp(word, "browse") == 0)
			privileges |= PRIVILEGE_BROWSE;
		else if (strcmp(word, "admin") == 0)
			privileges |= PRIVILEGE_ALL;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return privileges;
}

int
QueuePrivilegesOf(const QueueSettings *settings, Oid role)
{
	return load_privileges(settings, role);
}

int
QueuePrivileges(const QueueSettings *settings)
{
	CachedQueue *queue = cached_queue(settings->queue_id);
	Oid			user = GetUserId();
	int			privileges;

	if (!privileges_valid)
	{
		HASH_SEQ_STATUS seq;
		CachedQueue *each;

		privileges_valid = true;
		if (queues_valid)
		{
			hash_seq_init(&seq, queues_by_id);
			while ((each = hash_seq_search(&seq)) != NULL)
				each->user = InvalidOid;
		}
	}
	if (queue && queue->user == user)
		return queue->privileges;
	privileges = load_privileges(settings, user);
	/* loading may have processed invalidations */
	queue = cached_queue(settings->queue_id);
	if (queue && privileges_valid)
	{
		queue->user = user;
		queue->privileges = privileges;
	}
	return privileges;
}

static void
undefined_queue(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("queue \"%s\" does not exist", name),
			 errdetail("Database \"%s\" has no queue of that name.", get_database_name(MyDatabaseId)),
			 errhint("Create it with queue.create_queue(), or look at the names in queue.queue.")));
}

void
QueueRequirePrivilege(const QueueSettings *settings, int privileges)
{
	if (QueuePrivileges(settings) & (privileges | PRIVILEGE_ADMIN))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for queue \"%s\"", settings->name),
			 errdetail("Role \"%s\" lacks the privilege \"%s\".",
					   GetUserNameFromId(GetUserId(), false),
					   privileges & PRIVILEGE_ENQUEUE ? "enqueue" :
					   privileges & PRIVILEGE_DEQUEUE ? "dequeue" :
					   privileges & PRIVILEGE_BROWSE ? "browse" : "admin"),
			 errhint("The owner of the queue can grant it with queue.grant_queue().")));
}

void
QueueSettingsRequire(text *name, int privileges, QueueSettings *settings)
{
	if (!QueueSettingsByName(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), settings))
		undefined_queue(text_to_cstring(name));
	QueueRequirePrivilege(settings, privileges);
}

/*
 * A commit is visible a moment before its invalidations are sent.  Who is told
 * of it otherwise, in between, must not believe the cache.
 */
void
QueueSettingsReread(text *name, int privileges, QueueSettings *settings)
{
	AcceptInvalidationMessages();
	queues_valid = false;
	QueueSettingsRequire(name, privileges, settings);
}

bool
QueueSettingsLockById(int32 queue_id, LOCKMODE mode, QueueSettings *settings)
{
	/* the lock processes invalidations, so what is read after it is current */
	LockDatabaseObject(QueueCatalogGet(false)->queue, (Oid) queue_id, 0, mode);
	return QueueSettingsById(queue_id, settings);
}

bool
QueueSettingsTryLockById(int32 queue_id, LOCKMODE mode, QueueSettings *settings)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, QueueCatalogGet(false)->queue, (Oid) queue_id, 0);
	if (LockAcquire(&tag, mode, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return QueueSettingsById(queue_id, settings);
}

void
QueueSettingsLock(text *name, int privileges, LOCKMODE mode, QueueSettings *settings)
{
	int32		queue_id;

	/* as RangeVarGetRelid(): look, lock, look again */
	QueueSettingsRequire(name, privileges, settings);
	do
	{
		queue_id = settings->queue_id;
		LockDatabaseObject(QueueCatalogGet(false)->queue, (Oid) queue_id, 0, mode);
		QueueSettingsRequire(name, privileges, settings);
	} while (settings->queue_id != queue_id);
}

static int
compare_settings(const ListCell *a, const ListCell *b)
{
	return strcmp(((QueueSettings *) lfirst(a))->name, ((QueueSettings *) lfirst(b))->name);
}

List *
QueueSettingsAll(void)
{
	Relation	rel = QueueOpenTable(QueueCatalogGet(false)->queue, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, settings_snapshot(), 0, NULL);
	HeapTuple	tuple;
	List	   *list = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		QueueSettings *settings = palloc(sizeof(QueueSettings));

		read_settings(tuple, RelationGetDescr(rel), settings);
		list = lappend(list, settings);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	list_sort(list, compare_settings);
	return list;
}

List *
QueueSettingsOf(text *name, int privilege)
{
	List	   *queues = NIL;
	ListCell   *lc;

	if (name)
	{
		QueueSettings *settings = palloc(sizeof(QueueSettings));

		QueueSettingsRequire(name, privilege, settings);
		return list_make1(settings);
	}
	foreach(lc, QueueSettingsAll())
		if (QueuePrivileges(lfirst(lc)) & privilege)
			queues = lappend(queues, lfirst(lc));
	return queues;
}

/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		The OIDs of our relations, and each queue's settings.
 *
 * Both are cached in the backend and forgotten at invalidation.  A caller
 * gets a copy, so that nothing vanishes under it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_CATALOG_H
#define QUEUE_CATALOG_H

#include "queue.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"

#define ARCHIVE_LEAVES	16
#define LOG_LEAVES		8

typedef struct QueueCatalog
{
	Oid			schema;
	bool		outdated;		/* the library is newer than the SQL objects */
	Oid			live;			/* also names the installation */
	Oid			live_id;
	Oid			live_ready;
	Oid			parked;
	Oid			parked_id;
	Oid			parked_due;
	Oid			parked_group;
	Oid			parked_limit;
	Oid			unique_key;
	Oid			unique_key_key;
	Oid			group_head;
	Oid			group_head_key;
	Oid			limit_place;
	Oid			limit_place_key;
	Oid			dependency;
	Oid			dependency_key; /* parent first */
	Oid			dependency_child;
	Oid			batch;
	Oid			batch_key;
	Oid			batch_progress;
	Oid			batch_progress_id;
	Oid			binding;
	Oid			queue;
	Oid			queue_id_key;
	Oid			queue_name_key;
	Oid			privilege;
	Oid			privilege_key;
	Oid			leaf;
	Oid			archive_count;
	Oid			prepared;
	Oid			job_id_block;
	Oid			archive_leaves[ARCHIVE_LEAVES];
	Oid			log_leaves[LOG_LEAVES];
} QueueCatalog;

/* what an enqueue does */
typedef enum QueueMode
{
	MODE_QUEUED,
	MODE_DIRECT,
	MODE_MIRROR,
	MODE_FALLBACK
} QueueMode;

typedef struct QueueSettings
{
	int32		queue_id;
	char		name[QUEUE_NAME_MAX + 1];
	Oid			owner;
	bool		paused;
	bool		exponential;	/* backoff, else fixed */
	bool		aging;			/* order by age and priority, else priority */
	bool		log_errors;
	bool		log_all;		/* log_errors, too */
	bool		notify;
	bool		has_thresholds; /* health_thresholds */
	bool		has_rules;		/* required_keys or validator */
	bool		has_on_failed;
	bool		has_handler;
	bool		has_no_retry;	/* no_retry_sqlstates */
	bool		processing;		/* the server may run the handler */
	QueueMode	mode;
	int			max_attempts;
	int			default_priority;
	float4		backoff_jitter;
	int64		backoff_base;	/* microseconds, as all that follow */
	int64		backoff_max;
	int64		visibility_timeout;
	int64		job_timeout;	/* 0: none */
	int64		aging_interval;
	int64		keep_completed;
	int64		keep_failed;
	int64		batch_grace;
	int64		max_depth;		/* jobs; -1: no limit, as in the next */
	int			max_active;
	int			max_active_per_key;
	int			rate_limit;
	int64		rate_period;	/* microseconds */
	TimestampTz throttled_until;	/* as last saved: see limit.c; 0: not */
	TimestampTz created_at;
	int			concurrency;
	int			min_workers;
	char		dead_letter_queue[QUEUE_NAME_MAX + 1];	/* empty: none */
	char		target_queue[QUEUE_NAME_MAX + 1];	/* empty: none */
} QueueSettings;

/* settings of any length, which are read when they are needed */
typedef enum QueueSetting
{
	SETTING_REQUIRED_KEYS,		/* text[] */
	SETTING_VALIDATOR,			/* text, as the next */
	SETTING_ON_FAILED,
	SETTING_HANDLER,
	SETTING_NO_RETRY_SQLSTATES, /* text[] */
	SETTING_HEALTH_THRESHOLDS	/* jsonb */
} QueueSetting;

typedef enum QueuePrivilege
{
	PRIVILEGE_ENQUEUE = 1 << 0,
	PRIVILEGE_DEQUEUE = 1 << 1,
	PRIVILEGE_BROWSE = 1 << 2,
	PRIVILEGE_ADMIN = 1 << 3	/* implies the others */
} QueuePrivilege;

#define PRIVILEGE_ALL	(PRIVILEGE_ENQUEUE | PRIVILEGE_DEQUEUE | PRIVILEGE_BROWSE | PRIVILEGE_ADMIN)

extern const char *QueueModeName(QueueMode mode);

/* NULL without error only if missing_ok: the extension is not here */
extern const QueueCatalog *QueueCatalogGet(bool missing_ok);

/* table_open(), but with an error for users if the extension was dropped */
extern Relation QueueOpenTable(Oid relid, LOCKMODE mode);

/* false if there is no such queue; the check is another call */
extern bool QueueSettingsByName(const char *name, Size length, QueueSettings *settings);
extern bool QueueSettingsById(int32 queue_id, QueueSettings *settings);

/* a copy of a setting of any length, or null */
extern Datum QueueSettingRead(int32 queue_id, QueueSetting setting, bool *null);

/* what the current user may do with a queue, as a set of QueuePrivilege */
extern int	QueuePrivileges(const QueueSettings *settings);

/* what a role may do: reads the table at each call */
extern int	QueuePrivilegesOf(const QueueSettings *settings, Oid role);

/*
 * The queue of that name, for a caller who needs one of the privileges in the
 * set; an error if there is none, or it may not.
 */
extern void QueueSettingsRequire(text *name, int privileges, QueueSettings *settings);

/* the same, as it is now, whether or not we have been told of a change */
extern void QueueSettingsReread(text *name, int privileges, QueueSettings *settings);
extern void QueueRequirePrivilege(const QueueSettings *settings, int privileges);

/*
 * The same, and the queue cannot be dropped, nor its order be changed, until
 * the end of the transaction: for those who put jobs into it.
 */
extern void QueueSettingsLock(text *name, int privileges, LOCKMODE mode, QueueSettings *settings);
extern bool QueueSettingsLockById(int32 queue_id, LOCKMODE mode, QueueSettings *settings);
/* false: somebody has it, or waits for it */
extern bool QueueSettingsTryLockById(int32 queue_id, LOCKMODE mode, QueueSettings *settings);

/* the queue of that name; without one, all that the caller has the privilege on */
extern List *QueueSettingsOf(text *name, int privilege);

/* every queue, as a list of palloc'd QueueSettings ordered by name */
extern List *QueueSettingsAll(void);

/* forget what is cached, in every backend, at commit */
extern void QueueCatalogInvalidate(void);

/* incremented with every invalidation; tells others to forget, too */
extern uint64 QueueCatalogGeneration(void);

/* in an extension script: error if the library is older than what is being made */
extern void QueueRequireVersion(void);

/* error: the SQL objects lack what the library needs for it */
extern void QueueErrorOutdated(const char *missing);

/* an interval without months as microseconds; an error names the argument */
extern int64 QueueIntervalUsecs(const Interval *interval, const char *argument);

/* the same for a retention, which need not be exact: months have 30 days */
extern int64 QueueRetentionUsecs(const Interval *interval, const char *argument);

extern void QueueCatalogInit(void);

#endif							/* QUEUE_CATALOG_H */

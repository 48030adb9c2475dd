/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Every difference between the PostgreSQL versions that we build on,
 *		the newest release first.
 *
 * Nothing else in src/ tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_COMPAT_H
#define QUEUE_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"
#include "funcapi.h"
#include "postmaster/bgworker.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 140000
#error "queue needs PostgreSQL 14 or later"
#endif

/* 19: a worker may be asked to leave its database for DROP DATABASE */
#ifdef BGWORKER_INTERRUPTIBLE
#define QUEUE_WORKER_INTERRUPTIBLE BGWORKER_INTERRUPTIBLE
#else
#define QUEUE_WORKER_INTERRUPTIBLE 0
#endif

/* 19: what to do and how is one set of flags for table_tuple_update() and table_tuple_delete() */
#if PG_VERSION_NUM >= 190000
#define queue_tuple_update(rel, tid, slot, cid, wait, tmfd, mode, indexes) \
	table_tuple_update(rel, tid, slot, cid, 0, SnapshotAny, InvalidSnapshot, wait, tmfd, mode, indexes)
#define queue_tuple_delete(rel, tid, cid, wait, tmfd, moving) \
	table_tuple_delete(rel, tid, cid, (moving) ? TABLE_DELETE_CHANGING_PARTITION : 0, \
					   SnapshotAny, InvalidSnapshot, wait, tmfd)
#else
#define queue_tuple_update(rel, tid, slot, cid, wait, tmfd, mode, indexes) \
	table_tuple_update(rel, tid, slot, cid, SnapshotAny, InvalidSnapshot, wait, tmfd, mode, indexes)
#define queue_tuple_delete(rel, tid, cid, wait, tmfd, moving) \
	table_tuple_delete(rel, tid, cid, SnapshotAny, InvalidSnapshot, wait, tmfd, moving)
#endif

/* 19: table_beginscan() takes flags */
#if PG_VERSION_NUM >= 190000
#define queue_beginscan(rel, snapshot) table_beginscan(rel, snapshot, 0, NULL, SO_NONE)
#else
#define queue_beginscan(rel, snapshot) table_beginscan(rel, snapshot, 0, NULL)
#endif

/* 19: who prunes a page may mark it all-visible */
#if PG_VERSION_NUM >= 190000
#define queue_page_prune(heap, buffer, map) heap_page_prune_opt(heap, buffer, map, false)
#else
#define queue_page_prune(heap, buffer, map) heap_page_prune_opt(heap, buffer)
#endif

/* 19: who descends a B-tree says whether it wants the way back; 17: no snapshot; 16: the heap is named */
#if PG_VERSION_NUM >= 190000
#define queue_bt_search(index, heap, key, leaf) _bt_search(index, heap, key, leaf, BT_WRITE, true)
#elif PG_VERSION_NUM >= 170000
#define queue_bt_search(index, heap, key, leaf) _bt_search(index, heap, key, leaf, BT_WRITE)
#elif PG_VERSION_NUM >= 160000
#define queue_bt_search(index, heap, key, leaf) _bt_search(index, heap, key, leaf, BT_WRITE, NULL)
#else
#define queue_bt_search(index, heap, key, leaf) _bt_search(index, key, leaf, BT_WRITE, NULL)
#endif

/* 18: autovacuum workers have slots of their own */
#if PG_VERSION_NUM >= 180000
#define queue_autovacuum_slots autovacuum_worker_slots
#else
#define queue_autovacuum_slots autovacuum_max_workers
#endif

/* 18: the attribute is written in front */
#if PG_VERSION_NUM >= 180000
#define QUEUE_NORETURN pg_noreturn
#else
#define QUEUE_NORETURN __attribute__((noreturn))
#endif

/* 18: index_beginscan() can count what it does */
#if PG_VERSION_NUM >= 190000
#define queue_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0, SO_NONE)
#elif PG_VERSION_NUM >= 180000
#define queue_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define queue_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* 17: intervals may be infinite; extensions name their wait events */
#if PG_VERSION_NUM >= 170000
#define queue_interval_is_finite(interval) (!INTERVAL_NOT_FINITE(interval))
#else
#define queue_interval_is_finite(interval) true
#endif
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION
#endif

/* 16: an update tells more than yes or no about its index entries */
#if PG_VERSION_NUM >= 160000
#define QUEUE_UPDATE_INDEXES_TYPE TU_UpdateIndexes
#include "varatt.h"
#else
#define QUEUE_UPDATE_INDEXES_TYPE bool
#endif

/* 16: a member of a role need not be allowed to become it */
#if PG_VERSION_NUM >= 160000
#define queue_can_set_role(member, role) member_can_set_role(member, role)
#else
#define queue_can_set_role(member, role) is_member_of_role(member, role)
#endif

/* 16: one function checks privileges on all kinds of objects */
#if PG_VERSION_NUM >= 160000
#define queue_function_aclcheck(oid, role) object_aclcheck(ProcedureRelationId, oid, role, ACL_EXECUTE)
#define queue_schema_aclcheck(oid, role) object_aclcheck(NamespaceRelationId, oid, role, ACL_USAGE)
#else
#define queue_function_aclcheck(oid, role) pg_proc_aclcheck(oid, role, ACL_EXECUTE)
#define queue_schema_aclcheck(oid, role) pg_namespace_aclcheck(oid, role, ACL_USAGE)
#endif

/* 15: what a B-tree keeps at the end of a page has a name */
#if PG_VERSION_NUM < 150000
#define BTPageGetOpaque(page) ((BTPageOpaque) PageGetSpecialPointer(page))
#endif

/* 15: who sends notifications need not wake the listeners itself */
#if PG_VERSION_NUM >= 150000
#define queue_send_notifies() ((void) 0)
#else
#define queue_send_notifies() ProcessCompletedNotifies()
#endif

/* 15: shared memory is requested in a hook; random numbers have a home */
#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"
#define QUEUE_HAVE_SHMEM_REQUEST_HOOK 1
#define queue_random_double() pg_prng_double(&pg_global_prng_state)
#else
#define queue_random_double() ((double) random() / ((double) MAX_RANDOM_VALUE + 1))
extern void queue_init_materialized_srf(FunctionCallInfo fcinfo, bits32 flags);
#define InitMaterializedSRF(fcinfo, flags) queue_init_materialized_srf(fcinfo, flags)
#define MAT_SRF_USE_EXPECTED_DESC 0x01
#define MAT_SRF_BLESS 0x02
#endif

#endif							/* QUEUE_COMPAT_H */

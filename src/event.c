/*-------------------------------------------------------------------------
 *
 * event.c
 *		What happens to a queue's jobs, told by NOTIFY.
 *
 * A NOTIFY makes the commits of a whole cluster wait for each other, and a
 * transaction with one cannot be prepared.  So no producer and no taker sends
 * one.  Where the setting notify of a queue is on, verbs record what they do,
 * the callback at commit adds it up in the queue's slot, one sum for each kind
 * of event, and the maintenance worker sends what has come together: one
 * message for each queue and kind, and not again for queue.notify_interval.
 * Where it is off, a verb tests the setting, and that is all.
 *
 * Whoever adds to a slot sets the installation's flag after it; who finds it
 * set already need do nothing, as somebody has set the worker's latch, and it
 * has not looked yet.  The worker clears the flag before it looks at the
 * slots, and it does so only when it is time: until then the flag stays set,
 * and a busy queue does not wake it at each commit.
 *
 * | race                                    | why it is harmless
 * | added while the worker looks            | the flag is set again after it: in the next look
 * | flag cleared, slot not yet looked at    | it is about to be: the sum is taken under its lock
 * | the setting is switched off meanwhile   | what has happened before is told
 * | the worker does not know the queue yet  | it sets the flag again, and looks after the interval
 * | the worker ends between look and commit | events are lost: they are hints, tables tell the state
 *
 * A prepared transaction takes its records along in queue._prepared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "event.h"
#include "job.h"
#include "worker.h"

int			queue_notify_interval = 1000;

#define MAX_NOTIFY_USAGE	0.95	/* of the server's queue of notifications */

typedef struct PendingEvent
{
	QueueSlot  *slot;
	QueueEvent	event;
	SubTransactionId subid;
	SlotEvent	what;
	char		batch_id[EVENT_BATCH_ID];	/* of EVENT_BATCH_COMPLETED only */
} PendingEvent;

static PendingEvent *pending;
static int	num_pending,
			max_pending;

static const char *const event_names[NUM_EVENTS] = {
	[EVENT_ENQUEUED] = "enqueued",
	[EVENT_COMPLETED] = "completed",
	[EVENT_FAILED] = "failed",
	[EVENT_CANCELLED] = "cancelled",
	[EVENT_RETRIED] = "retried",
	[EVENT_STALLED] = "stalled",
	[EVENT_BATCH_COMPLETED] = "batch_completed",
};

/* ---------------------------------------------------------------------
 * What a transaction will tell
 * --------------------------------------------------------------------- */

/* the later one stands for both */
static void
add(SlotEvent *sum, const SlotEvent *what)
{
	int64		count = sum->count + what->count;

	*sum = *what;
	sum->count = count;
}

/* batch_id: of EVENT_BATCH_COMPLETED only */
static void
record(QueueSlot *slot, QueueEvent event, SubTransactionId subid, const SlotEvent *what,
	   const char *batch_id)
{
	PendingEvent *new;

	for (int i = num_pending - 1; i >= 0 && pending[i].subid >= subid; i--)
		if (pending[i].slot == slot && pending[i].event == event && pending[i].subid == subid)
		{
			add(&pending[i].what, what);
			if (event == EVENT_BATCH_COMPLETED)
				memmove(pending[i].batch_id, batch_id, EVENT_BATCH_ID);
			return;
		}
	if (num_pending >= max_pending)
	{
		int			size = Max(16, max_pending * 2);

		pending = pending == NULL ?
			MemoryContextAlloc(TopMemoryContext, size * sizeof(PendingEvent)) :
			repalloc(pending, size * sizeof(PendingEvent));
		max_pending = size;
	}
	new = &pending[num_pending++];
	new->slot = slot;
	new->event = event;
	new->subid = subid;
	new->what = *what;
	if (event == EVENT_BATCH_COMPLETED)
		memmove(new->batch_id, batch_id, EVENT_BATCH_ID);
}

void
QueueEventRecord(QueueSlot *slot, QueueEvent event, int64 job_id, JobState state, int64 count)
{
	SlotEvent	what = {.count = count, .job_id = job_id, .state = (char) state};

	if (slot && count > 0)
		record(slot, event, GetCurrentSubTransactionId(), &what, NULL);
}

void
QueueEventBatch(QueueSlot *slot, const char *batch_id)
{
	SlotEvent	what = {.count = 1};
	char		told[EVENT_BATCH_ID] = "";

	/* half a name would be another's */
	if (strlen(batch_id) < sizeof(told))
		strlcpy(told, batch_id, sizeof(told));
	if (slot)
		record(slot, EVENT_BATCH_COMPLETED, GetCurrentSubTransactionId(), &what, told);
}

/* will this transaction tell any? */
bool
QueueEventAny(void)
{
	return num_pending > 0;
}

bool
QueueEventPending(int number, QueueSlot **slot, QueueEvent *event, SlotEvent *what)
{
	if (number >= num_pending)
		return false;
	*slot = pending[number].slot;
	*event = pending[number].event;
	*what = pending[number].what;
	return true;
}

void
QueueEventAdd(QueueSlot *slot, QueueEvent event, const SlotEvent *what, const char *batch_id)
{
	Installation *installation = &Installations[slot->installation];
	Latch	   *latch = installation->maintenance;

	SpinLockAcquire(&slot->event_mutex);
	add(&slot->event[event], what);
	if (event == EVENT_BATCH_COMPLETED && batch_id)
		memcpy(slot->event_batch_id, batch_id, EVENT_BATCH_ID);
	else if (event == EVENT_BATCH_COMPLETED)
		slot->event_batch_id[0] = '\0';
	SpinLockRelease(&slot->event_mutex);
	if (pg_atomic_exchange_u32(&installation->events, 1) == 0 && latch)
		SetLatch(latch);
}

void
QueueEventCommit(void)
{
	for (int i = 0; i < num_pending; i++)
		QueueEventAdd(pending[i].slot, pending[i].event, &pending[i].what, pending[i].batch_id);
}

void
QueueEventForget(void)
{
	num_pending = 0;
}

/* the last records become the parent's, and are merged with what it has: no room is needed */
void
QueueEventCommitSub(SubTransactionId subid, SubTransactionId parent_subid)
{
	int			first = num_pending;
	int			count = num_pending;

	while (first > 0 && pending[first - 1].subid == subid)
		first--;
	num_pending = first;
	for (int i = first; i < count; i++)
		record(pending[i].slot, pending[i].event, parent_subid, &pending[i].what,
			   pending[i].batch_id);
}

void
QueueEventAbortSub(SubTransactionId subid)
{
	while (num_pending > 0 && pending[num_pending - 1].subid >= subid)
		num_pending--;
}

/* ---------------------------------------------------------------------
 * The worker
 * --------------------------------------------------------------------- */

static void
append_string(StringInfo json, const char *key, const char *value)
{
	appendStringInfo(json, ", \"%s\": ", key);
	escape_json(json, value);
}

static void
send_event(const QueueSettings *settings, QueueEvent event, const SlotEvent *what,
		   const char *batch_id)
{
	StringInfoData json;
	char		at[MAXDATELEN + 1];

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"event\": ");
	escape_json(&json, event_names[event]);
	append_string(&json, "queue", settings->name);
	if (what->job_id != 0)
		appendStringInfo(&json, ", \"job_id\": " INT64_FORMAT, what->job_id);
	if (what->state != 0)
		append_string(&json, "state", QueueStateName((JobState) what->state));
	if (event == EVENT_BATCH_COMPLETED && batch_id[0] != '\0')
		append_string(&json, "batch_id", batch_id);
	appendStringInfo(&json, ", \"count\": " INT64_FORMAT, what->count);
	(void) JsonEncodeDateTime(at, TimestampTzGetDatum(GetCurrentTimestamp()), TIMESTAMPTZOID,
							  NULL);
	append_string(&json, "at", at);
	appendStringInfoChar(&json, '}');
	Async_Notify(psprintf("%s.%s", QUEUE_SCHEMA, settings->name), json.data);
	pfree(json.data);
}

/* false: there are none */
static bool
take_events(QueueSlot *slot, SlotEvent *events, char *batch_id)
{
	bool		any = false;

	SpinLockAcquire(&slot->event_mutex);
	memcpy(events, slot->event, sizeof(slot->event));
	memcpy(batch_id, slot->event_batch_id, EVENT_BATCH_ID);
	memset(slot->event, 0, sizeof(slot->event));
	SpinLockRelease(&slot->event_mutex);
	for (QueueEvent event = 0; event < NUM_EVENTS; event++)
		any |= events[event].count > 0;
	return any;
}

/* a queue that is not known yet, or not any more: until its slot is freed */
static bool
has_events(QueueSlot *slot)
{
	bool		any = false;

	SpinLockAcquire(&slot->event_mutex);
	for (QueueEvent event = 0; event < NUM_EVENTS; event++)
		any |= slot->event[event].count > 0;
	SpinLockRelease(&slot->event_mutex);
	return any;
}

/* at its end a listener that never reads makes every NOTIFY of the cluster fail */
static bool
no_room(void)
{
	static bool logged;
	bool		full = DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0)) >
		MAX_NOTIFY_USAGE;

	if (full && !logged)
		ereport(LOG,
				(errmsg("events of queues are not told for want of room"),
				 errdetail("The server's queue of notifications is nearly full."),
				 errhint("End the session that listens and is in a transaction for long.")));
	logged = full;
	return full;
}

/* tell what the slots have; returns whether some is left */
static bool
send_events(Installation *installation, const QueueSettings *const *queue_of_slot)
{
	bool		left = false;

	for (int i = 0; i < queue_max_queues; i++)
	{
		const QueueSettings *settings = queue_of_slot[i];
		SlotEvent	events[NUM_EVENTS];
		char		batch_id[EVENT_BATCH_ID];

		if (QueueSlots[i].installation != installation - Installations)
			continue;
		if (settings == NULL || settings->queue_id != QueueSlots[i].queue_id)
			left |= has_events(&QueueSlots[i]);
		else if (take_events(&QueueSlots[i], events, batch_id))
			for (QueueEvent event = 0; event < NUM_EVENTS; event++)
				if (events[event].count > 0)
					send_event(settings, event, &events[event], batch_id);
	}
	return left;
}

void
QueueEventSend(Installation *installation, const QueueSettings *const *queue_of_slot,
			   TimestampTz *wake_at)
{
	static TimestampTz sent_at;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz interval = (TimestampTz) queue_notify_interval * 1000;

	if (pg_atomic_read_u32(&installation->events) == 0)
		return;
	if (QueueHasPassed(sent_at, queue_notify_interval, now))
	{
		sent_at = now;
		QueueWorkerBegin("telling events");
		(void) pg_atomic_exchange_u32(&installation->events, 0);
		if (no_room() || send_events(installation, queue_of_slot))
			pg_atomic_write_u32(&installation->events, 1);
		QueueWorkerCommit();
		queue_send_notifies();
	}
	if (pg_atomic_read_u32(&installation->events) != 0)
		*wake_at = Min(*wake_at, sent_at + interval);
}

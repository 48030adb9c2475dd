/*-------------------------------------------------------------------------
 *
 * hint.c
 *		Shared hints: where the next look at a class of jobs may begin.
 *
 * A look that began at the left edge of the ready index would wade through
 * every job that is done or taken until vacuum has come by, which under an
 * old snapshot is never.  So each (queue, class) has a hint in shared memory:
 * a key below which there is nothing to claim.  The table is the truth; a
 * hint may be lost at any time and costs one longer look.
 *
 * The invariant:
 *
 *		Every claimable key is at or above the hint, or a look has reserved
 *		it, or the backend whose change made it claimable is about to note
 *		it, and its change is already visible to every snapshot taken from
 *		now on.
 *
 * What keeps it:
 *
 * - note(k) is called after k became claimable for everybody: in the commit
 *	 callback of an enqueue or of a return, in the abort callback of whatever
 *	 changed or locked the row.  It lowers the hint to k.
 *
 * - raise(look, t) may claim that nothing below t is claimable, because the
 *	 look has seen it so.  But its snapshot may be older than some change that
 *	 has been noted since: the hint then is raised only to the least key noted
 *	 since the look began.  This holds because a look begins *before* it takes
 *	 its snapshot.  Let W be a change, noted after it became visible, and L a
 *	 look that does not see W.  Then L's snapshot was taken before W became
 *	 visible, L began before that, and so before W was noted; whether L raises
 *	 before W's note (which then lowers again) or after (the note was collected
 *	 for L), the hint ends at or below W's key.
 *
 *	 Taking the snapshot first loses jobs: W becomes visible and is noted
 *	 between snapshot and beginning, and L raises past it.  The storm in
 *	 test/t has a mutation that leaves the collecting out, and sees it.
 *
 * - The notes since a look began are collected in a cell that the look
 *	 registers, or, if all cells are taken, read back from the ring of the last
 *	 notes; if the ring has gone round meanwhile, the raise is refused.
 *
 * - reserve(look, here, t) is a raise ahead of what the look has seen, so that
 *	 takers who begin together do not meet in the same pages: the look promises
 *	 to try every key from here to t.  It begins where the hint is, so nothing
 *	 is passed over, and ends at the least key noted, as any raise.  If the
 *	 promise is broken by an error, the abort notes here (QueueXactReserve): to
 *	 others, a reserved job is as if claimed.  A row may have two entries of one
 *	 key, and t lie between them: whoever finds nothing at the first reads on to
 *	 the second before it reserves more (QueueScanNext).
 *
 * - A row that is skipped because somebody else is changing it needs no note
 *	 from us: whoever changes a row records a note for its abort before it
 *	 touches the row (QueueXactNote), and an active row comes back by the sweep
 *	 of the maintenance worker, which looks from the floor to the last active
 *	 job as soon as the least expiry of the class has passed.
 *
 * - The floor, below which there is no unfinished row at all, is kept by the
 *	 same rules; a sweep starts there.
 *
 * - What nobody notes (a superuser's row lock, say) is bounded by the safety
 *	 look: now and then the sweep starts at the left edge and notes every
 *	 waiting row that it meets.
 *
 * - Lowering is always safe; so is a slot that is missing.  But it may come
 *	 while a transaction is under way that has found none to record its notes
 *	 for: its end lowers the whole class (QueueXactNoHint).
 *
 * Everything in a slot is under its spinlock; no loop under it is longer than
 * the ring.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "hint.h"

/*
 * The look that this backend has under way, if any: what an error must give
 * back, when the caller's HintLook is gone from the stack.
 */
static HintSlot *current_slot;
static int	current_cell;

StaticAssertDecl(HINT_CELLS <= 32, "a cell is a bit of cells_used");

/* caller holds the spinlock: from now on, notes are collected for the look */
static void
register_look(HintLook *look)
{
	HintSlot   *slot = look->slot;

	look->generation = slot->generation;
	if (QUEUE_MUTATION(5))		/* no mutation: the ring must do */
		return;
	for (int i = 0; i < HINT_CELLS; i++)
	{
		if (slot->cells_used & ((uint32) 1 << i))
			continue;
		slot->cells_used |= (uint32) 1 << i;
		slot->cell[i] = HINT_KEY_MAX;
		look->cell = i;
		return;
	}
}

bool
QueueHintLookBegin(HintLook *look, HintSlot *slot, HintKey own)
{
	/* an error that was caught without our callbacks cannot happen */
	Assert(current_slot == NULL);

	look->slot = slot;
	look->start = HINT_KEY_MIN;
	look->cell = -1;
	look->generation = 0;
	if (slot == NULL)
		return true;

	SpinLockAcquire(&slot->mutex);
	look->start = slot->hint;
	if (HINT_KEY_LT(own, look->start))
		look->start = own;
	if (HINT_KEY_LT(look->start, HINT_KEY_MAX))
		register_look(look);
	SpinLockRelease(&slot->mutex);

	if (!HINT_KEY_LT(look->start, HINT_KEY_MAX))
		return false;
	current_slot = slot;
	current_cell = look->cell;
	return true;
}

void
QueueHintSweepBegin(HintLook *look, HintSlot *slot, HintKey *hint)
{
	Assert(current_slot == NULL);

	look->slot = slot;
	look->cell = -1;
	SpinLockAcquire(&slot->mutex);
	look->start = slot->floor;
	*hint = slot->hint;
	register_look(look);
	SpinLockRelease(&slot->mutex);
	current_slot = slot;
	current_cell = look->cell;
}

/* caller holds the spinlock: the least key noted since; false if unknown */
static bool
least_noted(HintLook *look, HintKey *least)
{
	HintSlot   *slot = look->slot;

	*least = HINT_KEY_MAX;
	if (QUEUE_MUTATION(1))
		return true;
	if (look->cell >= 0)
	{
		*least = slot->cell[look->cell];
		return true;
	}
	if (slot->generation - look->generation > HINT_RING)
		return false;
	for (uint64 g = look->generation; g < slot->generation; g++)
		if (HINT_KEY_LT(slot->ring[g % HINT_RING], *least))
			*least = slot->ring[g % HINT_RING];
	return true;
}

/* the look has seen that nothing below target may be claimed */
void
QueueHintRaise(HintLook *look, HintKey target)
{
	HintSlot   *slot = look->slot;
	HintKey		least;

	if (slot == NULL)
		return;
	Assert(current_slot == slot);
	SpinLockAcquire(&slot->mutex);
	if (HINT_KEY_LT(slot->hint, target) && least_noted(look, &least))
	{
		if (HINT_KEY_LT(least, target))
			target = least;
		if (HINT_KEY_LT(slot->hint, target))
			slot->hint = target;
	}
	SpinLockRelease(&slot->mutex);
}

bool
QueueHintReserve(HintLook *look, HintKey here, HintKey target, HintKey *hint)
{
	HintSlot   *slot = look->slot;
	HintKey		least;
	bool		reserved;

	/* they are equal if a row has two entries, and we have tried the first */
	Assert(current_slot == slot && !HINT_KEY_LT(target, here));
	SpinLockAcquire(&slot->mutex);
	*hint = slot->hint;
	reserved = hint_key_cmp(*hint, here) == 0;
	if (reserved && least_noted(look, &least))
	{
		if (HINT_KEY_LT(least, target))
			target = least;
		if (HINT_KEY_LT(here, target))
			slot->hint = target;
	}
	SpinLockRelease(&slot->mutex);
	return reserved;
}

/* the look has seen that below target there is no unfinished row */
void
QueueHintRaiseFloor(HintLook *look, HintKey target)
{
	HintSlot   *slot = look->slot;
	HintKey		least;

	if (slot == NULL)
		return;
	Assert(current_slot == slot);
	SpinLockAcquire(&slot->mutex);
	if (HINT_KEY_LT(slot->floor, target) && least_noted(look, &least))
	{
		if (HINT_KEY_LT(least, target))
			target = least;
		if (HINT_KEY_LT(slot->floor, target))
			slot->floor = target;
	}
	SpinLockRelease(&slot->mutex);
}

void
QueueHintLookEnd(HintLook *look)
{
	Assert(current_slot == look->slot);
	QueueHintForgetLook();
}

/* end it, if there is one: also after an error */
void
QueueHintForgetLook(void)
{
	HintSlot   *slot = current_slot;

	if (slot == NULL)
		return;
	if (current_cell >= 0)
	{
		SpinLockAcquire(&slot->mutex);
		Assert(slot->cells_used & ((uint32) 1 << current_cell));
		slot->cells_used &= ~((uint32) 1 << current_cell);
		SpinLockRelease(&slot->mutex);
	}
	current_slot = NULL;
}

/* key has become claimable for everybody */
void
QueueHintNote(HintSlot *slot, HintKey key)
{
	uint32		cells;

	SpinLockAcquire(&slot->mutex);
	slot->ring[slot->generation % HINT_RING] = key;
	slot->generation++;
	if (HINT_KEY_LT(key, slot->hint))
		slot->hint = key;
	if (HINT_KEY_LT(key, slot->floor))
		slot->floor = key;
	cells = slot->cells_used;
	for (int i = 0; cells != 0; i++, cells >>= 1)
		if ((cells & 1) && HINT_KEY_LT(key, slot->cell[i]))
			slot->cell[i] = key;
	SpinLockRelease(&slot->mutex);
}

/* leases have become visible */
void
QueueHintNoteLeases(HintSlot *slot, HintLeases leases)
{
	if (QUEUE_MUTATION(3))
		return;
	SpinLockAcquire(&slot->mutex);
	hint_add_leases(&slot->leases, leases);
	SpinLockRelease(&slot->mutex);
}

/* begin again at the left edge, whatever looks are under way */
void
QueueHintLower(HintSlot *slot)
{
	QueueHintNote(slot, HINT_KEY_MIN);
	QueueHintNoteLeases(slot, HINT_ANY_LEASES);
}

/* called from transaction callbacks: does not throw */
void
QueueHintLowerClass(QueueSlot *slot, const int *order_class)
{
	LWLockAcquire(QueueClassLock(slot), LW_EXCLUSIVE);
	slot->classes_known = false;
	pg_atomic_fetch_add_u32(&slot->classes_generation, 1);
	for (int i = slot->first_hint; i >= 0; i = HintSlots[i].next)
		if (order_class == NULL || HintSlots[i].order_class == *order_class)
			QueueHintLower(&HintSlots[i]);
	LWLockRelease(QueueClassLock(slot));
}

/*
 * Something has changed that nobody can tell us about in detail.  New classes
 * may have appeared, too.  Called from transaction callbacks: does not throw.
 */
void
QueueHintLowerAll(Installation *installation)
{
	LWLockAcquire(Shared->lock, LW_SHARED);
	for (int q = 0; q < queue_max_queues; q++)
	{
		QueueSlot  *slot = &QueueSlots[q];

		if (slot->installation != installation - Installations)
			continue;
		QueueHintLowerClass(slot, NULL);
	}
	LWLockRelease(Shared->lock);
}

HintKey
QueueHintRead(HintSlot *slot, HintKey *floor)
{
	HintKey		hint;

	SpinLockAcquire(&slot->mutex);
	hint = slot->hint;
	if (floor)
		*floor = slot->floor;
	SpinLockRelease(&slot->mutex);
	return hint;
}

HintLeases
QueueHintLeases(HintSlot *slot)
{
	HintLeases	leases;

	SpinLockAcquire(&slot->mutex);
	leases = slot->leases;
	SpinLockRelease(&slot->mutex);
	return leases;
}

/*
 * Read and forget what is known about leases, before the snapshot of a sweep:
 * a lease that the sweep will not see becomes visible later and is noted after
 * that.
 */
HintLeases
QueueHintTakeLeases(HintSlot *slot)
{
	HintLeases	leases;

	SpinLockAcquire(&slot->mutex);
	leases = slot->leases;
	slot->leases = HINT_NO_LEASES;
	SpinLockRelease(&slot->mutex);
	return leases;
}

#ifdef QUEUE_TESTING
/* breaks the protocol in one place, to see that the storm test notices */
QUEUE_FUNCTION(queue__mutate);
Datum
queue__mutate(PG_FUNCTION_ARGS)
{
	pg_atomic_write_u32(&Shared->mutation, (uint32) PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}
#endif

HintSlot **
QueueHintList(QueueSlot *slot, int *count, bool *known)
{
	static QueueSlot *cached_slot;
	static uint32 cached_use;
	static uint32 cached_generation;
	static bool cached_known;
	static HintSlot **list;
	static int	list_count;
	static int	list_size;

	uint32		generation = pg_atomic_read_u32(&slot->classes_generation);
	uint32		use = pg_atomic_read_u32(&slot->use);

	if (slot != cached_slot || use != cached_use || generation != cached_generation)
	{
		int			n;

		cached_slot = NULL;
		for (;;)
		{
			n = 0;
			LWLockAcquire(QueueClassLock(slot), LW_SHARED);
			for (int i = slot->first_hint; i >= 0; i = HintSlots[i].next)
			{
				if (HintSlots[i].order_class == CLASS_PARKED)
					continue;
				if (n < list_size)
					list[n] = &HintSlots[i];
				n++;
			}
			cached_generation = pg_atomic_read_u32(&slot->classes_generation);
			cached_known = slot->classes_known;
			LWLockRelease(QueueClassLock(slot));
			if (n <= list_size)
				break;
			if (list)
				pfree(list);
			list = NULL;
			list_size = 0;
			list = MemoryContextAlloc(TopMemoryContext, sizeof(HintSlot *) * (n + 8));
			list_size = n + 8;
		}
		list_count = n;
		cached_use = use;
		cached_slot = slot;
	}
	*count = list_count;
	*known = cached_known;
	return list;
}

/*
 * Every class that the index holds now has a slot, unless the list has
 * changed since that generation.
 */
void
QueueHintSetClassesKnown(QueueSlot *slot, uint32 generation)
{
	LWLockAcquire(QueueClassLock(slot), LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&slot->classes_generation) == generation)
	{
		slot->classes_known = true;
		pg_atomic_fetch_add_u32(&slot->classes_generation, 1);
	}
	LWLockRelease(QueueClassLock(slot));
}

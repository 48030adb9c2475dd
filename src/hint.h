/*-------------------------------------------------------------------------
 *
 * hint.h
 *		Shared hints: where the next look at a class of jobs may begin.
 *
 * A look: QueueHintLookBegin(), then a snapshot, then the scan from
 * look->start, with QueueHintRaise() behind what was seen, or
 * QueueHintReserve() before it is, and QueueHintLookEnd().  One look at a time in a backend; an error in between
 * is cleaned up by the transaction callbacks (QueueHintForgetLook).
 *
 * QueueHintNote() tells that a key has become claimable for everybody.  It is
 * called after the change is visible, from transaction callbacks: it neither
 * allocates nor throws.  Before the change, QueueXactNote() records that it
 * will have to be called; see xact.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_HINT_H
#define QUEUE_HINT_H

#include "shared.h"

typedef struct HintLook
{
	HintSlot   *slot;			/* NULL: no hint, the look starts at the left */
	HintKey		start;			/* where it may begin */
	uint64		generation;		/* of the notes, when it began */
	int			cell;			/* that collects notes meanwhile, or -1 */
} HintLook;

/*
 * own is the least key that only this transaction can see yet, or
 * HINT_KEY_MAX.  False: nothing to see, and no look was begun.
 */
extern bool QueueHintLookBegin(HintLook *look, HintSlot *slot, HintKey own);
/* a look from the floor on; *hint is the hint.  It always begins. */
extern void QueueHintSweepBegin(HintLook *look, HintSlot *slot, HintKey *hint);
extern void QueueHintRaise(HintLook *look, HintKey target);
/*
 * Take all from here to target for us.  False: the hint, now in *hint, is not
 * here.  QueueXactReserve(here) must have been called before.
 */
extern bool QueueHintReserve(HintLook *look, HintKey here, HintKey target, HintKey *hint);
extern void QueueHintRaiseFloor(HintLook *look, HintKey target);
extern void QueueHintLookEnd(HintLook *look);
extern void QueueHintForgetLook(void);

extern void QueueHintNote(HintSlot *slot, HintKey key);
extern void QueueHintNoteLeases(HintSlot *slot, HintLeases leases);
extern void QueueHintLower(HintSlot *slot);
/* the hint of a class, if it has one by now; of all classes, if NULL */
extern void QueueHintLowerClass(QueueSlot *slot, const int *order_class);
extern void QueueHintLowerAll(Installation *installation);

/* the hint as it stands; what is known of leases; forgetting it before a sweep */
extern HintKey QueueHintRead(HintSlot *slot, HintKey *floor);
extern HintLeases QueueHintLeases(HintSlot *slot);
extern HintLeases QueueHintTakeLeases(HintSlot *slot);

/*
 * The classes of a queue in their order, without the parked one, as an array
 * that lives until the next call.  *known is false if there may be others.
 */
extern HintSlot **QueueHintList(QueueSlot *slot, int *count, bool *known);
extern void QueueHintSetClassesKnown(QueueSlot *slot, uint32 generation);

/* the smallest key behind a given one */
static inline HintKey
hint_key_next(HintKey key)
{
	if (key.id < PG_INT64_MAX)
		key.id++;
	return key;
}

#endif							/* QUEUE_HINT_H */

/*-------------------------------------------------------------------------
 *
 * validate.h
 *		The rules that a queue has for payloads.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_VALIDATE_H
#define QUEUE_VALIDATE_H

#include "catalog.h"

/*
 * An error unless all payloads have the queue's required_keys and pass its
 * validator.  many: they are elements of a list, and an error tells which.
 *
 * The validator is a function of a user, who may have changed the queue's
 * settings meanwhile: they are read anew.
 */
extern void QueueValidate(QueueSettings *settings, Datum *payloads, int count, bool many);

#endif							/* QUEUE_VALIDATE_H */

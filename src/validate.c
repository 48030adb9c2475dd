/*-------------------------------------------------------------------------
 *
 * validate.c
 *		The rules that a queue has for payloads: required_keys, validator.
 *
 * They are checked before anything is changed, for all payloads of a call, so
 * that it is refused as a whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "function.h"
#include "validate.h"

typedef struct Validation
{
	const QueueSettings *settings;
	int			element;		/* of the call's payloads; 0: there is but one */
	Datum	   *keys;
	int			num_keys;
	bool		has_validator;
	QueueFunction validator;
} Validation;

static void
missing_key(const Validation *validation, const char *key, bool object)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("payload for queue \"%s\" lacks the key \"%s\"",
					validation->settings->name, key),
			 validation->element == 0 ?
			 errdetail(object ? "It is an object without that key." : "It is no object.") :
			 errdetail(object ? "Element %d is an object without that key." :
					   "Element %d is no object.", validation->element),
			 errhint("The queue's setting required_keys names the keys that every payload must have.")));
}

static void
check_keys(const Validation *validation, Datum payload)
{
	Jsonb	   *jsonb = DatumGetJsonbP(payload);

	for (int i = 0; i < validation->num_keys; i++)
	{
		text	   *key = DatumGetTextPP(validation->keys[i]);
		JsonbValue	value;

		if (!JB_ROOT_IS_OBJECT(jsonb) ||
			getKeyJsonValueFromContainer(&jsonb->root, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
										 &value) == NULL)
			missing_key(validation, text_to_cstring(key), JB_ROOT_IS_OBJECT(jsonb));
	}
}

static void
refuse(const Validation *validation, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("payload is refused by the validator of queue \"%s\"",
					validation->settings->name),
			 validation->element == 0 ? errdetail("%s", reason) :
			 errdetail("Element %d: %s", validation->element, reason),
			 errhint("The validator is the function %s.", validation->validator.name)));
}

/* which element it is that the validator itself raises an error about */
static void
name_element(void *arg)
{
	if (((Validation *) arg)->element > 0)
		errcontext("element %d of payloads", ((Validation *) arg)->element);
}

static void
call_validator(Validation *validation, Datum payload)
{
	ErrorContextCallback callback = {error_context_stack, name_element, validation};
	Datum		result;
	bool		null;

	error_context_stack = &callback;
	result = QueueFunctionCall(&validation->validator, payload, &null);
	error_context_stack = callback.previous;
	switch (validation->validator.result_type)
	{
		case BOOLOID:
			if (null || !DatumGetBool(result))
				refuse(validation, null ? "It returned null." : "It returned false.");
			break;
		case TEXTOID:
			if (!null)
				refuse(validation, TextDatumGetCString(result));
			break;
		default:				/* void: it would have raised an error */
			break;
	}
}

static void
validation_begin(Validation *validation, const QueueSettings *settings)
{
	Datum		setting;
	bool		null;

	memset(validation, 0, sizeof(*validation));
	validation->settings = settings;
	setting = QueueSettingRead(settings->queue_id, SETTING_REQUIRED_KEYS, &null);
	if (!null)
		deconstruct_array(DatumGetArrayTypeP(setting), TEXTOID, -1, false, TYPALIGN_INT,
						  &validation->keys, NULL, &validation->num_keys);
	(void) QueueSettingRead(settings->queue_id, SETTING_VALIDATOR, &null);
	validation->has_validator = !null;
	if (validation->has_validator)
		QueueFunctionOpen(&validation->validator, FUNCTION_VALIDATOR, settings);
}

static void
check_all(const QueueSettings *settings, Datum *payloads, int count, bool many)
{
	Validation	validation;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "queue validate",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	validation_begin(&validation, settings);
	if (validation.has_validator)
		QueueFunctionEnter(&validation.validator);
	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		validation.element = many ? i + 1 : 0;
		check_keys(&validation, payloads[i]);
		if (validation.has_validator)
			call_validator(&validation, payloads[i]);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	if (validation.has_validator)
		QueueFunctionLeave(&validation.validator);
	MemoryContextDelete(context);
}

void
QueueValidate(QueueSettings *settings, Datum *payloads, int count, bool many)
{
	int32		queue_id = settings->queue_id;
	char	   *name = pstrdup(settings->name);

	check_all(settings, payloads, count, many);
	if (!QueueSettingsById(queue_id, settings))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("queue \"%s\" does not exist", name),
				 errdetail("It was dropped by its validator."),
				 errhint("A validator must not change what it validates for.")));
}

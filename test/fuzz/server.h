/*-------------------------------------------------------------------------
 *
 * server.h
 *		What a fuzz target has instead of a server.
 *
 * A target includes the source file that it tries, statics and all, and is
 * linked with the server's frontend libraries, which bring palloc() and
 * StringInfo, and with server.c, which brings the little of the backend that is
 * really called.  Whatever else the source file refers to stays unresolved: to
 * call it would crash, and so be seen.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_SERVER_H
#define FUZZ_SERVER_H

#include "postgres.h"

#include <setjmp.h>

/* if (FUZZ_TRY()) code that may raise an error; else: it has */
extern sigjmp_buf fuzz_error;
#define FUZZ_TRY() (sigsetjmp(fuzz_error, 0) == 0)

/* a property that must hold; with a number, so that two do not look alike */
#define REQUIRE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			__builtin_trap(); \
		} \
	} while (0)

/* the input, a piece at a time; zeros after its end */
typedef struct Input
{
	const uint8 *at;
	size_t		left;
} Input;

static inline void
input_bytes(Input *input, void *to, size_t size)
{
	size_t		have = Min(size, input->left);

	memset(to, 0, size);
	memcpy(to, input->at, have);
	input->at += have;
	input->left -= have;
}

static inline int64
input_int64(Input *input)
{
	int64		value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline double
input_double(Input *input)
{
	double		value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint8
input_byte(Input *input)
{
	uint8		value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

#endif							/* FUZZ_SERVER_H */

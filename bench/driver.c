/*-------------------------------------------------------------------------
 *
 * driver.c
 *		Clients that put jobs in and take them out, as fast as they can or at
 *		a given rate.
 *
 * The same loops drive every system: what differs is only the SQL text on the
 * command line.  Each statement is prepared once per connection and each
 * execution is a transaction of its own.  pgbench would do for single jobs,
 * but it can neither read the payloads of a batch nor hand the ids it got to
 * the next statement without aggregating them in the server.
 *
 * Connections are opened, statements prepared and some rounds made before the
 * clock starts.  The clock stops at the last job done, not at the time given,
 * so that a backlog that runs dry early is not counted as slowness.
 *
 *-------------------------------------------------------------------------
 */
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

/* Rounds of a client before the clock starts, but not many huge ones */
#define WARMUP_ROUNDS (batch <= 1000 ? 10 : 1)
#define VARIANTS 4			/* different batches of payloads a client puts */
#define FIFTHS 5

/* Latencies by power of two of microseconds, each in 16 steps */
#define STEPS 16
#define BUCKETS (40 * STEPS)

/* Jobs done by time, to tell the first fifth of a run from the last */
#define SLICE_SECONDS 0.02
#define SLICES 60000

static const char usage[] =
"usage: driver [option...] mode statement...\n"
"  take CLAIM SETTLE  CLAIM($1 batch) returns (id, payload), SETTLE($1 ids)\n"
"  chain CLAIM        CLAIM($1 ids of the round before, $2 batch)\n"
"  put INSERT         INSERT($1 payloads)\n"
"  copy COPY          COPY ... FROM STDIN of the payloads\n"
"  call QUERY         QUERY()\n"
"  hand PUT TAKE      one client PUTs at its pace, another TAKEs: the latency\n"
"                     from the end of PUT to the receipt; with -l CHANNEL it\n"
"                     listens, with -p it polls, else TAKE itself waits\n"
"Ids and payloads are an array; with -b 1 one value, but for chain.\n"
"  -c clients  -b batch  -t seconds  -n jobs  -r jobs a second, all clients\n"
"  -p milliseconds to sleep where there is nothing to take (default: end)\n";

typedef enum Mode
{
	MODE_TAKE, MODE_CHAIN, MODE_PUT, MODE_COPY, MODE_CALL, MODE_HAND
} Mode;

typedef struct Client
{
	pthread_t	thread;
	int			number;
	PGconn	   *conn;
	char	   *ids;			/* of the last claim, as a parameter */
	char	   *payloads[VARIANTS];
	long		read;			/* bytes of payload received, all looked at */
	long		claimed;
	long		done;
	long		total;			/* jobs done, those before the start included */
	double		last;			/* when the last job was done */
	uint32_t	slices[SLICES];
	uint32_t	latencies[BUCKETS];
} Client;

static Mode mode;
static const char *statements[2];
static int	n_clients = 1;
static int	batch = 1;
static double seconds = 1e9;
static long max_jobs = 0;
static double rate = 0;
static int	poll_ms = 0;
static const char *channel;

static bool array;				/* ids and payloads travel as an array */
static char batch_text[12];
static double start;			/* written before the second barrier */
static pthread_barrier_t barrier;
static atomic_long jobs_done;	/* only counted where there is a max_jobs */

static void
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("driver: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void *
allocate(size_t size)
{
	void	   *result = calloc(1, size);

	if (result == NULL)
		die("out of memory");
	return result;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
sleep_for(double s)
{
	struct timespec t = {(time_t) s, (long) ((s - (time_t) s) * 1e9)};

	if (s > 0)
		nanosleep(&t, NULL);
}

static int
latency_bucket(double us)
{
	int			octave = 0;
	int			bucket;

	while (us >= 2)
	{
		us /= 2;
		octave++;
	}
	bucket = octave * STEPS + (us > 1 ? (int) ((us - 1) * STEPS) : 0);
	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The upper end of a bucket, in milliseconds. */
static double
bucket_ms(int bucket)
{
	return (double) (1L << (bucket / STEPS)) *
		(1 + (bucket % STEPS + 1) / (double) STEPS) / 1e3;
}

/* A JSON object of 100 bytes, as text. */
static void
form_payload(char *buffer, long number)
{
	sprintf(buffer, "{\"type\": \"mail\", \"user\": %08ld, \"to\": "
			"\"user%08ld@example.com\", \"text\": \"%-20s\"}",
			10000000 + number % 10000000, number % 10000000, "hello");
}

/* What one round puts: an array literal, lines for COPY, or one value. */
static char *
form_payloads(long first)
{
	char		payload[256];
	char	   *result = allocate((size_t) batch * 160 + 3);
	char	   *end = result;

	for (int i = 0; i < batch; i++)
	{
		form_payload(payload, first + i);
		if (mode == MODE_COPY)
			end += sprintf(end, "%s\n", payload);
		else if (!array)
			end += sprintf(end, "%s", payload);
		else
		{
			*end++ = i == 0 ? '{' : ',';
			*end++ = '"';
			for (const char *p = payload; *p != '\0'; p++)
			{
				if (*p == '"')
					*end++ = '\\';
				*end++ = *p;
			}
			*end++ = '"';
		}
	}
	if (mode != MODE_COPY && array)
		*end++ = '}';
	*end = '\0';
	return result;
}

static PGresult *
execute(Client *client, int statement, int n, const char *const *values)
{
	static const char *const names[] = {"s0", "s1"};
	PGresult   *result = PQexecPrepared(client->conn, names[statement], n,
										values, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die("%s", PQresultErrorMessage(result));
	return result;
}

/* Read what was claimed, the payloads included; returns how many jobs. */
static int
receive_jobs(Client *client, PGresult *result)
{
	int			n = PQntuples(result);
	char	   *end = client->ids;

	if (n > batch)
		die("claimed %d jobs, asked for %d", n, batch);
	for (int i = 0; i < n; i++)
	{
		const char *payload = PQgetvalue(result, i, 1);

		client->read += strlen(payload);
		if (array)
			*end++ = i == 0 ? '{' : ',';
		end = stpcpy(end, PQgetvalue(result, i, 0));
	}
	if (array)
	{
		if (n == 0)
			*end++ = '{';
		*end++ = '}';
	}
	*end = '\0';
	client->claimed += n;
	PQclear(result);
	return n;
}

/* How many jobs a statement says it has settled. */
static long
settled(PGresult *result)
{
	long		n;

	if (PQresultStatus(result) == PGRES_COMMAND_OK)
		n = atol(PQcmdTuples(result));
	else if (PQgetvalue(result, 0, 0)[0] == 't')
		n = 1;
	else
		n = atol(PQgetvalue(result, 0, 0));
	PQclear(result);
	return n;
}

static void
copy_in(Client *client, const char *lines)
{
	PGresult   *result = PQexec(client->conn, statements[0]);

	if (PQresultStatus(result) != PGRES_COPY_IN)
		die("%s", PQresultErrorMessage(result));
	PQclear(result);
	if (PQputCopyData(client->conn, lines, strlen(lines)) != 1 ||
		PQputCopyEnd(client->conn, NULL) != 1)
		die("%s", PQerrorMessage(client->conn));
	while ((result = PQgetResult(client->conn)) != NULL)
	{
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			die("%s", PQresultErrorMessage(result));
		PQclear(result);
	}
}

/* One round; returns how many jobs were done, or 0 if there was nothing. */
static int
make_round(Client *client, long round)
{
	const char *values[2] = {batch_text, batch_text};
	int			n;

	switch (mode)
	{
		case MODE_TAKE:
			n = receive_jobs(client, execute(client, 0, 1, values));
			if (n > 0)
			{
				values[0] = client->ids;
				client->done += settled(execute(client, 1, 1, values));
			}
			return n;
		case MODE_CHAIN:
			values[0] = client->ids;
			return receive_jobs(client, execute(client, 0, 2, values));
		case MODE_PUT:
			values[0] = client->payloads[round % VARIANTS];
			PQclear(execute(client, 0, 1, values));
			return batch;
		case MODE_COPY:
			copy_in(client, client->payloads[round % VARIANTS]);
			return batch;
		case MODE_CALL:
			PQclear(execute(client, 0, 0, NULL));
			return 1;
		case MODE_HAND:			/* run_hand() */
			break;
	}
	return 0;
}

static void
open_client(Client *client)
{
	char		name[] = "s0";
	PGresult   *result;

	/* everything by the environment: PGHOST, PGDATABASE, PGOPTIONS */
	client->conn = PQconnectdb("");
	if (PQstatus(client->conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(client->conn));
	for (int i = 0; i < 2 && statements[i] != NULL && mode != MODE_COPY; i++)
	{
		name[1] = '0' + i;
		result = PQprepare(client->conn, name, statements[i], 0, NULL);
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			die("%s", PQresultErrorMessage(result));
		PQclear(result);
	}
	client->ids = allocate((size_t) batch * 21 + 3);
	strcpy(client->ids, "{}");
	if (mode == MODE_PUT || mode == MODE_COPY)
		for (int i = 0; i < VARIANTS; i++)
			client->payloads[i] = form_payloads(
				((long) client->number * VARIANTS + i) * batch);
}

static void *
run_client(void *argument)
{
	Client	   *client = argument;
	long		round = 0;

	open_client(client);
	/* who asks for a number of jobs put gets no more than those */
	if (max_jobs == 0 || mode == MODE_TAKE || mode == MODE_CHAIN)
		for (; round < WARMUP_ROUNDS; round++)
			client->total += make_round(client, round);

	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	for (round = 0;; round++)
	{
		double		begin = now();
		int			n;
		int			slice;

		if (rate > 0)
		{
			double		due = start + round * (batch * n_clients / rate);

			sleep_for(due - begin);
			begin = now();
		}
		if (begin - start >= seconds)
			break;
		/* reserve before the round, or every client overshoots by one */
		if (max_jobs > 0 &&
			atomic_fetch_add(&jobs_done, batch) >= max_jobs)
			break;

		n = make_round(client, round);
		if (n == 0)
		{
			if (poll_ms == 0)
				break;
			sleep_for(poll_ms / 1e3);
			continue;
		}
		client->total += n;
		client->last = now();
		client->latencies[latency_bucket((client->last - begin) * 1e6)]++;
		slice = (client->last - start) / SLICE_SECONDS;
		client->slices[slice < SLICES ? slice : SLICES - 1] += n;
	}
	PQfinish(client->conn);
	return NULL;
}

/* ---------------------------------------------------------------------
 * Handing over one job at a time
 * --------------------------------------------------------------------- */

#define HAND_WARMUP 50

static atomic_long hand_taken;	/* how many the taker has got */
static _Atomic double hand_at;	/* when it got the last one */
static atomic_bool hand_over;

static void
await_notification(PGconn *conn)
{
	struct pollfd fd = {PQsocket(conn), POLLIN, 0};
	PGnotify   *notification;

	(void) poll(&fd, 1, 100);
	if (!PQconsumeInput(conn))
		die("%s", PQerrorMessage(conn));
	while ((notification = PQnotifies(conn)) != NULL)
		PQfreemem(notification);
}

static void *
run_taker(void *argument)
{
	Client	   *client = argument;
	char		listen[100];
	PGresult   *result;

	open_client(client);
	if (channel)
	{
		snprintf(listen, sizeof(listen), "LISTEN %s", channel);
		PQclear(PQexec(client->conn, listen));
	}
	pthread_barrier_wait(&barrier);
	while (!hand_over)
	{
		result = execute(client, 1, 0, NULL);
		if (PQntuples(result) > 0)
		{
			hand_at = now();
			hand_taken++;
		}
		else if (channel)
			await_notification(client->conn);
		else
			sleep_for(poll_ms / 1e3);
		PQclear(result);
	}
	PQfinish(client->conn);
	return NULL;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static void
run_hand(void)
{
	Client		putter = {.number = 0};
	Client		taker = {.number = 1};
	long		n = max_jobs + HAND_WARMUP;
	double	   *put = allocate(n * sizeof(double));
	double	   *hand = allocate(n * sizeof(double));

	batch = 1;
	open_client(&putter);
	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&taker.thread, NULL, run_taker, &taker) != 0)
		die("could not start a thread");
	pthread_barrier_wait(&barrier);
	for (long i = 0; i < n; i++)
	{
		double		sent,
					done;

		/* not in step with who polls */
		sleep_for((5 + random() % 20) / 1e3);
		sent = now();
		PQclear(execute(&putter, 0, 0, NULL));
		done = now();
		while (hand_taken <= i)
			sleep_for(20e-6);
		put[i] = (done - sent) * 1e3;
		hand[i] = (hand_at - done) * 1e3;
	}
	hand_over = true;
	/* the taker may be waiting for one more */
	PQclear(execute(&putter, 0, 0, NULL));
	pthread_join(taker.thread, NULL);
	qsort(put + HAND_WARMUP, max_jobs, sizeof(double), compare_doubles);
	qsort(hand + HAND_WARMUP, max_jobs, sizeof(double), compare_doubles);
	printf("jobs=%ld p50=%.3f p99=%.3f put=%.3f total=%ld client=0\n", max_jobs,
		   hand[HAND_WARMUP + max_jobs / 2], hand[HAND_WARMUP + max_jobs * 99 / 100],
		   put[HAND_WARMUP + max_jobs / 2], n + 1);
}

/* The latency that this share of the rounds did not exceed. */
static double
percentile(const Client *clients, double share)
{
	long		total = 0;
	long		seen = 0;

	for (int i = 0; i < n_clients; i++)
		for (int b = 0; b < BUCKETS; b++)
			total += clients[i].latencies[b];
	for (int b = 0; b < BUCKETS; b++)
	{
		for (int i = 0; i < n_clients; i++)
			seen += clients[i].latencies[b];
		if (seen > total * share)
			return bucket_ms(b);
	}
	return 0;
}

static void
report(const Client *clients)
{
	double		end = start;
	double		fifths[FIFTHS] = {0};
	long		jobs = 0;
	long		total = 0;
	int			used;
	struct rusage usage;

	for (int i = 0; i < n_clients; i++)
	{
		total += clients[i].total;
		if (clients[i].last > end)
			end = clients[i].last;
		/* a job claimed but not settled is a wrong result, however fast */
		if (mode == MODE_TAKE && clients[i].done != clients[i].claimed)
			die("claimed %ld jobs, settled %ld",
				clients[i].claimed, clients[i].done);
	}
	used = (end - start) / SLICE_SECONDS + 1;
	for (int i = 0; i < n_clients; i++)
		for (int s = 0; s < used && s < SLICES; s++)
		{
			fifths[(long) s * FIFTHS / used] += clients[i].slices[s];
			jobs += clients[i].slices[s];
		}
	getrusage(RUSAGE_SELF, &usage);
	printf("jobs=%ld seconds=%.3f rate=%.0f first=%.0f last=%.0f "
		   "p50=%.3f p99=%.3f total=%ld client=%.2f\n",
		   jobs, end - start, end > start ? jobs / (end - start) : 0,
		   fifths[0] * FIFTHS / (used * SLICE_SECONDS),
		   fifths[FIFTHS - 1] * FIFTHS / (used * SLICE_SECONDS),
		   percentile(clients, 0.5), percentile(clients, 0.99), total,
		   usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		   (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

static void
parse_arguments(int argc, char **argv)
{
	static const char *const modes[] = {"take", "chain", "put", "copy", "call", "hand"};
	int			option;

	while ((option = getopt(argc, argv, "c:b:t:n:r:p:l:")) != -1)
		switch (option)
		{
			case 'c':
				n_clients = atoi(optarg);
				break;
			case 'b':
				batch = atoi(optarg);
				break;
			case 't':
				seconds = atof(optarg);
				break;
			case 'n':
				max_jobs = atol(optarg);
				break;
			case 'r':
				rate = atof(optarg);
				break;
			case 'p':
				poll_ms = atoi(optarg);
				break;
			case 'l':
				channel = optarg;
				break;
			default:
				fputs(usage, stderr);
				exit(2);
		}
	if (argc - optind >= 2)
		for (int i = 0; i < 6; i++)
			if (strcmp(argv[optind], modes[i]) == 0)
			{
				mode = i;
				statements[0] = argv[optind + 1];
				statements[1] = argv[optind + 2];
			}
	if (statements[0] == NULL || n_clients < 1 || batch < 1 ||
		(mode == MODE_TAKE || mode == MODE_HAND) != (statements[1] != NULL) ||
		(mode == MODE_HAND && max_jobs <= 0))
	{
		fputs(usage, stderr);
		exit(2);
	}
	sprintf(batch_text, "%d", batch);
	array = batch > 1 || mode == MODE_CHAIN;
}

int
main(int argc, char **argv)
{
	Client	   *clients;

	parse_arguments(argc, argv);
	if (mode == MODE_HAND)
	{
		run_hand();
		return 0;
	}
	clients = allocate(n_clients * sizeof(Client));
	pthread_barrier_init(&barrier, NULL, n_clients + 1);
	for (int i = 0; i < n_clients; i++)
	{
		clients[i].number = i;
		if (pthread_create(&clients[i].thread, NULL, run_client,
						   &clients[i]) != 0)
			die("could not start a thread");
	}
	pthread_barrier_wait(&barrier);
	start = now();
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < n_clients; i++)
		pthread_join(clients[i].thread, NULL);
	report(clients);
	return 0;
}

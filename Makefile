EXTENSION = queue
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" queue.control)

MODULE_big = queue
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "queue - durable job queue inside the server"

# scripts of releases, and the ways between them, stay as they are: see
# "Releasing" in doc/architecture.md; today's is a copy of sql/queue.sql
DATA_built = sql/queue--$(EXTVERSION).sql
DATA = $(filter-out $(DATA_built),$(wildcard sql/queue--*.sql))

# only what is marked is exported; PostgreSQL has a way to mark it since 16
PG_CPPFLAGS = -D'PGDLLEXPORT=__attribute__((visibility("default")))' \
	-D'QUEUE_VERSION="$(EXTVERSION)"'
# the server's own headers do not pass without the last three
PG_CFLAGS = -fvisibility=hidden -Wall -Wextra $(if $(WERROR),-Werror) \
	-Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# in sql/, all but the extension's own scripts are tests; the workers need preloading
REGRESS = $(patsubst sql/%.sql,%,$(filter-out sql/queue.sql sql/queue--%,$(sort $(wildcard sql/*.sql))))
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
SERVER = --no-locale --encoding=UTF8 --temp-config=test/queue.conf --load-extension=queue
REGRESS_OPTS = --temp-instance=tmp_check $(SERVER)
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_check_iso $(SERVER)
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl
# the same settings for the servers TAP tests make
export TEMP_CONFIG = $(CURDIR)/test/queue.conf

# bitcode needs the very clang the server was built with: make with_llvm=yes
ifneq ($(origin with_llvm),command line)
override with_llvm = no
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
# the targets below bring the server along
all install uninstall installcheck clean:
	@echo 'No PostgreSQL to build for: install its server development' \
		'package or set PG_CONFIG.' >&2; exit 1
endif

$(OBJS): $(wildcard src/*.h) queue.control

sql/queue--$(EXTVERSION).sql: sql/queue.sql
	cp $< $@

.PHONY: demo test bench stress memcheck scale matrix
demo:
	@doc/demo/run

test:
	@test/bin/run

bench:
	@bench/run

stress:
	@test/bin/stress

memcheck:
	@test/bin/memcheck

scale:
	@test/bin/scale

matrix:
	@.ci/run

# make demo    the main job, before and after
# make serve   a server to try things on, which goes on running; make stop ends it
# make cluster  three hosts behind HAProxy, to look at, until Ctrl-C
# make check   static checks and tests
# make check-odd  some of the tests as odd shells would start them: with signals
#              ignored, descriptors open, as another user...; ODD="user load" for these
# make soak    the long tests: 100,000 lines of rubbish, kills among 1,000 connections,
#              a million inputs for the client in C (and libFuzzer, where clang has it),
#              10,000 changes of repositories, warm and cold compared, with one service
#              and with three, 10,000 times clones while their makers are killed, a long
#              history cloned, 10,000 connections counted, 10 upgrades and downgrades of
#              each kind, ten minutes of three hosts behind HAProxy, each drained, upgraded
#              and killed
# make bench   the figures, in build/bench/report.html; BENCH=--quick for a look, or
#              names of benchmarks; make graph, doc/connection_time.png alone
# make html    the manual, in build/html; make man, its man pages, in doc/_build/man
# make compare the same connections on this checkout and on BASE=REVISION, in turn
# make dist    what is uploaded to PyPI, in dist/: source and wheels
# make deb     Debian's packages, in build/deb/; "apt-get build-dep ./packaging" installs
#              what it needs
# make check-packages  builds Debian's packages in a fresh root of Debian, and tries
#              them in another; it needs root, mmdebstrap, systemd-nspawn and a mirror;
#              SUITE=trixie for another Debian
# make check-manual  types the manual's commands for root in such roots, after
#              check-packages
# make check-dist  tests what "make dist" has made: the source without a network, the
#              wheel with pipx in a fresh root of Debian; it needs root
# make check-container  builds and tries deploy/Containerfile, after check-packages; it
#              needs root and buildah
#
# Each sets up what it needs in .venv. PYTHON chooses the Python, PORT and SERVE
# where the server of "make serve" listens and what it serves.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OF_VERSION = $(BIN)/python$(or $(VERSION),-that-does-not-run)
CHECKOUT = BRZ_PLUGINS_AT=lpserve@$(CURDIR)
# Most tests wait most of the time: more of them at once than there are processors.
SELFTEST = $(CHECKOUT) BRZ_CONCURRENCY=4 PYTHONWARNINGS="error:This process:DeprecationWarning" \
	$(BIN)/brz selftest -s bp.lpserve
# 'make test TESTS=live.stopping.test_life' runs some of them.
TESTS =
# Which conditions 'make check-odd' makes.
ODD =
# What 'make bench' is told.
BENCH =
# What 'make compare' compares this checkout with.
BASE = HEAD
# Where 'make serve' keeps its branches and keys, and where it listens.
SERVE = .serve
PORT = 5022

# On which Debian 'make check-packages' tries the packages.
SUITE = bookworm

.PHONY: demo serve stop cluster check check-odd static test soak bench graph compare clean \
	html man dist deb check-packages check-manual check-container check-dist

demo: $(VENV)/installed
	@$(BIN)/python demo/demo.py

serve: $(VENV)/installed
	@$(BIN)/python demo/serve.py serve $(SERVE) $(PORT)

stop:
	@test ! -x $(BIN)/python || $(BIN)/python demo/serve.py stop $(SERVE)

cluster: $(VENV)/installed
	@$(BIN)/python -m demo.cluster

check: static test

static: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not with the standard input of a shell, which may be closed: Breezy needs one.
test: $(VENV)/ready
	$(SELFTEST) --parallel=fork $(TESTS) </dev/null

check-odd: $(VENV)/ready
	$(BIN)/python .ci/odd.py $(MAKE) $(ODD) "TESTS=$(TESTS)" </dev/null

soak: $(VENV)/ready
	LPSERVE_FUZZ_LINES=100000 LPSERVE_CHAOS_CONNECTIONS=1000 \
	LPSERVE_AGREEMENT_CONNECTIONS=10000 LPSERVE_CLUSTER_SECONDS=600 \
	LPSERVE_UPGRADES=10 \
	LPSERVE_STREAM_STEPS=10000 LPSERVE_STREAM_HISTORY=breezy \
	LPSERVE_WARM_STEPS=10000 LPSERVE_FUZZ_INPUTS=1000000 LPSERVE_FUZZ_SECONDS=300 \
	$(SELFTEST) live.faults.test_fuzz live.client.test_native_fuzz live.faults.test_chaos \
	live.warm.test_walk live.accounts.test_agreement \
	live.streams.test_walk live.streams.test_clones \
	live.upgrading.test_load live.upgrading.test_kinds live.upgrading.test_ssh \
	live.cluster </dev/null

bench: $(VENV)/drawing
	$(BIN)/python benchmarks/report.py $(BENCH)

graph: $(VENV)/drawing
	$(BIN)/python benchmarks/connection_time.py

compare: $(VENV)/ready
	$(BIN)/python benchmarks/compare.py $(BENCH) $(BASE)

MANUAL = $(CHECKOUT) $(BIN)/sphinx-build -q -W --keep-going

html: $(VENV)/writing
	$(MANUAL) -b html doc build/html

# Not below build/, which setuptools leaves out of a source distribution.
man: $(VENV)/writing
	$(MANUAL) -b man -d build/man-trees doc doc/_build/man

# The source distribution has the man pages.
dist: $(VENV)/ready man
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine wheel
	$(BIN)/python packaging/dist.py dist
	$(BIN)/twine check --strict dist/*

deb:
	packaging/make-deb build/deb

check-packages:
	python3 packaging/trydeb.py $(SUITE) build/packages/$(SUITE)

check-manual:
	python3 packaging/trymanual.py $(SUITE) build/packages/$(SUITE) \
	    build/packages/$(SUITE)/build/build/1/brz-lpserve*_*.deb

check-dist: $(VENV)/ready
	packaging/try-source dist/*.tar.gz build/source $(BIN) $(TESTS)
	python3 packaging/trymanual.py $(SUITE) build/packages/$(SUITE) \
	    dist/*-none-any.whl dist/*.tar.gz

check-container:
	packaging/try-container build/packages/roots/$(SUITE).tar build/packages/container

# What the tests need. They run the checkout, not what is installed with it.
# One of another Python is made anew.
ifeq ($(wildcard $(OF_VERSION)),)
.PHONY: $(VENV)/ready
endif
$(VENV)/ready: setup.py pyproject.toml
	test -x $(OF_VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]'
	@touch $@

# The project as a user installs it.
$(VENV)/installed: $(VENV)/ready __init__.py $(wildcard lpserve/*.py lpserve/*/*.py bin/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --force-reinstall --no-deps .
	@touch $@

# What 'make bench' needs besides.
$(VENV)/drawing: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[bench]'
	@touch $@

# What the manual needs besides.
$(VENV)/writing: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[doc]'
	@touch $@

clean:
	rm -rf $(VENV) build doc/_build *.egg-info .mypy_cache .ruff_cache

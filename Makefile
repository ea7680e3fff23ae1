# Each command makes its own virtual environment and installs into it what it needs. The package is built once for all of them.

PYTHON ?= python3
SOURCES := $(shell find src setup.py pyproject.toml -type f -not -name '*.so' -not -path '*.egg-info*' -not -path '*__pycache__*')

.PHONY: demo test test-qemu test-tsan test-asan models bench bench-single lint clean

demo: .venv-demo/done        ## the main job: race this process's address space under each locking policy
	.venv-demo/bin/ptl race --html race.html

test: .venv-test/done        ## the whole test suite, against the installed package
	.venv-test/bin/python -m pytest --numprocesses=auto --dist=loadgroup $(PYTEST_ARGS)

test-qemu: .venv-test/done   ## page tables judged by QEMU's CPUs, as far as qemu-system-* are installed
	.venv-test/bin/python -m pytest --numprocesses=auto tests/qemu $(PYTEST_ARGS)

models: .venv-test/done      ## every state of the protocols' models, by Spin, and every number of the formats, by z3
	.venv-test/bin/pip install --quiet --group proof
	.venv-test/bin/python -m pytest --numprocesses=auto -m exhaustive tests/models tests/proof $(PYTEST_ARGS)

# The interpreter is not instrumented, so the sanitizer's library is loaded before it, at addresses that do not vary. The
# tests with threads run as anywhere, under stress; of those that take longest, one format of each shape is enough.
UNDER = setarch -R env LD_PRELOAD="$(foreach library,$(1),$(shell $(CC) -print-file-name=$(library)))"
THREADS := sanitizers stress threads epochs handles shootdown frames fork share_together
SANITIZED = -m pytest --capture=sys $(THREADS:%=tests/test_%.py) $(PYTEST_ARGS) \
	-k "not everybody or not batches and (x86_64 or i386-reused or riscv or sparc32 or tiny)"

test-tsan: .venv-tsan/done   ## the tests with threads, under ThreadSanitizer
	$(call UNDER,libtsan.so) TSAN_OPTIONS="halt_on_error=1 die_after_fork=0 exitcode=66" \
		.venv-tsan/bin/python $(SANITIZED)

test-asan: .venv-asan/done   ## the same under Address- and UndefinedBehaviorSanitizer, free tables forbidden, leaks at exit
	$(call UNDER,libasan.so libubsan.so) UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1" \
		ASAN_OPTIONS="detect_leaks=1 malloc_context_size=2" LSAN_OPTIONS="suppressions=tests/leaks-of-python.txt" \
		.venv-asan/bin/python $(SANITIZED)

bench: .venv-bench/done      ## the benchmark suite: ptl beside its peers; tables, and bench.html
	.venv-bench/bin/ptl bench --html bench.html $(BENCH_ARGS)

bench-single: .venv-test/done    ## single operations beside dict, by pytest-benchmark
	.venv-test/bin/python -m pytest bench --benchmark-only --benchmark-group-by=group --benchmark-columns=median,iqr,rounds $(PYTEST_ARGS)

lint: .venv-lint/done        ## style and types
	.venv-lint/bin/ruff check . && .venv-lint/bin/ruff format --check .
	PATH="$(CURDIR)/.venv-lint/bin:$$PATH" cython-lint src/ptl
	.venv-lint/bin/mypy
	MYPYPATH=examples/patterns .venv-lint/bin/mypy examples/patterns
	.venv-lint/bin/python -m mypy.stubtest ptl._core ptl._race ptl._bench --allowlist stubtest-allowlist.txt --ignore-disjoint-bases

build/wheel/done: $(SOURCES)
	$(PYTHON) -m venv build/venv
	rm -rf build/wheel
	build/venv/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	touch $@

# What is installed already is so again, for its version is the same.
RENEW = install --quiet --disable-pip-version-check --force-reinstall --no-deps build/wheel/*.whl

.venv-demo/done: build/wheel/done
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --disable-pip-version-check "$$(echo build/wheel/*.whl)[cli]"
	.venv-demo/bin/pip $(RENEW)
	touch $@

# Dependency groups need pip 25.1, and a new environment has what its Python brought.
.venv-test/done: build/wheel/done
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-test/bin/pip install --quiet --group test "$$(echo build/wheel/*.whl)[cli,mm]"
	.venv-test/bin/pip $(RENEW)
	touch $@

# Whatever can be had: packages of the system where they can be installed, and each Python peer that has a wheel here.
PEER_PACKAGES := libck-dev libjudy-dev libtbb-dev liburcu-dev valgrind
PEERS := numpy BTrees sortedcontainers cereggii unicorn volatility3

.venv-bench/done: build/wheel/done
	@if ! dpkg-query -W $(PEER_PACKAGES) >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get -qq update && apt-get -qq --yes install $(PEER_PACKAGES) || echo "some of these are missing: $(PEER_PACKAGES)"; \
		else echo "for the native peers install $(PEER_PACKAGES)"; fi; fi
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check "$$(echo build/wheel/*.whl)[cli]"
	.venv-bench/bin/pip $(RENEW)
	.venv-bench/bin/pip install --quiet --disable-pip-version-check "$$(echo build/wheel/*.whl)[bench]" || for peer in $(PEERS); do \
		.venv-bench/bin/pip install --quiet --disable-pip-version-check --only-binary :all: $$peer || echo "without $$peer"; done
	touch $@

.venv-tsan/done: SANITIZE = thread
.venv-asan/done: SANITIZE = address,undefined
.venv-tsan/done .venv-asan/done: $(SOURCES)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	PTL_SANITIZE=$(SANITIZE) PTL_OPTIMIZE=-O1 $(@D)/bin/pip install --quiet --no-cache-dir --group test-core ".[cli,mm]"
	touch $@

.venv-lint/done: build/wheel/done
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-lint/bin/pip install --quiet --group lint --group test "$$(echo build/wheel/*.whl)[cli,mm]"
	.venv-lint/bin/pip $(RENEW)
	touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-bench .venv-tsan .venv-asan .venv-lint build dist src/*.egg-info race.html bench.html

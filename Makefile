# Each command makes its own virtual environment and installs into it what it needs.

PYTHON ?= python3
SOURCES := $(shell find src setup.py pyproject.toml -type f -not -name '*.so' -not -path '*.egg-info*' -not -path '*__pycache__*')

.PHONY: demo test test-qemu bench lint clean

demo: .venv-demo/done        ## the main job: race this process's address space under each locking policy
	.venv-demo/bin/ptl race --html race.html

test: .venv-test/done        ## the whole test suite, against the installed package
	.venv-test/bin/python -m pytest --numprocesses=auto --dist=loadgroup $(PYTEST_ARGS)

test-qemu: .venv-test/done   ## page tables judged by QEMU's CPUs, as far as qemu-system-* are installed
	.venv-test/bin/python -m pytest --numprocesses=auto tests/qemu $(PYTEST_ARGS)

bench: .venv-test/done       ## single operations beside dict, by pytest-benchmark
	.venv-test/bin/python -m pytest bench --benchmark-only --benchmark-group-by=group --benchmark-columns=median,iqr,rounds $(PYTEST_ARGS)

lint: .venv-lint/done        ## style and types
	.venv-lint/bin/ruff check . && .venv-lint/bin/ruff format --check .
	PATH="$(CURDIR)/.venv-lint/bin:$$PATH" cython-lint src/ptl
	.venv-lint/bin/mypy
	MYPYPATH=examples/patterns .venv-lint/bin/mypy examples/patterns
	.venv-lint/bin/python -m mypy.stubtest ptl._core ptl._race --allowlist stubtest-allowlist.txt --ignore-disjoint-bases

.venv-demo/done: $(SOURCES)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --disable-pip-version-check ".[cli]"
	touch $@

# Dependency groups need pip 25.1, and a new environment has what its Python brought.
.venv-test/done: $(SOURCES)
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-test/bin/pip install --quiet --group test ".[cli,mm]"
	touch $@

.venv-lint/done: $(SOURCES)
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-lint/bin/pip install --quiet --group lint --group test ".[cli,mm]"
	touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-lint build dist src/*.egg-info race.html

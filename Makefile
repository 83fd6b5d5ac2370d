# Every target makes its own .venv, with the versions of the lock files, and needs only Python 3.11 or later
# (the Kafka tests also Java 17 and Maven).

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-long bench lint types docs docs-check lock clean

help:
	@echo "make demo        exact counts through three kill -9, in under a minute"
	@echo "make test        the tests, in under ten minutes"
	@echo "make test-long   the full fault lists"
	@echo "make bench       all benchmarks; writes docs/performance.md (hours)"
	@echo "make lint        ruff: rules and format"
	@echo "make types       mypy --strict"
	@echo "make docs        write docs/cli.md and docs/configuration.md"
	@echo "make lock        renew the lock files (needs the network)"
	@echo "make clean       remove .venv and caches"

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed, and $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	$(BIN)/python demo/demo.py

# Files in their order, the end-to-end ones early: sorted by their number of tests the longest would come last, alone.
# Three at a time on two cores: most of them wait for brokers, sessions and settling.
test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

test-long: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m long

bench: $(READY)
	$(BIN)/python -m benchmarks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/generate.py

docs-check: $(READY)
	$(BIN)/python docs/generate.py --check

# Without index and host, so that a lock file works with whatever registry pip is configured for.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --upgrade

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(LOCK) benchmarks/peers/requirements.in --output-file requirements-bench.lock

clean:
	rm -rf .venv .peers .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

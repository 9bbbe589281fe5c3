# Every target makes the environment if it is missing and re-installs only when the pins change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Idle OpenMP threads sleep instead of spinning: on a machine whose cores are busy with something
# else, spinning makes the small steps of a small network many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests run side by side, each process on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types docs bench bench-peers tables clean

help:
	@echo "make demo       train, compress and compare on scikit-learn's digits (pictures in demo_output/)"
	@echo "make test       lint, types, documentation and the fast tests"
	@echo "make test-slow  the tests that train longer"
	@echo "make lint       style and formatting only"
	@echo "make docs       the documentation site, in site/"
	@echo "make bench      run the benchmarks and rewrite the tables made from them"

# One pip command under the pins, so that nothing can choose another torch. The build back-end is
# pinned too: older pip reads PIP_CONSTRAINT for it, newer pip PIP_BUILD_CONSTRAINT.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(PIP) install --editable ".[dev,docs,demo,data,fast,compress,onnx]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m pyro_turbovbi demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint types docs
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) --dist=load -m slow --durations=10  # in their order: see PYRO_TURBOVBI_SLOW_SECONDS

# Other packages beside which ours is timed.
bench-peers: $(STAMP)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(PIP) install --editable ".[bench-peers]"

bench: bench-peers
	rm -f benchmarks/results/lenet_300_100/*.json benchmarks/results/swap_priors/*.json benchmarks/results/against_nuts/*.json  # stored runs: measured again
	for case in benchmarks/*.py; do $(BIN)/python $$case || exit 1; done
	$(MAKE) tables

tables: $(STAMP)
	$(BIN)/python tools/make_tables.py

clean:
	rm -rf site demo_output dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

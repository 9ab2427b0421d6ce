# make demo      set up, compile an example flow, run it on Dagster, and show what came of it
# make test      set up, and run all checks and tests
# make check     set up, and run what is fast of them: lint, types, imports and unit tests
# make ui        set up, and open the Dagster UI on the examples
# make bench     set up, and run the benchmarks; those with servers need Debian's postgresql
# make pictures  set up, and take the pictures of docs/images; needs Chromium
# make test-matrix  the tests with the lowest and the highest Metaflow and Dagster, on Python 3.10 and 3.13
# make docs      set up, and build the manual in build/site; make docs-serve shows it while you write

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXAMPLES := train sweep retry
# tests whose steps are started each by itself, and that are to pass with forked ones, too; and the other way round
WARM := tests/faults/test_reporting.py tests/faults/test_timeouts.py tests/faults/test_full_pipe.py
COLD := tests/faults/test_processes.py tests/e2e/test_logs.py tests/e2e/test_environment.py
# Metaflow needs a user that is not root; a bare machine or container may name none
export METAFLOW_USER ?= $(firstword $(filter-out root,$(USER) $(shell id -un)) metaflow)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check static ui bench pictures docs docs-serve test-matrix clean

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: static
	$(BIN)/pytest -n 3 --dist loadgroup
	$(BIN)/pytest -n 3 --dist loadgroup --warm metaflow $(WARM)
	$(BIN)/pytest -n 3 --dist loadgroup --warm off $(COLD)

check: static
	$(BIN)/pytest -q -n 2 --dist loadgroup tests/unit

static: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

ui: $(VENV)/installed-ui
	cd examples && $(foreach flow,$(EXAMPLES),$(CURDIR)/$(BIN)/python $(flow)_flow.py --quiet dagster create &&) \
		$(CURDIR)/$(BIN)/python forecast_flow.py --quiet dagster create \
		--partition-by day=daily:2026-01-01 --depends-on raw/sales
	mkdir -p .dagster_home
	cp examples/dagster.yaml .dagster_home
	cd examples && DAGSTER_HOME=$(CURDIR)/.dagster_home \
		$(CURDIR)/$(BIN)/python -m dagster dev -w workspace.yaml

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/runs.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/step_profile.py
	$(BIN)/python benchmarks/output.py
	$(BIN)/python benchmarks/with_servers.py

pictures: $(VENV)/installed-dev
	$(BIN)/pytest tests/ui --pictures

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-matrix: $(VENV)/installed-dev
	$(BIN)/pip install --quiet uv
	$(BIN)/python tools/matrix.py

docs-serve: $(VENV)/installed-docs
	$(BIN)/mkdocs serve

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "metaflow-pipes needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-ui: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[ui]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .dagster_home examples/.metaflow examples/*_dagster.py examples/dg_project/.metaflow \
		examples/dg_project/data examples/dg_project/src/dg_project/defs/.local_defs_state

# Every target sets up what it needs: Python >= 3.11 with venv, make and the package registry are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Live tests mostly wait for servers, so more of them than cores.
JOBS ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test nightly lab refresh samples bench lint lock clean

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "coldcache needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV), once (about two minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)   ## record a real incident with an embedded server and explain it (FAULT=key_prefix)
	@$(BIN)/coldcache demo $(if $(FAULT),--fault $(FAULT))

test: $(READY)   ## every test: unit, live servers, notebooks, browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=60 -p no:cacheprovider notebooks

nightly: $(READY) ## 200,000 random logs for the parser (two hours, 1.5 GB)
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/sources/test_log.py -k "read_back or accounted"

lab: $(READY)    ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

refresh: $(READY) ## re-execute the committed notebooks
	$(BIN)/python tools/refresh_notebooks.py

samples: $(READY) ## record the shipped samples anew
	$(BIN)/python tools/make_samples.py

bench: $(READY)  ## measure what the README says about cost
	$(BIN)/python benchmarks/record.py cost

lint: $(READY)   ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:            ## resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-strip-extras --custom-compile-command "make lock" -o requirements.lock --quiet

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

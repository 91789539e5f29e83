# Everything a newcomer needs: `make serve` and `make test`. See README.md.

PYTHON ?= python3
VENV := .venv
# Many tests wait: for a lease to end, a broker to start. A file's tests stay together.
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
KEYSTONE := .venv-keystone
CEILOMETER := .venv-ceilometer
JAVASCRIPT := tests/clients/cloudevents_js

.PHONY: serve test test-long faults fuzz tools test-quick lint docs bench clean

serve: $(VENV)/.service
	$(BIN)/calotype serve

test: $(VENV)/.tests $(KEYSTONE)/.installed $(CEILOMETER)/.installed tools $(JAVASCRIPT)/node_modules/.installed
	$(BIN)/python -m pytest -m "not long" --numprocesses $(TEST_PROCESSES) --dist loadfile --durations 25

# What takes more than a minute: before a release, an hour at most.
test-long: $(VENV)/.tests $(KEYSTONE)/.installed $(CEILOMETER)/.installed tools
	$(BIN)/python -m pytest -m long --timeout 3600 --durations 25

# Services under load, faults that strike them, and a ledger of what came of it in build/:
# make faults MINUTES=40 SEED=7 ROUNDS=300 LOG=sqlite LEASE_SECONDS=15
faults: $(VENV)/.tests tools
	$(BIN)/python -m tests.faults.ledger --minutes $(or $(MINUTES),10) --rounds $(or $(ROUNDS),0) \
		--seed "$(SEED)" --log $(or $(LOG),both) --lease-seconds $(or $(LEASE_SECONDS),2)

# Hostile requests over every route, on each log: make fuzz REQUESTS=100000 SEED=7
fuzz: $(VENV)/.tests
	CALOTYPE_FUZZ_REQUESTS=$(or $(REQUESTS),100000) CALOTYPE_FUZZ_SEED=$(or $(SEED),1) \
		$(BIN)/python -m pytest -m long --timeout 7200 -s tests/fuzz

# Debian's packages that the tests need.
tools:
	@tests/install_tools.sh

test-quick: $(VENV)/.tests
	$(BIN)/python -m pytest -m "not slow and not long" tests/test_layout.py tests/test_docs.py tests/commands tests/projections tests/http

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site in build/site, from the same Markdown; a broken link is an error.
docs: $(VENV)/.docs
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents *.md LICENSE Makefile docs tests/install_tools.sh tests/http/personas.txt build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.tests
	$(BIN)/python -m tests.bench $(OPTIONS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@ $(VENV)/.service

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@ $(VENV)/.service

# The Keystone of the tests, apart because it needs other versions of what we use.
$(KEYSTONE)/.installed: tests/backends/keystone-requirements.txt
	$(PYTHON) -m venv $(KEYSTONE)
	$(KEYSTONE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The consumers of notifications of the tests, apart for the same reason.
$(CEILOMETER)/.installed: tests/backends/ceilometer-requirements.txt
	$(PYTHON) -m venv $(CEILOMETER)
	$(CEILOMETER)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The SDK for CloudEvents that JavaScript programs use.
$(JAVASCRIPT)/node_modules/.installed: $(JAVASCRIPT)/package-lock.json | tools
	cd $(JAVASCRIPT) && npm ci --no-audit --no-fund --loglevel=error
	touch $@

clean:
	rm -rf $(VENV) $(KEYSTONE) $(CEILOMETER) $(JAVASCRIPT)/node_modules build dist *.egg-info

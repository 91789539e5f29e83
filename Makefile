# Everything a newcomer needs: `make serve` and `make test`. See README.md.

PYTHON ?= python3
VENV := .venv
# Many tests wait: for a lease to end, a broker to start. A file's tests stay together.
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
KEYSTONE := .venv-keystone
CEILOMETER := .venv-ceilometer
JAVASCRIPT := tests/clients/cloudevents_js

.PHONY: serve test test-long faults fuzz tools test-quick lint bench clean

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

# Real disk images for the clients' tests: qemu-img, and a bootable CD to make them of. And a real
# RabbitMQ, which the package must not start by itself (RUNLEVEL): the tests start their own.
tools:
	@if ! command -v qemu-img >/dev/null || ! [ -e /usr/lib/grub-rescue/grub-rescue-cdrom.iso ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends qemu-utils grub-rescue-pc; \
		else \
			echo "The tests need qemu-img and a disk image: sudo apt install qemu-utils grub-rescue-pc"; \
			exit 1; \
		fi; \
	fi
	@if ! [ -e /usr/lib/rabbitmq/bin/rabbitmq-server ] && [ -z "$$CALOTYPE_TEST_AMQP" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends rabbitmq-server; \
		else \
			echo "Without sudo apt install rabbitmq-server, or CALOTYPE_TEST_AMQP, tests are skipped"; \
		fi; \
	fi
	@if ! command -v ip >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends iproute2; \
		else \
			echo "make test-long cuts a client off: sudo apt install iproute2"; \
		fi; \
	fi
	@if ! command -v bindfs >/dev/null || ! command -v fusermount3 >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends bindfs fuse3; \
		else \
			echo "The tests of stores that hang need FUSE: sudo apt install bindfs fuse3"; \
			exit 1; \
		fi; \
	fi
	@if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends libfaketime; \
		else \
			echo "Without sudo apt install libfaketime no clock jumps in the tests of faults"; \
		fi; \
	fi

	@if ! command -v npm >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends nodejs npm; \
		else \
			echo "The tests read events with JavaScript: sudo apt install nodejs npm"; \
			exit 1; \
		fi; \
	fi

test-quick: $(VENV)/.tests
	$(BIN)/python -m pytest -m "not slow and not long" tests/test_layout.py tests/commands tests/projections tests/http

lint: $(VENV)/.tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.tests
	$(BIN)/calotype bench

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@ $(VENV)/.service

# The Keystone of the tests, apart because it needs other versions of what we use.
$(KEYSTONE)/.installed: ops/backends/keystone-requirements.txt
	$(PYTHON) -m venv $(KEYSTONE)
	$(KEYSTONE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The consumers of notifications of the tests, apart for the same reason.
$(CEILOMETER)/.installed: ops/backends/ceilometer-requirements.txt
	$(PYTHON) -m venv $(CEILOMETER)
	$(CEILOMETER)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The SDK for CloudEvents that JavaScript programs use.
$(JAVASCRIPT)/node_modules/.installed: $(JAVASCRIPT)/package-lock.json | tools
	cd $(JAVASCRIPT) && npm ci --no-audit --no-fund --loglevel=error
	touch $@

clean:
	rm -rf $(VENV) $(KEYSTONE) $(CEILOMETER) $(JAVASCRIPT)/node_modules build dist *.egg-info

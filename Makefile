# `make demo` and `make test` each do all set-up themselves: they need Python >= 3.11 with pip, and make. Rust is used
# where it is there. Everything goes to .venv and zktrace/_native/target; `make clean` removes both.

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
CRATE := zktrace/_native
CARGO := cargo
FUZZ_SECONDS ?= 60
PYTEST_ARGS ?=
SEEDS ?= 1-20000
# Files are shared out to as many processes as there are cores, four at most; 0: none but this one (for a debugger, or to see output as it comes).
PYTEST_WORKERS ?= auto

# The native engine is built again when its sources change, or when the compiler appears, changes or is not wanted.
RUST_ID := $(if $(filter-out 0,$(ZKTRACE_PURE)),pure,$(shell rustc --version 2>/dev/null | cut -d' ' -f2 | grep . || echo none))
STAMP_VENV := $(VENV)/.stamp-venv
STAMP_RUN := $(VENV)/.stamp-run
STAMP_TEST := $(VENV)/.stamp-test
STAMP_NATIVE := $(VENV)/.stamp-native-$(RUST_ID)
RUST_SOURCES := $(wildcard $(CRATE)/Cargo.toml $(CRATE)/*.txt $(CRATE)/src/*.rs $(CRATE)/src/*/*.rs)
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' $(MAKEFILE_LIST) | awk -F' - ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(STAMP_RUN) $(STAMP_NATIVE) ## a capture of a real ensemble summarised; then a server, clients and a capture on this machine
	@$(BIN)/zktrace --version
	@scripts/demo.sh $(BIN)/zktrace

.PHONY: setup
setup: $(STAMP_TEST) $(STAMP_NATIVE) ## .venv with everything for development

.PHONY: test
test: $(STAMP_TEST) $(STAMP_NATIVE) ## all tests, over both engines
	$(PY) -m pytest -n $(PYTEST_WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

.PHONY: check
check: lint types imports fmt clippy cargo-test ## everything static, and the crate's own tests

.PHONY: lint
lint: $(STAMP_TEST) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(STAMP_TEST) ## write the formatting of Python and Rust
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(CARGO) fmt --manifest-path $(CRATE)/Cargo.toml

.PHONY: types
types: $(STAMP_TEST) ## mypy --strict
	$(BIN)/mypy

.PHONY: imports
imports: $(STAMP_TEST) ## import-linter: the layers, and what deterministic code may not import
	PYTHONPATH=.:server:proxy $(BIN)/lint-imports

.PHONY: fmt
fmt: ## cargo fmt --check
	$(CARGO) fmt --manifest-path $(CRATE)/Cargo.toml --check

.PHONY: clippy
clippy: ## clippy, warnings are errors, with and without Python
	$(CARGO) clippy --quiet --manifest-path $(CRATE)/Cargo.toml --all-targets --no-default-features -- -D warnings
	PYO3_NO_PYTHON=1 PYO3_BUILD_EXTENSION_MODULE=1 $(CARGO) clippy --quiet --manifest-path $(CRATE)/Cargo.toml --all-targets -- -D warnings

.PHONY: cargo-test
cargo-test: ## the crate's own tests, without Python
	$(CARGO) test --quiet --manifest-path $(CRATE)/Cargo.toml --no-default-features

.PHONY: fuzz
fuzz: ## feed the native decoder and analyses mutated captures for FUZZ_SECONDS
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh

.PHONY: campaign
campaign: $(STAMP_TEST) $(STAMP_NATIVE) ## decode captures with losses, 100 seeds each: nothing wrong may be shown
	$(PY) -m tests.properties.campaign $(CAMPAIGN_ARGS)

.PHONY: replay-campaign
replay-campaign: $(STAMP_TEST) $(STAMP_NATIVE) ## round trips of all workloads and 100 sessions with jitter, at their whole sizes
	ZKTRACE_FULL=1 PYTHONPATH=.:server:proxy $(PY) -m pytest tests/proxy/replay/test_roundtrip.py tests/proxy/replay/test_jitter.py

.PHONY: differential
differential: $(STAMP_TEST) $(STAMP_NATIVE) ## the reference server beside Java's: 100,000 random operations, every reply compared
	PYTHONPATH=.:server:proxy $(PY) -m tests.server.differential --seeds 1-60 $(DIFFERENTIAL_ARGS)

.PHONY: simulate
simulate: $(STAMP_TEST) ## whole ensembles of the reference server from seeds, with all that can go wrong: SEEDS=1-20000
	PYTHONPATH=.:server:proxy $(PY) -m zktrace_server.sim.campaign --seeds $(SEEDS) --processes 2

.PHONY: bench
bench: $(STAMP_TEST) $(STAMP_NATIVE) ## speed beside tcpdump's, as the table in README.md
	$(PY) -m tests.bench.run $(BENCH_ARGS)

.PHONY: wheel-check
wheel-check: $(STAMP_TEST) ## build wheel and sdist, install each afresh, with and without Rust
	$(PY) scripts/wheel_check.py

.PHONY: system-deps
system-deps: ## Debian packages for tests and benchmarks (needs root; says what it does)
	@scripts/system_deps.sh

.PHONY: lock
lock: ## requirements/*.txt from pyproject.toml (needs uv)
	scripts/lock.sh

.PHONY: clean
clean: ## remove what make made
	rm -rf $(VENV) $(CRATE)/target $(CRATE)/fuzz/target dist zktrace/_native.abi3.so .mypy_cache .ruff_cache .pytest_cache

$(STAMP_VENV): scripts/setup_venv.sh
	@echo "zktrace: setting up $(VENV)"
	@scripts/setup_venv.sh $(VENV)
	@touch $@

$(STAMP_RUN): $(STAMP_VENV) requirements/run.txt
	$(PIP_INSTALL) --requirement requirements/run.txt
	@touch $@

$(STAMP_TEST): $(STAMP_RUN) requirements/test.txt
	$(PIP_INSTALL) --requirement requirements/test.txt
	@touch $@

$(STAMP_NATIVE): $(STAMP_RUN) $(RUST_SOURCES) hatch_build.py pyproject.toml
	@rm -f $(VENV)/.stamp-native-*
	@scripts/install_native.sh $(PY)
	@touch $@

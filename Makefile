# Everything goes through .venv, filled from the lock files in requirements/; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
# The lock files name every package, so pip need not look for more. It compiles on one core, compileall on all, but for the
# tests of packages, which nobody runs; some packages bring files that do not compile, which is no error.
PIP := $(BIN)/python -m pip install --no-compile --no-deps --quiet --disable-pip-version-check --require-hashes
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib src >/dev/null 2>&1 || true
# Every other package by a second pip at the same time, since one unpacks on one core.
define INSTALL
	@awk '/^[a-z]/ { n++ } { print > (".venv/half" n % 2 ".txt") }' $(1)
	$(PIP) -r .venv/half0.txt & first=$$!; $(PIP) -r .venv/half1.txt && wait $$first
	@$(COMPILE)
endef
# One more than cores: some tests wait for real time to pass.
WORKERS = $(shell $(BIN)/python -c "import os; print((os.cpu_count() or 1) + 1)")
SCENARIO := scenarios/ddos-resilience.yaml
export PIP_NO_INPUT := 1
# Programs are started by the hundred in tests: without bytecode each compiles the whole house anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-browser test-linux test-processes lint bench docs web lock nightly mutants clean

demo: .venv/base
	@mkdir -p out
	$(BIN)/phalanx run $(SCENARIO) --log out/ddos-resilience.jsonl --report out/ddos-resilience.html
	@echo
	@echo "One of the agents is infected during an attack: the others find it, expel it, and take over."
	$(BIN)/phalanx run infected-agent --log out/infected-agent.jsonl --report out/infected-agent.html
	@echo
	@echo "The reports are out/ddos-resilience.html and out/infected-agent.html. Why did that happen? Try:"
	@echo "  $(BIN)/phalanx explain out/ddos-resilience.jsonl attackFiltered"
	@echo "  $(BIN)/phalanx explain out/infected-agent.jsonl pop1"
	@echo "See what the agents saw, click any fact and learn why:"
	@echo "  $(BIN)/phalanx console out/infected-agent.jsonl"
	@echo "or watch it live, and release a filter:"
	@echo "  $(BIN)/phalanx run ddos-resilience --realtime 5 --console"

# What needs root or much real time is left out; the next two run that.
test: .venv/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not linux and not processes and not browser"

# Whole files by one worker: with pytest 9.2 the groups of xdist 3.8 have no effect.
test-linux: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m linux -rs

test-processes: .venv/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "processes and not linux" -rs

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python scripts/rooms.py

nightly: .venv/dev
	PHALANX_PLANS=1000 PHALANX_MUTATIONS=500 $(BIN)/python -m pytest -n auto --dist worksteal \
		--hypothesis-profile=nightly -m "not linux and not processes and not browser"
	PHALANX_PLANS=1000 PHALANX_SPREAD_RUNS=10 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		-m "processes and not linux" -rs
	$(BIN)/phalanx fuzz --plans 3000 --jobs 2 --shrink --keep out/fuzz
	PHALANX_KILLS=500 $(BIN)/python -m pytest -n 0 -s tests/system/test_kills.py
	$(BIN)/python benchmarks/bench_endurance.py --hours 720
	$(BIN)/phalanx bench answers
	$(BIN)/phalanx bench compromises
	$(MAKE) mutants

# Faults planted in the product one by one: which share of them do the checks find?
mutants: .venv/dev
	timeout 3600 $(BIN)/python -m scripts.mutants

bench: .venv/bench
	@mkdir -p out
	$(BIN)/phalanx bench

docs: .venv/dev
	$(BIN)/python docs/make.py

# The page is committed as it was built; this builds it anew, and opens it on a run.
web: .venv/base
	@command -v npm >/dev/null || { echo "make web needs Node 20 and npm, to build the page; phalanx console serves the built one"; exit 2; }
	npm ci --prefix web --no-audit --no-fund --silent
	npm run --prefix web --silent build
	@mkdir -p out
	@test -f out/infected-agent.jsonl || $(BIN)/phalanx run infected-agent --log out/infected-agent.jsonl >/dev/null
	$(BIN)/phalanx console out/infected-agent.jsonl --open

test-browser: .venv/dev
	$(BIN)/python -m pytest -n 0 -m browser -rs

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Phalanx needs Python 3.11 or newer; choose one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/base: .venv/created requirements/base.txt pyproject.toml
	$(call INSTALL,requirements/base.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/base requirements/dev.txt
	$(call INSTALL,requirements/dev.txt)
	@touch $@

.venv/bench: .venv/dev requirements/bench.txt
	$(call INSTALL,requirements/bench.txt)
	@touch $@

UV := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
lock:
	$(UV) --extra postgresql --extra linux --extra nats-server --extra tracing --extra harden --extra research --extra data --extra metrics --group build --group test --group lint --group bench -o requirements/bench.txt
	$(UV) --extra postgresql --extra linux --extra nats-server --extra tracing --extra harden --extra research --extra data --extra metrics --group build --group test --group lint -c requirements/bench.txt -o requirements/dev.txt
	$(UV) --extra linux --extra nats-server --group build -c requirements/bench.txt -o requirements/base.txt

clean:
	rm -rf out dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# Every target is a line that calls `dateshard`. pip alone does it; a stamp file makes the second call start at once.
PY     ?= python3
VENV   ?= .venv
EXTRAS ?= examples
CONFIG ?= configs/flights.yaml
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
TOOLS  := $(VENV)/.stamp-tools
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
EXAMPLE := $(firstword $(filter flights traffic,$(patsubst configs/%.yaml,%,$(CONFIG))))
FLAGS  := $(foreach file,$(CONFIG),-c $(file))
NEW    ?=
# DATESHARD_STEP: a command of a target that goes on does not hint at what the next line does
JOBS   ?= logical
FAST   := tests/shardstore tests/pipeline tests/trainer tests/contracts tests/test_architecture.py \
	$(addprefix --ignore=tests/,trainer/runs trainer/models/test_ridge.py trainer/models/test_own_models.py trainer/assessment trainer/test_cache.py trainer/test_loop.py \
	pipeline/workers pipeline/raw/test_cut.py shardstore/test_integrity.py contracts/test_formats.py)

.PHONY: train test test-gpu setup preprocess rerun resume serve check test-fast test-all mutants bench bench-peers docs doctor lock clean

train: export DATESHARD_STEP := 1
train: $(STAMP)  ## one command: environment, the example's raw data, shards, a trained model, its evaluation and its page
	@$(if $(EXAMPLE),$(BIN)/dateshard init --example $(EXAMPLE))
	@$(BIN)/dateshard preprocess $(FLAGS)
	@$(BIN)/dateshard train $(FLAGS) --resume $(if $(NEW),none,auto)
	@$(BIN)/dateshard evaluate latest $(FLAGS) --report

# Modules are compiled once and not in each of the tests' processes; files that hold one long test do not come last
test test-fast: export PYTHONDONTWRITEBYTECODE :=
test: $(TOOLS)  ## the tests (minutes), a process a core; the same examples every time, test-all draws new ones
	@$(BIN)/python -m pytest -m "not slow" --hypothesis-profile ci --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test-fast: $(TOOLS)  ## the parts by themselves, for while you work: no journeys, no kills, no commands
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --hypothesis-profile ci --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(FAST)


setup: $(TOOLS)  ## all that working on it needs

preprocess: $(STAMP)  ## DATES=2013-03-05 CONFIG="a.yaml b.yaml"
	@$(BIN)/dateshard preprocess $(DATES) $(FLAGS)

rerun: $(STAMP)  ## DATE=2013-03-05: measure and normalise that date again with the frozen statistics
	@$(BIN)/dateshard preprocess $(or $(DATE),$(error name a date: make rerun DATE=2013-03-05)) --force $(FLAGS)

resume: $(STAMP)  ## RUN=flights-20261121-2330
	@$(BIN)/dateshard train --resume $(or $(RUN),$(error name a run: make resume RUN=... (dateshard runs lists them)))

serve: $(STAMP)  ## the training service on 127.0.0.1:8000; wants EXTRAS=examples,service
	@$(BIN)/dateshard serve $(FLAGS)

check: $(TOOLS)  ## lint, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test-all: $(TOOLS)  ## with crash loops and long journeys
	@$(BIN)/python -m pytest

test-gpu: $(TOOLS)  ## what needs an accelerator: fails where there is none
	@$(BIN)/python -c 'from tests.kit.devices import NONE, count_accelerators as count; exit(None if count() else f"{NONE}: nothing was tested")'
	@$(BIN)/python -m pytest -m gpu tests/trainer

mutants: $(TOOLS)  ## small mistakes made in a copy of the source, one at a time: every one must fail a test; ONLY=trainer/runs for some
	@$(BIN)/python -m tests.mutants.run --only "$(ONLY)"

bench: $(TOOLS)  ## measures reading, preparing and training beside the limits of the machine, and makes docs/performance.md; ONLY=reader
	@$(BIN)/dateshard init --example flights && $(BIN)/dateshard preprocess -c configs/flights.yaml
	@$(BIN)/python bench/run.py $(or $(ONLY),ours)

bench-peers: $(TOOLS)  ## the same beside other libraries, which pip installs into .venv-peers (6 GB); an hour
	@$(BIN)/python bench/run.py $(or $(ONLY),peers)

docs: $(STAMP)  ## docs/json.md, made of the schemas of what --json prints, docs/python.md, of the docstrings, and docs/rooms.md, of the modules
	@$(BIN)/python -m dateshard.documents.page
	@$(BIN)/python -m dateshard.documents.python_page
	@$(BIN)/python -m dateshard.documents.rooms_page

doctor: $(STAMP)
	@$(BIN)/dateshard doctor

lock: $(TOOLS)  ## writes constraints.txt from what is installed
	@$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/+cpu$$//' > constraints.txt

clean:  ## caches and the environment; never shards or runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PY) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make environments: install the package python3-venv"; exit 1; }
	@echo "setting up $(VENV) (on Linux the default torch is a CUDA build of several GB; see README for the CPU build)"
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(TOOLS): $(STAMP)  # linters and what tests compare with: only for who works on it
	@$(INSTALL) -e '.[$(EXTRAS),dev]'
	@touch $@

# `make demo` and `make test` need only Python 3.11-3.13, pip and make; everything they install stays in this folder.
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
OLDEST := .venv-oldest/bin
export UV_CACHE_DIR ?= $(CURDIR)/.tools/uv-cache
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo ladder ladder-smoke test test-long fuzz lint test-oldest constraints clean

$(UV):
	$(PYTHON) -m pip install --quiet --upgrade --target .tools "uv==0.13.9"

.venv/.ready: $(UV) pyproject.toml constraints.txt
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

setup: .venv/.ready

demo: .venv/.ready
	$(BIN)/finevit demo --out outputs/demo

# Hours on two cores; goes on where it stopped. SEEDS="0 1 2" for error bars.
SEEDS ?= 0
ladder: .venv/.ready
	nice -n 10 $(BIN)/python -m benchmarks.ladder --size nano --seeds $(SEEDS) --report benchmarks/ladder

ladder-smoke: .venv/.ready
	$(BIN)/python -m benchmarks.ladder --size smoke

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check modeling_finevit finevit_vl finecap training_scripts eval finevit benchmarks

test: .venv/.ready lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/long_runs

# Kills, whole loops, whole-run equalities, the built wheel.
test-long: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/long_runs

# Property tests with fresh examples for ten minutes; `make test` draws the same ones every time.
fuzz: .venv/.ready
	$(BIN)/python -m tests.support.fuzz 10

.venv-oldest/.ready: $(UV) pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-oldest
	$(UV) pip install --quiet --python $(OLDEST)/python -e ".[torchvision]" \
	  "transformers==5.17.*" "torch==2.11.*" pytest pytest-xdist hypothesis peft dashscope pillow
	touch $@

test-oldest: .venv-oldest/.ready
	$(OLDEST)/python -m pytest -n 2 -m "model and not gpu" \
	  tests/modeling_finevit tests/finevit_vl

constraints: $(UV)
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --no-header \
	  --extra dev pyproject.toml -o constraints.txt
	sed -i '1i # Exact versions for a reproducible set-up on Python 3.11 to 3.13; made by `make constraints`.' constraints.txt

clean:
	rm -rf .venv .venv-oldest .tools outputs

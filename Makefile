# make demo   train and decode on synthetic speech, from nothing, in minutes (ATTENTION=mala|softmax|linear|...)
# make test   lint and tests
# Both make their own environment in .venv first; nothing is written outside this folder.

ATTENTION ?= mala
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
SLOWEST := $(addprefix tests/,test_programs.py test_recipes.py test_linearise_recipe.py asr/test_distributed.py \
	asr/checkpoints/test_onnx_export.py asr/attention/test_kernels.py test_benchmarks.py)  # first: nobody waits for them
READY := .venv/.ready
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test lint format environment clean

demo: environment
	@bash recipes/demo/run.sh --attention $(ATTENTION)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(SLOWEST) tests

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: environment
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

environment: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	@echo "setting up .venv (about 5.4 GB; two to four minutes on a fast connection)"
	@$(PYTHON) -m venv .venv || { echo "error: on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.8
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m asr.lm.kenlm_tools
	@touch $(READY)

clean:
	rm -rf .venv .cache

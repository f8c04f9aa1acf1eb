# Every target does its own set-up; a fresh machine needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint docs bench setup clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	# torch first and pinned: a range would pull a CUDA build on machines without a GPU.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	# Without its dependencies: it asks for torchvision, whose builds ask for a CUDA torch.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^lmms_eval==' constraints.txt)"
	touch $(READY)

demo: $(READY)
	$(BIN)/narrowtune demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Files side by side, each in one process: what a file makes for its tests is made once.
SIDE_BY_SIDE := -n 2 --dist loadfile

test: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow or not slow"

docs: $(READY)
	$(BIN)/python docs/build.py

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

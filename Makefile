# make demo   transcribe the bundled sample with the bundled model
# make test   the whole test suite (ASR_DATA=folder adds the tests on real speech)
# make lint   ruff and mypy
# make bench  speed of transcription on this machine
# Each creates .venv and installs what it needs first: make demo without PyTorch, the others with it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/python egs/demo.py

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python tools/bench.py transcribe egs/sample.wav

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		{ echo "error: Python 3.11.4 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	-$(BIN)/asr warm-up
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev,train]'
	-$(BIN)/asr warm-up
	@touch $@ .venv/installed

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each target first makes .venv and installs secateur into it, if that is not done yet.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs

COVERED := 80  # %

.PHONY: demo test test-all quick attack coverage lowest newest check hooks docs build bench clean

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Every case of every test, the long ones too.
test-all: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --all

# All cases of the suites in tests/attack, and a table of what came of them.
attack: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --attack tests/attack

# In about a minute: one case of each test that is not slow.
quick: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --quick

# Which lines `make quick` runs. The floor is that of the quick tests, and so below that of all tests.
coverage: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --quick --cov --cov-report=term --cov-fail-under=$(COVERED)

# The quick tests with the oldest versions that pyproject.toml allows, and with the newest that there are, each in an
# environment of its own (several GiB where pip finds no CPU build of torch; a few minutes, once). Some of the oldest were
# never built for a Python newer than 3.11.
lowest: .venv-lowest/.ready
	@OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n 2 --quick

newest: .venv-newest/.ready
	@OMP_NUM_THREADS=1 .venv-newest/bin/pytest -n 2 --quick

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell

# `make check` on what a commit changes, at each commit.
hooks: $(READY)
	@$(BIN)/pre-commit install

# Wheel and sdist in dist/, and the wheel tried in an environment of its own that borrows what .venv holds.
build: $(READY)
	@rm -rf dist build/try
	@$(BIN)/python -m build --outdir dist
	@$(BIN)/python -m venv build/try
	@build/try/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	@cd build/try && PYTHONPATH="$$(echo ../../$(VENV)/lib/python*/site-packages)" bin/secateur --version

# The site, in out/site; fails on a broken link or an unknown name.
docs: $(READY_DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

bench: $(READY)
	@$(BIN)/python benchmarks/paper.py
	@$(BIN)/python benchmarks/scaling.py
	@$(BIN)/python benchmarks/fidelity.py
	@$(BIN)/python benchmarks/fronts.py
	@$(BIN)/python benchmarks/certify.py
	@$(BIN)/python benchmarks/exact.py
	@$(BIN)/python benchmarks/onnx_files.py
	@$(BIN)/python benchmarks/picture.py

# What runs have left behind; environments stay, since they take minutes to make.
clean:
	@rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find src tests benchmarks examples -type d -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'secateur needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
	  { echo 'No virtual environment could be made; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Installing secateur and its tools into $(VENV) (once; a few minutes) …'
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(READY_DOCS): $(READY)
	@echo 'Installing what the site needs into $(VENV) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

.venv-lowest/.ready: pyproject.toml .ci/lowest.py
	@$(PYTHON) -m venv --clear .venv-lowest
	@.venv-lowest/bin/python .ci/lowest.py pyproject.toml > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[test]'
	@touch $@

.venv-newest/.ready: pyproject.toml
	@$(PYTHON) -m venv --clear .venv-newest
	@.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

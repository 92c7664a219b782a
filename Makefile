# Everything a fresh clone needs: `make demo`, `make demo-real` and `make test` set themselves up in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2

.PHONY: demo demo-real test test-slow fuzz lint types layers sizes check docs wheel clean

# torch first and pinned: an unpinned torch brings gigabytes of GPU packages
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/phonosmith demo --out demo-out

# SevenNet-0 on real PBE: GPAW is built here (g++, libxc and OpenBLAS must be there), what it calculates is kept
demo-real: $(STAMP)
	$(BIN)/python -c "import gpaw" 2>/dev/null || sh tools/install_gpaw.sh $(BIN)/python
	$(BIN)/python -c "import sevenn" 2>/dev/null || PYTHON=$(BIN)/python bash tools/install_architectures.sh
	$(BIN)/phonosmith demo --real --out demo-real-out

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

# atheris lies beside the environment, not in it; inputs that reach new code are kept in .fuzz and used again
FUZZ_MINUTES ?= 60
fuzz: $(STAMP)
	test -d $(VENV)/fuzz || $(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(VENV)/fuzz "atheris>=3.0"
	PYTHONPATH=$(VENV)/fuzz nice $(BIN)/python tests/attack/fuzz.py .fuzz --minutes $(FUZZ_MINUTES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/python tools/check_circles.py

sizes: $(STAMP)
	$(BIN)/python tools/check_sizes.py

check: lint types layers sizes

# executes the tutorials whose text, or the package, changed since the last time: all of them on a fresh clone
docs: $(STAMP)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --quiet --wheel
	$(BIN)/python tools/check_wheel.py dist

clean:
	rm -rf $(VENV) dist build demo-out demo-real-out docs/_build docs/tutorials docs/commands.md

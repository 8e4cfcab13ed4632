# make demo:  install into a virtual environment, train and test a detector on the embedded set, write a report
# make test:  the fast tests;  make check: lint, types and tests
# make docs:  the documentation as a site, in docs/_build/html
# make figures: redraw the documentation's figures
# make reproduce: the paper's table with CLIP ViT-B/16; needs a GPU and a network
# make bench: speed and memory compared with a plain implementation, one table
# PYTHON: interpreter for the virtual environment (3.11 or newer)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types check docs figures reproduce bench

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/.installed
	@mkdir -p runs
	$(BIN)/clipos fit --config demo.yaml --trainer.default_root_dir runs/demo > runs/.demo-fit
	@cat runs/.demo-fit
	$(BIN)/clipos test --ckpt_path "$$(sed -n 's/^run: //p' runs/.demo-fit)/last.ckpt" --trainer.default_root_dir runs/demo

# compiled files are kept, whatever the environment says: the processes that tests start would compile the package again
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: lint types test

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

figures: $(VENV)/.installed
	$(BIN)/python scripts/figures.py

reproduce: $(VENV)/.installed
	$(BIN)/python scripts/reproduce.py

bench: $(VENV)/.installed
	@$(BIN)/python benchmarks

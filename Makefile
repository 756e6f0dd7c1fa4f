# openmm_fab: `make run` shows it at work, `make test` tests it. Both set up .venv/ first, once.

PYTHON ?= python3
SYSTEM ?= alanine_dipeptide
PRESET ?= laptop
NAME ?=
PYTEST_ARGS ?=
BUDGET ?=
PAPER_ARGS ?=
PAPER_METHODS := fab fab_defaults fab_no_buffer ml alpha2 reverse_kl
PAPER_TARGETS := gmm40 manywell32 alanine_dipeptide
PAPER_RUNS := $(foreach t,gmm40 manywell32,$(foreach m,$(PAPER_METHODS) snf,$(t).$(m))) $(addprefix alanine_dipeptide.,$(PAPER_METHODS) snf ml_md)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := 3.10
# Some of the versions in constraints.txt need Python 3.11; with 3.10 pip chooses for itself.
PINNED = $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

.DEFAULT_GOAL := help
.PHONY: help run test base notebooks docs paper lint types format clean

help:
	@echo "make run      train on systems/$(SYSTEM) and compare with its reference (PRESET=$(PRESET), SYSTEM=..., NAME=... for the run's name)"
	@echo "make test     run the tests, a process on each core (PYTEST_ARGS='-k weights' to choose among them)"
	@echo "make base     run the tests marked base with no more installed than the package itself asks for"
	@echo "make notebooks  execute notebooks/ in place (BUDGET='2 min' for each training, instead of the notebooks' own)"
	@echo "make docs     build the documentation in site/, without a warning"
	@echo "make paper    every method of the FAB paper on its targets, then the tables: a day (PAPER_ARGS='--seeds 0 --minutes 5' for less)"
	@echo "make lint     ruff: rules and formatting"
	@echo "make types    mypy"
	@echo "make format   let ruff mend what it can"
	@echo "make clean    remove $(VENV)/, caches and build artefacts; runs/ stays"
	@echo "PYTHON=...    the interpreter that $(VENV)/ is made with, $(OLDEST) or newer (now $(PYTHON))"

run: $(READY)
	$(BIN)/openmm-fab run systems/$(SYSTEM) --preset $(PRESET) $(if $(NAME),--name $(NAME))

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

base: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python .ci/base_install.py

notebooks: $(READY)
	$(if $(BUDGET),OPENMM_FAB_NOTEBOOK_BUDGET="$(BUDGET)" )$(BIN)/jupyter execute --inplace notebooks/*.ipynb
	$(BIN)/python .ci/clean_notebooks.py notebooks/*.ipynb

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Those that benchmarks/results/paper/ has figures of are skipped, an interrupted one goes on in runs/paper/.
paper: $(READY)
	for run in $(PAPER_RUNS); do $(BIN)/python -m benchmarks paper $$(echo $$run | tr . ' ') $(PAPER_ARGS) || exit 1; done
	for target in $(PAPER_TARGETS); do $(BIN)/python -m benchmarks paper $$target --record || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find openmm_fab tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted set-up starts again, and a changed list of packages is installed anew.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(OLDEST)".split("."))))' || \
		{ echo "openmm_fab needs Python $(OLDEST) or newer; $(PYTHON) is not. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing openmm_fab into $(VENV)/ (PyTorch and OpenMM are large: a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PINNED) -e ".[test,lint,tensorboard]" || \
		{ echo "Could not install into $(VENV)/: pip says why above. The network? Then 'make' again." >&2; exit 1; }
	@touch $(READY)

$(VENV)/.docs: $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PINNED) -e ".[docs]"
	@touch $@

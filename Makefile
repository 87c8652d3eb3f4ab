# make demo   install, run every notebook on a small built-in data set, write runs/demo/report
# make test   install, run the tests
# make report RUN=runs/x   write what notebook 4 says about a run to runs/x/report/run.html
# make paper RUN=runs/x   write its figures as PDF and its tables as LaTeX to runs/x/paper
#
# Both install into the active environment (venv or conda); without one they create .venv here.
# conda's base environment does not count: it is not this project's.

.PHONY: help demo test report paper figures notebooks bench bench-search gpu lint lab clean environment

help:
	@sed -n '1,7s/^# \{0,1\}//p' Makefile
	@echo 'Also: make lab | lint | figures | notebooks (re-execute the committed ones) |' \
	    'bench | bench-search | gpu | clean'

conda := $(if $(filter base,$(CONDA_DEFAULT_ENV)),,$(CONDA_PREFIX))
env := $(or $(VIRTUAL_ENV),$(conda),$(CURDIR)/.venv)
python := "$(env)/bin/python"

# Create .venv unless an environment is active, and install unless this checkout, with the present
# pyproject.toml, is what the environment holds. The stamp lies in the environment and dies with it.
environment:
	@set -eu; \
	stamp="$(env)/.dsnn-utils"; \
	wanted="$(CURDIR) $$(cksum < pyproject.toml)"; \
	if [ "$$(cat "$$stamp" 2> /dev/null)" = "$$wanted" ]; then exit 0; fi; \
	if [ "$(env)" = "$(CURDIR)/.venv" ] && ! $(python) -m pip --version > /dev/null 2>&1; then \
	    for base in $(PYTHON) python3 python python3.13 python3.12 python3.11 none; do \
	        "$$base" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	            > /dev/null 2>&1 && break; \
	    done; \
	    if [ "$$base" = none ]; then \
	        echo 'error: found no Python 3.11 or newer with venv and ensurepip (Debian, Ubuntu:' \
	            'apt install python3-venv); name one with make PYTHON=/path/to/python' >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating .venv with $$("$$base" --version)"; \
	    "$$base" -m venv .venv; \
	fi; \
	if ! $(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "error: $(env): must be an environment with Python 3.11 or newer" >&2; exit 1; \
	fi; \
	echo "Installing into $(env) (the first time: minutes, and about 6 GB on Linux)"; \
	if ! $(python) -m pip install -qq -e '.[test,deploy]'; then \
	    echo 'note: without the runtimes of notebook 10, which this platform may not have' >&2; \
	    $(python) -m pip install -qq -e '.[test]'; \
	fi; \
	echo "$$wanted" > "$$stamp"

demo: environment
	@$(python) -m dsnn_utils.runner --profile demo --out runs/demo

# Each file of tests stays in one process, since its tests share executed notebooks. A process takes
# 2 GB, so there are four at most.
test: environment
	@PYTHONHASHSEED=0 $(python) -m pytest -n auto --maxprocesses 4 --dist loadfile

report: environment
	@$(python) -m dsnn_utils.report "$(or $(RUN),runs/demo)"

paper: environment
	@$(python) -m dsnn_utils.report "$(or $(RUN),runs/demo)" --paper

# Remake every figure below figures/ from the tables committed there.
figures: environment
	@$(python) -m dsnn_utils.study.figures

# Re-execute the committed notebooks with their defaults and keep the outputs that help a reader.
notebooks: environment
	@$(python) -m dsnn_utils.runner --in-place --no-html

# Search strategies compared on known outcomes (hours on one core: --problems and
# --strategies of the script take a part); the results are committed.
bench-search: environment
	@OMP_NUM_THREADS=1 $(python) tests/benchmarks/bench_search.py

# Speed of training and cost of measuring, in ratios: on a quiet machine. DEEPSHIFT=checkout adds
# the reference implementation.
bench: environment
	@$(python) tests/benchmarks/bench_training.py $(if $(DEEPSHIFT),--deepshift $(DEEPSHIFT))
	@$(python) tests/benchmarks/bench_energy.py
	@$(python) tests/benchmarks/bench_inference.py

# On a machine with a GPU: the tests for it, the speed of training, and the full trainings at few
# bits, eight side by side. DATA=folder or zip with CIFAR-10, else torchvision downloads it.
gpu: environment
	@$(python) -m pytest tests/test_cuda.py
	@$(python) tests/benchmarks/bench_training.py
	@for profile in cifar10_plain cifar10_few_bits_finals; do \
	    $(python) -m dsnn_utils.runner 07_training_given_networks --profile $$profile --no-html \
	        -p n_workers 8 $(if $(DATA),-p dataset "$(DATA)"); \
	done

lint: environment
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy

lab: environment
	@PYTHONHASHSEED=0 $(python) -m jupyter lab notebooks

# Runs, data and .venv stay: they are results, downloads and minutes of installing.
clean:
	@rm -rf build dsnn_utils.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

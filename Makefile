# make demo   install, run every notebook on a small built-in data set, write runs/demo/report
# make test   install, run the tests
#
# Both install into the active environment (venv or conda); without one they create .venv here.
# conda's base environment does not count: it is not this project's.

.PHONY: help demo test notebooks lint lab clean environment

help:
	@sed -n '1,5s/^# \{0,1\}//p' Makefile
	@echo 'Also: make lab | lint | notebooks (re-execute the committed ones) | clean'

# Recipes refer to $$env and $$python instead of make variables: these may contain spaces.
define find_environment
set -eu; \
env=$${VIRTUAL_ENV:-}; \
if [ -z "$$env" ] && [ "$${CONDA_DEFAULT_ENV:-}" != base ]; then env=$${CONDA_PREFIX:-}; fi; \
env=$${env:-$$PWD/.venv}; \
python=$$env/bin/python
endef

# Create .venv unless an environment is active, and install unless this checkout, with the present
# pyproject.toml, is what the environment holds. The stamp lies in the environment and dies with it.
environment:
	@$(find_environment); \
	stamp=$$env/.dsnn-utils; \
	wanted="$$PWD $$(cksum < pyproject.toml)"; \
	if [ "$$(cat "$$stamp" 2> /dev/null || true)" = "$$wanted" ]; then exit 0; fi; \
	if [ "$$env" = "$$PWD/.venv" ] && ! "$$python" -m pip --version > /dev/null 2>&1; then \
	    for base in $(PYTHON) python3 python python3.13 python3.12 python3.11; do \
	        "$$base" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	            > /dev/null 2>&1 && break; \
	        base=; \
	    done; \
	    if [ -z "$$base" ]; then \
	        echo 'error: no Python 3.11 or newer with venv and ensurepip on the PATH' \
	            '(Debian, Ubuntu: apt install python3-venv); name one with make PYTHON=...' >&2; \
	        exit 1; \
	    fi; \
	    echo "creating .venv with $$("$$base" --version)"; \
	    "$$base" -m venv .venv; \
	fi; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "error: $$python: must be Python 3.11 or newer" >&2; exit 1; \
	fi; \
	echo "installing into $$env (the first time this takes minutes and about 6 GB)"; \
	"$$python" -m pip install -q -e '.[test]'; \
	echo "$$wanted" > "$$stamp"

demo: environment
	@$(find_environment); "$$python" -m dsnn_utils.runner --profile demo --out runs/demo

test: environment
	@$(find_environment); PYTHONHASHSEED=0 "$$python" -m pytest

# Re-execute the committed notebooks with their defaults and keep the outputs that help a reader.
notebooks: environment
	@$(find_environment); "$$python" -m dsnn_utils.runner --in-place

lint: environment
	@$(find_environment); "$$python" -m ruff check .; "$$python" -m ruff format --check .

lab: environment
	@$(find_environment); PYTHONHASHSEED=0 "$$python" -m jupyter lab notebooks

# Runs, data and .venv stay: they are results, downloads and minutes of installing.
clean:
	rm -rf build dsnn_utils.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

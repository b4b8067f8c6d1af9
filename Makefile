# `make demo` and `make test` set up what they need, once, and keep it: see tools/setup_env.py.

PYTHON ?=
JOBS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format models doctor clean-env

# The first Python of the list that is new enough runs the set-up script and becomes the environment's.
setup_env = for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python); do \
	  "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break; \
	  python=; \
	done; \
	test -n "$$python" || { echo 'densevit needs Python 3.10 to 3.13 and found none that runs: install one,' \
	  'or name it: make $@ PYTHON=/path/to/python' >&2; exit 1; }; \
	"$$python" tools/setup_env.py

help: ## list these commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  PYTHON=/path/to/python chooses the Python, ARGS="..." adds arguments, JOBS=n sets the test processes.'

env: ## set up the environment and say where it is
	@$(setup_env)

demo: ## learn to segment and to detect on generated scenes, about 11 minutes on two CPU cores
	@$(setup_env) --run tools/demo.py $(ARGS)

test: ## run the tests
	@export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}; $(setup_env) --run -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: ## check style and format
	@$(setup_env) --run -m ruff check .
	@$(setup_env) --run -m ruff format --check .

format: ## mend style and format where that needs no thought
	@$(setup_env) --run -m ruff check --fix .
	@$(setup_env) --run -m ruff format .

models: ## count every config's model and write the metafiles and README's tables of them
	@$(setup_env) --run tools/model_index.py --write

doctor: ## say what this machine has, what works and what to do about the rest
	@$(setup_env) --run tools/doctor.py $(ARGS)

clean-env: ## remove every environment that was set up for densevit
	@$(setup_env) --clean

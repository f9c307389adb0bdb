# Two commands on a fresh machine: `make demo` and `make test`. They need Python ≥ 3.11 and a network
# to install from; everything goes into .venv. Paths are relative, so that any folder's name will do.

PY = .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1
WORKERS ?= 2

.PHONY: help demo test slow long newest lint docs ci results faults mutants lock clean

help:  ## Print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: .venv/.core  ## Train a DDPM on handwritten digits, sample, judge, report: 4 minutes
	@$(PY) experiments/ddpm_mnist5k.py

test: .venv/.dev  ## Run the fast tests
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup

slow: .venv/.dev  ## Run the slow tests
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup -m slow

long: .venv/.dev  ## Evaluate every model, at its usual size
	@$(PY) -m pytest -m long

newest: .venv-newest/.dev  ## Fast tests on the newest versions, on Python >= 3.12, in .venv-newest
	@.venv-newest/bin/python -m pytest -n $(WORKERS) --dist loadgroup

lint: .venv/.dev  ## Check style, formatting and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright

docs: .venv/.docs  ## Build the site in site/; a warning or a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

ci: test lint slow docs  ## All of the above

results:  ## Regenerate docs/RESULTS.md from results/*.json
	@$(PY) experiments/record.py

faults: .venv/.dev  ## Break trainings in every known way, write docs/FAULTS.md: 5 minutes
	@$(PY) experiments/faults.py

mutants: .venv/.dev  ## Put small errors into the code, count those that tests notice: an hour
	@$(PY) experiments/mutants.py

lock: .venv/.dev  ## Choose versions anew: constraints.txt, for every Python and system
	@$(PY) -m uv pip compile --universal --fork-strategy fewest --python-version 3.11 --extra dev --extra docs \
		--upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--quiet pyproject.toml --output-file constraints.txt

clean:  ## Remove both environments and caches, but no run
	@rm -rf .venv .venv-newest .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.core: pyproject.toml constraints.txt scripts/install.sh
	@sh scripts/install.sh . $@

.venv/.dev: pyproject.toml constraints.txt scripts/install.sh
	@sh scripts/install.sh '.[dev]' $@

.venv/.docs: pyproject.toml constraints.txt scripts/install.sh
	@sh scripts/install.sh '.[docs]' $@

.venv-newest/.dev: pyproject.toml scripts/install.sh
	@sh scripts/install.sh '.[dev]' $@ newest

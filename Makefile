# Phasetune. `make run` and `make test` need Python 3.10 to 3.13 and nothing else; both set up `.venv` first, once.
#
# Where packages come from is the machine's own pip configuration; which versions, `constraints.txt`. Nothing outside this folder
# is written except pip's and Ray's caches. Set-up is done again when pyproject.toml or constraints.txt change.

SHELL := /bin/bash
PY := .venv/bin/python
STUDY ?= configs/studies/quickstart.yaml
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup run test test-pure ci check format bench chaos quality demo-openai audit clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|'

run: .venv/.installed  ## the quickstart study: a real search on bundled pictures (STUDY=... and ARGS="--set k=v" change it)
	@$(PY) -m tune run $(STUDY) $(ARGS)

test: .venv/.installed  ## every test, in two processes (ARGS="-k word" chooses)
	@$(PY) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

test-pure: .venv/.installed  ## the tests that need neither Ray nor torch, in seconds
	@$(PY) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not ray and not slow and not gpu" $(ARGS)

ci: test  ## what .ci/run runs: every test, then the audit, which fails on known vulnerabilities and says if it could not be made
	@$(PY) -m tests.audit --or-say-so

check: .venv/.installed  ## lint, formatting, types, import contracts
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

format: .venv/.installed  ## sort imports, mend what the linter can, format
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format .

bench: .venv/.installed  ## measure this machine: trial overhead, memory, journal (ARGS="--help")
	@$(PY) -m tests.bench $(ARGS)

chaos: .venv/.installed  ## kill, fill and hang what studies run on, resume, compare: a table of faults (ARGS="--help"); 28 minutes
	@$(PY) -m tests.chaos $(ARGS)

quality: .venv/.installed  ## prove the search: regret beside Optuna, Ray and Syne Tune in virtual time (ARGS="--help"); hours, resumable
	@$(PY) -m pip install --quiet --no-input -c constraints.txt -e ".[dev,quality]"
	@$(PY) -m tests.quality $(ARGS)

demo-openai: .venv/.installed  ## GPT-4o by phases against a local server with faults and a killed driver: the phase table, the report
	@$(PY) -m tests.openai_phases.demo $(ARGS)

audit: .venv/.installed  ## look the pinned versions up in the database of known vulnerabilities; needs its service on the network
	@$(PY) -m tests.audit $(ARGS)

clean:  ## remove what set-up and tests made; studies stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find tune trainables cluster tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: .venv/.installed  ## only make .venv and install the pinned dependencies

# The first python of the list that is recent enough; PYTHON=... overrides. pip's own words go to .venv/install.log, one line a
# package to the terminal, and the end of the log as well if it fails.
.venv/.installed: pyproject.toml constraints.txt
	@set -euo pipefail; \
	if ! $(PY) -m pip --version > /dev/null 2>&1; then \
	  found=; \
	  for python in $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python3.10); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	      found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.10 to 3.13" >&2; \
	    echo "    got: $$($(if $(PYTHON),$(PYTHON),python3) --version 2>&1 || true)" >&2; \
	    echo "    fix: install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 2; \
	  fi; \
	  echo "[1/2] .venv with $$("$$found" --version)"; \
	  rm -rf .venv; \
	  if ! "$$found" -m venv .venv; then \
	    rm -rf .venv; \
	    echo "make: '$$found -m venv .venv' failed" >&2; \
	    echo "    fix: on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 2; \
	  fi; \
	fi; \
	begun=$$SECONDS; \
	echo "[2/2] installing about 160 pinned packages (2.3 GB on disk with a CPU torch, several more with a CUDA one)"; \
	if ! $(PY) -m pip install --no-input --progress-bar off -c constraints.txt -e ".[dev]" 2>&1 | tee .venv/install.log | \
	  awk '/^(Collecting|Processing) / { n++; name = $$2; sub(/.*\//, "", name); sub(/[][<>=!~;(].*|-[0-9].*/, "", name); \
	                                     printf "      %3d %s\n", n, name; fflush() } \
	       /^  Downloading .*([0-9][0-9][0-9](\.[0-9]+)? MB|GB)/ { sub(/^  /, "          "); print; fflush() } \
	       /^Building wheels/       { print "      building wheels"; fflush() } \
	       /^Installing collected/  { print "      unpacking " (NF - 3) " packages (a minute or two)"; fflush() }'; then \
	  grep -E '^ *(ERROR|error)' .venv/install.log >&2 || tail -n 20 .venv/install.log >&2; \
	  echo "make: installing failed" >&2; \
	  echo "    fix: see .venv/install.log (network, disk space, a compiler?), then the same command again" >&2; \
	  exit 2; \
	fi; \
	echo "      installed in $$((SECONDS - begun)) s"; \
	touch $@

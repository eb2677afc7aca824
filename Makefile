# Two commands for a fresh clone: `make quickstart` and `make test`. `make help` lists all.
# Needed: Python 3.11 to 3.13 with venv, and about 8 GB of disk. Nothing else has to be prepared.
#
#   make quickstart PYTHON=/opt/python/bin/python3.12     another Python
#   make quickstart PIP_ARGS="--extra-index-url URL"      further options of pip install

PYTHON ?=
PIP_ARGS ?=
MIN_DISK_MB := 8000
VENV := .venv
BIN := $(VENV)/bin
# PYTHON reaches the recipe through the environment, so that a path with spaces stays whole.
export PYTHON

.PHONY: help quickstart test docs clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   install into $(VENV), train on generated scenes, open report.html after"
	@echo "make test         install with the test tools; ruff, mypy and pytest"
	@echo "make docs         install with the documentation tools; build docs/_build/html"
	@echo "make clean        remove $(VENV), caches and built pages (runs/ stays)"

quickstart: $(VENV)/.installed-run
	$(BIN)/rlseg quickstart

# One thread: several would wait for each other on these small tensors, and results would differ.
test: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest

docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find rlseg tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-run: EXTRA :=
$(VENV)/.installed-test: EXTRA := [test]
$(VENV)/.installed-docs: EXTRA := [docs]

# The stamps make a second `make` quick; a changed pyproject.toml installs again.
$(VENV)/.installed-run $(VENV)/.installed-test $(VENV)/.installed-docs: pyproject.toml
	@set -e; \
	supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	if [ -x $(BIN)/python ] && $(BIN)/python -c "$$supported" 2>/dev/null; then \
	  python=$(BIN)/python; \
	else \
	  if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; \
	  else set -- python3.13 python3.12 python3.11 python3; fi; \
	  python=; seen=; \
	  for name in "$$@"; do \
	    version=$$("$$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	      || continue; \
	    seen="$$seen $$name is $$version;"; \
	    if "$$name" -c "$$supported" 2>/dev/null; then python=$$name; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "rlseg needs Python 3.11, 3.12 or 3.13;$${seen:- none found as: $$*;}" \
	      "install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	    exit 1; \
	  fi; \
	fi; \
	if [ -z "$$(ls -d $(VENV)/.installed-* 2>/dev/null)" ]; then \
	  free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1024) }'); \
	  if [ "$$free" -lt $(MIN_DISK_MB) ]; then \
	    echo "the disk is too small: installing needs $(MIN_DISK_MB) MB, $$PWD has $$free MB free;" \
	      "make room, or clone to a larger disk" >&2; \
	    exit 1; \
	  fi; \
	fi; \
	if [ "$$python" != $(BIN)/python ]; then \
	  echo "making $(VENV) with $$python"; \
	  rm -rf $(VENV); \
	  if ! "$$python" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "$$python cannot make a virtual environment; on Debian and Ubuntu install" \
	      "python3-venv, elsewhere a complete Python" >&2; \
	    exit 1; \
	  fi; \
	fi; \
	echo "installing: takes 2 to 5 minutes and about 6 GB the first time (torch is large)"; \
	( while sleep 30 >/dev/null 2>&1; do \
	    echo "  still installing, $$(du -sm $(VENV) 2>/dev/null | cut -f1) MB so far"; done ) & \
	ticker=$$!; \
	trap 'kill $$ticker 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -e ".$(EXTRA)" || { \
	  echo "pip could not install rlseg; its messages are above (network? disk full?)." \
	    "The same command tries again" >&2; exit 1; }; \
	touch $@; echo "installed"

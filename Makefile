# `make demo` and `make test` are all that a newcomer needs: Python 3.11 or later, make and a package index.

PYTHON ?= python3
DEMO = .demo/bin
KERNEL = setup.py $(wildcard klcal/kernels/source/*)
SOURCES = $(shell find klcal -name '*.py')
VENV = .venv/bin
# The version is pinned because an open-ended torch brings gigabytes of CUDA; any torch from 2.10 on works.
TORCH = torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-consumers test-browser test-release check fmt golden reference bench torture fuzz sanitize site clean

help:  ## show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: .demo/ready  ## install klcal into .demo and calibrate sample_tensors
	$(DEMO)/klcal calibrate sample_tensors --format table
	@echo 'klcal is $(DEMO)/klcal: try $(DEMO)/klcal --help, or $(DEMO)/klcal calibrate FILES of your own'

test: .venv/ready  ## install what the suite needs into .venv and run all of it
	$(VENV)/python -m pytest -n 2 --dist worksteal

test-consumers: .venv/ready  ## load what apply and export write with the libraries that run it (360 MB of them)
	$(VENV)/pip install --quiet --group consumers
	$(VENV)/python -m pytest -W default tests/consumers

test-browser: .venv/ready  ## try klcal report in a browser, if there is one: Chromium, as Debian has it
	$(VENV)/pip install --quiet --group browser
	$(VENV)/python -m pytest tests/browser

test-release: .venv/ready  ## before a release: load them with OpenVINO, modelopt and AIMET (4 GB of them)
	TORCH=$(TORCH) $(VENV)/python -m tests.release

check: .venv/ready  ## lint, formatting and types
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

fmt: .venv/ready  ## format the code
	$(VENV)/ruff format
	$(VENV)/ruff check --fix

golden: .venv/ready  ## rewrite the golden files; review the diff
	KLCAL_GOLDEN=write $(VENV)/python -m pytest -q tests/writers -k golden

reference: .venv/ready  ## write docs/reference, which is made of the code
	$(VENV)/python -m docs.generate

bench: .venv/ready  ## measure: prints a table of ratios
	$(VENV)/pip install --quiet --group bench
	$(VENV)/python -m benchmarks

site: .venv/ready  ## build the documentation into build/site; fails on a broken link
	$(VENV)/pip install --quiet --group site
	$(VENV)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs/site . build/site
	@echo 'the documentation is build/site/index.html'

torture: .venv/ready  ## run the whole corpus of bad files through the command: prints a table
	$(VENV)/python -m torture

fuzz: .venv/ready  ## run each parser a million times on mutated files
	-$(VENV)/pip install --quiet --group fuzz
	$(VENV)/python -m fuzz

sanitize: .venv/ready  ## run the kernel's tests on a copy that checks every address and operation (needs gcc's libasan)
	$(VENV)/python -m tests.sanitized

clean:  ## remove what was installed
	rm -rf .demo .venv .release build *.egg-info

.demo/ready: pyproject.toml $(KERNEL) $(SOURCES)
	$(PYTHON) -m venv .demo
	$(DEMO)/pip install --quiet --upgrade .
	touch $@

.venv/ready: pyproject.toml $(KERNEL)
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/pip install --quiet $(TORCH)
	$(VENV)/pip install --quiet --editable . --group dev
	touch $@

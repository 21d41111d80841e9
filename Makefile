# Each target works as the only command on a fresh machine: it first installs what is missing.
# Pass arguments through ARGS, for example: make test ARGS="-k tables -x"

SHELL := /bin/bash
PYTHON := .venv/bin/python
TYPED := $(wildcard dataplatform server clients demo bench)
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo check test test-system bench proto clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install:  ## install what is missing, into .venv
	@tools/bootstrap.sh

demo: install  ## start a server and show files, a table and a stream on real data
	@$(PYTHON) -m demo $(ARGS)

check: install  ## format, lint, types, import rules, and known vulnerabilities of packages
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy $(TYPED)
	.venv/bin/lint-imports --no-cache --no-logo --config setup.cfg
	$(PYTHON) tools/audit.py

test: install  ## all tests except the system tests
	@tools/test-packages.sh
	@$(PYTHON) -m pytest -m "not system" $(ARGS)

test-system: install  ## long campaigns: real processes and real kills
	@tools/test-packages.sh
	@$(PYTHON) -m pytest -m system $(ARGS)

bench: install  ## measure, against the disk and the peers that can be installed here
	@$(PYTHON) -m bench.install
	@$(PYTHON) -m bench $(ARGS)

proto: install  ## generate dataplatform/api/*_pb2.py from the .proto files again
	@tools/bootstrap.sh --proto

clean:  ## remove .venv and everything generated
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf *.egg-info dataplatform/api/*_pb2.py dataplatform/api/*_pb2.pyi
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

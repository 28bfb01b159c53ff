# vesearch: `make demo` shows it, `make test` proves it. Everything is kept in .venv and build/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help demo test golden torture lint format bench bench-scale clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# the stamp is touched last: an interrupted set-up starts over
$(VENV)/stamp: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

demo: $(VENV)/stamp  ## ingest eight photos, search for a motorcycle, leave result.png
	$(BIN)/python tests/photos.py $(DEMO)/photos
	rm -rf $(DEMO)/store
	$(BIN)/vesearch ingest $(DEMO)/photos --store $(DEMO)/store
	$(BIN)/vesearch build-index --store $(DEMO)/store
	$(BIN)/vesearch query $(DEMO)/photos/motorcycle_left.png --entity 1 --out result.png --store $(DEMO)/store
	@echo "Look at result.png"

test: $(VENV)/stamp  ## run all tests
	$(BIN)/python -m pytest

golden: $(VENV)/stamp  ## measure the figures of tests/golden.json anew, after a change that moves them
	$(BIN)/python -m tests.golden

TORTURE := kill random_kills crash faults properties hostile decoders index_changes
torture: $(VENV)/stamp  ## break everything many times over, and print how much was survived
	VESEARCH_TORTURE=1 $(BIN)/python -m pytest $(TORTURE:%=tests/test_%.py)

lint: $(VENV)/stamp  ## check types, style and format
	$(BIN)/python -m mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/stamp  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bench: $(VENV)/stamp
	$(BIN)/pip install --quiet -e '.[dev,bench]'
	touch $@

bench: $(VENV)/bench  ## measure the speed; PHOTOS=folder for your own 300 photos or more
	$(BIN)/python benchmarks/speed.py $(if $(PHOTOS),--photos $(PHOTOS))
	$(if $(PHOTOS),,$(BIN)/python tests/photos.py $(DEMO)/photos)
	$(BIN)/python benchmarks/engines.py $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python benchmarks/serve.py --photos $(or $(PHOTOS),$(DEMO)/photos)

bench-scale: $(VENV)/stamp  ## measure what a million photos cost; PHOTOS="10000 100000" for other sizes
	$(BIN)/python benchmarks/scale.py $(if $(PHOTOS),--photos $(PHOTOS))

clean:  ## remove what the other targets made, .venv too
	rm -rf $(VENV) build result.png *.egg-info .mypy_cache .ruff_cache .pytest_cache

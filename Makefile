# make demo   the pipeline on embedded images (planned for 12 minutes, after installation)
# make test   the tests
# make lint   style
# make install   the environment alone
# All create .venv and install their packages there. PYTHON=python3.11 chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= demo_output
DEMO = $(BIN)/python -m modules.pipeline --superspace cifarw_short --tables data/block_lut --output $(DEMO_OUTPUT) --resume

.PHONY: install demo demo-short test test-slow lint full

$(VENV)/.installed: requirements-core.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(DEMO) --dataset cluttered_digits --budget 12m

demo-short: DEMO_OUTPUT := demo_output/short
demo-short: $(VENV)/.installed
	$(DEMO) --dataset digits --budget 1m --fitness accuracy

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .

# TensorFlow, nn-Meter and OpenVINO too
full: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt

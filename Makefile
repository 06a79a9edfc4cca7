# Every target makes the environment it needs; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow plan-check lint clean

$(VENV)/demo.stamp: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/dev.stamp: setup.py constraints-ci.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev,torch,tpu]' -c constraints-ci.txt
	touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/lvit demo --workdir=runs/demo

test: $(VENV)/dev.stamp lint
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -m slow

# Whole models compiled for TPU slices: many minutes and some GB. The tests compile the same with two blocks.
PLAN = $(BIN)/lvit plan
plan-check: $(VENV)/dev.stamp
	$(PLAN) --config=pretrain/mae_tiny.py --topology=v5e:4x4
	$(PLAN) --config=pretrain/d2_tiny.py --teacher=vit_base --topology=v5e:4x4
	$(PLAN) --config=pretrain/tinymim_base.py --teacher=vit_large --topology=v5e:16x16 --config.mesh.fsdp=16

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .cache

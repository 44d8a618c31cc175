# MNIST in four steps. `make` lists what can be made.

STEPS := step1 step2 step3 step4 step5
SEEDS ?= 1 2 3 4 5

# What a run can be told; empty means the script's own default.
EPOCHS   ?=
SEED     ?=
DEVICE   ?=
DATA_DIR ?= data
OUT_DIR  ?= results
ARGS     ?=

# Which Python: the one named by PYTHON=..., else an active environment if it has what
# requirements.txt names, else one of our own in .venv, made on first use.
VENV := .venv
MODULES := torch torchvision numpy matplotlib tqdm
MISSING := import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])
ifdef PYTHON
  READY := named-python
  READY_TO_TEST := named-python
else
  ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
  ifneq ($(ACTIVE),)
    ifeq ($(shell '$(ACTIVE)/bin/python' -c '$(MISSING)' $(MODULES) 2>&1),)
      PYTHON := '$(ACTIVE)/bin/python'
    endif
  endif
  ifndef PYTHON
    PYTHON := $(VENV)/bin/python
    READY := $(VENV)/installed
    READY_TO_TEST := $(VENV)/installed-for-tests
  endif
endif

# Under -j each run has its share of the cores, and prints in one piece when it is done.
ifneq ($(filter output-sync,$(.FEATURES)),)
  MAKEFLAGS += --output-sync=target
endif
PARALLEL = $(filter-out -j1,$(filter -j%,$(MAKEFLAGS)))
JOBS = $(or $(patsubst -j%,%,$(PARALLEL)),1000)
SHARE = $(if $(PARALLEL),$(if $(OMP_NUM_THREADS),,OMP_NUM_THREADS=$$(c=$$(getconf _NPROCESSORS_ONLN); echo $$((c > $(JOBS) ? c / $(JOBS) : 1)))))

OPTIONS = $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)
RUN = $(SHARE) $(PYTHON) $(wildcard $@_*.py) --data-dir '$(DATA_DIR)' --out-dir '$(OUT_DIR)' \
      $(if $(SEED),--seed $(SEED)) $(OPTIONS)
SWEEP_DIR = $(OUT_DIR)
SWEEP = $(PYTHON) sweep.py --seeds '$(SEEDS)' --data-dir '$(DATA_DIR)' --out-dir '$(SWEEP_DIR)' --make '$(SWEEP_DIR)/sweep.mk'
RUN_SWEEP = $(SHARE) $(MAKE) --no-print-directory -f '$(SWEEP_DIR)/sweep.mk'

.PHONY: help all $(STEPS) sweep claims frontier robustness report data bench test clean distclean named-python

## help        this list
help:
	@echo 'make TARGET [EPOCHS=15] [SEED=1] [DEVICE=auto] [DATA_DIR=data] [OUT_DIR=results]'
	@echo '            [PYTHON=...] [ARGS="--lr 0.05 and any other flag"], where TARGET is'
	@echo
	@sed -n 's/^## /  /p' Makefile

## all         train step 1 to 5, then print and draw the summary of what is in OUT_DIR
all: $(STEPS)
	$(PYTHON) summary.py --out-dir '$(OUT_DIR)'

## step1       train the plain network
## step2       train with fewer channels and dropout
## step3       train with global average pooling and more capacity
## step4       train with rotated images and a decaying learning rate
## step5       train what goes beyond them, chosen without the test set
$(STEPS): $(READY)
	$(RUN)

## sweep       train the steps for each of SEEDS="1 2 3 4 5", only what is not finished
sweep: $(READY)
	$(SWEEP) -- $(OPTIONS)
	@+$(RUN_SWEEP)

## claims      train what the claims need too (five hours; with -j2 two and a half), print the verdicts
claims: $(READY)
	$(SWEEP) --claims -- $(OPTIONS)
	@+$(RUN_SWEEP)
	$(PYTHON) claims.py --out-dir '$(OUT_DIR)'

## frontier    train step 5 in eight widths, SEEDS="1 2 3", and draw accuracy against size
frontier: SEEDS = 1 2 3
frontier: SWEEP_DIR = $(OUT_DIR)/frontier
frontier: $(READY)
	$(SWEEP) --frontier -- $(OPTIONS)
	@+$(RUN_SWEEP)
	$(PYTHON) frontier.py --out-dir '$(OUT_DIR)'

## robustness  try the trained steps of the sweep on shifted, rotated and noisy test images
robustness: $(READY)
	$(PYTHON) robustness.py --data-dir '$(DATA_DIR)' --out-dir '$(OUT_DIR)'

## report      build report.md and report.html from the finished runs of sweep and claims, and of robustness
report: $(READY)
	$(PYTHON) report.py --out-dir '$(OUT_DIR)'

## data        download and verify MNIST, no more
data: $(READY)
	$(PYTHON) mnist.py --data-dir '$(DATA_DIR)' $(ARGS)

## bench       measure ours against the notebook pipeline (seven minutes; BENCH=quick: two; BENCH=target: to 99.4 %)
bench: $(READY)
	$(PYTHON) benchmarks/bench.py --data-dir '$(DATA_DIR)' --out-dir '$(OUT_DIR)' $(if $(BENCH),--size $(BENCH))

## test        run the tests (ARGS go to pytest)
test: $(READY_TO_TEST)
	DATA_DIR='$(DATA_DIR)' $(PYTHON) -m pytest $(ARGS)

## clean       remove what runs and reports wrote into OUT_DIR, but for the sweep's folders seed1, ..., frontier/seed1, ...
clean:
	rm -f $(foreach e,log json png pt ckpt,'$(OUT_DIR)'/step*.$(e)) '$(OUT_DIR)'/step*.lock '$(OUT_DIR)'/.*.incomplete
	rm -f $(foreach f,summary.md summary.png sweep.mk report.md report.html robustness.json frontier.png frontier/sweep.mk bench/bench.json,'$(OUT_DIR)'/$(f)) '$(OUT_DIR)'/report_*.png
	! test -d '$(OUT_DIR)' || rmdir '$(OUT_DIR)/bench' '$(OUT_DIR)' 2>/dev/null || true

## distclean   remove also the environment in .venv and MNIST in DATA_DIR
distclean: clean
	rm -rf $(VENV) '$(DATA_DIR)/MNIST' .pytest_cache __pycache__ tests/__pycache__
	! test -d '$(DATA_DIR)' || rmdir '$(DATA_DIR)' 2>/dev/null || true

# The stamps are older than a changed requirements file, and only then installed anew.
$(VENV)/installed: requirements.txt
	@echo 'Making the environment $(VENV), once; the README says how to avoid the large CUDA download.'
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-for-tests: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

named-python:
	@missing=$$($(PYTHON) -c '$(MISSING)' $(MODULES)) && test -z "$$missing" || \
	  { echo "make: $(PYTHON) lacks $${missing:-everything}: install what requirements.txt names, or leave PYTHON out" >&2; exit 1; }

# `make test` and `make demo` set everything up on a fresh machine and run; nothing else is needed first.
PYTHON ?= python3
VENV ?= .venv
DEVICE_VENV ?= .venv-device
OLD_VENV ?= .venv-old
ARM ?= .venv-arm
# Python 3.10 cannot have all of these versions: `make test PINS=` takes what there is for it.
PINS ?= -c constraints.txt
BIN = $(VENV)/bin

.PHONY: test test-slow test-arm fuzz lint docs demo clean

# Two files of tests at a time; a file's own go one after the other, for some are the steps of a reader.
test: $(VENV)/.done $(DEVICE_VENV)/.done lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.done $(DEVICE_VENV)/.done $(OLD_VENV)/.done
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --ignore tests/arm

# The runtime on a 64-bit ARM device, emulated; says so and ends well where its packages cannot be had.
test-arm: $(VENV)/.done
	@PYTHON=$(BIN)/python tests/arm/set_up $(ARM) || { code=$$?; \
		[ $$code -eq 75 ] && echo "ARM: not tested here" && exit 0; exit $$code; }; \
	[ ! -e $(ARM)/python ] || $(BIN)/python -m pytest -m slow tests/arm

# Damaged and hostile files, thousands of new ones each time: `make fuzz CASES=10000` for more, SEED=1 for the same again.
CASES ?= 1000
SEED ?= random
fuzz: $(VENV)/.done
	S2DNAS_FUZZ=$(CASES) $(BIN)/python -m pytest -n 2 -m fuzz --hypothesis-profile=fuzz --hypothesis-seed=$(SEED)

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ as a site, in site/: a link to nothing fails it, and nothing is loaded from the net.
docs: $(VENV)/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: $(VENV)/.done
	$(BIN)/s2dnas-demo

# The workstation: everything, pinned.
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PINS) -e '.[build,dev,docs]'
	# Only its definitions of networks are used, in tests; its own torch requirement would bring another torch.
	$(BIN)/python -m pip install --quiet --no-deps $(PINS) torchvision
	touch $@

# A device: the base install, without torch. Tests run its Python to prove that it suffices.
$(DEVICE_VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python -m pip install --quiet $(PINS) -e .
	touch $@

# An old device: onnxruntime of November 2024 and nothing of ours. Tests run bundles with it.
$(OLD_VENV)/.done:
	$(PYTHON) -m venv $(OLD_VENV)
	$(OLD_VENV)/bin/python -m pip install --quiet onnxruntime==1.20.1 numpy==2.1.3 pillow==11.0.0
	touch $@

clean:
	rm -rf $(VENV) $(DEVICE_VENV) $(OLD_VENV) $(ARM) demo site

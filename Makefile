# `make help` lists the targets. Every target sets up .venv by itself when it has to.
PYTHON ?= python3
BUS_BYTES ?= 64
BENCH ?=
EXAMPLES ?= 3000
SEEDS ?= 50
WAVES ?= 0
ARGS ?=
RUN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-nightly test-long test-peers mutants bench-hw formal sim lint format verilog synth datasheet lock clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv from requirements.lock; names what the system lacks
	@tools/setup $(PYTHON)

demo: setup ## the whole system on real traffic, ends with a table (ARGS="--help" lists its options)
	@$(RUN)/hdsnic demo $(ARGS)

test: setup ## every test, cocotb benches and the kernel peer included
	@$(RUN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-quick: setup ## tests of the software alone: no simulation, no kernel peer
	@$(RUN)/python -m pytest tests/sw $(ARGS)

bench-hw: setup ## cycles a frame of the whole card, every byte checked (ARGS=--check: against targets)
	@PYTHONPATH=tests $(RUN)/python -m bench.hardware $(ARGS)

formal: setup ## prove the invariants without bound, kill a mutant of each (ARGS="commit" for one block)
	@$(RUN)/python tests/formal/run.py $(ARGS)

test-nightly: setup ## the whole card at 16 and 32 bytes, random traffic at all widths (SEEDS=50 each)
	@HDSNIC_BUS_BYTES="16 32" HDSNIC_SEEDS=$(SEEDS) $(RUN)/python -m pytest tests/rtl/nic $(ARGS)
	@HDSNIC_SEEDS=$(SEEDS) $(RUN)/python -m pytest tests/rtl/nic -k random_traffic $(ARGS)
	@$(MAKE) --no-print-directory mutants

mutants: setup ## break a rule of the whole card at a time: random traffic must catch each
	@$(RUN)/python tests/rtl/nic/mutants.py $(ARGS)

test-long: setup ## property tests of TCP with thousands of seeds (EXAMPLES=3000; about an hour)
	@HDSNIC_EXAMPLES=$(EXAMPLES) $(RUN)/python -m pytest tests/sw/tcp/test_properties.py \
	    --timeout 0 $(ARGS)

test-peers: setup ## other people's peers at full size: 64 MiB under loss, wrk, nmap, floods (an hour)
	@HDSNIC_PEERS=long $(RUN)/python -m pytest tests/system/peers -rA --timeout 0 $(ARGS)

sim: setup ## one hardware bench: make sim BENCH=split WAVES=1 leaves build/waves/*.vcd
	@test -n "$(BENCH)" || { echo "name a bench, as in: make sim BENCH=split WAVES=1; there are:"; \
	    find tests/rtl -name 'test_*.py' | sed 's|.*/test_|  |; s|\.py$$||' | sort; exit 1; }
	@WAVES=$(WAVES) $(RUN)/python -m pytest tests/rtl -k "$(BENCH)" $(ARGS)
	@test "$(WAVES)" = 0 || ls -1t build/waves

lint: setup ## ruff over all Python, Verilator over the generated Verilog at both widths
	@$(RUN)/ruff check hw sw sim tests tools
	@$(RUN)/ruff format --check hw sw sim tests tools
	@$(RUN)/python -m hdsim.lint 8 64

format: setup ## put all Python into ruff's format
	@$(RUN)/ruff check --fix hw sw sim tests tools
	@$(RUN)/ruff format hw sw sim tests tools

verilog: setup ## generate build/hdsnic_$(BUS_BYTES).v (BUS_BYTES=8, 16, 32 or 64)
	@mkdir -p build
	@$(RUN)/hdsnic verilog -o build/hdsnic_$(BUS_BYTES).v --bus-bytes $(BUS_BYTES)

synth: setup ## synthesize for ECP5 by Yosys, print the utilization (BUS_BYTES=8 or 64)
	@tools/synth $(BUS_BYTES)

datasheet: setup ## write docs/datasheet.md anew from hdsnic.abi
	@$(RUN)/python -m hdsnic.abi.datasheet docs/datasheet.md

lock: setup ## resolve requirements.lock anew from pyproject.toml (needs the network)
	@$(RUN)/python -m pip install --quiet pip-tools
	@$(RUN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --all-extras \
	    --all-build-deps --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	    --no-header -o requirements.lock pyproject.toml

clean: ## remove what was built (build/), keep .venv
	@rm -rf build .pytest_cache .ruff_cache .hypothesis
	@find hw sw sim tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	@rm -rf .venv ./*.egg-info

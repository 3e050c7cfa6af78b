# All set-up is in tools/setup_env.py, which prints every command before it runs it.
# Without make: `python3 tools/setup_env.py demo` and `python3 tools/setup_env.py test`.
PYTHON ?= python3

.PHONY: demo check test test-comfyui bench card clean

# A moving picture from "a red star moving left", in output/.
demo:
	@$(PYTHON) tools/setup_env.py demo

# The test suite; with a ComfyUI's server where one is found. A part of it: make test ARGS="tests/ops -k freeu"
test:
	@$(PYTHON) tools/setup_env.py test $(ARGS)

# Style and the fast tests of the library, in under three minutes on two cores; no ComfyUI.
check:
	@$(PYTHON) tools/setup_env.py check $(ARGS)

# The second half of `make test` alone: the tests with ComfyUI's servers, its page and its Python.
test-comfyui:
	@$(PYTHON) tools/setup_env.py test-comfyui $(ARGS)

# This UNet beside diffusers' on this machine; the table goes to benchmarks/results.
bench:
	@$(PYTHON) tools/setup_env.py bench $(ARGS)

# Everything that a graphics card must prove, in eight minutes; without one: make card ARGS=--rehearse
card:
	@$(PYTHON) tools/setup_env.py card $(ARGS)

# Remove what the targets above made.
clean:
	rm -rf .venv .venv-comfyui .venv-extras .pytest_cache .ruff_cache .hypothesis output

# All set-up is in tools/setup_env.py; it prints the plain commands for people without make.
PYTHON ?= python3

.PHONY: demo test lint clean

demo:  ## make a moving picture from "a red star moving left"
	@$(PYTHON) tools/setup_env.py demo

test:  ## run the test suite, with ComfyUI's server where a ComfyUI is found
	@$(PYTHON) tools/setup_env.py test

lint:
	@$(PYTHON) tools/setup_env.py lint

clean:  ## remove what the targets above made
	rm -rf .venv .venv-extras .pytest_cache .ruff_cache .hypothesis output

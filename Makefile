# make image PROMPT="a red apple"   installs into .venv and generates an image
# make test                         installs the development tools too and runs every check
# make docs                         builds the documentation into build/site
# make contact-sheet                generates docs/contact_sheet.jpg again
# make edit-sheet                   generates docs/figures/edits.jpg and style.jpg again
# make adapter-sheet                trains two adapters and generates docs/figures/adapters.jpg again, in half an hour
# make carry                        puts what a bare GPU machine lacks into build/carry (benchmarks/README.md)
#
# Needs Python 3.11 to 3.13. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a red apple
OUT ?= outputs

BIN := $(VENV)/bin
# read by the shell from the environment, so that quotes, apostrophes and dollars in it stay what they are
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: install install-dev image docs contact-sheet edit-sheet adapter-sheet carry test clean
.DELETE_ON_ERROR:

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

image: install
	$(BIN)/hart generate "$$PROMPT" --out "$(OUT)"

contact-sheet: install
	rm -rf outputs/sheet
	$(BIN)/hart generate --prompts-file docs/contact_sheet_prompts.txt --grid --seed 0 --out outputs/sheet
	$(BIN)/python -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2], quality=92)' \
	  outputs/sheet/grid-*.png docs/contact_sheet.jpg

edit-sheet: install
	$(BIN)/python docs/edit_sheet.py docs/figures/edits.jpg
	$(BIN)/python docs/style_sheet.py docs/figures/style.jpg

adapter-sheet: install-dev
	rm -rf outputs/adapters
	$(BIN)/python docs/adapter_sheet.py images outputs/adapters
	for run in inked:300 lines:150; do style=$${run%:*}; $(BIN)/hart train transformer projects/emoji/recipes/lora.toml \
	  --out "outputs/adapters/$$style-run" "data=outputs/adapters/$$style" "trainer.steps=$${run#*:}" || exit 1; done
	$(BIN)/python docs/adapter_sheet.py sheet outputs/adapters docs/figures/adapters.jpg

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
	cd projects/emoji && "$(abspath $(BIN))/python" -m pytest -n auto --maxprocesses 4 --dist loadfile

# the site's generator advertises its successor, which is no warning about the pages
docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo build/site/index.html

carry: install
	rm -rf build/carry
	$(BIN)/python -m pip install --quiet --no-deps --no-compile -c constraints.txt --target build/carry --python-version 3.12 \
	  --platform manylinux_2_17_x86_64 --only-binary=:all: \
	  pydantic pydantic-core annotated-types typing-inspection typing-extensions

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "$(PYTHON) is no Python 3.11 to 3.13: choose one with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt projects/emoji/pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]" -e "projects/emoji[dev]"
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV)

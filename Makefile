# make book | test | downloads | experiments | data | lab | lint | links | floor: each makes the environment
# first, and needs nothing but Python 3.11+ and make.
PYTHON ?= python3
# Modules, not scripts: the first line of a script cannot name a folder with a space.
RUN := .venv/bin/python
INSTALLED := .venv/installed
ARGS ?=

# Two notebooks at a time, one thread each, and TensorFlow silent about the CPU.
export OMP_NUM_THREADS = 1
export TF_NUM_INTRAOP_THREADS = 1
export TF_NUM_INTEROP_THREADS = 1
export TF_CPP_MIN_LOG_LEVEL = 3
export TF_ENABLE_ONEDNN_OPTS = 0

.PHONY: book test notebooks downloads experiments data lab lint links floor clean

book: $(INSTALLED)  ## execute what changed, build the pages, print where they are
	@$(RUN) book/build.py $(ARGS)

test: $(INSTALLED) notebooks  ## unit tests, doctests, page tests, and every notebook
	$(RUN) -m pytest -n 2 $(ARGS)

# On the embedded data, with an empty cache and without a network (tests/offline).
notebooks: $(INSTALLED)
	MTL_TUTORIAL_DATA= XDG_CACHE_HOME="$(CURDIR)/_build/no-cache" PYTHONPATH="$(CURDIR)/tests/offline" \
	  $(RUN) -m pytest --nbmake -n 2 book

experiments: $(INSTALLED)  ## run what is not finished; ARGS="part/chapter", --smoke or --again
	$(RUN) experiments $(ARGS)

downloads: $(INSTALLED)  ## run the notebooks that readers download, as they would
	@$(RUN) book/run_downloads.py $(ARGS)

data: $(INSTALLED)  ## download and verify the real data sets
	$(RUN) -m mtl_tutorial.datasets $(ARGS)

lab: $(INSTALLED)  ## open the notebooks
	$(RUN) -m jupyterlab book

lint: $(INSTALLED)  ## style, types, packaging
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -m repo_review . --show=err

# All of them stand on one page. Without the book's own configuration, so that no notebook is read.
links: $(INSTALLED)  ## follow every link to another site (needs a network)
	$(RUN) -m sphinx -b linkcheck -q -C -D extensions=myst_parser -D suppress_warnings=myst,docutils \
	  -D root_doc=resources -D include_patterns=resources.md \
	  -D linkcheck_timeout=30 -D linkcheck_retries=2 book/reference _build/links

# Tools are today's, and what old packages warn of is theirs. Brings gigabytes: torch with CUDA.
floor:  ## the library's tests on the oldest versions that pyproject.toml admits
	$(PYTHON) -m venv --clear .venv-floor
	$(PYTHON) tests/floor.py > .venv-floor/constraints.txt
	.venv-floor/bin/python -m pip install --quiet --constraint .venv-floor/constraints.txt \
	  --editable ".[pytorch,keras]" hypothesis pytest torchjd
	.venv-floor/bin/python -m pytest -W default tests --ignore=tests/book --ignore=tests/browser \
	  --ignore=tests/test_environments.py $(ARGS)

clean:  ## remove the pages and the cached outputs, keep the environment
	rm -rf _build

# pip, because other installers may not find the CPU build of the pinned torch; of what it says only
# errors are shown (-qq), for nobody can mend its warnings. Compiling now saves every later notebook
# seconds where bytecode is not written by itself.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "installing the pinned versions into .venv: once, some minutes"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	-@$(RUN) -m compileall -q -j 0 .venv/lib > /dev/null 2>&1
	@touch $@

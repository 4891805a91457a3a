# `make demo` and `make test` install what they need on a machine with Python 3.11 and a compiler; the other targets are for developers.
PY := .venv/bin/python
# Ray reports usage statistics by default; tests and demo must not.
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: unit bench bench-serve demo serve test test-faults test-cluster test-slow test-writers test-clients check setup lock clean

demo: setup  ## caption drawn scenes with the demo captioner: no GPU, no download
	$(PY) ray_jobs/caption.py demo

serve: setup  ## run both endpoints with the demo captioner on http://127.0.0.1:8000 and print an API key
	$(PY) -m serve

unit: setup  ## run checks, and beside them all tests that need neither Ray nor an engine; about a minute
	@$(MAKE) --no-print-directory check & checks=$$!; $(PY) -m tests.lanes && wait $$checks

test: check  ## run all tests except those marked slow, cluster, perf, gpu, faults, writers or clients, in two processes
	$(PY) -m pytest -n 2 --dist loadfile --durations 40 -m "not slow and not cluster and not perf and not gpu and not faults and not writers and not clients"

test-faults: setup  ## run every fault test with its full number of repetitions; hours on two cores
	$(PY) -m pytest -m faults

test-cluster: setup  ## run clusters on simulated hosts of this machine; needs root, iproute2, nftables, openssh-server, rsync
	$(PY) -m pytest -m cluster

test-slow: setup
	$(PY) -m pytest -m slow

test-writers: setup .venv-writers/installed  ## run the tests with webdataset, datasets, img2dataset and polars, in an environment of their own
	$(PY) -m pytest -m writers tests/writers

.venv-writers/installed: tests/writers/requirements.txt
	$(PY) -m venv --clear .venv-writers
	.venv/bin/uv pip install --python .venv-writers/bin/python $${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} -r $<
	touch $@

test-clients: setup .venv-clients/installed  ## run the tests with openai, litellm, LangChain, llama-index, pydantic-ai, instructor, the AI SDK, LibreChat's library, guidellm and lm-eval
	cd tests/clients && npm install --no-audit --no-fund --no-package-lock
	$(PY) -m pytest -m clients tests/clients

.venv-clients/installed: tests/clients/requirements.txt
	$(PY) -m venv --clear .venv-clients
	.venv/bin/uv pip install --python .venv-clients/bin/python $${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} -r $<
	touch $@

bench: setup  ## write benchmark tables to tests/perf/RESULTS.md; takes an hour, with nothing else running
	$(PY) -m tests.perf

bench-serve: setup  ## the same for the endpoints; takes a quarter of an hour
	$(PY) -m tests.perf serve_overhead serve_chats serve_load

check: setup  ## check format, lint, types, import layers and the lock files' hashes
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) cluster/check_locks.py

setup:
	@cluster/install.sh cpu .venv

# A pin moves only where pyproject.toml no longer allows it. To move others as well, name them: make lock UPGRADE="--upgrade-package pillow",
# or move all: make lock UPGRADE=--upgrade
RESOLVE = PIP_CONFIG_FILE=/dev/null .venv/bin/uv pip compile pyproject.toml --overrides .venv/overrides.txt \
  --python-version 3.11 --python-platform x86_64-manylinux_2_31 $(UPGRADE) --no-header --no-annotate --generate-hashes

# In the CPU lock file torch and torchvision have no hashes, because they come from one of two places (cluster/install.sh).
lock: setup  ## resolve pyproject.toml into new lock files cluster/cpu/lock.txt and cluster/gpu/lock.txt
	printf 'torchaudio ; python_version < "0"\ntorchcodec ; python_version < "0"\n' > .venv/overrides.txt
	cp cluster/cpu/lock.txt .venv/lock.txt  # uv prefers the pins that the output file has
	$(RESOLVE) --extra cpu --extra dev $${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} -o .venv/lock.txt
	$(PY) cluster/cpu/drop_torch_hashes.py < .venv/lock.txt > cluster/cpu/lock.txt
	$(RESOLVE) --extra gpu --extra synthesis -o cluster/gpu/lock.txt

clean:
	rm -rf .venv .venv-writers out

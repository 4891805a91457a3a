#!/bin/sh
# Creates the Python environment VENV from the lock file in cpu/ or gpu/: cluster/install.sh cpu|gpu VENV
# Needs a package index and Python 3.11, for which the lock files are resolved; set PYTHON to use another interpreter than python3. The CPU
# build of torch comes from the folder or page in pip's find-links setting or, if that is unset, from PyTorch's own CPU wheel index (the
# address is built into uv's --torch-backend).
set -eu
build=$1 venv=$2
here=$(cd "$(dirname "$0")" && pwd)
lock="$here/$build/lock.txt"
[ -f "$lock" ] || { echo "found '$build', allowed cpu or gpu" >&2; exit 2; }
stamp="$venv/installed-$(cat "$lock" "$here/install.sh" "$here"/cpu/s4v_torchvision_cpu.* "$here/../pyproject.toml" | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && exit 0

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$python is too old: Python 3.11 or newer is needed; name another with PYTHON=..." >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# uv installs everything else, and is itself checked against its hashes. Only the CPU lock has it: developers resolve both locks with it.
sed -n '/^uv==/,/[^\\]$/p' "$here/cpu/lock.txt" > "$venv/uv.txt"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$venv/uv.txt"

# `pip config list` covers both environment variables and pip's configuration files.
links=$("$venv/bin/python" -m pip config list | sed -n "s/.*find-links='\([^']*\)'.*/\1/p" | head -n 1)
case "$build$links" in
  gpu*) set -- ;;
  cpu) set -- --torch-backend cpu ;;
  *) set -- --find-links "$links" ;;
esac
# --compile-bytecode: where Python may not write bytecode, every process would compile vLLM again (40 s).
# --no-deps: the lock files are complete, and leave out packages that vLLM lists but image models never need (torchaudio, torchcodec).
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --no-deps --compile-bytecode "$@" -r "$lock"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e "$here/.."

# The torchvision hook is loaded by a .pth file, so that it is active in every process that Ray and vLLM start.
[ "$build" = gpu ] || cp "$here"/cpu/s4v_torchvision_cpu.py "$here"/cpu/s4v_torchvision_cpu.pth "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/"
rm -f "$venv"/installed-*
touch "$stamp"

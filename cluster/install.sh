#!/bin/sh
# Makes the environment VENV from a lock beside this file: cluster/install.sh cpu|gpu VENV
# Needs Python 3.11 (or its name in PYTHON), for which the locks are resolved, and a package index. The CPU build of torch comes from the
# folder or page that pip's find-links names, or, where that is unset, from PyTorch's own CPU wheel index (uv's --torch-backend knows it).
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

# The environment and pip's configuration files alike end up in this list.
links=$("$venv/bin/python" -m pip config list | sed -n "s/.*find-links='\([^']*\)'.*/\1/p" | head -n 1)
case "$build$links" in
  gpu*) set -- ;;
  cpu) set -- --torch-backend cpu ;;
  *) set -- --find-links "$links" ;;
esac
# Compiled here: where Python may not write bytecode, every process would compile vLLM anew (40 s).
# --no-deps: the locks are complete, and leave out what vLLM lists but images never need (torchaudio, torchcodec).
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --no-deps --compile-bytecode "$@" -r "$lock"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e "$here/.."

# The hook is a .pth line, so that it is active in every process that Ray and vLLM spawn.
[ "$build" = gpu ] || cp "$here"/cpu/s4v_torchvision_cpu.py "$here"/cpu/s4v_torchvision_cpu.pth "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/"
rm -f "$venv"/installed-*
touch "$stamp"

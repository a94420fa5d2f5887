#!/bin/sh
# Usage: setup_venv.sh DIR. Makes a virtual environment with pip in DIR from nothing but Python >= 3.11 and pip.
# Debian splits ensurepip off (python3-venv) and marks its Python as externally managed, so there are three ways here,
# none of which installs anything into the system's Python.
set -eu
dir=$1
python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "zktrace needs Python 3.11 or newer${python:+ ($python is older)}" >&2
  exit 1
fi
usable() { "$dir/bin/python" -m pip --version >/dev/null 2>&1; }

rm -rf "$dir"
# 1. The ordinary way.
if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv "$dir" && usable; then
  exit 0
fi
# 2. No ensurepip: an environment without pip, into which the system's pip installs a pip.
rm -rf "$dir"
if "$python" -m venv --without-pip "$dir" 2>/dev/null &&
  "$python" -m pip --python "$dir/bin/python" install --quiet pip && usable; then
  exit 0
fi
# 3. No venv either, or a pip older than 22.3: virtualenv, kept in a folder of its own.
rm -rf "$dir"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
if "$python" -m pip install --quiet --target "$tools" virtualenv &&
  PYTHONPATH=$tools "$python" -m virtualenv --quiet "$dir" && usable; then
  exit 0
fi
echo "could not make a virtual environment: install python3-venv, or pip for $python" >&2
exit 1

#!/bin/sh
# Usage: install_native.sh PYTHON. Installs this tree in place (editable) with the native engine where it can be built,
# and prints the build hook's one line, which pip would hide.
set -eu
python=$1
cd "$(dirname "$0")/.."
said=$(mktemp)
out=$(mktemp)
trap 'rm -f "$said" "$out"' EXIT
if [ -z "${ZKTRACE_PURE:-}" ] && command -v cargo >/dev/null 2>&1; then
  echo "zktrace: building the native engine (a few minutes the first time)"
fi
if ! ZKTRACE_BUILD_LOG=$said "$python" -m pip install --quiet --disable-pip-version-check \
  --no-deps --no-build-isolation --editable . >"$out" 2>&1; then
  cat "$out" >&2
  exit 1
fi
cat "$said"

#!/usr/bin/env bash
# Makes requirements/*.txt from pyproject.toml: every package pinned with the hashes of its files, for each Python >= 3.11
# and platform at once. No registry's host is named in them (uv.lock would name one, so it is not kept).
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  echo "uv is needed: python3 -m pip install uv" >&2
  exit 1
fi
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url --no-emit-find-links "$@"
}
compile --group build pyproject.toml -o requirements/run.txt
compile --group build --group test --extra scapy -c requirements/run.txt pyproject.toml -o requirements/test.txt
if grep -n '://' requirements/*.txt; then
  echo "an address got into the lock" >&2
  exit 1
fi

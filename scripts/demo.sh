#!/bin/sh
# Usage: demo.sh ZKTRACE. Shows what zktrace says of a capture of a real ensemble.
set -eu
zktrace=$1
cd "$(dirname "$0")/.."
show() {
  printf '\n$ zktrace %s\n' "$*"
  "$zktrace" "$@" | sed -n 1,30p
}
show decode pcaps/02_basic_ops.pcap
show stats pcaps/57_v39_herd.pcap
show stats --by client,path --depth 2 --top 5 pcaps/57_v39_herd.pcap
printf '\nMore: zktrace --help. For scripts: --json. Both take .gz and .zst, several files, and - for standard input.\n'

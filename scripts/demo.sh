#!/bin/sh
# Usage: demo.sh ZKTRACE. Shows what zktrace says of a capture of a real ensemble, and of a server and clients on this machine.
set -eu
zktrace=$1
cd "$(dirname "$0")/.."
show() {
  printf '\n$ zktrace %s\n' "$*"
  # The beginning, and the end: its last lines say what the capture did not show.
  "$zktrace" "$@" | awk 'NR <= 24 { print } { line[NR % 4] = $0 }
    END { if (NR > 28) print "..."; for (n = (NR > 28 ? NR - 3 : 25); n <= NR; n++) print line[n % 4] }'
}
show decode pcaps/02_basic_ops.pcap
show stats pcaps/57_v39_herd.pcap
show stats --by client,path --depth 2 --top 5 pcaps/57_v39_herd.pcap
printf '\n$ zktrace demo --once\n'
"$zktrace" demo --once
printf '\nThe same as a page: zktrace demo. zktrace --help. For scripts: --json. Both take .gz and .zst, several files, and - for standard input.\n'

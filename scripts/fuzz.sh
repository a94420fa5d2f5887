#!/usr/bin/env bash
# Feeds the native decoder, and what follows writes and checks guarantees, mutated captures for FUZZ_SECONDS (60), shared out
# equally, guided by coverage, seeded with pcaps/. With names of targets as arguments: those alone.
# A crash is an exit status other than 0; the input that made it is left in zktrace/_native/fuzz/artifacts/.
#
# libFuzzer wants code that counts its own branches. These are the flags by which cargo-fuzz asks for that, less the address
# sanitizer: the parsing code has no unsafe, so what is to be found are panics, overflows, hangs and memory, and a
# stable compiler does.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
fuzz=zktrace/_native/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$fuzz/target}
coverage="-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1"
for flag in $coverage; do
  RUSTFLAGS="$RUSTFLAGS -Cllvm-args=$flag"
done
export RUSTFLAGS
cargo build --quiet --release --target "$host" --manifest-path $fuzz/Cargo.toml

mkdir -p $fuzz/artifacts
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
# Small ones: libFuzzer cuts what is longer than max_len and learns little from it.
find pcaps \( -name '*.pcap' -o -name '*.pcapng' \) -size -64k -exec cp {} "$seeds" \; 2>/dev/null || true
if [ $# -gt 0 ]; then names=("$@"); else mapfile -t names < <(basename -s .rs $fuzz/fuzz_targets/*.rs); fi
seconds=$(((seconds + ${#names[@]} - 1) / ${#names[@]}))
for name in "${names[@]}"; do
  mkdir -p "$fuzz/corpus/$name"
  echo "fuzz: $name for $seconds s"
  log=$(mktemp)
  if "$CARGO_TARGET_DIR/$host/release/$name" -max_total_time="$seconds" -max_len=16384 -timeout=10 \
    -rss_limit_mb=2048 -dict=$fuzz/words.dict -artifact_prefix=$fuzz/artifacts/ -print_final_stats=1 \
    "$fuzz/corpus/$name" "$seeds" >"$log" 2>&1; then
    grep -E '^(stat::number_of_executed_units|stat::peak_rss_mb|#.*DONE)' "$log" || true
    rm -f "$log"
  else
    tail -n 60 "$log" >&2
    rm -f "$log"
    exit 1
  fi
done

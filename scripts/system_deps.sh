#!/usr/bin/env bash
# Installs the Debian packages that tests and benchmarks use, when run as root on a system with apt-get and one is missing.
# Says what it does; does nothing the second time. Not needed to use zktrace.
set -euo pipefail
# command or file:package, what for
wanted=(
  tcpdump:tcpdump # tests/bench compares with it; tests check captures against it
  ip:iproute2     # network namespaces for the tests of live capture
  zstd:zstd       # unpacks captures by hand
  cc:gcc          # linker of Rust, and of the fuzz target
  c++:g++         # libFuzzer is C++
  chromium:chromium # tests/browser click through the page
  haproxy:haproxy # tests/bench compare the proxy with it
  prometheus:prometheus # tests/web ask it what docs/grafana.json asks
  /usr/lib/zookeeper/bin/cli_mt:zookeeper-bin # the C client, at the reference server
  openssl:openssl # certificates for tests of TLS
  nats-server:nats-server # tests/fleet publish to it
  mvn:maven # gets the Kafka that tests/fleet publish to
  java:default-jre-headless # runs the next one
  /usr/share/java/zookeeper.jar:libzookeeper-java # the real ZooKeeper, as a library: no service is started
  /usr/share/java/slf4j-simple.jar:libslf4j-java  # what it logs
)
missing=()
for pair in "${wanted[@]}"; do
  # Of a file this asks whether it can be executed, so it is looked for as well.
  command -v "${pair%%:*}" >/dev/null 2>&1 || [ -e "${pair%%:*}" ] || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "system-deps: all there"
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "system-deps: missing ${missing[*]}; install them with your package manager (what needs them says so)"
  exit 0
fi
echo "system-deps: apt-get install ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

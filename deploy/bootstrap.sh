#!/usr/bin/env bash
# Installs what Baton is built from and checked with: Debian 12 packages, nothing else. Does nothing, in well under a
# second, when all of them are there. Runs as root or through sudo.
set -euo pipefail

packages=(
  # building
  g++ cmake ninja-build ccache lld git pkg-config protobuf-compiler
  # libraries
  libcaf-dev libprotobuf-dev libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev
  libdnnl-dev libhwy-dev libhwloc-dev libucx-dev libpcre2-dev libicu-dev libsqlite3-dev libxxhash-dev libssl-dev
  # tests, checks and scripts
  libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev clang-format clang-tidy-16 clang-16 libclang-rt-16-dev libomp-16-dev shellcheck python3
)

declare -A installed=()
# dpkg-query exits with 1 when it does not know some package; its answer then lacks that one.
while read -r package status; do
  [[ $status != installed ]] || installed[$package]=yes
done < <(dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  [[ -n ${installed[$package]:-} ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "bootstrap: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [[ $EUID -ne 0 ]]; then
  command -v sudo >/dev/null || {
    echo "bootstrap: run as root, or install sudo; missing packages: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }

# retry WHAT COMMAND…: package servers fail now and then.
retry() {
  local what=$1 attempt
  shift
  for attempt in 1 2 3 4; do
    "$@" && return 0
    [[ $attempt -lt 4 ]] || break
    echo "bootstrap: $what failed, once more in $((attempt * 5)) s" >&2
    sleep $((attempt * 5))
  done
  echo "bootstrap: $what failed $attempt times" >&2
  return 1
}

echo "bootstrap: installing ${#missing[@]} of ${#packages[@]} packages: ${missing[*]}"
# By itself apt-get update calls it a success when only some of its lists could be fetched.
retry "apt-get update" apt -q update -o APT::Update::Error-Mode=any
retry "apt-get install" apt -q install --yes --no-install-recommends "${missing[@]}"
echo "bootstrap: done"

#!/usr/bin/env bash
# Checks that dependencies point down: actors/ -> runtime/ -> kernels/, CAF only in actors/, CUDA only where it may be.
# Usage: deploy/check_includes.sh [--self-test] [FOLDER]     (the folder with kernels/, runtime/, actors/ and tests/)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# forbid PATTERN WHY FOLDER…: reports every #include whose target begins with PATTERN, but for files under `allowed`.
allowed='^$'
forbid() {
  local pattern=$1 why=$2 found line
  shift 2
  found=$(grep -rnE --include='*.[ch]pp' --include='*.[ch]' --include='*.cc' --include='*.hh' --include='*.cu' \
    --include='*.cuh' --include='*.inl' "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)" "$@" 2>/dev/null |
    grep -vE "$allowed" || true)
  [[ -z $found ]] && return
  while IFS= read -r line; do
    echo "$line    <- $why"
    violations=$((violations + 1))
  done <<<"$found"
}

check() {
  cd "$1"
  violations=0
  forbid '(\.\./)*(runtime|actors)/' 'kernels/ may include nothing of runtime/ or actors/' kernels
  forbid '(\.\./)*actors/' 'runtime/ may include nothing of actors/' runtime
  allowed='^tests/(unit/actors|end_to_end)/'
  forbid 'caf/' 'CAF belongs in actors/ only' kernels runtime tests
  forbid '(\.\./)*actors/' 'only the tests of actors/ may include actors/' tests
  allowed='^(kernels/cuda/|runtime/transport/nccl)'
  forbid '(cuda|cublas|cudnn|curand|nvrtc|nvtx|nvml)[A-Za-z0-9_]*(\.hpp|\.h|/)|nccl\.h|cutlass/|cute/|cub/|thrust/' \
    'CUDA headers belong in kernels/cuda/ and runtime/transport/nccl*' kernels runtime actors tests
  if [[ $violations -ne 0 ]]; then
    echo "check_includes: $violations forbidden includes"
    return 1
  fi
  echo "check_includes: ok"
}

# Plants one violation of each kind and one allowed include of each, and expects exactly the violations to be named.
self_test() {
  local output expected
  tree=$(mktemp -d)
  trap 'rm -rf "$tree"' EXIT
  mkdir -p "$tree"/{kernels/{cpu,cuda},runtime/{plan,transport},actors,tests/unit/{actors,runtime}}
  plant() { echo "#include $2" >>"$tree/$1"; }
  plant kernels/cpu/a.cpp '"runtime/plan/job_plan.hpp"'
  plant kernels/b.hpp '"actors/worker.hpp"'
  plant runtime/plan/c.hpp '"../../actors/worker.hpp"'
  plant runtime/d.cpp '<caf/all.hpp>'
  plant kernels/cpu/e.cpp '<cuda_runtime.h>'
  plant runtime/transport/f.cpp '<nccl.h>'
  plant tests/unit/runtime/g.cpp '<caf/all.hpp>'
  plant tests/unit/runtime/h.cpp '"actors/worker.hpp"'
  expected=$(cd "$tree" && find . -type f -printf '%P\n' | sort)
  plant kernels/cpu/fine.cpp '"kernels/backend.hpp"'
  plant kernels/cuda/fine.cu '<cuda_runtime.h>'
  plant runtime/transport/nccl.cpp '<nccl.h>'
  plant runtime/fine.cpp '"kernels/backend.hpp"'
  plant actors/fine.cpp '<caf/all.hpp>'
  plant tests/unit/actors/fine.cpp '"actors/worker.hpp"'
  if output=$(check "$tree"); then
    echo "check_includes: self-test failed: planted violations were not found"
    return 1
  fi
  if [[ $(sed -n 's|^\([^:]*\):1:#include.*|\1|p' <<<"$output" | sort) != "$expected" ]]; then
    printf 'check_includes: self-test failed: expected violations in\n%s\nbut got\n%s\n' "$expected" "$output"
    return 1
  fi
  echo "check_includes: self-test ok"
}

case ${1:-} in
  --self-test) self_test ;;
  *) check "${1:-$here/..}" ;;
esac

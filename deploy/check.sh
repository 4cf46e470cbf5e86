#!/usr/bin/env bash
# All that must hold before a change is kept. Goes on after a failure, so that one run shows everything; ends with the line
# `N passed, N failed, N skipped`: tests over all builds, where a failed step that is no test counts as one more failure.
# Usage: deploy/check.sh [--full] [--chaos SECONDS]
#   --full adds the tests that take long and lets clang-tidy see every file; --chaos is how long deploy/chaos.sh runs (180, 1200 with --full, 0: not)
set -uo pipefail
cd "$(dirname "$0")/.." || exit

full=no chaos_s=""
while [[ $# -gt 0 ]]; do
  case $1 in
    --full) full=yes ;;
    --chaos)
      chaos_s=${2:-}
      shift
      ;;
    *) chaos_s="?" ;;
  esac
  if [[ ! $chaos_s =~ ^[0-9]*$ ]] || ! shift; then
    sed -n '2,5s/^# //p' "$0"
    exit 2
  fi
done
if [[ -z $chaos_s ]]; then if [[ $full == yes ]]; then chaos_s=1200; else chaos_s=180; fi; fi

passed=0 failed=0 skipped=0
summary=()
jobs=$(nproc)
logs=build/check
mkdir -p "$logs"

# As root in somebody else's checkout, git would refuse to answer.
git() { command git -c "safe.directory=$PWD" "$@"; }

# step NAME COMMAND…: runs it and notes its time and whether it failed.
step() {
  local name=$1 begin=$SECONDS result=ok
  shift
  printf '\n== %s\n' "$name"
  if ! "$@"; then
    result=FAILED
    failed=$((failed + 1))
    echo "== $name FAILED"
  fi
  summary+=("$(printf '%5d s  %-6s  %s' $((SECONDS - begin)) "$result" "$name")")
  [[ $result == ok ]]
}

# only_the_leak_checker_failed REPORT: all failed tests of a JUnit report passed, whereupon LeakSanitizer's tracer crashed. That of g++ 12
# does so once in some thousand processes whose threads are just ending; it says so, and it has found nothing then.
only_the_leak_checker_failed() {
  python3 - "$1" <<'PYTHON'
import sys, xml.etree.ElementTree as tree
failed = [case for case in tree.parse(sys.argv[1]).getroot().iter("testcase") if case.get("status") == "fail"]
output = ["".join(case.itertext()) for case in failed]
crashed = ["LeakSanitizer has encountered a fatal error" in text and "[  FAILED  ]" not in text for text in output]
sys.exit(not (failed and all(crashed)))
PYTHON
}

# run_tests PRESET: runs one build's tests and adds them up.
run_tests() {
  local name="tests: $1" begin=$SECONDS report="$PWD/$logs/$1.xml" status=0 counts=() result=ok
  printf '\n== %s\n' "$name"
  rm -f "$report"
  # ThreadSanitizer of g++ 12 does not cope with the address randomisation of newer kernels.
  local fixed_addresses=()
  if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
  "${fixed_addresses[@]}" ctest --preset "$1" --parallel "$jobs" --output-junit "$report" --test-output-size-passed 1000000 \
    >"$logs/$1.log" 2>&1 || status=$?
  read -r -a counts < <(python3 - "$report" <<'PYTHON'
import re, sys, xml.etree.ElementTree as tree
sums = {"PASSED": 0, "FAILED": 0, "SKIPPED": 0}
for case in tree.parse(sys.argv[1]).getroot().iter("testcase"):
    # One process may have run many tests; its last lines say how many.
    found = re.findall(r"\[ *(PASSED|FAILED|SKIPPED) *\] (\d+) tests?[.,]", "".join(case.itertext()))
    for what, count in found: sums[what] += int(count)
    failed = case.get("status") == "fail"
    if failed and not any(what == "FAILED" for what, count in found): sums["FAILED"] += 1
    if not found and not failed: sums["PASSED" if case.get("status") == "run" else "SKIPPED"] += 1
print(sums["PASSED"], sums["FAILED"], sums["SKIPPED"])
PYTHON
  ) || counts=(0 0 0)
  if [[ $status -ne 0 ]] && only_the_leak_checker_failed "$report"; then
    echo "LeakSanitizer's tracer crashed in ${counts[1]} of them: once more"
    if "${fixed_addresses[@]}" ctest --preset "$1" --rerun-failed; then
      status=0
      counts=($((counts[0] + counts[1])) 0 "${counts[2]}")
    fi
  fi
  # ctest also fails without a failed test: when it cannot list them, or there is none.
  if [[ $status -ne 0 && ${counts[1]} -eq 0 ]]; then counts[1]=1; fi
  if [[ ${counts[1]} -ne 0 ]]; then
    result=FAILED
    cat "$logs/$1.log"
  else
    sed -n '/tests passed/,$p' "$logs/$1.log"
  fi
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
  summary+=("$(printf '%5d s  %-6s  %s (%d passed, %d failed, %d skipped)' $((SECONDS - begin)) "$result" "$name" "${counts[@]}")")
}

# Our C++ files, committed or about to be.
cpp_files() {
  git ls-files --cached --others --exclude-standard --deduplicate '*.cpp' '*.hpp' '*.cu' '*.cuh' |
    while read -r file; do [[ ! -f $file ]] || echo "$file"; done
}

check_format() {
  cpp_files | xargs --no-run-if-empty -n 16 -P "$jobs" clang-format --dry-run -Werror || {
    echo "To put it right: clang-format -i FILE"
    return 1
  }
}

check_scripts() {
  local scripts=(.ci/run deploy/*.sh) script
  for script in "${scripts[@]}"; do bash -n "$script" || return 1; done
  shellcheck "${scripts[@]}"
}

# build PRESET TARGET…
build() {
  local preset=$1
  shift
  cmake --preset "$preset" >"$logs/configure-$preset.log" 2>&1 || {
    cat "$logs/configure-$preset.log"
    return 1
  }
  cmake --build --preset "$preset" --target "$@"
}

# clang-tidy without --full sees the files that changed since the commit that this work began from.
tidy_files() {
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null)
  if [[ -z $base || $base == "$(git rev-parse HEAD)" ]]; then base=$(git rev-parse --verify --quiet HEAD~1); fi
  if [[ $full == yes || -z $base ]]; then
    cpp_files
  else
    git diff --name-only --diff-filter=d "$base"
    git ls-files --others --exclude-standard
  fi | grep -E '^(kernels|runtime)/.*\.cpp$' | sort -u | while read -r file; do
    # Not what this build leaves out: kernels/cuda, or what stands in for it.
    ! grep -q "/$file\"" build/dev/compile_commands.json || echo "$file"
  done
}

check_tidy() {
  local files
  mapfile -t files < <(tidy_files)
  echo "${#files[@]} files"
  [[ ${#files[@]} -ne 0 ]] || return 0
  # It cannot read what g++ has precompiled.
  mkdir -p "$logs/tidy"
  sed 's/ -Winvalid-pch//; s/ -include [^ ]*cmake_pch\.hxx//' build/dev/compile_commands.json >"$logs/tidy/compile_commands.json"
  printf '%s\n' "${files[@]}" |
    xargs -n 1 -P "$jobs" clang-tidy-16 --quiet --warnings-as-errors='*' -p "$logs/tidy" 2>"$logs/tidy.log" || {
    grep -v 'warnings generated' "$logs/tidy.log"
    return 1
  }
}

# All that gpu-check.sh does where a GPU is, on the CPU and with small sizes.
rehearse_gpu_check() {
  mkdir -p build/gpu-check && (cd build/gpu-check && BATON_BIN=$PWD/../dev ../../deploy/gpu-check.sh --cpu)
}

# What is installed runs from another folder, and finds what came with it.
check_install() {
  local prefix=$PWD/$logs/installed
  rm -rf "$prefix"
  cmake --install build/dev --prefix "$prefix" >"$logs/install.log" 2>&1 || {
    cat "$logs/install.log"
    return 1
  }
  local document=$prefix/share/baton/models/needle/documents/archive-2k.txt
  (cd / && "$prefix/bin/baton" plan --config "$prefix/share/baton/configs/quickstart.yaml" --document "$document" --question "Who?") |
    grep -q 'ranks'
}

if step "packages" deploy/bootstrap.sh; then
  step "format" check_format
  step "include directions" deploy/check_includes.sh
  step "include directions: self-test" deploy/check_includes.sh --self-test
  step "scripts" check_scripts
  dev_tests=dev
  [[ $full == no ]] || dev_tests=dev-full
  step "build: dev" build dev all && run_tests "$dev_tests"
  step "installation" check_install
  step "gpu-check: rehearsal" rehearse_gpu_check
  step "docs: self-test" deploy/check_docs.sh --self-test
  step "docs" deploy/check_docs.sh build/dev/baton
  step "clang-tidy" check_tidy
  step "build: asan" build asan baton_tests && run_tests asan
  # Whatever has threads: pools, device loops, transports, actors and the whole program.
  step "build: tsan" build tsan baton_tests && run_tests tsan
  # With a fresh seed, which is printed. Last, when nothing else wants the processors.
  [[ $chaos_s -eq 0 ]] || step "chaos" env BATON=build/dev/baton deploy/chaos.sh --jobs 1000 --seconds "$chaos_s"
fi

printf '\n== summary, %d s in all\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 ]]

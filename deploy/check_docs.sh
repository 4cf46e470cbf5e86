#!/usr/bin/env bash
# Runs the commands that the documentation shows, so that they stay true: each block of README.md, CONTRIBUTING.md and docs/
# that is fenced as ```sh run, from the repository's root, every command of which has to succeed. Needs a built program.
# Usage: deploy/check_docs.sh [--self-test] [BINARY]     (BINARY stands in for build/release/baton, which is the default)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

blocks=0 failures=0

# run_block FILE LINE TEXT: TEXT begins at that line. Lines are kept where they stand, so that bash names them rightly.
run_block() {
  local file=$1 line=$2 text=$3 script i
  script="$scratch/block.sh"
  {
    # shellcheck disable=SC2016  # the block's bash expands this
    printf 'set -euo pipefail; trap '\''echo "%s:$LINENO: exit code $?: $BASH_COMMAND" >&2'\'' ERR' "$file"
    for ((i = 1; i < line; i++)); do echo; done
    printf '%s' "${text//'build/release/baton'/"$quoted_binary"}"
  } >"$script"
  blocks=$((blocks + 1))
  if ! bash "$script" >"$scratch/output" 2>&1 </dev/null; then
    cat "$scratch/output"
    echo "check_docs: $file:$line: the block that begins here failed"
    failures=$((failures + 1))
  fi
}

run_file() {
  local file=$1 lines line text='' number=0 begin=0
  mapfile -t lines <"$file"
  for line in "${lines[@]}"; do
    number=$((number + 1))
    if [[ $begin -eq 0 ]]; then
      if [[ $line == '```sh run' ]]; then begin=$((number + 1)) text=''; fi
    elif [[ $line == '```' ]]; then
      run_block "$file" "$begin" "$text"
      begin=0
    else
      text+=$line$'\n'
    fi
  done
  [[ $begin -eq 0 ]] || {
    echo "check_docs: $file:$begin: the block that begins here has no end"
    failures=$((failures + 1))
  }
}

check() {
  local root=$1 files file
  quoted_binary=$(printf '%q' "$2")
  cd "$root"
  export XDG_CACHE_HOME="$root/build/cache"  # nothing is kept outside build/
  mkdir -p build
  mapfile -t files < <(find README.md CONTRIBUTING.md docs -name '*.md' 2>/dev/null | sort)
  for file in "${files[@]}"; do run_file "$file"; done
  if [[ $blocks -eq 0 ]]; then
    echo "check_docs: no block is fenced as \`\`\`sh run"
    return 1
  fi
  echo "check_docs: $blocks blocks, $failures failed"
  [[ $failures -eq 0 ]]
}

# A block that works, one whose second command fails, one that is only shown, and one without an end.
self_test() {
  local tree="$scratch/tree" output
  mkdir -p "$tree/docs"
  printf '%s\n' 'Text.' '```sh run' 'build/release/baton fine' '```' '```sh' 'false' '```' >"$tree/README.md"
  printf '%s\n' 'Text.' '```sh run' 'build/release/baton one &&' '  true' 'test 1 = 2' 'echo unreached' '```' >"$tree/docs/wrong.md"
  printf '%s\n' '```sh run' 'true' >"$tree/docs/zz_open.md"
  if output=$(check "$tree" echo); then
    echo "check_docs: self-test failed: the planted failures were not found"
    return 1
  fi
  if [[ $output != *'docs/wrong.md:5: exit code 1: test 1 = 2'* || $output == *unreached* ||
    $output != *'docs/zz_open.md:2: the block that begins here has no end'* || $output != *'2 blocks, 2 failed'* ]]; then
    printf 'check_docs: self-test failed, got\n%s\n' "$output"
    return 1
  fi
  echo "check_docs: self-test ok"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ ${1:-} == --self-test ]]; then
  self_test
else
  binary=$(realpath -- "${1:-$here/../build/release/baton}")
  [[ -x $binary ]] || {
    echo "check_docs: $binary is not there; build it first: cmake --preset release && cmake --build --preset release --target baton" >&2
    exit 2
  }
  check "$here/.." "$binary"
fi

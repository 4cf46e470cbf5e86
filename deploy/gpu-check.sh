#!/usr/bin/env bash
# Checks and measures Baton on this machine's GPUs, in some five minutes: docs/gpu.md. Each step has its own time limit, and a step
# that fails does not stop the rest. Writes gpu-check-report/{report.txt,report.json,*.log}.
#   deploy/gpu-check.sh [--gpus N] [--cpu]
#   --gpus N   also a prefill with a rank on each of N GPUs
#   --cpu      rehearses all steps on the CPU, with small sizes
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export BATON_SOURCE=$here  # where the tests find their fixtures
gpus=1
kind=cuda
while [[ $# -gt 0 ]]; do
  case $1 in
    --gpus) gpus=$2 && shift ;;
    --cpu) kind=cpu ;;
    *) sed -n '2,7p' "$0" && exit 2 ;;
  esac
  shift
done
# In the bundle programs lie in bin/, at first in an archive, in a checkout in build/cuda, build/release or build/dev.
[[ -d $here/bin || ! -f $here/programs.tar.xz ]] || tar -xf "$here/programs.tar.xz" -C "$here" || exit 2
for bin in "${BATON_BIN:-}" "$here/bin" "$here/build/cuda" "$here/build/release" "$here/build/dev"; do
  [[ -n $bin && -x $bin/baton ]] && break
done
[[ -x $bin/baton ]] || { echo "gpu-check: no program; build it, or set BATON_BIN" && exit 2; }
out=$PWD/gpu-check-report
rm -rf "$out" && mkdir -p "$out"
cd "$here" || exit 2
[[ -d $here/lib ]] && export LD_LIBRARY_PATH=$here/lib:${LD_LIBRARY_PATH:-}
# PyTorch brings cuBLASLt, cuDNN and NVRTC.
folders=$(python3 - 2>/dev/null <<'P'
import glob, importlib.util
found = importlib.util.find_spec("nvidia")
print(":".join(sorted(d for p in (found.submodule_search_locations if found else []) for d in glob.glob(p + "/*/lib"))))
P
)
[[ -n $folders ]] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folders

devices() { # devices N: a configuration's list
  local list="" i
  for ((i = 0; i < $1; i++)); do
    if [[ $kind == cuda ]]; then list+="{kind: cuda, index: $i}, "; else list+="{name: cpu$i, threads: 1}, "; fi
  done
  echo "nodes: [{devices: [${list%, }]}]"
}
needle="model: {directory: $here/models/needle, prompt: needle}"
printf '%s\n%s\n' "$needle" "$(devices 1)" >"$out/one.yaml"
printf '%s\n%s\n' "$needle" "$(devices "$gpus")" >"$out/all.yaml"
printf '%s\nnodes: [{devices: [{kind: cpu}]}]\n' "$needle" >"$out/cpu.yaml"
printf '%s\nnodes: [{devices: [{kind: cpu, name: slow}, {kind: %s, name: fast}]}]\n' "$needle" "$kind" >"$out/mixed.yaml"

if [[ $kind == cuda ]]; then
  shape=configs/shapes/llama-3.1-8b.yaml lengths=32K,64K,127K some=32K chunk=8192 filter='cuda' gtest='*gpu*:*staged*cuda*:*warming_up*cuda'
  document=archive-32k tokens=$out/64K.json
  device() { echo "{name: $1, kind: cuda, index: $2}"; }
  python3 -c 'import random, json; random.seed(1); ids = [random.randrange(1000, 100000) for _ in range(65536 + 32)]
print(json.dumps({"document_ids": ids[32:], "query_ids": ids[:32], "system_tokens": 0}))' >"$tokens"
  printf 'model: {directory: %s, prompt: llama3}\njob: {strategy: apb, ranks: 8, chunk_tokens: %d}\n' "$here/$shape" "$chunk" \
    >"$out/processes.yaml"
else
  shape=configs/shapes/small.yaml lengths=1K some=1K chunk=256 filter='cpu_bf16' gtest='*staged*cpu*:*warming_up*cpu' document=archive-2k tokens=""
  device() { echo "{name: $1, kind: cpu, threads: 1}"; }
  printf '%s\njob: {strategy: apb, ranks: 8}\n' "$needle" >"$out/processes.yaml"
fi
printf 'processes: per_device\nrecovery: {reserve: 4}\nnodes: [{name: west, devices: [%s]}, {name: east, devices: [%s]}]\n' \
  "$(device a 0)" "$(device b $((gpus > 1)))" >>"$out/processes.yaml"
question=$(head -1 "models/needle/documents/$document.questions.jsonl" | sed 's/.*"question": "\([^"]*\)".*/\1/')

: >"$out/steps.tsv"
step() { # step NAME LIMIT_S COMMAND…
  local name=$1 limit=$2 begun=$SECONDS code=0 result=ok
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  [[ $code -ne 0 ]] && result="failed ($code)"
  [[ $code -eq 124 ]] && result="out of time"
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - begun))" >>"$out/steps.tsv"
  printf '%-12s %-12s %4d s\n' "$name" "$result" "$((SECONDS - begun))"
}
answer=("$bin/baton" run --document "models/needle/documents/$document.txt" --question "$question" --strategy apb --ranks 8 --quiet)
prefill=("$bin/baton" bench prefill --shape "$shape" --chunk-tokens "$chunk" --query-tokens 32 --repeats 1 --blocks even --quiet)

step version 60 "$bin/baton" version
step kernels 180 "$bin/baton_kernels_test" "--gtest_filter=devices/*$filter*"
step engine 90 "$bin/baton_runtime_test" "--gtest_filter=$gtest"
[[ $kind == cuda ]] && step calls 90 "$bin/baton_cuda_test"
step answer 60 "${answer[@]}" --config "$out/one.yaml" --json "$out/answer.json" --dump "$out/answer.safetensors"
# A GPU likes other lengths than a CPU: the CPU takes the GPU's.
readarray -t lengths_of < <(python3 deploy/gpu_report.py lengths "$out" 2>/dev/null)
step answer_cpu 90 "${answer[@]}" "${lengths_of[@]}" --config "$out/cpu.yaml" --json "$out/answer_cpu.json" --dump "$out/answer_cpu.safetensors"
step same 30 python3 deploy/gpu_report.py same "$out"
# A CPU device and a GPU share the job.
step mixed 60 "${answer[@]}" "${lengths_of[@]}" --config "$out/mixed.yaml" --json "$out/mixed.json" --dump "$out/mixed.safetensors"
step same_mixed 30 python3 deploy/gpu_report.py same "$out" mixed
step rates 180 "$bin/baton" bench kernels --config "$out/one.yaml" --json "$out/rates.json" --quiet
step torch 60 python3 deploy/gpu_attention.py
step prefill 240 "${prefill[@]}" --config "$out/one.yaml" --strategies full,star,apb --lengths "$lengths" --virtual-ranks 8 \
  --json "$out/prefill.json"
step shared 120 "${prefill[@]}" --config "$out/one.yaml" --strategies apb --lengths "$some" --ranks 8 --json "$out/shared.json"
# Two worker processes, on two GPUs where there are: one is killed or stopped in mid-prefill, and the answer stays what it was.
step death 150 python3 deploy/measure_death.py --baton "$bin/baton" --config "$out/processes.yaml" --victim "east/b" --repeats 1 \
  --lengths 8K ${tokens:+--tokens "$tokens"}
if [[ $gpus -gt 1 ]]; then
  step gpus 90 "${prefill[@]}" --config "$out/all.yaml" --strategies full,star,apb --lengths "$some" --ranks "$gpus" \
    --json "$out/gpus.json"
fi
python3 deploy/gpu_report.py report "$out"
# Without PyTorch there is nothing to compare with; all other steps must have passed.
awk -F'\t' '$1 != "torch" && $2 != 0 { failed = 1 } END { exit failed }' "$out/steps.tsv"

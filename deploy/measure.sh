#!/bin/bash
# Measures what docs/measurements.md has tables of, on this machine: sets it up, builds the release, then writes text, JSON and plots.
# Usage: deploy/measure.sh [--quick|--all] [FOLDER]
#   FOLDER    where to; build/measurements unless given
#   --quick   shorter documents and fewer repetitions
#   --all     clusters of network namespaces too: slow links, and chaos (an hour; wants root)
#
# Everything that is compared runs in turns in one process, beside the machine's own fastest matmul and copy. Nothing else should run
# meanwhile; the first lines of each file say what did.
set -euo pipefail
cd "$(dirname "$0")/.."

lengths=4K,8K,16K
repeats=5
all=no
case "${1:-}" in
  --quick)
    lengths=2K,4K
    repeats=2
    shift
    ;;
  --all)
    all=yes
    shift
    ;;
  -*)
    sed -n '2,6s/^# //p' "$0"
    exit 2
    ;;
esac
folder=${1:-build/measurements}
mkdir -p "$folder"

deploy/bootstrap.sh
cmake --preset release >/dev/null
cmake --build --preset release --target baton baton_bench
baton=build/release/baton

# measure NAME COMMAND...: keeps what the command prints, under what it was and where it ran.
measure() {
  local name=$1
  shift
  echo "measure: $name"
  {
    echo "$ $*"
    echo "$(date -I), commit $(git rev-parse --short HEAD), $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
    sed -n '0,/model name/s/model name.*: //p' /proc/cpuinfo
    "$baton" version
    echo
    "$@"
  } >"$folder/$name.txt"
}

measure kernels "$baton" bench kernels --json "$folder/kernels.json"
# What a CPU with AMX would do without it.
if grep -q amx_bf16 /proc/cpuinfo; then
  measure kernels-without-amx env ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$baton" bench kernels --json "$folder/kernels-without-amx.json"
fi
measure decode deploy/measure_decode.py --baton "$baton" --rounds "$repeats"
question=$(head -n 1 models/needle/documents/archive-32k.questions.jsonl | python3 -c 'import json, sys; print(json.load(sys.stdin)["question"])')
for round in 1 2 3; do
  measure "run-compare-$round" "$baton" run --config configs/quickstart.yaml --document models/needle/documents/archive-32k.txt \
    --question "$question" --strategy apb --ranks 8 --compare full --log-level warning --json "$folder/run-compare-$round.json"
done
measure prefill-small "$baton" bench prefill --shape configs/shapes/small.yaml --lengths "$lengths" --ranks 4,8 \
  --repeats "$repeats" --calibrate --json "$folder/prefill-small.json" --svg "$folder/prefill-small.svg"
measure prefill-needle "$baton" bench prefill --model models/needle --lengths 8K,16K,32K --ranks 4,8 \
  --repeats "$repeats" --calibrate --json "$folder/prefill-needle.json" --svg "$folder/prefill-needle.svg"
for ranks in 4 8; do
  measure "virtual-ranks-$ranks" "$baton" bench prefill --model models/needle --strategies full,star,apb --lengths 16K,32K \
    --virtual-ranks "$ranks" --blocks even,balanced --repeats "$repeats" --json "$folder/virtual-ranks-$ranks.json" \
    --svg "$folder/virtual-ranks-$ranks.svg"
done
# The projection beside what it projects: two devices of one thread.
measure two-devices "$baton" bench prefill --config configs/two-devices.yaml --model models/needle --strategies apb \
  --lengths 16K --ranks 2 --repeats "$repeats"
measure two-virtual-ranks "$baton" bench prefill --model models/needle --strategies apb --lengths 16K --virtual-ranks 2 \
  --threads 1 --repeats "$repeats"
# PyTorch and Hugging Face transformers in turns with this, where they are: tests/peers/transformers_prefill.py says how to get them.
python=${PYTHON:-python3}
if "$python" -c 'import torch, transformers, yaml' 2>/dev/null; then
  measure torch-attention "$python" tests/peers/torch_attention.py --baton "$baton" --rounds "$repeats" \
    --json "$folder/torch-attention.json"
  measure transformers "$python" tests/peers/transformers_prefill.py --baton "$baton" --repeats "$repeats" \
    --json "$folder/transformers.json"
else
  echo "measure: PyTorch and transformers are skipped: $python does not have them; PYTHON names another python"
fi
measure loading deploy/measure_loading.py "$baton" --repeats "$repeats"
measure transport build/release/baton_bench --benchmark_filter="blocks|round_trip|idle"
measure death deploy/measure_death.py --baton "$baton"
if [[ $all == yes ]]; then
  measure cluster deploy/measure_cluster.py --baton "$baton"
  measure chaos env BATON="$baton" deploy/chaos.sh --jobs 1000
fi
echo "measure: tables and plots are in $folder"

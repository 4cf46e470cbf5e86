#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention beside Baton's block attention, on the same cores, in turns, both in bf16.

    python3 -m venv build/peers && build/peers/bin/pip install torch==2.15.0
    build/peers/bin/python tests/peers/torch_attention.py --baton build/release/baton --json build/torch_attention.json

4096 tokens, 4 heads and 2 KV heads of 128 and 64 columns, dense and causal: the rows `attend` of `baton bench kernels`. A round is one
median of seven runs of each side; what is compared are the medians over the rounds. CI does not run it: it wants PyTorch.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

TOKENS, HEADS, KV_HEADS = 4096, 4, 2


def torch_rates(torch, runs):
    rates = {}
    for dim in (128, 64):
        query = torch.randn(1, HEADS, TOKENS, dim, dtype=torch.bfloat16)
        key, value = (torch.randn(1, KV_HEADS, TOKENS, dim, dtype=torch.bfloat16) for _ in range(2))
        for causal in (False, True):
            def attend():
                begun = time.perf_counter()
                torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
                return time.perf_counter() - begun

            attend()
            pairs = TOKENS * (TOKENS + 1) / 2 if causal else TOKENS * TOKENS
            name = f"{TOKENS} tokens, D {dim}, {'causal' if causal else 'dense'}"
            rates[name] = 4 * pairs * dim * HEADS / statistics.median(attend() for _ in range(runs))
    return rates


def baton_rates(baton, threads):
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "kernels.json"
        command = [baton, "bench", "kernels", "--only", "attend", "--threads", str(threads), "--json", report, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        told = json.loads(report.read_text())
    return {k["sizes"]: k["operations"] / k["median_s"] for k in told["kernels"]}, told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default="build/release/baton")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=pathlib.Path)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    rounds = []
    for _ in range(given.rounds):
        theirs = torch_rates(torch, 7)
        ours, told = baton_rates(given.baton, given.threads)
        rounds.append({"torch": theirs, "baton": ours, "matmul": told["matmul_operations_per_s"]})
    print(f"PyTorch {torch.__version__}, Baton {told['kernel_class']}, {given.threads} threads, {platform.processor() or platform.machine()}")
    print(f"{'attention':<28} {'PyTorch':>10} {'Baton':>10}  GFLOP/s   ratio  (lowest to highest round)")
    rows = []
    for name in rounds[0]["torch"]:
        theirs, ours = ([r[side][name] for r in rounds] for side in ("torch", "baton"))
        ratios = [a / b for a, b in zip(ours, theirs)]
        row = {"sizes": name, "torch": statistics.median(theirs), "baton": statistics.median(ours)}
        row["ratio"] = row["baton"] / row["torch"]
        rows.append(row)
        print(f"{name:<28} {row['torch'] / 1e9:>10.0f} {row['baton'] / 1e9:>10.0f} {row['ratio']:>16.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()

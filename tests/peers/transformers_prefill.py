#!/usr/bin/env python3
"""Whole `full` prefill: Hugging Face transformers and Baton on the same cores, in turns, both in bf16.

    python3 -m venv build/peers && build/peers/bin/pip install torch==2.15.0 transformers==5.24.0
    build/peers/bin/python tests/peers/transformers_prefill.py --baton build/release/baton --json build/transformers.json

Two cases: the shape of configs/shapes/small.yaml with drawn weights at 4K tokens, and models/needle at 32K. Both sides compute
the hidden states of all tokens and keep all keys and values, and no logits. Each is warmed by one run of its own. A round is one
run of transformers, then one of `baton bench prefill`; what is compared are the medians over the rounds, and the ratio of each
round shows the spread. CI does not run it: it takes minutes, and PyTorch.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = ROOT / "configs/shapes/small.yaml"
NEEDLE = ROOT / "models/needle"


def small_model(torch, transformers):
    """The shape's sizes, with weights that transformers draws."""
    import yaml

    sizes = yaml.safe_load(SHAPE.read_text())
    assert sizes["model_type"] == "llama" and "rope_scaling" not in sizes and not sizes["qkv_bias"], SHAPE
    names = (
        "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim vocab_size "
        "max_position_embeddings rope_theta tie_word_embeddings"
    ).split()
    config = transformers.LlamaConfig(rms_norm_eps=float(sizes["rms_norm_eps"]), **{name: sizes[name] for name in names})
    torch.manual_seed(1)
    config._attn_implementation = "sdpa"
    return transformers.LlamaModel(config)


def needle_model(_, transformers):
    return transformers.AutoModel.from_pretrained(NEEDLE, attn_implementation="sdpa")


def transformers_run(torch, model, ids):
    """Seconds of one prefill into an empty cache."""
    with torch.inference_mode():
        begun = time.perf_counter()
        out = model(input_ids=ids, use_cache=True)
        took = time.perf_counter() - begun
    assert out.last_hidden_state.shape[1] == ids.shape[1]
    return took


def baton_run(baton, source, tokens, threads):
    """Seconds of one prefill by `baton bench prefill`, which runs one before it to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "prefill.json"
        command = [baton, "bench", "prefill", *source, "--strategies", "full", "--lengths", str(tokens), "--ranks", "1"]
        command += ["--threads", str(threads), "--repeats", "1", "--quiet", "--json", result]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads(result.read_text())
    (row,) = report["rows"]
    assert row["strategy"] == "full" and row["document_tokens"] == tokens, row
    return row["repetitions"][0]["seconds"], report["kernel_class"]


def compare(name, model, source, tokens, options):
    import torch
    import transformers

    model = model(torch, transformers).to(torch.bfloat16).eval()
    ids = torch.randint(2, model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(2))
    transformers_run(torch, model, ids)
    theirs, ours, kernel_class = [], [], ""
    for round_ in range(options.repeats):
        theirs.append(transformers_run(torch, model, ids))
        seconds, kernel_class = baton_run(options.baton, source, tokens, options.threads)
        ours.append(seconds)
        print(f"{name}, round {round_ + 1}: transformers {theirs[-1]:.3f} s, baton {ours[-1]:.3f} s", file=sys.stderr)
    ratios = [t / o for t, o in zip(theirs, ours)]
    return {
        "model": name,
        "document_tokens": tokens,
        "kernel_class": kernel_class,
        "transformers_s": theirs,
        "baton_s": ours,
        "transformers_median_s": statistics.median(theirs),
        "baton_median_s": statistics.median(ours),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def main():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=str(ROOT / "build/release/baton"), help="the program, built for release")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=cores, help="of both; as many as there are cores")
    parser.add_argument("--lengths", default="4096,32768", help="tokens of the two cases; 0 leaves one out")
    parser.add_argument("--json", type=pathlib.Path, help="writes everything there")
    options = parser.parse_args()
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads: 1 or more")
    small_tokens, needle_tokens = (int(length) for length in options.lengths.split(","))

    import torch
    import transformers

    torch.set_num_threads(options.threads)
    rows = []
    if small_tokens > 0:
        rows.append(compare("small", small_model, ["--shape", SHAPE], small_tokens, options))
    if needle_tokens > 0:
        rows.append(compare("needle", needle_model, ["--model", NEEDLE], needle_tokens, options))

    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, sdpa, bf16, {options.threads} threads")
    print(f"{'model':<8}{'tokens':>8}{'transformers':>14}{'baton':>10}{'ratio':>8}   of single rounds")
    for row in rows:
        print(
            f"{row['model']:<8}{row['document_tokens']:>8,}{row['transformers_median_s']:>12.2f} s"
            f"{row['baton_median_s']:>8.2f} s{row['ratio']:>8.2f}   {row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}"
        )
    if options.json:
        machine = {"machine": platform.machine(), "cores": cores, "threads": options.threads}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        options.json.write_text(json.dumps({**machine, "versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

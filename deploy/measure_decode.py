#!/usr/bin/env python3
"""Decoding beside the machine's copy: how much of the bandwidth the answer's tokens get.

    deploy/measure_decode.py [--baton build/release/baton] [--shape configs/shapes/small.yaml] [--context 4096] [--tokens 128]

A token reads every weight but the embedding's once, and the keys and values of all tokens before it. Those bytes, times tokens per second,
are compared with what `baton bench kernels --only copy` reads and writes in a second. Rounds take turns; medians.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def sizes_of(shape):
    """A shape's file has `key: value` lines alone."""
    lines = (line.split("#")[0] for line in shape.read_text().splitlines())
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value.strip()}


def bytes_of_a_token(sizes, context, element_bytes=2):
    hidden, layers = int(sizes["hidden_size"]), int(sizes["num_hidden_layers"])
    heads, kv_heads = int(sizes["num_attention_heads"]), int(sizes["num_key_value_heads"])
    dim = int(sizes.get("head_dim", hidden // heads))
    layer = hidden * (heads + 2 * kv_heads) * dim + heads * dim * hidden + 3 * hidden * int(sizes["intermediate_size"])
    weights = layers * layer + hidden * int(sizes["vocab_size"])
    return element_bytes * (weights + 2 * layers * kv_heads * dim * context)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default="build/release/baton")
    parser.add_argument("--shape", type=pathlib.Path, default=pathlib.Path("configs/shapes/small.yaml"))
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sizes = sizes_of(given.shape)
    vocabulary = int(sizes["vocab_size"])
    query = 16
    rates, copies = [], []
    with tempfile.TemporaryDirectory() as folder:
        ids, out = (pathlib.Path(folder) / name for name in ("ids.json", "out.json"))
        drawn = [1 + (i * 7919) % (vocabulary - 1) for i in range(given.context)]
        ids.write_text(json.dumps({"document_ids": drawn[: given.context - query], "query_ids": drawn[-query:], "system_tokens": 1}))
        for _ in range(given.rounds):
            run = [given.baton, "run", "--config", "configs/quickstart.yaml", "--model", given.shape, "--tokens", ids, "--strategy", "full", "--ranks", "1", "--quiet"]
            run += ["--max-new-tokens", str(given.tokens + 1), "--json", out]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
            told = json.loads(out.read_text())
            if len(told["answer_ids"]) != given.tokens + 1:
                raise SystemExit(f"the answer ended after {len(told['answer_ids'])} tokens; give fewer --tokens")
            rates.append(told["decode_tokens_per_s"])
            subprocess.run([given.baton, "bench", "kernels", "--only", "copy", "--json", out, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            copies.append(json.loads(out.read_text())["copy_bytes_per_s"])
    read = bytes_of_a_token(sizes, given.context + given.tokens // 2)
    rate, copy = statistics.median(rates), statistics.median(copies)
    print(f"{given.shape}, {given.context} tokens of context, {given.tokens} tokens answered, {given.rounds} rounds")
    print(f"decoding       {rate:.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f}), {read / 2**20:.0f} MiB read a token")
    print(f"that is        {read * rate / 1e9:.1f} GB/s")
    print(f"fastest copy   {copy / 1e9:.1f} GB/s ({min(copies) / 1e9:.1f} to {max(copies) / 1e9:.1f}), read and written")
    print(f"share          {100 * read * rate / copy:.0f} %")


if __name__ == "__main__":
    main()

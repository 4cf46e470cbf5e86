#!/usr/bin/env python3
"""How long `baton run` loads a large checkpoint, and how much memory that takes.

Writes a random checkpoint of about a GiB (bf16, Llama's form) into build/loading unless it is there, reads it once with plain
reads so that it is in the page cache, reads it again for the time, then lets Baton load it and answer one token. Usage:

    deploy/measure_loading.py [BINARY] [--shards N] [--repeats N] [--precision fp32]     (BINARY: build/release/baton)

A CPU without bf16 arithmetic keeps bf16 weights as fp32, twice as large; --precision fp32 (an F32 checkpoint, of as many bytes) then is
what compares with bf16 on a CPU that has it: what is read is what is kept.
"""
import argparse
import array
import json
import mmap
import os
import random
import resource
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "loading")
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2048, 5632, 16, 4, 128, 32000
LAYERS = {"bf16": 9, "fp32": 3}

CONFIGURATION = """model: {{directory: {folder}, precision: {precision}, prompt: llama3}}
job: {{strategy: full, ranks: 1, max_new_tokens: 1}}
nodes: [{{name: local, devices: [{{name: cpu0, kind: cpu, threads: auto}}]}}]
"""


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        for name, shape in {"input_layernorm": (HIDDEN,), "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
                            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM), "post_attention_layernorm": (HIDDEN,),
                            "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}.items():
            yield f"model.layers.{i}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_shard(path, tensors, numbers, precision):
    header, end = {}, 0
    for name, shape in tensors:
        bytes_ = 2 if precision == "bf16" else 4
        for extent in shape:
            bytes_ *= extent
        header[name] = {"dtype": "BF16" if precision == "bf16" else "F32", "shape": shape, "data_offsets": [end, end + bytes_]}
        end += bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while end > 0:
            end -= file.write(numbers[:min(end, len(numbers))])


def write_checkpoint(folder, shards, precision):
    os.makedirs(folder)
    chance = random.Random(1)
    # bf16 from 2^-7 to 2^-3, of both signs; two of them are an fp32 of that size.
    numbers = array.array("H", (chance.getrandbits(16) & 0x81FF | 0x3C00 for _ in range(1 << 20))).tobytes()
    tensors = list(shapes(LAYERS[precision]))
    if shards == 1:
        write_shard(os.path.join(folder, "model.safetensors"), tensors, numbers, precision)
    else:
        places = {}
        for i in range(shards):
            name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = tensors[i::shards]
            write_shard(os.path.join(folder, name), part, numbers, precision)
            places.update({tensor: name for tensor, _ in part})
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
            json.dump({"metadata": {}, "weight_map": places}, file)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": HEADS,
                   "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "num_hidden_layers": LAYERS[precision], "vocab_size": VOCABULARY,
                   "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16" if precision == "bf16" else "float32"}, file)
    with open(os.path.join(folder, "tokens.json"), "w", encoding="utf-8") as file:
        json.dump({"document_ids": list(range(2, 34)), "query_ids": [1, 2], "system_tokens": 0}, file)
    with open(os.path.join(folder, "baton.yaml"), "w", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(folder=folder, precision=precision))


def read_once(folder, keep):
    """Seconds and bytes of reading all weights, a MiB at a time: into one buffer, which stays in the processor's cache, or, to keep
    them, into new memory."""
    buffer, bytes_, begin = memoryview(bytearray(1 << 20)), 0, time.monotonic()
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb", buffering=0) as file:
                kept = mmap.mmap(-1, os.fstat(file.fileno()).st_size) if keep else None
                if keep:
                    kept.madvise(mmap.MADV_HUGEPAGE)
                    buffer = memoryview(kept)
                at = 0
                while count := file.readinto(buffer[at:at + (1 << 20)]):
                    at += count if keep else 0
                    bytes_ += count
    return time.monotonic() - begin, bytes_


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", nargs="?", default=os.path.join(ROOT, "build", "release", "baton"))
    arguments.add_argument("--shards", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--precision", choices=list(LAYERS), default="bf16")
    given = arguments.parse_args()
    folder = os.path.join(FOLDER, f"{given.precision}-{given.shards}")
    if not os.path.isdir(folder):
        write_checkpoint(folder, given.shards, given.precision)
    out = os.path.join(folder, "result.json")
    command = [given.binary, "run", "--config", os.path.join(folder, "baton.yaml"), "--tokens", os.path.join(folder, "tokens.json"),
               "--quiet", "--json", out]
    plan = os.path.join(folder, "plan.json")
    subprocess.run([given.binary, "plan", *command[2:6], "--json", plan], check=True, stdout=subprocess.DEVNULL)
    with open(plan, encoding="utf-8") as file:
        device = json.load(file)["costs"]["devices"][0]
    read_once(folder, False)
    mib = 1 << 20
    print("file MiB  read s  read and keep s  load s  load / read  load / read and keep  weights MiB  plan's total MiB  "
          "largest resident MiB  resident / weights")
    for _ in range(given.repeats):
        read_s, bytes_ = read_once(folder, False)
        keep_s, _ = read_once(folder, True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the largest of all runs so far
        with open(out, encoding="utf-8") as file:
            load_s = json.load(file)["load_s"]
        print(f"{bytes_ / mib:8.0f}  {read_s:6.3f}  {keep_s:15.3f}  {load_s:6.3f}  {load_s / read_s:11.2f}  {load_s / keep_s:20.2f}  "
              f"{device['weights_bytes'] / mib:11.0f}  "
              f"{device['total_bytes'] / mib:16.0f}  {resident / mib:20.0f}  {resident / device['weights_bytes']:18.3f}", flush=True)


if __name__ == "__main__":
    main()

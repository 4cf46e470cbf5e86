"""Trains the retaining heads (Locret, arXiv 2410.01805) that APB's compressor scores tokens with. The model stays frozen.

Per layer: score = fc2(silu(fc1([q; k; v]))) on the projections before RoPE. A training document is laid out as one APB rank sees
it: an anchor block (opening, question, first document tokens) and a local block at its own positions. The target of a token
is the log of the largest attention weight that the question and answer tokens after the document give it, over the query heads that
share its KV head. Loss: smooth L1, plus a small term that keeps neighbouring scores close.

    python train_retaining_heads.py --work-dir work
"""
import argparse
import os
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import data
import needles
from evaluate import OPENING, attend, layer_tail, tables
from model import load_hf, rotate

FLOOR = -14.0  # log weights below this count as "never needed"


def make_case(rng, coder, fillers, block):
    """(anchor ids, block ids, block start, question ids, answer ids) with one block's worth of document."""
    count = rng.choice((1, 2, 4, 8, 12))
    keys = needles.random_keys(rng, count, "train", hard=rng.random() < 0.6 and count > 1)
    facts = [needles.Fact(rng, k, rng.choice((1, 1, 1, 2))) for k in keys]
    pool = fillers[0] if rng.random() < 0.7 else fillers[1]
    tokens, _, _ = data.lay_out(rng, coder, facts, pool, block, [])
    question, answer, _ = needles.single_question(rng, rng.choice(facts))
    ask, reply = data.branch_tokens(coder, question, answer)
    anchor_text = [t for s in pool.sentences(rng, 64) for t in s.tolist()][:rng.choice((64, 128, 192))]
    anchor = [data.BOS_ID, data.USER_ID] + ask + anchor_text
    start = rng.randrange(len(anchor), data.POSITIONS - 4 * block) if rng.random() < 0.8 else len(anchor)
    after = start + block + (rng.randrange(0, 3 * block - 100) if rng.random() < 0.5 else 0)  # later blocks may lie between
    return anchor, tokens, start, after, ask, reply


@torch.no_grad()
def features_and_targets(model, case):
    """Per layer: features (block, (n_q + 2 n_kv) D) and targets (block, n_kv)."""
    anchor, block, start, after, ask, reply = case
    tokens = torch.tensor(anchor + block)
    positions = torch.cat([torch.arange(len(anchor)), torch.arange(start, start + len(block))])
    tail = torch.tensor(ask + reply)
    cos, sin = tables(model, positions)
    tail_cos, tail_sin = tables(model, torch.arange(after, after + len(tail)))
    x, y, out, skip = model.embed_tokens(tokens[None]), model.embed_tokens(tail[None]), [], len(anchor)
    for layer in model.layers:
        a = layer.self_attn
        q, k, v = a.project(layer.input_layernorm(x))
        features = torch.cat([p[:, :, skip:].transpose(1, 2).flatten(2) for p in (q, k, v)], -1)[0]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        tq, tk, tv = a.project(layer.input_layernorm(y))
        tq, tk = rotate(tq, tail_cos, tail_sin), rotate(tk, tail_cos, tail_sin)
        # The question sees the block and itself; the anchor is dropped by then, but its first tokens stand for block 0.
        seen_k, seen_v = torch.cat([k[:, :, :OPENING], k[:, :, skip:], tk], 2), torch.cat([v[:, :, :OPENING], v[:, :, skip:], tv], 2)
        scores = (tq.float() @ a.expand(seen_k).float().transpose(-1, -2)) * model.config.head_dim ** -0.5
        causal = torch.ones(len(tail), len(tail), dtype=torch.bool).triu(1)
        scores[..., -len(tail):].masked_fill_(causal, float("-inf"))
        weights = scores.log_softmax(-1)
        best = weights[0, :, :, OPENING:OPENING + len(block)].amax(1)                     # (n_q, block)
        out.append((features.float(), best.unflatten(0, (model.config.num_key_value_heads, -1)).amax(1).clamp_min(FLOOR).t()))
        y = layer_tail(layer, y, (weights.exp().to(tv.dtype) @ a.expand(seen_v)))
        x = layer_tail(layer, x, attend(q, a.expand(k), a.expand(v), True)[0])
    return out


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=os.path.dirname(here))
    parser.add_argument("--work-dir", default="work")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--cases", type=int, default=4, help="documents per step")
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--smooth", type=float, default=0.0025)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, coder, rng = load_hf(arguments.model), data.Coder(), random.Random(77)
    fillers, c = data.load_fillers(arguments.work_dir), model.config
    width = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    fc1 = [torch.nn.Parameter(torch.randn(arguments.hidden, width) / width ** 0.5) for _ in model.layers]
    fc2 = [torch.nn.Parameter(torch.randn(c.num_key_value_heads, arguments.hidden) * 0.01) for _ in model.layers]
    optimizer = torch.optim.AdamW(fc1 + fc2, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    begun, losses, recalls = time.time(), [], []
    for step in range(arguments.steps):
        progress = max(step / arguments.steps, (time.time() - begun) / (60 * arguments.minutes))
        if progress >= 1:
            break
        for g in optimizer.param_groups:
            g["lr"] = 1e-3 * min(1.0, (step + 1) / 30) * max(0.05, 1 - progress)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cases = [features_and_targets(model, make_case(rng, coder, fillers, arguments.block)) for _ in range(arguments.cases)]
        loss = 0.0
        for i in range(len(model.layers)):
            features = torch.stack([case[i][0] for case in cases])
            # The target is shifted so that a layer's score is centred near zero: only the order of scores matters.
            target = torch.stack([case[i][1] for case in cases]) - FLOOR / 2
            score = F.silu(features @ fc1[i].t()) @ fc2[i].t()
            loss = loss + F.smooth_l1_loss(score, target) + arguments.smooth * (score[:, 1:] - score[:, :-1]).abs().mean()
            with torch.no_grad():  # share of the tokens with the 16 largest targets that the best 1/16 of scores keep
                kept = F.max_pool1d(score.transpose(1, 2).flatten(0, 1)[:, None], 5, 1, 2)[:, 0].topk(arguments.block // 16).indices
                wanted = target.transpose(1, 2).flatten(0, 1).topk(16).indices
                recalls.append((wanted[:, :, None] == kept[:, None, :]).any(-1).float().mean().item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 20 == 0:
            per_layer = [sum(recalls[i::len(model.layers)]) / len(recalls[i::len(model.layers)]) for i in range(len(model.layers))]
            print(f"step {step + 1} loss {sum(losses) / len(losses):.4f} recall per layer {[round(r, 3) for r in per_layer]} "
                  f"min {(time.time() - begun) / 60:.1f}", flush=True)
            losses, recalls = [], []
    state = {}
    for i in range(len(model.layers)):
        state[f"layers.{i}.fc1.weight"] = fc1[i].detach().bfloat16().contiguous()
        state[f"layers.{i}.fc2.weight"] = fc2[i].detach().bfloat16().contiguous()
    save_file(state, arguments.output or os.path.join(arguments.model, "retaining_heads.safetensors"), metadata={"format": "pt"})
    print(f"saved after {step + 1} steps, {(time.time() - begun) / 60:.1f} min")


if __name__ == "__main__":
    main()

"""Retrieval tasks over long prose: needles, distractors, questions, and packed training batches.

A *branch* is one question with its answer. During training many branches share one document: every branch starts at the
position right after the document and sees the document and itself only, exactly as a single question would.

Run `python data.py` to write the tokenized filler to the work folder; `--train-tokenizer` makes a new tokenizer first.
"""
import argparse
import functools
import json
import os
import random
import re

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import filler
from needles import (ADJECTIVES, ATTRIBUTES, OBJECTS, PLACES, VALUE_WORDS, WORD_ATTRIBUTES, Fact, mention, random_entity, random_keys,
                     random_modifier, several_question, single_question)

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL_DIR = os.path.dirname(HERE)
BOS, EOS, USER, ASSISTANT = "<|begin_of_text|>", "<|end_of_text|>", "<|user|>", "<|assistant|>"
SPECIALS = [BOS, EOS, USER, ASSISTANT]
BOS_ID, EOS_ID, USER_ID, ASSISTANT_ID = range(4)
POSITIONS = 131072
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                r"\s*[\r\n]+|\s+(?!\S)|\s+")

# --------------------------------------------------------------------------- tokenizer
def train_tokenizer(path, sentences, vocab_size=3072, seed=3):
    """Byte-level BPE with Llama-3's split. Numbers of two and three digits are tokens of their own, as in Llama-3, so that a
    value is two or three tokens. No line break is in the training text, so that a line break never merges with its neighbours:
    pieces of a prompt can be tokenized apart and joined."""
    rng = random.Random(seed)
    words = PLACES + ADJECTIVES + OBJECTS + VALUE_WORDS
    text = [s for s in rng.sample(sentences, min(60000, len(sentences)))]
    text += [filler.grammar_sentence(rng) for _ in range(25000)]
    for _ in range(12000):
        fact = Fact(rng, (rng.choice(ATTRIBUTES + WORD_ATTRIBUTES), f"{random_modifier(rng)} {rng.choice(OBJECTS)}"))
        text += fact.statements(rng) + [single_question(rng, fact)[0]]
    text += [" ".join(rng.sample(words, 12)) for _ in range(4000)]
    tokenizer = Tokenizer(models.BPE(ignore_merges=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1100, special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((re.sub(r"\d", "", " " + s) for s in text), trainer)
    # Add the numbers. A three-digit number can be reached from either pair, so the order of merges cannot matter.
    spec = json.loads(tokenizer.to_str())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    for number in [f"{i:02d}" for i in range(100)] + [f"{i:03d}" for i in range(1000)]:
        vocab[number] = len(vocab)
        merges += [[number[:1], number[1:]]] + ([[number[:2], number[2:]]] if len(number) == 3 else [])
    json.dump(spec, open(path, "w"), ensure_ascii=False, indent=1)
    return Tokenizer.from_file(path)


class Coder:
    """Tokenizes word by word through a cache; gives the same ids as the tokenizer on the whole text (single spaces only)."""

    def __init__(self, path=os.path.join(MODEL_DIR, "tokenizer.json")):
        self.tokenizer = Tokenizer.from_file(path)
        self._word = functools.lru_cache(maxsize=200_000)(lambda w: tuple(self.tokenizer.encode(w, add_special_tokens=False).ids))

    def __call__(self, text):
        ids = []
        for word in re.findall(r"\n| ?[^ \n]+", text):
            ids.extend(self._word(word))
        return ids


# --------------------------------------------------------------------------- filler as token arrays
class Filler:
    """A pool of tokenized sentences (each with its leading space), drawn as contiguous runs or shuffled."""

    def __init__(self, tokens, starts):
        self.tokens, self.starts = tokens, starts

    @classmethod
    def from_sentences(cls, coder, sentences):
        parts = [coder(" " + s) for s in sentences]
        lengths = np.array([len(p) for p in parts])
        return cls(np.concatenate([np.array(p, dtype=np.int16) for p in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def sentence(self, index):
        return self.tokens[self.starts[index]:self.starts[index + 1]]

    def sentences(self, rng, tokens_needed, repeat=0.0):
        """A list of sentences with at least `tokens_needed` tokens in all; a share `repeat` of them was there before."""
        out, total, index = [], 0, rng.randrange(len(self.starts) - 1)
        while total < tokens_needed:
            if rng.random() < 0.3:
                index = rng.randrange(len(self.starts) - 1)
            if out and rng.random() < repeat:
                sentence = rng.choice(out)
            else:
                sentence = self.sentence(index % (len(self.starts) - 1))
                index += 1
            out.append(sentence)
            total += len(sentence)
        return out


def build_fillers(coder, work_dir, grammar_count=150_000, seed=5):
    rng = random.Random(seed)
    grammar = Filler.from_sentences(coder, [filler.grammar_sentence(rng, lambda: mention(rng)) for _ in range(grammar_count)])
    debian = Filler.from_sentences(coder, filler.debian_sentences()) if os.path.isdir("/usr/share/man/man1") else grammar
    np.savez(os.path.join(work_dir, "filler.npz"), grammar_tokens=grammar.tokens, grammar_starts=grammar.starts,
             debian_tokens=debian.tokens, debian_starts=debian.starts)


def load_fillers(work_dir):
    z = np.load(os.path.join(work_dir, "filler.npz"))
    return Filler(z["grammar_tokens"], z["grammar_starts"]), Filler(z["debian_tokens"], z["debian_starts"])


# --------------------------------------------------------------------------- documents
def lay_out(rng, coder, facts, filler_pool, tokens_total, prefix, repeat=0.0):
    """Token ids, filler flags and sentence starts of a document of exactly `tokens_total` tokens (prefix included)."""
    needles = [coder(" " + s) for f in facts for s in f.statements(rng)]
    # Values of one fact must keep their order in the document: shuffle needles, then sort each fact's slots.
    owner = [i for i, f in enumerate(facts) for _ in f.values]
    order = list(range(len(needles)))
    rng.shuffle(order)
    for i in range(len(facts)):
        slots = [s for s, n in enumerate(order) if owner[n] == i]
        for slot, needle in zip(slots, [n for n in range(len(needles)) if owner[n] == i]):
            order[slot] = needle
    room = tokens_total - len(prefix) - sum(map(len, needles))
    assert room >= 0, "needles do not fit"
    sentences = filler_pool.sentences(rng, max(room, 1), repeat) if room else []
    slots = sorted(rng.randrange(len(sentences) + 1) for _ in needles)
    tokens, is_filler, starts, used = list(prefix), [False] * len(prefix), [], 0
    def add(ids, flag):
        starts.append(len(tokens))
        tokens.extend(ids)
        is_filler.extend([flag] * len(ids))
    next_needle = 0
    for s in range(len(sentences) + 1):
        while next_needle < len(slots) and slots[next_needle] == s:
            add(needles[order[next_needle]], False)
            next_needle += 1
        if s < len(sentences):
            ids = sentences[s].tolist()[:room - used]
            used += len(ids)
            if ids:
                add(ids, True)
    return tokens, is_filler, starts


def branch_tokens(coder, question, answer):
    """Ids of '\\n' + question + <|assistant|>, and of the answer with its end."""
    return coder("\n" + question) + [ASSISTANT_ID], coder(answer) + [EOS_ID]


class BatchMaker:
    """Packed training batches of fixed shape: `doc_len` document tokens followed by `branch_len` tokens of branches."""

    def __init__(self, coder, fillers, seed, doc_len, branch_len, batch, tasks="single", repeat=0.0, gaps=0.88, shares=(0.25, 0.5, 0.75), boost=1.0):
        self.rng, self.coder, self.fillers = random.Random(seed), coder, fillers
        self.doc_len, self.branch_len, self.batch, self.tasks = doc_len, branch_len, batch, tasks
        self.repeat, self.gaps, self.shares, self.boost = repeat, gaps, shares, boost

    # tasks: "single" asks for one value; "several" also asks for two or three keys at once; "all" adds keys with several values.
    def facts(self, budget):
        rng = self.rng
        hard = rng.random() < 0.6
        share = rng.choice(self.shares)  # of the document, for needles
        count = max(1, int(budget * share / 21))
        keys = random_keys(rng, count, "train", hard)
        facts, used = [], 0
        for key in keys:
            values = rng.choice((2, 3, 4)) if self.tasks == "all" and rng.random() < 0.12 else 1
            fact = Fact(rng, key, values)
            size = sum(len(self.coder(" " + s)) for s in fact.statements(rng)) + 3 * values  # statements are redrawn later
            if used + size > budget:
                break
            facts.append(fact)
            used += size
        return facts

    def question(self, facts):
        rng = self.rng
        if self.tasks in ("several", "all") and rng.random() < 0.15:
            fact = rng.choice(facts)
            peers = [f for f in facts if f.attribute == fact.attribute and len(f.values) == 1]
            if len(peers) >= 2:
                return several_question(rng, rng.sample(peers, min(len(peers), rng.choice((2, 2, 3)))))
        return single_question(rng, rng.choice(facts))

    def sample(self):
        rng, coder = self.rng, self.coder
        pool = self.fillers[0] if rng.random() < 0.6 else self.fillers[1]
        for _ in range(100):
            facts = self.facts(self.doc_len - 30)
            if not facts:
                continue
            first = self.question(facts)
            prefix, front = [BOS_ID, USER_ID], 0
            if rng.random() < 0.34:
                prefix = prefix + coder(first[0] + "\n")
                front = len(prefix)
            try:
                tokens, is_filler, starts = lay_out(rng, coder, facts, pool, self.doc_len, prefix, self.repeat)
                break
            except AssertionError:
                continue
        # Branches, as many as fit.
        branch_tokens_all, branch_ids, branch_offsets, answer_spans = [], [], [], []
        asked = first
        while True:
            ask, answer = branch_tokens(coder, asked[0], asked[1])
            at = len(branch_tokens_all)
            if at + len(ask) + len(answer) > self.branch_len:
                break
            branch_tokens_all += ask + answer
            branch_ids += [len(answer_spans) + 1] * (len(ask) + len(answer))
            branch_offsets += range(len(ask) + len(answer))
            answer_spans.append((at + len(ask) - 1, at + len(ask) + len(answer) - 1))
            asked = self.question(facts)
        pad = self.branch_len - len(branch_tokens_all)
        branch_ids += [0] * pad
        branch_offsets += [0] * pad
        branch_tokens_all += [EOS_ID] * pad
        # Positions: contiguous inside a chunk, random gaps between chunks (PoSE).
        used = self.doc_len + 64
        span = used
        chunk = np.zeros(self.doc_len, dtype=np.int64)
        position = np.arange(self.doc_len)
        if rng.random() < self.gaps:
            span = int(np.exp(rng.uniform(np.log(used + 1), np.log(POSITIONS))))
            chunks = rng.choice((2, 3, 4, 5, 6))
            cuts = sorted(rng.sample(range(1, len(starts)), min(chunks - 1, len(starts) - 1))) if len(starts) > 1 else []
            cuts = [starts[c] for c in cuts]
            if cuts:
                ends = sorted(rng.randrange(span - used + 1) for _ in cuts)
                for cut, total_gap in zip(cuts, ends):
                    chunk[cut:] += 1
                    position[cut:] = np.arange(cut, self.doc_len) + total_gap
        branch_position = position[-1] + 1 + np.array(branch_offsets)
        return dict(tokens=tokens + branch_tokens_all, is_filler=is_filler, chunk=chunk, position=np.concatenate([position, branch_position]),
                    branch=branch_ids, front=front, front_visible=rng.random() < 0.5, weight=max(1.0, self.boost * span / used), spans=answer_spans)

    def make(self):
        """Arrays of one batch. `target` is -100 where nothing is learnt; `weight` is how many tokens a filler token stands for."""
        samples = [self.sample() for _ in range(self.batch)]
        total = self.doc_len + self.branch_len
        target = np.full((self.batch, total), -100, dtype=np.int64)
        for b, s in enumerate(samples):
            tokens = s["tokens"]
            for start, end in s["spans"]:
                for t in range(self.doc_len + start, self.doc_len + end):
                    target[b, t] = tokens[t + 1]
        stack = lambda key, dtype: np.stack([np.asarray(s[key], dtype=dtype) for s in samples])
        return dict(tokens=stack("tokens", np.int64), is_filler=stack("is_filler", bool), chunk=stack("chunk", np.int64),
                    position=stack("position", np.int64), branch=stack("branch", np.int64), front=stack("front", np.int64),
                    front_visible=stack("front_visible", bool), weight=stack("weight", np.float32), target=target)


# --------------------------------------------------------------------------- evaluation documents
def evaluation_case(coder, grammar, task, tokens_total, seed, needles=None, split="test"):
    """One document with its questions: (document ids incl. BOS and <|user|>, [(question, answer, values)])."""
    rng = random.Random(f"{task}/{tokens_total}/{seed}")
    count = needles or {"single": 1, "multikey": max(8, min(64, tokens_total // 128)), "multivalue": 4, "multiquery": 8}[task]
    keys = random_keys(rng, count, split, hard=task != "single")
    if task == "multiquery":
        attribute = rng.choice(ATTRIBUTES)
        modifiers = [random_modifier(rng) for _ in range(4)]
        keys = []
        while len(keys) < count:
            key = (attribute, random_entity(rng, split, rng.choice(modifiers)))
            if key not in keys:
                keys.append(key)
    facts = [Fact(rng, k, rng.choice((2, 3, 4)) if task == "multivalue" and i == 0 else 1) for i, k in enumerate(keys)]
    tokens, _, _ = lay_out(rng, coder, facts, grammar, tokens_total, [BOS_ID, USER_ID])
    if task == "multiquery":
        questions = [several_question(rng, rng.sample(facts, rng.choice((2, 3)))) for _ in range(4)]
    elif task == "multivalue":
        questions = [single_question(rng, facts[0])]
    else:
        questions = [single_question(rng, f) for f in rng.sample(facts, min(len(facts), 16))]
    return tokens, questions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work-dir", default="work")
    parser.add_argument("--train-tokenizer", action="store_true", help="replaces tokenizer.json; the shipped weights need the shipped one")
    arguments = parser.parse_args()
    os.makedirs(arguments.work_dir, exist_ok=True)
    tokenizer_path = os.path.join(MODEL_DIR, "tokenizer.json")
    if arguments.train_tokenizer:
        train_tokenizer(tokenizer_path, filler.debian_sentences())
    build_fillers(Coder(tokenizer_path), arguments.work_dir)


if __name__ == "__main__":
    main()

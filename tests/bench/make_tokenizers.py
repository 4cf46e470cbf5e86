#!/usr/bin/env python3
"""Writes what tokenizer_bench.cpp measures with, all of it generated: two runs give the same files.

Usage: make_tokenizers.py FOLDER [--compare], with the versions in tests/fixtures/requirements.txt; takes a few minutes.

  document.txt      10 MB: words of a made-up language by Zipf's law, names, numbers, punctuation, code, some Chinese and emoji
  tokenizer.json    byte-level BPE with 128,000 tokens and Llama 3's pre-tokenizer, trained on more of the same
  tokenizer.model   SentencePiece BPE with 32,000 pieces and byte fallback, as Llama 2's, trained on the same

--compare prints how long the reference implementations take for document.txt on one core.
"""

import itertools
import os
import pathlib
import random
import sys
import time

os.environ["RAYON_NUM_THREADS"] = os.environ["TOKENIZERS_PARALLELISM"] = "1"

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DOCUMENT_BYTES = 10_000_000
WORDS = 300_000
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def lexicon():
    r = random.Random(1)
    starts = ["", *"bcdfghklmnprstvwz", "st", "tr", "pl", "sh", "ch", "gr", "br"]
    ends = ["", "", "", *"nrstlmd", "nt", "st", "ng", "rk", "ll"]
    words = {}
    while len(words) < WORDS:
        words["".join(r.choice(starts) + r.choice("aeiou") + r.choice(ends) for _ in range(r.choice((1, 2, 2, 3, 3, 4))))] = None
    return sorted(words, key=len)


def text(words, cumulated, size, seed):
    r = random.Random(seed)
    parts, total = [], 0
    while total < size:
        drawn = r.choices(words, cum_weights=cumulated, k=r.randint(6, 18))
        drawn[0] = drawn[0].title()
        kind = r.random()
        if kind < 0.06:
            line = f"    {drawn[1]}_{drawn[2]}[{r.randrange(100)}] = {drawn[3]}({drawn[4]}, 0x{r.randrange(1 << 16):x});\n"
        elif kind < 0.08:
            line = "".join(chr(r.randrange(0x4E00, 0x5200)) for _ in range(r.randint(8, 30))) + "。\n"
        elif kind < 0.09:
            line = " ".join(drawn) + r.choice([" 😀\n", " 👍🏽 🇩🇪\n"])
        else:
            if kind < 0.3:
                drawn[3] = str(r.randrange(100_000))
            drawn[-2] += r.choice([",", ";", "'s", ""])
            line = " ".join(drawn) + r.choice([". ", ". ", "? ", ".\n\n"])
        parts.append(line)
        total += len(line.encode())
    return "".join(parts)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if "--compare" in sys.argv:
        document = (folder / "document.txt").read_text(encoding="utf-8")
        byte_level = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        for name, encode in (("tokenizers", lambda: byte_level.encode(document).ids), ("sentencepiece", lambda: pieces.encode(document))):
            for _ in range(3):
                begin = time.process_time()
                count = len(encode())
                seconds = time.process_time() - begin
                print(f"{name}: {count} tokens in {seconds:.2f} s of CPU time, {len(document.encode()) / seconds / 1e6:.1f} MB/s")
        return
    words = lexicon()
    cumulated = list(itertools.accumulate(1 / (i + 10) for i in range(WORDS)))
    (folder / "document.txt").write_text(text(words, cumulated, DOCUMENT_BYTES, 2), encoding="utf-8")
    training = text(words, cumulated, 4 * DOCUMENT_BYTES, 3)

    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level.decoder = decoders.ByteLevel()
    byte_level.train_from_iterator(training.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=128_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"]))
    assert byte_level.get_vocab_size() == 128_000, byte_level.get_vocab_size()
    byte_level.save(str(folder / "tokenizer.json"))

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training[:DOCUMENT_BYTES].splitlines()), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=32_000, byte_fallback=True, character_coverage=0.9995, split_digits=True, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity", num_threads=1, minloglevel=2)
    (folder / "tokenizer.vocab").unlink()


if __name__ == "__main__":
    main()

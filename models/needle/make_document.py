#!/usr/bin/env python3
"""Writes a document of a wanted length, with questions about it: documents/NAME.txt and documents/NAME.questions.jsonl.

    python3 models/needle/make_document.py --tokens 65536 --name archive-64k
    python3 models/needle/make_document.py --tokens 65536 --name archive-64k --check build/release/baton

The document has exactly --tokens tokens, the two of the prompt's opening (<|begin_of_text|><|user|>) included. It is one line of
sentences: filler of training/filler.py, and up to 64 needles of training/needles.py that share attributes, places and objects, so
that a question must match its whole key. It starts with a space and has no line break, as the model was trained. One seed always
gives the same files. A line of the questions file is {"question": ..., "answer": ...}; the answer is what a person reads, without
the space that the model puts in front of words. With --check only those questions are kept that BATON answers right with full attention.

Python's standard library is enough.
"""
import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(HERE, "training"))
import filler
import needles

OPENING_TOKENS = 2
TOKENS_MIN, TOKENS_MAX = 1024, 131072 - 128  # the model has 131072 positions; question and answer need some


class TokenCounter:
    """Counts the tokens of ASCII text as tokenizer.json has them: Llama-3's split, then byte-pair merges, by rank, in each piece."""

    PIECE = re.compile(r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}|"
                       r" ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            merges = json.load(file)["model"]["merges"]
        self.rank = {tuple(pair): i for i, pair in enumerate(merges)}
        self.cache = {}

    def __call__(self, text):
        return sum(self._piece(piece) for piece in self.PIECE.findall(text))

    def _piece(self, piece):
        if piece not in self.cache:
            parts = list(piece.replace(" ", "\u0120").replace("\n", "\u010a"))  # the byte-level alphabet's space and line break
            while len(parts) > 1:
                best = min(range(len(parts) - 1), key=lambda i: self.rank.get((parts[i], parts[i + 1]), len(self.rank)))
                if (parts[best], parts[best + 1]) not in self.rank:
                    break
                parts[best:best + 2] = [parts[best] + parts[best + 1]]
            self.cache[piece] = len(parts)
        return self.cache[piece]


def make_facts(rng, count):
    """Facts with hard keys (see needles.random_keys), some of them with numbers as values and some with words."""
    while True:
        facts = [needles.Fact(rng, key) for key in needles.random_keys(rng, count, "test", hard=True)]
        words = sum(fact.attribute in needles.WORD_ATTRIBUTES for fact in facts)
        if len(facts) == count and 0 < words < count:
            return facts


def make_filler(rng, count_tokens, tokens):
    """Sentences, each with its leading space, of exactly `tokens` tokens in all."""
    sentences = []
    while tokens > 0:
        sentence = " " + filler.grammar_sentence(rng, lambda: needles.mention(rng))
        left = tokens - count_tokens(sentence)
        if left == 0 or left >= 20:  # 20 tokens or more can always be filled by one sentence or two
            sentences.append(sentence)
            tokens = left
    return sentences


def make_document(rng, count_tokens, tokens):
    """The text, and a (question, answer) for each needle, in random order."""
    facts = make_facts(rng, min(64, tokens // 128))
    statements = [" " + statement for fact in facts for statement in fact.statements(rng)]
    room = tokens - OPENING_TOKENS - sum(map(count_tokens, statements))
    sentences = make_filler(rng, count_tokens, room)
    for statement in statements:
        sentences.insert(rng.randrange(len(sentences) + 1), statement)
    text = "".join(sentences)
    assert text.isascii() and count_tokens(text) == tokens - OPENING_TOKENS
    rng.shuffle(facts)
    return text, [(needles.single_question(rng, fact)[0], fact.values[0]) for fact in facts]


def answer_of(baton, document, question):
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        command = [os.path.abspath(baton), "run", "--config", "configs/quickstart.yaml", "--strategy", "full", "--ranks", "1",
                   "--document", os.path.abspath(document), "--question", question, "--quiet", "--json", result]
        status = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
        if status != 0:
            sys.exit(f"make_document.py: `{shlex.join(command)}` ended with status {status}")
        with open(result, encoding="utf-8") as file:
            return json.load(file)["answer"].strip()


def right_questions(baton, document, candidates, wanted):
    """The first `wanted` candidates that BATON answers right."""
    kept = []
    for question, answer in candidates:
        if len(kept) == wanted:
            break
        given = answer_of(baton, document, question)
        print(f"{'kept   ' if given == answer else 'dropped'}  {question}  {answer}" + ("" if given == answer else f"  (answered: {given})"), flush=True)
        if given == answer:
            kept.append((question, answer))
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, required=True, help=f"length of the document, {TOKENS_MIN} to {TOKENS_MAX}")
    parser.add_argument("--name", required=True, help="name of the files, without ending")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--check", metavar="BATON", help="keep only questions that this baton answers right with full attention")
    parser.add_argument("--folder", default=os.path.join(HERE, "documents"), help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    if not TOKENS_MIN <= arguments.tokens <= TOKENS_MAX:
        parser.error(f"--tokens must lie between {TOKENS_MIN} and {TOKENS_MAX}")
    if os.path.basename(arguments.name) != arguments.name or not arguments.name:
        parser.error("--name is a file name without folders")
    if arguments.check and not os.access(arguments.check, os.X_OK):
        parser.error(f"--check: {arguments.check} is not an executable file")
    needle_count = min(64, arguments.tokens // 128)
    if not 1 <= arguments.questions <= needle_count:
        parser.error(f"--questions must lie between 1 and {needle_count}, the number of needles in {arguments.tokens} tokens")

    count_tokens = TokenCounter(os.path.join(HERE, "tokenizer.json"))
    text, questions = make_document(random.Random(arguments.seed), count_tokens, arguments.tokens)
    os.makedirs(arguments.folder, exist_ok=True)
    base = os.path.join(arguments.folder, arguments.name)
    with open(base + ".txt", "w", encoding="ascii", newline="") as file:
        file.write(text)
    if arguments.check:
        questions = right_questions(arguments.check, base + ".txt", questions, arguments.questions)
    questions = questions[:arguments.questions]
    with open(base + ".questions.jsonl", "w", encoding="ascii", newline="") as file:
        for question, answer in questions:
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
    print(f"{base}.txt: {arguments.tokens} tokens, {len(text)} bytes; {len(questions)} questions")
    if len(questions) < arguments.questions:
        sys.exit(f"make_document.py: only {len(questions)} of {arguments.questions} questions were answered right; try another --seed")


if __name__ == "__main__":
    main()

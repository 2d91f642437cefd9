"""Traces for tests: searches over random letters, and files written line by line."""

import json
import random
from types import SimpleNamespace

import torch

from w2s import ReplayProposer, search
from w2s.cli.trace_file import TraceFile, trace_header

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EOS = 26


def decode(tokens):
    return "".join(LETTERS[t] for t in tokens if t < EOS)


class LetterScorer:
    """Each token has a worth of its own; a row's score is the sum."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.worth = torch.randn(EOS + 1, generator=generator, dtype=torch.float64)

    def start(self, prompts, rows_per_prompt):
        self.shape = (len(prompts), rows_per_prompt)
        self.total = torch.zeros(len(prompts) * rows_per_prompt, dtype=torch.float64)

    def score(self, chunk):
        columns = torch.arange(chunk.tokens.shape[1])
        own = columns < chunk.lengths[:, None]
        self.total = self.total + (self.worth[chunk.tokens] * own).sum(1)
        return self.total

    def reorder(self, parent, share):
        self.total = self.total.view(self.shape).gather(1, parent).flatten()


def recorded(path, plan, *, prompts=1, rounds=6, seed=0, eos=0.0, method="cbs"):
    """A search over random letters, its trace in `path`, and what `on_chunk` was given."""
    draw = random.Random(seed)
    length = min(plan.chunk_length, plan.max_new_tokens)

    def token():
        return EOS if draw.random() < eos else draw.randrange(EOS)

    rows = prompts * plan.pool
    recording = [[[token() for _ in range(length)] for _ in range(rows)] for _ in range(rounds)]
    names = [f"prompt {p}" for p in range(prompts)]
    chunks = []
    with TraceFile(str(path), trace_header(plan, method, {"large": "L"})) as trace:

        def on_chunk(chunk):
            chunks.append(chunk)
            trace.on_chunk(chunk)

        trace.start(0, names, decode)
        tokenizer = SimpleNamespace(decode=lambda ids, **_: decode(ids))
        proposer = ReplayProposer(recording, eos_token_id=EOS, tokenizer=tokenizer)
        found = search(names, proposer, LetterScorer(seed), plan, on_chunk=on_chunk)
        trace.finish(found)
        trace.complete()
    return SimpleNamespace(chunks=chunks, results=found)


def winners_path(chunks, prompt=0):
    """(round, text gained, score) of the winner and its ancestors, from the raw rounds alone."""
    size = len(chunks[0].scores[prompt])
    last = max(i for i, c in enumerate(chunks) if i == 0 or not chunks[i - 1].frozen[prompt])
    scores = chunks[last].scores[prompt]
    row = scores.index(max(scores))
    path = []
    for number in range(last, -1, -1):
        tokens = chunks[number].tokens[prompt * size + row]
        path.append((number + 1, decode(tokens), chunks[number].scores[prompt][row]))
        if number:
            row = chunks[number - 1].parents[prompt][row]
    return path[::-1]


def written(path, texts, *, prompt="p", result=True):
    """A trace of one round with these texts."""
    plan = {"width": 1, "samples": len(texts), "chunk": None, "max_new_tokens": 4}
    lines = [
        {"kind": "header", "format": "w2s-trace", "version": 1, "method": "bon", "plan": plan},
        {"kind": "prompt", "prompt": 0, "text": prompt},
        {
            "kind": "chunk", "prompt": 0, "chunk": 0, "written": 4, "seconds": 0.1,
            "frozen": False, "tokens": [[1]] * len(texts), "texts": texts,
            "scores": [-float(i) for i in range(len(texts))], "finished": [False] * len(texts),
            "parents": [0] * len(texts), "valid": [True],
        },
    ]  # fmt: skip
    if result:
        lines.append({"kind": "result", "prompt": 0, "row": 0, "text": texts[0], "score": 0.0,
                      "finished": False, "finish_reason": "length"})  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines

"""Chunk-level beam search over recorded chunks, written from the paper (arXiv 2405.19262, section
4.2) in plain Python: lists, floats, math.exp. It imports nothing of the code it judges."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# log p_tuned - log p_untuned of a token, given the prompt and the response before it.
LogRatio = Callable[[Sequence[int], Sequence[int], int], float]


@dataclass
class Row:
    tokens: list[int] = field(default_factory=list)
    score: float = 0.0
    finished: bool = False
    # Copies of one finished row bear its number.
    clone: int | None = None

    def copy(self) -> "Row":
        return Row(list(self.tokens), self.score, self.finished, self.clone)


def log_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    total = math.fsum(math.exp(z - top) for z in logits)
    return [z - top - math.log(total) for z in logits]


def slow_cbs(
    prompts: Sequence[Sequence[int]],
    rounds: Sequence[Sequence[Sequence[int]]],
    width: int,
    samples: int,
    log_ratio: LogRatio,
    *,
    eos: int,
    clones: bool = False,
    stops: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> list[list[Row]]:
    """The last scored pool of each prompt: what counts, best first.

    `stops(tokens)`: whether a response ends behind these tokens for another reason than EOS.
    """
    return [
        _one_prompt(prompt, p, rounds, width, samples, log_ratio, eos, clones, stops)
        for p, prompt in enumerate(prompts)
    ]


def _one_prompt(
    prompt: Sequence[int],
    p: int,
    rounds: Sequence[Sequence[Sequence[int]]],
    width: int,
    samples: int,
    log_ratio: LogRatio,
    eos: int,
    clones: bool,
    stops: Callable[[Sequence[int]], bool],
) -> list[Row]:
    size, born = width * samples, 0
    rows = [Row() for _ in range(size)]
    ranked: list[Row] = []
    for number, chunk in enumerate(rounds):
        for c, row in enumerate(rows):
            if row.finished:
                continue
            for token in chunk[p * size + c]:
                if token == -1:
                    row.finished = True
                else:
                    row.score += log_ratio(prompt, row.tokens, token)
                    row.tokens.append(token)
                    row.finished = token == eos or stops(row.tokens)
                if row.finished:
                    row.clone, born = born, born + 1
                    break
        by_score = sorted(range(size), key=lambda c: (-rows[c].score, c))
        counted, losers, seen = [], [], set()
        for c in by_score:
            clone = rows[c].clone
            if not clones and clone is not None and clone in seen:
                losers.append(c)
            else:
                counted.append(c)
                seen.add(clone)
        ranked = [rows[c].copy() for c in counted]
        kept = counted[:width]
        if all(rows[c].finished for c in kept) or number == len(rounds) - 1:
            break
        places = (counted + losers)[:width]
        rows = [rows[c].copy() for c in places for _ in range(samples)]
    return ranked

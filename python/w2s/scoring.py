"""`score`: what a pair thinks of given responses, token by token (arXiv 2405.19262, equation 5)."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from w2s.adapters import require_two
from w2s.checkpoints import lacks_tokenizer
from w2s.errors import ModelError, PromptError, SearchError
from w2s.memory import memory_errors
from w2s.models import Model, load
from w2s.prompts import Prompt
from w2s.reader import Reader
from w2s.vocabulary import require_same_tokens
from w2s_kernels import linear_logprob_diff, segment_score

# Text, or token ids as `Candidate.tokens` has them.
Response = str | Sequence[int]

# Rows · tokens of a batch: of caches, about half a GiB for each model of 1 B parameters.
BATCH_TOKENS = 16384
# Tokens that one forward takes: bounds its memory, and is long enough to be efficient.
_TOKENS_PER_FORWARD = 4096


@dataclass(frozen=True)
class ResponseScore:
    """A response's score in nats.

    total: Σ_t [log p_tuned(y_t) − log p_untuned(y_t)], added left to right in float64; 0 for an
    empty response. per_token: the differences, one a token. tokens: what was scored, with the end
    token when there is one.
    """

    total: float
    per_token: list[float]
    tokens: list[int]

    @property
    def n_tokens(self) -> int:
        """How many tokens were scored; total / n_tokens is the mean."""
        return len(self.tokens)


class EncodedRow(NamedTuple):
    """A response and its prompt as tokens, the prompt as each model sees it; name for messages."""

    name: str
    prompts: tuple[list[int], list[int]]
    tokens: list[int]


class _Pool(NamedTuple):
    """One prompt, as each model sees it, with the responses to it: places in the input, tokens."""

    prompts: tuple[list[int], list[int]]
    places: list[int]
    responses: list[list[int]]

    @property
    def longest(self) -> int:
        return max(map(len, self.responses))

    @property
    def length(self) -> int:
        """Slots of a row, in the model whose prompt is the longer one."""
        return max(map(len, self.prompts)) + self.longest


def score(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    pair: tuple[Any, Any],
    *,
    eos: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    **settings: Any,
) -> list[ResponseScore]:
    """Scores each response to the prompt in the same place; the results are in the input's order.

    prompts: as for `search`; each model sees them its own way.
    responses: text, or token ids. Text is tokenized alone, without special tokens, and put behind
      each model's own prompt: that is how a search makes its responses, whereas tokenizing prompt
      and response together may merge tokens across the seam. The token ids of a search's
      `Candidate` get the search's own score (to the rounding of the forwards).
    pair: (tuned, untuned): `Model`s, or whatever `load` takes. A folder without tokenizer files is
      read with its partner's tokenizer.
    eos: also score the end token behind every response that does not have one.
    batch_tokens: rows · tokens of a batch, which bounds the memory of the caches. A prompt with
      several responses is read once a batch.
    settings: `load`'s keywords, for both models unless they are loaded already.

    Raises `PromptError` for a row that cannot be read or is too long, naming it; `SearchError` for
    lists that do not fit together and for a score that is NaN; `ModelError` for two devices;
    `VocabularyError` when the two read different tokens.
    """
    for name, value in (("prompts", prompts), ("responses", responses)):
        if isinstance(value, str):
            raise SearchError(f"{name} is one string; score takes a list of {name}")
    if len(prompts) != len(responses):
        raise SearchError(
            f"there are {len(prompts)} prompts and {len(responses)} responses; give one response a "
            "prompt (a prompt may be repeated)"
        )
    models = load_pair(pair, **settings)
    rows = [
        encode_row(models, prompt, response, eos, f"prompt {row}", f"response {row}")
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    return score_rows(rows, models, batch_tokens)


def score_rows(
    rows: Sequence[EncodedRow], models: tuple[Model, Model], batch_tokens: int = BATCH_TOKENS
) -> list[ResponseScore]:
    """`score` of rows that are encoded already, by models that were loaded by `load_pair`."""
    if batch_tokens < 1:
        raise SearchError(f"batch_tokens is {batch_tokens}; it must be a whole number >= 1")
    found = [ResponseScore(0.0, [], []) for _ in rows]
    lower = "batch_tokens, shorten the prompts, or use a smaller dtype"
    with torch.inference_mode(), memory_errors("scoring", lower):
        for batch in _batches(_pools(rows), batch_tokens):
            places = [place for pool in batch for place in pool.places]
            for place, diff, total in zip(places, *_differences(batch, models), strict=True):
                found[place] = _result(diff, total, rows[place])
    return found


def load_pair(pair: Any, *, tokenizer: Any = None, **settings: Any) -> tuple[Model, Model]:
    """(tuned, untuned) as `Model`s; a folder without tokenizer files borrows its partner's.

    Raises `SearchError` for what is no pair, `ModelError` for what cannot be loaded and for two
    devices, `VocabularyError` when the two read different tokens.
    """
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise SearchError(f"pair must be (tuned, untuned), got {pair!r:.80}")
    without = [lacks_tokenizer(member) for member in pair]
    if all(without) and tokenizer is None:
        raise ModelError(
            f"neither {pair[0]} nor {pair[1]} has tokenizer files; pass tokenizer= (one that "
            "transformers loaded)"
        )
    models: dict[int, Model] = {}
    lent = tokenizer
    for side in sorted((0, 1), key=without.__getitem__):  # the one who can lend comes first
        member = pair[side]
        if not isinstance(member, Model):
            own = lent if without[side] else tokenizer
            member = load(member, tokenizer=own, **settings)
        lent = member.tokenizer if lent is None else lent
        models[side] = member
    tuned, untuned = models[0], models[1]
    require_same_tokens(tuned, untuned)
    require_two(tuned, untuned)
    if tuned.device != untuned.device:
        raise ModelError(
            f"the tuned model is on {tuned.device}, the untuned on {untuned.device}; "
            "load both on one device"
        )
    return tuned, untuned


def encode_row(
    models: tuple[Model, Model],
    prompt: Prompt,
    response: Response,
    eos: bool,
    prompt_name: str,
    response_name: str,
) -> EncodedRow:
    """One row as tokens; `PromptError` naming it when a model cannot read it."""
    tokens = _tokens(response, models, eos, response_name)
    seen = [_prompt_ids(model, prompt, len(tokens), prompt_name) for model in models]
    return EncodedRow(response_name, (seen[0], seen[1]), tokens)


def _tokens(response: Response, models: tuple[Model, Model], eos: bool, name: str) -> list[int]:
    """A response as token ids that both models know; with an end token when asked for one."""
    model = models[0]
    if isinstance(response, str):
        if model.tokenizer is None:
            raise PromptError(
                f"{name} is text, but the tuned model was given without a tokenizer; "
                "load it as (model, tokenizer) or pass token ids"
            )
        ids = list(model.tokenizer(response, add_special_tokens=False)["input_ids"])
    elif isinstance(response, Sequence) and all(
        isinstance(token, int) and not isinstance(token, bool) for token in response
    ):
        ids = [int(token) for token in response]
    else:
        raise PromptError(
            f"{name} is {type(response).__name__} ({response!r:.60}); a response is a "
            "string or a list of token ids"
        )
    vocab = min(member.vocab for member in models)
    for token in ids:
        if not 0 <= token < vocab:
            raise PromptError(
                f"{name} has the token id {token}, outside [0, {vocab}) of {model.name}"
            )
    if eos and not (ids and ids[-1] in model.eos_token_ids):
        ids.append(_end_token(model))
    return ids


def _end_token(model: Model) -> int:
    own = getattr(model.tokenizer, "eos_token_id", None)
    if own is not None:
        return int(own)
    if not model.eos_token_ids:
        raise ModelError(f"{model.name} has no end token; leave eos out")
    return min(model.eos_token_ids)


def _prompt_ids(model: Model, prompt: Prompt, response: int, name: str) -> list[int]:
    ids = model.style.encode(prompt, model.tokenizer, name)
    if model.context is not None and len(ids) + response > model.context:
        raise PromptError(
            f"{name} has {len(ids)} tokens, and with the {response} of its response that is "
            f"more than the {model.context} positions of {model.name}; shorten one of them"
        )
    if not all(0 <= token < model.vocab for token in ids):
        raise PromptError(f"{name} has token ids outside [0, {model.vocab}) of {model.name}")
    return ids


def _pools(rows: Sequence[EncodedRow]) -> list[_Pool]:
    """The rows that have something to score, those of one prompt together."""
    pools: dict[tuple[tuple[int, ...], ...], _Pool] = {}
    for place, row in enumerate(rows):
        if row.tokens:
            pool = pools.setdefault(tuple(map(tuple, row.prompts)), _Pool(row.prompts, [], []))
            pool.places.append(place)
            pool.responses.append(row.tokens)
    return list(pools.values())


def _batches(pools: Sequence[_Pool], batch_tokens: int) -> Iterator[list[_Pool]]:
    """Batches of pools with one number of rows each and about one length, within the bound.

    A pool that is too large alone is cut into smaller ones.
    """
    by_rows: dict[int, list[_Pool]] = defaultdict(list)
    for pool in pools:
        order = sorted(range(len(pool.places)), key=lambda row: len(pool.responses[row]))
        most = max(1, batch_tokens // pool.length)
        for begin in range(0, len(order), most):
            part = order[begin : begin + most]
            by_rows[len(part)].append(
                _Pool(
                    pool.prompts,
                    [pool.places[row] for row in part],
                    [pool.responses[row] for row in part],
                )
            )
    for rows, group in by_rows.items():
        batch: list[_Pool] = []
        prompt = longest = 0
        for pool in sorted(group, key=lambda pool: (pool.length, pool.longest)):
            wide = max(prompt, pool.length - pool.longest), max(longest, pool.longest)
            if batch and (len(batch) + 1) * rows * sum(wide) > batch_tokens:
                yield batch
                batch, wide = [], (pool.length - pool.longest, pool.longest)
            batch.append(pool)
            prompt, longest = wide
        yield batch


def _differences(
    batch: Sequence[_Pool], models: tuple[Model, Model]
) -> tuple[list[list[float]], list[float]]:
    """Each row's differences (padded with 0 to the longest) and total: one copy to the host."""
    responses = [response for pool in batch for response in pool.responses]
    rows, longest = len(responses), max(map(len, responses))
    device = models[0].device
    tokens = torch.zeros(rows, longest, dtype=torch.long)
    own = torch.zeros(rows, longest, dtype=torch.bool)  # what is no padding
    for row, response in enumerate(responses):
        tokens[row, : len(response)] = torch.tensor(response)
        own[row, : len(response)] = True
    on_device = tokens.to(device)  # [R, L]
    diff = torch.zeros(rows, longest, device=device)
    readers = [Reader(model) for model in models]
    before = []  # [R] the token that each model reads next: the prompts' last ones may differ
    for side, reader in enumerate(readers):
        prompts = [pool.prompts[side] for pool in batch]
        reader.start(prompts, rows // len(batch), longest, whole=False)
        before.append(reader.last.repeat_interleave(rows // len(batch)))
    piece = max(1, _TOKENS_PER_FORWARD // rows)
    for begin in range(0, longest, piece):
        end = min(begin + piece, longest)
        # Only the responses' own positions meet the heads: [N, D] and no padding.
        place = own[:, begin:end].nonzero().to(device)  # [N, 2]
        at, column = place[:, 0], place[:, 1]
        hidden = []
        for side, reader in enumerate(readers):
            ids = torch.cat((before[side][:, None], on_device[:, begin : end - 1]), dim=1)
            hidden.append(reader.read(ids)[at, column])  # [N, D]
            before[side] = on_device[:, end - 1]
        diff[at, column + begin] = linear_logprob_diff(
            hidden[0], models[0].head, hidden[1], models[1].head, on_device[at, column + begin]
        )  # [N]
    return diff.tolist(), segment_score(diff).tolist()


def _result(diff: list[float], total: float, row: EncodedRow) -> ResponseScore:
    if math.isnan(total):
        raise SearchError(f"the score of {row.name} is NaN; check the models' weights and dtypes")
    return ResponseScore(total, diff[: len(row.tokens)], row.tokens)

"""The search: propose, score, select, re-order (arXiv 2405.19262, algorithm 1), and nothing else.

Chunk-level beam search, best-of-N, sampling and greedy decoding are settings of this one loop. It
asks the host one question, and that late: whether all prompts are done.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from w2s.batching import choose_batch
from w2s.errors import SearchError
from w2s.flags import DeferredFlag
from w2s.memory import LOWER, memory_errors
from w2s.models import Model, load
from w2s.plan import SearchPlan
from w2s.pool import Pool, Selection
from w2s.preflight import fit_before_loading
from w2s.prompts import Prompt
from w2s.proposers import Chunk, Proposer
from w2s.proposers.guided import GuidedProposer
from w2s.proposers.local import LocalProposer
from w2s.results import Candidate, ChunkTrace, FinishReason, SearchResult
from w2s.scorers import Scorer
from w2s.scorers.own import OwnScorer
from w2s.scorers.pair import PairScorer
from w2s.scorers.text_bridge import scorer_for
from w2s.vocabulary import require_same_tokens

OnChunk = Callable[[ChunkTrace], object]


def search(
    prompts: Sequence[Prompt],
    proposer: Proposer,
    scorer: Scorer | None,
    plan: SearchPlan,
    *,
    on_chunk: OnChunk | None = None,
    index: Sequence[int] | None = None,
) -> list[SearchResult]:
    """Searches for each prompt's best response; the results are in the prompts' order.

    proposer, scorer: who writes and who judges; without a scorer, the proposer's own log-prob.
    plan: the same plan that proposer and scorer were made with.
    on_chunk: called after every round with a `ChunkTrace`; costs one copy to the host a round.
    index: each prompt's place in the whole input when this is only a part of it, so that the same
      tokens are drawn however the input is split.

    Raises `PromptError` for prompts that do not fit, `VocabularyError` when proposer and scorer
    read different tokens (a `TextBridgeScorer` may), `SearchError` for an `index` of another
    length, for a proposer or scorer that was made for fewer tokens, for models on two devices, and
    when the memory does not suffice.
    """
    if isinstance(prompts, str):
        raise SearchError("prompts is one string; search takes a list of prompts")
    if index is not None and len(index) != len(prompts):
        raise SearchError(f"index has {len(index)} entries for {len(prompts)} prompts")
    _check_fit(proposer, scorer, plan)
    if not prompts:
        return []
    judge: Scorer = OwnScorer() if scorer is None else scorer
    for member in _members(scorer):
        if getattr(member, "reads_text", False):
            member.bind(proposer)
    rows = f"searching {len(prompts)} prompts ({len(prompts) * plan.pool} rows) at once"
    with torch.inference_mode(), memory_errors(rows, f"their number, {LOWER}"):
        # `index` is passed on only when given, so that plain two-argument proposers work too.
        places: dict[str, Any] = {} if index is None else {"index": index}
        proposer.start(prompts, plan.pool, **places)
        judge.start(prompts, plan.pool)
        pool = Pool(len(prompts), plan, proposer.device)
        _run(pool, proposer, judge, plan, on_chunk)
        return _results(prompts, pool, plan, proposer, judge)


def _run(
    pool: Pool, proposer: Proposer, scorer: Scorer, plan: SearchPlan, on_chunk: OnChunk | None
) -> None:
    began = time.perf_counter()
    all_frozen = DeferredFlag(proposer.device)
    rounds = 0
    while pool.written < plan.max_new_tokens:
        chunk = proposer.extend(min(plan.chunk_length, plan.max_new_tokens - pool.written))
        if chunk.tokens.shape[1] == 0:
            break
        chunk = pool.admit(chunk)
        pool.score.copy_(scorer.score(chunk))
        selection = pool.select()
        if on_chunk is not None:
            on_chunk(_trace(pool, chunk, selection, rounds, began))
        rounds += 1
        all_frozen.write(pool.frozen.all())
        if pool.written == plan.max_new_tokens or all_frozen.read():
            break  # the last round is only ranked, not re-ordered
        proposer.reorder(selection.parent, pool.share)
        scorer.reorder(selection.parent, pool.share)
        pool.reorder(selection.parent)


def _trace(pool: Pool, chunk: Chunk, selection: Selection, rounds: int, began: float) -> ChunkTrace:
    shape = (pool.prompts, pool.size)
    lengths = chunk.lengths.tolist()
    best = pool.score.view(shape).nan_to_num(-torch.inf).amax(1)
    return ChunkTrace(
        chunk=rounds,
        written=pool.written,
        limit=pool.plan.max_new_tokens,
        tokens=[row[:n] for row, n in zip(chunk.tokens.tolist(), lengths, strict=True)],
        scores=pool.score.view(shape).tolist(),
        finished=pool.finished.tolist(),
        parents=selection.parent.tolist(),
        valid=selection.valid.tolist(),
        frozen=pool.frozen.tolist(),
        best=best.tolist(),
        new_tokens=sum(lengths),
        seconds=time.perf_counter() - began,
    )


def _results(
    prompts: Sequence[Prompt], pool: Pool, plan: SearchPlan, proposer: Any, scorer: Any
) -> list[SearchResult]:
    """Brings everything to the host, once."""
    order, valid = (t.tolist() for t in pool.rank())
    tokens, length = pool.tokens.cpu(), pool.length.tolist()
    finished, score = pool.finished.tolist(), pool.score.tolist()
    decode = _decoder(proposer, scorer)

    def candidate(row: int) -> Candidate:
        ids: list[int] = tokens[row, : length[row]].tolist()
        by_eos = bool(ids) and ids[-1] in proposer.eos_token_ids
        reason: FinishReason = "length"
        if finished[row]:
            reason = "stop" if plan.stop and not by_eos else "eos"
        text = decode(ids[:-1] if reason == "eos" and by_eos else ids)
        return Candidate(
            text=_before_stop(text, plan.stop),
            tokens=ids,
            score=score[row],
            finished=finished[row],
            finish_reason=reason,
        )

    return [
        SearchResult(
            prompt=prompt,
            candidates=[
                candidate(p * pool.size + c)
                for c, counts in zip(order[p], valid[p], strict=True)
                if counts
            ],
        )
        for p, prompt in enumerate(prompts)
    ]


def _before_stop(text: str, stop: Sequence[str]) -> str:
    cuts = [at for at in (text.find(s) for s in stop) if at >= 0]
    return text[: min(cuts)] if cuts else text


def _decoder(proposer: Any, scorer: Any) -> Callable[[Sequence[int]], str]:
    """Who can turn tokens into text: the proposer, its model, the scorer, or its model."""
    model, tuned = getattr(proposer, "model", None), getattr(scorer, "tuned", None)
    for owner in (proposer, model, scorer, tuned):
        decode = getattr(owner, "decode", None)
        if decode is not None:
            found: Callable[[Sequence[int]], str] = decode
            return found
    return lambda tokens: ""


def _check_fit(proposer: Any, scorer: Any, plan: SearchPlan) -> None:
    writer = getattr(proposer, "model", None)
    judges = _members(scorer)
    for owner in (proposer, *judges):
        room = getattr(getattr(owner, "plan", plan), "max_new_tokens", plan.max_new_tokens)
        if room < plan.max_new_tokens:
            raise SearchError(
                f"the {type(owner).__name__} was made for {room} new tokens and the search asks "
                f"for {plan.max_new_tokens}; give all of them the same plan"
            )
    if getattr(getattr(proposer, "plan", plan), "beams", plan.beams) != plan.beams:
        raise SearchError(
            f"the {type(proposer).__name__} was made with beams={not plan.beams} and the search "
            f"asks for beams={plan.beams}; give all of them the same plan"
        )
    for judge in judges:
        where = getattr(judge, "device", proposer.device)
        if where != proposer.device:
            raise SearchError(
                f"the proposer is on {proposer.device} and the scorer on {where}; "
                "load all models on one device"
            )
        tuned = getattr(judge, "tuned", None)
        if writer is not None and tuned is not None and not getattr(judge, "reads_text", False):
            require_same_tokens(writer, tuned)


def _members(scorer: Any) -> list[Any]:
    """The scorers that an ensemble is made of, or the one given."""
    inner = getattr(scorer, "scorers", None)
    return [scorer] if inner is None else [m for one in inner for m in _members(one)]


def guide(
    prompts: Sequence[Prompt],
    large: Any,
    pair: tuple[Any, Any] | None,
    plan: SearchPlan | None = None,
    on_chunk: OnChunk | None = None,
    *,
    beta: float | None = None,
    bridge: bool = True,
    batch: int | str = "auto",
    **settings: Any,
) -> list[SearchResult]:
    """Loads the models and searches: `large` writes, `pair` = (tuned, untuned) judges.

    large, the pair's members: whatever `load` takes. settings: `load`'s keywords, for all models
    that are not loaded yet. pair None ranks by the large model's own log-prob. A pair's folder
    without tokenizer files is read with the large model's tokenizer.
    beta: the large model also writes with the pair: `GuidedProposer`, which needs one vocabulary.
      The pair then judges only where there is something to choose (a pool of more than one).
    bridge: a pair with another tokenizer judges the text (`TextBridgeScorer`); False refuses it
      with `VocabularyError`.
    batch: how many prompts are searched at once; "auto" for about 256 rows, or fewer where those
      do not fit into the free memory. The draws do not depend on it. A number that does not fit is
      refused with a `SearchError` before a cache is allocated.

    What `check` finds is found before any weights load: an error is raised (`VocabularyError`,
    `PromptError`, `ModelError`), a warning goes to `warnings.warn`.
    """
    plan = SearchPlan() if plan is None else plan
    if pair is not None and (not isinstance(pair, tuple | list) or len(pair) != 2):
        raise SearchError(f"pair must be (tuned, untuned), got {pair!r:.80}")
    sources = [large, *(pair or ())]
    if beta is not None and pair is None:
        raise SearchError(
            f"beta={beta!r} weighs a pair's difference, and pair is None; give a pair"
        )
    tokenizers = fit_before_loading(
        sources[0], sources[1:], settings, bridge=bridge and beta is None
    )
    models = [
        source if isinstance(source, Model) else load(source, **{**settings, **given})
        for source, given in zip(sources, tokenizers, strict=True)
    ]
    proposer: Proposer = LocalProposer(models[0], plan)
    scorer = _judge(models, plan, bridge)
    if beta is not None:
        proposer = GuidedProposer(models[0], models[1], models[2], plan, beta=beta)
        scorer = scorer if plan.pool > 1 else None
    if isinstance(prompts, str) or not prompts:
        return search(prompts, proposer, scorer, plan, on_chunk=on_chunk)
    at_once = choose_batch(plan, models, prompts, batch).prompts
    found: list[SearchResult] = []
    for first in range(0, len(prompts), at_once):
        part = prompts[first : first + at_once]
        index = range(first, first + len(part))
        found += search(part, proposer, scorer, plan, on_chunk=on_chunk, index=index)
    return found


def _judge(models: Sequence[Model], plan: SearchPlan, bridge: bool) -> Scorer | None:
    if len(models) == 1:
        return None
    writer, tuned, untuned = models
    return scorer_for(writer, tuned, untuned, plan) if bridge else PairScorer(tuned, untuned, plan)

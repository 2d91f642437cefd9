"""Tensor rules: what is done with each tensor, and what is wrong with those that do not match."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from w2s.expo.recipe import Recipe
from w2s.expo.rules.configs import Config
from w2s.expo.rules.pairing import Pair, Pairing, is_embedding, is_head
from w2s.expo.tasks import FLOATING, StoredTensor, TensorTask
from w2s.preflight.finding import Finding, error, note, warning

# Tables that some versions of a model store and others compute; nothing in them is trained.
_TABLE = re.compile(r"(inv_freq|masked_bias|position_ids|(^|\.)h\.\d+\.attn\.bias)$")
Both = tuple[StoredTensor, StoredTensor]
_NAMED = 3  # how many names a sentence gives


@dataclass
class Plan:
    """The tasks, in θ₁'s order, and the tensors that a rule has something to say about.

    Of both sides, as (θ₀'s, θ₁'s): grown and shrunk have a longer vocabulary in θ₁, or in θ₀; the
    shapes or dtypes of `apart` cannot be matched. uncounted: θ₁'s that are not floating-point.
    """

    tasks: list[TensorTask] = field(default_factory=list)
    grown: list[Both] = field(default_factory=list)
    shrunk: list[Both] = field(default_factory=list)
    apart: list[Both] = field(default_factory=list)
    uncounted: list[StoredTensor] = field(default_factory=list)

    @property
    def extrapolated(self) -> list[TensorTask]:
        return [task for task in self.tasks if task.base is not None]


def plan_tasks(recipe: Recipe, pairing: Pairing, configs: tuple[Config, Config]) -> Plan:
    """What the recipe does with each tensor of θ₁. configs: of (θ₀, θ₁)."""
    plan = Plan()
    for pair in pairing.pairs:
        plan.tasks.append(_task(recipe, pair, configs, plan))
    return plan


def _task(recipe: Recipe, pair: Pair, configs: tuple[Config, Config], plan: Plan) -> TensorTask:
    aligned, base = pair.aligned, pair.base
    if aligned.code not in FLOATING:
        plan.uncounted.append(aligned)
        why = f"{aligned.code} is not floating-point"
        return TensorTask(aligned, None, 0.0, aligned.code, why=why)
    code = recipe.dtype_code or aligned.code
    decides = pair.twin or aligned.name
    alpha = recipe.alpha_of(decides)
    why = ""
    if recipe.skips(decides):
        why = "--skip"
    elif base is None:
        why = "not in the base model"
    elif base.code not in FLOATING or not _fit(base, aligned, configs):
        plan.apart.append((base, aligned))
        why = "another shape in the base model"
    elif alpha == 0:
        why = "α is 0"
    if base is None or why:
        return TensorTask(aligned, None, 0.0, code, why=why, drawn_as=pair.twin)
    if base.shape == aligned.shape:
        return TensorTask(aligned, base, alpha, code, drawn_as=pair.twin)
    rows = min(base.shape[0], aligned.shape[0])
    if rows < aligned.shape[0]:
        why = f"rows from {rows} on are new"
        plan.grown.append((base, aligned))
        return TensorTask(aligned, base, alpha, code, rows, why, pair.twin)
    plan.shrunk.append((base, aligned))
    return TensorTask(aligned, base, alpha, code, drawn_as=pair.twin)


def _fit(base: StoredTensor, aligned: StoredTensor, configs: tuple[Config, Config]) -> bool:
    """Whether the shapes are the same, or differ by the number of tokens alone."""
    if base.shape == aligned.shape:
        return True
    if not base.shape or not aligned.shape or base.shape[1:] != aligned.shape[1:]:
        return False
    if is_embedding(aligned.name) or is_head(aligned.name):
        return True
    sizes = (configs[0].vocab_size, configs[1].vocab_size)
    return sizes[0] != sizes[1] and sizes == (base.shape[0], aligned.shape[0])


def tensor_findings(
    pairing: Pairing, plan: Plan, new_tokens: str, who: tuple[str, str]
) -> Iterator[Finding]:
    """new_tokens: the tokens of the rows that only θ₁ has, in words; empty if they are unknown."""
    yield from _missing(pairing, plan, who)
    yield from _shapes(plan, who)
    yield from _vocabulary(plan, new_tokens, who)
    yield from _ties(pairing, who)
    if pairing.prefix:
        yield note(
            "prefix",
            f"names differ by the prefix {pairing.prefix!r}, and were matched without it",
            "nothing: the result has the aligned model's names",
        )
    if plan.uncounted:
        yield note(
            "not-floating",
            f"{_number(len(plan.uncounted), 'tensor')} not floating-point in {who[1]} "
            f"({', '.join(sorted({one.code for one in plan.uncounted}))}), "
            f"{_first([one.name for one in plan.uncounted])}, and copied from it",
            "nothing if they are counters, masks or tables",
        )
    yield from _dtypes(plan, who)


def _missing(pairing: Pairing, plan: Plan, who: tuple[str, str]) -> Iterator[Finding]:
    if pairing.pairs and len(pairing.missing) == len(pairing.pairs):
        theirs = pairing.extra[0] if pairing.extra else "nothing"
        yield error(
            "no-common-tensor",
            f"no tensor of {who[1]} has its like in {who[0]}: {pairing.pairs[0].aligned.name} "
            f"here, {theirs} there",
            "give the checkpoint that the aligned model was trained from as the base",
        )
        return
    copied = {task.aligned.name for task in plan.tasks if task.why == "not in the base model"}
    missing = [name for name in pairing.missing if name in copied]
    trained = [name for name in missing if not _TABLE.search(name)]
    tables = [name for name in missing if _TABLE.search(name)]
    if trained:
        yield error(
            "missing-in-base",
            f"{who[0]} lacks {len(trained)} of the tensors of {who[1]}, {_first(trained)}",
            "give the checkpoint that it was trained from as the base, or have them copied from "
            f"the aligned model: --skip '^{re.escape(trained[0])}$'",
        )
    if tables:
        yield note(
            "missing-in-base",
            f"{who[0]} lacks {_first(tables)}, which is no trained weight",
            "nothing: it is copied from the aligned model",
        )
    if pairing.extra:
        yield warning(
            "missing-in-aligned",
            f"{who[1]} lacks {len(pairing.extra)} of the tensors of {who[0]}, "
            f"{_first(pairing.extra)}",
            "nothing if the aligned model loads without them; the result does not have them either",
        )


def _shapes(plan: Plan, who: tuple[str, str]) -> Iterator[Finding]:
    if not plan.apart:
        return
    base, aligned = plan.apart[0]
    yield error(
        "shape",
        f"{_number(len(plan.apart), 'tensor')} of another shape in {who[0]} than in {who[1]}, the "
        f"first {aligned.name}: {_form(base)} against {_form(aligned)}",
        "give the checkpoint that the aligned model was trained from as the base, or have them "
        f"copied from the aligned model: --skip '^{re.escape(aligned.name)}$'",
    )


def _vocabulary(plan: Plan, new_tokens: str, who: tuple[str, str]) -> Iterator[Finding]:
    if plan.grown:
        base, aligned = plan.grown[0]
        begin, end = base.shape[0], aligned.shape[0]
        rows = f"{end - begin} more rows than {who[0]} (from {begin} on)"
        names = ", ".join(tensor.name for _, tensor in plan.grown)
        yield note(
            "vocabulary-grown",
            f"{who[1]} has {rows} in {names}{new_tokens}",
            "nothing: the common rows are extrapolated, the new ones copied from the aligned model",
        )
    if plan.shrunk:
        base, aligned = plan.shrunk[0]
        yield warning(
            "vocabulary-shrunk",
            f"{who[0]} has {base.shape[0]} rows in {base.name}, {who[1]} {aligned.shape[0]}",
            "see that the base is the right one; only the rows that both have are used",
        )


def _ties(pairing: Pairing, who: tuple[str, str]) -> Iterator[Finding]:
    if pairing.borrowed:
        yield note(
            "tied",
            f"{who[0]} ties its head to its embedding and stores no {pairing.borrowed[0]}",
            "nothing: its embedding is taken as the head's base",
        )
    if pairing.left_out:
        yield note(
            "tied",
            f"{who[1]} ties its head to its embedding and stores no {pairing.left_out[0]}",
            "nothing: the embedding is extrapolated once, and serves as the head as before",
        )
    twins = [pair for pair in pairing.pairs if pair.twin]
    if twins:
        yield note(
            "tied",
            f"{who[1]} stores {twins[0].aligned.name} although it is tied to {twins[0].twin}",
            "nothing: both get the same α and the same rounding, so they stay equal",
        )


def _dtypes(plan: Plan, who: tuple[str, str]) -> Iterator[Finding]:
    """θ₀ and θ₁ in different dtypes: their difference has the coarser one's rounding."""
    pairs = [(task.base, task.aligned) for task in plan.tasks if task.base is not None]
    apart = [(base, aligned) for base, aligned in pairs if base.code != aligned.code]
    if not apart:
        return
    (mine, theirs), _ = Counter((base.code, one.code) for base, one in apart).most_common(1)[0]
    yield warning(
        "dtype-differs",
        f"{_number(len(apart), 'tensor')} stored in another dtype in {who[0]} than in {who[1]} "
        f"({mine} against {theirs}), {_first([one.name for _, one in apart])}",
        "take both as they were trained if that is to be had: their difference also holds the "
        "rounding of the coarser one",
    )


def _form(tensor: StoredTensor) -> str:
    return f"{tensor.code} {list(tensor.shape)}"


def _number(count: int, noun: str) -> str:
    """ "1 tensor is" or "2 tensors are"."""
    return f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"


def _first(names: Iterable[str]) -> str:
    """The first few of many names."""
    known = list(names)
    rest = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + rest

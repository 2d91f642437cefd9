"""The questions of `w2s check`, asked of up to three models before any weight is loaded."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from w2s.checkpoints import resolve_dtype
from w2s.errors import PromptError
from w2s.estimate import Estimate, size
from w2s.plan import SearchPlan
from w2s.preflight.card import Card, read_card
from w2s.preflight.finding import Finding, error, worst_first
from w2s.preflight.machine_rules import (
    device_findings,
    dtype_findings,
    free_memory,
    memory_estimate,
    memory_findings,
    placement_findings,
    resolve_device,
)
from w2s.preflight.model_rules import model_findings, pair_member_findings
from w2s.preflight.pair_rules import pair_findings
from w2s.preflight.prompt_rules import chat_findings, prompt_findings
from w2s.prompts import Prompt, PromptStyle


@dataclass(frozen=True)
class Report:
    """What was found, worst first, and what was looked at to find it.

    tokenizers: of large, tuned, untuned (those that were given, in this order), so that loading
    need not read them again.
    """

    findings: list[Finding]
    looked_at: list[str]
    tokenizers: list[Any]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]


def check(
    large: Any,
    tuned: Any,
    untuned: Any,
    *,
    plan: SearchPlan | None = None,
    prompts: Sequence[Prompt] | None = None,
    large_template: str | None = None,
    pair_template: str | None = None,
    chat: bool = False,
    system: str = "",
    chat_template: str | os.PathLike[str] | None = None,
    bridge: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: Any = None,
    **kwargs: Any,
) -> list[Finding]:
    """Looks for what would keep three models from working together; loads no weights.

    large, tuned, untuned: whatever `load` takes. Of folders and hub ids it reads the configs,
      tokenizers, generation configs and the headers of the safetensors files; of models that are
      given as objects it looks at the objects.
    plan, prompts: with them, lengths are checked against each model's context.
    large_template, pair_template, chat, system, chat_template: how the models see a prompt, as for
      `load`. A `Model` has its own.
    bridge: a pair with another tokenizer than the large model's may score the text, as `guide` lets
      it (`TextBridgeScorer`), and is only warned of. False for guided decoding and a `PairScorer`
      of your own: then it is an error.
    device, dtype, tokenizer, kwargs: as for `load`.

    Returns the findings, errors first; an empty list is good news. docs/check.md lists the codes.
    Raises `ModelError` for a model that does not exist, and for a device or dtype that is none.
    """
    style = {"chat": chat, "system": system, "chat_template": chat_template}
    return examine(
        large,
        (tuned, untuned),
        plan=plan,
        prompts=prompts,
        large_style={**style, "template": large_template},
        pair_style={**style, "template": pair_template},
        bridge=bridge,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        options=kwargs,
    ).findings


def examine(
    large: Any,
    pair: tuple[Any, Any] | None,
    *,
    plan: SearchPlan | None = None,
    prompts: Sequence[Prompt] | None = None,
    large_style: Mapping[str, Any] | None = None,
    pair_style: Mapping[str, Any] | None = None,
    bridge: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Report:
    """`check` for any of the models: `large` or `pair` may be None.

    large_style, pair_style: the keywords of `PromptStyle`. options: `load`'s for from_pretrained.
    """
    where = resolve_device(device)
    if dtype != "auto":
        resolve_dtype(dtype)
    others = dict(options or {})
    findings: list[Finding] = []
    if "device_map" not in others:
        findings += device_findings(where)
    sources = [] if large is None else [("the large model", large, large_style)]
    if pair is not None:
        sources += [("the tuned model", pair[0], pair_style)]
        sources += [("the untuned model", pair[1], pair_style)]
    cards: list[Card] = []
    for role, source, style in sources:
        lender = cards[0] if cards and large is not None else None
        made = _style(style, findings)
        cards.append(
            read_card(role, source, made, tokenizer=tokenizer, lender=lender, options=others)
        )
    first = None if large is None else cards[0]
    members = cards if large is None else cards[1:]
    findings += _found(first, members, plan, prompts, bridge, dtype, where)
    looked_at = [_looked_at(card) for card in cards]
    # What cannot run has no memory to estimate; and the estimate is of a search, not of a pair.
    if plan is not None and first is not None and not any(f.level == "error" for f in findings):
        one = memory_estimate(cards, plan, _longest(cards, prompts), dtype, where)
        if one is not None:
            findings += memory_findings(one, where)
            looked_at.append(_memory(one, free_memory(where)))
    return Report(
        worst_first(iter(dict.fromkeys(findings))), looked_at, [card.tokenizer for card in cards]
    )


def _style(settings: Mapping[str, Any] | None, findings: list[Finding]) -> PromptStyle:
    given = {key: value for key, value in (settings or {}).items() if value is not None}
    if "chat_template" in given:
        given["chat_template"] = os.fspath(given["chat_template"])
    try:
        return PromptStyle(**given)
    except PromptError as reason:
        what, _, advice = str(reason).rpartition("; ")
        if not what:
            what, advice = str(reason), "give a file that can be read"
        findings.append(error("template", what, advice))
        return PromptStyle()


def _found(
    large: Card | None,
    pair: Sequence[Card],
    plan: SearchPlan | None,
    prompts: Sequence[Prompt] | None,
    bridge: bool,
    dtype: str | torch.dtype,
    device: torch.device,
) -> Iterator[Finding]:
    cards = [*([] if large is None else [large]), *pair]
    for card in cards:
        yield from model_findings(card, plan, device)
    for member in pair:
        yield from pair_member_findings(member)
    if pair:
        yield from pair_findings(large, *pair, bridge=bridge)
    for card in cards:
        yield from prompt_findings(card, prompts, plan)
    if large is not None and pair:
        yield from chat_findings(large, *pair)
    yield from placement_findings(cards)
    yield from dtype_findings(large, pair, dtype, device)


def _looked_at(card: Card) -> str:
    """One line a model, for a report that finds nothing."""
    parts = [card.who]
    if card.module is not None and card.columns is not None:
        parts.append(f"{type(card.module).__name__}, {card.columns} columns of logits")
    if card.tokenizer is not None:
        parts.append(f"a tokenizer of {len(card.tokenizer)} tokens")
    if card.weights is not None and card.weights.tensors:
        files = len({tensor.file for tensor in card.weights.tensors.values()})
        noun = "file" if files == 1 else "files"
        parts.append(f"{len(card.weights.tensors)} tensors in {files} weight {noun}")
    return ": ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]


def _longest(cards: Sequence[Card], prompts: Sequence[Prompt] | None) -> int | None:
    if not prompts:
        return None
    return max(len(card.style.encode(one, card.tokenizer)) for card in cards for one in prompts)


def _memory(one: Estimate, free: int | None) -> str:
    there = "" if free is None else f"; {size(free)} is free"
    return (
        f"memory: {size(one.needed)} for one prompt at a time, {size(one.per_prompt)} for each "
        f"further one{there}"
    )


def require_fit(large: Any, pair: tuple[Any, Any] | None, **settings: Any) -> Report:
    """Raises the first error that `examine(large, pair, **settings)` finds, as a search would.

    Raises `VocabularyError`, `PromptError` or `ModelError`, in one sentence; returns the report
    (its warnings and notes) when there is no error.
    """
    report = examine(large, pair, **settings)
    for finding in report.errors:
        raise finding.error()
    return report


_STYLE = frozenset({"template", "chat", "system", "chat_template"})


def fit_before_loading(
    large: Any, pair: Sequence[Any], settings: Mapping[str, Any], bridge: bool = True
) -> list[dict[str, Any]]:
    """`require_fit` for models that are about to be loaded with `load(source, **settings)`.

    pair: (tuned, untuned), or empty. Says warnings by `warnings.warn`. Returns, for each model,
    the keywords to add to `settings`: the tokenizer that was read already. Models that are all
    loaded are left to the checks of `load` and of the search.
    """
    sources = [large, *pair]
    if not any(isinstance(source, str | os.PathLike) for source in sources):
        return [{} for _ in sources]
    style = {name: settings[name] for name in _STYLE & settings.keys()}
    named = {name: settings[name] for name in ("device", "dtype", "tokenizer") if name in settings}
    report = require_fit(
        large,
        (pair[0], pair[1]) if pair else None,
        bridge=bridge,
        large_style=style,
        pair_style=style,
        options={k: v for k, v in settings.items() if k not in style and k not in named},
        **named,
    )
    for finding in report.warnings:
        warnings.warn(finding.sentence, stacklevel=3)
    return [
        {"tokenizer": tokenizer} if isinstance(source, str | os.PathLike) else {}
        for source, tokenizer in zip(sources, report.tokenizers, strict=True)
    ]

"""The models of a search: given by name, or the embedded ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli.errors import BadInput, one_sentence
from w2s.cli.plans import Roles
from w2s.errors import W2SError

if TYPE_CHECKING:
    from w2s.cli.rows import Row
    from w2s.models import Model
    from w2s.plan import SearchPlan
    from w2s.prompts import Prompt
    from w2s.results import ChunkTrace, SearchResult


_RANKS = Roles(ranks=True)


@dataclass(frozen=True)
class Models:
    """A large model and the pair (tuned, untuned) that steers it.

    ranks: the pair ranks the responses; else the log-prob of the law that they are drawn from.
    beta: how strongly the pair guides each token; None leaves the large model's law as it is.
    """

    large: Model
    pair: tuple[Model, Model] | None = None
    ranks: bool = True
    beta: float | None = None

    @property
    def all(self) -> tuple[Model, ...]:
        """Every model that is loaded, the large one first."""
        return (self.large, *(self.pair or ()))

    def search(
        self,
        prompts: Sequence[Prompt],
        plan: SearchPlan,
        on_chunk: Callable[[ChunkTrace], object] | None = None,
        first: int = 0,
    ) -> list[SearchResult]:
        """One batch; `first` is its first prompt's place in the input, which fixes the draws.

        Raises:
            BadInput: the models cannot be searched with, or the prompts do not fit them.
        """
        import w2s
        from w2s.scorers.text_bridge import scorer_for

        pair = self.pair
        try:
            return w2s.search(
                prompts,
                w2s.LocalProposer(self.large, plan)
                if pair is None or self.beta is None
                else w2s.GuidedProposer(self.large, *pair, plan, beta=self.beta),
                None if pair is None or not self.ranks else scorer_for(self.large, *pair, plan),
                plan,
                on_chunk=on_chunk,
                index=range(first, first + len(prompts)),
            )
        except W2SError as error:
            raise BadInput(one_sentence(error)) from error


def quiet_transformers() -> None:
    """Leaves standard error to the command's own words and bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def model_names(
    large: str | None, pair: tuple[str, str] | None, needs_pair: bool = True
) -> tuple[str, tuple[str, ...]]:
    """Folders or hub ids of the large model and, where needed, the pair; None is an embedded one.

    Raises:
        BadInput: a path leads nowhere, or an embedded model is not installed.
    """
    from w2s import embedded

    for option, name in (("--large", large), *(("--pair", member) for member in pair or ())):
        if name is not None and _is_path(name) and not Path(name).exists():
            raise BadInput(f"{option}: {name}: there is no such folder or file")

    try:
        first = str(embedded.large()) if large is None else large
        if not needs_pair:
            return first, ()
        return first, tuple(map(str, embedded.pair() if pair is None else pair))
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(one_sentence(error)) from error


def _is_path(name: str) -> bool:
    """Whether this cannot be a hub id, which has one slash at most."""
    return Path(name).is_absolute() or name[:1] in (".", "~") or name.count("/") > 1


def load_models(
    large: str | None,
    pair: tuple[str, str] | None,
    *,
    roles: Roles = _RANKS,
    device: str = "auto",
    dtype: str = "auto",
    large_style: dict[str, Any] | None = None,
    pair_style: dict[str, Any] | None = None,
) -> Models:
    """Loads the models; None stands for the embedded ones.

    roles: what the pair is asked to do; it is not loaded when that is nothing.

    A pair's folder without tokenizer files is taken to use the large model's tokenizer. What `w2s
    check` would find is found before any weight is loaded; its warnings go to standard error.

    Raises:
        BadInput: a model cannot be loaded, or the models do not fit together.
    """
    import w2s
    from w2s.preflight import require_fit

    quiet_transformers()
    name, members = model_names(large, pair, roles.needs_pair)
    try:
        report = require_fit(
            name, (members[0], members[1]) if members else None, device=device, dtype=dtype,
            large_style=large_style, pair_style=pair_style,
            bridge=roles.beta is None,  # guidance adds up logits, which needs one vocabulary
        )  # fmt: skip
        for finding in report.warnings:
            typer.echo(f"w2s: warning: {finding.sentence}", err=True)
        styles = (large_style, pair_style, pair_style)[: 1 + len(members)]
        first, *loaded = (
            w2s.load(source, tokenizer=tokenizer, device=device, dtype=dtype, **(style or {}))
            for source, tokenizer, style in zip(
                (name, *members), report.tokenizers, styles, strict=True
            )
        )
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(one_sentence(error)) from error
    both = (loaded[0], loaded[1]) if loaded else None
    return Models(first, both, ranks=roles.ranks, beta=roles.beta)


def check_lengths(models: Models, rows: Sequence[Row], field: str, plan: SearchPlan) -> None:
    """Refuses a prompt that some model cannot read together with the new tokens.

    Raises:
        BadInput: names the row's place, its tokens and the model's context.
    """
    for model in models.all:
        for row in rows:
            where = f'{row.place}: field "{field}"'
            try:
                tokens = len(model.style.encode(row.prompt, model.tokenizer, where))
            except W2SError as error:
                raise BadInput(one_sentence(error)) from error
            if model.context is not None and tokens + plan.max_new_tokens > model.context:
                raise BadInput(
                    f"{where} has {tokens} tokens, and with {plan.max_new_tokens} new ones that is "
                    f"more than the {model.context} positions of {model.name}; shorten the prompt "
                    "or lower --max-new-tokens"
                )

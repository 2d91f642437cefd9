"""The three models of a search: given by name, or the embedded ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s.cli.errors import BadInput, one_sentence
from w2s.errors import W2SError

if TYPE_CHECKING:
    from w2s.cli.rows import Row
    from w2s.models import Model
    from w2s.plan import SearchPlan
    from w2s.results import ChunkTrace, SearchResult


@dataclass(frozen=True)
class Models:
    """A large model and the pair that steers it."""

    large: Model
    tuned: Model
    untuned: Model

    def search(
        self,
        prompts: Sequence[str],
        plan: SearchPlan,
        on_chunk: Callable[[ChunkTrace], object] | None = None,
        first: int = 0,
    ) -> list[SearchResult]:
        """One batch; `first` is its first prompt's place in the input, which fixes the draws.

        Raises:
            BadInput: the models cannot be searched with, or the prompts do not fit them.
        """
        import w2s

        try:
            return w2s.search(
                prompts,
                w2s.LocalProposer(self.large, plan),
                w2s.PairScorer(self.tuned, self.untuned, plan),
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


def load_models(
    large: str | None,
    pair: tuple[str, str] | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    large_style: dict[str, Any] | None = None,
    pair_style: dict[str, Any] | None = None,
) -> Models:
    """Loads the models; None stands for the embedded ones.

    A pair's folder without tokenizer files is taken to use the large model's tokenizer.

    Raises:
        BadInput: a model cannot be loaded, or the three do not read the same tokens.
    """
    import w2s
    from w2s.models import lacks_tokenizer
    from w2s.vocabulary import require_same_tokens

    quiet_transformers()
    try:
        first = w2s.load(
            _embedded_large() if large is None else large,
            device=device, dtype=dtype, **(large_style or {}),
        )  # fmt: skip
        tuned, untuned = (
            w2s.load(
                name, tokenizer=first.tokenizer if lacks_tokenizer(name) else None,
                device=device, dtype=dtype, **(pair_style or {}),
            )
            for name in (_embedded_pair() if pair is None else pair)
        )  # fmt: skip
        require_same_tokens(first, tuned)
        require_same_tokens(first, untuned)
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(one_sentence(error)) from error
    return Models(first, tuned, untuned)


def _embedded_large() -> str:
    from w2s import embedded

    return str(embedded.large())


def _embedded_pair() -> tuple[str, str]:
    from w2s import embedded

    tuned, untuned = embedded.pair()
    return str(tuned), str(untuned)


def check_lengths(models: Models, rows: Sequence[Row], field: str, plan: SearchPlan) -> None:
    """Refuses a prompt that some model cannot read together with the new tokens.

    Raises:
        BadInput: names the row's place, its tokens and the model's context.
    """
    for model in (models.large, models.tuned, models.untuned):
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

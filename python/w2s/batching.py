"""How many prompts to search at once: enough rows for a forward to pay, and no more than fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from w2s.errors import ModelError, SearchError
from w2s.estimate import Estimate, estimate, size
from w2s.memory import LOWER, available_memory
from w2s.models import Model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt

AUTO = "auto"
# More rows than these gain little on a CPU and cost cache memory.
_ROWS = 256
# What a batch that is chosen here may take of the free memory: an estimate is no promise.
_SHARE = 0.8


class Names(NamedTuple):
    """What the settings are called where a message is read."""

    batch: str = "batch"
    others: str = LOWER


@dataclass(frozen=True)
class Batch:
    """prompts: how many at once. note: why they are fewer than a forward could take, or None."""

    prompts: int
    note: str | None = None


def rows_worth(plan: SearchPlan) -> int:
    """The prompts that make about 256 rows."""
    return max(1, _ROWS // plan.pool)


def choose_batch(
    plan: SearchPlan,
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    batch: int | str = AUTO,
    *,
    guided: bool = False,
    judged: bool = True,
    names: Names | None = None,
) -> Batch:
    """How many prompts to search at once; `batch` is a number or "auto".

    models: (large,) or (large, tuned, untuned). guided, judged: as for `plan.estimate`. Nothing is
    allocated. Where the free memory or a model's sizes cannot be known, memory does not limit.

    Raises `SearchError` when `batch` prompts, or a single one, do not fit into the free memory, and
    for a `batch` that is no number; `PromptError` for a prompt that a model cannot read.
    """
    names = Names() if names is None else names
    whole = isinstance(batch, int) and not isinstance(batch, bool)
    if batch != AUTO and not (whole and int(batch) >= 1):
        raise SearchError(f"{names.batch} is {batch!r}; it must be auto or a whole number >= 1")
    wanted = rows_worth(plan) if batch == AUTO else int(batch)
    count = min(wanted, len(prompts))
    free = available_memory(models[0].device)
    try:
        sizes = estimate(plan, models, prompts, guided=guided, judged=judged, at_once=count)
    except ModelError:
        return Batch(wanted)
    if free is None or count == 0:
        return Batch(wanted)
    most = sizes.prompts_that_fit(free)
    where = f"{size(free)} are free on {models[0].device}"
    if most == 0:
        one = sizes.needed_for(1)
        raise SearchError(
            f"a search of one prompt ({plan.pool} rows of up to {sizes.longest} tokens and "
            f"{plan.max_new_tokens} new ones) needs {size(one)} and {where}; lower {names.others}"
        )
    if batch != AUTO:
        if count > most:
            raise SearchError(
                f"{names.batch} {batch} needs {size(sizes.needed)} and {where}; lower "
                f"{names.batch} ({most} would fit), {names.others}"
            )
        return Batch(wanted)
    fitting = max(1, sizes.prompts_that_fit(int(_SHARE * free)))
    if fitting >= count:
        return Batch(wanted)
    return Batch(fitting, _note(fitting, count, sizes, where, names))


def _note(fitting: int, count: int, sizes: Estimate, where: str, names: Names) -> str:
    return (
        f"searching {fitting} prompts at once and not {count}, which would need "
        f"{size(sizes.needed)}, and {where}; for larger batches lower {names.others}"
    )

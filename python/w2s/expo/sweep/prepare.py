"""From names and files to a `Sweep` that is ready to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import w2s
from w2s import embedded
from w2s.adapters import adapter_folder
from w2s.batching import AUTO
from w2s.checkpoints import lacks_tokenizer
from w2s.errors import ExpoError
from w2s.expo.inputs import local_folder
from w2s.expo.recipe import Recipe
from w2s.expo.survey import check_recipe
from w2s.expo.sweep.guard import guard_text
from w2s.expo.sweep.rewards import make_reward
from w2s.expo.sweep.run import Sweep, prompts_at_once
from w2s.expo.sweep.serving import Served
from w2s.expo.sweep.settings import SweepSettings
from w2s.expo.sweep.store import begun_with
from w2s.expo.sweep.writers import Sampler, Searcher, Writer
from w2s.fingerprint import identity
from w2s.models import Model
from w2s.prompts import Prompt
from w2s.reproduce.stamp import digest
from w2s.sizes import size

_AT_ONCE = "prompts at once"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What a sweep is made of, as a user names it.

    base, aligned: θ₀ and θ₁: folders or hub ids. steers: a model that θ(α) steers against θ₀,
      instead of writing itself.
    reward: as `make_reward` takes it. guard_texts: whose perplexity is watched; may be empty.
    batch: prompts written for at once; "auto" in a folder that was begun keeps to its number, since
      a model's last bits depend on it.
    style: keywords of `w2s.load` that say how θ₁ (or the model it steers) sees a prompt.
    tokenizer: whose tokenizer to use; None is θ₁'s, or θ₀'s where θ₁ has none.
    """

    base: str
    aligned: str
    settings: SweepSettings
    prompts: Sequence[Prompt]
    reward: str
    guard_texts: Sequence[str] = ()
    steers: str | None = None
    tokenizer: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch: int | str = AUTO
    style: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """sweep: ready to run. settings: all that its rows depend on, as plain data. command: what
    makes a checkpoint of one α, without --alpha and --out."""

    sweep: Sweep
    settings: dict[str, Any]
    command: tuple[str, ...]


def prepare(wanted: Wanted, folder: Path, say: Say) -> Prepared:
    """Checks the checkpoints against each other, then loads what takes part.

    folder: of the sweep; it keeps a judge that is trained. say: takes notes and warnings.

    Raises:
        ExpoError, ModelError, …: each a `W2SError` with one sentence.
    """
    base, aligned = local_folder(wanted.base, None), local_folder(wanted.aligned, None)
    if adapter_folder(str(aligned)) is not None:
        raise ExpoError(
            f"the aligned model ({wanted.aligned}) is an adapter, which cannot be served in place; "
            f"merge it first (w2s expo --base {wanted.base} --aligned {wanted.aligned} --lora "
            "merged --alpha 0 --out MERGED) and give --aligned MERGED"
        )
    survey = check_recipe(Recipe(str(base), str(aligned), alpha=1.0))
    for finding in survey.findings:
        if finding.level == "error":
            raise ExpoError(finding.sentence)
        if finding.level == "warning":
            say(f"warning: {finding.sentence}")
    tokenizer = _tokenizer(wanted, base, aligned)
    settings: dict[str, Any] = {"device": wanted.device, "dtype": wanted.dtype}
    own_style = {} if wanted.steers else dict(wanted.style)
    model = w2s.load(aligned, tokenizer=tokenizer, **settings, **own_style)
    served = Served(model, survey.tasks)
    say(_memory(served))
    writer = _writer(wanted, served, base, settings)
    folder.mkdir(parents=True, exist_ok=True)
    reward = make_reward(
        wanted.reward, folder, say, device=wanted.device, tokenizer=model.tokenizer
    )
    guard = guard_text(model, wanted.guard_texts) if wanted.guard_texts else None
    at_once = begun_with(folder).get(_AT_ONCE, AUTO) if wanted.batch == AUTO else wanted.batch
    batch = prompts_at_once(writer, wanted.settings.plan, wanted.prompts, at_once)
    dtype = str(model.module.dtype).removeprefix("torch.")
    depends_on = {
        "base": _named(base),
        "aligned": _named(aligned),
        "dtype": dtype,
        "writes": "θ(α)" if wanted.steers is None else "steered by θ(α) against θ₀",
        **({"steered": _named(wanted.steers)} if wanted.steers else {}),
        "plan": asdict(wanted.settings.plan),
        "prompts": digest([json.dumps(prompt, ensure_ascii=False) for prompt in wanted.prompts]),
        "prompt style": dict(wanted.style),
        _AT_ONCE: batch,
        "reward": wanted.reward,
        "reward depends on": reward.depends_on,
        "guard": None if guard is None else f"{digest(wanted.guard_texts)}, {guard.tokens} tokens",
    }
    return Prepared(
        Sweep(wanted.settings, served, writer, reward, wanted.prompts, batch, guard),
        depends_on,
        (
            "w2s",
            "expo",
            "--base",
            _shown(wanted.base),
            "--aligned",
            _shown(wanted.aligned),
            "--dtype",
            dtype,
        ),
    )


def _tokenizer(wanted: Wanted, base: Path, aligned: Path) -> Any:
    """None where θ₁ brings its own; else a lender's, as transformers loads it."""
    if wanted.tokenizer is None and not lacks_tokenizer(aligned):
        return None
    lender = wanted.tokenizer or wanted.steers
    if lender is None and not lacks_tokenizer(base):
        lender = str(base)
    if lender is None and aligned.resolve() in [one.resolve() for one in embedded.pair()]:
        lender = str(embedded.large())
    if lender is None:
        raise ExpoError(
            f"neither {aligned} nor {base} has tokenizer files; name a model that has the right "
            "ones with --tokenizer"
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(lender)
    except (OSError, ValueError) as error:
        raise ExpoError(
            f"the tokenizer of {lender} cannot be loaded: {' '.join(str(error).split())}"
        ) from error


def _writer(wanted: Wanted, served: Served, base: Path, settings: Mapping[str, Any]) -> Writer:
    if wanted.steers is None:
        return Sampler(served.model, wanted.settings.plan)
    large = w2s.load(wanted.steers, **settings, **wanted.style)
    untuned: Model = w2s.load(base, tokenizer=served.model.tokenizer, **settings)
    return Searcher(large, served.model, untuned, wanted.settings.plan)


def _named(name: str | Path) -> str:
    """A model's name without its folder's place, and a digest of its files."""
    place, files = identity(str(name))
    return f"{Path(place).name if Path(place).exists() else place} (files {files})"


def _shown(name: str) -> str:
    """As a command in this folder would name it."""
    path = Path(name)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if inside else name


def _memory(served: Served) -> str:
    taken = served.bytes
    return (
        f"θ(α) is held once, in {size(taken.model)}; θ₁ and θ₀ stay in their files "
        f"({size(taken.files)}), from which each α is made through buffers of "
        f"{size(taken.buffers)}"
    )

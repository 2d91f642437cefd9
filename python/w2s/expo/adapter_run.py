"""θ₁ as a LoRA adapter: what will be done is surveyed, and then done, as for two checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2s.errors import ExpoError
from w2s.expo.adapted import AdaptedTensor
from w2s.expo.adapter import adapter_tasks, merged_tasks, merged_view, scaled_config
from w2s.expo.card import side_files
from w2s.expo.checkpoint import Checkpoint, open_checkpoint
from w2s.expo.inputs import is_hub_id, local_folder, roles
from w2s.expo.lora import CONFIG, LoraAdapter, open_adapter
from w2s.expo.recipe import Recipe
from w2s.expo.report import Report
from w2s.expo.rules.configs import read_config
from w2s.expo.rules.files import folder_findings, quantization_findings
from w2s.expo.rules.output import output_findings
from w2s.expo.rules.settings import pattern_findings, recipe_findings
from w2s.expo.run import carry_out
from w2s.expo.stream import Progress
from w2s.expo.survey import Survey, cut_shards, out_bytes, result_bytes
from w2s.expo.tasks import TensorTask
from w2s.preflight.finding import Finding, error, note, worst_first

__all__ = ["extrapolate_adapter", "survey_adapter"]


@dataclass
class _Opened:
    """What of both sides could be opened, and what was found on the way."""

    found: list[Finding]
    adapter: LoraAdapter | None = None
    base: Checkpoint | None = None

    @property
    def damaged(self) -> bool:
        return any(one.level == "error" for one in self.found)


def survey_adapter(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: bool = False,
    force_space: bool = False,
) -> Survey:
    """As `w2s.expo.survey.check_recipe`, for a recipe with an adapter.

    θ₀ of a scaled adapter is needed, and a hub's θ₀ is brought, only where the adapter holds
    tensors that were trained whole.

    Raises:
        ExpoError: a name leads to no folder and no repository; a dtype or a size of files for a
          scaled adapter.
    """
    if recipe.adapter == "adapter":
        for field in ("dtype", "shard_size"):
            if getattr(recipe, field) is not None:
                raise ExpoError(
                    f"Recipe.{field} has no meaning with Recipe.adapter='adapter', as an adapter's "
                    "file stays as it is; leave it out"
                )
    opened = _open(recipe)
    found, adapter, base = opened.found, opened.adapter, opened.base
    tasks: list[TensorTask] = []
    view = None if adapter is None else adapter.weights
    if adapter is not None and not opened.damaged:
        try:
            if recipe.adapter == "merged" and base is not None:
                view = merged_view(base, adapter)
                tasks = merged_tasks(recipe, base, view)
                found += recipe_findings(recipe, tasks)
            else:
                tasks = adapter_tasks(recipe, adapter, base)
                found += pattern_findings(recipe, [*adapter.factors, *adapter.whole])
                found += _scaled(recipe, adapter)
            found += _of_the_pair(recipe, adapter, tasks)
        except ExpoError as reason:
            found.append(_as_finding("adapter", reason))
    written = sum(map(out_bytes, tasks))
    if out is not None:
        folder = out if view is None else view.folder
        needed = result_bytes(tasks, folder) if tasks else 0
        found += output_findings(out, needed, resume=resume, force_space=force_space)
    return Survey(
        recipe,
        worst_first(iter(dict.fromkeys(found))),
        tasks,
        cut_shards(recipe, tasks, [] if view is None else view.shards),
        bytes_read=sum(map(_read, tasks)),
        bytes_written=written,
        largest_tensor=max(map(_largest, tasks), default=0),
        base=base,
        aligned=view,
        out=out,
    )


def _open(recipe: Recipe) -> _Opened:
    folder = local_folder(recipe.aligned, recipe.aligned_revision)
    merged = recipe.adapter == "merged"
    opened = _Opened([])
    base = None
    if merged or not is_hub_id(recipe.base):
        base = local_folder(recipe.base, recipe.base_revision)
        opened.found += folder_findings(recipe, base, folder, roles(recipe))
        if opened.damaged:
            return opened
    try:
        opened.adapter = open_adapter(folder)
    except ExpoError as reason:
        opened.found.append(_as_finding("adapter", reason))
        return opened
    if not (merged or opened.adapter.whole):
        return opened
    base = base or local_folder(recipe.base, recipe.base_revision)
    try:
        opened.base = open_checkpoint(base, roles(recipe)[0])
    except ExpoError as reason:
        opened.found.append(_as_finding("weights-damaged", reason))
        return opened
    opened.found += quantization_findings(opened.base, read_config(base), roles(recipe)[0])
    return opened


def _scaled(recipe: Recipe, adapter: LoraAdapter) -> Iterator[Finding]:
    before, after = adapter.config["lora_alpha"], scaled_config(recipe, adapter)["lora_alpha"]
    yield note(
        "lora-scaled",
        f"{2 * len(adapter.factors)} factors of the adapter are copied byte for byte, and "
        f"lora_alpha in its {CONFIG} goes from {before} to {after}",
        "nothing: this is exact, as no weight is rounded",
    )


def _of_the_pair(
    recipe: Recipe, adapter: LoraAdapter, tasks: list[TensorTask]
) -> Iterator[Finding]:
    stated = adapter.config.get("base_model_name_or_path")
    if isinstance(stated, str) and stated and Path(stated).name != Path(recipe.base).name:
        yield note(
            "adapter-base",
            f"the adapter was trained on {stated}, by its {CONFIG}, and the base is {recipe.base}",
            "see that they are the same model",
        )
    grown = [task for task in tasks if task.rows is not None]
    if grown:
        names = ", ".join(task.aligned.name for task in grown)
        yield note(
            "vocabulary-grown",
            f"the adapter has more rows than the base (from {grown[0].rows} on) in {names}",
            "nothing: the common rows are extrapolated, the new ones copied from the adapter",
        )


def _as_finding(code: str, reason: ExpoError) -> Finding:
    what, _, advice = str(reason).rpartition("; ")
    return error(code, what or str(reason), advice)


def _read(task: TensorTask) -> int:
    """Bytes of the files that are read: an adapted weight's are its own and its factors'."""
    one = task.aligned
    found = one.nbytes
    if isinstance(one, AdaptedTensor):
        found = one.weight.nbytes + one.factors.a.nbytes + one.factors.b.nbytes
    return found + (0 if task.base is None else task.base.nbytes)


def _largest(task: TensorTask) -> int:
    one = task.aligned.weight if isinstance(task.aligned, AdaptedTensor) else task.aligned
    return max(one.nbytes, out_bytes(task))


def extrapolate_adapter(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    force_space: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """`w2s.expo.run.extrapolate_checkpoint` for a recipe with an adapter."""
    survey = survey_adapter(recipe, Path(out), resume=resume, force_space=force_space)
    survey.require()
    return carry_out(survey, out, beside=_files_beside, resume=resume, on_progress=on_progress)


def _files_beside(report: Report) -> dict[str, bytes]:
    survey, recipe = report.survey, report.recipe
    if survey.aligned is None:
        raise ValueError("a survey without errors has the adapter")
    folder = survey.aligned.folder
    base = Path(recipe.base) if survey.base is None else survey.base.folder
    files = side_files(recipe, survey, report, base, folder)
    if recipe.adapter == "adapter":
        config = scaled_config(recipe, open_adapter(folder))
        files[CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    elif "config.json" in files:
        files["config.json"] = _with_vocabulary(files["config.json"], survey.tasks)
    return files


def _with_vocabulary(config: bytes, tasks: list[TensorTask]) -> bytes:
    """config.json with the number of rows that the adapter's embedding has, where it grew."""
    sizes = {task.aligned.shape[0]: task.rows for task in tasks if task.rows is not None}
    if not sizes:
        return config
    content = json.loads(config)
    for one in (content, content.get("text_config")):
        if isinstance(one, dict) and "vocab_size" in one:
            one["vocab_size"] = max(sizes)
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()

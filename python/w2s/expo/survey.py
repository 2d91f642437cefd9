"""`survey`: what an extrapolation will do and what will go wrong, before a byte of weight is read.

Looked at are the headers of the weight files, configs, tokenizers and the place of the result.
docs/check.md lists the codes of the findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2s.errors import ExpoError
from w2s.expo.checkpoint import Checkpoint, open_checkpoint
from w2s.expo.inputs import local_folder, roles
from w2s.expo.recipe import Recipe
from w2s.expo.rules.configs import config_findings, read_config
from w2s.expo.rules.files import (
    folder_findings,
    pickled_findings,
    quantization_findings,
    same_file_findings,
)
from w2s.expo.rules.output import output_findings
from w2s.expo.rules.pairing import is_embedding, is_head, pair_up
from w2s.expo.rules.settings import recipe_findings
from w2s.expo.rules.tensors import Plan, plan_tasks, tensor_findings
from w2s.expo.rules.tokenizers import Tokenizer, new_tokens, tokenizer_findings
from w2s.expo.tasks import FLOATING, TensorTask
from w2s.preflight.finding import Finding, error, worst_first

# Of a result beside its tensors: its headers' bytes a tensor, and all small files, at most.
_HEADER_BYTES, _SIDE_BYTES = 256, 64 << 20


@dataclass(frozen=True)
class Survey:
    """What was found, worst first, and what is to be done.

    tasks: one for each tensor of θ₁, in its order; shards: the same, cut into the result's files.
    bytes_read, bytes_written: of tensors. largest_tensor: bytes of the largest one that is read or
    written. base, aligned: the opened checkpoints; None (and no tasks) where an error kept them
    from being opened. out: the result's folder, when it was given.
    """

    recipe: Recipe
    findings: list[Finding]
    tasks: list[TensorTask] = field(default_factory=list)
    shards: list[list[TensorTask]] = field(default_factory=list)
    bytes_read: int = 0
    bytes_written: int = 0
    largest_tensor: int = 0
    base: Checkpoint | None = None
    aligned: Checkpoint | None = None
    out: Path | None = None

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]

    def require(self) -> None:
        """Raises ExpoError in the words of the first error; says how many more there are."""
        errors = self.errors
        if errors:
            more = f" ({len(errors) - 1} more: w2s expo check)" if len(errors) > 1 else ""
            raise ExpoError(errors[0].sentence + more)

    @property
    def looked_at(self) -> list[str]:
        """A line for each checkpoint, for a report that finds nothing."""
        found = []
        for who, one in zip(roles(self.recipe), (self.base, self.aligned), strict=True):
            if one is not None:
                files = "1 file" if len(one.shards) == 1 else f"{len(one.shards)} files"
                found.append(f"{who}: {len(one.tensors)} tensors in {files}")
        if self.recipe.adapter is not None and self.aligned is not None:
            found[-1] = f"{roles(self.recipe)[1]}: a LoRA adapter"
        return found


def check_recipe(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    force_space: bool = False,
) -> Survey:
    """Finds both checkpoints, opens them and surveys them: what `w2s expo check` says.

    With `recipe.adapter` it is `w2s.expo.adapter_run.survey_adapter` that looks. Damaged
    weight files are findings here (`weights-damaged`).

    Raises:
        ExpoError: a name leads to no folder and no repository.
    """
    place = None if out is None else Path(out)
    if recipe.adapter is not None:
        from w2s.expo.adapter_run import survey_adapter

        return survey_adapter(recipe, place, resume=resume, force_space=force_space)
    folders = (
        local_folder(recipe.base, recipe.base_revision),
        local_folder(recipe.aligned, recipe.aligned_revision),
    )
    who = roles(recipe)
    found = [*folder_findings(recipe, *folders, who)]
    opened: list[Checkpoint] = []
    if not any(one.level == "error" for one in found):
        for folder, name in zip(folders, who, strict=True):
            try:
                opened.append(open_checkpoint(folder, name))
            except ExpoError as reason:
                what, _, advice = str(reason).rpartition("; ")
                found.append(error("weights-damaged", what, advice))
    if len(opened) < 2:
        if place is not None:
            found += output_findings(place, 0, resume=resume, force_space=force_space)
        return Survey(recipe, worst_first(iter(found)), out=place)
    done = survey(recipe, opened[0], opened[1], place, resume=resume, force_space=force_space)
    return done if not found else _with(done, found)


def survey(
    recipe: Recipe,
    base: Checkpoint,
    aligned: Checkpoint,
    out: Path | None = None,
    *,
    resume: bool = False,
    force_space: bool = False,
) -> Survey:
    """What `recipe` makes of two opened checkpoints.

    out: the result's folder; with it, the place and its free space are looked at. resume: a partial
    result beside it is gone on with. force_space: too little space is a warning.

    Raises nothing for what is wrong with the checkpoints: errors are among the findings.
    """
    who = roles(recipe)
    configs = (read_config(base.folder), read_config(aligned.folder))
    pairing = pair_up(base.tensors, aligned.tensors, configs, aligned.tied)
    plan = plan_tasks(recipe, pairing, configs)
    shards = cut_shards(recipe, plan.tasks, aligned.shards)
    written = sum(map(out_bytes, plan.tasks))
    tokenizers = (Tokenizer(base.folder), Tokenizer(aligned.folder))
    grown = min((one.shape[0] for one, _ in plan.grown), default=None)
    tokens = "" if grown is None else new_tokens(tokenizers[1], grown)
    found = [
        *quantization_findings(base, configs[0], who[0]),
        *quantization_findings(aligned, configs[1], who[1]),
        *same_file_findings(base, aligned, who),
        *config_findings(*configs, who),
        *tensor_findings(pairing, plan, tokens, who),
        *tokenizer_findings(*tokenizers, *_vocabulary_rows(plan), who),
        *recipe_findings(recipe, plan.tasks),
        *pickled_findings(base, who[0]),
        *pickled_findings(aligned, who[1]),
    ]
    if out is not None:
        needed = result_bytes(plan.tasks, aligned.folder)
        found += output_findings(out, needed, resume=resume, force_space=force_space)
    return Survey(
        recipe,
        worst_first(iter(found)),
        plan.tasks,
        shards,
        bytes_read=sum(map(_read, plan.tasks)),
        bytes_written=written,
        largest_tensor=max(map(_largest, plan.tasks), default=0),
        base=base,
        aligned=aligned,
        out=out,
    )


def _with(done: Survey, found: Sequence[Finding]) -> Survey:
    done.findings[:] = worst_first(iter([*found, *done.findings]))
    return done


def out_bytes(task: TensorTask) -> int:
    """Bytes of a task's tensor in the result."""
    if task.out_code == task.aligned.code:
        return task.aligned.nbytes
    return math.prod(task.aligned.shape) * FLOATING[task.out_code].itemsize


def _read(task: TensorTask) -> int:
    if task.base is None:
        return task.aligned.nbytes
    return task.aligned.nbytes + _base_bytes(task)


def _base_bytes(task: TensorTask) -> int:
    """Bytes of θ₀'s tensor that are read: those of the rows that both have."""
    if task.base is None:
        return 0
    if task.rows is None:
        return math.prod(task.aligned.shape) * FLOATING[task.base.code].itemsize
    return task.base.nbytes


def _largest(task: TensorTask) -> int:
    return max(task.aligned.nbytes, _base_bytes(task), out_bytes(task))


def _vocabulary_rows(plan: Plan) -> tuple[int | None, bool]:
    """How many rows of tokens both sides have, and whether any of them is extrapolated."""
    tables = [task for task in plan.tasks if _by_token(task)]
    changed = [task for task in tables if task.base is not None]
    rows = [
        min(task.aligned.shape[0], task.base.shape[0]) for task in changed if task.base is not None
    ]
    return min(rows, default=None), bool(changed)


def _by_token(task: TensorTask) -> bool:
    return is_embedding(task.aligned.name) or is_head(task.aligned.name)


def cut_shards(
    recipe: Recipe, tasks: Sequence[TensorTask], files: Sequence[str]
) -> list[list[TensorTask]]:
    """The result's files: those of θ₁, or as full as `shard_size` lets them be."""
    if recipe.shard_size is None:
        by_file: dict[str, list[TensorTask]] = {name: [] for name in files}
        for task in tasks:
            by_file[task.aligned.shard].append(task)
        return [shard for shard in by_file.values() if shard]
    shards: list[list[TensorTask]] = []
    used = 0
    for task in tasks:
        size = out_bytes(task)
        if not shards or used + size > recipe.shard_size:
            shards.append([])
            used = 0
        shards[-1].append(task)
        used += size
    return shards


def result_bytes(tasks: Sequence[TensorTask], folder: Path) -> int:
    """About what a result takes on the disk; folder: θ₁'s, whose small files are copied."""
    return sum(map(out_bytes, tasks)) + _HEADER_BYTES * len(tasks) + _side_bytes(folder)


def _side_bytes(folder: Path) -> int:
    """About what the small files of the result take: those of θ₁ that may be copied."""
    sizes: Iterator[int] = (
        path.stat().st_size
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith((".safetensors", ".bin", ".gguf"))
    )
    return min(_SIDE_BYTES, sum(sizes))

"""Runs the experiment in a folder, and makes its report from what the folder holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.cli.errors import BadInput
from w2s.durable import replace_file
from w2s.reproduce import stamp
from w2s.reproduce.draws import draw
from w2s.reproduce.experiment import OPENING_TOKENS, Batch, Experiment, full, quick
from w2s.reproduce.figures import measured, report
from w2s.reproduce.judge import Judge, kept_judge
from w2s.reproduce.measures import vader
from w2s.reproduce.pace import PROBE_TOKENS, announcement, paced, seconds_left
from w2s.reproduce.plots import plot_candidates, plot_tokens
from w2s.reproduce.store import Store, read_manifest, read_records

if TYPE_CHECKING:
    from w2s.cli.models import Models

JUDGE_FILE = "judge.npz"
REPORT_FILE = "report.json"
TOKENS_PLOT, CANDIDATES_PLOT = "quality-tokens.svg", "quality-candidates.svg"
_LAYOUT = 1  # of the manifest and of how texts follow from it


@dataclass(frozen=True)
class Scale:
    """Which experiment: the quick one or the full one, at its own size or another."""

    quick: bool = False
    openings: int | None = None
    seeds: int | None = None

    def experiment(self) -> Experiment:
        given = {"openings": self.openings, "seeds": self.seeds}
        kept = {name: value for name, value in given.items() if value is not None}
        return quick(**kept) if self.quick else full(**kept)


def manifest(
    scale: Scale, openings: Sequence[str], names: Sequence[str], models: Models
) -> dict[str, Any]:
    """Everything that the texts and their times depend on."""
    return {
        "w2s reproduce sentiment": _LAYOUT,
        "scale": {"quick": scale.quick, "openings": scale.openings, "seeds": scale.seeds},
        "experiment_settings": scale.experiment().described(),
        "texts of the openings": stamp.digest(openings),
        "models": stamp.fingerprints(names, models),
        "versions": stamp.versions(),
        "machine": stamp.machine(),
    }


def run(
    store: Store,
    experiment: Experiment,
    models: Models,
    openings: Sequence[str],
    *,
    say: Callable[[str], None],
    on_batch: Callable[[Batch, float, float], None],
) -> None:
    """Draws every batch that `store` does not hold yet.

    say: takes one line before the work starts, with the time expected. on_batch: called before a
    batch with the seconds of work done so far (earlier runs' too) and the seconds expected to be
    left.
    """
    left = [batch for batch in experiment.batches() if batch.key not in store.records]
    if not left:
        return
    finished = len(store.records)
    if finished:
        say(f"going on after {finished} of {finished + len(left)} batches in {store.folder}")
    say("measuring the speed of each kind of search …")
    pace = paced(experiment, store.records, _prober(models, openings, experiment.skip))
    say(announcement(left, pace))
    commit = stamp.commit()
    done = sum(record["seconds"] for record in store.records.values())
    for place, batch in enumerate(left):
        on_batch(batch, done, seconds_left(left[place:], pace))
        record = draw(models, batch, openings, experiment.skip)
        store.add({**record, "commit": commit})
        pace.observe(batch, record["seconds"])
        done += record["seconds"]
    on_batch(left[-1], done, 0.0)


def _prober(models: Models, openings: Sequence[str], skip: int) -> Callable[[Batch], float]:
    """Times a batch of `PROBE_TOKENS` tokens; the first time after a search that warms up."""
    warm = False

    def probe(batch: Batch) -> float:
        nonlocal warm
        if not warm:
            one = Batch(batch.run, batch.seed, batch.first, batch.first + 1)
            draw(models, one, openings, skip, new_tokens=1)
            warm = True
        return float(draw(models, batch, openings, skip, new_tokens=PROBE_TOKENS)["seconds"])

    return probe


def judge_in(folder: Path, say: Callable[[str], None]) -> Judge:
    """The judge kept in `folder`, trained there when there is none yet.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        return kept_judge(folder / JUDGE_FILE, say)
    except ValueError as error:
        raise BadInput(str(error)) from error


def make_report(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Judges the finished batches in `folder`; writes report.json and both plots there.

    Raises:
        BadInput: batches are missing, or the folder holds something else.
    """
    made_with = read_manifest(folder)
    if made_with.get("w2s reproduce sentiment") != _LAYOUT:
        raise BadInput(
            f"{folder} was written by another version of w2s; make its report with that version"
        )
    experiment = Scale(**made_with["scale"]).experiment()
    if experiment.described() != made_with["experiment_settings"]:
        raise BadInput(
            f"{folder} holds another version of the experiment; make its report with that version"
        )
    records = read_records(folder)
    batches = list(experiment.batches())
    missing = sum(batch.key not in records for batch in batches)
    if missing:
        raise BadInput(
            f"{missing} of {len(batches)} batches are missing in {folder}; run `w2s reproduce "
            "sentiment` with the same settings to finish them"
        )
    judge = judge_in(folder, say)
    say("judging the texts …")
    figures = measured(experiment, records, {"judge": judge, "vader": vader()})
    found = {
        "experiment": "sentiment",
        **made_with,
        "commits": sorted({record["commit"] or "unknown" for record in records.values()}),
        "seconds": math.fsum(record["seconds"] for record in records.values()),
        "judge": judge.facts,
        **report(figures),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / REPORT_FILE, [text.encode()])
    plot_tokens(found, folder / TOKENS_PLOT)
    plot_candidates(found, folder / CANDIDATES_PLOT)
    return found


def held_out_openings(models: Models, experiment: Experiment) -> list[str]:
    """The experiment's openings, in its order.

    Raises:
        BadInput: there are not so many held-out reviews, or the reviews are not installed.
    """
    from w2s import embedded
    from w2s.embedded.demo_package import MissingDemoError

    try:
        return embedded.openings(
            models.large.tokenizer,
            experiment.openings,
            tokens=OPENING_TOKENS,
            skip=experiment.skip,
        )
    except (MissingDemoError, ValueError) as error:
        raise BadInput(" ".join(str(error).split())) from error

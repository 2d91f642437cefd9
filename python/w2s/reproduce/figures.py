"""From finished batches to figures: every text judged, every method summarised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.reproduce.bootstrap import RESAMPLES, Estimate, mean_interval
from w2s.reproduce.experiment import BASE, BON, CBS, EFT, Experiment, Method, Run
from w2s.reproduce.measures import distinct_2
from w2s.reproduce.store import Key, Record

JUDGES = ("judge", "vader")
# Compared on both judges, the first minus the second.
COMPARISONS = ((CBS, BON), (BON, BASE), (CBS, BASE), (EFT, BASE), (BON, EFT))
_LEAST_OPENINGS = 20  # below that the percentiles of resampled means are far too narrow
Measure = Callable[[str], float]
Matrix = NDArray[np.float64]  # [openings, seeds]


@dataclass(frozen=True)
class MethodFigures:
    """One method: per measure a matrix [openings, seeds], and what an opening and seed cost.

    values: "judge", "vader", "distinct-2", "words", "tokens", and "score" where there is a pair.
    An entry is the mean over the texts that count. large_tokens: written by the large model,
    discarded ones included. pair_tokens: read by the pair's two models together. seconds: of the
    run; a method that uses a part of a pool counts that part of its time (`seconds_shared`).
    """

    method: Method
    seeds: tuple[int, ...]
    values: dict[str, Matrix]
    large_tokens: float
    pair_tokens: float
    seconds: float
    seconds_shared: bool


def measured(
    experiment: Experiment, records: Mapping[Key, Record], judges: Mapping[str, Measure]
) -> list[MethodFigures]:
    """The figures of every method of the experiment; all its batches are in `records`.

    judges: "judge" and "vader", each from a text to a number.
    """
    known: dict[str, dict[str, float]] = {}

    def judged(text: str) -> dict[str, float]:
        if text not in known:
            known[text] = {
                **{name: judge(text) for name, judge in judges.items()},
                "distinct-2": distinct_2(text),
                "words": float(len(text.split())),
            }
        return known[text]

    by_run: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    for batch in experiment.batches():
        record = records[batch.key]
        rows = by_run.setdefault(batch.run.name, {})
        rows.update({(row["opening"], batch.seed): row for row in record["rows"]})
        seconds[batch.run.name] = seconds.get(batch.run.name, 0.0) + record["seconds"]
    return [
        _method(method, experiment.run(method.run), by_run[method.run], seconds[method.run], judged)
        for method in experiment.methods
    ]


def _method(
    method: Method,
    run: Run,
    rows: Mapping[tuple[int, int], dict[str, Any]],
    seconds: float,
    judged: Callable[[str], dict[str, float]],
) -> MethodFigures:
    cells: dict[str, list[list[float]]] = {}
    large = 0.0
    for opening in range(run.openings):
        of_seed = [_cell(method, run, rows[opening, seed], judged) for seed in run.seeds]
        for name in of_seed[0]:
            cells.setdefault(name, []).append([cell[name] for cell in of_seed])
        large += sum(_written(method, run, rows[opening, seed]) for seed in run.seeds)
    count = run.openings * len(run.seeds)
    share = 1.0 if run.kind == "search" else (method.best_of or 1) / run.samples
    return MethodFigures(
        method,
        run.seeds,
        {name: np.array(table) for name, table in cells.items()},
        large_tokens=large / count,
        pair_tokens=2 * large / count if method.guided else 0.0,
        seconds=seconds * share / count,
        seconds_shared=share != 1.0,
    )


def _cell(
    method: Method, run: Run, row: dict[str, Any], judged: Callable[[str], dict[str, float]]
) -> dict[str, float]:
    """The mean over the texts that count: all of them, or the best of the first so many."""
    places = list(range(len(row["texts"])))
    if method.best_of is not None:
        # Of equal scores the earlier draw, as in a search.
        places = [max(range(method.best_of), key=lambda place: (row["scores"][place], -place))]
    found: dict[str, list[float]] = {}
    for place in places:
        for name, value in judged(row["texts"][place]).items():
            found.setdefault(name, []).append(value)
        found.setdefault("tokens", []).append(float(row["tokens"][place]))
        if row["scores"] is not None:
            found.setdefault("score", []).append(row["scores"][place])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _written(method: Method, run: Run, row: dict[str, Any]) -> float:
    """Tokens the large model writes for one result of the method."""
    if run.kind == "search":
        return float(row["written"])
    if method.best_of is not None:
        return float(sum(row["tokens"][: method.best_of]))
    return float(np.mean(row["tokens"]))


def difference(
    above: MethodFigures, below: MethodFigures, measure: str, resamples: int = RESAMPLES
) -> Estimate:
    """above − below, paired, on the openings and seeds that both were run on.

    Seeds are averaged within an opening first; openings are resampled.
    """
    seeds = [seed for seed in above.seeds if seed in below.seeds]
    parts = [
        side.values[measure][:, [side.seeds.index(seed) for seed in seeds]]
        for side in (above, below)
    ]
    count = min(len(part) for part in parts)
    return mean_interval((parts[0][:count] - parts[1][:count]).mean(axis=1), resamples)


def report(figures: list[MethodFigures], resamples: int = RESAMPLES) -> dict[str, Any]:
    """All figures as plain data: `methods`, `differences`, and the paper's `order` by each judge.

    A method's `gain` is its paired difference to the base, what the plots show.
    """
    by_name = {one.method.name: one for one in figures}
    methods = [
        {
            **asdict(one.method),
            "openings": len(one.values["judge"]),
            "seeds": list(one.seeds),
            "measures": {
                name: {
                    **asdict(mean_interval(table.mean(axis=1), resamples)),
                    "by_seed": table.mean(axis=0).tolist(),
                }
                for name, table in one.values.items()
            },
            "gain": {
                judge: asdict(difference(one, by_name[BASE], judge, resamples)) for judge in JUDGES
            },
            "large_tokens": one.large_tokens,
            "pair_tokens": one.pair_tokens,
            "seconds": one.seconds,
            "seconds_shared": one.seconds_shared,
        }
        for one in figures
    ]
    differences = {
        judge: [
            {
                "above": above,
                "below": below,
                **asdict(difference(by_name[above], by_name[below], judge, resamples)),
            }
            for above, below in COMPARISONS
        ]
        for judge in JUDGES
    }
    return {
        "methods": methods,
        "differences": differences,
        "order": {
            judge: order(differences[judge], len(by_name[CBS].values["judge"])) for judge in JUDGES
        },
    }


def order(differences: list[dict[str, Any]], openings: int) -> dict[str, Any]:
    """Whether the paper's order, CBS > BoN ≈ EFT > base, holds by these paired differences.

    `verdict`: "holds" when CBS > BoN, BoN > base and EFT > base all have intervals above 0, "does
    not hold" when one has its interval below 0, else "is not settled"; "too few openings" where a
    bootstrap over them says nothing. BoN ≈ EFT can only be contradicted, not shown, by an
    interval: `bon_eft` is "not told apart", "BoN above" or "EFT above".
    """
    sign = {
        (one["above"], one["below"]): Estimate(one["mean"], one["low"], one["high"]).sign
        for one in differences
    }
    steps = [sign[CBS, BON], sign[BON, BASE], sign[EFT, BASE]]
    verdict = "does not hold" if -1 in steps else "is not settled" if 0 in steps else "holds"
    if openings < _LEAST_OPENINGS:
        verdict = "too few openings"
    told = {1: "BoN above", 0: "not told apart", -1: "EFT above"}[sign[BON, EFT]]
    return {"verdict": verdict, "bon_eft": told}

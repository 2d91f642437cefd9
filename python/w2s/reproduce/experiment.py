"""Controlled sentiment (arXiv 2405.19262, section 5.1): what is drawn, and what is compared.

A `Run` is one search on many openings; a `Method` is a row of the table. They differ because some
methods share draws: the texts of one pool of 16 are the base's samples, and the best of its first
4, 8 and 16 are best-of-4, -8 and -16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from w2s.plan import SearchPlan

Kind = Literal["pool", "search", "guided"]

NEW_TOKENS = 48
OPENING_TOKENS = 8
# Rows a forward takes at once: more pay little on two cores; 25 pools of 16 divide 200 openings.
# Part of the experiment, since a model's last bits depend on it.
ROWS = 400
# Openings looked at while the embedded pair was made; only --quick uses them.
SEEN_OPENINGS = 48


@dataclass(frozen=True)
class Run:
    """One search on the first `openings` openings, once for each seed.

    kind: "pool" keeps every text of a best-of-N, "search" the best one, "guided" draws every token
    from the guided law (EFT) and keeps every text.
    """

    name: str
    kind: Kind
    width: int
    samples: int
    chunk: int | None
    openings: int
    seeds: tuple[int, ...]
    beta: float = 0.0

    def plan(self, seed: int, new_tokens: int = NEW_TOKENS) -> SearchPlan:
        """Temperature 0.7 and top-k 50, as in the paper."""
        return SearchPlan(
            self.width,
            self.samples,
            self.chunk,
            max_new_tokens=new_tokens,
            temperature=0.7,
            top_k=50,
            seed=seed,
        )

    @property
    def pool(self) -> int:
        """Rows an opening."""
        return self.width * self.samples

    @property
    def shape(self) -> str:
        """Runs of one shape cost about the same a row and token."""
        return self.kind if self.chunk is None else f"{self.kind} {self.chunk}"


@dataclass(frozen=True)
class Method:
    """A row of the table: the best of the first `best_of` texts of a run, or with None all of them.

    candidates: W·K, what the method pays for. chunk: L, None for whole responses.
    """

    name: str
    run: str
    best_of: int | None
    candidates: int
    chunk: int | None
    guided: bool = True  # the pair takes part


@dataclass(frozen=True)
class Batch:
    """Openings [first, end) of a run with one seed: what is done, or not, as a whole."""

    run: Run
    seed: int
    first: int
    end: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.run.name, self.seed, self.first

    @property
    def tokens(self) -> int:
        """Tokens of the large model when no row ends early."""
        return (self.end - self.first) * self.run.pool * NEW_TOKENS


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the texts, the models apart."""

    openings: int
    skip: int
    runs: tuple[Run, ...]
    methods: tuple[Method, ...]
    rows: int = ROWS

    def batches(self) -> Iterator[Batch]:
        """All work, the runs interleaved: a machine that slows down slows all of them."""
        found = []
        for place, run in enumerate(self.runs):
            step = max(1, self.rows // run.pool)
            for seed in run.seeds:
                for first in range(0, run.openings, step):
                    end = min(first + step, run.openings)
                    found.append((seed, end / run.openings, place, Batch(run, seed, first, end)))
        return iter(batch for *_, batch in sorted(found, key=lambda entry: entry[:3]))

    def run(self, name: str) -> Run:
        return next(run for run in self.runs if run.name == name)

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "openings": self.openings,
            "opening_tokens": OPENING_TOKENS,
            "skip": self.skip,
            "rows_at_once": self.rows,
            "runs": [
                {**asdict(run), "seeds": list(run.seeds), "plan": _law(run)} for run in self.runs
            ],
        }


def _law(run: Run) -> dict[str, Any]:
    plan = asdict(run.plan(0))
    return {name: plan[name] for name in ("max_new_tokens", "temperature", "top_k", "top_p")}


BASE, BON, CBS, EFT = "base", "BoN-16", "CBS 4,4,5", "EFT β=1"

# W, K, L beside the paper's 4, 4, 5: fewer and more candidates, other chunks, other shares.
_VARIANTS: tuple[tuple[int, int, int], ...] = (
    (2, 2, 5), (4, 2, 5), (8, 4, 5), (4, 4, 1), (4, 4, 10), (1, 16, 5), (8, 2, 5),
)  # fmt: skip
_QUICK_VARIANTS: tuple[tuple[int, int, int], ...] = ((2, 2, 5), (4, 4, 10), (1, 16, 5))


def full(openings: int = 200, seeds: int = 3) -> Experiment:
    """The experiment: 200 openings that nobody looked at, three seeds; variants on 40, one seed."""
    return _experiment(openings, seeds, SEEN_OPENINGS, min(40, openings), _VARIANTS, many=True)


def quick(openings: int = 48, seeds: int = 1) -> Experiment:
    """The same in minutes: 48 openings, one seed; three variants on 24."""
    return _experiment(openings, seeds, 0, min(24, openings), _QUICK_VARIANTS, many=False)


def _experiment(
    openings: int,
    seeds: int,
    skip: int,
    some: int,
    variants: tuple[tuple[int, int, int], ...],
    *,
    many: bool,
) -> Experiment:
    everything = tuple(range(seeds))
    pool = Run("pool of 16", "pool", 1, 16, None, openings, everything)
    runs = [
        pool,
        Run(CBS, "search", 4, 4, 5, openings, everything),
        Run(EFT, "guided", 1, 2, None, openings, everything, beta=1.0),
    ]
    methods = [
        Method(BASE, pool.name, None, 1, None, guided=False),
        Method(EFT, EFT, None, 1, None),
        *(Method(f"BoN-{n}", pool.name, n, n, None) for n in (4, 8, 16)),
    ]
    if many:
        wide = Run("pool of 32", "pool", 1, 32, None, some, (0,))
        runs.append(wide)
        methods.append(Method("BoN-32", wide.name, 32, 32, None))
    methods.append(Method(CBS, CBS, None, 16, 5))
    for width, samples, chunk in variants:
        name = f"CBS {width},{samples},{chunk}"
        runs.append(Run(name, "search", width, samples, chunk, some, (0,)))
        methods.append(Method(name, name, None, width * samples, chunk))
    return Experiment(openings, skip, tuple(runs), tuple(methods))

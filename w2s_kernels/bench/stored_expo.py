"""Result files of `bench/expo/expo_speed.py --json`, read back and checked; without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .stored_parts import Stamp, number, read_stamp

PLAIN = "plain"
OURS = ("nearest", "stochastic")
STATES = ("hot", "cold")


@dataclass(frozen=True)
class ExpoWay:
    """One way to a result. call, process: seconds of each run by state, in the order of the rounds,
    of the work alone and of its whole process. peak: bytes of anonymous memory above the imports.
    units: largest distance from float64 in units in the last place; None does not compute."""

    call: Mapping[str, tuple[float, ...]]
    process: Mapping[str, tuple[float, ...]]
    peak: float
    units: float | None


@dataclass(frozen=True)
class ExpoFile:
    """What `bench/expo/expo_speed.py --json` wrote; ways by name, sizes in bytes."""

    name: str
    stamp: Stamp
    dtype: str
    rounds: int
    layers: int
    vocab: int
    checkpoint: float
    largest: float
    absent: Mapping[str, str]
    ways: Mapping[str, ExpoWay]

    def rate(self, way: str, state: str) -> float:
        """Bytes a second: both checkpoints read and the result written, in the median call."""
        return 3 * self.checkpoint / median(self.ways[way].call[state])

    def of_plain(self, way: str, state: str) -> tuple[float, float, float] | None:
        """The way's speed over plain copying's of the same round: least, median, most."""
        if PLAIN not in self.ways:
            return None
        both = zip(self.ways[PLAIN].call[state], self.ways[way].call[state], strict=True)
        found = [plain / mine for plain, mine in both]
        return min(found), median(found), max(found)


def expo_file(name: str, data: Any) -> ExpoFile:
    """The file called `name`; `KeyError`, `TypeError` or `ValueError` when it is none."""
    expo = data["expo"]
    rounds = int(number(expo["rounds"], "rounds"))
    ways = {str(way): _way(found, rounds) for way, found in expo["ways"].items()}
    if not ways:
        raise ValueError("expo holds no way")
    return ExpoFile(
        name=name,
        stamp=read_stamp(data["stamp"]),
        dtype=str(expo["dtype"]),
        rounds=rounds,
        layers=int(number(expo["size"]["layers"], "layers")),
        vocab=int(number(expo["size"]["vocab"], "vocab")),
        checkpoint=number(expo["checkpoint_bytes"], "checkpoint_bytes"),
        largest=number(expo["largest_tensor"], "largest_tensor"),
        absent={str(way): str(why) for way, why in expo["absent"].items()},
        ways=ways,
    )


def _way(data: Any, rounds: int) -> ExpoWay:
    seconds = {}
    for what in ("call", "process"):
        seconds[what] = {
            state: tuple(number(second, what) for second in data[state][what]) for state in STATES
        }
        if any(len(found) != rounds for found in seconds[what].values()):
            raise ValueError(f"a way has not {rounds} runs of each state")
    return ExpoWay(
        **seconds,
        peak=number(data["peak_anonymous"], "peak_anonymous", zero=True),
        units=None if data["units"] is None else number(data["units"], "units", zero=True),
    )

"""Measures one case: every provider that can run here, beside the machine's ceilings."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .case import Case, Inputs, Provider, Size, moved, nbytes
from .ceilings import Ceilings
from .timing import Times, by_turns, copies_for

_MEMINFO = Path("/proc/meminfo")
_CHECKED_ELEMENTS = 1 << 24  # a check in float64 goes over at most so many logits


@dataclass(frozen=True)
class Row:
    """A provider's figures, or why there are none.

    cold, hot: seconds of a call on inputs that are not / are in the last cache. error, ratio: the
    largest |error| against float64, and that over the op's tolerance. right: not known to be wrong.
    """

    provider: str
    absent: str | None = None
    cold: Times | None = None
    hot: Times | None = None
    error: float | None = None
    ratio: float | None = None
    right: bool = True


@dataclass(frozen=True)
class Result:
    """One case at one size. read, exp: bytes and exponentials a second of the machine."""

    op: str
    size: Size
    least_bytes: int
    exps: int
    flops: int
    read: float
    exp: float
    rows: list[Row] = field(default_factory=list)

    @property
    def floor(self) -> float:
        """Seconds that no implementation can beat: its bytes, or its exponentials."""
        return max(self.least_bytes / self.read, self.exps / self.exp)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        found = asdict(self)
        found["size"]["dtype"] = str(self.size.dtype).removeprefix("torch.")
        found["floor"] = self.floor
        return found


def measure(
    case: Case,
    size: Size,
    providers: list[str],
    *,
    seconds: float,
    check: bool,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Times the providers by turns and, with `check`, compares them with float64.

    A provider that is not ours and raises is one that cannot run here. say: gets a line before each
    step that may take long.

    Raises:
        ValueError: the inputs and what plain torch makes of them do not fit the free memory.
    """
    _check_memory(case, size)
    rows: dict[str, Row] = {}
    able: dict[str, Provider] = {}
    for name in providers:
        provider = case.providers.get(name)
        why = "is not a provider of this op" if provider is None else provider.absent(size)
        if provider is None or why is not None:
            rows[name] = Row(name, absent=why)
        else:
            able[name] = provider
    say(f"{case.op} {size}: making inputs")
    first = case.inputs(size, 0)
    sets = [moved(first, size.device)]
    for seed in range(1, copies_for(nbytes(first), size.device)):
        sets.append(moved(case.inputs(size, seed), size.device))
    verdicts: dict[str, tuple[float | None, float | None]] = {}
    judged = _judged_inputs(case, size)
    for name, provider in list(able.items()):
        say(f"{case.op} {size}: {'checking' if check else 'trying'} {name}")
        why = None if provider.strict else _fails(provider, sets[0])
        if why is not None:
            rows[name] = Row(name, absent=why)
            del able[name]
            continue
        verdicts[name] = _judge(case, provider, judged) if check else (None, None)
    say(f"{case.op} {size}: timing {', '.join(able)}")
    ceilings = Ceilings(size.dtype, size.device)
    calls: dict[str, Any] = dict(ceilings.calls)
    for name, provider in able.items():
        ready = [provider.prepare(inputs) for inputs in sets]
        calls[f"{name} cold"] = _call(provider, ready)
        if len(ready) > 1:  # one set alone is far beyond any cache: there is no hot call of it
            calls[f"{name} hot"] = _call(provider, ready[:1])
    with torch.no_grad():
        times = by_turns(calls, seconds=seconds, device=size.device)
    read, exp = ceilings.rates({name: times[name].least for name in ceilings.calls})
    for name, provider in able.items():
        error, ratio = verdicts[name]
        wrong = provider.strict and ratio is not None and not ratio <= 1.0
        rows[name] = Row(
            name,
            cold=times[f"{name} cold"],
            hot=times.get(f"{name} hot", times[f"{name} cold"]),
            error=error,
            ratio=ratio,
            right=not wrong,
        )
    return Result(
        case.op,
        size,
        case.least_bytes(size),
        case.exps(size),
        case.flops(size),
        read,
        exp,
        [rows[name] for name in providers],
    )


def _fails(provider: Provider, inputs: Inputs) -> str | None:
    """What one call raises, in a line; None when it runs."""
    try:
        with torch.no_grad():
            provider.call(*provider.prepare(inputs))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    except Exception as error:  # somebody else's code: whatever it is, the others still run
        first = (str(error).strip() or "no message").splitlines()[0]
        return f"raised {type(error).__name__}: {first[:160]}"
    return None


def _check_memory(case: Case, size: Size) -> None:
    """On a CPU, where too much ends the process without a word."""
    if size.device != "cpu" or not _MEMINFO.is_file():
        return
    sets = copies_for(case.least_bytes(size), size.device) * case.least_bytes(size)
    logits = 16 * size.rows * size.vocab if "vocab" in case.uses else 0  # plain torch's, in fp32
    free = next(
        int(line.split()[1]) * 1024
        for line in _MEMINFO.read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    if sets + logits > free:
        raise ValueError(
            f"{case.op} {size} takes about {(sets + logits) / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free; give fewer --rows or a smaller --vocab"
        )


def _call(provider: Provider, sets: list[Inputs]) -> Any:
    return lambda turn: provider.call(*sets[turn % len(sets)])


def _judged_inputs(case: Case, size: Size) -> Callable[[], Inputs]:
    """Inputs of their own to check on, with fewer rows where a check of all would take minutes.

    Made once, but anew for each call of an op that changes them.
    """
    rows = max(1, min(size.rows, _CHECKED_ELEMENTS // max(size.vocab, 1)))
    checked = Size(**{**asdict(size), "rows": rows, "dtype": size.dtype})

    def make() -> Inputs:
        found: Inputs = moved(case.inputs(checked, 12345), size.device)
        return found

    return make if case.op.endswith("_") else functools.cache(make)


def _judge(
    case: Case, provider: Provider, judged: Callable[[], Inputs]
) -> tuple[float | None, float | None]:
    if not provider.judged:
        return None, None
    inputs = judged()
    with torch.no_grad():
        found = provider.call(*provider.prepare(inputs))
        return case.error(found, inputs)

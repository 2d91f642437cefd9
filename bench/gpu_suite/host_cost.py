"""What a warm call costs the host beside its launches, on any machine.

    PYTHONPATH=.:python:bench python -m gpu_suite.host_cost

On a CUDA device the calls are real and the cost of an empty launch is taken off, launch by launch.
Elsewhere the launches themselves are left out: arguments are described, buffers allocated, pointers
collected, and a function that does nothing takes the kernel's place. Either way the figures are
microseconds of this host's processor, the least of many calls.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

LIMIT = 15.0  # µs a warm call may take over its launches


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=3000, help="calls of each op")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    return parser.parse_args()


def _without_launches() -> None:
    """Kernels of this process do nothing, so that CPU tensors take the calls of a device."""
    import torch

    from w2s_kernels.triton_kernels import launch, replay

    class Nothing:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *arguments, stream: None

    nothing = Nothing()
    launch._launch = lambda *_: nothing  # type: ignore[assignment]
    replay.INTERPRETED = False
    torch._C._cuda_getCurrentRawStream = lambda index: 0  # type: ignore[assignment]


def _calls(device: str) -> dict[str, Callable[[], Any]]:
    import torch

    import w2s_kernels as wk

    rows, width, vocab = 16, 128, 49152
    dtype = torch.bfloat16
    tuned, untuned = (torch.randn(rows, vocab, device=device).to(dtype) for _ in range(2))
    hidden_t, hidden_u = (torch.randn(rows, width, device=device).to(dtype) for _ in range(2))
    head_t, head_u = (wk.Head(torch.randn(vocab, width, device=device).to(dtype)) for _ in range(2))
    target = torch.randint(vocab, (rows,), device=device)
    return {
        "logprob": lambda: wk.logprob(tuned, target),
        "logprob, temperature 0.7, entropy": lambda: wk.logprob(
            tuned, target, temperature=0.7, entropy=True
        ),
        "logprob_stats": lambda: wk.logprob_stats(tuned, target),
        "logprob_diff": lambda: wk.logprob_diff(tuned, untuned, target),
        "linear_logprob": lambda: wk.linear_logprob(hidden_t, head_t, target),
        "linear_logprob_diff": lambda: wk.linear_logprob_diff(
            hidden_t, head_t, hidden_u, head_u, target
        ),
    }


def _least(call: Callable[[], Any], calls: int) -> float:
    """Microseconds of the fastest of so many calls: what the code takes when nothing disturbs."""
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
    return best / 1e3


def measure(calls: int) -> dict[str, dict[str, float]]:
    """op → microseconds of a warm call ("warm") and of one that is not replayed ("long")."""
    import torch

    from w2s_kernels.ops import _warm

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if not cuda:
        _without_launches()
    found = {}
    with torch.no_grad():
        for name, call in _calls(device).items():
            _warm.forget()
            for _ in range(3):
                call()
            recorded = _warm.recordings()
            if not recorded:
                raise RuntimeError(f"{name}: the call was not recorded")
            launches = len(recorded[0].launches)
            off = launches * _launch_cost(calls) if cuda else 0.0
            warm = _least(call, calls) - off
            with _long_way():
                found[name] = {
                    "launches": launches, "warm": warm, "long": _least(call, calls // 4) - off
                }  # fmt: skip
    return found


class _long_way:
    """Calls inside are not replayed: a function mode listens."""

    def __enter__(self) -> None:
        import torch.overrides

        self.mode = torch.overrides.BaseTorchFunctionMode()
        self.mode.__enter__()

    def __exit__(self, *error: object) -> None:
        self.mode.__exit__(*error)  # type: ignore[arg-type]


def _launch_cost(calls: int) -> float:
    """Microseconds of the host for an empty kernel by the same launcher."""
    import torch
    import triton

    @triton.jit
    def empty() -> None:
        pass

    compiled = empty[(1, 1, 1)]()
    stream = torch._C._cuda_getCurrentRawStream(torch.cuda.current_device())
    found = _least(lambda: compiled[(1, 1, 1)](stream=stream), calls)
    torch.cuda.synchronize()
    return found


def main() -> int:
    """Prints a table; 1 when a warm call takes more than the limit."""
    asked = _arguments()
    # Decided before the kernels are imported: without a device their functions take CPU tensors.
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ["W2S_KERNELS_BACKEND"] = "triton"
    torch.set_num_threads(1)
    found = measure(asked.calls)
    what = "beside its launches" if torch.cuda.is_available() else "with launches left out"
    print(f"{'µs of the host for a call, ' + what:<48}{'launches':>9}{'warm':>8}{'long way':>10}")
    for name, row in found.items():
        print(f"{name:<48}{row['launches']:>9}{row['warm']:>8.1f}{row['long']:>10.1f}")
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    over = [name for name, row in found.items() if row["warm"] > LIMIT]
    print(f"limit {LIMIT:.0f} µs: {'kept by all' if not over else 'passed by ' + ', '.join(over)}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())

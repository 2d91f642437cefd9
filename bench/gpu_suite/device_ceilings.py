"""What the device itself can do: reading, copying, multiplying, launching."""

from dataclasses import dataclass
from typing import Any

import torch

from w2s_kernels.bench.timing import by_turns, host_seconds

_PRODUCTS = {"8192 × 8192 × 8192": (8192, 8192, 8192), "4096 × 4096 × 128256": (4096, 4096, 128256)}


@dataclass(frozen=True)
class Ceilings:
    """read, copy: bytes a second (a copy counts both ways). products: flop a second in bf16, by
    shape. launch: seconds of the host for one small torch op."""

    read: float
    copy: float
    products: dict[str, float]
    launch: float

    @property
    def product(self) -> float:
        """The best of the products."""
        return max(self.products.values())


def measure(device: str, *, tiny: bool, seconds: float = 6.0) -> Ceilings:
    """Buffers of 1 GiB, three in turn; products of random numbers."""
    size = 1 << 20 if tiny else 1 << 30
    blocks = [torch.rand(size // 4, device=device) for _ in range(3)]
    to = torch.empty_like(blocks[0])
    calls: dict[str, Any] = {
        "sum": lambda turn: blocks[turn % 3].sum(),
        "max": lambda turn: blocks[turn % 3].view(torch.int32).amax(),
        "copy": lambda turn: to.copy_(blocks[turn % 3]),
    }
    shapes = {"64 × 64 × 64": (64, 64, 64)} if tiny else _PRODUCTS
    for name, (n, k, m) in shapes.items():
        a = torch.randn(n, k, device=device, dtype=torch.bfloat16)
        b = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        out = torch.empty(n, m, device=device, dtype=torch.bfloat16)
        calls[name] = lambda turn, a=a, b=b, out=out: torch.mm(a, b.T, out=out)
    times = by_turns(calls, seconds=seconds, device=device)
    small = torch.zeros(8, device=device)
    return Ceilings(
        read=size / min(times["sum"].median, times["max"].median),
        copy=2 * size / times["copy"].median,
        products={name: 2.0 * n * k * m / times[name].median for name, (n, k, m) in shapes.items()},
        launch=host_seconds(lambda turn: small.neg_()),
    )

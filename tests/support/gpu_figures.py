"""A GPU store's data with made-up figures: round numbers, so that shares are easy to check."""

from typing import Any

READ, PRODUCT = 1e12, 500e12  # bytes and flop a second


def _times(seconds: float) -> dict[str, Any]:
    return {"least": seconds, "median": seconds, "lower": seconds, "upper": seconds, "rounds": 9}


def _row(provider: str, seconds: float | None, absent: str | None = None) -> dict[str, Any]:
    times = None if seconds is None else _times(seconds)
    return {"provider": provider, "absent": absent, "cold": times, "hot": times, "error": 1e-7,
            "ratio": 0.1, "right": True}  # fmt: skip


def _op(
    op: str, rows: int, dim: int, flops: float, target: str, found: list[Any]
) -> dict[str, Any]:
    size = {"rows": rows, "vocab": 128256, "dim": dim, "k": 50, "dtype": "bfloat16",
            "device": "cuda"}  # fmt: skip
    return {"kind": "op", "op": op, "size": size, "least_bytes": 1e9, "exps": 1e9, "flops": flops,
            "read": READ, "exp": 1e13, "floor": 1e-3, "target": target, "rows": found}  # fmt: skip


def _ceilings() -> dict[str, Any]:
    return {"kind": "ceilings", "read": READ, "copy": READ, "products": {"8192": PRODUCT},
            "launch": 4e-6, "product": PRODUCT}  # fmt: skip


def figures(slower: float = 1.0) -> dict[str, Any]:
    """A suite's file. slower: what our kernels' seconds are multiplied by."""
    stamp = {
        "date": "2000-01-01 00:00 UTC", "commit": "0123456789", "device": "Made-up GPU",
        "driver": "1.0", "cpu": {"model": "Made-up CPU"}, "versions": {"torch": "0.0"},
        "peers": {"trl": None},
    }  # fmt: skip
    logits = [
        _op("logprob_diff", 4096, 0, 0, "92 % of reading",
            [_row("ours", slower * 1e-3 / 0.95), _row("eager", 5e-3),
             _row("trl", None, "trl is not installed")]),
        {"kind": "host", "op": "logprob_diff", "seconds": 30e-6, "torch_op": 4e-6},
    ]  # fmt: skip
    heads = [
        _op("linear_logprob_diff", 512, 4096, 1e12, "1.20 products",
            [_row("ours", slower * 3e-3), _row("products native", 2e-3)]),
    ]  # fmt: skip
    parts = dict.fromkeys(("large forward", "pair forward", "scoring"), 1.0)
    run = {
        "prompts": 8, "seconds": {"ours": [1.0 * slower], "public": [12.0]},
        "parts": {"ours": parts, "public": parts}, "outside_share": 0.02,
    }  # fmt: skip
    search = {"kind": "search", "name": "8 prompts", "code": 0, "seconds": 20.0, "tail": "",
              "report": {"models": "7b", "dtype": "bfloat16", "runs": [run]}}  # fmt: skip
    entries = {
        "ceilings": [_ceilings()],
        "logits": [_ceilings(), *logits],
        "many rows": [_ceilings(), *heads],
        "search 7b": [search],
    }
    return {
        "kind": "gpu-suite",
        "device": "Made-up GPU",
        "parts": {
            name: {"stamp": stamp, "state": "done", "seconds": 1.0, "entries": found}
            for name, found in entries.items()
        },
    }

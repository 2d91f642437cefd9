"""What runs here and why: `python -m w2s_kernels.info [--json]`.

Imports without torch, so that it can say that torch is what is missing.
"""

import argparse
import json
import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import w2s_kernels

VARIABLES = {
    "W2S_KERNELS_BACKEND": "forces a backend: cuda, triton, cpu or reference",
    "W2S_KERNELS_CHECKS": "1 validates values (targets in range, no NaN)",
    "W2S_KERNELS_ISA": "the CPU kernels' instructions: generic, avx2, avx512, avx512bf16 or neon",
}


def collect() -> dict[str, Any]:
    """The report as plain data (what `--json` prints).

    Keys: `versions` (None: not installed), `environment`, `cpu`, `library` (the compiled kernels:
    `loaded`, `reason`, `isa`, `isas`, `threads`), `cuda` (`devices`, `reason` when there are none),
    `ops` (op → the `backend` that takes `cpu` and `cuda` tensors, None where the forced one cannot,
    and `refused`: backend → reason; empty where no op can be imported),
    `notes` (sentences about what may surprise).
    """
    found: dict[str, Any] = {
        "versions": {
            "w2s_kernels": w2s_kernels.__version__,
            "python": platform.python_version(),
            "torch": _version("torch"),
            "triton": _version("triton"),
        },
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "cpu": {"model": _cpu_model(), "machine": platform.machine(), "cores": os.cpu_count()},
    }
    try:
        import torch
    except ImportError as error:
        reason = f"torch does not import ({error}); install it: pip install torch"
        found["library"] = {
            "loaded": False, "reason": reason, "isa": None, "isas": [], "threads": None,
        }  # fmt: skip
        found["cuda"] = {"devices": [], "reason": reason}
        found["ops"], found["notes"] = {}, [f"no op runs here: {reason}"]
        return found
    found["versions"]["torch"] = str(torch.__version__)
    found["library"] = _library_here()
    found["cuda"] = _cuda_here()
    found["ops"] = _ops_here()
    found["notes"] = _notes(found)
    return found


def _version(package: str) -> str | None:
    """Its version without importing it; None when it is not installed."""
    if util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _library_here() -> dict[str, Any]:
    import torch

    from . import _library

    loaded = _library.load()
    compiled = torch.ops.w2s_library
    return {
        "loaded": loaded,
        "reason": _library.reason(),
        "isa": compiled.isa() if loaded else None,
        "isas": compiled.isas().split() if loaded else [],
        "threads": torch.get_num_threads(),
    }


def _cuda_here() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        reason = "no device or driver" if built else f"torch {torch.__version__} is a CPU build"
        return {"devices": [], "reason": reason}
    devices = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": device.name,
                "capability": f"{device.major}.{device.minor}",
                "memory_gib": round(device.total_memory / 2**30, 1),
            }
        )
    return {"devices": devices, "reason": None}


def _ops_here() -> dict[str, Any]:
    import torch

    from . import _library, dispatch
    from .errors import BackendError

    if _library.refused_isa() is not None:
        return {}  # no op can be imported
    for name in w2s_kernels.__all__:
        getattr(w2s_kernels, name)  # defines the op
    ops: dict[str, Any] = {}
    for name, backends in dispatch.available().items():
        if name not in w2s_kernels.__all__:
            continue  # a helper of a public op
        taken: dict[str, str | None] = {}
        for device in ("cpu", "cuda"):
            try:
                op = dispatch.resolve(name, torch.device(device))
                taken[device] = op.namespace.removeprefix("w2s_")
            except BackendError:  # a forced backend without this op or off its device
                taken[device] = None
        refused = {backend: why for backend, why in backends.items() if why is not None}
        ops[name] = {"backend": taken, "refused": refused}
    return ops


def _notes(found: dict[str, Any]) -> list[str]:
    from . import _library, dispatch

    notes = []
    library, environment = found["library"], found["environment"]
    if not library["loaded"]:
        notes.append(f"ops on CPU tensors run on the reference backend: {library['reason']}")
    refused_isa = _library.refused_isa()
    if refused_isa is not None:
        notes.append(f"no op can be imported: {refused_isa}")
    forced = environment["W2S_KERNELS_BACKEND"]
    if forced and forced not in dispatch.BACKENDS:
        notes.append(
            f"W2S_KERNELS_BACKEND={forced} is unknown, every call is an error; "
            f"choose one of {', '.join(dispatch.BACKENDS)}"
        )
    elif forced and found["ops"]:
        unable = [name for name, op in found["ops"].items() if op["backend"]["cpu"] is None]
        notes.append(
            f"W2S_KERNELS_BACKEND={forced} forces the backend; on CPU tensors it is an error for: "
            f"{', '.join(unable) or 'no op'}"
        )
    slow = [name for name, op in found["ops"].items() if op["backend"]["cuda"] == "reference"]
    if found["cuda"]["devices"] and slow:
        notes.append(f"on CUDA tensors these run on the reference backend: {', '.join(slow)}")
    return notes


def report() -> str:
    """The same for people: one screen of text."""
    found = collect()
    versions = (
        f"{name} {value or 'not installed'}"
        for name, value in found["versions"].items()
        if name != "w2s_kernels"
    )
    cpu, library, cuda = found["cpu"], found["library"], found["cuda"]
    lines = [
        f"w2s_kernels {found['versions']['w2s_kernels']} ({', '.join(versions)})",
        f"CPU      {cpu['model']}, {cpu['cores']} cores, {cpu['machine']}",
    ]
    if library["loaded"]:
        lines.append(
            f"kernels  compiled; instruction set {library['isa']} of {', '.join(library['isas'])}; "
            f"{library['threads']} threads"
        )
    else:
        lines.append(f"kernels  not compiled: {library['reason']}")
    for index, device in enumerate(cuda["devices"]):
        name, capability, memory = device.values()
        lines.append(f"CUDA {index}   {name}, sm {capability}, {memory} GiB")
    if not cuda["devices"]:
        lines.append(f"CUDA     none: {cuda['reason']}")
    lines += ["", "environment"]
    for name, meaning in VARIABLES.items():
        lines.append(f"  {name:<20} {found['environment'][name] or 'not set'}  ({meaning})")
    if found["ops"]:
        lines += ["", *_table(found["ops"])]
    if found["notes"]:
        lines += ["", *(f"note: {note}" for note in found["notes"])]
    return "\n".join(lines)


def _table(ops: dict[str, Any]) -> list[str]:
    """Which backend an op takes, then each reason once with the ops it holds for."""
    width = max(map(len, ops))
    lines = [f"{'op':<{width}}  on CPU tensors  on CUDA tensors"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, op in ops.items():
        cpu, cuda = (op["backend"][device] or "none" for device in ("cpu", "cuda"))
        lines.append(f"{name:<{width}}  {cpu:<14}  {cuda}")
        for backend, why in op["refused"].items():
            reasons.setdefault((backend, why), []).append(name)
    for (backend, why), names in reasons.items():
        which = "every op" if len(names) == len(ops) else ", ".join(names)
        lines.append(f"no {backend} backend: {why} ({which})")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command: prints the report; always 0."""
    parser = argparse.ArgumentParser(
        prog="python -m w2s_kernels.info",
        description="Versions, hardware, and which backend each op runs on and why.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    wants_json = parser.parse_args(arguments).json
    print(json.dumps(collect(), indent=2) if wants_json else report())
    return 0


if __name__ == "__main__":
    sys.exit(main())

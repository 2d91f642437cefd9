"""The one JSON file of a GPU's figures, complete at every moment.

    {"kind": "gpu-suite", "device": …, "parts": {name: {"stamp", "state", "seconds", "entries"}}}

A part is written again after each entry, under a temporary name that is then renamed; so a run that
is cut off leaves what it had. A part that runs again replaces its own entries and no other's. Each
has the stamp of its own run: GPU, driver, versions, commit.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from w2s_kernels.bench import peers, report

KIND = "gpu-suite"
FOLDER = Path(__file__).parents[1] / "results" / "gpu"


def stamp(device: str) -> dict[str, Any]:
    """Hardware, driver, versions of everything that is compared, time, commit."""
    found = report.stamp()
    found["device"] = device_name(device)
    found["driver"] = _driver() if device == "cuda" else None
    found["versions"] = {
        **found["versions"],
        "cuda": _cuda(),
        "transformers": _version("transformers"),
        "numpy": _version("numpy"),
    }
    found["peers"] = peers.versions()
    return found


def device_name(device: str) -> str:
    """The GPU's name; on a CPU, where only the suite itself is tried, the processor's."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} CPU"


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _cuda() -> str | None:
    import torch

    return torch.version.cuda


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def default_path(device: str) -> Path:
    """`bench/results/gpu/NAME-OF-THE-GPU.json`."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return FOLDER / f"{slug}.json"


class Store:
    """The file, open for one part at a time."""

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self.data: dict[str, Any] = {
            "kind": KIND,
            "device": device_name(device),
            "parts": {},
        }
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("kind") != KIND or found.get("device") != self.data["device"]:
                raise ValueError(
                    f"{path} holds figures of {found.get('device')!r}, this is "
                    f"{self.data['device']!r}; give another --out"
                )
            self.data = found
        self._part: dict[str, Any] = {}
        self._began = 0.0

    def begin(self, name: str) -> Self:
        """Starts a part afresh."""
        self._began = time.monotonic()
        self._part = {
            "stamp": stamp(self.device),
            "state": "cut off",
            "seconds": 0.0,
            "entries": [],
        }
        self.data["parts"][name] = self._part
        self._write()
        return self

    def add(self, kind: str, **entry: Any) -> None:
        """One finding, at once on disk."""
        self._part["entries"].append({"kind": kind, **entry})
        self._write()

    def end(self, state: str) -> None:
        """The part is over: "done", or a sentence on what failed."""
        self._part["state"] = state
        self._write()

    def _write(self) -> None:
        if self._part:
            self._part["seconds"] = round(time.monotonic() - self._began, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        aside.write_text(json.dumps(self.data, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(aside, self.path)


def read(path: Path) -> dict[str, Any]:
    """A file of the suite; `ValueError` for any other."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("kind") != KIND:
        raise ValueError(f"{path} is not a file of the GPU suite")
    return found

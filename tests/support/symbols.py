"""Which symbols the object files of different instruction sets share."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path


def shared_symbols(objects: Iterable[Path]) -> list[str]:
    """External symbols of `cpu_*_ISA.dir/**/*.o` that lie outside the namespace `w2s::ISA`."""
    shared = []
    for path in objects:
        isa = re.search(r"cpu_\w*?([a-z0-9]+)\.dir", str(path)).group(1)
        own = f"w2s{len(isa)}{isa}"  # the mangled namespace w2s::<isa>
        listing = subprocess.run(
            ["nm", "--defined-only", "--extern-only", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for line in listing.splitlines():
            name = line.split()[-1]
            if own not in name and name != "DW.ref.__gxx_personality_v0":
                shared.append(f"{path.parent.name}/{path.name}: {name}")
    return shared

"""The linker may keep any one of several equal functions: none may exist twice across ISAs."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OBJECTS = sorted((ROOT / "build").glob("**/cpu_*.dir/**/*.o"))


@pytest.mark.skipif(not OBJECTS, reason="no object files below build/: nothing was compiled here")
def test_an_isas_object_files_share_no_symbol_with_another_isas():
    shared = []
    for path in OBJECTS:
        isa = re.search(r"cpu_(\w+)\.dir", str(path)).group(1)
        own = f"w2s{len(isa)}{isa}"  # the mangled namespace w2s::<isa>
        listing = subprocess.run(
            ["nm", "--defined-only", "--extern-only", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for line in listing.splitlines():
            name = line.split()[-1]
            if own not in name and name != "DW.ref.__gxx_personality_v0":
                shared.append(f"{path.parent.name}/{path.name}: {name}")
    assert shared == []

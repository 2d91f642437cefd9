"""The linker may keep any one of several equal functions: none may exist twice across ISAs."""

from pathlib import Path

import pytest

from support.symbols import shared_symbols

ROOT = Path(__file__).parent.parent
# What test_same_bits.py builds it checks itself: another process may be writing those files.
OBJECTS = sorted(
    path
    for path in (ROOT / "build").glob("**/cpu_*.dir/**/*.o")
    if not path.is_relative_to(ROOT / "build" / "same_bits")
)


@pytest.mark.skipif(not OBJECTS, reason="no object files below build/: nothing was compiled here")
def test_an_isas_object_files_share_no_symbol_with_another_isas():
    assert shared_symbols(OBJECTS) == []

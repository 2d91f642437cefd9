"""The codes of findings, which docs/check.md lists; and what looking for them costs at first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import w2s.expo.survey

ROOT = Path(__file__).parents[2]
LEVEL = r"(?:error|warning|note|kind)"


def test_the_documentation_lists_just_the_codes_there_are():
    package = Path(w2s.expo.survey.__file__).parent
    source = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    used = set(re.findall(rf"\b{LEVEL}\(\s*\"([a-z0-9-]+)\"", source))
    used |= set(re.findall(r"_as_finding\(\"([a-z0-9-]+)\"", source))
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    section = page.split("## Can these two checkpoints be extrapolated?")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
    listed = [code for cell in cells for code in re.findall(r"`([a-z0-9-]+)`", cell)]
    assert len(listed) == len(set(listed))
    assert set(listed) - {"adapter-base", "lora-scaled"} == used - {"adapter-base", "lora-scaled"}


@pytest.mark.slow  # a process of its own
def test_a_survey_starts_without_transformers():
    code = "import sys, w2s.expo.survey; print('transformers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"

"""A search that is killed at any moment: no finished prompt is lost, nothing looks finished."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # the parent imports torch and transformers once more

SERVER = Path(__file__).parents[1] / "support" / "forked_search.py"
PROMPTS = 24
PAUSE = 0.03  # seconds a prompt takes longer


@pytest.fixture(scope="module")
def parent():
    """Runs of the command line, forked from one warm process."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def run(arguments, log, ends_by=None, moment=(0.0, False)):
        order = {"arguments": [str(a) for a in arguments], "log": str(log), "pause": PAUSE}
        if ends_by is not None:
            order |= {"signal": int(ends_by), "after": moment[0], "searching": moment[1]}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(timeout=60)


class Search:
    """`w2s search` over the prompts, to one output, again and again."""

    def __init__(self, parent, folders, folder, name="out.jsonl", extra=()):
        source = folder / "in.jsonl"
        source.write_text("".join(f'{{"prompt": "Film {n}", "id": {n}}}\n' for n in range(PROMPTS)))
        self.out, self.log = folder / name, folder / f"{name}.log"
        self.partial = folder / f"{name}.partial"
        self._run = parent
        self._arguments = [
            "search", source, "-o", self.out, "--large", folders.large, "--method", "sample",
            "--max-new-tokens", 4, "--batch", 1, *extra,
        ]  # fmt: skip

    def run(self, *options, ends_by=None, moment=(0.0, False)):
        self.log.unlink(missing_ok=True)
        answer = self._run([*self._arguments, *options], self.log, ends_by, moment)
        assert "Traceback" not in self.said, self.said
        return answer

    @property
    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def finished(self):
        """The lines that are whole."""
        if not self.partial.exists():
            return []
        return [line for line in self.partial.read_bytes().splitlines(True) if line[-1:] == b"\n"]


@pytest.fixture(scope="module")
def reference(parent, folders, tmp_path_factory):
    """An uninterrupted run: its file, line by line, and how long it took."""
    search = Search(parent, folders, tmp_path_factory.mktemp("reference"))
    answer = search.run()
    assert answer["code"] == 0, search.said
    return search.out.read_bytes().splitlines(keepends=True), answer["seconds"]


def moments(seconds, seed):
    """Random moments: one in four while the run starts, the others in its first five prompts.

    (seconds, whether they count from the first prompt on)
    """
    start = max(seconds - PROMPTS * PAUSE, 0.05)
    draw = random.Random(seed)
    while True:
        searching = draw.random() < 0.75
        yield draw.uniform(0, 5 * PAUSE if searching else start), searching


def test_kill_9_at_ten_random_moments_loses_no_finished_prompt(
    parent, folders, tmp_path, reference
):
    lines, seconds = reference
    search = Search(parent, folders, tmp_path)
    when, kills, before = moments(seconds, seed=4), 0, []
    while kills < 10:
        answer = search.run("--resume", ends_by=signal.SIGKILL, moment=next(when))
        if answer["code"] == 0:  # it was done before the signal came: once more from the beginning
            assert search.out.read_bytes() == b"".join(lines)
            search.out.unlink()
            before = []
            continue
        assert answer["code"] == -signal.SIGKILL, search.said
        kills += 1
        assert not search.out.exists()
        now = search.finished()
        assert now == lines[: len(now)]
        # Goes on after the last finished prompt; a prompt is finished when the next one begins.
        assert answer["begun"] == list(range(len(before), len(before) + len(answer["begun"])))
        assert len(now) >= max(answer["begun"], default=len(before))
        before = now
    answer = search.run("--resume")
    assert answer["code"] == 0, search.said
    assert answer["begun"] == list(range(len(before), PROMPTS))
    assert search.out.read_bytes() == b"".join(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.log",
    ]  # fmt: skip


def test_ctrl_c_says_how_many_are_finished_and_how_to_go_on(parent, folders, tmp_path, reference):
    lines, seconds = reference
    search = Search(parent, folders, tmp_path)
    when, stops = moments(seconds, seed=5), 0
    while stops < 4:
        answer = search.run("--resume", ends_by=signal.SIGINT, moment=next(when))
        if answer["code"] == 0:  # it was done before the signal came: once more from the beginning
            assert search.out.read_bytes() == b"".join(lines)
            search.out.unlink()
            continue
        stops += 1
        assert answer["code"] == 130, search.said
        assert not search.out.exists()
        kept = search.finished()
        assert kept == lines[: len(kept)]
        sentence = search.said.splitlines()[-1]
        assert sentence.startswith("w2s: interrupted: ")
        if kept:
            assert f"{len(kept)} of {PROMPTS} rows are finished and kept in" in sentence
            assert "the same command with --resume goes on" in sentence
        else:
            assert f"0 of {PROMPTS} rows are finished" in sentence
    assert search.run("--resume")["code"] == 0, search.said
    assert search.out.read_bytes() == b"".join(lines)


def test_a_second_run_does_not_touch_what_the_first_one_is_writing(parent, folders, tmp_path):
    search = Search(parent, folders, tmp_path)
    search.partial.write_bytes(b"")
    with search.partial.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        answer = search.run("--resume")
        assert answer["code"] == 2
        assert "is being written by another run" in search.said

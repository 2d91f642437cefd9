"""A full disk: exit code 1 and one sentence; what was finished is kept and a later run goes on."""

import errno
import json
import os

import pytest

from w2s import durable
from w2s.cli.errors import Stopped
from w2s.cli.results_file import ResultsFile

ROWS = [{"prompt": text} for text in ("The film", "A", "So", "It was", "I")]
QUICK = ("--method", "sample", "--batch", 2)


@pytest.fixture
def disk(monkeypatch):
    """A disk with room for `disk.room` more bytes in the files that results are written to."""

    class Disk:
        room = 10**9

    real = os.write

    def write(file, data):
        taken = min(len(data), Disk.room)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Disk.room -= taken
        return real(file, data[:taken])

    monkeypatch.setattr(durable.os, "write", write)
    return Disk


def assert_stopped(done, *parts):
    assert done.code == 1, done.err
    sentence = done.err.splitlines()[-1]
    assert "No space left on device" in sentence
    assert "Traceback" not in done.err
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_full_disk_keeps_every_whole_row_and_a_later_run_goes_on(search, disk, tmp_path, share):
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    assert search(ROWS, *QUICK, "-o", tmp_path / "whole.jsonl").code == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    disk.room = int(share * len(whole))
    finished = whole[: disk.room].count(b"\n")
    done = search(ROWS, *QUICK, "-o", out)
    assert_stopped(done, f"{finished} of 5 rows are finished")
    assert ("--resume goes on" in done.err) == (finished > 0)
    assert not out.exists()
    if finished:
        assert partial.read_bytes() == b"".join(whole.splitlines(True)[:finished])
    else:
        assert not partial.exists()
    disk.room = 10**9
    assert search(ROWS, *QUICK, "-o", out, "--resume").code == 0
    assert out.read_bytes() == whole


def test_a_full_device_says_that_nothing_is_kept(search):
    done = search(ROWS[:1], *QUICK, "-o", "/dev/full")
    assert_stopped(done, "/dev/full: cannot be written", "0 of 1 rows are finished")
    assert "kept" not in done.err


def test_a_disk_without_room_for_the_list_keeps_all_rows(search, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    rows = [{"instruction": row["prompt"]} for row in ROWS]
    options = (*QUICK, "--format", "alpaca-eval", "-o", out)

    def full(path, pieces):
        if path == out:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, pieces)

    real = durable.replace_file
    with monkeypatch.context() as patch:
        patch.setattr("w2s.cli.results_file.replace_file", full)
        assert_stopped(search(rows, *options), "5 of 5 rows are finished and kept in")
    assert not out.exists()
    done = search(rows, *options, "--resume")
    assert (done.code, len(json.loads(out.read_text()))) == (0, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.json"]


def test_a_row_is_on_the_disk_before_write_returns(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def noted(file):
        synced.append(os.fstat(file).st_size)
        real(file)

    monkeypatch.setattr(durable.os, "fsync", noted)
    with ResultsFile(str(tmp_path / "out.jsonl")) as results:
        results.write([{"n": 1}])
        assert synced[-1] == len('{"n": 1}\n')


def test_a_disk_that_fails_to_sync_is_not_trusted(tmp_path, monkeypatch):
    def fails(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ResultsFile(str(tmp_path / "out.jsonl")) as results:
        monkeypatch.setattr(durable.os, "fsync", fails)
        with pytest.raises(Stopped, match="Input/output error"):
            results.write([{"n": 1}])

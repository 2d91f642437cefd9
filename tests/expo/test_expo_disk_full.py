"""A full or failing disk: one sentence that names the file, and nothing is left that was made."""

import errno
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch

from support.weight_files import near, random_tensors, store
from w2s.errors import ExpoError
from w2s.expo.recipe import Recipe
from w2s.expo.run import extrapolate_checkpoint
from w2s.expo.staging import JOURNAL

ALIGNED = random_tensors(1, torch.float32, ((100, 200), (100, 200), (100, 200), (7,)))
FILES = [f"model-{n:05}-of-00003.safetensors" for n in (1, 2, 3)]


@pytest.fixture
def recipe(tmp_path):
    store(tmp_path / "base", near(ALIGNED))
    store(tmp_path / "aligned", ALIGNED, shards=3)
    return Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.3)


@contextmanager
def largest_file(nbytes):
    """What a write beyond this size meets is the system's own error, not a test's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails_at(monkeypatch, call, number, code):
    """The `number`-th call of an `os` function (from 0) raises what a bad disk does."""
    real, made = getattr(os, call), [0]

    def wrapped(*arguments):
        made[0] += 1
        if made[0] == number + 1:
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(os, call, wrapped)


def refused(recipe, out, *parts, **options):
    with pytest.raises(ExpoError) as caught:
        extrapolate_checkpoint(recipe, out, **options)
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    for part in parts:
        assert part in sentence


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("base", "aligned"))


def test_a_file_that_may_not_get_its_size_is_named_at_once(recipe, tmp_path):
    told = []
    with largest_file(50_000):
        refused(
            recipe, tmp_path / "out", FILES[0], "File too large", "make room",
            on_progress=lambda done, total: told.append(done),
        )  # fmt: skip
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "number", "code", "parts"),
    [
        ("posix_fallocate", 0, errno.ENOSPC, (FILES[0], "No space left", "make room")),
        ("posix_fallocate", 2, errno.ENOSPC, (FILES[2], "No space left")),
        ("posix_fallocate", 1, errno.EDQUOT, (FILES[1], "quota")),
        ("pwrite", 0, errno.ENOSPC, (FILES[0], "No space left")),
        ("pwrite", 1, errno.EIO, (FILES[1], "Input/output error", "disk")),
        ("mkdir", 0, errno.EACCES, ("out.partial", "Permission denied")),
        ("mkdir", 0, errno.EROFS, ("out.partial", "Read-only file system")),
        ("replace", 0, errno.EIO, (JOURNAL, "Input/output error")),
        ("rename", 0, errno.EIO, ("out cannot be written", "Input/output error")),
    ],
)  # fmt: skip
def test_a_disk_that_fails_is_told_by_file_and_nothing_is_left(
    recipe, tmp_path, monkeypatch, call, number, code, parts
):
    with monkeypatch.context() as patch:
        fails_at(patch, call, number, code)
        refused(recipe, tmp_path / "out", *parts)
    assert left(tmp_path) == []


def counted(recipe, tmp_path, monkeypatch):
    """How often a whole run syncs."""
    made, real = [], os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: made.append(real(file)))
        extrapolate_checkpoint(recipe, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    return len(made)


@pytest.mark.parametrize("number", [*range(0, 16, 3), -1])
def test_a_disk_that_fails_to_sync_is_not_trusted(recipe, tmp_path, monkeypatch, number):
    syncs = counted(recipe, tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        fails_at(patch, "fsync", number % syncs, errno.EIO)
        refused(recipe, tmp_path / "out", "Input/output error")
    assert left(tmp_path) == []


def test_a_file_system_without_reserving_is_written_to_all_the_same(recipe, tmp_path, monkeypatch):
    fails_at(monkeypatch, "posix_fallocate", 0, errno.EOPNOTSUPP)
    extrapolate_checkpoint(recipe, tmp_path / "out")
    assert left(tmp_path) == ["out"]


def test_under_resume_finished_shards_outlast_a_full_disk(recipe, tmp_path, monkeypatch):
    extrapolate_checkpoint(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        fails_at(patch, "posix_fallocate", 2, errno.ENOSPC)
        refused(recipe, tmp_path / "out", FILES[2], resume=True)
    partial = tmp_path / "out.partial"
    assert sorted(path.name for path in partial.iterdir()) == [JOURNAL, *FILES[:2]]
    extrapolate_checkpoint(recipe, tmp_path / "out", resume=True)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert left(tmp_path) == ["out", "whole"]

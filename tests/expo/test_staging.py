"""The folder in which a result grows: nothing looks finished too early, nothing is lost."""

import errno
import json
import os
import resource
from contextlib import contextmanager, suppress

import pytest

from w2s import durable
from w2s.errors import ExpoError
from w2s.expo.staging import JOURNAL, REPORT, Staging, require_free
from w2s.expo.tasks import TensorSums

PLAN = {"recipe": {"alpha": 0.3, "skip": ("norm",)}, "base": {"model.safetensors": {"size": 7}}}
SUMS = [TensorSums("w", 0.3, 4, 1.5, 0.25, float("inf"), 1)]


def shard(staging, name, content=b"weights"):
    (staging.folder / name).write_bytes(content)
    staging.add(name, SUMS)


def ended_by(error, out, *names, resume=False):
    """A run that ends by an error after these shards, with one half-written; its folder."""
    with suppress(error), Staging(out, PLAN, resume=resume) as staging:
        for name in names:
            shard(staging, name)
        (staging.folder / "half.safetensors.tmp").write_bytes(b"weig")
        raise error("no")
    return staging.folder


def interrupted(out, *names):
    """What Ctrl-C leaves."""
    return ended_by(KeyboardInterrupt, out, *names)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_finished_result_takes_its_name_and_leaves_nothing_else(tmp_path, out):
    with Staging(out, PLAN, resume=False) as staging:
        assert staging.folder == tmp_path / "out.partial"
        shard(staging, "one.safetensors")
        assert not out.exists()
        staging.complete({REPORT: b"{}", "config.json": b"[]"})
    assert names(tmp_path) == ["out"]
    assert names(out) == ["config.json", REPORT, "one.safetensors"]
    assert (out / "config.json").read_bytes() == b"[]"


def test_an_error_leaves_nothing_not_even_folders_above(tmp_path):
    ended_by(ExpoError, tmp_path / "a/b/out", "one.safetensors")
    assert names(tmp_path) == []


def test_an_error_under_resume_keeps_the_finished_shards_alone(out):
    partial = interrupted(out, "one.safetensors")
    ended_by(ExpoError, out, "two.safetensors", resume=True)
    assert names(partial) == [JOURNAL, "one.safetensors", "two.safetensors"]


def test_an_error_under_resume_with_nothing_finished_leaves_nothing(tmp_path, out):
    interrupted(out)
    ended_by(ExpoError, out, resume=True)
    assert names(tmp_path) == []


def test_an_interrupted_result_is_gone_on_with_and_keeps_its_sums(out):
    partial = interrupted(out, "one.safetensors")
    assert names(partial) == [JOURNAL, "half.safetensors.tmp", "one.safetensors"]
    with Staging(out, PLAN, resume=True) as staging:
        assert staging.finished == {"one.safetensors": SUMS}
        assert names(partial) == [JOURNAL, "one.safetensors"]
        shard(staging, "two.safetensors")
        staging.complete({REPORT: b"{}"})
    assert names(out) == [REPORT, "one.safetensors", "two.safetensors"]


def test_resume_without_an_interrupted_result_begins_one(out):
    with Staging(out, PLAN, resume=True) as staging:
        assert not staging.finished
        staging.complete({REPORT: b"{}"})
    assert names(out) == [REPORT]


def test_an_interrupted_result_is_not_overwritten_without_resume(out):
    partial = interrupted(out, "one.safetensors")
    for attempt in (
        lambda: require_free(out, resume=False),
        lambda: Staging(out, {}, resume=False),
    ):
        with pytest.raises(ExpoError, match=r"out\.partial .* --resume, or remove the folder"):
            attempt()
    assert (partial / "one.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"recipe": {"alpha": 0.5, "skip": ("norm",)}}, ("recipe alpha was 0.3", "is 0.5 now")),
        ({"recipe": {"alpha": 0.3, "skip": ()}}, ('recipe skip was ["norm"]', "is [] now")),
        ({"base": {"model.safetensors": {"size": 8}}}, ("base model.safetensors size was 7", "8")),
        ({"base": {"other.safetensors": {"size": 7}}}, ("base model.safetensors was", "not there")),
        ({"version": "2"}, ("version was not there", '"2"')),
    ],
)
def test_another_run_s_result_is_not_gone_on_with(out, change, parts):
    partial = interrupted(out, "one.safetensors")
    before = names(partial)
    with pytest.raises(ExpoError) as caught:
        Staging(out, PLAN | change, resume=True)
    for part in (*parts, "--resume", str(partial), "remove the folder"):
        assert part in str(caught.value)
    assert names(partial) == before


def test_a_result_that_is_there_is_refused_but_an_empty_folder_is_taken(out):
    out.mkdir()
    require_free(out, resume=False)
    (out / "file").write_bytes(b"")
    for resume in (False, True):
        with pytest.raises(ExpoError, match="out is there already"):
            require_free(out, resume=resume)
    (out / "file").unlink()
    with Staging(out, PLAN, resume=False) as staging:
        staging.complete({REPORT: b"{}"})
    assert names(out) == [REPORT]


def test_a_link_to_an_empty_folder_is_followed(tmp_path, out):
    (tmp_path / "real").mkdir()
    out.symlink_to("real")
    with Staging(out, PLAN, resume=False) as staging:
        staging.complete({REPORT: b"{}"})
    assert out.is_symlink()
    assert names(tmp_path / "real") == [REPORT]


def test_two_runs_do_not_write_to_one_folder(out):
    with Staging(out, PLAN, resume=False) as staging:
        shard(staging, "one.safetensors")
        for resume in (False, True):
            with pytest.raises(ExpoError, match=r"out\.partial is being written by another run"):
                Staging(out, PLAN, resume=resume)
        assert names(staging.folder) == [JOURNAL, "one.safetensors"]
        staging.complete({REPORT: b"{}"})


def test_a_shard_that_is_not_as_it_was_left_is_made_again(out):
    partial = interrupted(out, "one.safetensors", "two.safetensors", "three.safetensors")
    (partial / "one.safetensors").write_bytes(b"weight")
    (partial / "two.safetensors").unlink()
    with Staging(out, PLAN, resume=True) as staging:
        assert [*staging.finished] == ["three.safetensors"]
        assert names(partial) == [JOURNAL, "three.safetensors"]
        staging.complete({REPORT: b"{}"})


def test_a_run_that_was_killed_at_its_last_moment_is_done_again(out):
    partial = interrupted(out, "one.safetensors")
    (partial / JOURNAL).rename(partial / REPORT)
    with Staging(out, PLAN, resume=True) as staging:
        assert not staging.finished
        assert names(partial) == [JOURNAL]
        staging.complete({REPORT: b"{}"})


def test_a_folder_that_is_no_run_s_is_left_alone(out):
    partial = out.with_name("out.partial")
    partial.mkdir()
    (partial / "thesis.tex").write_text("all of it")
    with pytest.raises(ExpoError, match="no journal of an interrupted run"):
        Staging(out, PLAN, resume=True)
    assert names(partial) == ["thesis.tex"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"plan": {}}', '{"plan": {}, "shards": {"a": 1}}']
)
def test_a_damaged_journal_is_refused_by_name(out, text):
    partial = interrupted(out, "one.safetensors")
    (partial / JOURNAL).write_text(text)
    with pytest.raises(ExpoError, match=rf"{JOURNAL} cannot be read"):
        Staging(out, PLAN, resume=True)
    assert (partial / "one.safetensors").exists()


def test_what_stands_in_the_folder_s_way_is_named(tmp_path, out):
    (tmp_path / "out.partial").write_text("")
    with pytest.raises(ExpoError, match=r"out\.partial cannot be written \(Not a directory\)"):
        Staging(out, PLAN, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpoError, match=r"file/out\.partial cannot be written \(Not a directory\)"):
        Staging(tmp_path / "file" / "out", PLAN, resume=False)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ExpoError, match="Too many levels of symbolic links"):
        Staging(tmp_path / "loop" / "out", PLAN, resume=False)


@contextmanager
def largest_file(nbytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_the_journal_leaves_nothing(tmp_path, out):
    with largest_file(50), pytest.raises(ExpoError, match=rf"{JOURNAL} cannot be written .*room"):
        Staging(out, PLAN, resume=False)
    assert names(tmp_path) == []


def test_no_room_for_the_side_files_leaves_nothing(tmp_path, out):
    def run():
        with Staging(out, PLAN, resume=False) as staging, largest_file(2000):
            staging.complete({"tokenizer.json": bytes(3000), REPORT: b"{}"})

    with pytest.raises(ExpoError, match=r"tokenizer\.json cannot be written .*make room"):
        run()
    assert names(tmp_path) == []


def test_a_shard_is_in_the_journal_only_when_the_disk_has_it(out, monkeypatch):
    with Staging(out, PLAN, resume=False) as staging:
        shard(staging, "one.safetensors")
        before = json.loads((staging.folder / JOURNAL).read_text())

        def full(path, pieces):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("w2s.expo.staging.replace_file", full)
        with pytest.raises(ExpoError, match="No space left"):
            shard(staging, "two.safetensors")
        assert json.loads((staging.folder / JOURNAL).read_text()) == before
        monkeypatch.setattr("w2s.expo.staging.replace_file", durable.replace_file)
        staging.complete({REPORT: b"{}"})

"""A sweep's folder keeps what is finished, and never mixes it with another sweep's."""

import errno
import json
import os

import pytest

from w2s.errors import ExpoError
from w2s.expo.sweep import store as module
from w2s.expo.sweep.store import SweepStore, require_free

SETTINGS = {"reward": "sentiment", "plan": {"seed": 0}}


def rows(alpha, first, count=2):
    return [
        {"alpha": alpha, "place": first + n, "sample": 0, "response": "ü\u2028 text", "reward": n}
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    """A sweep that was interrupted in its second α."""
    with SweepStore(tmp_path / "sweep", SETTINGS, resume=False) as store:
        store.add(0.0, 0, rows(0.0, 0), 1.0)
        store.add(0.0, 2, rows(0.0, 2), 2.0)
        store.finish(0.0, {"guard": 7.5})
        store.add(0.3, 0, rows(0.3, 0), 1.0)
    return tmp_path / "sweep"


def test_a_second_run_finds_what_the_first_has_finished(folder):
    with SweepStore(folder, SETTINGS, resume=True) as store:
        assert store.rows == {0.0: rows(0.0, 0) + rows(0.0, 2), 0.3: rows(0.3, 0)}
        assert store.finished == {0.0: {"guard": 7.5}}
        assert store.seconds == {0.0: 3.0, 0.3: 1.0}
        assert (store.next_prompt(0.0), store.next_prompt(0.3), store.next_prompt(1.0)) == (4, 2, 0)


@pytest.mark.parametrize("torn", ["rows.jsonl", "journal.jsonl"])
def test_what_an_interruption_tore_is_cut_off(folder, torn):
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(json.dumps(rows(0.3, 2)[0]).encode() + b"\n")
    with (folder / torn).open("ab") as file:
        file.write(b'{"alpha": 0.3, "fir')
    with SweepStore(folder, SETTINGS, resume=True) as store:
        assert store.next_prompt(0.3) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_rows_go_on_where_they_were_cut_off(folder):
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(b"torn")
    with SweepStore(folder, SETTINGS, resume=True) as store:
        store.add(0.3, 2, rows(0.3, 2), 1.0)
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [
        *rows(0.0, 0), *rows(0.0, 2), *rows(0.3, 0), *rows(0.3, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({**SETTINGS, "reward": "pair"}, "reward was sentiment and is pair now"),
        ({"reward": "sentiment"}, 'plan was {"seed": 0} and is null now'),
    ],
)
def test_other_settings_are_refused_by_name(folder, changed, named):
    before = (folder / "rows.jsonl").read_bytes()
    with pytest.raises(ExpoError) as refused, SweepStore(folder, changed, resume=True):
        pass
    assert named in str(refused.value)
    assert (folder / "rows.jsonl").read_bytes() == before


def test_a_begun_folder_is_refused_without_resume(folder, tmp_path):
    with pytest.raises(ExpoError, match="was begun; go on with it by --resume"):
        require_free(folder, resume=False)
    with (
        pytest.raises(ExpoError, match="was begun; go on with it by --resume"),
        SweepStore(folder, SETTINGS, resume=False),
    ):
        pass
    require_free(folder, resume=True)
    require_free(tmp_path / "new", resume=False)


def test_resuming_nothing_starts_from_the_beginning(tmp_path):
    with SweepStore(tmp_path, SETTINGS, resume=True) as store:
        assert not store.rows
        assert not store.finished


def test_a_folder_in_use_is_refused(folder):
    with (
        SweepStore(folder, SETTINGS, resume=True),
        pytest.raises(ExpoError, match="being written by another sweep"),
        SweepStore(folder, SETTINGS, resume=True),
    ):
        pass


def test_rows_that_the_journal_vouches_for_and_are_gone_are_noticed(folder):
    path = folder / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with (
        pytest.raises(ExpoError, match=r"journal\.jsonl, line 4: does not fit"),
        SweepStore(folder, SETTINGS, resume=True),
    ):
        pass


def test_a_full_disk_is_told_and_what_is_finished_stays(folder, monkeypatch):
    def full(file, data):
        os.write(file, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with SweepStore(folder, SETTINGS, resume=True) as store, monkeypatch.context() as patch:
        patch.setattr(module, "write_all", full)
        with pytest.raises(ExpoError, match="No space left on device; finished batches are"):
            store.add(0.3, 2, rows(0.3, 2), 1.0)
    with SweepStore(folder, SETTINGS, resume=True) as store:
        assert store.next_prompt(0.3) == 2


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "sweep").write_text("")
    with pytest.raises(ExpoError, match="is no folder"):
        require_free(tmp_path / "sweep", resume=False)

"""Finished batches are kept, and never mixed with those of another run."""

import pytest

from w2s.cli.errors import BadInput
from w2s.reproduce.store import Store, read_records

MANIFEST = {"a": 1, "models": {"large": {"dtype": "float32"}}, "runs": [{"name": "x", "width": 4}]}


def record(first, run="x"):
    return {
        "run": run,
        "seed": 0,
        "first": first,
        "seconds": 1.5,
        "rows": [{"texts": ["ünï\u2028"]}],
    }


@pytest.fixture
def folder(tmp_path):
    with Store(tmp_path / "work", MANIFEST) as store:
        store.add(record(0))
        store.add(record(4))
    return tmp_path / "work"


def test_a_second_run_finds_the_batches_of_the_first(folder):
    with Store(folder, MANIFEST) as store:
        assert list(store.records) == [("x", 0, 0), ("x", 0, 4)]
        assert store.records["x", 0, 4] == record(4)


def test_a_torn_last_line_is_cut_off(folder):
    path = folder / "batches.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert list(read_records(folder)) == [("x", 0, 0)]
    with Store(folder, MANIFEST) as store:
        assert list(store.records) == [("x", 0, 0)]
        store.add(record(4))
    assert list(read_records(folder)) == [("x", 0, 0), ("x", 0, 4)]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({**MANIFEST, "a": 2}, "a was 1 and is 2 now"),
        (
            {**MANIFEST, "models": {"large": {"dtype": "bfloat16"}}},
            "models large dtype was float32 and is bfloat16 now",
        ),
        ({**MANIFEST, "runs": [{"name": "x", "width": 8}]}, "runs x width was 4 and is 8 now"),
        ({**MANIFEST, "runs": []}, "runs x name was x and is null now"),
    ],
)
def test_batches_of_another_run_are_refused_by_name(folder, changed, named):
    with (
        pytest.raises(BadInput, match="holds batches of another run") as refused,
        Store(folder, changed),
    ):
        pass
    assert named in str(refused.value)
    assert len(read_records(folder)) == 2


def test_a_manifest_without_batches_is_replaced(tmp_path):
    with Store(tmp_path, MANIFEST):
        pass
    with Store(tmp_path, {"a": 5}) as store:
        assert store.records == {}


def test_a_folder_in_use_is_refused(folder):
    with (
        Store(folder, MANIFEST),
        pytest.raises(BadInput, match="being written by another run"),
        Store(folder, MANIFEST),
    ):
        pass


def test_a_damaged_line_is_named(folder):
    path = folder / "batches.jsonl"
    path.write_bytes(b'{"run": 1}\n' + path.read_bytes())
    with pytest.raises(BadInput, match="line 1: is not a finished batch"):
        read_records(folder)


def test_a_folder_without_a_manifest_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match=r"manifest\.json cannot be read"), Store(folder, MANIFEST):
        pass


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="name another folder"), Store(tmp_path / "file", MANIFEST):
        pass

"""`ShardWriter`: the same file, whatever the pieces are and whatever the file system can do."""

import errno
import os
import random

import pytest
import torch

from support.weight_files import random_tensors, store
from w2s.errors import ExpoError
from w2s.expo import writer
from w2s.expo.layout import ShardLayout
from w2s.expo.tasks import TensorTask
from w2s.expo.writer import BLOCK, ShardWriter, block_aligned

SIZES = ((5000,), (1,), (70000,), (3,), (4096,), (0,), (123, 457), (2**18 + 1,))


@pytest.fixture(params=[BLOCK, 4 * BLOCK, 1 << 20])
def held(request, monkeypatch):
    monkeypatch.setattr(writer, "HELD", request.param)


@pytest.fixture
def layout(tmp_path):
    opened = store(tmp_path / "in", random_tensors(4, torch.uint8, SIZES))
    return ShardLayout(
        "out", tuple(TensorTask(each, None, 0, "U8") for each in opened.tensors.values())
    )


def write(folder, layout, largest=100_000):
    """Writes random bytes in pieces of random sizes; the bytes that the file must have."""
    draw = random.Random(largest)
    wanted = bytearray(layout.header) + draw.randbytes(layout.data_nbytes)
    with ShardWriter(folder, layout) as file:
        while file.end < len(wanted):
            lead = file.end % BLOCK
            count = min(draw.randint(1, largest), len(wanted) - file.end)
            data = block_aligned(lead + count).numpy().data
            data[lead:] = wanted[file.end : file.end + count]
            file.write(data, lead)
        file.finish()
    return bytes(wanted)


@pytest.mark.parametrize("largest", [1000, 30_000, 400_000])
def test_pieces_of_any_size_make_the_same_file(tmp_path, layout, held, largest):
    wanted = write(tmp_path, layout, largest)
    assert (tmp_path / "out").read_bytes() == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_disk_is_written_in_whole_blocks(tmp_path, layout, monkeypatch):
    seen, real = [], os.pwrite

    def pwrite(file, data, place):
        seen.append((place % BLOCK, len(data) % BLOCK))
        return real(file, data, place)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(tmp_path, layout)
    assert set(seen) == {(0, 0)}


def test_a_file_system_without_direct_writes_gets_the_same_file(
    tmp_path, layout, held, monkeypatch
):
    real, refused = os.open, []

    def opened(path, flags, *mode, **options):
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(writer, "_UNSYNCED", 50_000)
    synced, real_sync = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(real_sync(file)))
    assert write(tmp_path, layout) == (tmp_path / "out").read_bytes()
    assert refused
    assert synced


def test_a_file_system_that_refuses_a_direct_write_gets_it_through_the_cache(
    tmp_path, layout, held, monkeypatch
):
    real, refused = os.pwrite, []

    def pwrite(file, data, place):
        if not refused:
            refused.append(place)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(file, data, place)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert write(tmp_path, layout) == (tmp_path / "out").read_bytes()
    assert refused


def test_short_writes_are_gone_on_with(tmp_path, layout, held, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: real(file, data[:BLOCK], place))
    assert write(tmp_path, layout) == (tmp_path / "out").read_bytes()


def test_a_piece_that_does_not_go_on_where_the_file_ends_is_refused(tmp_path, layout):
    with ShardWriter(tmp_path, layout) as file:
        lead = (file.end + 8) % BLOCK
        with pytest.raises(ValueError, match="of a block"):
            file.write(block_aligned(lead + 1).numpy().data, lead)


def test_an_unfinished_file_has_no_name(tmp_path, layout):
    with ShardWriter(tmp_path, layout) as file:
        file.write(block_aligned(file.end % BLOCK + 10).numpy().data, file.end % BLOCK)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.tmp").stat().st_size == layout.nbytes


def test_a_folder_that_is_not_there_is_named(tmp_path, layout):
    with pytest.raises(ExpoError, match=r"gone/out cannot be written \(No such file"):
        ShardWriter(tmp_path / "gone", layout)

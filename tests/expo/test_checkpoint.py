"""What a checkpoint's headers and index say, and what is refused before a weight is read."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from w2s.errors import ExpoError
from w2s.expo.checkpoint import open_checkpoint


def tensors():
    generator = torch.Generator().manual_seed(3)
    return {
        "embed.weight": torch.randn(10, 4, generator=generator).bfloat16(),
        "layer.0.weight": torch.randn(4, 4, generator=generator),
        "layer.0.bias": torch.randn(4, generator=generator).half(),
        "steps": torch.arange(7),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
    }


def read(tensor, begin=0, end=None):
    buffer = bytearray((tensor.nbytes if end is None else end) - begin)
    tensor.read_into(memoryview(buffer), begin)
    return bytes(buffer)


def bytes_of(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def split(found, folder, kind="safetensors"):
    """The tensors in two files with an index."""
    names = list(found)
    stem, index = {
        "safetensors": ("model", "model.safetensors.index.json"),
        "bin": ("pytorch_model", "pytorch_model.bin.index.json"),
    }[kind]
    place = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        file = f"{stem}-{number:05}-of-00002.{kind}"
        some = {name: found[name] for name in part}
        (save_file if kind == "safetensors" else torch.save)(some, folder / file)
        place |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return sorted(set(place.values()))


def write_raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def refused(folder, *parts):
    with pytest.raises(ExpoError) as caught:
        open_checkpoint(folder, "θ₁")
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1, sentence
    for part in ("θ₁", *parts):
        assert part in sentence
    return sentence


@pytest.mark.parametrize("kind", ["single", "sharded", "bin", "sharded bin"])
def test_every_kind_gives_names_shapes_dtypes_and_bytes(tmp_path, kind):
    found = tensors()
    if kind == "single":
        save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
        shards = ["model.safetensors"]
    elif kind == "bin":
        torch.save(found, tmp_path / "pytorch_model.bin")
        shards = ["pytorch_model.bin"]
    else:
        shards = split(found, tmp_path, "bin" if "bin" in kind else "safetensors")
    opened = open_checkpoint(tmp_path, "θ₁")
    assert opened.shards == shards
    assert opened.tensors.keys() == found.keys()
    assert not opened.tied
    assert opened.metadata == ({"format": "pt"} if kind == "single" else {})
    for name, tensor in found.items():
        stored = opened.tensors[name]
        assert stored.name == name
        assert stored.shape == tuple(tensor.shape)
        assert stored.nbytes == tensor.numel() * tensor.element_size()
        assert stored.shard in shards
        assert read(stored) == bytes_of(tensor)
        assert read(stored, stored.nbytes // 2) == bytes_of(tensor)[stored.nbytes // 2 :]
    codes = {name: opened.tensors[name].code for name in found}
    assert codes == {
        "embed.weight": "BF16", "layer.0.weight": "F32", "layer.0.bias": "F16", "steps": "I64",
        "empty": "F32", "scalar": "F32",
    }  # fmt: skip


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    header = {
        "later": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
        "first": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
    }
    write_raw(tmp_path / "model.safetensors", header, b"abcde")
    opened = open_checkpoint(tmp_path, "θ₁")
    assert list(opened.tensors) == ["first", "later"]
    assert read(opened.tensors["later"]) == b"de"


def test_views_of_a_bin_file_are_read_row_major_and_ties_are_told(tmp_path):
    whole = torch.arange(120.0).reshape(4, 5, 6)
    found = {
        "whole": whole, "turned": whole.permute(2, 0, 1), "rows": whole[1:3], "column": whole[:, 2],
        "wide": whole[0, 0].expand(3, 6), "again": whole, "line": whole.view(-1)[1::7],
        "parameter": torch.nn.Parameter(whole[0]),
    }  # fmt: skip
    torch.save(found, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(tmp_path, "θ₁")
    assert opened.tied == {"again": "whole"}
    for name, tensor in found.items():
        stored, expected = opened.tensors[name], bytes_of(tensor.detach())
        for begin in range(0, stored.nbytes, 4):
            for end in range(begin, stored.nbytes + 1, 36):
                assert read(stored, begin, end) == expected[begin:end], (name, begin, end)


class Runs:
    """Unpickling it runs code."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_no_pickle_is_executed(tmp_path):
    torch.save({"w": Runs(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pytorch_model.bin", "no pickle is executed", "safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([torch.ones(2)], "a list"), ({"w": 3}, "'w', which is a int"),
        ({"state_dict": {"w": torch.ones(2)}}, "'state_dict'"), ({4: torch.ones(2)}, "holds 4"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w, which is no plain tensor"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "w of torch.complex128"),
    ],
)  # fmt: skip
def test_a_bin_file_of_anything_but_tensors_is_refused(tmp_path, content, part):
    torch.save(content, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pytorch_model.bin", part)


def test_damaged_bin_files_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    refused(tmp_path, path.name, "torch's zip format")
    torch.save(tensors(), path)
    path.write_bytes(path.read_bytes()[:700])
    refused(tmp_path, path.name, "cannot be read")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path, path.name, "git lfs pull")


ONE = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("header", "data", "part"),
    [
        (ONE, b"1234567", "cut off within w: "), (ONE, b"123456789", "more bytes"),
        ({"w": {**ONE["w"], "shape": [3]}}, bytes(8), "w has 8 bytes, which is not F32"),
        ({"w": {**ONE["w"], "shape": [-2]}}, bytes(8), "'w'"), ({"w": 5}, b"", "'w'"),
        ({"w": {**ONE["w"], "dtype": "F31"}}, bytes(8), "w has the dtype 'F31'"),
        ({"w": {**ONE["w"], "data_offsets": [-8, 0]}}, bytes(8), "'w'"),
        ({"w\nx": ONE["w"]}, bytes(8), "'w\\nx'"),
        ({**ONE, "v": {**ONE["w"], "data_offsets": [4, 12]}}, bytes(12), "overlap: v begins"),
        ({**ONE, "v": {**ONE["w"], "data_offsets": [12, 20]}}, bytes(20), "v begins"),
        ({**ONE, "v": {**ONE["w"], "data_offsets": [8, 2**70]}}, bytes(8), "v has"),
        (b'{"w": 1, "w": 2}', b"", "'w' stands in its header twice"),
        (b"[1, 2]", b"", "no JSON object"), (b"{nonsense", b"", "cannot be understood"),
        (b"[" * 90_000, b"", "cannot be understood"), (b"\xff\xfe{}", b"", "cannot be understood"),
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused_by_file_and_tensor(tmp_path, header, data, part):
    write_raw(tmp_path / "model.safetensors", header, data)
    refused(tmp_path, "model.safetensors", part)


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for content, part in (
        (b"", "is no safetensors file"), (b"abc", "is no safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "is no safetensors file"),
        (struct.pack("<Q", 200) + b"{}", "is cut off"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):  # fmt: skip
        path.write_bytes(content)
        refused(tmp_path, path.name, part)


def test_what_stands_in_a_file_s_place_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.mkdir()
    refused(tmp_path, path.name, "no regular file")
    path.rmdir()
    os.mkfifo(path)
    refused(tmp_path, path.name, "no regular file")
    path.unlink()
    path.symlink_to(path)
    refused(tmp_path, path.name, "symbolic links")
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    refused(tmp_path, path.name, "a link to a file that is not there")


def test_an_empty_or_absent_folder_is_refused(tmp_path):
    refused(tmp_path, "model.safetensors", str(tmp_path))
    refused(tmp_path / "gone", "is no folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is no folder")


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ("{nonsense", "cannot be understood"), ("[]", "no weight_map"), ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"), ('{"weight_map": {"w": 5}}', "puts w in 5"),
        ('{"weight_map": {"w": "../model.safetensors"}}', "puts w in '../model.safetensors'"),
        ('{"weight_map": {"w": "/etc/passwd"}}', "puts w in '/etc/passwd'"),
        ('{"weight_map": {"w": "a/b"}}', "puts w in 'a/b'"),
        ('{"weight_map": {"w": ".."}}', "puts w in '..'"),
        ('{"weight_map": {"w": "a\\u0000b"}}', "puts w in"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "the first gone.safetensors"),
        ('{"weight_map": {"w": "one.safetensors", "v": "one.safetensors"}}', "lacks v"),
    ],
)  # fmt: skip
def test_a_bad_index_is_refused(tmp_path, index, part):
    write_raw(tmp_path / "one.safetensors", ONE, bytes(8))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    refused(tmp_path, part)


def test_a_tensor_in_two_files_is_the_one_that_the_index_names(tmp_path):
    def write(name, first, second, data):
        second_half = {**ONE["w"], "data_offsets": [8, 16]}
        write_raw(tmp_path / f"{name}.safetensors", {first: ONE["w"], second: second_half}, data)

    write("one", "w", "u", b"one one 1 1 1 1 ")
    write("two", "w", "v", b"two two 2 2 2 2 ")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "one.safetensors", "v": "two.safetensors"}}')
    assert read(open_checkpoint(tmp_path, "θ₁").tensors["w"]) == b"one one "
    write("three", "x", "y", bytes(16))
    write("four", "z", "y", bytes(16))
    index.write_text('{"weight_map": {"x": "three.safetensors", "z": "four.safetensors"}}')
    refused(tmp_path, "three.safetensors of θ₁ has y once more", "four.safetensors")


def test_a_bin_file_is_the_same_where_mappings_cannot_be_looked_up(tmp_path, monkeypatch):
    found = tensors()
    torch.save(found, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr("w2s.expo.pickled._mappings", list)
    opened = open_checkpoint(tmp_path, "θ₁")
    for name, tensor in found.items():
        assert read(opened.tensors[name]) == bytes_of(tensor)
    os.truncate(tmp_path / "pytorch_model.bin", 1000)
    with pytest.raises(ExpoError, match="was changed while"):
        read(opened.tensors["embed.weight"])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_file_that_changes_while_it_is_read_is_an_error_that_names_it(tmp_path, kind):
    if kind == "bin":
        path = tmp_path / "pytorch_model.bin"
        torch.save({"w": torch.ones(1000)}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file({"w": torch.ones(1000)}, path)
    stored = open_checkpoint(tmp_path, "θ₁").tensors["w"]
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(ExpoError, match=f"{path.name} of θ₁ was changed while w was read"):
        read(stored)
    path.unlink()
    with pytest.raises(ExpoError, match=f"w cannot be read from .*{path.name} of θ₁"):
        read(stored)


def test_the_identity_tells_other_weights_apart(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    before = open_checkpoint(tmp_path, "θ₁").identity()
    assert open_checkpoint(tmp_path, "θ₁").identity() == before
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert open_checkpoint(tmp_path, "θ₁").identity() != before
    json.dumps(before)

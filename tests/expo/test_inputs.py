"""`local_folder`: folders as they are; of hub ids the needed files alone, offline the cache."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects

from w2s.errors import ExpoError
from w2s.expo.inputs import is_hub_id, local_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A stand-in for the hub's cache, offline; `add` puts a repository's files there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(name, files):
        repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        folder = repository / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_text(content)
        return folder

    return add


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: `files` are those of every repository, `asked` the revisions."""
    made = SimpleNamespace(files={}, asked=[], folder=tmp_path / "snapshots" / COMMIT)

    def download(name, *, revision, allow_patterns, ignore_patterns):
        made.asked.append(revision)
        made.folder.mkdir(parents=True, exist_ok=True)
        kept = filter_repo_objects(
            made.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for file in kept:
            (made.folder / file).write_text(made.files[file])
        return str(made.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return made


def index(*files):
    return json.dumps({"weight_map": {f"tensor.{n}": file for n, file in enumerate(files)}})


# Folders


def test_a_folder_is_itself(tmp_path):
    assert local_folder(str(tmp_path)) == tmp_path


def test_a_name_that_is_a_folder_and_could_be_a_hub_id_is_the_folder(tmp_path, monkeypatch, hub):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(local_folder("org/model")) == "org/model"
    assert not is_hub_id("org/model")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./missing", "./missing does not exist; name a folder"),
        ("a/b/c", "a/b/c does not exist"),
        ("model.gguf", "is a GGUF file.*take the safetensors checkpoint"),
        ("file", "is not a folder"),
        ("loop", "is not a folder"),
    ],
)
def test_what_is_no_folder_is_refused_in_one_sentence(tmp_path, monkeypatch, hub, name, says):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExpoError, match=says) as raised:
        local_folder(name)
    assert "\n" not in str(raised.value)
    assert hub.asked == []


# The cache, offline


def test_what_is_in_the_cache_is_used_offline(cache):
    folder = cache("org/tuned", {"config.json": "{}", "model.safetensors": ""})
    assert local_folder("org/tuned") == folder
    assert local_folder("org/tuned", "main") == folder
    assert local_folder("org/tuned", COMMIT) == folder


def test_a_sharded_repository_is_whole_with_the_files_of_its_index(cache):
    files = {"model.safetensors.index.json": index("a.safetensors", "b.safetensors")}
    folder = cache("org/tuned", files | {"a.safetensors": "", "b.safetensors": ""})
    assert local_folder("org/tuned") == folder
    (folder / "b.safetensors").unlink()
    with pytest.raises(ExpoError, match=r"weights of org/tuned.*download them while online"):
        local_folder("org/tuned")


def test_a_cache_without_the_weights_says_so(cache):
    cache("org/tuned", {"config.json": "{}"})
    with pytest.raises(ExpoError, match=r"the weights of org/tuned.*cache"):
        local_folder("org/tuned")


def test_what_the_cache_lacks_cannot_be_had_offline(cache):
    cache("org/tuned", {"config.json": "{}", "model.safetensors": ""})
    for name, revision in (("org/other", None), ("org/tuned", "v2")):
        with pytest.raises(ExpoError, match="hub cannot be reached; correct the name") as raised:
            local_folder(name, revision)
        assert "\n" not in str(raised.value)


def test_an_index_that_cannot_be_read_is_left_to_opening_it(cache):
    files = {"model.safetensors.index.json": "{", "model.safetensors": ""}
    folder = cache("org/tuned", files)
    assert local_folder("org/tuned") == folder


# The hub


def test_only_the_needed_files_are_downloaded(hub):
    hub.files = {
        "config.json": "{}", "README.md": "", "LICENSE": "", "chat_template.jinja": "",
        "tokenizer.model": "", "modeling_own.py": "",
        "model.safetensors.index.json": index("model-1.safetensors", "model-2.safetensors"),
        "model-1.safetensors": "", "model-2.safetensors": "",
        "pytorch_model.bin": "", "pytorch_model.bin.index.json": "{}", "tf_model.h5": "",
        "consolidated.safetensors": "", "consolidated.00.pth": "", "model-q4.gguf": "",
        "onnx/config.json": "", "model.onnx": "", "training_args.bin": "", "optimizer.pt": "",
    }  # fmt: skip
    folder = local_folder("org/tuned", "v1")
    assert folder == hub.folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "README.md", "LICENSE", "chat_template.jinja", "tokenizer.model",
        "modeling_own.py", "model.safetensors.index.json", "pytorch_model.bin.index.json",
        "model-1.safetensors", "model-2.safetensors",
    }  # fmt: skip


def test_the_weights_are_of_the_same_commit_as_the_rest(hub):
    hub.files = {"config.json": "{}", "model.safetensors": ""}
    local_folder("org/tuned", "v1")
    assert hub.asked == ["v1", COMMIT]


def test_bin_files_are_downloaded_where_there_is_nothing_else(hub):
    hub.files = {"config.json": "{}", "pytorch_model.bin": "", "adapter_model.bin": ""}
    assert {path.name for path in local_folder("org/tuned").iterdir()} == {
        "config.json", "pytorch_model.bin",
    }  # fmt: skip


def test_an_adapter_brings_its_adapter_weights(hub):
    hub.files = {"adapter_config.json": "{}", "adapter_model.safetensors": "", "other.bin": ""}
    assert {path.name for path in local_folder("org/lora").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip


def test_what_is_there_already_is_not_asked_for_again(hub):
    hub.files = {"config.json": "{}", "model.safetensors": ""}
    local_folder("org/tuned")
    hub.asked.clear()
    local_folder("org/tuned")
    assert hub.asked == [None]


def test_names_in_an_index_are_no_patterns(hub):
    hub.files = {"model.safetensors.index.json": index("*"), "pytorch_model.bin": "x" * 9}
    with pytest.raises(ExpoError):
        local_folder("org/tuned")
    assert not (hub.folder / "pytorch_model.bin").exists()
    shutil.rmtree(hub.folder)


def _refusal(kind):
    """An error of the hub without the response that its constructor wants."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (_refusal(errors.GatedRepoError), "only be read by those.*hf auth"),
        (_refusal(errors.RepositoryNotFoundError), "neither a folder here"),
        (_refusal(errors.RevisionNotFoundError), "no revision v1; name a"),
        (errors.LocalEntryNotFoundError("no"), r"tuned \(revision v1\) is not.*cannot be reached"),
        (OSError(28, "No space left on device"), "No space left on device.*see to that"),
        (RuntimeError("line one\nline two"), r"\(line one\)"),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_sentence(monkeypatch, reason, says):
    def download(*_, **__):
        raise reason

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ExpoError, match=says) as raised:
        local_folder("org/tuned", "v1")
    assert "\n" not in str(raised.value)

"""`w2s.check`: each fault is found by its name, and the healthy trio has none; no weight loads."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

import w2s
from support.check_faults import (
    CHAT,
    FAULTS,
    adapter,
    bos_tokenizer,
    broken_tokenizer,
    more_tokens,
    no_tokenizer,
    quantized_head,
    same_pair,
    save_tokenizer,
    swap_words,
)
from support.tiny import TableModel, llama_config, random_table, tiny_model, word_tokenizer
from w2s.preflight import examine, require_fit
from w2s.preflight.weights import read_weights


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """Three folders that fit together."""
    root = tmp_path_factory.mktemp("trio")
    for seed, name in enumerate(("large", "tuned", "untuned")):
        width = 64 if name == "large" else 32
        config = llama_config(hidden_size=width, dtype="float32")
        tiny_model(config, seed).save_pretrained(root / name)
        bos_tokenizer(chat_template=CHAT).save_pretrained(root / name)
    return root


@pytest.fixture
def folders(trio, tmp_path):
    """Copies of the trio, to break."""
    shutil.copytree(trio, tmp_path / "trio")
    return SimpleNamespace(
        **{name: tmp_path / "trio" / name for name in ("large", "tuned", "untuned")}
    )


def found(folders, **settings):
    return w2s.check(folders.large, folders.tuned, folders.untuned, **settings)


def codes(folders, **settings):
    return [(finding.level, finding.code) for finding in found(folders, **settings)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"plan": w2s.SearchPlan(), "prompts": ["w5 w6", "w7"]},
        {"chat": True, "system": "w8"},
        {"large_template": "w9 {prompt}", "pair_template": "w8 {prompt}"},
        {"prompts": [[{"role": "user", "content": "w5"}]], "plan": w2s.SearchPlan()},
    ],
)
def test_models_that_fit_have_no_findings(folders, settings):
    assert found(folders, **settings) == []


def test_no_weights_are_loaded(folders, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(refuse))
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    settings = {"prompts": ["w5"], "plan": w2s.SearchPlan(), "chat": True}
    assert found(folders, **settings) == []
    with pytest.raises(AssertionError, match="was loaded"):  # the patch is in the way of a load
        w2s.load(folders.large)


@pytest.mark.parametrize(("code", "fault"), FAULTS.items(), ids=FAULTS.keys())
def test_a_fault_is_found_and_the_finding_says_what_to_do(folders, code, fault):
    change, settings, level, parts = fault
    change(folders)
    named = [one for one in found(folders, **settings) if one.code == code.strip()]
    assert named, codes(folders, **settings)
    assert {finding.level for finding in named} == {level}
    for part in parts:
        assert any(part in finding.sentence for finding in named), named
    for finding in named:
        assert finding.what
        assert finding.what_to_do
        assert not finding.sentence.endswith(".")


def test_every_code_is_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    section = page.split("## The codes\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    apart = {"weights-not-here", "device", "devices", "memory"}  # found by tests of their own
    assert set(re.findall(r"`([a-z-]+)`", "".join(rows))) == {c.strip() for c in FAULTS} | apart


def test_loaded_models_on_two_devices_are_found(folders):
    large = (tiny_model(llama_config(), 0).to("meta"), bos_tokenizer())
    named = w2s.check(large, w2s.load(folders.tuned), w2s.load(folders.untuned))
    assert [(one.level, one.code) for one in named] == [("error", "devices")]
    assert "on meta" in named[0].what


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_found(folders):
    assert ("error", "device") in codes(folders, device="cuda:0")


def test_a_search_that_does_not_fit_into_memory_is_found(folders, monkeypatch):
    monkeypatch.setattr("w2s.preflight.machine_rules.available_memory", lambda device: 10_000)
    plan = w2s.SearchPlan()
    found_here = found(folders, plan=plan, device="cpu")
    assert [(one.level, one.code) for one in found_here] == [("error", "memory")]
    assert "9.8 KiB is free on cpu" in found_here[0].what
    assert "max_new_tokens" in found_here[0].what_to_do
    assert found(folders, device="cpu") == []  # without a plan there is no search to estimate
    monkeypatch.setattr("w2s.preflight.machine_rules.available_memory", lambda device: 10**9)
    assert found(folders, plan=plan, device="cpu") == []


def test_the_memory_of_a_search_is_that_of_its_longest_prompt(folders):
    members = (folders.tuned, folders.untuned)
    settings = {"plan": w2s.SearchPlan(), "device": "cpu"}
    lines = [
        examine(folders.large, members, prompts=prompts, **settings).looked_at[-1]
        for prompts in (["w5"], ["w5", "w5 " * 60], None)
    ]
    assert all(line.startswith("memory: ") and line.endswith("is free") for line in lines)
    assert len({line.partition(";")[0] for line in lines}) > 1


def test_an_adapter_counts_its_own_weights_and_borrows_the_tokenizer(folders):
    adapter("base")(folders)
    assert found(folders) == []


def test_the_large_model_may_have_a_quantized_head(folders):
    folders.large, folders.tuned = folders.tuned, folders.large
    quantized_head(SimpleNamespace(tuned=folders.large))
    assert "quantized-head" not in [code for _, code in codes(folders)]


def test_padded_heads_are_fine(folders):
    config = llama_config(hidden_size=64, vocab_size=80, dtype="float32")
    tiny_model(config, 0).save_pretrained(folders.large)
    assert found(folders) == []


def test_a_pair_without_tokenizers_reads_with_the_large_models(folders):
    no_tokenizer(SimpleNamespace(large=folders.tuned))
    no_tokenizer(SimpleNamespace(large=folders.untuned))
    assert found(folders) == []


def test_a_tokenizer_that_cannot_be_lent_is_told_once(folders):
    no_tokenizer(SimpleNamespace(large=folders.tuned))
    no_tokenizer(SimpleNamespace(large=folders.untuned))
    broken_tokenizer(folders)
    assert [code for _, code in codes(folders)] == ["tokenizer"]


def test_a_gguf_file_is_read_and_a_damaged_one_is_found(folders, tmp_path):
    from gguf import GGUFWriter

    path = tmp_path / "large.gguf"
    writer = GGUFWriter(path, "llama")
    for name, value in {
        "vocab_size": 64, "context_length": 128, "embedding_length": 32, "block_count": 1,
        "feed_forward_length": 48, "head_count": 4,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tensor("token_embd.weight", torch.zeros(64, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folders.large = path
    assert codes(folders, tokenizer=bos_tokenizer()) == []
    path.write_bytes(path.read_bytes()[:-500])
    assert codes(folders) == [("error", "weights-damaged")]


def test_a_hub_model_that_is_cached_is_looked_at_where_it_is(folders, tmp_path, monkeypatch):
    """Of a hub id whose weights are not here yet, only that is said."""
    cached = tmp_path / "cached"
    shutil.copytree(folders.large, cached)

    def cached_file(source, name, **settings):
        assert source == "some/model"
        path = cached / name
        return str(path) if path.is_file() else None

    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    for kind in (AutoConfig, AutoTokenizer, GenerationConfig):
        whole = kind.from_pretrained
        monkeypatch.setattr(
            kind, "from_pretrained",
            lambda source, whole=whole, **settings: whole(
                str(cached) if source == "some/model" else source, **settings
            ),
        )  # fmt: skip
    folders.large = "some/model"
    assert codes(folders) == []
    (cached / "model.safetensors").unlink()
    assert codes(folders) == [("note", "weights-not-here")]


def test_errors_come_first(folders):
    more_tokens(folders)
    same_pair(folders)
    levels = [level for level, _ in codes(folders, dtype="bfloat16")]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert set(levels) == {"error", "warning", "note"}


@pytest.mark.parametrize("where", ["./no-such-folder", "/no/such/folder", "none.gguf"])
def test_a_model_that_does_not_exist_is_refused(folders, where):
    with pytest.raises(w2s.ModelError, match=r"no-such-folder|folder|none\.gguf"):
        w2s.check(where, folders.tuned, folders.untuned)


def test_a_device_or_dtype_that_is_none_is_refused(folders):
    with pytest.raises(w2s.ModelError, match="abacus"):
        found(folders, device="abacus")
    with pytest.raises(w2s.ModelError, match="float3"):
        found(folders, dtype="float3")
    with pytest.raises(w2s.ModelError, match="a model is a path"):
        w2s.check(7, folders.tuned, folders.untuned)


def test_models_in_memory_are_looked_at_as_they_are(folders):
    model = tiny_model(llama_config(), 0)
    given = (model, word_tokenizer())
    again = (tiny_model(llama_config(), 0), word_tokenizer())
    other = w2s.load((tiny_model(llama_config(), 1), word_tokenizer()))
    assert w2s.check(given, other, given) == []
    assert [one.code for one in w2s.check(given, given, again)] == ["same-weights"]
    assert [one.code for one in w2s.check(given, (model, None), other)] == []
    narrow = (tiny_model(llama_config(vocab_size=40), 1), word_tokenizer())
    assert "tokenizer-ids" in [one.code for one in w2s.check(narrow, given, other)]


def test_other_tokens_are_an_error_only_where_there_is_no_text_to_score():
    large, other = tiny_model(llama_config(vocab_size=70), 0), tiny_model(llama_config(), 1)
    assert _vocabulary_level((large, None), (other, None)) == ["error"]
    assert _vocabulary_level((large, word_tokenizer(70)), (other, None)) == ["error"]
    assert _vocabulary_level((large, word_tokenizer(70)), (other, word_tokenizer())) == ["warning"]


def _vocabulary_level(large, member):
    return [one.level for one in w2s.check(large, member, member) if one.code == "vocabulary"]


def test_stub_models_can_be_checked():
    pair = [(TableModel(random_table(seed)), word_tokenizer()) for seed in (0, 1)]
    assert w2s.check(pair[0], *pair) == []


def test_the_search_raises_what_the_check_finds(folders):
    folders = SimpleNamespace(**{k: str(v) for k, v in vars(folders).items()})
    pair = (folders.tuned, folders.untuned)
    assert require_fit(folders.large, pair).findings == []
    with pytest.raises(w2s.PromptError, match=r"'Review:' does not contain \{prompt\}; write"):
        require_fit(folders.large, pair, large_style={"template": "Review:"})
    with pytest.raises(w2s.ModelError, match="needs packages"):
        require_fit(folders.large, pair, options={"quantization_config": {"load_in_4bit": True}})


def test_guide_refuses_before_any_weights_load(folders, monkeypatch):
    swap_words(folders)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    pair = (folders.tuned, folders.untuned)
    with pytest.raises(w2s.VocabularyError, match="'w5': id 5 against 6"):
        w2s.guide(["w5"], folders.large, pair, bridge=False)
    save_tokenizer(bos_tokenizer(), folders.untuned)  # no bridge makes a pair of these
    with pytest.raises(w2s.VocabularyError, match="'w5': id 6 against 5"):
        w2s.guide(["w5"], folders.large, pair)


def test_other_tokens_are_an_error_where_the_pair_cannot_score_text(folders):
    swap_words(folders)
    assert codes(folders) == [("warning", "vocabulary")]
    assert codes(folders, bridge=False) == [("error", "vocabulary")]


def test_guide_warns_and_goes_on(folders):
    plan = w2s.SearchPlan(width=1, samples=2, max_new_tokens=3)
    pair = (w2s.load(folders.tuned), folders.untuned)
    assert w2s.guide(["w5"], folders.large, pair, plan)[0].best.score != 0
    same_pair(folders)
    with pytest.warns(UserWarning, match="every score is 0"):
        found = w2s.guide(["w5"], folders.large, (folders.tuned, folders.untuned), plan)
    assert found[0].best.score == 0


def test_a_part_of_the_models_can_be_examined(folders):
    assert examine(folders.large, None).findings == []
    assert examine(None, (folders.tuned, folders.untuned)).findings == []
    report = examine(None, (folders.tuned, folders.untuned))
    assert len(report.looked_at) == len(report.tokenizers) == 2


def test_headers_give_what_the_files_hold(trio):
    from safetensors.torch import load_file

    weights = read_weights(trio / "large", "it")
    tensors = load_file(trio / "large" / "model.safetensors")
    assert weights.findings == []
    assert {name: one.shape for name, one in weights.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    name = "model.layers.1.mlp.down_proj.weight"
    stored = weights.tensors[name]
    data = stored.file.read_bytes()[stored.begin : stored.end]
    assert data == tensors[name].numpy().tobytes()

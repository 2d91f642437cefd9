"""`w2s.check`: each fault is found by its name, and the healthy trio has none; no weight loads."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel

import w2s
from support.tiny import EOS, TableModel, llama_config, random_table, tiny_model, word_tokenizer
from w2s.preflight import examine, require_fit
from w2s.preflight.weights import read_weights

CHAT = "{{ bos_token }}{% for m in messages %}w9 {{ m['content'] }} {% endfor %}"


def bos_tokenizer(**settings):
    """Puts its BOS, w1, before plain strings."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="w1 $A", special_tokens=[("w1", 1)]
    )
    tokenizer.bos_token = "w1"
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


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


def edit(path, **fields):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def save_tokenizer(tokenizer, *where):
    for folder in where:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)


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


def swap_words(folders):
    spec = json.loads((folders.tuned / "tokenizer.json").read_text())
    words = spec["model"]["vocab"]
    words["w5"], words["w6"] = words["w6"], words["w5"]
    for folder in (folders.tuned, folders.untuned):
        (folder / "tokenizer.json").write_text(json.dumps(spec))


def swap_words_of_one(folders):
    swap_words(folders)
    save_tokenizer(bos_tokenizer(chat_template=CHAT), folders.untuned)


def more_tokens(folders):
    save_tokenizer(word_tokenizer(70), folders.large, folders.tuned, folders.untuned)


def no_end(folders):
    tokenizer = bos_tokenizer(chat_template=CHAT)
    tokenizer.eos_token = None
    save_tokenizer(tokenizer, folders.large)
    edit(folders.large / "config.json", eos_token_id=None)
    edit(folders.large / "generation_config.json", eos_token_id=None)


def other_end(folders):
    tokenizer = bos_tokenizer(chat_template=CHAT)
    tokenizer.eos_token = "w7"
    save_tokenizer(tokenizer, folders.large)
    edit(folders.large / "config.json", eos_token_id=7)
    edit(folders.large / "generation_config.json", eos_token_id=7)


def state_layers(folders):
    from transformers import MambaConfig

    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, eos_token_id=EOS)
    tiny_model(config, 0).save_pretrained(folders.large)


def encoder_decoder(folders):
    edit(folders.large / "config.json", model_type="t5", architectures=None)


def not_a_model(folders):
    (folders.large / "config.json").write_text('{"model_type": "abacus"}')


def own_code(folders):
    edit(
        folders.large / "config.json",
        model_type="own", auto_map={"AutoConfig": "own.OwnConfig"},
    )  # fmt: skip


def no_config(folders):
    (folders.large / "config.json").unlink()


def no_tokenizer(folders):
    save_tokenizer(SimpleNamespace(save_pretrained=lambda folder: None), folders.large)


def broken_tokenizer(folders):
    (folders.large / "tokenizer.json").write_text("{}")


def no_weights(folders):
    (folders.tuned / "model.safetensors").unlink()


def missing_shard(folders):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (folders.tuned / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folders):
    (folders.tuned / "model.safetensors.index.json").write_text("[]")


def cut_off(folders):
    path = folders.tuned / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(folders):
    path = folders.tuned / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def git_lfs(folders):
    (folders.tuned / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def other_rows(folders):
    edit(folders.tuned / "config.json", vocab_size=72)


def same_pair(folders):
    shutil.copy(folders.tuned / "model.safetensors", folders.untuned / "model.safetensors")


def another_size(folders):
    config = llama_config(hidden_size=48, dtype="float32")
    tiny_model(config, 5).save_pretrained(folders.untuned)


def quantized_head(folders):
    from safetensors.torch import load_file, save_file

    path = folders.tuned / "model.safetensors"
    tensors = load_file(path)
    head = tensors.pop("lm_head.weight")
    save_file({**tensors, "lm_head.qweight": head.to(torch.int32)}, path)
    edit(folders.tuned / "config.json", quantization_config={"quant_method": "torchao"})


def eight_bit_head(folders):
    from safetensors.torch import load_file, save_file

    path = folders.tuned / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, path)


def quantized(name, method):
    def change(folders):
        config = {"quant_method": method, "bits": 4}
        edit(getattr(folders, name) / "config.json", quantization_config=config)

    return change


def flash(folders):
    edit(folders.large / "config.json", attn_implementation="flash_attention_2")


def chat_template(text, *names):
    def change(folders):
        for name in names:
            save_tokenizer(bos_tokenizer(chat_template=text), getattr(folders, name))

    return change


EVERYONE = ("large", "tuned", "untuned")


def appended_end(folders):
    tokenizer = bos_tokenizer(chat_template=CHAT)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    save_tokenizer(tokenizer, folders.large)


def adapter(base):
    def change(folders):
        shutil.rmtree(folders.tuned)
        folders.tuned.mkdir()
        spec = {"peft_type": "LORA", "base_model_name_or_path": base and str(folders.untuned)}
        if base == "elsewhere":
            spec["base_model_name_or_path"] = str(folders.untuned / "elsewhere")
        (folders.tuned / "adapter_config.json").write_text(json.dumps(spec))
        shutil.copy(
            folders.large / "model.safetensors", folders.tuned / "adapter_model.safetensors"
        )

    return change


FAULTS = {
    "vocabulary": (swap_words, {}, "warning", ["2 entries", "'w5': id 5 against 6", "TextBridge"]),
    "pair-vocabulary": (swap_words_of_one, {}, "error", ["'w5': id 6 against 5"]),
    "tokenizer-ids": (more_tokens, {}, "error", ["ids up to 69", "64 columns"]),
    "no-eos": (no_end, {}, "warning", ["the large model", "no end token", "stop string"]),
    "eos-differs": (other_end, {}, "warning", ["'w7' (7)", "'</s>' (3)"]),
    "no-kv-cache": (state_layers, {}, "error", ["MambaForCausalLM", "sliding-window"]),
    "model-class": (encoder_decoder, {}, "error", ["encoder-decoder", "t5"]),
    "config": (not_a_model, {}, "error", ["abacus"]),
    "config ": (no_config, {}, "error", ["config.json"]),
    "remote-code": (own_code, {}, "error", ["trust_remote_code=True"]),
    "tokenizer": (no_tokenizer, {}, "error", ["no tokenizer files", "copy"]),
    "tokenizer ": (broken_tokenizer, {}, "error", ["tokenizer of the large model", "read"]),
    "weights-missing": (no_weights, {}, "error", ["the tuned model", "no model.safetensors"]),
    "weights-missing ": (missing_shard, {}, "error", ["1 of its 2", "model-1.safetensors"]),
    "weights-damaged": (cut_off, {}, "error", ["is cut off", "instead of"]),
    "weights-damaged ": (cut_in_the_header, {}, "error", ["50 bytes", "header alone"]),
    "weights-damaged  ": (git_lfs, {}, "error", ["git-lfs pointer", "git lfs pull"]),
    "weights-damaged   ": (broken_index, {}, "error", ["index.json", "cannot be read"]),
    "weights-shape": (other_rows, {}, "error", ["says 72 tokens", "64 rows"]),
    "same-weights": (same_pair, {}, "warning", ["every score is 0"]),
    "pair-differs": (another_size, {}, "note", ["hidden_size 32 against 48"]),
    "quantized-head": (quantized_head, {}, "error", ["lm_head.qweight", "unquantized"]),
    "quantized-head ": (eight_bit_head, {}, "error", ["lm_head.weight is F8_E4M3"]),
    "quantized-pair": (quantized("tuned", "gptq"), {}, "note", ["gptq", "rounding"]),
    "quantization-runtime": (quantized("large", "gptq"), {}, "error", ["pip install", "gptqmodel"]),
    "quantization-runtime ": (
        quantized("large", "fbgemm_fp8"), {"device": "cpu"}, "error", ["CUDA devices only"],
    ),
    "attention": (flash, {}, "error", ["attn_implementation='sdpa'"]),
    "attention ": (
        lambda folders: None, {"attn_implementation": "flex_attention"}, "error",
        ["'flex_attention'", "4-D mask"],
    ),
    "context": (
        lambda folders: None,
        {"plan": w2s.SearchPlan(), "prompts": ["w5 " * 80, "w5", "w5 " * 90]},
        "error", ["prompt 2 has 91 tokens", "50 new", "128 positions", "2 of 3"],
    ),
    "context ": (
        lambda folders: None, {"plan": w2s.SearchPlan(max_new_tokens=128)}, "error",
        ["max_new_tokens=128", "128 positions"],
    ),
    "template": (
        lambda folders: None, {"large_template": "Review:"}, "error", ["'Review:'", "{prompt}"],
    ),
    "prompt": (lambda folders: None, {"prompts": ["w5", ""]}, "error", ["prompt 1 is empty"]),
    "chat-template-missing": (
        chat_template(None, *EVERYONE), {"chat": True}, "error", ["no chat template"],
    ),
    "chat-template": (
        chat_template("{{ raise_exception('no system role') }}", *EVERYONE), {"chat": True},
        "error", ["no system role", "chat_template=FILE"],
    ),
    "special-token-twice": (
        lambda folders: None, {"large_template": "w1 {prompt}"}, "error",
        ["begin with 'w1' twice", "leave 'w1' out"],
    ),
    "special-token-twice ": (
        chat_template("{{ bos_token }}" + CHAT, *EVERYONE), {"chat": True}, "error",
        ["'w1' twice", "once in the chat template"],
    ),
    "chat-without-bos": (
        chat_template(CHAT.replace("{{ bos_token }}", ""), *EVERYONE), {"chat": True}, "note",
        ["writes no 'w1'", "apply_chat_template"],
    ),
    "chat-templates-differ": (
        chat_template(CHAT + "w20", "tuned", "untuned"), {"chat": True}, "note", ["different"],
    ),
    "pair-templates-differ": (
        chat_template(CHAT + "w20", "untuned"), {"chat": True}, "warning", ["different prompts"],
    ),
    "eos-after-prompt": (appended_end, {}, "warning", ["puts its end token", "add_eos_token"]),
    "slow-dtype": (
        lambda folders: None, {"dtype": "float16", "device": "cpu"}, "note", ["slow on a CPU"],
    ),
    "pair-rounding": (
        lambda folders: None, {"dtype": "bfloat16"}, "note", ["bfloat16", "0.09 of 3.0 nats"],
    ),
    "adapter": (adapter(None), {}, "error", ["names no base model"]),
    "adapter ": (adapter("elsewhere"), {}, "error", ["base model of the tuned model", "not there"]),
}  # fmt: skip


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
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
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

"""What can be wrong with three models on disk, and what `w2s.check` must say of it.

`FAULTS` is code -> (what breaks the healthy trio, arguments of the check, level, parts of the
sentence). A code with blanks behind it is another way to the same finding. A fault gets a namespace
of three folders: large, tuned, untuned.
"""

import json
import shutil
from types import SimpleNamespace

import torch
from tokenizers.processors import TemplateProcessing

import w2s
from support.tiny import EOS, llama_config, tiny_model, word_tokenizer

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


def edit(path, **fields):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def save_tokenizer(tokenizer, *where):
    for folder in where:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)


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

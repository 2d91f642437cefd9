"""`survey`: the rules that look at files, configs, tokenizers, the recipe and the output."""

import json
import os
import shutil
from collections import namedtuple

import pytest
import torch

from support.expo_pairs import VOCAB, codes, edit, set_config, the, word_tokenizer, words
from w2s.errors import ExpoError
from w2s.expo.checkpoint import open_checkpoint

# Files


def test_the_same_folder_twice_is_an_error(check, pair):
    survey = check(aligned=str(pair.base))
    assert codes(survey) == [("error", "same-weights")]


def test_links_to_the_same_file_are_an_error(check, pair):
    (pair.aligned / "model.safetensors").unlink()
    (pair.aligned / "model.safetensors").symlink_to(pair.base / "model.safetensors")
    assert codes(check()) == [("error", "same-weights")]


def test_copies_under_other_names_are_two_models(check, pair):
    name = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(open_checkpoint(pair.aligned, "θ₁").tensors, name)}
    (pair.aligned / "model.safetensors").rename(pair.aligned / name)
    (pair.aligned / "model.safetensors.index.json").write_text(json.dumps(index))
    (pair.base / name).symlink_to(pair.aligned / name)
    assert check().findings == []


def test_a_damaged_file_is_a_finding_that_names_it(check, pair):
    path = pair.base / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    survey = check()
    assert codes(survey) == [("error", "weights-damaged")]
    assert "model.safetensors of the base model" in the(survey, "weights-damaged").what
    assert survey.tasks == []
    with pytest.raises(ExpoError, match=r"cut off.*download or copy the file again"):
        survey.require()


def test_both_damaged_files_are_found_at_once(check, pair):
    for folder in (pair.base, pair.aligned):
        (folder / "model.safetensors").write_bytes(b"version https://git-lfs")
    assert codes(check()) == [("error", "weights-damaged")] * 2


def test_a_folder_of_gguf_files_is_refused(check, pair):
    (pair.base / "model.safetensors").rename(pair.base / "model-q4.gguf")
    survey = check()
    assert codes(survey) == [("error", "gguf")]
    assert "safetensors checkpoint" in the(survey, "gguf").what_to_do


def test_an_adapter_needs_its_option(check, pair):
    (pair.aligned / "model.safetensors").rename(pair.aligned / "adapter_model.safetensors")
    (pair.aligned / "adapter_config.json").write_text("{}")
    finding = the(check(), "adapter")
    assert finding.level == "error"
    assert "--lora" in finding.what_to_do


def test_an_adapter_as_the_base_is_refused(check, pair):
    (pair.base / "model.safetensors").rename(pair.base / "adapter_model.safetensors")
    (pair.base / "adapter_config.json").write_text("{}")
    finding = the(check(), "adapter")
    assert finding.level == "error"
    assert "trained on" in finding.what_to_do


def test_an_adapter_beside_a_whole_checkpoint_is_left_out_with_a_warning(check, pair):
    (pair.aligned / "adapter_config.json").write_text("{}")
    assert codes(check()) == [("warning", "adapter")]


def test_no_adapter_where_one_is_announced_is_an_error(check):
    assert codes(check(adapter="merged")) == [("error", "adapter")]


@pytest.mark.parametrize(
    ("suffix", "tensor", "kind"),
    [
        ("qweight", torch.ones(4, 4, dtype=torch.int32), "GPTQ or AWQ"),
        ("SCB", torch.ones(4), "bitsandbytes"),
        ("weight.absmax", torch.ones(4, dtype=torch.uint8), "bitsandbytes"),
        ("weight_packed", torch.ones(4, 4, dtype=torch.int32), "compressed-tensors"),
        ("weight_scale_inv", torch.ones(4, 4), "FP8"),
        ("weight", torch.ones(4, 4, dtype=torch.float8_e4m3fn), "F8_E4M3"),
    ],
)
def test_quantized_tensors_are_refused_with_their_kind(check, pair, suffix, tensor, kind):
    name = f"model.layers.0.mlp.more.{suffix}"
    edit(pair.base, lambda tensors: tensors | {name: tensor})
    finding = the(check(), "quantized")
    assert finding.level == "error"
    assert kind in finding.what
    assert name in finding.what
    assert "take the unquantized checkpoint" in finding.what_to_do


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"something": 1}, "quantization_config"),
    ],
)
def test_a_config_that_says_quantized_is_refused(check, pair, stated, kind):
    set_config(pair.aligned, quantization_config=stated)
    finding = the(check(), "quantized")
    assert (finding.level, "the aligned model" in finding.what) == ("error", True)
    assert kind in finding.what


@pytest.mark.parametrize(
    ("name", "kind"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")]
)
def test_a_quantizers_own_file_is_refused(check, pair, name, kind):
    (pair.aligned / name).write_text("{}")
    assert kind in the(check(), "quantized").what


# Configs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "mistral"), ("hidden_size", 64), ("num_hidden_layers", 3),
        ("num_attention_heads", 2), ("num_key_value_heads", 1), ("intermediate_size", 50),
    ],
)  # fmt: skip
def test_another_architecture_or_size_is_an_error(check, pair, name, value):
    set_config(pair.base, **{name: value})
    survey = check()
    assert codes(survey) == [("error", "architecture")]
    assert f"{name} {value} against" in the(survey, "architecture").what


def test_a_size_goes_by_its_name_in_any_family(check, pair):
    set_config(pair.base, num_hidden_layers=None, n_layer=3)
    assert "num_hidden_layers 3 against 2" in the(check(), "architecture").what


def test_other_settings_are_a_warning_that_names_them(check, pair):
    set_config(pair.base, rms_norm_eps=1e-5, max_position_embeddings=32, tie_word_embeddings=True)
    survey = check()
    assert codes(survey)[0] == ("warning", "settings-differ")
    what = the(survey, "settings-differ").what
    assert "rms_norm_eps 1e-05 against 1e-06" in what
    assert "max_position_embeddings 32 against 64" in what
    assert "tie_word_embeddings True against False" in what


def test_another_rope_is_a_warning(check, pair):
    rope = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    set_config(pair.base, rope_parameters=rope)
    what = the(check(), "settings-differ").what
    assert "rope_theta 500000.0 against 10000.0" in what
    assert "linear" in what


def test_rope_settings_are_the_same_in_old_and_new_configs(check, pair):
    set_config(pair.base, rope_parameters=None, rope_theta=10000.0, rope_scaling=None)
    assert check().findings == []


def test_the_older_name_of_a_rope_type_is_the_same(check, pair):
    scaled = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}
    set_config(pair.aligned, rope_parameters=scaled)
    older = {"type": "linear", "factor": 2.0}
    set_config(pair.base, rope_parameters=None, rope_theta=10000.0, rope_scaling=older)
    assert check().findings == []


def test_what_one_config_leaves_to_a_default_is_no_difference(check, pair):
    set_config(
        pair.base, rms_norm_eps=None, hidden_act=None, rope_parameters=None, architectures=None
    )
    assert check().findings == []


def test_another_class_of_model_is_a_warning(check, pair):
    set_config(pair.aligned, architectures=["LlamaForSequenceClassification"])
    survey = check()
    assert codes(survey) == [("warning", "model-class")]


def test_missing_configs_are_warnings(check, pair):
    for folder in (pair.base, pair.aligned):
        (folder / "config.json").unlink()
    assert codes(check()) == [("warning", "config")] * 2


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '"\ud800'])
def test_a_config_that_cannot_be_read_is_an_error_where_it_is_needed(check, pair, text):
    (pair.aligned / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert codes(check()) == [("error", "config")]
    shutil.move(pair.aligned / "config.json", pair.base / "config.json")
    shutil.copy(pair.base / "tokenizer_config.json", pair.aligned / "config.json")
    assert codes(check()) == [("warning", "config")]


# Tokenizers


def test_moved_tokens_are_an_error(check, pair):
    order = words()
    order[3], order[7] = order[7], order[3]
    word_tokenizer(pair.base, order)
    survey = check()
    assert codes(survey) == [("error", "vocabulary-order")]
    assert "'w7' is 3 and 7" in the(survey, "vocabulary-order").what


def test_moved_tokens_whose_rows_are_copied_are_a_warning(check, pair):
    word_tokenizer(pair.base, words()[::-1])
    assert codes(check(skip=("embed|lm_head",))) == [("warning", "vocabulary-order")]


def test_a_renamed_token_is_a_warning(check, pair):
    word_tokenizer(pair.aligned, [*words()[:-1], "<chat>"])
    survey = check()
    assert codes(survey) == [("warning", "tokenizer")]
    assert "'w47' is now '<chat>'" in the(survey, "tokenizer").what


def test_a_new_token_in_a_padding_row_is_a_note(check, pair):
    word_tokenizer(pair.base, words(VOCAB - 2))
    word_tokenizer(pair.aligned, words(VOCAB - 1))
    survey = check()
    assert codes(survey) == [("note", "new-token-in-old-row")]
    assert "'w46'" in the(survey, "new-token-in-old-row").what


def test_a_missing_tokenizer_is_a_note(check, pair):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pair.base / name).unlink()
    assert codes(check()) == [("note", "tokenizer-missing")]


def test_a_damaged_tokenizer_is_a_warning(check, pair):
    (pair.aligned / "tokenizer.json").write_text('{"model":')
    survey = check()
    assert codes(survey) == [("warning", "tokenizer")]
    assert "the aligned model" in the(survey, "tokenizer").what


def test_a_tokenizer_file_that_cannot_be_is_not_read(check, pair):
    (pair.aligned / "merges.txt").touch()
    os.truncate(pair.aligned / "merges.txt", 1 << 33)
    assert "merges.txt: more than 256 MiB" in the(check(), "tokenizer").what
    (pair.aligned / "merges.txt").unlink()
    (pair.aligned / "merges.txt").symlink_to("merges.txt")
    assert codes(check()) == [("warning", "tokenizer")]


def test_the_form_of_merges_is_no_difference(check, pair):
    def write(folder, merges):
        vocab = {letter: number for number, letter in enumerate("abcd")} | {"ab": 4, "abc": 5}
        model = {"type": "BPE", "vocab": vocab, "merges": merges}
        (folder / "tokenizer.json").write_text(json.dumps({"model": model}))

    write(pair.base, ["a b", "ab c"])
    write(pair.aligned, [["a", "b"], ["ab", "c"]])
    assert check().findings == []
    write(pair.aligned, [["ab", "c"], ["a", "b"]])
    assert codes(check()) == [("warning", "tokenizer")]


# The recipe


def test_patterns_that_match_nothing_are_errors(check):
    survey = check(skip=("layers.7", "norm"), alpha_for=(("mpl", 0.1), ("mlp", 0.2)))
    assert codes(survey) == [("error", "pattern")] * 2
    first, second = survey.findings
    assert "--alpha-for 'mpl'" in first.what
    assert "--skip 'layers.7'" in second.what
    assert "model.layers" in first.what_to_do


def test_alpha_zero_copies_everything_with_a_note(check):
    survey = check(alpha=0.0)
    assert codes(survey) == [("note", "alpha-zero")]
    assert all(task.base is None and task.alpha == 0 for task in survey.tasks)
    assert survey.bytes_read == survey.bytes_written


@pytest.mark.parametrize(("alpha", "code"), [(0.6, "alpha-large"), (-0.2, "alpha-negative")])
def test_an_unusual_alpha_is_a_note(check, alpha, code):
    assert codes(check(alpha=alpha)) == [("note", code)]
    assert codes(check(alpha_for=(("mlp", alpha),))) == [("note", code)]


def test_rounding_to_nearest_in_low_precision_is_a_warning(check):
    survey = check(dtype="bfloat16")
    assert codes(survey) == [("warning", "rounding")]
    assert "--rounding stochastic" in the(survey, "rounding").what_to_do
    assert "--dtype float32" in the(survey, "rounding").what_to_do
    assert check(dtype="bfloat16", rounding="stochastic").findings == []
    assert codes(check(alpha=1.5, dtype="bfloat16")) == [("note", "alpha-large")]


def test_float16_from_a_wider_dtype_is_a_note(check):
    assert codes(check(dtype="float16", rounding="stochastic")) == [("note", "float16-range")]


# The output


def test_an_output_that_is_there_is_an_error_unless_it_is_an_empty_folder(check, pair):
    pair.out.mkdir()
    assert check(out=pair.out).findings == []
    (pair.out / "file").touch()
    assert codes(check(out=pair.out)) == [("error", "out-exists")]
    assert codes(check(out=pair.out / "file")) == [("error", "out-exists")]


def test_a_partial_output_names_both_ways_out(check, pair):
    partial = pair.out.with_name("out.partial")
    partial.mkdir()
    finding = the(check(out=pair.out), "out-partial")
    assert "--resume" in finding.what_to_do
    assert "remove" in finding.what_to_do
    assert check(out=pair.out, resume=True).findings == []


def test_a_parent_that_is_missing_is_an_error(check, pair):
    survey = check(out=pair.out / "deeper")
    assert codes(survey) == [("error", "out-parent")]
    assert str(pair.out) in the(survey, "out-parent").what


def test_a_parent_that_may_not_be_written_to_is_an_error(check, pair, monkeypatch):
    monkeypatch.setattr("w2s.expo.rules.output.os.access", lambda *_: False)
    assert codes(check(out=pair.out)) == [("error", "out-parent")]


def test_too_little_space_is_an_error_unless_forced_and_resuming_needs_less(
    check, pair, monkeypatch
):
    needed = check().bytes_written
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "w2s.expo.rules.output.shutil.disk_usage", lambda _: usage(0, 0, needed - 1)
    )
    survey = check(out=pair.out)
    assert codes(survey) == [("error", "space")]
    assert "KiB free" in the(survey, "space").what
    assert codes(check(out=pair.out, force_space=True)) == [("warning", "space")]
    partial = pair.out.with_name("out.partial")
    partial.mkdir()
    (partial / "shard").write_bytes(b"x" * needed)
    assert check(out=pair.out, resume=True).findings == []

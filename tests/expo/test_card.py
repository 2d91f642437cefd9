"""`side_files`: config, tokenizer and card of a result, and what they say of it."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.expo_pairs import edit, set_config, word_tokenizer, words
from w2s.errors import ExpoError
from w2s.expo.card import side_files
from w2s.expo.readme import Licence, _code, _front_matter, _printable, read_licence
from w2s.expo.recipe import Recipe
from w2s.expo.report import Report
from w2s.expo.tasks import TensorSums


@pytest.fixture
def files(check, pair):
    """The side files of a result; all sums are those of an exact result."""

    def make(effective=None, **settings):
        survey = check(**settings)
        sums = [
            TensorSums(
                task.aligned.name, task.alpha, 10, 100.0, 1.0, effective or task.alpha, 0
            )
            for task in survey.tasks
            if task.base is not None
        ]  # fmt: skip
        report = Report(survey, sums)
        return side_files(survey.recipe, survey, report, pair.base, pair.aligned)

    return make


def card(found):
    return found["README.md"].decode()


def front_matter(found):
    return ModelCard(card(found), ignore_metadata_errors=False).data.to_dict()


def state(folder, text):
    (folder / "README.md").write_text(f"---\n{text}\n---\n# A model\n", encoding="utf-8")


# Files


def test_all_but_config_card_and_report_is_the_aligned_models_byte_for_byte(files, pair):
    for folder in (pair.base, pair.aligned):
        for name in (
            "chat_template.jinja", "merges.txt", "LICENSE", "preprocessor_config.json",
            "optimizer.pt", "tokenizer.safetensors", "training_args.bin", "eval.json",
        ):  # fmt: skip
            (folder / name).write_text(f"{folder.name}: {name}")
    word_tokenizer(pair.aligned, [*words()[:-1], "<chat>"])
    found = files()
    assert found.keys() == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "merges.txt", "LICENSE", "preprocessor_config.json", "README.md",
        "expo_report.json",
    }  # fmt: skip
    for name in found.keys() - {"config.json", "README.md", "expo_report.json"}:
        assert found[name] == (pair.aligned / name).read_bytes()
    assert json.loads(found["expo_report.json"])["recipe"]["alpha"] == 0.3


def test_the_config_has_the_dtype_that_was_written(files, pair):
    before = json.loads((pair.aligned / "config.json").read_bytes())
    after = json.loads(files(dtype="bf16")["config.json"])
    assert after == before | {"dtype": "bfloat16"}
    assert list(after) == list(before)


def test_the_dtype_is_that_of_the_matrices_where_they_are_mixed(files, pair):
    for folder in (pair.base, pair.aligned):
        edit(folder, lambda ts: ts | {"model.scales": torch.ones(100_000)})
    edit(
        pair.aligned,
        lambda ts: {n: one.half() if one.ndim > 1 else one for n, one in ts.items()},
    )
    set_config(pair.aligned, dtype="bfloat16")
    assert json.loads(files()["config.json"])["dtype"] == "float16"


def test_the_keys_of_old_configs_are_kept(files, pair):
    set_config(pair.aligned, dtype=None, torch_dtype="float16", text_config={"torch_dtype": "x"})
    after = json.loads(files()["config.json"])
    assert after["torch_dtype"] == "float32"
    assert "dtype" not in after
    assert after["text_config"] == {"torch_dtype": "x"}
    after = json.loads(files(dtype="fp16")["config.json"])
    assert after["text_config"] == {"torch_dtype": "float16"}


def test_a_dtype_is_added_where_the_config_states_none(files, pair):
    set_config(pair.aligned, dtype=None)
    assert json.loads(files()["config.json"])["dtype"] == "float32"


def test_links_in_a_loop_and_files_that_cannot_be_are_refused_by_name(files, pair):
    (pair.aligned / "tokenizer.model").symlink_to("tokenizer.model")
    with pytest.raises(ExpoError, match=r"tokenizer\.model cannot be read .*copy it again"):
        files()
    (pair.aligned / "tokenizer.model").unlink()
    (pair.aligned / "tokenizer.model").touch()
    os.truncate(pair.aligned / "tokenizer.model", 1 << 30)
    with pytest.raises(ExpoError, match=r"tokenizer\.model is no file of at most 256 MiB"):
        files()


def test_a_result_with_these_files_loads_and_writes_text(files, pair, tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    for name, content in files(dtype="bfloat16").items():
        (folder / name).write_bytes(content)
    tensors = load_file(pair.aligned / "model.safetensors")
    save_file(
        {name: one.bfloat16() for name, one in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    ids = model.generate(**tokenizer("w3 w4", return_tensors="pt"), max_new_tokens=4)
    assert ids.shape[1] > 2


# The card


def test_the_front_matter_names_both_models_and_the_method(files, pair):
    assert front_matter(files()) == {
        "base_model": ["base", "aligned"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "unknown",
        "tags": ["expo", "merge"],
    }


@pytest.mark.parametrize(
    ("base", "aligned", "common"),
    [
        ("license: mit", "license: mit", {"license": "mit"}),
        ("license: mit", "license: apache-2.0", {"license": "other"}),
        ("license: mit", "tags: [x]", {"license": "unknown"}),
        ("license: [mit]", "license: mit", {"license": "mit"}),
        (
            "license: other\nlicense_name: own", "license: other\nlicense_name: own",
            {"license": "other", "license_name": "own"},
        ),
        (
            "license: other\nlicense_name: own", "license: other\nlicense_name: another",
            {"license": "other"},
        ),
        ("license: 3", "license: 3", {"license": "unknown"}),
    ],
)  # fmt: skip
def test_a_licence_is_stated_only_where_both_cards_agree(files, pair, base, aligned, common):
    state(pair.base, base)
    state(pair.aligned, aligned)
    found = files()
    stated = {k: v for k, v in front_matter(found).items() if k.startswith("license")}
    assert stated == common
    for folder in (pair.base, pair.aligned):
        assert f"* `{folder.name}`: " in card(found)


def test_both_licences_are_told_where_they_differ(files, pair):
    state(pair.base, "license: mit")
    state(pair.aligned, "license: other\nlicense_name: own\nlicense_link: https://x.y/z")
    text = card(files())
    assert "* `base`: `mit`\n" in text
    assert "* `aligned`: `other own https://x.y/z`\n" in text


@pytest.mark.parametrize(
    "text",
    [
        "no front matter",
        "---\nlicense: mit",
        "---\nlicense: [mit\n---\n",
        "---\n- license\n---\n",
        "---\nlicense: !!python/object/apply:os.system [false]\n---\n",
        "---\n" + "[" * 5_000 + "\n---\n",
        "---\nx: " + "y" * 70_000 + "\nlicense: mit\n---\n",
        "---\nlicense: 2024-13-45\n---\n",
    ],
)
def test_cards_that_cannot_be_read_state_nothing(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert read_licence(tmp_path) == Licence()


def test_aliases_in_a_card_are_not_written_out(tmp_path):
    lines = ["a0: &a0 [mit, mit]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    state(tmp_path, "\n".join([*lines, "license: *a11"]))
    assert read_licence(tmp_path) == Licence()


def test_the_card_says_how_and_how_to_make_it_again(files, pair):
    text = card(files(
        alpha=0.25, alpha_for=(("mlp", 0.5),), skip=("norm",), dtype="bfloat16",
        rounding="stochastic", seed=7,
    ))  # fmt: skip
    assert "θ₂ = θ₁ + α (θ₁ − θ₀)" in text
    assert "arxiv.org/abs/2404.16792" in text
    assert "* α: 0.25\n" in text
    assert "rounding: stochastic, seed 7" in text
    assert "dtype: bfloat16" in text
    assert "| layer 1 | 7 | 1.00e-01 |" in text
    command = re.search(r"```\n(.*)\n```", text)[1]
    assert shlex.split(command) == [
        "w2s", "expo", "--base", "base", "--aligned", "aligned", "--alpha", "0.25",
        "--alpha-for", "mlp=0.5", "--skip", "norm", "--dtype", "bfloat16",
        "--rounding", "stochastic", "--seed", "7", "--out", "OUT",
    ]  # fmt: skip
    assert str(pair.base.parent) not in text


def test_the_card_gives_the_effective_alpha_and_advice(files):
    text = card(files(effective=0.2, dtype="bfloat16"))
    assert "effective α, what rounding left of it: 0.2\n" in text
    assert "**rounding to bfloat16 left an effective α of 0.2 of 0.3: --rounding stochastic" in text


def test_the_card_tells_of_new_rows_and_of_code(files, pair):
    name = "model.embed_tokens.weight"
    edit(pair.aligned, lambda ts: ts | {name: torch.cat([ts[name], torch.ones(2, 32)])})
    (pair.aligned / "modeling_own.py").write_text("raise SystemExit")
    found = files()
    assert "rows from 48 on of `model.embed_tokens.weight` are new" in card(found)
    assert "`trust_remote_code=True`" in card(found)
    assert "`modeling_own.py`" in card(found)
    assert found["modeling_own.py"] == b"raise SystemExit"


def test_hub_ids_stand_in_the_card_as_they_are():
    recipe = Recipe("org/sft-model", "org/dpo.model", 0.3)
    made = _front_matter(recipe, ("org/sft-model", "org/dpo.model"), (Licence(), Licence()))
    assert yaml.safe_load(made.strip("-\n"))["base_model"] == ["org/sft-model", "org/dpo.model"]


AWKWARD = st.text(st.characters(), max_size=30)


@given(AWKWARD, AWKWARD, AWKWARD)
@example("a\n---\nlicense: mit", "`", "!!python/name:os.system")
@example("a: b # c", "\ud800", "*alias")
def test_no_name_can_break_the_front_matter(base, aligned, licence):
    licences = (Licence(licence, "x"), Licence(licence, "x"))
    made = _front_matter(Recipe("a", "b", 0.3), (base, aligned), licences)
    whole = made.encode() + b"\n# text\n---\nlicense: wrong\n---\n"
    found = re.match(r"---\n(.*?)\n---\n", whole.decode(), re.DOTALL)
    assert found.end() == len(made)
    content = yaml.safe_load(found[1])
    assert content["base_model"] == [_printable(base), _printable(aligned)]
    assert content["license"] == (_printable(licence) or "unknown")


@given(AWKWARD)
@example("`a``b`")
@example("``")
@example(" `")
def test_no_text_can_leave_its_code_span(text):
    span = _code(text)
    assert "\n" not in span
    assert span.encode()
    if not text:
        return
    ticks = re.match("`+", span)[0]
    inner = span[len(ticks) : -len(ticks)]
    assert span.endswith(ticks)
    assert ticks not in re.findall("`+", inner)
    assert not inner.startswith("`")
    assert not inner.endswith("`")
    assert inner.strip(" ") == _printable(text).strip(" ")


def test_a_pattern_with_backticks_stays_in_its_block(files):
    text = card(files(alpha_for=(("(```\n|mlp)", 0.5),)))
    fence, command = re.search(r"^(`{4,})\n(.*)\n\1$", text, re.MULTILINE).groups()
    assert "```" in command
    assert len(fence) == 4


def test_the_same_run_into_another_folder_gives_the_same_files(files, tmp_path):
    assert files(out=tmp_path / "one") == files(out=Path("another"))

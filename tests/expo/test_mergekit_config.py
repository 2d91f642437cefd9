"""mergekit's YAML as a recipe: the same sum of two models, and nothing that is not understood."""

import textwrap

import pytest

from w2s.errors import ExpoError
from w2s.expo.mergekit import recipe_of_yaml


@pytest.fixture
def recipe(tmp_path):
    """The recipe of a file with this text."""

    def read(text):
        path = tmp_path / "merge.yml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return recipe_of_yaml(path)

    return read


@pytest.fixture
def refused(recipe):
    """The error that this text gives; it names the file, and is one line."""

    def read(text):
        with pytest.raises(ExpoError) as caught:
            recipe(text)
        message = str(caught.value)
        assert "merge.yml" in message
        assert "\n" not in message
        return message

    return read


SFT_BASE = """\
merge_method: task_arithmetic
base_model: org/sft
models:
  - model: org/dpo
    parameters:
      weight: 1.3
"""
DPO_BASE = """\
merge_method: task_arithmetic
base_model: org/dpo
models:
  - model: org/sft
    parameters: {weight: -0.3}
  - model: org/dpo
"""
LINEAR = """\
merge_method: linear
models:
  - model: org/sft
    parameters: {weight: -0.3}
  - model: org/dpo
    parameters: {weight: 1.3}
"""


@pytest.mark.parametrize("text", [SFT_BASE, DPO_BASE, LINEAR], ids=["sft", "dpo", "linear"])
def test_the_three_ways_to_write_an_extrapolation_are_one(recipe, text):
    found = recipe(text)
    assert (found.base, found.aligned, found.alpha) == ("org/sft", "org/dpo", 0.3)
    assert (found.dtype, found.rounding, found.adapter) == (None, "nearest", None)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        (SFT_BASE + "parameters: {lambda: 0.5}", ("org/sft", "org/dpo", 1.3 * 0.5 - 1)),
        (SFT_BASE + "parameters: {lambda: 2}", ("org/sft", "org/dpo", 1.6)),
        (SFT_BASE + "parameters: {normalize: true, lambda: 1.3}", ("org/sft", "org/dpo", 0.3)),
        (SFT_BASE.replace("1.3", "0.25"), ("org/dpo", "org/sft", -0.25)),
        (SFT_BASE.replace("1.3", "0"), ("org/dpo", "org/sft", 0.0)),
        (SFT_BASE.replace("1.3", "1e-1"), ("org/dpo", "org/sft", -0.1)),  # a text in YAML 1.1
        (LINEAR.replace("1.3", "2.6").replace("-0.3", "-0.6"), ("org/sft", "org/dpo", 0.3)),
        (LINEAR + "parameters: {normalize: false}", ("org/sft", "org/dpo", 0.3)),
        (LINEAR + "base_model: org/sft", ("org/sft", "org/dpo", 0.3)),
        (LINEAR.replace("1.3", "-1.3").replace("-0.3", "0.3"), ("org/sft", "org/dpo", 0.3)),
    ],
)
def test_normalize_and_lambda_mean_what_they_mean_to_mergekit(recipe, text, sides):
    found = recipe(text)
    assert (found.base, found.aligned) == sides[:2]
    assert found.alpha == pytest.approx(sides[2], abs=1e-15)


def test_the_sum_is_the_one_that_mergekit_computes(recipe):
    """θ_b + λ·w(θ_m − θ_b) and Σ w·θ / Σ w, on numbers in place of models."""
    value = {"org/sft": 2.0, "org/dpo": 5.0}
    for weight, factor in ((1.3, 1.0), (-0.3, 2.0), (0.4, 0.5), (25.0, 1.0)):
        found = recipe(
            f"""\
            merge_method: task_arithmetic
            base_model: org/sft
            models: [{{model: org/dpo, parameters: {{weight: {weight}}}}}]
            parameters: {{lambda: {factor}}}
            """
        )
        ours = value[found.aligned] + found.alpha * (value[found.aligned] - value[found.base])
        assert ours == pytest.approx(2.0 + factor * weight * 3.0, rel=1e-14)
    for one, other in ((1.3, -0.3), (3.0, 1.0), (-1.0, 3.0), (-0.5, 1.5)):
        found = recipe(LINEAR.replace("1.3", str(other)).replace("-0.3", str(one), 1))
        ours = value[found.aligned] + found.alpha * (value[found.aligned] - value[found.base])
        assert ours == pytest.approx((one * 2.0 + other * 5.0) / (one + other), rel=1e-14)


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ("dtype: bfloat16", "bfloat16"),
        ("dtype: float32\nout_dtype: bfloat16", "bfloat16"),
        ("out_dtype: torch.float16", "float16"),
    ],
)
def test_the_dtype_is_the_one_that_mergekit_writes(recipe, keys, dtype):
    assert recipe(SFT_BASE + keys).dtype == dtype


def test_revisions_are_kept(recipe):
    found = recipe(SFT_BASE.replace("org/sft", "org/sft@v1.0").replace("org/dpo", "org/dpo@main"))
    assert (found.base, found.base_revision) == ("org/sft", "v1.0")
    assert (found.aligned, found.aligned_revision) == ("org/dpo", "main")
    found = recipe(SFT_BASE.replace("model: org/dpo", "model: {model: {path: org/dpo}}"))
    assert (found.aligned, found.aligned_revision) == ("org/dpo", None)


def test_a_folder_may_have_signs_in_its_name(recipe, tmp_path):
    folder = tmp_path / "dpo+x@1"
    folder.mkdir()
    assert recipe(SFT_BASE.replace("org/dpo", str(folder))).aligned == str(folder)


@pytest.mark.parametrize("wanted", ["org/dpo", None])
def test_a_tokenizer_source_is_taken_where_it_means_the_model_that_is_moved_on(recipe, wanted):
    key = f"tokenizer_source: {wanted or 'base'}"
    assert recipe((SFT_BASE if wanted else DPO_BASE) + key).aligned == "org/dpo"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SFT_BASE.replace("task_arithmetic", "ties"), ["line 1", "merge_method", "'ties'"]),
        ("models: []", ["merge_method"]),
        (SFT_BASE + "slices: []", ["line 7", "slices is not taken"]),
        (SFT_BASE + "chat_template: auto", ["line 7", "chat_template is not taken"]),
        (SFT_BASE + "tokenizer: {source: base}", ["tokenizer is not taken"]),
        (SFT_BASE + "parameters:\n  int8_mask: true", ["line 8", "parameters.int8_mask"]),
        (LINEAR + "parameters: {lambda: 2}", ["parameters.lambda is not taken"]),
        (SFT_BASE + "      density: 0.5", ["line 7", "models[0].parameters.density"]),
        (SFT_BASE.replace("1.3", "[1.3, 1.1]"), ["line 6", "gradient or filters", "--alpha-for"]),
        (
            SFT_BASE.replace("1.3", "[{filter: mlp, value: 1.3}]"),
            ["models[0].parameters.weight", "gradient or filters"],
        ),
        (SFT_BASE.replace("1.3", "much"), ["models[0].parameters.weight is 'much'"]),
        (SFT_BASE.replace("1.3", ".nan"), ["weight is nan", "finite"]),
        (SFT_BASE.replace("1.3", "1/3"), ["weight is '1/3'"]),
        (SFT_BASE.replace("1.3", "true"), ["weight is True"]),
        (SFT_BASE.replace("      weight: 1.3", ""), ["models[0]", "no parameters.weight"]),
        (SFT_BASE.replace("base_model: org/sft\n", ""), ["no base_model"]),
        (SFT_BASE + "  - model: org/third\n", ["2 models besides the base_model org/sft"]),
        (SFT_BASE.replace("org/dpo", "org/sft"), ["0 models besides"]),
        (SFT_BASE.replace("- model: org/dpo\n    p", "- p"), ["models[0] has no model"]),
        (SFT_BASE + "dtype: int8", ["line 7", "dtype is 'int8'"]),
        (SFT_BASE + "parameters: {normalize: 3}", ["parameters.normalize is 3"]),
        (SFT_BASE + "tokenizer_source: base", ["tokenizer_source is base", "org/dpo"]),
        (SFT_BASE + "tokenizer_source: union", ["tokenizer_source is union", "org/dpo"]),
        (SFT_BASE + "dtype: float32\ndtype: float16", ["line 8", "dtype is there twice"]),
        (
            SFT_BASE.replace("model: org/dpo", "model: org/sft+org/lora"),
            ["LoRA", "--base org/sft --aligned org/lora --lora merged"],
        ),
        (SFT_BASE.replace("org/dpo", "org/dpo@a@b"), ["'org/dpo@a@b'", "name@revision"]),
        (LINEAR + "parameters: {normalize: false}\nbase_model: org/x", ["org/x", "third model"]),
        (
            LINEAR.replace("-0.3", "0.3") + "parameters: {normalize: false}",
            ["0.3 + 1.3 = 1.6", "add up to 1"],
        ),
        (LINEAR.replace("-0.3", "-1.3"), ["-1.3 + 1.3 = 0", "normalize"]),
        (LINEAR.replace("org/dpo", "org/sft"), ["models[1].model", "there twice"]),
        (LINEAR + "  - model: org/third\n", ["models has 3 models"]),
        ("- a\n- b\n", ["holds no keys"]),
        ("", ["holds no keys"]),
        ("1: 2\n" + SFT_BASE, ["line 1: 1 is not taken"]),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_refused_by_name_and_line(refused, text, parts):
    message = refused(text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1, 2", "line 1"),
        ("a: b: c", "line 1"),
        ("a: 1\n---\nb: 2\n", "document"),
        ("x: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd"),
        ("a: &a [x]\nb: [*a, *a]", "line 2: the alias *a"),
        ("[" * 20000, "nested too deeply"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: \x00", "unacceptable character #x0000"),
        ("# " + "x" * 70000, "longer than 64 KiB"),
    ],
    ids=["cut", "colon", "two documents", "object", "alias", "deep", "date", "zero", "long"],
)
def test_a_file_that_is_no_plain_yaml_is_refused(refused, text, part):
    assert part in refused(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ExpoError, match=r"none\.yml cannot be read \(No such file"):
        recipe_of_yaml(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ExpoError, match=r"latin\.yml is not a text file in UTF-8"):
        recipe_of_yaml(tmp_path / "latin.yml")

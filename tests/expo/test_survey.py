"""`survey`: each rule finds what it is for, and says nothing of a clean pair."""

import os
import re

import pytest
import torch

from support.expo_pairs import VOCAB, codes, edit, set_config, the, word_tokenizer, words
from w2s.errors import ExpoError
from w2s.expo.checkpoint import open_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def grown(folder, name, rows):
    """Appends rows to a tensor."""
    edit(
        folder,
        lambda tensors: tensors | {name: torch.cat([tensors[name], torch.ones(rows, 32)])},
    )


def test_a_clean_pair_has_no_findings_and_a_task_for_each_tensor(check, pair):
    survey = check(out=pair.out)
    assert survey.findings == []
    names = list(open_checkpoint(pair.aligned, "θ₁").tensors)
    assert [task.aligned.name for task in survey.tasks] == names
    assert all(task.base.name == task.aligned.name and task.alpha == 0.3 for task in survey.tasks)
    assert {task.out_code for task in survey.tasks} == {"F32"}
    size = sum(task.aligned.nbytes for task in survey.tasks)
    assert (survey.bytes_read, survey.bytes_written) == (2 * size, size)
    assert survey.largest_tensor == 32 * VOCAB * 4
    assert [[task.aligned.name for task in shard] for shard in survey.shards] == [names]
    survey.require()


def test_every_finding_has_two_sentences_without_a_full_stop(check, pair):
    edit(pair.base, lambda tensors: {name: tensors[name].bfloat16() for name in [*tensors][1:]})
    set_config(pair.base, model_type="gpt2")
    (pair.base / "tokenizer.json").write_text("{")
    survey = check(skip=("nowhere",), alpha=2, out=pair.out / "deeper" / "out")
    assert len(survey.findings) >= 6
    for finding in survey.findings:
        assert finding.what
        assert finding.what_to_do
        assert not finding.what.endswith(".")
        assert not finding.what_to_do.endswith(".")
        assert "\n" not in finding.sentence


def test_no_byte_of_a_weight_is_read(check, pair, monkeypatch):
    def read_into(*_):
        raise RuntimeError("a weight was read")

    monkeypatch.setattr("w2s.expo.shard_files.FileTensor.read_into", read_into)
    # A hole in place of the weights: reading them would give zeros, and the header stays.
    for folder in (pair.base, pair.aligned):
        path = folder / "model.safetensors"
        size = path.stat().st_size
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        os.truncate(path, header)
        os.truncate(path, size)
    assert check(out=pair.out).findings == []


def test_errors_are_raised_in_the_words_of_the_first(check, pair):
    survey = check(skip=("nowhere",), alpha_for=(("nothing", 1.0),))
    with pytest.raises(ExpoError, match=r"--alpha-for 'nothing' is found in no tensor.*1 more"):
        survey.require()
    assert [one.code for one in survey.errors] == ["pattern", "pattern"]


# Tensors


def test_a_tensor_that_the_base_lacks_is_an_error_unless_it_is_skipped(check, pair):
    edit(pair.aligned, lambda tensors: tensors | {"value_head.weight": torch.ones(1, 32)})
    finding = the(check(), "missing-in-base")
    assert finding.level == "error"
    assert "value_head.weight" in finding.what
    pattern = re.search(r"--skip '(.*)'", finding.what_to_do)[1]
    survey = check(skip=(pattern,))
    assert survey.findings == []
    (task,) = [task for task in survey.tasks if task.base is None]
    assert (task.aligned.name, task.alpha, task.why) == ("value_head.weight", 0.0, "--skip")


def test_many_missing_tensors_are_counted_and_the_first_named(check, pair):
    edit(
        pair.base,
        lambda tensors: {name: one for name, one in tensors.items() if ".layers.1." not in name},
    )
    finding = the(check(), "missing-in-base")
    assert "lacks 9 of the tensors" in finding.what
    assert "model.layers.1.input_layernorm.weight" in finding.what
    assert "and 6 more" in finding.what


def test_a_table_that_the_base_lacks_is_copied_with_a_note(check, pair):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(pair.aligned, lambda tensors: tensors | {name: torch.ones(4)})
    survey = check()
    assert codes(survey) == [("note", "missing-in-base")]
    assert [task.aligned.name for task in survey.tasks if task.base is None] == [name]


def test_a_tensor_that_only_the_base_has_is_left_out_with_a_warning(check, pair):
    edit(pair.base, lambda tensors: tensors | {"value_head.weight": torch.ones(1, 32)})
    survey = check()
    assert codes(survey) == [("warning", "missing-in-aligned")]
    assert "value_head.weight" in the(survey, "missing-in-aligned").what


def test_checkpoints_with_nothing_in_common_are_an_error(check, pair):
    edit(pair.base, lambda tensors: {f"other.{n}.x": one for n, one in enumerate(tensors.values())})
    finding = the(check(), "no-common-tensor")
    assert finding.level == "error"
    assert "other.0.x" in finding.what


def test_different_shapes_are_an_error_that_names_tensor_and_shapes(check, pair):
    name = "model.layers.0.mlp.up_proj.weight"
    edit(pair.base, lambda tensors: tensors | {name: torch.ones(40, 32)})
    survey = check()
    assert codes(survey) == [("error", "shape")]
    what = the(survey, "shape").what
    assert name in what
    assert "F32 [40, 32] against F32 [48, 32]" in what
    assert check(skip=("up_proj",)).findings == []


def test_more_positions_are_no_vocabulary(check, pair):
    for folder, rows in ((pair.base, 10), (pair.aligned, 12)):
        edit(folder, lambda t, rows=rows: t | {"transformer.wpe.weight": torch.ones(rows, 32)})
    assert codes(check()) == [("error", "shape")]


def test_an_embedding_of_another_width_is_an_error(check, pair):
    edit(pair.base, lambda tensors: tensors | {EMBEDDING: torch.ones(VOCAB - 1, 31)})
    assert codes(check()) == [("error", "shape")]


def test_any_table_with_a_row_a_token_is_a_vocabulary(check, pair):
    set_config(pair.base, vocab_size=VOCAB - 3)
    for folder, rows in ((pair.base, VOCAB - 3), (pair.aligned, VOCAB)):
        edit(folder, lambda t, rows=rows: t | {"model.bias_of_token": torch.ones(rows)})
    survey = check()
    assert codes(survey) == [("note", "vocabulary-grown")]
    assert "model.bias_of_token" in the(survey, "vocabulary-grown").what


def test_new_vocabulary_rows_are_copied_and_their_tokens_named(check, pair):
    for name in (EMBEDDING, HEAD):
        grown(pair.aligned, name, 2)
    word_tokenizer(pair.aligned, [*words(), "<chat>", "</chat>"])
    survey = check()
    assert codes(survey) == [("note", "vocabulary-grown")]
    what = the(survey, "vocabulary-grown").what
    assert "2 more rows" in what
    assert f"from {VOCAB} on" in what
    assert "'<chat>', '</chat>'" in what
    assert EMBEDDING in what
    assert HEAD in what
    tasks = {task.aligned.name: task for task in survey.tasks if task.rows is not None}
    assert tasks.keys() == {EMBEDDING, HEAD}
    assert {task.rows for task in tasks.values()} == {VOCAB}
    assert all(f"rows from {VOCAB} on are new" in task.why for task in tasks.values())


def test_fewer_vocabulary_rows_use_the_common_ones_with_a_warning(check, pair):
    grown(pair.base, EMBEDDING, 3)
    survey = check()
    assert codes(survey) == [("warning", "vocabulary-shrunk")]
    (task,) = [task for task in survey.tasks if task.aligned.name == EMBEDDING]
    assert (task.rows, task.base.shape[0]) == (None, VOCAB + 3)
    # Of the base, only the rows that are used count as read.
    assert survey.bytes_read == 2 * survey.bytes_written


def test_a_prefix_that_one_side_lacks_is_matched(check, pair):
    for name in ("base", "aligned"):
        folder = getattr(pair, name)
        before = (folder / "model.safetensors").read_bytes()
        edit(folder, lambda ts: {n.removeprefix("model."): one for n, one in ts.items()})
        survey = check()
        assert codes(survey) == [("note", "prefix")]
        assert "'model.'" in the(survey, "prefix").what
        ends = [(task.aligned.name, task.base.name) for task in survey.tasks]
        assert all(mine.endswith(theirs) or theirs.endswith(mine) for mine, theirs in ends)
        (folder / "model.safetensors").write_bytes(before)


def test_integers_are_copied_with_a_note(check, pair):
    for number, folder in enumerate((pair.base, pair.aligned)):
        edit(folder, lambda ts, n=number: ts | {"model.steps": torch.tensor([n])})
    survey = check(dtype="bfloat16", rounding="stochastic")
    assert codes(survey) == [("note", "not-floating")]
    assert "I64" in the(survey, "not-floating").what
    (task,) = [task for task in survey.tasks if task.base is None]
    assert (task.aligned.name, task.out_code) == ("model.steps", "I64")


def test_different_dtypes_are_a_warning(check, pair):
    edit(pair.base, lambda tensors: {name: one.bfloat16() for name, one in tensors.items()})
    survey = check()
    assert codes(survey) == [("warning", "dtype-differs")]
    assert "BF16 against F32" in the(survey, "dtype-differs").what
    assert {task.out_code for task in survey.tasks} == {"F32"}


# Ties


def test_a_head_that_the_base_ties_takes_its_embedding(check, pair):
    edit(pair.base, lambda tensors: {n: one for n, one in tensors.items() if n != HEAD})
    set_config(pair.base, tie_word_embeddings=True)
    set_config(pair.aligned, tie_word_embeddings=None)
    survey = check()
    assert codes(survey) == [("note", "tied")]
    (task,) = [task for task in survey.tasks if task.aligned.name == HEAD]
    assert task.base.name == EMBEDDING


def test_a_head_that_is_missing_without_a_tie_is_an_error(check, pair):
    edit(pair.base, lambda tensors: {n: one for n, one in tensors.items() if n != HEAD})
    assert codes(check()) == [("error", "missing-in-base")]


def test_a_head_that_the_aligned_model_ties_is_left_out(check, pair):
    edit(pair.aligned, lambda tensors: {n: one for n, one in tensors.items() if n != HEAD})
    set_config(pair.aligned, tie_word_embeddings=True)
    set_config(pair.base, tie_word_embeddings=True)
    survey = check()
    assert codes(survey) == [("note", "tied")]
    assert HEAD not in [task.aligned.name for task in survey.tasks]


def test_tied_tensors_that_are_stored_twice_stay_equal(check, pair):
    for folder in (pair.base, pair.aligned):
        set_config(folder, tie_word_embeddings=True)
    settings = {"alpha_for": (("lm_head", 9.0), ("embed", 0.2)), "dtype": "bf16"}
    survey = check(rounding="stochastic", **settings)
    assert ("note", "tied") in codes(survey)
    twins = [task for task in survey.tasks if task.aligned.name in (EMBEDDING, HEAD)]
    assert [(task.key_name, task.alpha) for task in twins] == [(EMBEDDING, 0.2)] * 2


def test_tensors_that_share_bytes_in_a_bin_file_take_the_same_bits(check, pair):
    for folder in (pair.base, pair.aligned):
        tensors = {}
        edit(folder, lambda ts, into=tensors: into.update(ts) or ts)
        (folder / "model.safetensors").unlink()
        torch.save(tensors | {HEAD: tensors[EMBEDDING]}, folder / "pytorch_model.bin")
    survey = check()
    assert codes(survey) == [("note", "tied"), ("note", "pickled"), ("note", "pickled")]
    (head,) = [task for task in survey.tasks if task.aligned.name == HEAD]
    assert head.key_name == EMBEDDING


# Cutting the result


def test_shards_are_cut_by_size_and_keep_the_order(check):
    whole = check()
    limit = 3 * whole.largest_tensor
    survey = check(shard_size=limit)
    assert len(survey.shards) > 1
    assert [task for shard in survey.shards for task in shard] == survey.tasks
    assert all(sum(t.aligned.nbytes for t in shard) <= limit for shard in survey.shards)
    alone = check(shard_size=1)
    assert [len(shard) for shard in alone.shards] == [1] * len(alone.tasks)


def test_shards_are_cut_by_what_is_written(check):
    narrow = check(shard_size=20_000, dtype="float16")
    assert len(narrow.shards) < len(check(shard_size=20_000).shards)
    assert narrow.bytes_written * 2 == check().bytes_written


def test_shards_are_those_of_the_aligned_model(check, pair):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(pair.aligned)
    (pair.aligned / "model.safetensors").unlink()
    model.save_pretrained(pair.aligned, max_shard_size="30KB")
    survey = check()
    opened = open_checkpoint(pair.aligned, "θ₁")
    assert len(opened.shards) > 1
    assert [{task.aligned.shard for task in one} for one in survey.shards] == [
        {name} for name in opened.shards
    ]

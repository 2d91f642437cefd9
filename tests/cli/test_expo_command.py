"""`w2s expo`: a folder that transformers loads, or one sentence and nothing left behind."""

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from w2s.cli import main
from w2s.cli.errors import BadInput
from w2s.cli.expo_options import parse_size
from w2s.cli.expo_progress import byte_progress

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A small llama, and the same a little further on."""
    root = tmp_path_factory.mktemp("pair")
    shutil.copytree(folders.large, root / "sft")
    shutil.copytree(root / "sft", root / "dpo")
    tensors = load_file(root / "sft" / WEIGHTS)
    torch.manual_seed(5)
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file(moved, root / "dpo" / WEIGHTS, metadata={"format": "pt"})
    (root / "dpo" / "chat_template.jinja").write_text("{{ messages }}")
    return root


@pytest.fixture
def pair(trained, tmp_path, monkeypatch):
    """Folders sft and dpo of its own, in the working directory."""
    for name in ("sft", "dpo"):
        shutil.copytree(trained / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(root=tmp_path, base=tmp_path / "sft", aligned=tmp_path / "dpo")


@pytest.fixture
def expo(w2s, pair):
    """Runs `w2s expo` on the pair."""

    def run(*options, alpha=0.3, out="out"):
        return w2s(
            "expo", "--base", "sft", "--aligned", "dpo", "--alpha", alpha, "--out", out, *options
        )

    return run


def shard(folder, files=3):
    """Cuts a checkpoint into files with an index."""
    tensors = load_file(folder / WEIGHTS)
    names = [f"model-{number:05}-of-{files:05}.safetensors" for number in range(1, files + 1)]
    place = {name: names[number % files] for number, name in enumerate(sorted(tensors))}
    for file in names:
        part = {name: tensors[name] for name in tensors if place[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": place}))


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_refused(done, *parts, root=None):
    """Exit code 2, at most five lines, and nothing beside what was there."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert len(done.err.splitlines()) <= 5
    sentence = done.err.splitlines()[-1]
    assert sentence.startswith("w2s: ")
    for part in parts:
        assert part in sentence
    if root is not None:
        assert not [name for name in names(root) if name.startswith("out")]


def test_the_result_is_the_formula_and_generates(expo, pair):
    done = expo()
    assert (done.code, done.err) == (0, "")
    assert re.search(r"│ whole model +│ +21 ", done.out)
    last = r"out: 132\.9 KiB in 1 file, [\d.]+ s, of which [\d.]+ s reading and writing at \d+ MB/s"
    assert re.fullmatch(last, done.out.splitlines()[-1])
    one, two, found = weights(pair.aligned), weights(pair.base), weights(pair.root / "out")
    for name in one:
        wanted = one[name].double() + 0.3 * (one[name].double() - two[name].double())
        assert torch.equal(found[name], wanted.float())
    model = AutoModelForCausalLM.from_pretrained("out")
    tokenizer = AutoTokenizer.from_pretrained("out")
    ids = tokenizer("The film", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > 8
    assert tokenizer.chat_template == "{{ messages }}"


def test_alpha_0_is_the_aligned_model_bit_for_bit(expo, pair):
    assert expo(alpha=0).code == 0
    one, found = weights(pair.aligned), weights(pair.root / "out")
    assert all(torch.equal(one[name], found[name]) for name in one)
    assert list(one) == list(found)


def test_options_say_how_far_each_tensor_goes(expo, pair):
    done = expo(
        "--alpha-for", "layers=1", "--alpha-for", r"layers\.1.*=0.5", "--skip", "norm",
        "--skip", "lm_head",
    )  # fmt: skip
    assert done.code == 0
    one, two, found = weights(pair.aligned), weights(pair.base), weights(pair.root / "out")
    for name, alpha in (
        ("model.embed_tokens.weight", 0.3), ("lm_head.weight", 0),
        ("model.layers.0.mlp.up_proj.weight", 1), ("model.layers.1.mlp.up_proj.weight", 0.5),
        ("model.layers.1.input_layernorm.weight", 0),
    ):  # fmt: skip
        wanted = one[name].double() + alpha * (one[name].double() - two[name].double())
        assert torch.equal(found[name], wanted.float()), name


def test_the_last_sign_of_an_alpha_for_splits_it(expo, pair):
    assert expo("--alpha-for", "(?<=up_)proj=2").code == 0
    report = json.loads((pair.root / "out" / "expo_report.json").read_text())
    assert report["recipe"]["alpha_for"] == [["(?<=up_)proj", 2.0]]


def test_dtype_rounding_seed_and_size_reach_the_result(expo, pair):
    options = ("--dtype", "bfloat16", "--rounding", "stochastic", "--shard-size", "20KB")
    assert expo(*options, out="a").code == 0
    assert expo(*options, "--seed", 1, out="b").code == 0
    assert expo(*options[:4], "--seed", 1, "--shard-size", "0.03 MB", out="c").code == 0
    found = [weights(pair.root / name) for name in "abc"]
    assert {tensor.dtype for tensor in found[0].values()} == {torch.bfloat16}
    assert not all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(torch.equal(found[1][name], found[2][name]) for name in found[1])
    sizes = [file.stat().st_size for file in (pair.root / "a").glob("*.safetensors")]
    assert len(sizes) > 3
    index = json.loads((pair.root / "a" / INDEX).read_text())
    assert set(index["weight_map"].values()) < {*names(pair.root / "a")}
    assert json.loads((pair.root / "a" / "config.json").read_text())["dtype"] == "bfloat16"


def test_findings_are_said_before_a_run_on_standard_error(expo):
    done = expo("--dtype", "bfloat16", alpha=0.6)
    assert done.code == 0
    said = done.err.splitlines()
    assert said[0].startswith("w2s: warning: 21 tensors are rounded to the nearest BF16")
    assert said[1].startswith("w2s: note: α is 0.6")


def test_the_report_can_be_had_as_json(expo, pair):
    done = expo("--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report == json.loads((pair.root / "out" / "expo_report.json").read_text())
    assert report["whole"]["effective_alpha"] == pytest.approx(0.3, rel=1e-3)


SIZES = {
    "5GB": 5 * 10**9, "5 gb": 5 * 10**9, "500MB": 5 * 10**8, "20KB": 20000, "2TB": 2 * 10**12,
    "1.5GiB": 3 * 2**29, "1KiB": 1024, "7MiB": 7 * 2**20, "12": 12, "12B": 12,
}  # fmt: skip


@pytest.mark.parametrize(("text", "count"), SIZES.items())
def test_a_size_is_read_as_the_hub_writes_it(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "5 parsecs", "-5GB", "0", "0.1B", "1e9", "5GB5", "٣GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BadInput, match=r"--shard-size is .* such as 5GB, 500MiB or 1000000"):
        parse_size(text)


OPTIONS = {
    "alpha": (["--alpha", "nan"], ["--alpha is nan", "finite"]),
    "no number": (["--alpha", "much"], ["--alpha"]),
    "dtype": (["--dtype", "int8"], ["--dtype is 'int8'", "bfloat16"]),
    "rounding": (["--rounding", "up"], ["--rounding"]),
    "seed": (["--seed", -1], ["--seed is -1"]),
    "size": (["--shard-size", "5 parsecs"], ["--shard-size is '5 parsecs'"]),
    "alpha-for": (["--alpha-for", "mlp"], ["--alpha-for is 'mlp'", "REGEX=VALUE"]),
    "alpha-for's value": (["--alpha-for", "mlp=x"], ["--alpha-for is 'mlp=x'"]),
    "alpha-for's pattern": (["--alpha-for", "(=1"], ["--alpha-for is '('", "regular expression"]),
    "alpha-for's infinity": (["--alpha-for", "mlp=inf"], ["--alpha-for['mlp'] is inf"]),
    "skip": (["--skip", "["], ["--skip is '['", "regular expression"]),
    "pattern of nothing": (["--skip", "atention"], ["--skip 'atention'", "no tensor's name"]),
    "lora": (["--lora", "both"], ["--lora"]),
    "no adapter": (["--lora", "merged"], ["dpo", "no adapter"]),
    "config too": (["--config", "x.yml"], ["--base has no meaning with --config"]),
    "no such option": (["--alhpa", 1], ["--alhpa"]),
}


@pytest.mark.parametrize(("options", "parts"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_option_out_of_range(expo, pair, options, parts):
    assert_refused(expo(*options), *parts, root=pair.root)


@pytest.mark.parametrize("missing", ["--base", "--aligned", "--alpha", "--out"])
def test_an_option_that_is_missing_is_named(w2s, pair, missing):
    given = {"--base": "sft", "--aligned": "dpo", "--alpha": "0.3", "--out": "out"}
    del given[missing]
    words = [word for option in given.items() for word in option]
    assert_refused(w2s("expo", *words), f"{missing} is missing", root=pair.root)


def test_options_before_a_command_of_the_group_are_not_lost_silently(w2s, pair):
    assert_refused(w2s("expo", "--base", "sft", "check", "--aligned", "dpo"), "come after its name")


def test_without_options_it_shows_its_help(w2s):
    done = w2s("expo")
    assert done.code == 0
    assert "Example: w2s expo --base" in done.out


def truncate(pair):
    file = pair.aligned / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def spoil_index(pair):
    shard(pair.aligned)
    (pair.aligned / INDEX).write_text('{"weight_map": {')


def lead_outside(pair):
    shard(pair.aligned)
    index = json.loads((pair.aligned / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "../sft/model.safetensors"
    (pair.aligned / INDEX).write_text(json.dumps(index))


def link_in_a_loop(pair):
    (pair.aligned / WEIGHTS).unlink()
    (pair.aligned / WEIGHTS).symlink_to(pair.aligned / "other.safetensors")
    (pair.aligned / "other.safetensors").symlink_to(pair.aligned / WEIGHTS)


def remove_a_shard(pair):
    shard(pair.base)
    (pair.base / "model-00002-of-00003.safetensors").unlink()


def reshape(pair):
    tensors = load_file(pair.base / WEIGHTS)
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, pair.base / WEIGHTS)


def write_a_pickle(pair):
    """One that would run code."""
    (pair.aligned / WEIGHTS).unlink()

    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(pair.root / "out-was-run"),))

    torch.save({"a": Code()}, pair.aligned / "pytorch_model.bin")


def point_to_lfs(pair):
    (pair.aligned / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")


DAMAGE = {
    "truncated": (truncate, ["model.safetensors of the aligned model (dpo)", "is cut off"]),
    "bad index": (spoil_index, [f"{INDEX} of the aligned model"]),
    "outside": (lead_outside, ["model.norm.weight", "../sft/model.safetensors", "no plain file"]),
    "loop": (link_in_a_loop, ["model.safetensors of the aligned model", "symbolic links"]),
    "missing shard": (remove_a_shard, ["the base model (sft)", "model-00002-of-00003"]),
    "shape": (reshape, ["model.norm.weight", "[7]", "[32]"]),
    "pickle": (write_a_pickle, ["pytorch_model.bin of the aligned model", "no pickle is executed"]),
    "git-lfs": (point_to_lfs, ["git-lfs pointer"]),
}


@pytest.mark.parametrize(("damage", "parts"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_input_is_named_and_nothing_is_left(expo, pair, damage, parts):
    damage(pair)
    assert_refused(expo(), *parts, root=pair.root)


def test_a_file_that_may_not_be_read(expo, pair, monkeypatch):
    """By the system's answer, as root may read every file."""
    opened = Path.open

    def refuse(path, *arguments, **settings):
        if path.name == WEIGHTS and path.parent.name == "dpo":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(expo(), "model.safetensors of the aligned model", "Permission", root=pair.root)


def test_a_disk_that_fills_up_leaves_nothing(expo, pair, monkeypatch):
    def full(file, data, place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("w2s.expo.writer.os.pwrite", full)
    assert_refused(expo(), "model.safetensors", "No space left on device", root=pair.root)


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(expo, pair, monkeypatch):
    def nearly_full(path):
        return SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)

    monkeypatch.setattr("w2s.expo.rules.output.shutil.disk_usage", nearly_full)
    assert_refused(expo(), "to be written", "1000 B free", "--force-space", root=pair.root)
    done = expo("--force-space")
    assert done.code == 0
    assert "w2s: warning:" in done.err


def test_an_output_that_is_there_is_not_touched(expo, pair):
    (pair.root / "out").mkdir()
    (pair.root / "out" / "mine").write_text("x")
    assert_refused(expo(), "out exists already")
    assert names(pair.root / "out") == ["mine"]


def test_folders_that_are_not_there(w2s, pair, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = w2s("expo", "--base", "./none", "--aligned", "dpo", "--alpha", 1, "--out", "out")
    assert_refused(done, "./none does not exist", root=pair.root)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(expo, pair):
    before = names(pair.root)
    done = expo("--dry-run", "-v", "--shard-size", "50KB", "--skip", "norm")
    assert (done.code, done.err) == (0, "")
    assert "16 of 21 tensors are extrapolated" in done.out
    assert "a run reads 265.1 KiB and writes 132.9 KiB in 4 files" in done.out
    assert "model.norm.weight  32 F32 → F32  copied (--skip)" in done.out
    assert "lm_head.weight  257×32 F32 → F32  α 0.3" in done.out
    assert names(pair.root) == before
    plan = json.loads(expo("--dry-run", "--json").out)
    assert (plan["bytes_written"], plan["files"], len(plan["tensors"])) == (136064, 1, 21)


def test_a_dry_run_ends_as_the_run_would(expo, pair):
    truncate(pair)
    done = expo("--dry-run")
    assert done.code == 2
    assert "is cut off" in done.err
    assert "weights-damaged" in done.out
    assert names(pair.root) == ["dpo", "sft"]


def test_a_check_has_the_exit_codes_of_w2s_check(w2s, pair):
    models = ("--base", "sft", "--aligned", "dpo")
    done = w2s("expo", "check", *models)
    assert (done.code, done.out.splitlines()[-1]) == (0, "no problems found")
    found = json.loads(w2s("expo", "check", *models, "--json", "--dtype", "bfloat16").out)
    assert [finding["code"] for finding in found["findings"]] == ["rounding"]
    assert found["bytes_written"] == 68032
    done = w2s("expo", "check", *models, "--out", "sft")
    assert done.code == 1
    assert "[out-exists]" in done.out
    assert_refused(w2s("expo", "check", "--base", "./none", "--aligned", "dpo"), "./none")
    assert names(pair.root) == ["dpo", "sft"]


MERGEKIT = """\
merge_method: task_arithmetic
base_model: sft
models:
  - model: dpo
    parameters: {weight: 1.3}
dtype: bfloat16
"""


def test_a_mergekit_file_is_the_same_command(w2s, expo, pair):
    (pair.root / "merge.yml").write_text(MERGEKIT)
    assert w2s("expo", "--config", "merge.yml", "--out", "from-file").code == 0
    assert expo("--dtype", "bfloat16").code == 0
    assert digests(pair.root / "from-file") == digests(pair.root / "out")
    other = w2s("expo", "--config", "merge.yml", "--out", "wide", "--dtype", "float32")
    assert other.code == 0
    assert weights(pair.root / "wide")["lm_head.weight"].dtype == torch.float32


def test_a_mergekit_file_that_is_not_understood_is_refused_by_key(w2s, pair):
    (pair.root / "merge.yml").write_text(MERGEKIT + "slices: []\n")
    done = w2s("expo", "--config", "merge.yml", "--out", "out")
    assert_refused(done, "merge.yml, line 7: slices is not taken", root=pair.root)
    done = w2s("expo", "--config", "none.yml", "--out", "out")
    assert_refused(done, "none.yml cannot be read", root=pair.root)


def test_the_documentation_has_every_option(w2s):
    page = (Path(__file__).parents[2] / "docs" / "expo.md").read_text(encoding="utf-8")
    options = re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", w2s("expo", "--help").out, re.MULTILINE)
    assert len(options) > 15
    missing = {option for option in options if option not in page} - {"--verbose", "--help"}
    assert not missing


def test_the_examples_run(w2s, pair):
    for command in (["expo"], ["expo", "check"]):
        text = w2s(*command, "--help").out
        words = shlex.split(text[text.index("Example:") :])[1:]
        assert words[: len(command) + 1] == ["w2s", *command]
        assert w2s(*words[1:]).code == 0
    assert (pair.root / "expo" / WEIGHTS).is_file()


def on_shard(monkeypatch, number, act):
    """Calls `act` when shard `number` is finished."""
    from w2s.expo.staging import Staging

    finished, add = [], Staging.add

    def counted(self, name, sums):
        add(self, name, sums)
        finished.append(name)
        if len(finished) == number:
            act()

    monkeypatch.setattr(Staging, "add", counted)
    return finished


def test_ctrl_c_says_how_to_go_on_and_resume_ends_with_the_same_bytes(expo, pair, monkeypatch):
    options = ("--shard-size", "20KB", "--rounding", "stochastic", "--dtype", "bfloat16")
    assert expo(*options, out="whole").code == 0
    with monkeypatch.context() as patch:
        on_shard(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        done = expo(*options)
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("w2s: interrupted: what is finished is in out.part")
    assert "--resume goes on" in done.err
    assert names(pair.root) == ["dpo", "out.partial", "sft", "whole"]
    refused = expo(*options)
    assert refused.code == 2
    assert "--resume" in refused.err
    assert "seed" in expo(*options, "--seed", 3, "--resume").err
    with monkeypatch.context() as patch:
        again = on_shard(patch, 0, None)
        assert expo(*options, "--resume").code == 0
    assert 0 < len(again) < len([*(pair.root / "whole").glob("*.safetensors")])
    assert digests(pair.root / "out") == digests(pair.root / "whole")


def test_kill_9_leaves_nothing_under_the_name_and_resume_goes_on(expo, pair, monkeypatch):
    assert expo("--shard-size", "20KB", out="whole").code == 0
    child = os.fork()
    if child == 0:
        on_shard(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
        main(shlex.split(
            "expo --base sft --aligned dpo --alpha 0.3 --out out --shard-size 20KB"
        ))  # fmt: skip
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert names(pair.root) == ["dpo", "out.partial", "sft", "whole"]
    assert expo("--shard-size", "20KB", "--resume").code == 0
    assert digests(pair.root / "out") == digests(pair.root / "whole")


@pytest.fixture
def adapter(pair):
    """A LoRA adapter on sft, in the folder lora."""
    model = AutoModelForCausalLM.from_pretrained("sft")
    torch.manual_seed(2)
    settings = LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    get_peft_model(model, settings).save_pretrained("lora")
    return pair.root / "lora"


def run_lora(w2s, kind, *options, out="out"):
    return w2s(
        "expo", "--base", "sft", "--aligned", "lora", "--alpha", 0.3, "--lora", kind, "--out", out,
        *options,
    )  # fmt: skip


def test_a_scaled_and_a_merged_adapter_are_the_same_model(w2s, adapter, pair):
    done = run_lora(w2s, "adapter", out="scaled")
    assert done.code == 0, done.err
    assert "lora_alpha in its adapter_config.json goes from 16 to 20.8" in done.err
    assert "README.md" in names(pair.root / "scaled")
    given, scaled = ((folder / "adapter_model.safetensors") for folder in
                     (adapter, pair.root / "scaled"))  # fmt: skip
    one, two = load_file(given), load_file(scaled)
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not [*(pair.root / "scaled").glob("*.index.json")]
    done = run_lora(w2s, "merged", out="merged")
    assert done.code == 0, done.err
    assert "whole model" in done.out
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("sft"), "scaled")
    merged = AutoModelForCausalLM.from_pretrained("merged")
    ids = torch.arange(9)[None]
    torch.testing.assert_close(model(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained("merged")("a").input_ids
    report = json.loads((pair.root / "merged" / "expo_report.json").read_text())
    assert report["whole"]["effective_alpha"] == pytest.approx(0.3, rel=1e-4)
    assert json.loads((pair.root / "merged" / "config.json").read_text())["dtype"] == "float32"


def test_an_adapter_keeps_its_bits_however_the_result_is_cut(w2s, adapter, pair):
    options = ("--rounding", "stochastic", "--dtype", "bfloat16")
    assert run_lora(w2s, "merged", *options, out="a").code == 0
    assert run_lora(w2s, "merged", *options, "--shard-size", "20KB", out="b").code == 0
    one, two = weights(pair.root / "a"), weights(pair.root / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_interrupted_merge_goes_on_unless_the_adapter_has_changed(
    w2s, adapter, pair, monkeypatch
):
    options = ("--shard-size", "20KB")
    assert run_lora(w2s, "merged", *options, out="whole").code == 0
    with monkeypatch.context() as patch:
        on_shard(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run_lora(w2s, "merged", *options).code == 130
    config = adapter / "adapter_config.json"
    text, status = config.read_text(), config.stat()
    config.write_text(text.replace('"lora_alpha": 16', '"lora_alpha": 32'))
    refused = run_lora(w2s, "merged", *options, "--resume")
    assert refused.code == 2
    assert "adapter_config.json" in refused.err
    config.write_text(text)
    os.utime(config, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run_lora(w2s, "merged", *options, "--resume").code == 0
    assert digests(pair.root / "out") == digests(pair.root / "whole")


def test_a_scaled_adapter_needs_no_weights_of_a_base_on_the_hub(w2s, adapter, pair, monkeypatch):
    found = []
    monkeypatch.setattr(
        "w2s.expo.adapter_run.local_folder", lambda name, revision: found.append(name) or Path(name)
    )
    options = ("--aligned", "lora", "--alpha", 0.3, "--lora", "adapter", "--out", "out")
    assert w2s("expo", "--base", "org/sft", *options).code == 0
    assert set(found) == {"lora"}
    card = (pair.root / "out" / "README.md").read_text()
    assert "- org/sft" in card


def test_a_merged_adapter_with_new_tokens_loads(w2s, pair):
    model = AutoModelForCausalLM.from_pretrained("sft")
    model.resize_token_embeddings(261)
    settings = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained("lora", save_embedding_layers=True)
    done = run_lora(w2s, "merged")
    assert done.code == 0, done.err
    assert "the adapter has more rows than the base (from 257 on)" in done.err
    merged = AutoModelForCausalLM.from_pretrained("out")
    assert merged.config.vocab_size == 261
    given = load_file(pair.root / "lora" / "adapter_model.safetensors")
    embedding = given["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(merged.get_input_embeddings().weight[257:], embedding[257:])


LORA = {
    "dtype": ("adapter", ["--dtype", "float32"], ["--dtype has no meaning with --lora adapter"]),
    "size": ("adapter", ["--shard-size", "1GB"], ["--shard-size has no meaning with"]),
    "pattern": ("adapter", ["--skip", "k_proj"], ["--skip 'k_proj'", "no tensor's name"]),
    "taken": ("adapter", ["--out", "sft"], ["sft exists already"]),
}


@pytest.mark.parametrize(("kind", "options", "parts"), LORA.values(), ids=LORA.keys())
def test_what_cannot_be_done_with_an_adapter(w2s, adapter, pair, kind, options, parts):
    assert_refused(run_lora(w2s, kind, *options), *parts, root=pair.root)


def test_a_damaged_adapter_is_named(w2s, adapter, pair):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert_refused(run_lora(w2s, "merged"), "adapter_model.safetensors of the adapter",
                   "is cut off", root=pair.root)  # fmt: skip
    (adapter / "adapter_config.json").write_text("{")
    assert_refused(run_lora(w2s, "adapter"), "adapter_config.json", root=pair.root)


def test_a_check_of_an_adapter_plans_its_result(w2s, adapter):
    models = ("expo", "check", "--base", "sft", "--aligned", "lora", "--alpha", 0.3, "--lora")
    done = w2s(*models, "merged", "--out", "out")
    assert done.code == 0
    assert "4 of 21 tensors are extrapolated" in done.out
    found = json.loads(w2s(*models, "adapter", "--json").out)
    assert [finding["code"] for finding in found["findings"]] == ["lora-scaled"]


def test_the_bar_of_a_resumed_run_starts_where_the_earlier_one_ended(monkeypatch):
    from rich import console, progress

    seen = []
    monkeypatch.setattr(console.Console, "is_terminal", property(lambda self: True))
    monkeypatch.setattr(
        progress.Progress, "add_task", lambda self, text, **given: seen.append(given) or 0
    )
    monkeypatch.setattr(progress.Progress, "update", lambda self, task, **given: seen.append(given))
    with byte_progress() as on_progress:
        on_progress(40, 100)
        on_progress(60, 100)
    assert seen == [
        {"total": 100, "completed": 40}, {"total": 100, "completed": 40},
        {"total": 100, "completed": 60},
    ]  # fmt: skip

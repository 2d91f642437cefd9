"""`w2s expo sweep` over a tiny pair: equal draws, the report, interruptions, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import w2s as package
from w2s import embedded
from w2s.cli import main
from w2s.expo.sweep import run as run_module
from w2s.expo.sweep.writers import BrokenModel
from w2s.reproduce import judge as judge_module

REWARD = """
def length(prompts, responses):
    return [len(text) / 10 for text in responses]

def slow(prompts, responses):
    import time
    time.sleep(0.1)
    return length(prompts, responses)

def fails_on_the_second_call(prompts, responses, calls=[]):
    calls.append(1)
    return [0.0] * (len(responses) - (len(calls) > 1))
"""
PROMPTS = [f"Film {n}" for n in range(5)]
FILES = ["curve.svg", "journal.jsonl", "rows.jsonl", "settings.json", "sweep.json", "sweep.md"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with prompts, guard text and a module of rewards, which runs take place in."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "{p}"}}\n' for p in PROMPTS))
    (folder / "guard.txt").write_text("A warm and lovely film.\nA dull one, and so long!\n")
    (folder / "stub_reward.py").write_text(REWARD)
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def arguments(folders, out, *options):
    return [
        "expo", "sweep", "--base", folders.untuned, "--aligned", folders.tuned, "--out", out,
        "--alphas", "0.5,-1", "--prompts", "prompts.jsonl", "--guard", "guard.txt",
        "--guard-limit", 1e9, "--reward", "python:stub_reward:length", "--max-new-tokens", 6,
        "--batch", 2, "--samples", 2, *options,
    ]  # fmt: skip


@pytest.fixture
def sweep(w2s, folders):
    return lambda out, *options: w2s(*arguments(folders, out, *options))


@pytest.fixture(scope="module")
def whole(folders, place, tmp_path_factory):
    """A finished sweep with one round of refinement, for tests that do not change it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([str(one) for one in arguments(folders, out, "--refine", 1)]) == 0
    return out


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]


def report(folder):
    """sweep.json but for what depends on the clock and the checkout."""
    found = json.loads((folder / "sweep.json").read_text("utf-8"))
    for one in found["alphas"]:
        del one["seconds"]
    del found["commit"]
    return found


def test_every_alpha_has_every_row_and_figure(whole):
    assert sorted(path.name for path in whole.iterdir()) == FILES
    found = report(whole)
    alphas = [one["alpha"] for one in found["alphas"]]
    assert {-1.0, 0.0, 0.5} < set(alphas)
    assert found["experiment"] == "expo sweep"
    assert found["settings"]["dtype"] == "float32"
    for alpha in alphas:
        mine = [(row["place"], row["sample"]) for row in rows(whole) if row["alpha"] == alpha]
        assert mine == [(prompt, sample) for prompt in range(5) for sample in range(2)]
    assert all(one["guard"] > 1 for one in found["alphas"])
    fields = ["alpha", "place", "sample", "prompt", "response", "tokens", "reward"]
    assert all(list(row) == fields for row in rows(whole))


def test_it_says_the_memory_the_table_and_the_verdict(sweep, tmp_path):
    done = sweep(tmp_path / "out")
    assert done.code == 0, done.err
    assert "θ(α) is held once, in" in done.err
    assert "α = 0 (1 of 3)" in done.err
    assert "| α | reward | gain over α = 0 |" in done.out
    assert "\nRecommended: " in done.out
    assert (tmp_path / "out" / "sweep.md").read_text("utf-8").startswith("# Choosing α\n\nRecomm")


def test_alpha_0_and_minus_1_write_as_the_two_models_do(whole, folders):
    """The draws are those of `w2s.search` with either checkpoint, the same for every α."""
    tokenizer = package.load(folders.tuned).tokenizer
    plan = package.SearchPlan.bon(2, max_new_tokens=6, temperature=0.7, top_k=50, seed=0)
    for alpha, folder in ((0.0, folders.tuned), (-1.0, folders.untuned)):
        model = package.load(folder, tokenizer=tokenizer)
        traces = []
        proposer = package.LocalProposer(model, plan)
        package.search(PROMPTS, proposer, None, plan, on_chunk=traces.append)
        texts = [model.decode(tokens) for tokens in traces[0].tokens]
        mine = [row["response"] for row in rows(whole) if row["alpha"] == alpha]
        # θ₁ − (θ₁ − θ₀) is θ₀ up to its last bit, so a draw may differ here or there.
        same = sum(a == b for a, b in zip(mine, texts, strict=True))
        assert same == 10 if alpha == 0 else same >= 9


@pytest.mark.parametrize(
    "batches",
    [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(9, marks=pytest.mark.slow)],
)
def test_an_interrupted_sweep_goes_on_to_the_same_files(
    sweep, whole, tmp_path, monkeypatch, batches
):
    """Three batches an α: it stops within the first, the second and the third."""
    calls = 0

    def add(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == batches:
            raise KeyboardInterrupt
        added(self, *arguments)

    added = run_module.SweepStore.add
    with monkeypatch.context() as patch:
        patch.setattr(run_module.SweepStore, "add", add)
        stopped = sweep(tmp_path / "out", "--refine", 1)
    assert stopped.code == 130
    assert "the same command with --resume goes on" in stopped.err
    assert len(rows(tmp_path / "out")) == sum([4, 4, 2][n % 3] for n in range(batches - 1))
    assert not (tmp_path / "out" / "sweep.json").exists()
    done = sweep(tmp_path / "out", "--refine", 1, "--resume")
    assert done.code == 0, done.err
    assert (tmp_path / "out/rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    assert (tmp_path / "out/curve.svg").read_bytes() == (whole / "curve.svg").read_bytes()
    assert report(tmp_path / "out") == report(whole)


@pytest.mark.slow  # a process of its own imports torch and transformers once more
def test_a_killed_sweep_goes_on_to_the_same_rows(sweep, folders, tmp_path):
    reward = ("--reward", "python:stub_reward:slow")
    assert sweep(tmp_path / "whole", *reward).code == 0
    wanted = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    out = tmp_path / "out"
    command = [str(one) for one in arguments(folders, out, *reward)]
    process = subprocess.Popen(
        [sys.executable, "-m", "w2s.cli", *command], stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    path, until = out / "rows.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= 6:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = path.read_bytes()
    assert 6 <= kept.count(b"\n") < wanted.count(b"\n")
    assert not (out / "sweep.json").exists()
    done = sweep(out, *reward, "--resume")
    assert done.code == 0, done.err
    assert path.read_bytes() == wanted


@pytest.fixture
def finished(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def test_a_finished_sweep_is_only_reported_again(sweep, finished, whole):
    done = sweep(finished, "--refine", 1, "--resume")
    assert done.code == 0, done.err
    assert "α = 0 (1 of" not in done.err
    assert report(finished) == report(whole)


def test_further_alphas_join_those_that_are_finished(sweep, finished):
    before = {row["alpha"] for row in rows(finished)}
    done = sweep(finished, "--alphas", "7", "--resume")
    assert done.code == 0, done.err
    assert {row["alpha"] for row in rows(finished)} == before | {7.0}
    assert [one["alpha"] for one in report(finished)["alphas"]] == sorted(before | {7.0})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--seed", 1), "plan was"),
        (("--max-new-tokens", 7), "plan was"),
        (("--dtype", "bfloat16"), "dtype was float32 and is bfloat16 now"),
        (("--reward", "python:stub_reward:fails_on_the_second_call"), "reward was"),
        (("--guard", "prompts.jsonl", "--guard-limit", 5), "field"),
        (("--batch", 3), "prompts at once was 2 and is 3 now"),
    ],
)
def test_other_settings_are_refused_by_name(sweep, finished, options, named):
    done = sweep(finished, "--resume", *options)
    assert done.code == 2
    assert named in done.err
    assert done.err.count("\n") <= 5


def test_a_begun_folder_is_refused_without_resume(sweep, finished):
    done = sweep(finished)
    assert done.code == 2
    assert "holds a sweep that was begun; go on with it by --resume" in done.err


def test_a_reward_that_fails_later_keeps_what_is_finished(sweep, tmp_path):
    done = sweep(tmp_path / "out", "--reward", "python:stub_reward:fails_on_the_second_call")
    assert done.code == 2
    assert "returned 3 values for 4 responses" in done.err
    assert len(rows(tmp_path / "out")) == 4


def test_a_model_that_breaks_down_is_passed_over(sweep, tmp_path):
    done = sweep(tmp_path / "out", "--alphas", "0.5,1e60")
    assert done.code == 0, done.err
    assert "logits are not finite" in done.out
    assert "broke down at α = 1e+60" in done.out


def test_an_aligned_model_that_breaks_down_itself_ends_the_sweep(sweep, monkeypatch, tmp_path):
    def rows(self, alpha, first, end):
        raise BrokenModel("logits are not finite after prompt 0")

    monkeypatch.setattr(run_module.Sweep, "_rows", rows)
    done = sweep(tmp_path / "out")
    assert done.code == 2
    assert "(α = 0) cannot be compared with: logits are not finite after prompt 0" in done.err
    assert done.err.count("\n") <= 5


def test_theta_of_alpha_may_steer_a_large_model(sweep, folders, tmp_path):
    out = tmp_path / "out"
    done = sweep(out, "--steer", folders.large, "--samples", 1)
    assert done.code == 0, done.err
    found = report(out)
    assert found["settings"]["writes"] == "steered by θ(α) against θ₀"
    plan = package.SearchPlan.cbs(4, 4, 5, max_new_tokens=6, temperature=0.7, top_k=50, seed=0)
    large, tuned = package.load(folders.large), package.load(folders.tuned)
    untuned = package.load(folders.untuned, tokenizer=tuned.tokenizer)
    results = package.search(
        PROMPTS, package.LocalProposer(large, plan), package.PairScorer(tuned, untuned, plan), plan
    )
    mine = [row["response"] for row in rows(out) if row["alpha"] == 0]
    assert mine == [result.best.text for result in results]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--alphas", "0.1,x"), "--alphas is '0.1,x'; it must be numbers separated by commas"),
        (("--alphas", "0"), "--alphas is [0.0]; it must have one number other than 0"),
        (("--alphas", "nan"), "--alphas has nan; every α must be a finite number"),
        (("--guard-limit", 0.5), "--guard-limit is 0.5; it must be a number >= 1"),
        (("--temperature", -1), "--temperature is -1.0; it must be"),
        (("--reward", "nothing"), "the reward 'nothing' is none of sentiment, pair,"),
        (("--prompts", "none.jsonl"), "none.jsonl: there is no such file"),
        (("--guard", "none.txt"), "none.txt: there is no such file"),
        (("--steer", "x"), "--samples 2 has no meaning with --steer"),
        (("--base", "no/such/folder"), "no/such/folder"),
        (("--template", "Review:"), "--template: "),
        (("--batch", "0"), "--batch"),
    ],
)
def test_bad_input_is_one_sentence(sweep, tmp_path, options, said):
    done = sweep(tmp_path / "out", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") <= 5


def test_an_adapter_is_refused_with_the_command_that_merges_it(sweep, folders, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    done = sweep(tmp_path / "out", "--aligned", tmp_path / "lora")
    assert done.code == 2
    assert "is an adapter, which cannot be served in place" in done.err
    assert "--lora merged --alpha 0 --out MERGED" in done.err


def test_one_model_of_two_is_refused(w2s, folders, tmp_path):
    done = w2s("expo", "sweep", "--base", folders.untuned, "--out", tmp_path / "out")
    assert done.code == 2
    assert "--base and --aligned go together" in done.err


@pytest.mark.models
@pytest.mark.slow  # the large model's tokenizer comes with its conversion
def test_without_models_and_prompts_it_sweeps_the_embedded_pair(w2s, monkeypatch, tmp_path):
    class Stub:
        def __init__(self):
            self.facts = {}

        def __call__(self, text):
            return float("good" in text)

    monkeypatch.setattr(judge_module, "kept_judge", lambda path, say: Stub())
    out = tmp_path / "out"
    done = w2s(
        "expo", "sweep", "--alphas", 1, "--limit", 3, "--max-new-tokens", 4, "--out", out
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [one["alpha"] for one in report(out)["alphas"]] == [0.0, 1.0]
    skip = 248  # beyond those of `w2s reproduce sentiment`
    tokenizer = package.load(embedded.large()).tokenizer
    openings = embedded.openings(tokenizer, 3, skip=skip)
    assert [row["prompt"] for row in rows(out)] == openings * 2
    assert "40 texts" in report(out)["settings"]["guard"]

"""A run that is killed at any moment: nothing looks finished, and resumed it ends the same."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.weight_files import near, random_tensors, store

pytestmark = pytest.mark.slow  # the parent imports torch once more

SERVER = Path(__file__).parents[1] / "support" / "forked_expo.py"
SIZES = ((300, 200), (200,), (256, 128), (40, 40, 3), (128, 300), (7,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs one extrapolation after another, each forked from one warm process."""
    folder = tmp_path_factory.mktemp("expo")
    aligned = random_tensors(1, torch.float32, SIZES)
    store(folder / "aligned", aligned, shards=3)
    store(folder / "base", near(aligned), shards=2)
    for name in ("base", "aligned"):
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32"}
        (folder / name / "config.json").write_text(json.dumps(config))
    recipe = {
        "base": str(folder / "base"), "aligned": str(folder / "aligned"), "alpha": 0.3,
        "dtype": "bfloat16", "rounding": "stochastic",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def run(out, *, resume=False, **moment):
        log = folder / "log"
        order = {"recipe": recipe, "out": str(out), "resume": resume, "log": str(log), **moment}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        said = log.read_text() if log.exists() else ""
        assert "Traceback" not in said, said
        return answer

    yield run
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    """An uninterrupted run: hashes of its files, and its answer."""
    out = tmp_path_factory.mktemp("reference") / "out"
    answer = run(out)
    assert answer["code"] == 0
    return hashes(out), answer


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def finish(run, out, reference):
    """Goes on with what a kill has left; the result is the uninterrupted run's, alone."""
    if out.exists():  # killed after its last step: it was finished, and all on the disk
        assert not out.with_name("out.partial").exists()
    else:
        assert run(out, resume=True)["code"] == 0
    assert hashes(out) == reference[0]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_killed_between_any_two_steps_it_resumes_to_the_same_bytes(run, reference, tmp_path):
    steps = reference[1]["steps"]
    moments = [*range(0, steps - 12, steps // 12), *range(steps - 12, steps)]
    for step in moments:
        out = tmp_path / str(step) / "out"
        out.parent.mkdir()
        assert run(out, step=step)["code"] == -signal.SIGKILL, step
        finish(run, out, reference)


def test_killed_again_and_again_it_still_ends_the_same(run, reference, tmp_path):
    draw, out, kills = random.Random(7), tmp_path / "out", 0
    while kills < 8:
        code = run(out, resume=True, step=draw.randrange(reference[1]["steps"] // 3))["code"]
        if code == 0:  # little was left to do
            break
        assert code == -signal.SIGKILL
        assert not out.exists()
        kills += 1
    assert kills >= 3
    finish(run, out, reference)


@pytest.mark.parametrize("ends_by", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal_at_random_moments_it_resumes_to_the_same_bytes(
    run, reference, tmp_path, ends_by
):
    draw, ended, seconds = random.Random(int(ends_by)), 0, reference[1]["seconds"]
    for number in range(60):
        out = tmp_path / str(number) / "out"
        out.parent.mkdir()
        answer = run(out, signal=int(ends_by), after=draw.uniform(0.01, seconds))
        if answer["code"] == 0:
            seconds *= 0.9  # the machine is faster than it was
        else:
            ended += 1
            assert answer["code"] == (130 if ends_by == signal.SIGINT else -ends_by)
            assert answer["late"] < 5  # the pipeline's own tests say 1 s; here others run, too
        finish(run, out, reference)
        if ended == 6:
            return
    pytest.fail(f"only {ended} runs were ended before they were done")


def test_what_an_interrupted_run_has_left_is_not_overwritten(run, reference, tmp_path):
    out = tmp_path / "out"
    run(out, step=reference[1]["steps"] // 2)
    before = hashes(tmp_path / "out.partial")
    assert run(out)["code"] == 2
    assert hashes(tmp_path / "out.partial") == before
    finish(run, out, reference)

"""Help: every command shows an example, and the example runs."""

import shlex

import pytest

COMMANDS = {
    ("search",): "search",
    ("score",): "score",
    ("check",): "check",
    ("trace",): "trace",
    ("train", "sft"): "sft",
    ("train", "dpo"): "dpo",
    ("expo",): "expo",
    ("expo", "check"): "expo check",
    ("expo", "sweep"): "expo sweep",
    ("reproduce", "sentiment"): "reproduce sentiment",
    ("reproduce", "report"): "reproduce report",
    ("reproduce", "judge"): "reproduce judge",
    ("info",): "info",
    ("demo",): "demo",
}


def example(text):
    line = next(line for line in text.splitlines() if "Example:" in line)
    rest = text[text.index(line) :]
    return " ".join(rest.split("Example:")[1].split())


@pytest.mark.parametrize("command", COMMANDS.keys(), ids=COMMANDS.values())
def test_every_command_shows_an_example(w2s, command):
    done = w2s(*command, "--help")
    assert done.code == 0
    assert " ".join(["w2s", *command]) in example(done.out)


def test_the_options_of_a_search_stand_in_groups(w2s):
    lines = w2s("search", "--help").out.splitlines()
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups == [
        "Arguments:", "How to search:", "How a token is drawn (cbs, bon, eft, sample):",
        "The models:", "How the models see a prompt:", "Input and output:", "How to run:",
        "Other options:",
    ]  # fmt: skip
    named = [line.split()[0].rstrip(",") for line in lines if line.startswith("  -")]
    assert {"--beta", "--temperature", "--pair", "--system", "--format", "--resume"} <= {*named}
    assert len(named) == len({*named})


def test_no_command_shows_the_commands(w2s):
    done = w2s()
    assert done.code == 0
    assert all(name in done.out for name in ("search", "train", "info", "demo"))


def test_the_version_is_printed(w2s):
    done = w2s("--version")
    assert done.code == 0
    assert done.out.startswith("w2s-kernels ")


def test_the_info_example_runs(w2s):
    done = w2s(*shlex.split(example(w2s("info", "--help").out))[1:])
    assert done.code == 0
    assert "torch" in done.out


def test_the_search_example_runs(w2s, folders, monkeypatch, tmp_path):
    given, command = example(w2s("search", "--help").out).split(" | ")
    (tmp_path / "in.txt").write_text(" ".join(shlex.split(given)[1:]) + "\n")
    with (tmp_path / "in.txt").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        done = w2s(
            *shlex.split(command)[1:], "--large", folders.large,
            "--pair", folders.tuned, folders.untuned,
        )  # fmt: skip
    assert done.code == 0
    assert '"prompt": "This film was"' in done.out


def test_the_trace_example_runs(w2s, folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given, command = example(w2s("trace", "--help").out).split(" | ")
    (tmp_path / "in.txt").write_text(" ".join(shlex.split(given)[1:]) + "\n")
    search, trace = command.split(" && ")
    with (tmp_path / "in.txt").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        done = w2s(
            *shlex.split(search)[1:], "--large", folders.large,
            "--pair", folders.tuned, folders.untuned,
        )  # fmt: skip
    assert done.code == 0
    assert w2s(*shlex.split(trace)[1:]).code == 0
    assert (tmp_path / "trace.html").read_text().startswith("<!doctype html>")


ROWS = {
    "sft": '{"text": "A film."}\n' * 8,
    "dpo": '{"prompt": "A film", "chosen": " good", "rejected": " bad"}\n' * 4,
}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_the_training_examples_run(w2s, folders, monkeypatch, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example(w2s("train", kind, "--help").out))
    model, data, out = words[3], words[4], words[6]
    (tmp_path / data).write_text(ROWS[kind])
    (tmp_path / model).symlink_to(folders.large)
    done = w2s(*words[1:], "--steps", 2, "--batch", 2, "--length", 16)
    assert done.code == 0, done.err
    assert "2 steps" in done.err
    assert (tmp_path / out / "model.safetensors").is_file()

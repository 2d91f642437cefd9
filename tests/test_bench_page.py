"""`python -m w2s_kernels.bench.page`: what stored results say, computed from them alone."""

import copy
import json
import subprocess
import sys

import pytest

from w2s_kernels.bench.page import main
from w2s_kernels.bench.stored import OPTIONS
from w2s_kernels.bench.targets import ALL

STAMP = {
    "date": "2026-01-02 03:04 UTC",
    "commit": "abc1234567",
    "cpu": {"model": "Some CPU", "machine": "x86_64", "cores": 2},
    "cuda": [],
    "isa": "avx512",
    "threads": 2,
    "versions": {"w2s_kernels": "0.1.0", "python": "3.11", "torch": "2.13.0", "triton": None},
}


def row(provider, micro, ratio=None, right=True):
    times = {"least": micro / 1.2e6, "median": micro / 1e6, "lower": micro / 1.1e6,
             "upper": micro / 0.9e6, "rounds": 9}  # fmt: skip
    error = None if ratio is None else ratio * 1e-6
    return {"provider": provider, "absent": None, "cold": times, "hot": times, "error": error,
            "ratio": ratio, "right": right}  # fmt: skip


def absent(provider, why):
    return {"provider": provider, "absent": why, "cold": None, "hot": None, "error": None,
            "ratio": None, "right": True}  # fmt: skip


def result(op, *rows, floor=1000.0, n=256, v=49152, d=576, k=50, dtype="float32", device="cpu"):
    size = {"rows": n, "vocab": v, "dim": d, "k": k, "dtype": dtype, "device": device}
    return {"op": op, "size": size, "least_bytes": 4e7, "exps": 1e6, "flops": 0, "read": 5e10,
            "exp": 8e9, "floor": floor / 1e6, "rows": list(rows)}  # fmt: skip


def op_file(*results, **changed):
    return {"stamp": STAMP | changed, "results": list(results)}


def search_file(**changed):
    parts = {"large forward": 0.8, "pair forward": 0.1, "scoring": 0.06, "rest": 0.04}
    run = {
        "prompts": 1,
        "seconds": {"ours": [1.0, 1.2, 0.9], "public": [5.0, 5.5, 4.5]},
        "parts": {"ours": parts, "public": {part: 5 * s for part, s in parts.items()}},
        "outside_share": 0.04,
        "peak_bytes": {"public": 600_000_000, "ours": 100_000_000},
    }
    eight = run | {"prompts": 8, "seconds": {"ours": [2.0], "public": [15.0]},
                   "outside_share": 0.08}  # fmt: skip
    found = {"stamp": STAMP, "models": "embedded", "dtype": "float32", "device": "cpu",
             "threads": 2, "prompt_tokens": 32, "new_tokens": 50, "runs": [run, eight]}  # fmt: skip
    return found | changed


def training_file(**changed):
    def way(*seconds, peak=None):
        found = {"seconds": list(seconds), "far": {"loss": 0.0, "gradient": 2e-6}}
        return found | ({} if peak is None else {"peak_bytes": peak})

    sft = {
        "shape": "pair", "kind": "sft", "threads": 1, "vocab": 49152, "dim": 128, "layers": 4,
        "tokens": 1000, "targets": 900, "loss": 10.8,
        "ways": {"ours": way(0.5, 0.4, 0.6, peak=150_000_000),
                 "plain torch": way(1.0, 1.1, 0.9, peak=670_000_000),
                 "F.linear_cross_entropy": way(0.45)},
    }  # fmt: skip
    dpo = copy.deepcopy(sft) | {"kind": "dpo", "threads": 2, "layers": 1}
    found = {"stamp": STAMP, "device": "cpu", "dtype": "float32", "rounds": 3, "absent": {},
             "tolerance": {"loss": 1e-5, "gradient": 1e-4}, "training": [sft, dpo]}  # fmt: skip
    return found | changed


@pytest.fixture
def page(tmp_path):
    """Writes files by name and gives the page made of their folder."""

    def make(**files):
        for name, data in files.items():
            (tmp_path / "results").mkdir(exist_ok=True)
            (tmp_path / "results" / f"{name}.json").write_text(json.dumps(data))
        out = tmp_path / "docs" / "page.md"
        assert main([str(tmp_path / "results"), "-o", str(out)]) == 0
        return out.read_text()

    return make


def cells(page, *starts):
    """The cells of the one line that begins with these cells."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines()]
    (found,) = (line for line in lines if line[: len(starts)] == list(starts))
    return found


def target_line(page, target):
    return cells(page, next(t for t in ALL if t.startswith(target)))


def test_a_row_holds_the_figures_of_its_file(page):
    rows = [row("ours", 2000, 0.1), row("eager", 9000, 2.2), row("compile", 3000)]
    text = page(a=op_file(result("logprob_diff", *rows)))
    head = cells(text, "size", "provider")
    assert cells(text, "N=256 V=49152 fp32", "*floor*")[2:7] == ["1000", "", "40.0", "80%", "100%"]
    ours = dict(zip(head, cells(text, "", "ours"), strict=True))
    assert ours == {
        "size": "", "provider": "ours", "µs": "2000", "25–75 %": "1818–2222", "GB/s": "20.0",
        "of reading": "40%", "of the floor": "50%", "hot µs": "2000", "× eager": "4.50",
        "× compile": "1.50", "error / allowed": "0.1",
    }  # fmt: skip
    assert cells(text, "", "compile")[-1] == ""


def test_the_machine_is_named_and_no_time_of_day(page):
    text = page(a=op_file(result("logprob", row("ours", 9))))
    assert (
        "Some CPU, avx512, 2 threads of 2 cores; torch 2.13.0; commit abc1234567; 2026-01-02. "
        in text
    )
    assert "03:04" not in text


def test_a_gpu_is_named_before_its_host_and_has_no_cpu_target(page):
    gpu = [{"name": "Some GPU", "capability": "9.0", "memory_gib": 80.0}]
    text = page(a=op_file(result("logprob_diff", row("ours", 9), floor=1, device="cuda"), cuda=gpu))
    assert "Some GPU; host Some CPU" in text
    assert "0 of 0 figures" in text
    assert "--device cuda --json" in text


def test_a_section_gives_the_command_that_measures_it_again(page):
    sizes = [
        result(
            "linear_logprob_diff", row("ours", 9, 0.5), absent("compile", "no"), n=n, dtype=dtype
        )
        for n in (1, 16)
        for dtype in ("float32", "bfloat16")
    ]
    text = page(linear_t2=op_file(*sizes))
    assert (
        "python -m w2s_kernels.bench linear_logprob_diff --rows 1,16 --vocab 49152 --dim 576 "
        "--dtype fp32,bf16 --providers ours,compile --device cpu --threads 2 --check "
        "--json bench/results/linear_t2.json\n"
    ) in text
    rows = [row("ours", 1), row("sum of the inputs", 1)]
    text = page(s=op_file(result("guided_sample", *rows, n=16)))
    assert "--k 50 --providers 'ours,sum of the inputs' --device" in text


def test_the_command_takes_the_options_that_the_bench_takes():
    from w2s_kernels.bench.__main__ import CASES

    assert {op: set(options) for op, options in OPTIONS.items()} == {
        op: set(case.uses) for op, case in CASES.items()
    }


@pytest.mark.parametrize(
    ("op", "rows", "size", "target", "figure", "verdict"),
    [
        ("logprob_diff", [row("ours", 1100)], {"dtype": "bfloat16"},
         "logprob_diff, N=256: at least", "90.9% (quartiles 82% to 100%)", "reached"),
        ("logprob_diff", [row("ours", 1180)], {}, "logprob_diff, N=256: at least",
         "84.7% (quartiles 76% to 93%)", "**missed**"),
        ("logprob_diff", [row("ours", 1000), row("eager", 7999)], {},
         "logprob_diff, N=256, fp32: at least 8 ", "8.00 ×", "**missed**"),
        ("logprob_diff", [row("ours", 1000), row("compile", 2600)], {},
         "logprob_diff, N=256, fp32: at least 2.5", "2.60 ×", "reached"),
        ("linear_logprob_diff", [row("ours", 1150), row("products fp32", 1000),
         row("products native", 1900)], {"n": 16}, "linear_logprob_diff", "1.150 ×", "**missed**"),
        ("linear_logprob_diff", [row("ours", 1150), row("products fp32", 1900),
         row("products native", 1100)], {"n": 64}, "linear_logprob_diff", "1.045 ×", "reached"),
        ("guided_sample", [row("ours", 1900), row("sum of the inputs", 1000)], {"n": 16},
         "guided_sample", "1.900 ×", "reached"),
        ("gather_beams_", [row("ours", 1501)], {}, "gather_beams_", "1.501 ×", "**missed**"),
    ],
)  # fmt: skip
def test_a_target_is_reached_or_missed_by_the_figures(
    page, op, rows, size, target, figure, verdict
):
    text = page(some=op_file(result(op, *rows, **size)))
    line = target_line(text, target)
    assert line[2:] == ["2", "some", figure, verdict]
    assert f"* {line[0]}" not in text


@pytest.mark.parametrize(
    ("op", "rows", "size"),
    [
        ("logprob_diff", [row("ours", 1), row("eager", 9)], {"n": 255}),
        ("logprob_diff", [row("eager", 9)], {}),
        ("linear_logprob_diff", [row("ours", 1), row("products fp32", 1)], {"n": 15}),
        ("linear_logprob_diff", [row("ours", 1), absent("products fp32", "no")], {"n": 16}),
        ("guided_sample", [row("ours", 1), row("sum of the inputs", 1)], {"n": 16, "k": 5}),
    ],
)
def test_what_a_target_does_not_speak_of_has_no_verdict(page, op, rows, size):
    text = page(some=op_file(result(op, *rows, **size)))
    assert "0 of 0 figures" in text
    assert all(f"* {target}\n" in text for target in ALL)


def test_sixteen_bit_speed_is_not_held_to_the_fp32_ratios(page):
    text = page(
        some=op_file(result("logprob_diff", row("ours", 1000), row("eager", 9), dtype="bfloat16"))
    )
    assert "1 of 1 figures" in text


def test_a_search_has_its_totals_parts_and_targets(page):
    text = page(public=search_file())
    assert cells(text, "1", "5.00 s (4.50 to 5.50)") == [
        "1", "5.00 s (4.50 to 5.50)", "1.00 s (0.90 to 1.20)", "5.00 ×", "600 MB", "100 MB",
        "1/6.0", "4.0%"]  # fmt: skip
    assert cells(text, "8", "ours") == ["8", "ours", "0.800", "0.100", "0.060", "0.040"]
    assert target_line(text, "search, 1 prompt")[1:] == [
        "embedded, float32, 1 prompt", "2", "public", "5.00 ×", "reached"]  # fmt: skip
    assert target_line(text, "search, 8 prompts")[4:] == ["7.50 ×", "**missed**"]
    assert "4 of 6 figures reach their target" in text
    assert "--prompts 1 8 --repeats 3 1 --json bench/results/public.json" in text


def test_a_search_of_another_length_has_no_verdict_and_memory_may_be_missing(page):
    data = search_file(new_tokens=15)
    for run in data["runs"]:
        del run["peak_bytes"]
    text = page(public=data)
    assert "0 of 0 figures" in text
    assert "--repeats 3 1 --no-memory --json" in text


def test_training_has_its_ways_with_times_rates_and_peaks(page):
    text = page(training=training_file(), public=search_file())
    assert text.index("## A whole search") < text.index("## Training")
    assert cells(text, "pair: V=49152 D=128, 4 layers") == [
        "pair: V=49152 D=128, 4 layers", "sft, 900 targets", "1", "ours",
        "0.500 (0.400 to 0.600)", "2000", "", "150 MB", "2e-06"]  # fmt: skip
    assert "| pair: V=49152 D=128, 1 layer | dpo, 900 targets | 2 | ours | 0.500" in text
    plain = [line for line in text.splitlines() if "| plain torch |" in line]
    assert len(plain) == 2
    assert "| 1.000 (0.900 to 1.100) | 1000 | 2.00 | 670 MB |" in plain[0]
    assert text.count("| F.linear_cross_entropy | 0.450 (0.450 to 0.450) | 2222 | 0.90 |  |") == 2
    assert "float32. Some CPU, avx512, 1 and 2 threads of 2 cores; torch" in text
    assert "Allowed: losses 1e-05, gradients 1e-04 apart." in text
    assert (
        "python bench/training/train_speed.py --shapes pair --kinds sft dpo --ways ours "
        "'plain torch' F.linear_cross_entropy --threads 1 2 --rounds 3 "
        "--json bench/results/training.json\n"
    ) in text


def test_training_without_memory_or_a_way_says_so(page):
    data = training_file(absent={"F.linear_cross_entropy": "torch 2.11 has none"})
    for run in data["training"]:
        del run["ways"]["F.linear_cross_entropy"]
        for way in run["ways"].values():
            way.pop("peak_bytes", None)
    text = page(training=data)
    assert "Absent: F.linear_cross_entropy (torch 2.11 has none)." in text
    assert "--rounds 3 --no-memory --json" in text


def test_the_training_benchmark_writes_what_the_page_shows(page, tmp_path):
    import train_speed

    path = tmp_path / "results" / "t.json"
    options = ["--shapes", "tiny", "--threads", "1", "--rounds", "1", "--no-memory"]
    assert train_speed.main([*options, "--json", str(path)]) == 0
    text = page()
    assert "| tiny: V=1000 D=32, 2 layers | dpo, 36 targets | 1 | ours |" in text
    assert "--shapes tiny --kinds sft dpo --ways ours 'plain torch' " in text


def test_an_experiments_report_is_named_and_breaks_nothing(page):
    report = {"experiment": "sentiment", "runs": 3, "methods": {}}
    text = page(sentiment=report, a=op_file(result("logprob", row("ours", 9))))
    assert "Not timings, and so not on this page: sentiment.json (`w2s reproduce" in text
    assert "## logprob" in text


def test_the_same_files_give_the_same_page_in_any_order(tmp_path):
    files = []
    for name, op in (("b", "logprob"), ("a", "logprob"), ("c", "guided_topk")):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(op_file(result(op, row("ours", 1)))))
    outs = [tmp_path / f"{n}.md" for n in range(3)]
    main([*map(str, files), "-o", str(outs[0])])
    main([*map(str, reversed(files)), "-o", str(outs[1])])
    main([str(tmp_path), "-o", str(outs[2])])
    assert len({out.read_text() for out in outs}) == 1
    text = outs[0].read_text()
    assert text.index("### a\n") < text.index("### b\n") < text.index("### c\n")
    assert str(tmp_path) not in text


def test_an_absent_provider_says_why_without_a_path_of_the_machine(page):
    why = "the library does not load: /home/me/lib/_C.so: undefined symbol"
    text = page(a=op_file(result("logprob", row("ours", 9), absent("cpu", why))))
    assert "cpu (the library does not load: _C.so: undefined symbol)" in text


def test_a_wrong_result_is_marked(page):
    text = page(a=op_file(result("logprob", row("ours", 9, 3.5, right=False))))
    assert cells(text, "", "ours")[-1] == "3.5 WRONG"


def damaged():
    good = op_file(result("logprob", row("ours", 9)))
    for path, value in [
        (("stamp",), None),
        (("stamp", "isa"), ...),
        (("results",), []),
        (("results", 0, "op"), "nothing"),
        (("results", 0, "size", "dtype"), "int8"),
        (("results", 0, "floor"), 0),
        (("results", 0, "rows", 0, "cold", "median"), "fast"),
        (("results", 0, "rows", 0, "cold"), None),
        (("results", 0, "rows", 0, "hot", "median"), float("nan")),
    ]:
        data = copy.deepcopy(good)
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        yield pytest.param(json.dumps(data), id=f"{path[-1]}={value}")
    yield from ("{", "[]", "3", "{}", json.dumps(search_file(runs=3)), "\udcff")
    yield json.dumps(training_file(training=[]))
    yield json.dumps(training_file(tolerance={"loss": 1e-5}))
    for change in ({"ways": {}}, {"tokens": 0}, {"ways": {"ours": {"seconds": [], "far": {}}}}):
        data = training_file()
        data["training"][0] |= change
        yield json.dumps(data)
    yield json.dumps({"experiment": "something else"})


@pytest.mark.parametrize("text", list(damaged()))
def test_a_file_of_another_format_is_named_in_one_sentence_and_ends_with_exit_code_2(
    text, tmp_path, capsys
):
    file, out = tmp_path / "other.json", tmp_path / "page.md"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert main([str(file), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{file} is not a result file" in said
    assert not out.exists()


def test_a_missing_file_and_an_empty_folder_end_with_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read: No such file" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "holds no .json file" in capsys.readouterr().err


def test_the_page_is_made_without_torch(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(op_file(result("logprob", row("ours", 1)))))
    code = (
        "import sys; sys.modules['torch'] = None; from w2s_kernels.bench.page import main; "
        f"sys.exit(main([{str(tmp_path)!r}, '-o', {str(tmp_path / 'p.md')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "p.md").read_text().startswith("# Performance\n")

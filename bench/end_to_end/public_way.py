"""Our search beside the public code's way of working: seconds by part, memory, equal selections.

    python bench/end_to_end/public_way.py --models embedded --prompts 1 8 32 --repeats 5 3 1 \\
        --json bench/results/public_way_embedded.json

`public_search.py` says what the public way is. Both search with the same models and make the same
draws: our search is recorded once, and in the timed runs the public way is made to write the same
tokens, after it has paid for sampling its own. Before that one prompt is searched with nothing
prescribed. What is kept after each chunk, and texts and scores at the end, must be equal; near-ties
that rank differently are counted. Runs alternate; the tables show medians.

Both have the same weights. Ours are as `w2s.load` keeps them (on a CPU packed by oneDNN), those of
the public way as transformers does.

Memory: the high-water mark of the resident set over one search, in a fresh process for each, less
what was resident when all weights had been read and each model had been run once.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH leaves it out

import torch
from our_search import OurSearch, differences
from part_clock import PartClock
from peak_memory import peak_above
from public_search import Drawn, PublicResult, PublicSearch, Writer
from search_models import BUILDERS, Subjects

import w2s
from w2s_kernels.bench.report import stamp

PARTS = ("large forward", "pair forward", "scoring", "sampling", "selection and KV", "rest")
# The products with the pair's heads are part of `scoring` in ours, so it counts as a forward.
FORWARDS = PARTS[:3]


class Comparison:
    """The two searches over the same prompts; `plain` are the models of the public way."""

    def __init__(
        self, subjects: Subjects, plain: Subjects, plan: w2s.SearchPlan, prompt_tokens: int
    ) -> None:
        self.subjects, self.plan, self.prompt_tokens = subjects, plan, prompt_tokens
        self.device = subjects.large.device
        self.clock = PartClock(self.device)
        self.ours = OurSearch(*subjects.models, plan, self.clock)
        self.public = PublicSearch(*plain.models, plan, self.clock)

    def unprescribed(self) -> dict[str, Any]:
        """One prompt, each search with its own draws from its own logits."""
        prompt = self.subjects.prompts(1, self.prompt_tokens)[0]
        ours = self.ours.record([prompt])
        public = self.public(prompt, Drawn(self.plan, 0, self.subjects.large))
        kept = ours.of_prompt(0, self.plan, self.subjects.large).kept
        return {
            "different": differences(ours.results[0], public, self.public.near),
            "equal_selections": [list(row) for row in kept[: len(public.parents)]]
            == public.parents,
        }

    def run(self, count: int, repeats: int) -> dict[str, Any]:
        """Times `count` prompts; raises `AssertionError` where the two searches differ."""
        prompts = self.subjects.prompts(count, self.prompt_tokens)
        record = self.ours.record(prompts)
        writers = [record.of_prompt(n, self.plan, self.subjects.large) for n in range(count)]
        seconds: dict[str, list[dict[str, float]]] = {"ours": [], "public": []}
        found: list[PublicResult] = []
        for repeat in range(repeats):
            for who in ("public", "ours") if repeat % 2 == 0 else ("ours", "public"):
                self.clock.start()
                if who == "ours":
                    again = self.ours(prompts)
                else:
                    found = self._public(prompts, writers)
                seconds[who].append(self.clock.stop())
                if who == "ours" and [r.best for r in again] != [r.best for r in record.results]:
                    raise AssertionError("two runs of our search on the same prompts differ")
        for number, (ours, public) in enumerate(zip(record.results, found, strict=True)):
            different = differences(ours, public, self.public.near)
            if different:
                raise AssertionError(f"prompt {number}: {'; '.join(different)}")
        return {
            "prompts": count,
            "seconds": {who: [sum(run.values()) for run in runs] for who, runs in seconds.items()},
            "parts": {who: _median_parts(runs) for who, runs in seconds.items()},
            "near_ties": sum(result.near_ties for result in found),
            "selections": sum(len(result.parents) for result in found),
            "public_work": {
                name: sum(getattr(result.work, name) for result in found)
                for name in vars(found[0].work)
                if name != "logprob_bytes"
            },
            "public_logprob_bytes": found[0].work.logprob_bytes,
        }

    def _public(
        self, prompts: Sequence[Sequence[int]], writers: Sequence[Writer]
    ) -> list[PublicResult]:
        return [self.public(p, writer) for p, writer in zip(prompts, writers, strict=True)]

    def peak(self, who: str, count: int) -> int:
        """Bytes above the weights; to be called first in a fresh process."""
        prompts = self.subjects.prompts(count, self.prompt_tokens)
        for model in self.subjects.models:
            with torch.inference_mode():
                model.module(input_ids=torch.tensor([prompts[0][:1]], device=self.device))
                for parameter in model.module.parameters():
                    if not parameter.is_mkldnn:
                        parameter.sum()  # touches every page of a mapped file
        search: dict[str, Callable[[], object]] = {
            "ours": lambda: self.ours(prompts),
            "public": lambda: self._public(
                prompts, [Drawn(self.plan, n, self.subjects.large) for n in range(count)]
            ),
        }
        return peak_above(search[who], self.device)


def _median_parts(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(run.get(part, 0.0) for run in runs) for part in PARTS}


def _peak_in_fresh_process(given: argparse.Namespace, who: str, count: int) -> int:
    command = [sys.executable, __file__, "--peak-of", who, "--prompts", str(count)]
    for name in ("models", "device", "dtype", "threads", "prompt_tokens", "new_tokens"):
        command += ["--" + name.replace("_", "-"), str(getattr(given, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown: one table of totals, one of parts."""
    lines = [
        f"{report['models']}, {report['dtype']}, {report['stamp']['cpu']['model']}, "
        f"{report['threads']} threads, CBS(4, 4, 5), {report['prompt_tokens']} + "
        f"{report['new_tokens']} tokens; seconds are medians (least to most)",
        "",
        "| prompts | public way | ours | faster | public peak | our peak | memory "
        "| outside the forwards |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in report["runs"]:
        public, ours = (run["seconds"][who] for who in ("public", "ours"))
        faster = statistics.median(public) / statistics.median(ours)
        cells = [str(run["prompts"]), _spread(public), _spread(ours), f"{faster:.1f} ×"]
        if "peak_bytes" in run:
            peak = run["peak_bytes"]
            cells += [f"{peak[who] / 1e6:.0f} MB" for who in ("public", "ours")]
            cells.append(f"1/{peak['public'] / peak['ours']:.1f}")
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join([*cells, f"{run['outside_share']:.1%}"]) + " |")
    lines += ["", "| prompts | who | " + " | ".join(PARTS) + " |"]
    lines.append("| ---: | --- |" + " ---: |" * len(PARTS))
    for run in report["runs"]:
        for who, name in (("public", "public way"), ("ours", "ours")):
            cells = [f"{run['parts'][who][part]:.3f}" for part in PARTS]
            lines.append(f"| {run['prompts']} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(seconds: Sequence[float]) -> str:
    middle = f"{statistics.median(seconds):.2f} s"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.2f} to {max(seconds):.2f})"


def _outside(run: dict[str, Any]) -> float:
    parts = run["parts"]["ours"]
    return 1.0 - sum(parts[part] for part in FORWARDS) / sum(parts.values())


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", choices=BUILDERS, default="embedded")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--repeats", type=int, nargs="+", default=[3], help="one number, or one for each --prompts"
    )
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="1 prompt, 15 tokens, once")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory runs out")
    parser.add_argument("--json", type=Path, help="write the report there as well")
    parser.add_argument("--peak-of", choices=("ours", "public"), help="internal: one memory run")
    given = parser.parse_args(arguments)
    if given.quick:
        given.prompts, given.repeats, given.new_tokens = [1], [1], 15
    if len(given.repeats) == 1:
        given.repeats *= len(given.prompts)
    if len(given.repeats) != len(given.prompts):
        parser.error("--repeats takes one number, or as many as --prompts")
    if min(*given.prompts, *given.repeats, given.prompt_tokens, given.new_tokens) < 1:
        parser.error("--prompts, --repeats, --prompt-tokens and --new-tokens are at least 1")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 when the two searches differ."""
    given = _arguments(arguments)
    torch.set_num_threads(given.threads)
    plan = w2s.SearchPlan.cbs(4, 4, 5, max_new_tokens=given.new_tokens, top_k=50, clones=True)
    build, where = BUILDERS[given.models], (given.device, getattr(torch, given.dtype))
    if given.peak_of:
        subjects = build(*where, given.peak_of == "public")
        comparison = Comparison(subjects, subjects, plan, given.prompt_tokens)
        print(comparison.peak(given.peak_of, given.prompts[0]))
        return 0
    comparison = Comparison(build(*where, False), build(*where, True), plan, given.prompt_tokens)
    report: dict[str, Any] = {
        "stamp": stamp(),
        **{name: getattr(given, name) for name in ("models", "dtype", "device", "threads")},
        **{name: getattr(given, name) for name in ("prompt_tokens", "new_tokens")},
        "unprescribed": comparison.unprescribed(),
        "runs": [],
    }
    try:
        for count, repeats in zip(given.prompts, given.repeats, strict=True):
            run = comparison.run(count, repeats)
            run["outside_share"] = _outside(run)
            report["runs"].append(run)
            print(f"{count} prompts: equal selections, {run['near_ties']} near-ties of "
                  f"{run['selections']}", file=sys.stderr, flush=True)  # fmt: skip
    except AssertionError as error:
        print(f"the two searches differ: {error}", file=sys.stderr)
        return 1
    if not given.no_memory:
        for run in report["runs"]:
            # One prompt a call: the public way's peak does not depend on how many calls there are.
            run["peak_bytes"] = {
                "public": _peak_in_fresh_process(given, "public", 1),
                "ours": _peak_in_fresh_process(given, "ours", run["prompts"]),
            }
    print(tables(report))
    different = report["unprescribed"]["different"]
    equal = report["unprescribed"]["equal_selections"] and not different
    print(f"\nWith nothing prescribed, one prompt: {'equal' if equal else '; '.join(different)}.")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes the embedded sentiment pair from data to figures: `python -m w2s.train.make_pair`.

Movie reviews → an untrained tiny llama on SmolLM2's tokenizer → supervised fine-tuning on all
reviews of the pair's part (the untuned model) → preference training on excerpts of positive against
negative reviews (the tuned model) → figures on held-out reviews. All seeds are fixed; the same
machine and thread count give the same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from w2s import embedded
from w2s.models import Model, load
from w2s.train.dpo import DPOConfig, train_dpo
from w2s.train.loop import StepReport, TrainResult
from w2s.train.pair_figures import figures
from w2s.train.review_rows import write_preferences, write_texts
from w2s.train.sft import SFTConfig, train_sft
from w2s.train.tiny_llama import write_tiny_llama

SEED = 0
SFT = SFTConfig(
    lr=2e-3, length=256, batch=8, epochs=1.0, warmup=100, candidates=8000,
    save_dtype="bfloat16", seed=SEED,
)  # fmt: skip
DPO = DPOConfig(
    lr=2e-4, beta=0.5, nll_weight=2.0, batch=16, steps=400, warmup=20, length=72, end=False,
    candidates=8000, save_dtype="bfloat16", seed=SEED,
)  # fmt: skip
EXCERPT_WORDS = (12, 48)
HELD_OUT_TOKENS = (48, 128, 256)


def make_pair(work: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Makes tuned/, untuned/ and metrics.json in `work`; finished parts found there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    large = embedded.large()
    split = embedded.reviews()
    start = work / "start"
    if not start.exists():
        write_tiny_llama(large, start, SEED)
    texts, preferences = work / "sft.jsonl", work / "dpo.jsonl"
    write_texts(split.pair, texts)
    count = DPO.batch * DPO.total_steps(0)
    write_preferences(split.pair, preferences, count=count, words=EXCERPT_WORDS, seed=SEED)
    files: dict[str, Any] = {"tokenizer": large, "save_tokenizer": False}
    timed: dict[str, TrainResult] = {}
    if not (work / "untuned").exists():
        timed["sft"] = train_sft(
            start, texts, work / "untuned", SFT, on_step=_log(report, "sft"), **files
        )
    if not (work / "tuned").exists():
        timed["dpo"] = train_dpo(
            work / "untuned", preferences, work / "tuned", DPO, on_step=_log(report, "dpo"), **files
        )
    report("figures on held-out reviews")
    tuned, untuned = (_load(work / name, large) for name in ("tuned", "untuned"))
    metrics = {
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "training": {
            name: {"steps": r.steps, "tokens": r.tokens, "seconds": round(r.seconds)}
            for name, r in timed.items()
        },
        "reviews": {"pair": len(split.pair), "judge": len(split.judge), "test": len(split.test)},
        "held_out": [figures(tuned, untuned, split.test, tokens=n) for n in HELD_OUT_TOKENS],
    }
    (work / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def install(work: Path, place: Path) -> None:
    """Replaces the pair in `place` (and its metrics.json) by the one in `work`."""
    for name in ("tuned", "untuned"):
        fresh, old = place / f".{name}-new", place / name
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for file in ("config.json", "model.safetensors", "train.json"):
            shutil.copyfile(work / name / file, fresh / file)
        shutil.rmtree(old, ignore_errors=True)
        fresh.rename(old)
    shutil.copyfile(work / "metrics.json", place / "metrics.json")


def _load(folder: Path, large: Path) -> Model:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    return load((module, AutoTokenizer.from_pretrained(str(large))))


def _log(report: Callable[[str], None], kind: str) -> Callable[[StepReport], None]:
    begin = time.perf_counter()

    def on_step(step: StepReport) -> None:
        if step.step % 25 and step.step != step.steps:
            return
        extra = "".join(f"  {name} {value:.3f}" for name, value in step.metrics.items())
        report(
            f"{kind} {step.step}/{step.steps}  loss {step.loss:.4f}{extra}  "
            f"{step.tokens_per_second:.0f} tokens/s  {time.perf_counter() - begin:.0f} s"
        )

    return on_step


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m w2s.train.make_pair", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/pair"),
        help="folder for rows, checkpoints and figures; parts finished there are not made again",
    )
    parser.add_argument(
        "--install", action="store_true", help="put the result in the w2s package as its pair"
    )
    given = parser.parse_args(arguments)
    metrics = make_pair(given.work, lambda line: print(line, file=sys.stderr, flush=True))
    if given.install:
        install(given.work, Path(embedded.__file__).parent)
    print(json.dumps(metrics, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

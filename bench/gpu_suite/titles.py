"""What the parts are called and do. Imports without torch, for a machine that has none."""

PARTS = {
    "tests": "op tests and searches on the device, all dtypes; no host waits in the loop",
    "sanitizer": "the small op tests under compute-sanitizer, if it is there",
    "ceilings": "reading, copying and bf16 products of the device",
    "logits": "logprob, logprob_stats, logprob_diff beside others",
    "few rows": "linear ops of 1 to 64 rows beside others",
    "many rows": "linear ops of 512 and 4096 rows beside others",
    "step": "sampling, selection and cache moves beside others",
    "search gpt2": "a whole search of GPT-2 shapes beside the public way",
    "search 7b": "a whole search of 7B shapes beside the public way",
}


def describe() -> list[str]:
    """A line a part: what `make gpu PART=N` takes, its name, what it does."""
    return [
        f"PART={number}  {name:<12} {title}"
        for number, (name, title) in enumerate(PARTS.items(), start=1)
    ]

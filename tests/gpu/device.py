"""`make gpu` asks here first: without a device exit code 3, and what would have been done."""

import importlib.util
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def main() -> int:
    if importlib.util.find_spec("torch") is None:
        return refuse("this Python has no torch")
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        return refuse(
            "no device or driver" if built else f"torch {torch.__version__} is a CPU build"
        )
    name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    print(f"{name}, sm_{capability[0]}{capability[1]}, torch {torch.__version__}")
    return 0


def refuse(why: str) -> int:
    print(f"no CUDA device: nothing was run ({why}). On one, these would be:", file=sys.stderr)
    sys.path.insert(0, str(BENCH))
    from gpu_suite.titles import describe

    print("\n".join(describe()), file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())

"""`make gpu` asks here first: exit code 3 and one sentence where there is no CUDA device."""

import importlib.util
import sys


def main() -> int:
    if importlib.util.find_spec("torch") is None:
        print("no CUDA device: nothing was run (this Python has no torch)", file=sys.stderr)
        return 3
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: nothing was run", file=sys.stderr)
        return 3
    name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    print(f"{name}, sm_{capability[0]}{capability[1]}, torch {torch.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

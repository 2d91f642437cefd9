"""The device these tests run on. Without one they are skipped, with the reason.

W2S_GPU_TESTS_ON=cpu runs them on the CPU, to check the tests themselves.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    name = os.environ.get("W2S_GPU_TESTS_ON", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)

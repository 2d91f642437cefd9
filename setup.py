"""Builds the compiled kernels with CMake; installs without them if a compiler or torch is missing.

The package works either way: without the library every op runs on its reference, and
`python -m w2s_kernels.info` says why. W2S_REQUIRE_NATIVE=1 turns a missing library into an error.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt and puts `_C.so` beside w2s_kernels/__init__.py."""

    def build_extension(self, ext: Extension) -> None:
        package = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_error.txt").unlink(missing_ok=True)
        try:
            self.run_cmake(package)
        except (OSError, ImportError, subprocess.CalledProcessError) as error:
            if os.environ.get("W2S_REQUIRE_NATIVE") == "1":
                raise
            reason = f"the compiled kernels were not built: {error}"
            (package / "_build_error.txt").write_text(reason + "\n")
            print(f"w2s-kernels: {reason}; installing the reference backend only", file=sys.stderr)

    def run_cmake(self, package: Path) -> None:
        import torch  # a build without torch in reach falls back, see build_extension

        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", str(ROOT), "-DCMAKE_BUILD_TYPE=Release", f"-DW2S_OUTPUT={package}",
            f"-DTORCH_ROOT={Path(torch.__file__).parent}", f"-DPython3_EXECUTABLE={sys.executable}",
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure.append("-GNinja")
        subprocess.run(configure, cwd=build, check=True)
        subprocess.run(["cmake", "--build", ".", "--parallel"], cwd=build, check=True)

    def get_ext_filename(self, fullname: str) -> str:
        # A torch library, not a Python module: one file serves every CPython version.
        return os.path.join(*fullname.split(".")) + ".so"


setup(
    ext_modules=[Extension("w2s_kernels._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
    package_dir={"w2s_kernels": "w2s_kernels", "w2s": "python/w2s"},
    packages=[
        *find_packages(include=["w2s_kernels", "w2s_kernels.*"]),
        *find_packages(where="python"),
    ],
    package_data={
        "w2s_kernels": ["py.typed", "_build_error.txt", "triton_kernels/*.json"],
        "w2s": ["py.typed"],
        "w2s.cli": ["trace_page.html", "trace_page.css", "trace_page.js"],
        "w2s.embedded": ["**/*.safetensors", "**/*.json", "**/*.md", "**/*.jsonl"],
    },
)  # fmt: skip

"""Builds the extension modules; everything else about the package is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

SWITCHES = [name for name in ("PTL_PORTABLE", "PTL_FAULTS", "PTL_UNSTEPPED") if os.environ.get(name)]
SANITIZE = os.environ.get("PTL_SANITIZE")  # a list for the compiler's -fsanitize, such as "thread"
FLAGS = [os.environ.get("PTL_OPTIMIZE", "-O3"), "-std=gnu11"]
FLAGS += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"]
FLAGS += [f"-fsanitize={SANITIZE}", "-g", "-fno-omit-frame-pointer"] if SANITIZE else []
VARIANT = "-".join(SWITCHES + [f"sanitize-{SANITIZE}"] * bool(SANITIZE)) or "plain"  # their objects must not meet

setup(
    options={"build": {"build_base": f"build/{VARIANT}"}},
    ext_modules=cythonize(
        [
            Extension(
                f"ptl.{name}",
                [f"src/ptl/{name}.pyx"],
                include_dirs=["src/ptl"],
                define_macros=[(name, "1") for name in SWITCHES],
                extra_compile_args=FLAGS,
                extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
            )
            for name in ("_core", "_race", "_bench")
        ],
        build_dir="build/cython",
        include_path=["src"],
    ),
)

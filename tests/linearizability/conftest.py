"""Builds the recorder against the `ptl` that the tests run on."""

from __future__ import annotations

import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import ptl
from helpers import python

BUILD = """
import os
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

_, folder, include = sys.argv
os.chdir(folder)
setup(
    name="recorder",
    ext_modules=cythonize([Extension("recorder", ["recorder.pyx"])], include_path=[include]),
    script_args=["--quiet", "build_ext", "--inplace"],
)
"""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The recorder, as a module."""
    folder = tmp_path_factory.mktemp("recorder")
    shutil.copy(Path(__file__).with_name("recorder.pyx"), folder)
    python("-c", BUILD, str(folder), str(Path(ptl.__file__).parent.parent))
    built = next(folder.glob("recorder.*.so"))
    spec = spec_from_file_location("recorder", built)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["recorder"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

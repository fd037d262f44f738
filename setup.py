"""Builds the compiled kernel where there is a C compiler, and succeeds without one: NumPy does the same then.

The package's links are made here too, because they need the address of the public repository.
"""

import os
import re
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

REPOSITORY = os.environ.get("REPOSITORY_URL", "")
"""The address of the public repository, on a host that has GitHub's paths. No other place knows it: a release sets it
(.github/workflows/release.yml). Without it the package names no address, and the README's links stay relative."""
VERSION = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SOURCE = Path("klcal/kernels/source")
FLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # the same bits as NumPy, and on every machine
    "-fno-math-errno",  # or else square roots and roundings are calls,
    "-fno-trapping-math",  # and choices are branches, which keep loops from being vectorised
    "-fvisibility=hidden",
]


class BuildKernel(build_ext):
    """A plain library: no Python in it, so that one file serves every version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """One name on all systems and for all Pythons: it is loaded by its path."""
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None but what the source exports: it is no module of Python."""
        return list(ext.export_symbols)


class Wheel(bdist_wheel):
    """For any Python 3, on this system."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tags of the file's name."""
        return "py3", "none", super().get_tag()[2]


def readme() -> str:
    """The README, with links that also work on the page of a package index."""
    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!\w+:|#)", f"]({REPOSITORY}/blob/v{VERSION}/", text) if REPOSITORY else text


def urls() -> dict[str, str]:
    """The links beside it."""
    pages = {
        "Homepage": "",
        "Documentation": f"/blob/v{VERSION}/docs/index.md",
        "Changelog": f"/blob/v{VERSION}/CHANGELOG.md",
        "Issues": "/issues",
    }
    return {name: REPOSITORY + path for name, path in pages.items()} if REPOSITORY else {}


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls=urls(),
    ext_modules=[
        Extension(
            "klcal.kernels.compiled",
            sources=sorted(map(str, SOURCE.glob("*.c"))),
            depends=sorted(map(str, SOURCE.glob("*.h"))),
            extra_compile_args=FLAGS,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": Wheel},
)

"""Builds the compiled kernel where there is a C compiler, and succeeds without one: NumPy does the same then."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

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


setup(
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

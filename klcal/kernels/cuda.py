"""Kernels on a CUDA device: ``source/*.cu``, compiled when they are first used, by NVIDIA's own binding, cuda-core.

A launch waits for nothing: it follows what torch's current stream has to do.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from klcal.errors import UsageError

__all__ = ["CPU_INSTEAD", "OLDEST", "Kernels", "kernels", "source_text"]

CPU_INSTEAD = "use --device cpu; the result is the same"
SOURCE = Path(__file__).with_name("source")
OPTIONS = {"std": "c++17", "fma": False, "device_as_default_execution_space": True}
"""No contraction: the same bits as the CPU. And all functions are the device's, for C has no word for that."""
OLDEST = (8, 0)  # compute capability: warps add up and compare integers at once from here on
RESERVED = 1 << 10  # bytes of shared memory that the driver takes of each block
MOST_KEPT = 64 << 20  # bytes of compiled kernels that are kept: of some hundred


def source_text(name: str, known: set[str] | None = None) -> str:
    """A file of ``source``, and in the place of each of its own headers, where it comes first, its text."""
    included = set() if known is None else known
    included.add(name)
    return re.sub(
        r'^#include "(\w+\.h)"$',
        lambda found: "" if found[1] in included else source_text(found[1], included),
        (SOURCE / name).read_text(),
        flags=re.MULTILINE,
    )


class Kernels:
    """What is compiled for a device, and how much of it a launch may use."""

    def __init__(self, device: int) -> None:
        import torch

        self.device = device
        self.core, self.driver = _cuda_core()
        known = torch.cuda.get_device_properties(device)
        if (known.major, known.minor) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            what = f"cuda:{device} has compute capability {known.major}.{known.minor}: klcal needs {oldest}"
            raise UsageError(what, CPU_INSTEAD)
        self.arch = f"sm_{known.major}{known.minor}"
        self.multiprocessors: int = known.multi_processor_count
        self.shared_memory: int = known.shared_memory_per_multiprocessor
        self.most_shared: int = known.shared_memory_per_block_optin

    def share(self, blocks: int) -> int:
        """Bytes of shared memory that each block has, where so many are to run on a multiprocessor at once."""
        return min(self.shared_memory // blocks - RESERVED, self.most_shared)

    def launch(
        self,
        file: str,
        name: str,
        blocks: int,
        threads: int,
        shared: int,
        *arguments: int,
        macros: tuple[str, ...] = (),
    ) -> None:
        """Runs a kernel on torch's current stream.

        Args:
            file: in ``source``.
            name: of the kernel in it.
            blocks: of threads.
            threads: of each block.
            shared: bytes of memory of each block.
            *arguments: pointers and numbers of 64 bits.
            macros: with which the file is compiled: "NAME", or "NAME=VALUE".
        """
        import torch

        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device):
            self.core.launch(
                self._stream(stream),
                self._config(blocks, threads, shared),
                self._kernel(file, name, macros),
                *map(np.int64, arguments),
            )

    @cache  # noqa: B019 - there is one object for each device, kept for good
    def _stream(self, handle: int) -> Any:
        return self.core.Stream.from_handle(handle)

    @cache  # noqa: B019 - as above
    def _config(self, blocks: int, threads: int, shared: int) -> Any:
        return self.core.LaunchConfig(grid=blocks, block=threads, shmem_size=shared)

    @cache  # noqa: B019 - as above
    def _kernel(self, file: str, name: str, macros: tuple[str, ...]) -> Any:
        kernel = _compiled(file, name, self.arch, macros)
        attribute = self.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        device, most = self.driver.CUdevice(self.device), self.most_shared  # whatever a launch asks for
        self.driver.cuKernelSetAttribute(attribute, most, kernel.handle, device)
        return kernel


@cache
def kernels(device: int) -> Kernels:
    """Those of a device, by its number.

    Raises:
        UsageError: cuda-core is not installed, or the device is too old.
    """
    return Kernels(device)


def _compiled(file: str, name: str, arch: str, macros: tuple[str, ...]) -> Any:
    """A kernel: of those that were compiled once and kept, where that can be."""
    kept = _kept()
    if kept is not None:
        try:
            return _program(file, arch, macros, kept).get_kernel(name)
        except Exception:  # noqa: S110 - a full disk, no right to write there, a damaged file: it is compiled as ever
            pass
    return _program(file, arch, macros, None).get_kernel(name)


@cache
def _program(file: str, arch: str, macros: tuple[str, ...], kept: Any) -> Any:
    core, _ = _cuda_core()
    defined = [tuple(macro.split("=")) if "=" in macro else macro for macro in macros]
    options = core.ProgramOptions(arch=arch, define_macro=defined or None, **OPTIONS)
    more = {} if kept is None else {"cache": kept}
    return core.Program(source_text(file), "c++", options).compile("cubin", **more)


@cache
def _kept() -> Any:
    """What keeps compiled kernels in the user's cache directory; None where there is none, or KLCAL_NO_CACHE is set.

    Compiling takes 2 to 4 s a kernel. A file's name is a hash of the text, the options and the compiler; it is written
    under another name first.
    """
    if os.environ.get("KLCAL_NO_CACHE"):
        return None
    try:
        from cuda.core.utils import FileStreamProgramCache

        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "klcal" / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileStreamProgramCache(folder, max_size_bytes=MOST_KEPT)
    except (ImportError, OSError, RuntimeError):  # an older cuda-core; no home, or no right to write there
        return None


def _cuda_core() -> tuple[Any, Any]:
    try:
        import cuda.core
        from cuda.bindings import driver
    except ImportError:
        raise UsageError("a CUDA device needs cuda-core", "pip install 'klcal[cuda]', or use --device cpu") from None
    return cuda.core, driver

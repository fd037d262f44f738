"""Kernels on a CUDA device: ``source/*.cu``, compiled at their first use by NVRTC, through NVIDIA's binding cuda-core.

A launch is asynchronous: it is queued on torch's current stream, and the host does not wait.
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
"""Without fused multiply-add, a device computes the bits of the CPU. The last option makes plain C functions __device__
functions, since C has no word for that."""
OLDEST = (8, 0)  # the lowest compute capability: the first with reductions of integers over a warp
RESERVED = 1 << 10  # bytes of shared memory that the driver takes from each block
MOST_KEPT = 64 << 20  # bytes of compiled kernels in the cache directory: some hundred kernels


def source_text(name: str, known: set[str] | None = None) -> str:
    """The text of a file in ``source``, with its own headers included, each where it is first named.

    Args:
        name: of the file.
        known: headers that are included already; changed in place.
    """
    included = set() if known is None else known
    included.add(name)
    return re.sub(
        r'^#include "(\w+\.h)"$',
        lambda found: "" if found[1] in included else source_text(found[1], included),
        (SOURCE / name).read_text(),
        flags=re.MULTILINE,
    )


class Kernels:
    """The kernels of a CUDA device, and its sizes.

    Args:
        device: its number.

    Raises:
        UsageError: cuda-core is not installed, or the device is too old.
    """

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
        """The bytes of shared memory that each block can have if ``blocks`` blocks run on a multiprocessor at once."""
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
        """Queues a kernel on torch's current stream.

        Args:
            file: a file in ``source``.
            name: of the kernel in it.
            blocks: their number.
            threads: of each block.
            shared: bytes of shared memory of each block.
            *arguments: pointers and numbers, of 64 bits each.
            macros: the macros that are defined when the file is compiled: "NAME", or "NAME=VALUE".
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
    """The kernels of a device, by its number: one object for each device.

    Raises:
        UsageError: cuda-core is not installed, or the device is too old.
    """
    return Kernels(device)


def _compiled(file: str, name: str, arch: str, macros: tuple[str, ...]) -> Any:
    """A kernel: from the cache directory if it is there, else compiled."""
    kept = _kept()
    if kept is not None:
        try:
            return _program(file, arch, macros, kept).get_kernel(name)
        except Exception:  # noqa: S110 - a full disk, no right to write there, a damaged file: compile without a cache
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
    """The cache of compiled kernels in the user's cache directory; None if there is none, or KLCAL_NO_CACHE is set.

    Compiling a kernel takes 2 to 4 s. The name of a cached file is a hash of the text, the options and the compiler. It
    is written under another name and then renamed, so other processes never see a part of it.
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

"""``--device``: the same bytes whatever counts, and never another device without a word."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from klcal.errors import UsageError
from klcal.kernels import cuda
from klcal.pipeline import devices, tasks, worked
from klcal.pipeline.devices import chosen_devices, feeding
from klcal.pipeline.tasks import BYTE_SECONDS
from klcal.sketches import device_feeding
from tests.support.command import SAMPLES, klcal, normal
from tests.support.devices import idle_devices, real_device
from tests.support.lazy import torch

FIT = "is for tensors with one scale and no importance, or with channels or groups for which it has room; "
FIT += "the CPU takes the"
UNITS = "*conv*=channel"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["idle", "cuda"])
def device(request, monkeypatch):
    """How a device is asked for: two idle ones, or those there are."""
    if request.param == "idle":
        idle_devices(monkeypatch, 2)
    else:
        real_device()
    return request.param


@pytest.fixture(scope="module")
def expected():
    return {per: klcal("calibrate", SAMPLES, "--format", "json", "--per", per).out for per in ("tensor", UNITS)}


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:all"])
def test_the_answer_is_that_of_the_cpu(device, name, expected):
    result = klcal("calibrate", SAMPLES, "--device", name, "--format", "json")
    assert (result.code, result.err, result.out == expected["tensor"]) == (0, "", True)


@pytest.mark.parametrize("name", ["cuda", "cuda:all"])
def test_channels_are_searched_there_too_to_the_answer_of_the_cpu(device, name, expected):
    result = klcal("calibrate", SAMPLES, "--device", name, "--format", "json", "--per", UNITS)
    assert (result.code, result.err, result.out == expected[UNITS]) == (0, "", True)


def test_tensors_that_a_device_does_not_count_are_reported_and_the_answer_is_the_same(device, monkeypatch, expected):
    monkeypatch.setattr(device_feeding, "MOST_IN_SLAB", 100)
    result = klcal("calibrate", SAMPLES, "--device", "cuda:all", "--format", "json", "--per", UNITS)
    assert (result.code, result.out == expected[UNITS]) == (0, True)
    (message,) = result.messages
    assert message.startswith(f"klcal: warning: --device cuda:all {FIT} ")
    assert message.endswith(" others, to the same result")


def test_where_no_tensor_fits_the_cpu_works_as_if_it_were_asked(device, here):
    safetensors.numpy.save_file({"a": normal(400).reshape(4, 100)}, "x.safetensors")
    safetensors.numpy.save_file({"a": np.arange(100, dtype=np.float32)}, "i.safetensors")
    weighed = "--importance", "i.safetensors", "--jobs", "2", "--verbose"
    asked = "calibrate", "x.safetensors", *weighed
    first, second = klcal(*asked, "--device", "cuda").messages
    (alone,) = klcal(*asked, "--device", "cpu").messages
    assert first == alone.replace("--device cpu", "--device cuda")
    assert second == f"klcal: warning: --device cuda {FIT} 1 others, to the same result"


@pytest.mark.parametrize("per", ["channel", "channel:1", "channel:2", "group:32", "group:30,1", "block:16,8"])
@pytest.mark.parametrize("scale_format", ["float32", "float8_e4m3fn"])
def test_whatever_the_units_and_however_they_lie(device, here, monkeypatch, per, scale_format):
    monkeypatch.setattr(device_feeding, "SLAB", 3000)
    torch.save({"c": torch.randn(7, 40, 96), "turned": torch.randn(96, 40, 7).permute(2, 1, 0)}, "x.pt")
    asked = "calibrate", "x.pt", "--per", per, "--dtype", "int4", "--scale-format", scale_format, "--format", "json"
    found = klcal(*asked, "--device", "cuda")
    assert (found.code, found.err, found.out == klcal(*asked).out) == (0, "", True)


@pytest.mark.parametrize("per", ["channel", "channel:1", "channel:2", "group:32", "group:30,1", "block:16,8"])
@pytest.mark.parametrize(("dtype", "scale_format"), [("int4", "float32"), ("float4_e2m1fn", "float8_e4m3fn")])
def test_importance_of_columns_and_of_values(device, here, monkeypatch, per, dtype, scale_format):
    monkeypatch.setattr(device_feeding, "SLAB", 3000)
    torch.save({"c": torch.randn(7, 40, 96), "turned": torch.randn(96, 40, 7).permute(2, 1, 0)}, "x.pt")
    weights = {"c": np.abs(normal(96)), "turned": np.abs(normal(7 * 40 * 96)).reshape(7, 40, 96)}
    safetensors.numpy.save_file(weights, "i.safetensors")
    asked = "calibrate", "x.pt", "--per", per, "--dtype", dtype, "--scale-format", scale_format, "--format", "json"
    weighed = *asked, "--importance", "i.safetensors"
    found, on_cpu = klcal(*weighed, "--device", "cuda"), klcal(*weighed)
    assert (found.code, found.err, found.out == on_cpu.out) == (0, "", True)
    assert found.out != klcal(*asked).out


def test_weights_of_a_large_tensor_with_relative_scales_take_more_room_than_there_is(device, here, monkeypatch):
    safetensors.numpy.save_file({"a": normal(6400).reshape(64, 100)}, "x.safetensors")
    safetensors.numpy.save_file({"a": np.arange(100.0)}, "i.safetensors")
    asked = "calibrate", "x.safetensors", "--dtype", "float4_e2m1fn", "--scale-format", "float8_e4m3fn"
    asked = *asked, "--per", "group:20", "--device", "cuda"
    for slab, warnings in ((3200, 0), (3199, 1)):
        monkeypatch.setattr(tasks, "SLAB", slab)
        assert len(klcal(*asked, "--importance", "i.safetensors").messages) == warnings
        assert not klcal(*asked).messages


def test_an_importance_that_does_not_fit_costs_only_its_tensor(device, here):
    safetensors.numpy.save_file({"a": normal(400).reshape(4, 100), "b": normal(400).reshape(4, 100)}, "x.safetensors")
    safetensors.numpy.save_file({"a": -np.ones(100, np.float32), "b": np.arange(100.0)}, "i.safetensors")
    asked = "calibrate", "x.safetensors", "--per", "channel", "--importance", "i.safetensors", "--format", "json"
    found, on_cpu = klcal(*asked, "--device", "cuda"), klcal(*asked)
    assert (found.code, found.out, found.err) == (on_cpu.code, on_cpu.out, on_cpu.err)
    assert found.code == 4


def test_all_devices_work(here, monkeypatch):
    lanes = idle_devices(monkeypatch, 2)
    both = threading.Barrier(2)
    count = worked.Feed.count

    def together(feed, parts, dtype):
        both.wait(20)  # which one thread alone would do for ever
        return count(feed, parts, dtype)

    monkeypatch.setattr(worked.Feed, "count", together)
    safetensors.numpy.save_file({f"t{i}": normal(100, i) for i in range(8)}, "x.safetensors")
    result = klcal("calibrate", "x.safetensors", "--device", "cuda:all", "--format", "json")
    assert (result.code, list(result.tensors)) == (0, [f"t{i}" for i in range(8)])
    assert {lane.name for lane in lanes} == {"cuda:0", "cuda:1"}


def test_a_damaged_tensor_costs_only_itself(here, device):
    np.save("a.npy", normal(1000))
    np.savez_compressed("b.npz", x=normal(5000), y=normal(5000))
    data = bytearray((here / "b.npz").read_bytes())
    data[len(data) // 4] ^= 255
    (here / "b.npz").write_bytes(data)
    np.save("c.npy", normal(1000))
    result = klcal("calibrate", ".", "--device", "cuda", "--format", "json")
    on_cpu = klcal("calibrate", ".", "--format", "json")
    assert (result.code, result.out, result.err) == (on_cpu.code, on_cpu.out, on_cpu.err)
    assert result.code == 4


# --- which device, and why


def test_verbose_says_what_works_and_why(device):
    file = SAMPLES / "mtcnn_pnet.pt"
    (line,) = klcal("calibrate", file, "--device", "cpu", "--jobs", "1", "--verbose").messages
    assert line.startswith("klcal: the CPU counts and searches, 1 process of 1 thread, ")
    assert line.endswith(" kernel: --device cpu")
    (line,) = klcal("calibrate", file, "--device", "cuda", "--jobs", "3", "--verbose").messages
    who = "cuda counts, and searches channels and groups; the CPU searches the rest, 1 process of 3 threads, "
    assert line.startswith(f"klcal: {who}")
    (line,) = klcal("calibrate", file, "--verbose").messages
    assert line.endswith(" s with a CUDA device, starting it counted in")


@pytest.mark.parametrize(
    ("gigabytes", "cores", "wins"), [(1, 1, False), (20, 1, False), (40, 1, True), (100, 2, False), (150, 2, True)]
)
def test_auto_takes_a_device_where_much_is_read_by_few_cores(gigabytes, cores, wins, monkeypatch):
    idle_devices(monkeypatch, 2)
    nbytes = gigabytes * 1_000_000_000
    found, why = chosen_devices("auto", nbytes, BYTE_SECONDS * nbytes / cores, 0.003)
    assert found == (("cuda",) if wins else ())
    assert why.startswith(f"an estimated {0.6 * gigabytes / cores:.1f} s on the CPU, ")


def test_three_cores_are_never_left_for_a_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for nbytes in (10**9, 10**12, 10**15):
        assert chosen_devices("auto", nbytes, BYTE_SECONDS * nbytes / 3, 0.0)[0] == ()


def test_auto_takes_the_cpu_where_no_device_can_be_used(monkeypatch):
    idle_devices(monkeypatch, 0)
    found, why = chosen_devices("auto", 10**12, 600.0, 0.0)
    assert (found, ", but there is no device 'cuda': torch" in why) == ((), True)
    with pytest.raises(UsageError, match="there is no device 'cuda'"):
        chosen_devices("cuda", 10**12, 600.0, 0.0)


def test_auto_counts_on_a_device_that_wins(device, expected, monkeypatch):
    monkeypatch.setattr(devices, "START_SECONDS", -1.0)
    result = klcal("calibrate", SAMPLES, "--format", "json", "--verbose")
    assert (result.code, result.out == expected["tensor"]) == (0, True)
    assert result.err.startswith("klcal: cuda counts, ")


# --- devices and drivers that do not work


def test_all_devices_of_a_machine_without_one(here, monkeypatch):
    idle_devices(monkeypatch, 0)
    result = klcal("calibrate", "x.npy", "--device", "cuda:all")
    assert (result.code, result.out) == (2, "")
    assert "there is no device 'cuda:all'" in result.err


@pytest.fixture
def bare_device(monkeypatch):
    """One device that torch finds; nothing else is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cuda.kernels.cache_clear()
    yield
    cuda.kernels.cache_clear()


def test_without_cuda_core_the_message_says_what_to_install(here, bare_device, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    result = klcal("calibrate", "x.npy", "--device", "cuda")
    assert (result.code, result.out) == (2, "")
    what = "a CUDA device needs cuda-core; pip install 'klcal[cuda]', or use --device cpu"
    assert result.messages == [f"klcal: error: {what}"]


def test_a_device_that_is_too_old_is_refused(here, bare_device, monkeypatch):
    known = SimpleNamespace(major=7, minor=5)
    monkeypatch.setattr(cuda, "_cuda_core", lambda: (None, None))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: known)
    result = klcal("calibrate", "x.npy", "--device", "cuda:0")
    assert (result.code, result.out) == (2, "")
    what = "cuda:0 has compute capability 7.5: klcal needs 8.0; use --device cpu; the result is the same"
    assert result.messages == [f"klcal: error: {what}"]


def test_a_device_that_is_lost_costs_what_it_was_to_count(here, monkeypatch):
    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    idle_devices(monkeypatch, 1)
    monkeypatch.setattr("tests.support.devices.Idle.launch", lost)
    np.save("x.npy", normal(10))
    result = klcal("calibrate", "x.npy", "--device", "cuda", "--format", "json")
    assert (result.code, result.tensors["x"]["status"]) == (3, "failed")
    what = "the device 'cuda' does not work, or no longer; use --device cpu; the result is the same"
    assert result.messages == [f"klcal: error: x.npy: x: {what}"]


# --- feeding


@pytest.fixture
def idle(monkeypatch):
    idle_devices(monkeypatch, 2)


def test_outcomes_are_in_order_and_few_are_begun_before_they_are_taken(idle):
    begun = []
    with feeding(["cuda:0", "cuda:1"], lambda _, item: begun.append(item) or item, range(100)) as found:
        for number, item in enumerate(found):
            assert number == item
            assert len(begun) <= number + 1 + 2 * devices.FEEDS * devices.AHEAD
    assert sorted(begun) == list(range(100))


def test_who_leaves_early_leaves_no_thread_behind(idle):
    def begin(feed, item):
        while item and not feed.is_stopped:  # a tensor that takes for ever
            pass
        return item

    before = threading.active_count()
    with feeding(["cuda:0"], begin, range(100)) as found:
        assert next(found) == 0
    assert threading.active_count() == before


def test_an_exception_in_a_thread_is_raised_in_the_caller(idle):
    def broken(_, item):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), feeding(["cuda:0"], broken, range(3)) as found:
        next(found)

"""Recordings of several processes: the same bytes as one that recorded everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

import klcal
from klcal.errors import UsageError
from klcal.sketches.recorder import Recording

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

PROGRAM = """
import os, sys, warnings
import torch, torch.distributed as dist, klcal
from klcal.errors import UsageError

warnings.simplefilter("ignore")
processes, rank, per, wrong = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meet"), rank=rank, world_size=processes)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
batches = torch.randn(10, 5, 8)
with torch.inference_mode(), klcal.record(model, torch.nn.Linear, per=per, importance=True) as recorded:
    for batch in batches[rank::processes]:
        model(batch)
if wrong == "other" and rank == 1:
    recorded = klcal.Recording({}, per=klcal.PerChannel(1))
    recorded.add("0.input", torch.ones(2, 3))
try:
    recorded.all_reduce()
except UsageError as error:
    print(error)
    sys.exit(3)
finally:
    dist.destroy_process_group()  # or else a thread of gloo may abort the process as it ends
recorded.save(f"{rank}.safetensors")
"""


def run(folder, processes: int, per: str, wrong: str = "") -> list[subprocess.Popen]:
    (folder / "meet").unlink(missing_ok=True)
    words = [[sys.executable, "-c", PROGRAM, str(processes), str(rank), per, wrong] for rank in range(processes)]
    running = [subprocess.Popen(each, cwd=folder, stdout=subprocess.PIPE, text=True) for each in words]
    for each in running:
        each.told, _ = each.communicate(timeout=120)
    return running


@pytest.mark.parametrize(("processes", "per"), [(2, "tensor"), (3, "channel:1")])
def test_the_sum_of_processes_is_what_one_records(tmp_path, processes, per):
    assert [each.returncode for each in run(tmp_path, 1, per)] == [0]
    expected = (tmp_path / "0.safetensors").read_bytes()
    assert [each.returncode for each in run(tmp_path, processes, per)] == [0] * processes
    for rank in range(processes):
        assert (tmp_path / f"{rank}.safetensors").read_bytes() == expected
    assert sorted(klcal.load_sketches(tmp_path / "0.safetensors")) == [
        *("0.input", "0.weight.importance", "2.input", "2.weight.importance")
    ]


def test_every_process_reports_sketches_that_do_not_add_and_none_waits(tmp_path):
    found = run(tmp_path, 2, "channel:1", "other")
    assert [each.returncode for each in found] == [3, 3]
    assert all(each.told.startswith("0.input: sketches of 8 units (channel:1) and of 3 units") for each in found)


def test_without_processes_nothing_is_summed():
    recorded = Recording({})
    recorded.add("x", torch.ones(2))
    with pytest.raises(UsageError, match="start with torchrun"):
        recorded.all_reduce()
    assert recorded.sketches["x"].numel.tolist() == [2]


def test_a_sum_is_summed_once(monkeypatch):
    monkeypatch.setattr("klcal.sketches.recorder.summed", lambda own, add, _: add(own, own))
    recorded = Recording({})
    recorded.add("x", torch.ones(2))
    recorded.all_reduce()
    assert recorded.sketches["x"].numel.tolist() == [4]
    for again in (recorded.all_reduce, lambda: recorded.add("x", torch.ones(2)), recorded.__enter__):
        with pytest.raises(UsageError, match="it is the sum of all processes already"):
            again()

"""Tensors of classes that are not torch's own cost themselves alone, and are told what to save instead."""

import pytest

from klcal.readers.pt.file import describe
from tests.support.checkpoints import saved, values
from tests.support.files import file_of
from tests.support.lazy import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("subclasses")


class Own(torch.Tensor):
    pass


def own() -> torch.Tensor:
    return torch.ones(4, 3).as_subclass(Own)


def two() -> torch.Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(torch.ones(4, 3), torch.ones(4, 3))


def distributed() -> torch.Tensor:
    from torch import distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)])
    finally:
        dist.destroy_process_group()


def jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)


KINDS = {
    "own": (own, (4, 3), "it is a tensor subclass (tests.readers.pt.test_subclasses.Own); save a plain tensor"),
    "wrapper": (two, (4, 3), "TwoTensor); save a plain tensor"),
    "DTensor": (distributed, (4, 3), "DTensor); save tensor.full_tensor(), or a full state dict"),
    "jagged": (jagged, (), "NestedTensor); save its tensors one by one"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_subclass_costs_only_itself_and_says_what_to_save(folder, kind, legacy):
    make, shape, says = KINDS[kind]
    state = {"odd": make(), "good": torch.arange(3.0), "also": [torch.ones(2)]}
    odd, good, also = describe(file_of(folder, saved(state, legacy)), "x")
    assert (odd.name, odd.status, odd.shape, odd.parts) == ("odd", "unsupported", shape, ())
    assert says in odd.reason
    assert "state_dict()" not in odd.reason
    assert values(good).view("f4").tolist() == [0, 1, 2]
    assert (also.status, odd.warnings) == ("ok", ())


@pytest.mark.parametrize("kind", ["own", "wrapper", "DTensor"])
def test_a_parameter_of_a_subclass_is_one(folder, kind):
    make, shape, says = KINDS[kind]
    (odd,) = describe(file_of(folder, saved({"odd": torch.nn.Parameter(make())})), "x")
    assert (odd.status, odd.shape) == ("unsupported", shape)
    assert says in odd.reason


def test_a_buffer_is_a_plain_tensor(folder):
    (found,) = describe(file_of(folder, saved({"b": torch.nn.Buffer(torch.ones(2))})), "x")
    assert (found.name, found.status) == ("b", "ok")

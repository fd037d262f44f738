"""Objects of others in a checkpoint: never called, named, and no tensor is lost for them."""

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import logging
import operator
import pathlib
import random
import re
import types
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from klcal.readers.pt.file import describe
from tests.support.checkpoints import refusal, saved, values
from tests.support.files import file_of
from tests.support.lazy import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


class Own:
    """A class of somebody's own, whose unpickling would run code."""

    def __init__(self) -> None:
        self.inside = {"a": [1, pathlib.PurePosixPath("x")]}

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it was called")


class OwnDict(dict):
    pass


class OwnList(list):
    pass


class OwnText(str):
    __slots__ = ("attribute",)


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


class Color(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    ON = 1


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024


@dataclasses.dataclass
class Config:
    rate: float = 0.1
    color: Color = Color.RED


FOREIGN: dict[str, Callable[[], Any]] = {
    "numpy scalar": lambda: np.float32(3),
    "numpy bool": lambda: np.bool_(True),
    "numpy text": lambda: np.str_("a"),
    "numpy dtype": lambda: np.dtype("f4"),
    "numpy type": lambda: np.float32,
    "array of objects": lambda: np.array([None, {}], object),
    "array of texts": lambda: np.array(["a", "bc"]),
    "array of records": lambda: np.zeros(2, "f4,i8"),
    "array of dates": lambda: np.zeros(2, "M8[s]"),
    "masked array": lambda: np.ma.masked_array([1.0, 2.0], [0, 1]),
    "numpy generator": lambda: np.random.default_rng(0),
    "numpy random state": lambda: np.random.RandomState(0),
    "numpy seeds": lambda: np.random.SeedSequence(0),
    "polynomial": lambda: np.poly1d([1.0, 2.0]),
    "Namespace": lambda: argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("x")),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "path": lambda: pathlib.Path("a/b"),
    "pure path": lambda: pathlib.PurePosixPath("a/b"),
    "windows path": lambda: pathlib.PureWindowsPath("a/b"),
    "datetime": lambda: dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "date": lambda: dt.date(2020, 1, 2),
    "timedelta": lambda: dt.timedelta(1),
    "deque": lambda: collections.deque([1, 2]),
    "frozenset": lambda: frozenset({1, 2}),
    "set of tuples of tuples": lambda: {((1, 2), 3)},
    "ChainMap": lambda: collections.ChainMap({"a": 1}),
    "namedtuple": lambda: Pair(1, 2),
    "Decimal": lambda: decimal.Decimal("1.5"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "enum": lambda: Color.RED,
    "flag": lambda: Flags.ON,
    "own object": Own,
    "own class": lambda: Own,
    "own dict": lambda: OwnDict(a=1),
    "own list": lambda: OwnList([1, 2]),
    "own text": lambda: OwnText("x"),
    "object with slots": Slots,
    "dataclass": Config,
    "slice": lambda: slice(1, 2),
    "range": lambda: range(3),
    "regex": lambda: re.compile("a+"),
    "uuid": lambda: uuid.UUID(int=1),
    "partial": lambda: functools.partial(operator.add, 1),
    "function": lambda: operator.add,
    "builtin": lambda: print,
    "method": lambda: "abc".upper,
    "itemgetter": lambda: operator.itemgetter("a"),
    "exception": lambda: ValueError("x"),
    "address": lambda: ipaddress.ip_address("127.0.0.1"),
    "random": lambda: random.Random(0),
    "logger": lambda: logging.getLogger("x"),
    "NotImplemented": lambda: NotImplemented,
    "Ellipsis": lambda: ...,
    "generator state": lambda: np.random.default_rng(0).bit_generator,
    "parameter list": lambda: torch.optim.lr_scheduler.LambdaLR,
}

PLAIN: dict[str, Callable[[], Any]] = {
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "empty bytes": lambda: b"",
    "bytes": lambda: b"\xff\0",
    "bytearray": lambda: bytearray(b"ab"),
    "complex": lambda: 1j,
    "set of tuples": lambda: {(1, 2)},
    "long": lambda: 1 << 2000,
    "torch device": lambda: torch.device("cpu"),
    "torch dtype": lambda: torch.float32,
}
"""Values that are not foreign objects: no warning names them."""


def weights() -> dict:
    return {"w": torch.arange(3.0), "b": torch.ones(2)}


def attributed(value: Any) -> OrderedDict:
    state = OrderedDict(weights())
    state.extra = value
    return state


PLACES: dict[str, Callable[[Any], Any]] = {
    "beside": lambda x: {"extra": x, "model": weights()},
    "behind": lambda x: {"model": weights(), "extra": x},
    "deep": lambda x: {"extra": [{"a": ([x], x)}], "model": weights()},
    "attribute": lambda x: {"model": attributed(x)},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [*FOREIGN, *PLAIN])
def test_no_object_costs_a_tensor(folder, kind, place, legacy):
    data = saved(PLACES[place]((FOREIGN | PLAIN)[kind]()), legacy)
    found = describe(file_of(folder, data), "x")
    assert [(each.name, each.status) for each in found] == [("model.w", "ok"), ("model.b", "ok")]
    assert values(found[0]).view("f4").tolist() == [0, 1, 2]
    (said,) = found[0].warnings or ("",)
    if kind in FOREIGN:
        where = "model.extra" if place == "attribute" else "extra"
        assert re.match(rf"left alone, as klcal runs no code from a file: '{where}", said)
    else:
        assert not said


def test_an_object_that_holds_tensors_is_a_row_with_the_next_step(folder):
    layer = torch.nn.Linear(2, 2)
    state = {"net": layer, "model": weights(), "args": argparse.Namespace(rate=0.1)}
    found = describe(file_of(folder, saved(state)), "x")
    assert {each.name: each.status for each in found} == {"model.w": "ok", "model.b": "ok", "net": "unsupported"}
    assert "needs torch.nn.modules.linear.Linear" in found[-1].reason
    assert "'args' (argparse.Namespace)" in found[0].warnings[0]


def test_tensors_that_stand_elsewhere_too_are_not_missed(folder):
    model = weights()
    found = describe(file_of(folder, saved({"hyper": OwnDict(model=model, w=model["w"]), "model": model})), "x")
    assert {each.name: each.status for each in found} == {"model.w": "ok", "model.b": "ok"}


def test_the_optimizer_s_objects_are_skipped(folder):
    state = {"model": weights(), "optimizer_object": OwnDict(w=torch.ones(2))}
    found = describe(file_of(folder, saved(state)), "x")
    assert [(each.name, each.status) for each in found[2:]] == [("optimizer_object", "skipped")]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_nothing_else_is_refused(folder, kind):
    for legacy in (False, True):
        assert "klcal runs no code from a file" in refusal(file_of(folder, saved({"x": FOREIGN[kind]()}, legacy)))


def test_tensors_in_a_defaultdict_are_read(folder):
    found = describe(file_of(folder, saved(collections.defaultdict(dict, weights()))), "x")
    assert [(each.name, each.status) for each in found] == [("w", "ok"), ("b", "ok")]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"layer", "b'layer'"),
        (b"\xff\n", r"b'\xff\n'"),
        (torch.float32, "torch.float32"),
        (torch.device("cuda", 1), "cuda:1"),
        ((1, torch.device("cpu"), b"x"), "(1, cpu, b'x')"),
        (pathlib.PurePosixPath("a"), "pathlib.PurePosixPath"),
        (frozenset({1}), "builtins.frozenset"),
        (Color.RED, f"{__name__}.Color"),
        (np.int64(3), "numpy._core.multiarray.scalar"),
    ],
)
def test_a_key_may_be_of_any_kind(folder, key, name):
    for legacy in (False, True):
        found = describe(file_of(folder, saved({key: torch.ones(2), "deep": [{key: torch.zeros(1)}]}, legacy)), "x")
        assert [each.name for each in found] == [name, f"deep.0.{name}"]


def test_a_warning_names_two_and_counts_the_rest(folder):
    state = {"w": torch.ones(1), **{f"{i}\x1b" * 50: argparse.Namespace() for i in range(5)}}
    (found,) = describe(file_of(folder, saved(state)), "x")
    (said,) = found.warnings
    assert said.endswith(" (argparse.Namespace) and 3 more")
    assert said.isprintable()
    assert len(said) < 250

"""A request: all settings of a run, as rules by the names of tensors, and the settings of one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar

from klcal.quantizers.granularity import Per, PerTensor
from klcal.quantizers.rules import Rules, rules_of, units_by_name
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import DTYPES, KINDS, Scheme
from klcal.search.methods import METHODS, Method, check_importance, has_cost, parse
from klcal.search.settings import Nonfinite, Settings
from klcal.tables.explanation import Detail
from klcal.tables.table import Config

__all__ = ["ByName", "Request"]

Value = TypeVar("Value")
ByName: TypeAlias = Value | str | Sequence[str] | Mapping[str, Value | str]
"""A value for all tensors; or rules: ``VALUE`` and ``GLOB=VALUE``, or values by globs."""

_scheme = lru_cache(Scheme.parse)
"""One for all tensors that are quantized alike: it keeps its levels."""


def _known_scheme(word: str) -> str:
    Scheme.parse("int8", word)
    return word


def _known_format(word: str) -> str:
    return Scheme.parse("int8", scale_format=word).scale_format


@dataclass(frozen=True)
class Request:
    """The settings by which every tensor is calibrated, and the device."""

    method: Rules[Method]
    dtype: Rules[str]
    scheme: Rules[str]
    scale_format: Rules[str]
    per: Rules[Per]
    bounds: tuple[float, float] | None = None
    nonfinite: Nonfinite = "fail"
    device: str = "cpu"
    importance: str | None = None  # a file of weights, by the names of tensors
    detail: Detail = "none"  # how much of the answers is explained
    unit: int | None = None  # the only one of a tensor that is calibrated and explained, by its number

    @staticmethod
    def parse(
        *,
        dtype: ByName[str] = "uint8",
        method: ByName[Method] = "kl",
        scheme: ByName[str] = "auto",
        scale_format: ByName[str] = "float32",
        per: ByName[Per] = "tensor",
        bins: int | None = None,
        bounds: tuple[float, float] | None = None,
        nonfinite: Nonfinite = "fail",
        device: str = "cpu",
        importance: str | None = None,
        detail: Detail = "none",
        unit: int | None = None,
    ) -> Request:
        """The request with the settings of ``klcal.calibrate``, each of which may be rules by the names of tensors.

        Raises:
            UsageError: a word is unknown, or the settings fit no tensor at all. Settings that do not fit one tensor are
                found when its name and shape are known.
        """
        asked = Request(
            method=rules_of("method", method, "kl", METHODS, lambda each: parse(each, bins)),
            dtype=rules_of("dtype", dtype, "uint8", DTYPES, lambda each: Scheme.parse(each).dtype),
            scheme=rules_of("scheme", scheme, "auto", ("auto", *KINDS), _known_scheme),
            scale_format=rules_of("scale format", scale_format, "float32", SCALE_FORMATS, _known_format),
            per=units_by_name(per),
            bounds=bounds,
            nonfinite=nonfinite,
            device=device,
            importance=importance,
            detail=detail,
            unit=unit,
        )
        asked._check()
        return asked

    def _check(self) -> None:
        """Refuses settings that are wrong for tensors of any name."""
        have_units = any(per != PerTensor() for per in self.per.values)
        for scale_format in self.scale_format.values:
            Scheme.parse("int8", scale_format=scale_format).check_units(have_units)
        if not (self.dtype.globs or self.scheme.globs or self.scale_format.globs):
            self.settings(())
        self.config  # noqa: B018 - it is refused where a scheme and the one number format do not go together
        Settings(self.method.values[0], Scheme.parse("int8"), self.bounds, self.nonfinite)
        if self.importance is not None and not any(map(has_cost, self.method.values)):
            check_importance(self.method.values[0])

    def settings(self, names: Sequence[str]) -> Settings:
        """The settings of a tensor with these names.

        Raises:
            UsageError: its number format, scheme and format of scales do not go together.
        """
        words = self.dtype.of(names), self.scheme.of(names), self.scale_format.of(names)
        return Settings(
            self.method.of(names), _scheme(*words), self.bounds, self.nonfinite, detail=self.detail, unit=self.unit
        )

    @property
    def config(self) -> Config:
        """The request as texts, for the table. The scheme is resolved if there is one number format for all tensors."""
        scheme = self.scheme
        if not self.dtype.globs:
            scheme = scheme.each(lambda word: _scheme(self.dtype.of(()), word).kind)
        return Config(*map(str, (self.method, self.dtype, scheme, self.per, self.scale_format)))

    def globs(self) -> Iterator[tuple[str, str]]:
        """The globs of each option that has rules."""
        for option in ("method", "dtype", "scheme", "scale_format", "per"):
            rules: Rules[object] = getattr(self, option)
            yield from ((f"--{option.replace('_', '-')}", glob) for glob in rules.globs)

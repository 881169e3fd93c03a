"""Settings of a stage, each declared once: type, default, range and help.

Widgets of nodes, flags of the command line, tables of the documentation and requests are made from these.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from typing_extensions import Self

from .errors import ParameterError

MAX_SEED = 2**64 - 1
"""Largest seed torch's generators take."""


@dataclass(frozen=True)
class Parameter:
    """The declaration of one setting."""

    name: str
    type: type
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    optional: bool = False
    """None is allowed and means: not given."""
    multiline: bool = False
    advanced: bool = False
    """Rarely needed; collapsed where the interface can."""
    fal: bool = False
    """A field of fal's schema, under the same name."""
    model_source: bool = False
    """Names a model file; the node pack asks for it on its loader node instead."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, for messages and tables."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        if self.type is str:
            return "text"
        kind = "a whole number" if self.type is int else "a number"
        text = (
            f"{kind} from {self.minimum:g} to {self.maximum:g}"
            if self.maximum != MAX_SEED
            else f"{kind} from 0 to 2^64-1"
        )
        return f"{text} {self.unit}".rstrip()

    def check(self, value: Any) -> Any:
        """Return `value` as this setting's type, or raise `ParameterError` naming the field and its range."""
        if value is None and self.optional:
            return None
        problem = ParameterError(self.name, f"got {value!r}; allowed is {self.allowed}")
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.type:
            raise problem
        if isinstance(value, float) and not math.isfinite(value):
            raise problem
        if self.choices and value not in self.choices:
            raise problem
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert self.minimum is not None and self.maximum is not None
            if not self.minimum <= value <= self.maximum:
                raise problem
        return value


def declare(default: Any, help: str, **details: Any) -> Any:
    """A field of `Settings`; `details` are further fields of `Parameter`."""
    return dataclasses.field(default=default, metadata={"help": help, **details})


class Settings:
    """Base of frozen dataclasses whose fields are declared; every value is checked on construction.

    Raises `ParameterError` naming the field and its range for a value that is out of range, not finite or of
    the wrong type.
    """

    def __post_init__(self) -> None:
        for parameter in self.declared():
            object.__setattr__(self, parameter.name, parameter.check(getattr(self, parameter.name)))

    @classmethod
    @cache
    def declared(cls) -> tuple[Parameter, ...]:
        """All declared settings in the order in which an interface should show them."""
        hints, declared = get_type_hints(cls), []
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if not field.metadata:
                continue
            members = getattr(hints[field.name], "__args__", (hints[field.name],))
            optional = type(None) in members
            declared.append(
                Parameter(
                    name=field.name,
                    type=members[0],
                    default=field.default,
                    optional=optional,
                    **field.metadata,
                )
            )
        return tuple(declared)

    @classmethod
    def declare_as(cls, name: str) -> Any:
        """A field for other settings, declared as the one of this name is here."""
        (field,) = (field for field in dataclasses.fields(cls) if field.name == name)  # type: ignore[arg-type]
        return dataclasses.field(default=field.default, metadata=field.metadata)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from named values, each either given or left at its default.

        Raises `ParameterError` for a name that is not declared.
        """
        names = [parameter.name for parameter in cls.declared()]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(names)
                raise ParameterError(name, f"is not a known setting; {hint}")
        return cls(**values)

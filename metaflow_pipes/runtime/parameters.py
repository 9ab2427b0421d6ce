"""Metaflow parameters as fields of the start op's run config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg

_NO_DEFAULT: Any = object()
_SCALARS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "file": str, "json": dg.Any}
# As click, by which Metaflow reads them.
_TRUE = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "n", "off"})
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class MetaflowParameter:
    """A Metaflow `Parameter` or `IncludeFile` of a compiled flow.

    Attributes:
        name: The parameter's name on Metaflow's command line.
        kind: The type of its values; `file` is the path of an `IncludeFile`, from where the steps run.
        default: The value if the run config has none; without a default the run config must have one.
        multiple: Whether the value is a list of values of that kind.
        separator: The character at which Metaflow splits the value into a list; the run config takes the string
            or the list.
        required: Whether the run config can't say `null` for "no value".
        help: What the launchpad shows beside the field.
        asset: The key of the asset whose value fills it, as `AssetKey.to_user_string` writes it, or None.
        attribute: The flow's attribute that holds the value; None if that is the name with underscores for dashes.
        is_text: Whether the content of a `file` is text, or bytes. For whoever stores it before the run, as `trigger`.
        encoding: The encoding of that text.
    """

    name: str
    kind: Literal["str", "int", "float", "bool", "json", "file"]
    default: Any = _NO_DEFAULT
    multiple: bool = False
    separator: str | None = None
    required: bool = False
    help: str | None = None
    attribute: str | None = None
    asset: str | None = None
    is_text: bool = True
    encoding: str = "utf-8"

    def field(self, *, is_optional: bool = False, is_filled: bool = False) -> dg.Field:
        """The parameter as a Dagster config field.

        Args:
            is_optional: Whether the run config need not have it, though it has no default.
            is_filled: Whether the key of the run's partition fills it, so that a default is no value of the run config.
        """
        config_type = _SCALARS[self.kind]
        if self.multiple:
            config_type = dg.Array(config_type)
        elif self.separator is not None:
            config_type = dg.ScalarUnion(scalar_type=str, non_scalar_schema=dg.Array(str))
        if is_filled or self.asset is not None:
            by = "The key of the run's partition" if is_filled else f"The value of asset {self.asset}"
            default = f" Without a partition: {self.default!r}." if is_filled and self.has_default else ""
            described = f"{self.help or ''} {by} fills it.{default}".strip()
            return dg.Field(dg.Noneable(config_type), is_required=False, description=described)
        if self.default is not _NO_DEFAULT:
            return dg.Field(config_type, default_value=self.default, description=self.help)
        if not self.required or self.kind == "json":
            config_type = dg.Noneable(config_type)
        return dg.Field(config_type, is_required=not is_optional, description=self.help)

    @property
    def has_default(self) -> bool:
        """Whether the run config needs no value."""
        return self.default is not _NO_DEFAULT

    @property
    def is_required(self) -> bool:
        """Whether a run can't begin without a value from outside."""
        return self.required and not self.has_default and self.asset is None

    def converted(self, value: Any, what: str) -> Any:
        """A value from outside, such as an event's field, in the type that the run config takes.

        Args:
            value: A JSON value, or its text: `3` and `"3"`, `[1, 2]` and `"[1, 2]"`, `true` and `"yes"`.
            what: What the value is, for the message of an error.

        Raises:
            ValueError: It is no value of the parameter's type; says so.
        """
        try:
            if self.multiple:
                items = json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
                return [self._converted(item) for item in (items if isinstance(items, list) else [items])]
            if self.separator is not None and isinstance(value, list):
                return [_as_text(item) for item in value]
            return self._converted(value)
        except (TypeError, ValueError, OverflowError) as error:
            shown = repr(value)
            raise ValueError(
                f"{what} is {shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + '...'}, which "
                f"is no value of parameter {self.name} ({self.kind}): {error}"
            ) from None

    def _converted(self, value: Any) -> Any:
        if self.kind == "json":
            return json.loads(value) if isinstance(value, str) else value
        if self.kind == "int":
            if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                raise ValueError("it is no whole number")
            return int(value)
        if self.kind == "float":
            if isinstance(value, bool):
                raise ValueError("it is no number")
            return float(value)
        if self.kind == "bool":
            word = _as_text(value).strip().lower()
            if word not in _TRUE | _FALSE:
                raise ValueError("it is neither true nor false")
            return word in _TRUE
        return _as_text(value)

    def arguments(self, value: Any) -> list[str]:
        """A value from the run config as arguments of Metaflow's command line.

        Args:
            value: The value. None, also as JSON's null, is no value to Metaflow: it takes the default, if any.

        Raises:
            dagster.Failure: An item of a list holds the separator at which Metaflow would split it.
        """
        if value is None:
            value = None if self.default is _NO_DEFAULT else self.default
        if value is None:
            return []
        if self.multiple:
            return [f"--{self.name}={self._text(item)}" for item in value]
        if self.separator is not None and not isinstance(value, str):
            return [f"--{self.name}={self._joined(value)}"]
        return [f"--{self.name}={self._text(value)}"]

    def _text(self, value: Any) -> str:
        return json.dumps(value) if self.kind == "json" else str(value)

    def _joined(self, items: list[str]) -> str:
        separator = self.separator or ""
        for item in items:
            if separator in item:
                raise dg.Failure(
                    f"Parameter {self.name}: the item {item!r} holds {separator!r}, at which Metaflow splits the "
                    "parameter's value into a list.",
                    allow_retries=False,
                )
        return separator.join(items)


def _as_text(value: Any) -> str:
    """A value as text: of a string itself, else its JSON."""
    return value if isinstance(value, str) else json.dumps(value)

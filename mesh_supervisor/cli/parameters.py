"""A verb's function → a command of click, by its signature.

What a parameter is called and what it means stands in its annotation, ``Annotated[bool, option("--json", help="…")]``,
as typer has it. typer itself builds a validator of pydantic for every parameter of every verb, at every call: that was
more than half of what `ps` or a completion cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter as Formal
from inspect import cleandoc, signature
from math import isnan
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

Complete = Callable[[click.Context, str], list[str]]
"""(context, what is typed so far) → the words that it could become."""


@dataclass(frozen=True, slots=True)
class Given:
    """How a parameter is given on the command line. ``names``: of an option; () is an argument. ``least``, ``most``: of
    a number."""

    names: tuple[str, ...]
    help: str
    metavar: str | None
    least: float | None = None
    most: float | None = None
    complete: Complete | None = None


def option(
    *names: str, help: str, metavar: str | None = None, least: float | None = None, most: float | None = None
) -> Given:
    """``names``: "-q", "--quiet", or "--watch/--no-watch"."""
    return Given(names, help, metavar, least, most)


def argument(*, metavar: str, help: str, complete: Complete | None = None) -> Given:
    return Given((), help, metavar, complete=complete)


class Argument(click.Argument):
    """One with a line of help, which older clicks have not."""

    def __init__(self, word: str, name: str, help: str, **settings: Any) -> None:
        super().__init__([word], **settings)
        self.row = (name, help)

    def make_metavar(self, *_: Any, **__: Any) -> str:
        shown = self.row[0] if self.required else f"[{self.row[0]}]"
        return f"{shown}..." if self.nargs == -1 else shown

    def get_help_record(self, ctx: click.Context) -> Any:
        return None  # Verb.format_options shows it


class Option(click.Option):
    def get_help_extra(self, ctx: click.Context) -> Any:
        """Without what goes without saying: limits."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class Whole(click.IntRange):
    name = "whole number"


class Number(click.FloatRange):
    """No NaN, which is in no range and outside of none."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Word(click.Choice[Enum]):
    """One of an enumeration, by its value."""

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__([one.value for one in kind])
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.kind(super().convert(value, param, ctx))


def command(
    function: Callable[..., None],
    kind: type[click.Command] = click.Command,
    *,
    name: str | None = None,
    context_settings: Mapping[str, Any] | None = None,
) -> click.Command:
    """Its docstring is its help. A parameter of type click.Context gets the context; no value is None, or the default
    of the signature; several values are a list."""
    hints = get_type_hints(function, include_extras=True)
    formals = signature(function).parameters
    context = next((word for word in formals if hints[word] is click.Context), None)
    given = {word: formal for word, formal in formals.items() if word != context}

    def call(**values: Any) -> None:
        found = {word: _found(value, given[word].default) for word, value in values.items()}
        if context is not None:
            found[context] = click.get_current_context()
        function(**found)

    return kind(
        name or function.__name__,
        params=[_parameter(word, hints[word], formal.default) for word, formal in given.items()],
        callback=call,
        help=cleandoc(function.__doc__ or ""),
        context_settings=dict(context_settings or {}),
    )


def _found(value: Any, default: Any) -> Any:
    if isinstance(value, tuple):
        return list(value) or (default if default is not Formal.empty else [])
    return value


def _parameter(word: str, hint: Any, default: Any) -> click.Parameter:
    annotated, given = get_args(hint)[:2]
    assert isinstance(given, Given), f"{word}: Annotated[…, option(…)] or argument(…)"
    kind, several = _kind(annotated)
    required = default is Formal.empty
    if not given.names:
        return Argument(
            word,
            given.metavar or word.upper(),
            given.help,
            type=_type(kind, given),
            nargs=-1 if several else 1,
            required=required,
            shell_complete=_completing(given.complete),
        )
    settings: dict[str, Any] = {"help": given.help, "metavar": given.metavar}
    if kind is bool:
        settings["is_flag"] = True
    else:
        settings |= {"type": _type(kind, given), "multiple": several}
    if not required and not several:
        settings |= {"default": default, "show_default": default not in (None, False, "")}
    return Option([word, *given.names], **settings)


def _kind(annotated: Any) -> tuple[Any, bool]:
    """(the type of one value, whether there may be several)"""
    if get_origin(annotated) in (Union, UnionType):
        (annotated,) = (one for one in get_args(annotated) if one is not type(None))
    if get_origin(annotated) is list:
        return get_args(annotated)[0], True
    return annotated, False


def _type(kind: Any, given: Given) -> Any:
    if kind is int and (given.least is not None or given.most is not None):
        return Whole(_whole(given.least), _whole(given.most))
    if kind is float:
        return Number(given.least, given.most)
    if kind is Path:
        return click.Path(path_type=Path)
    if issubclass(kind, Enum):
        return Word(kind)
    return click.types.convert_type(kind)


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


def _completing(complete: Complete | None) -> Any:
    if complete is None:
        return None

    def words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return complete(ctx, incomplete)

    return words


def arguments(verb: click.Command) -> list[tuple[str, str]]:
    """(its name, its help) of each argument."""
    return [one.row for one in verb.params if isinstance(one, Argument)]

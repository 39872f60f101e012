"""Look up entries of the registries by the names that configurations give.

A registry is a plain dictionary from names to functions or classes. A name of the form
`package.module:attribute` refers to a user's own code, which needs no entry.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cyclegan_jax.utils.errors import UserError

T = TypeVar("T")


def lookup(field: str, name: str, entries: Mapping[str, T]) -> T:
    """Return the entry called `name`, or the attribute that `package.module:attribute` refers to.

    Args:
        field: The configuration field or flag that holds the name, for messages.
        name: A key of `entries`, or `package.module:attribute` of an importable module.
        entries: The registry.

    Raises:
        UserError: The name is unknown (the message lists the names), or the module or its
            attribute cannot be imported.
    """
    if name in entries:
        return entries[name]
    if ":" not in name:
        names = f"one of {', '.join(entries)}, or " if entries else ""
        raise UserError(f"{field}: expected {names}package.module:attribute, got {name!r}")
    module, _, attribute = name.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{field}={name}: cannot be imported ({reason})") from error
    if not callable(entry):
        raise UserError(f"{field}={name}: expected a function or class, got {entry!r}")
    return _checking_arguments(f"{field}={name}", entry)


def _checking_arguments(what: str, entry: Any) -> Any:
    """Wrap a user's function or class to raise UserError for arguments that it does not take."""
    try:
        signature = inspect.signature(entry)
    except ValueError:  # a built-in function that has none
        return entry

    @functools.wraps(entry, updated=("__dict__",) if inspect.isfunction(entry) else ())
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            given = [type(value).__name__ for value in args] + [f"{name}=..." for name in kwargs]
            raise UserError(
                f"{what}: expected a function or class that takes ({', '.join(given)}), got one "
                f"with the arguments {_without_types(signature)} ({error}); see docs/extending.md"
            ) from None
        return entry(*args, **kwargs)

    return call


def _without_types(signature: inspect.Signature) -> inspect.Signature:
    empty = inspect.Parameter.empty
    parameters = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return inspect.Signature(parameters)


def build(
    field: str,
    name: str,
    entry: Callable[..., T],
    *,
    optional: Mapping[str, tuple[Any, Any]] | None = None,
    **arguments: Any,
) -> T:
    """Call a registry's entry with the arguments it needs and the options it supports.

    Args:
        field: The section of the configuration that the options stand in, for messages.
        name: The entry's name, for messages.
        entry: A function or class.
        optional: {option: (value, default)}. An option is passed on where the entry takes it. An
            option that the entry does not take must have its default.
        **arguments: Passed on in any case.

    Raises:
        UserError: An option is set that the entry does not support.
    """
    try:
        parameters = inspect.signature(entry).parameters
    except ValueError:  # a partial of a function that does not take its arguments
        return entry(**arguments)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option, (value, default) in (optional or {}).items():
        if takes_all or option in parameters:
            arguments[option] = value
        elif value != default:
            raise UserError(
                f"{field}.{option}: expected {default!r}, since {name} does not support the "
                f"option, got {value!r}"
            )
    return entry(**arguments)

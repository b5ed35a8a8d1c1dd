"""Functions from outside mlkit that settings name as "package.module:function": a loader, a scorer."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mlkit.errors import SettingsError


def outside_function(named: str, key: str) -> Callable[..., Any]:
    """Return the function that a settings key names.

    Args:
        named: such as "my_package.my_module:my_function"; the module must be importable.
        key: the settings key, for the message.

    Raises:
        SettingsError: when it is not of that form, cannot be imported, or is no function.
    """
    module, function = split_name(named, key)
    try:
        found = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise SettingsError(f"{key} = {named!r} cannot be imported: {error}; is its folder in PYTHONPATH?") from error
    except AttributeError:
        raise SettingsError(f"{key} = {named!r}: module {module} has no '{function}'") from None
    except Exception as error:
        raise SettingsError(f"{key} = {named!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise SettingsError(f"{key} = {named!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def split_name(named: str, key: str) -> tuple[str, str]:
    """Return module and function of "package.module:function"; raises SettingsError for what is not of that form."""
    module, colon, function = named.partition(":")
    if not (colon and module and function):
        raise SettingsError(f"{key} = {named!r} is not of the form 'package.module:function'")
    return module, function

"""Code of the user's own, named `module:name` in a configuration: found in the working directory too.

Such a name runs code. It comes from a file or a command line of the user's own machine, never from a client.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from dateshard.shardstore.errors import UsageError, shorten
from dateshard.shardstore.own_code import former_names


def forbidden(context: Any) -> bool:
    """Whether settings are validated for a client, who may not name code (`dateshard.settings.validate`)."""
    return isinstance(context, dict) and not context.get("own_models", True)


def load(dotted: str, option: str) -> Callable[..., Any]:
    """The callable that `my_package.module:name` names.

    The working directory is looked in first, and stays at the end of the path for what the module imports later.

    Args:
        option: the setting that it was written for, for messages.

    Raises:
        UsageError: no such module, no such name in it, nothing that can be called, or a module that fails.
    """
    module, _, name = dotted.partition(":")
    here = os.getcwd()
    former_names.know()
    sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failing(dotted, option, error) from None
        what = f"{option}: there is no module '{shorten(error.name)}', neither in {here} nor installed"
        raise UsageError(what, todo="Correct the name, or start from the folder that has the file") from None
    except Exception as error:
        raise _failing(dotted, option, error) from None
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
    if not hasattr(imported, name):
        public = [known for known in vars(imported) if not known.startswith("_")]
        what = f"{option}: {imported.__file__} has no '{shorten(name)}' (it has {shorten(', '.join(public), 200) or 'nothing'})"
        raise UsageError(what, todo="Correct the name")
    called = getattr(imported, name)
    if not callable(called):
        what = f"{option}: '{shorten(dotted)}' is {type(called).__name__}, nothing that can be called"
        raise UsageError(what, todo="Name a function")
    checked: Callable[..., Any] = called
    return checked


def _failing(dotted: str, option: str, error: Exception) -> UsageError:
    return UsageError(
        f"{option}: importing '{shorten(dotted)}' fails: {describe_error(error)}", todo="Correct the module"
    )


def describe_error(error: BaseException) -> str:
    """Describes an error of somebody else's code and its last line there: `TypeError: unhashable (my_models.py, line 7)`."""
    first = shorten(str(error).splitlines()[0], 200) if str(error) else ""
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    outer = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(frame.filename)]
    return f"{text} ({outer[-1].filename}, line {outer[-1].lineno})" if outer else text


def _is_outside(file: str) -> bool:
    """Whether a file is neither ours, nor Python's, nor an installed package's."""
    ours = os.path.dirname(os.path.abspath(str(sys.modules["dateshard"].__file__)))
    installed = os.path.dirname(os.__file__)
    return os.path.isfile(file) and not file.startswith((ours + os.sep, installed, sys.prefix))

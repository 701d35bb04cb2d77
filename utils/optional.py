"""Libraries that only some programs need: imported when asked for, one clear sentence when they are missing."""

import importlib
from typing import Any

from utils.errors import UserError


def import_optional(module: str, package: str, why: str) -> Any:
    """Return the imported module.

    Args:
        module: name to import, e.g. "scipy.io".
        package: name to install, e.g. "scipy".
        why: what needs it, the beginning of a sentence.

    Raises:
        UserError: with the command that installs the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{why} needs the package {package} ({error}); install it: python -m pip install {package}") from error

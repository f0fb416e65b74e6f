"""What an extra brings is imported when it is needed, and the error without it says what to install."""

import importlib
from types import ModuleType


def needs(module: str, extra: str, what: str) -> ModuleType:
    """Imports a module of an extra.

    Args:
        module: Its full name.
        extra: The extra of coldforge-data that brings its package.
        what: What cannot be had without it, as the error's subject.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    package = module.split(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {package}: pip install 'coldforge-data[{extra}]'.", name=package
        ) from error
    return importlib.import_module(module)

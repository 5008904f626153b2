"""Packages that only those need who read video files."""

import importlib
from typing import Any

from yt8m.errors import UserError


def optional_package(name: str) -> Any:
    """Imports a package of requirements-video.txt: `av`, or `cv2`, which then works in one thread.

    Videos are read side by side, by as many processes as there are cores.

    Raises:
        UserError: if it is not installed.
    """
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"Video files are read with the packages av and opencv, and '{name}' cannot be imported. Install both: "
            "pip install -r requirements-video.txt"
        ) from error
    if name == "cv2":
        package.setNumThreads(1)
    return package

"""Packages that only those need who read video files."""

from typing import Any

from yt8m import packages


def optional_package(name: str) -> Any:
    """Imports a package of requirements-video.txt: `av`, or `cv2`, which then works in one thread.

    Videos are read side by side, by as many processes as there are cores.

    Raises:
        UserError: if it is not installed.
    """
    package = packages.optional_package(name, "Video files are read", "requirements-video.txt")
    if name == "cv2":
        package.setNumThreads(1)
    return package

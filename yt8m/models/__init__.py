"""Families of registered models over frames; every module here is found by itself."""

from yt8m.registry import import_modules

import_modules(__name__, __path__)

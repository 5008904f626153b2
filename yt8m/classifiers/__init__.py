"""Families of registered models over one vector per video; every module here is found by itself."""

from yt8m.registry import import_modules

import_modules(__name__, __path__)

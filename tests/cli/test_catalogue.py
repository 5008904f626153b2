"""What the source says is what Python sees: the catalogue, and the tool that prints it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools import list_models
from yt8m import catalogue
from yt8m.errors import UserError
from yt8m.registry import (
    CLIP_MODELS,
    FRAME_LEVEL_MODELS,
    LOSSES,
    METRICS,
    VIDEO_LEVEL_MODELS,
    Registry,
    hyper_parameters,
)

EVERYTHING = [
    (registry, name)
    for registry in (VIDEO_LEVEL_MODELS, FRAME_LEVEL_MODELS, CLIP_MODELS, LOSSES, METRICS)
    for name in registry.names()
]
every_entry = pytest.mark.parametrize(("registry", "name"), EVERYTHING, ids=[name for _, name in EVERYTHING])


def signature_defaults(registered: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a constructor or function by Python's own account, those of the classes above included."""
    if not isinstance(registered, type):
        parameters = inspect.signature(registered).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    defaults: dict[str, Any] = {}
    for constructor in (vars(above)["__init__"] for above in registered.__mro__ if "__init__" in vars(above)):
        parameters_by_name = inspect.signature(constructor).parameters
        for name, parameter in parameters_by_name.items():
            if parameter.default is not inspect.Parameter.empty:
                defaults.setdefault(name, parameter.default)
        if "inherited" not in parameters_by_name:
            break
    return defaults


def changed_defaults(registered: Any) -> dict[str, Any]:
    """The defaults that decorators of a class, or of one above it, hand to its constructor."""
    changed: dict[str, Any] = {}
    for above in registered.__mro__:
        constructor = vars(above).get("__init__")
        while hasattr(constructor, "__wrapped__"):
            cells = [cell.cell_contents for cell in constructor.__closure__]
            (defaults,) = (content for content in cells if isinstance(content, dict))
            changed = defaults | changed
            constructor = constructor.__wrapped__
    return changed


@every_entry
def test_the_catalogue_says_what_python_says(registry: Registry, name: str) -> None:
    entry, registered = registry.entry(name), registry[name]
    assert registered.__module__ == entry.module
    assert inspect.getdoc(registered) == inspect.cleandoc(entry.text)
    expected = signature_defaults(registered)
    assert entry.hyper_parameters.keys() == expected.keys()
    changed = {key for key, value in entry.defaults.items() if value != expected[key]}
    assert changed == {key for key in changed if entry.defaults[key] == changed_defaults(registered)[key]}
    assert all(entry.hyper_parameters[hyper_parameter].text for hyper_parameter in entry.hyper_parameters)
    assert set(entry.flags.values()) <= entry.hyper_parameters.keys()


SOURCE = '''
@hyper_parameters(defaults={"width": 3}, flags={"old_width": "width"})
class Shared(Base):
    """Is shared."""


@THINGS.register(aliases=("Old",), defaults={"depth": 7}, flags={"old_depth": "depth"}, loss="SomeLoss")
class Thing(Shared):
    """Does something.

    More of it.

    Args:
        spec: what comes in.
        own: a setting of its own,
            on two lines.
        inherited: see Base.

    Source: nowhere.
    """

    def __init__(self, spec, *, own: float = -0.5, **inherited): ...


class Base:
    """Is above.

    Args:
        depth: how deep.
        width: how wide.
    """

    def __init__(self, spec, depth: int = 1, *, width: int = 2, **kwargs): ...


@THINGS.register("function")
def thing(labels, weights=None, *, margin: float = 1.0):
    """Computes."""
'''


def test_a_source_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "things.py").write_text(SOURCE)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    catalogue.known_classes.cache_clear()
    thing, function = catalogue.read_entries("THINGS", "things")
    catalogue.known_classes.cache_clear()
    assert (thing.name, thing.module, thing.aliases, thing.summary) == ("Thing", "things", ("Old",), "Does something.")
    assert thing.defaults == {"own": -0.5, "depth": 7, "width": 3}
    assert {name: (h.kind, h.text) for name, h in thing.hyper_parameters.items()} == {
        "own": ("float", "a setting of its own, on two lines."),
        "depth": ("int", "how deep."),
        "width": ("int", "how wide."),
    }
    assert thing.flags == {"old_width": "width", "old_depth": "depth"}
    assert thing.facts == {"loss": "SomeLoss"}
    assert (function.name, function.defaults) == ("function", {"margin": 1.0})


def test_a_default_that_is_not_written_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "things.py").write_text("@THINGS.register()\nclass Thing:\n    def __init__(self, a=SIZE): ...\n")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="line 3: SIZE is not a literal"):
        catalogue.read_entries("THINGS", "things")


def test_changed_defaults_reach_the_constructor_and_are_inherited() -> None:
    class Base:
        def __init__(self, width: int = 1, depth: int = 2):
            self.sizes = (width, depth)

    @hyper_parameters(defaults={"width": 5})
    class Shared(Base): ...

    class Below(Shared): ...

    assert Base().sizes == (1, 2)
    assert Shared().sizes == Below().sizes == (5, 2)
    assert Below(width=7, depth=8).sizes == (7, 8)


def test_everything_is_listed() -> None:
    listing = list_models.overview()
    for registry, name in EVERYTHING:
        assert f"  {name} " in listing
        assert registry.entry(name).summary.split()[0] in listing


def test_one_entry_is_described_with_its_classifier_and_flags() -> None:
    text = list_models.description("NetVladV1")
    for expected in (
        "AttentionEnhancedVLADModel (yt8m.models.attention_vlad)",
        "head_size = 16 ",
        "cluster_size = 256 ",
        "--netvlad_cluster_size",
        "classifier.num_mixtures = 2 ",
        "NetVladV1",
    ):
        assert expected in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "\n  loss.margin = 1.0 " in list_models.description("HingeLoss")
    assert "(--metrics=ap_at_n:NAME=VALUE):\n  n = 20 " in list_models.description("ap_at_n")
    assert "Hyper-parameters" not in list_models.description("macro")
    assert "\nTrained with BranchCrossEntropyLoss, unless" in list_models.description("MixNeXtVLADModel")
    with pytest.raises(UserError, match=r"Nothing is registered as 'NetVladV3'\. Did you mean "):
        list_models.description("NetVladV3")

"""Lists the registered models, losses and metrics, or describes one of them:

    python -m tools.list_models                    models, losses and metrics, one line each
    python -m tools.list_models NetVLADModelLF     its hyper-parameters, those of its classifier, its flags

The text is read from the source code (yt8m/catalogue.py) without importing TensorFlow, in a fraction of a second.
"""

import shutil
import textwrap
from collections.abc import Iterable

from absl import flags

from yt8m.catalogue import Entry, HyperParameter
from yt8m.cli import program
from yt8m.errors import UserError, did_you_mean
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS, LOSSES, METRICS, PARTS, VIDEO_LEVEL_MODELS

REGISTRIES = {
    "Video-level models (--model), and classifiers of frame-level ones": VIDEO_LEVEL_MODELS,
    "Frame-level models (--model, with --frame_features)": FRAME_LEVEL_MODELS,
    "Clip models (--model, with --record_format=clip)": CLIP_MODELS,
    "Losses (--label_loss)": LOSSES,
    "Metrics (--metrics)": METRICS,
}
_NARROWEST = 60


def define_flags(values: flags.FlagValues) -> None:
    """Defines no flags: this program has none."""


def main(names: list[str]) -> None:
    """Prints the whole list if `names` is empty, else the description of its first name.

    Raises:
        UserError: if nothing is registered under the name.
    """
    print(description(names[0]) if names else overview())


def overview() -> str:
    """Returns the list of all registries: one line per entry, its name and the first line of its docstring."""
    paragraphs = []
    for title, registry in REGISTRIES.items():
        lines = [_folded(entry.name, entry.summary, indent=32) for entry in registry.entries.values()]
        paragraphs.append("\n".join([title, *lines]))
    return "\n\n".join(paragraphs)


def description(name: str) -> str:
    """Returns the docstring, aliases, hyper-parameters and flags of an entry, as text.

    Raises:
        UserError: if nothing is registered under `name`.
    """
    entry = find_entry(name)
    prefix = "loss." if name in LOSSES else ""
    paragraphs = [f"{entry.name} ({entry.module})\n{entry.text.partition(chr(10) + 'Args:')[0].rstrip()}"]
    if entry.aliases:
        paragraphs.append(f"Also known as {', '.join(entry.aliases)}.")
    if "loss" in entry.facts:
        paragraphs.append(f"Trained with {entry.facts['loss']}, unless --label_loss names another.")
    typed = f"--metrics={entry.name}:" if name in METRICS else "--hparams="
    if entry.hyper_parameters:
        paragraphs.append("\n".join([f"Hyper-parameters ({typed}NAME=VALUE):", *_rows(entry, prefix)]))
    for part, models in PARTS.items():
        if part in entry.hyper_parameters:
            chosen = models.entry(entry.hyper_parameters[part].default)
            title = f"Of its {part}, {chosen.name} by default:"
            paragraphs.append("\n".join([title, *_rows(chosen, f"{part}.")]))
    return "\n\n".join(paragraphs)


def find_entry(name: str) -> Entry:
    """Returns the entry of a name or alias from the registry that has it.

    Raises:
        UserError: if no registry has it.
    """
    for registry in REGISTRIES.values():
        if name in registry:
            return registry.entry(name)
    known = [known for registry in REGISTRIES.values() for known in registry.names()]
    raise UserError(f"Nothing is registered as '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def _rows(entry: Entry, prefix: str) -> Iterable[str]:
    flags_of = {hyper_parameter: flag for flag, hyper_parameter in entry.flags.items()}
    for setting in entry.hyper_parameters.values():
        if setting.name.removesuffix("_hparams") not in PARTS or setting.name in PARTS:  # those are rows of the part
            flag = f" Also --{flags_of[setting.name]}." if setting.name in flags_of else ""
            yield _folded(f"{prefix}{setting.name} = {setting.default!r}", _explained(setting) + flag, indent=40)


def _explained(setting: HyperParameter) -> str:
    return f"{setting.kind}: {setting.text}" if setting.kind else setting.text


def _folded(head: str, text: str, indent: int) -> str:
    """Returns `head` and `text` as two columns, wrapped at the width of the terminal."""
    width = max(shutil.get_terminal_size().columns, indent + _NARROWEST)
    lines = textwrap.wrap(text, width - indent) or [""]
    first = f"  {head:<{indent - 3}} {lines[0]}" if len(head) <= indent - 3 else f"  {head}\n{' ' * indent}{lines[0]}"
    return "\n".join([first.rstrip(), *(" " * indent + line for line in lines[1:])])


if __name__ == "__main__":
    names = program.parse_flags(define_flags, num_arguments=1, needs_tensorflow=False)
    program.run(lambda _: main(names))

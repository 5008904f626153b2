"""Recipes and the rows of comparisons are command lines that the programs take."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from absl import flags

from yt8m.cli.run_flags import config_from_flags, define_program_flags, define_run_flags
from yt8m.config import RunConfig
from yt8m.errors import UserError
from yt8m.registry import CLIP_MODELS, FRAME_LEVEL_MODELS, LOSSES, VIDEO_LEVEL_MODELS

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("recipes/*.flags"))
ablations = importlib.import_module("tools.ablations")
results = importlib.import_module("tools.results")
measuring = importlib.import_module("tools.measuring")


def config(*arguments: str) -> RunConfig:
    """The run that arguments of train.py ask for."""
    values = flags.FlagValues()
    define_run_flags(values)
    define_program_flags(values, batch_size=1024)
    values(["train.py", *arguments])
    return config_from_flags(values)


def check(run: RunConfig) -> None:
    """Constructs the model, which looks at every hyper-parameter."""
    assert all(term.name in LOSSES for term in run.loss.terms)
    if run.data.record_format == "clip":
        CLIP_MODELS[run.model.name](run.data, **run.model.hparams)
    elif run.data.record_format == "frame":
        FRAME_LEVEL_MODELS[run.model.name](run.data, **run.model.hparams)
    else:
        VIDEO_LEVEL_MODELS[run.model.name](run.data.num_classes, **run.model.hparams)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_run(path: Path) -> None:
    check(config(f"--flagfile={path}"))


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem.startswith("yt8m-")], ids=lambda path: path.stem
)
def test_a_published_recipe_names_its_score_and_the_one_measured_here(path: Path) -> None:
    text = path.read_text()
    assert "\n# Published: " in text
    recipe, score = results.QUOTED.search(text).groups()
    runs = results.evaluated_runs()
    assert score == f"{runs[runs['recipe'] == recipe]['gap'].mean():.4f}"
    assert config(f"--flagfile={path}").model.name == config(f"--flagfile={path.parent / recipe}.flags").model.name


@pytest.mark.parametrize("name", ablations.CONFIGURATIONS)
def test_a_row_of_a_comparison_is_a_run(name: str) -> None:
    run = config(*ablations.CONFIGURATIONS[name].arguments())
    assert run.data.feature_names == ("audio_embedding",)
    check(run)


def test_rows_are_of_known_configurations_and_all_are_shown() -> None:
    shown = [name for table in ablations.TABLES for _, name, _ in table.rows]
    assert set(shown) == set(ablations.CONFIGURATIONS)


def line(name: str, seed: str, gap: float, split: str = "evaluation") -> dict[str, Any]:
    scores = {"gap": gap, "hit_at_one": 0.5, "map": 0.2, "macro_ap": 0.3}
    return {"name": name, "split": split, "seed": seed, "train_seconds": 60, **scores, "steps": 10}


def test_a_table_stands_beside_the_papers_numbers() -> None:
    # (0.4 + 0.5) / 2 = 0.45; the deviation of the two is 0.1 / sqrt(2) = 0.0707
    runs = {"one": pd.DataFrame([line("one", "0", 0.4), line("one", "1", 0.5)])}
    table = ablations.Table("Title", "Source", (("First", "one", "82.2"), ("Second", "two", "")))
    rows = ablations.table_rows(table, runs)[-2:]
    assert rows[0] == "| First | 82.2 | 0.4500 ± 0.0707 | 0.3000 ± 0.0000 | 0.5000 ± 0.0000 | 2 |"
    assert rows[1] == "| Second | not given |  |  |  |  |"


def test_only_evaluated_runs_get_into_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    document = tmp_path / "docs" / "ablations.md"
    document.write_text(f"before\n{measuring.TABLE_START}\nold\n{measuring.TABLE_END}\nafter\n")
    monkeypatch.setattr(ablations, "ROOT", tmp_path)
    monkeypatch.setattr(ablations, "LINES", tmp_path / "lines.csv")
    monkeypatch.setattr(ablations.results, "LINES", tmp_path / "recipes.csv")
    keys = ["name", "split", "seed"]
    for new in (
        line("netvlad", "0", 0.3),
        line("netvlad", "0", 0.4),  # in place of the first
        line("netfv", "0", 0.7, split="validation"),
    ):
        measuring.add_line(tmp_path / "lines.csv", new, keys)
    recipe = line("", "0", 0.6) | {"recipe": "audioset-netvlad"}
    measuring.add_line(tmp_path / "recipes.csv", recipe, ["recipe", "split", "seed"])
    ablations.write_tables()
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| NetVLAD (256 clusters) | 82.4 | 0.4000 | 0.3000 | 0.5000 | 1 |" in text
    assert "| Gated NetVLAD (256 clusters) | 83.2 | 0.6000 |" in text  # a recipe as it is
    assert "0.7000" not in text
    assert text.count("0.4000") == 2  # the same run without a gate stands in two tables


def test_unknown_runs_are_named() -> None:
    with pytest.raises(UserError, match="--only=netvald: there is no such run"):
        measuring.check_names(["netvald"], ["netvlad"])

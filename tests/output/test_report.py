"""The page about runs: numbers by hand, names that are no markup, several runs. A browser opens it, and TensorBoard."""

import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from browser import browser_command, shown_table
from programs import run

from yt8m.data.synthetic import write_frame_shards
from yt8m.engine.calibration import LogitHistogram
from yt8m.engine.clusters import VideoShares
from yt8m.engine.inspection import Mistake, worst_mistakes
from yt8m.errors import UserError
from yt8m.output import figures
from yt8m.runs.history import class_table, evaluation_curves, training_curves

pytest.importorskip("jinja2", reason="requirements-report.txt is not installed")

CLASSES = 6
HOSTILE = "<script>document.title='pwned'</script> \"A$AP\" & $x"


# ---- what is counted


def test_the_worst_mistakes_are_the_best_wrong_classes() -> None:
    predictions = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.95], [0.5, 0.6, 0.7], [0.9, 0.9, -1.0]])
    labels = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0]], bool)
    ids = np.array([b'quote"d', b"b", b"c\xff", b"all"])
    assert worst_mistakes(predictions, labels, ids, 2) == [Mistake(0.95, "b", 2, ()), Mistake(0.8, 'quote"d', 1, (0,))]
    assert worst_mistakes(predictions, labels, ids, 9)[2:] == [Mistake(0.6, "c\\xff", 1, (2,))]


def test_precision_and_recall_of_all_pairs() -> None:
    # From the largest logit down: hit, miss, two at 0 of which one is a hit, miss.
    histogram = LogitHistogram()
    histogram.add(np.array([[3.0, 1.0, 0.0], [0.0, -2.0, -2.0]]), np.array([[1, 0, 1], [0, 0, 0]], bool))
    precision, recall = histogram.precision_recall()
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 4, 2 / 6])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2, 1, 1])


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    """Killed at step 3, resumed at step 2: what was written last counts. Another file's tags are another story."""
    for number, steps in ((1, (1, 2, 3)), (2, (2, 5))):
        writer = tf.summary.create_file_writer(str(tmp_path), filename_suffix=f".{number}")
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("loss", 10.0 * number + step, step=step)
            tf.summary.text("config", "no number", step=0)
            tf.summary.scalar(f"only/{number}", 1.0, step=1)
        writer.close()
    curves = training_curves(str(tmp_path))
    assert curves.keys() == {"loss", "only/1", "only/2"}
    assert curves["loss"].steps.tolist() == [1, 2, 5]
    assert curves["loss"].values.tolist() == [11.0, 22.0, 25.0]
    newest = max(tmp_path.iterdir(), key=lambda path: path.name.rpartition(".")[2])
    newest.write_bytes(newest.read_bytes()[:-20])  # the end of a file that is being written
    assert training_curves(str(tmp_path))["loss"].steps.tolist() == [1, 2, 5]


def test_a_damaged_line_of_the_history_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    lines = ['{"global_step": 2, "gap": 0.5}', "[]", "{", '{"global_step": 1, "gap": 0.25, "program": "train.py"}']
    (tmp_path / "eval" / "history.jsonl").write_text("\n".join([*lines, '{"global_step": 2, "gap": 0.75}', ""]))
    (tmp_path / "eval" / "per_class_ap.csv").write_text(
        'class,name,num_positives,average_precision\n0,"a,b",2,0.5\n1,,0,\n'
    )
    curves = evaluation_curves(str(tmp_path))
    assert list(curves) == ["gap"]
    assert (curves["gap"].steps.tolist(), curves["gap"].values.tolist()) == ([1, 2], [0.25, 0.75])
    np.testing.assert_array_equal(class_table(str(tmp_path))["average_precision"], [0.5, np.nan])


# ---- the page


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a vocabulary with a hostile name, and pages of one and of both."""
    place = tmp_path_factory.mktemp("report")
    write_frame_shards(place, num_videos=30, num_shards=1, num_classes=CLASSES)
    names = [HOSTILE.replace('"', '""'), *(f"class of {c}" for c in range(1, CLASSES))]
    rows = "".join(f'{c},"{name}"\n' for c, name in enumerate(names))
    (place / "names.csv").write_text(f"Index,Name\n{rows}")
    spec = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=1024,128", f"--num_classes={CLASSES}")
    shards = f"{place}/train*.tfrecord"
    for name, model in (("vlad", "NetVLADModelLF"), ("plain", "FrameLevelLogisticModel")):
        sizes = ("--hparams=cluster_size=4", "--hparams=hidden_size=8") if name == "vlad" else ()
        target = (f"--train_data_pattern={shards}", f"--train_dir={place}/{name}", f"--eval_data_pattern={shards}")
        run("train", *target, f"--model={model}", *sizes, *spec, "--batch_size=10", "--num_epochs=2", "--log_steps=1")
    looked_at = (f"--vocabulary={place}/names.csv", f"--eval_data_pattern={shards}")
    counts = (f"--vocabulary={place}/names.csv", f"--csv={place}/data.csv", "--num_processes=1")
    run("tools.check_dataset", f"--data_pattern={shards}", *counts, *spec)
    run(
        "tools.report",
        f"--train_dir={place}/vlad,{place}/plain",
        *looked_at,
        f"--dataset_csv={place}/data.csv",
        f"--output={place}/both.html",
    )
    run("tools.report", f"--train_dir={place}/plain", f"--output={place}/one.html")
    return place


class Text(html.parser.HTMLParser):
    """What a page shows, and the tags it has."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_every_part_and_needs_nothing_else(place: Path) -> None:
    page = (place / "both.html").read_text()
    shown = Text(page)
    for heading in ("Summary", "Training", "Evaluation", "Precision and recall", "Calibration", "Data", "Settings"):
        assert heading in shown.text
    assert shown.tags.count("svg") == 6  # training, evaluation, frequency, precision, calibration, clusters of one run
    assert "Clusters over time" in shown.text
    assert not {"script", "link", "iframe"} & set(shown.tags)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [link for link in links if not link.startswith(("#", "data:image/png"))] == []


def test_names_are_text(place: Path) -> None:
    page = (place / "both.html").read_text()
    assert "<script" not in page
    assert HOSTILE in Text(page).text
    assert "mathdefault" not in page


def test_a_page_of_a_run_alone_is_made_of_what_it_left(place: Path) -> None:
    shown = Text((place / "one.html").read_text())
    assert "FrameLevelLogisticModel" in shown.text
    assert shown.tags.count("svg") == 2  # training and evaluation; eval.py, which looks at classes, did not run
    assert "Most confident mistakes" not in shown.text


def test_the_same_runs_are_the_same_page(place: Path, tmp_path: Path) -> None:
    run("tools.report", f"--train_dir={place}/plain", f"--output={tmp_path}/again.html")
    assert (tmp_path / "again.html").read_bytes() == (place / "one.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_dir={place}/none"], "holds no run"),
        (["--train_dir={place}/plain,{place}/plain"], "twice"),
        (["--train_dir={place}/plain", "--output={place}/plain/config.json"], "would be overwritten"),
        (["--train_dir={place}/plain", "--eval_data_pattern={place}/none*"], "no file matches"),
        (["--train_dir={place}/plain", "--vocabulary={place}/plain/config.json"], "--vocabulary"),
    ],
)
def test_what_cannot_be_is_refused_and_no_page_is_touched(
    place: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")
    with pytest.raises(UserError, match=message):
        run("tools.report", f"--output={page}", *(argument.format(place=place) for argument in arguments))
    assert page.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_missing_package_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(UserError, match=r"'jinja2' cannot be imported. .* pip install -r requirements-report.txt"):
        run("tools.report", f"--train_dir={place}/plain", f"--output={place}/none.html")


def test_a_browser_opens_the_page(place: Path) -> None:
    command = [*browser_command(place / "browser"), "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{place}/both.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = Text(done.stdout)
    assert "pwned" not in re.findall("<title>(.*?)</title>", done.stdout)[0]
    assert HOSTILE in seen.text
    assert seen.tags.count("svg") == 6


# ---- TensorBoard's


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Starts TensorBoard, and ends it after the block, which is given its address."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", "--host=127.0.0.1", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log: list[str] = []
            while not (address := re.search(r"http://\S+", "".join(log[-1:]))):
                log.append(process.stderr.readline())
                assert log[-1], f"TensorBoard ended: {''.join(log)}"
            yield address[0]
        finally:
            process.kill()


@pytest.mark.slow
def test_tensorboards_table_has_a_row_per_run(place: Path, tmp_path: Path) -> None:
    browser_command(tmp_path)  # or a skip, before anything is started
    with tensorboard(place) as address:
        header, *rows = shown_table(f"{address}#hparams", tmp_path, num_rows=3)
    table = {row[0].split(" ")[0]: dict(zip(header, row, strict=True)) for row in rows}
    models = {"plain": "FrameLevelLogisticModel", "vlad": "NetVLADModelLF"}
    assert table.keys() == models.keys()
    for name, row in table.items():
        assert row["model"] == models[name]
        assert float(row["base_learning_rate"]) == 0.01
        gap = json.loads((place / name / "eval" / "metrics.json").read_text())["gap"]
        assert float(row["Epoch/Eval_GAP"]) == pytest.approx(gap, rel=1e-4)
    # The first setting is the one that differs.
    assert header[2] == "model"


def test_labels_of_figures_are_text() -> None:
    shares = [np.full((3, 4), 0.25, np.float32)]
    svg = figures.cluster_figure([VideoShares("<b>$a$", np.array([0]), shares)], {0: "<i>"})
    assert "&lt;b&gt;$a$" in svg
    assert "<b>" not in svg
    assert "<i>" not in svg

"""Chromium without a window, which opens pages for tests."""

import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECONDS_TO_SHOW = 120

# Chromium is told by file descriptor 3 and answers by 4: here its standard input and output.
_BY_PIPES = ["sh", "-c", 'exec "$@" --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh"]


def browser_command(profile: Path) -> list[str]:
    """The beginning of its command line, or a skip where there is none; `profile` is a folder for what it keeps."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]


def shown_table(url: str, profile: Path, num_rows: int) -> list[list[str]]:
    """The texts of a page's table, row by row, once it has so many rows and stays as it is.

    They are what a screen reader would read out, so that parts of a page that scripts put together are there as well,
    and nothing that is hidden.
    """
    command = [*_BY_PIPES, *browser_command(profile), "--window-size=1600,900"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        watch = threading.Timer(SECONDS_TO_SHOW, process.kill)
        watch.start()
        try:
            ask = _questions(process)
            target = ask("Target.createTarget", url=url)["targetId"]
            page = ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            before: list[list[str]] = []
            while True:
                rows = _rows(ask("Accessibility.getFullAXTree", page)["nodes"])
                if len(rows) >= num_rows and rows == before:
                    return rows
                before = rows
                time.sleep(1)
        finally:
            watch.cancel()
            process.kill()


def _questions(process: subprocess.Popen) -> Callable[..., dict[str, Any]]:
    """Returns a function that asks Chromium by its DevTools protocol: JSON, with a zero byte after each message."""
    assert process.stdin is not None
    assert process.stdout is not None
    questions, answers = process.stdin, process.stdout
    numbers, received = itertools.count(1), bytearray()

    def ask(method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        question: dict[str, Any] = {"id": next(numbers), "method": method, "params": parameters}
        question |= {"sessionId": session} if session else {}
        questions.write(json.dumps(question).encode() + b"\0")
        while True:
            while b"\0" not in received:
                some = answers.read(1 << 16)
                if not some:
                    pytest.fail(f"Chromium ended, or did not show the table within {SECONDS_TO_SHOW} seconds")
                received.extend(some)
            message, _, rest = bytes(received).partition(b"\0")
            received[:] = rest
            answer = json.loads(message)
            if answer.get("id") == question["id"]:
                return answer["result"]

    return ask


def _rows(nodes: list[dict[str, Any]]) -> list[list[str]]:
    """The texts of the cells of all rows in a tree of what a page shows."""
    by_id = {node["nodeId"]: node for node in nodes}

    def role(node: dict[str, Any]) -> str:
        return node.get("role", {}).get("value", "")

    def children(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [by_id[child] for child in node.get("childIds", []) if child in by_id]

    def text(node: dict[str, Any]) -> str:
        return (
            node["name"]["value"] if role(node) == "StaticText" else " ".join(filter(None, map(text, children(node))))
        )

    return [
        [text(cell) for cell in children(node) if role(cell) in ("columnheader", "gridcell")]
        for node in nodes
        if role(node) == "row"
    ]

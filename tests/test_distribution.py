"""Who trains with whom, by TF_CONFIG."""

import json
from typing import Any

import pytest
import tensorflow as tf

from yt8m.distribution import build_strategy, one_device_strategy
from yt8m.errors import UserError


def config(monkeypatch: pytest.MonkeyPatch, cluster: dict[str, list[str]], job: str, index: int = 0) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}))


@pytest.fixture(name="resolvers")
def make_resolvers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The resolvers with which strategies of several workers were asked for."""
    resolvers: list[Any] = []
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda cluster_resolver: resolvers.append(cluster_resolver)
    )
    return resolvers


@pytest.mark.parametrize(
    ("cluster", "job", "index", "jobs"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 1, {"worker": ["a:1", "b:1"]}),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "worker", 0, {"chief": ["a:1"], "worker": ["b:1"]}),
        ({"master": ["a:1"], "worker": ["b:1"]}, "master", 0, {"chief": ["a:1"], "worker": ["b:1"]}),
        ({"master": ["a:1"], "worker": ["b:1"]}, "worker", 0, {"chief": ["a:1"], "worker": ["b:1"]}),
        ({"ps": ["p:1"], "worker": ["a:1", "b:1"]}, "worker", 0, {"worker": ["a:1", "b:1"]}),
    ],
)
def test_those_who_train_find_each_other(
    monkeypatch: pytest.MonkeyPatch,
    resolvers: list[Any],
    cluster: dict[str, list[str]],
    job: str,
    index: int,
    jobs: dict[str, list[str]],
) -> None:
    config(monkeypatch, cluster, job, index)
    build_strategy()
    (resolver,) = resolvers
    assert resolver.cluster_spec().as_dict() == jobs
    assert (resolver.task_type, resolver.task_id) == ("chief" if job == "master" else job, index)


@pytest.mark.parametrize("cluster", [{"worker": ["a:1"]}, {"chief": ["a:1"]}, {"worker": ["a:1"], "ps": ["p:1"]}, {}])
def test_a_cluster_of_one_trains_alone(
    monkeypatch: pytest.MonkeyPatch, resolvers: list[Any], cluster: dict[str, list[str]]
) -> None:
    config(monkeypatch, cluster, next(iter(cluster), "worker"))
    assert build_strategy() is one_device_strategy()
    assert not resolvers


@pytest.mark.parametrize("job", ["ps", "evaluator"])
def test_a_process_that_does_not_train_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, resolvers: list[Any], job: str
) -> None:
    config(monkeypatch, {"worker": ["a:1", "b:1"], "ps": ["p:1"]}, job)
    with pytest.raises(UserError, match=f"makes this process a '{job}', which does not train"):
        build_strategy()
    assert not resolvers

"""The HTTP contract by kind of task: what an answer holds, and that answers of classes are what they always were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from components.task import Task
from serving.app import Live
from serving.client import Client
from serving.prediction import ClassPrediction, LabelPrediction, Request, ValuePrediction
from serving.runtime import Runtime
from serving.schema import Answer, ClassAnswer, ModelCard, MultilabelAnswer, ValuesAnswer
from tests.bundles import LABELS, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve
from tests.kinds import TASKS

WORDS = "we saw the door"


@dataclass(frozen=True)
class Served:
    """A running endpoint of one kind of task, and its runtime."""

    task: Task
    url: str
    runtime: Runtime


@pytest.fixture(scope="module", params=["classes", "multilabel", "values"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    asked = TASKS.get(request.param)
    folder = write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0, asked=asked)
    runtime = Runtime(folder, limits=LIMITS)
    runtime.warmup()
    with serve(Endpoint(Live(runtime, release=3))) as running:
        yield Served(asked or Task("classes", LABELS), running.url, runtime)


@pytest.fixture(scope="module")
def face() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def test_an_answer_is_what_the_runtime_says(served: Served, face: bytes) -> None:
    with Client(served.url) as client:
        answer = client.predict(face, text=WORDS)
    [judged] = served.runtime.predict([Request(video=face, text=WORDS)])
    assert len(answer.timeline) == len(judged.timeline) > 0
    if isinstance(judged, ClassPrediction):
        assert isinstance(answer, ClassAnswer)
        assert answer.probabilities == pytest.approx(judged.probabilities, abs=1e-5)
        assert answer.contributions == pytest.approx(judged.contributions, abs=1e-4)
        return
    if isinstance(judged, LabelPrediction):
        assert isinstance(answer, MultilabelAnswer)
        for label, found in answer.labels.items():
            assert found.probability == pytest.approx(judged.probabilities[label], abs=1e-5)
            assert found.threshold == judged.thresholds[label]
            assert found.present is (found.probability >= found.threshold)
        assert answer.timeline[0].probabilities == pytest.approx(judged.timeline[0].answers, abs=1e-5)
    else:
        assert isinstance(judged, ValuePrediction)
        assert isinstance(answer, ValuesAnswer)
        assert answer.values == pytest.approx(judged.values, abs=1e-4)
        assert answer.scale == served.task.scale
        assert answer.timeline[0].values == pytest.approx(judged.timeline[0].answers, abs=1e-4)
    assert set(answer.contributions) == {"audio", "video", "text"}
    for modality, found_by_label in answer.contributions.items():
        assert tuple(found_by_label) == served.task.labels
        assert found_by_label == pytest.approx(judged.contributions[modality], abs=1e-3)


def test_an_answer_names_its_kind_unless_it_is_of_classes(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/emotion", json={"text": WORDS}, timeout=60.0).json()
    assert answer.get("kind", "classes") == served.task.kind
    body = {
        "classes": ["label", "probabilities", "timeline"],
        "multilabel": ["kind", "labels", "timeline"],
        "values": ["kind", "values", "scale", "timeline"],
    }
    # An older client refuses fields that it does not know, so classes have those they always had, in that order.
    assert list(answer) == ["request_id", "model", *body[served.task.kind], "contributions", "warnings"]


def test_the_card_tells_the_task_unless_it_is_of_classes(served: Served) -> None:
    document = httpx.get(f"{served.url}/v1/model", timeout=60.0).json()
    assert ("task" in document) is (served.task.kind != "classes")
    assert tuple(document["labels"]) == served.task.labels
    card = ModelCard.model_validate(document)
    if card.task is not None:
        assert (card.task.kind, card.task.name) == (served.task.kind, served.task.name)
        assert card.task.scale == served.task.scale


def test_every_kind_is_in_the_openapi_document(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json", timeout=60.0).json()
    schemas = document["components"]["schemas"]
    assert {"ClassAnswer", "MultilabelAnswer", "ValuesAnswer"} <= set(schemas)
    content = document["paths"]["/v1/emotion"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    names = {each["$ref"].rpartition("/")[2] for each in content["oneOf"]}
    assert names == {"ClassAnswer", "MultilabelAnswer", "ValuesAnswer"}


def test_an_answer_of_an_unknown_kind_is_refused(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/emotion", json={"text": WORDS}, timeout=60.0).json()
    adapter: TypeAdapter[object] = TypeAdapter(Answer)
    assert adapter.validate_python(answer) == adapter.validate_json(json.dumps(answer))
    with pytest.raises(ValidationError, match="ranks"):
        adapter.validate_python({**answer, "kind": "ranks"})
    other = "values" if served.task.kind == "multilabel" else "multilabel"
    with pytest.raises(ValidationError):
        adapter.validate_python({**answer, "kind": other})

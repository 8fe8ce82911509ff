"""Sends images through the stages of a bundle: a model of Triton's Python backend that calls the others.

It needs numpy and nothing else. All images of the requests that Triton has put together go to the first
stage in one call; those that are done leave, and the rest go to the next stage in one call, and so on.

A request may have parameters: `thresholds` ("0.9,0.8", one for each exit that may be passed) and, where the
bundle lets its caller choose, `setting.NAME`. Requests with the same parameters share calls.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Waiting = defaultdict[str, list[tuple[Array, Arrays]]]

ANSWER = "answer"
ANSWERS = ("label", "confidence", "probabilities")


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the bundle's manifest, which says which images go where."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        config = json.loads(args["model_config"])
        self.batch = max(int(config["max_batch_size"]), 1)
        self.name = config["name"]
        self.stages = {stage["name"]: stage for stage in self.manifest["stages"]}
        self.place = {name: k for k, name in enumerate(self.stages)}
        self.early = [name for name in self.stages if is_exit(self.stages[name])]
        self.classes = [label.encode() for label in self.manifest["labels"]]
        # What images need not bring to any later stage stays behind.
        wanted = [{*stage["reads"], stage["then"]["by"].get("of")} for stage in self.manifest["stages"]]
        self.later = {name: set().union(*wanted[k + 1 :]) for name, k in self.place.items()}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; each gets its own answers, or its own error."""
        responses: list[Any] = [None] * len(requests)
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[parameters_of(request)].append(number)
        for parameters, numbers in alike.items():
            images = [pb_utils.get_input_tensor_by_name(requests[n], "image").as_numpy() for n in numbers]
            try:
                answers = self.answer(np.concatenate(images), json.loads(parameters))
            except Exception as problem:  # whatever it is, others of the batch are answered
                error = pb_utils.TritonError(f"{type(problem).__name__}: {problem}")
                for number in numbers:
                    responses[number] = pb_utils.InferenceResponse(output_tensors=[], error=error)
                continue
            start = 0
            for number, given in zip(numbers, images, strict=True):
                rows = slice(start, start + len(given))
                start += len(given)
                tensors = [pb_utils.Tensor(name, value[rows]) for name, value in answers.items()]
                responses[number] = pb_utils.InferenceResponse(output_tensors=tensors)
        return responses

    def answer(self, images: Array, parameters: dict[str, Any]) -> Arrays:
        """The answers for images, by name; each has a row for each image."""
        settings, thresholds = self.asked(parameters)
        count = len(images)
        said: Arrays = {
            "label": np.zeros((count, 1), np.int64),
            "confidence": np.zeros((count, 1), np.float32),
            "exit": np.full((count, 1), -1, np.int64),
            "probabilities": np.zeros((count, len(self.classes)), np.float32),
        }
        # By stage, the images that come to it, by number, with what they carry.
        waiting: Waiting = defaultdict(list)
        start, everyone = self.manifest["start"], np.arange(count)
        send(waiting, start["to"], self.ways(start, {}, count, settings), everyone, {"image": images})
        for name, stage in self.stages.items():
            for numbers, carried in joined(waiting.pop(name, []), self.batch):
                given = self.run(stage, carried, len(numbers))
                if stage["exit"] is not None:
                    for answer in ANSWERS:
                        said[answer][numbers] = given[answer].reshape(len(numbers), -1)
                    said["exit"][numbers] = self.place[name]
                seen = {**carried, **given}
                way = self.ways(stage["then"], seen, len(numbers), settings, thresholds.get(name))
                kept = {each: value for each, value in seen.items() if each in self.later[name]}
                send(waiting, stage["then"]["to"], way, numbers, kept)
        likely = said.pop("probabilities")
        for name, stage in self.stages.items():
            if stage["exit"] is not None:
                rows = said["exit"][:, 0] == self.place[name]
                likely[rows] = at_temperature(likely[rows], stage["exit"]["probability_temperature"])
        names = np.array([self.classes[label] for label in said["label"][:, 0]], np.object_)
        return {**said, "name": names.reshape(-1, 1), "probabilities": likely}

    def asked(self, parameters: dict[str, Any]) -> tuple[dict[str, str], dict[str, float]]:
        """What was chosen of each setting, and the threshold of each exit for which one was given."""
        settings = {name: setting["default"] for name, setting in self.manifest["settings"].items()}
        thresholds: dict[str, float] = {}
        for key, value in parameters.items():
            name = key.removeprefix("setting.")
            if key == "thresholds":
                each = [float(number) for number in str(value).split(",")]
                if len(each) != len(self.early) or any(map(math.isnan, each)):
                    raise ValueError(f"thresholds: expected {len(self.early)} numbers, got {value!r}")
                thresholds = dict(zip(self.early, each, strict=True))
            elif key.startswith("setting.") and name in settings:
                if value not in self.manifest["settings"][name]["choices"]:
                    choices = ", ".join(self.manifest["settings"][name]["choices"])
                    raise ValueError(f"{key}: expected one of {choices}, got {value!r}")
                settings[name] = value
            else:
                raise ValueError(f"expected the parameters thresholds or setting.NAME, got {key!r}")
        return settings, thresholds

    def ways(
        self,
        route: dict[str, Any],
        seen: Arrays,
        count: int,
        settings: dict[str, str],
        threshold: float | None = None,
    ) -> Array:
        """Which of a route's ways each image goes, by the route's rule; with another threshold, if given."""
        rule = route["by"]
        if rule["rule"] == "setting":
            choices = self.manifest["settings"][rule["name"]]["choices"]
            return np.full(count, choices.index(settings[rule["name"]]))
        if rule["rule"] == "threshold":
            values = seen[rule["of"]].astype(np.float32).reshape(count, -1)[:, rule["column"] or 0]
            at = rule["at"] if threshold is None else threshold
            never = rule["of"] == "confidence" and at > 1
            return np.where((values >= np.float32(at)) & (not never), 0, 1)
        if rule["rule"] == "largest":
            values = seen[rule["of"]].astype(np.float32)
            if rule["offsets"] is not None:
                values = values + np.array(rule["offsets"], np.float32)
            largest: Array = np.where(np.isnan(values), -np.inf, values).argmax(axis=1)
            return largest
        return np.zeros(count, np.int64)

    def run(self, stage: dict[str, Any], carried: Arrays, count: int) -> Arrays:
        """What a stage gives for a batch, by tensor: one call of its model."""
        names = [*stage["gives"], *(ANSWERS if stage["exit"] is not None else ())]
        outputs = {name: stage["outputs"].get(name, name) for name in names}
        response = pb_utils.InferenceRequest(
            model_name=f"{self.name}_{stage['name']}",
            requested_output_names=list(outputs.values()),
            inputs=[pb_utils.Tensor(name, carried[name]) for name in stage["reads"]],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        given = {}
        for name, output in outputs.items():
            value = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
            given[name] = value.reshape(count) if name in ANSWERS[:2] else value
        return given


def is_exit(stage: dict[str, Any]) -> bool:
    """Whether a sample may exit here or pass: a threshold on the confidence decides."""
    by = stage["then"]["by"]
    return stage["exit"] is not None and by["rule"] == "threshold" and by["of"] == "confidence"


def parameters_of(request: Any) -> str:
    """What a request asks for, as text; the same text for the same."""
    given = json.loads(request.parameters() or "{}")
    return json.dumps({key: given[key] for key in sorted(given) if not key.startswith("triton_")})


def send(
    waiting: Waiting,
    places: list[str],
    way: Array,
    numbers: Array,
    carried: Arrays,
) -> None:
    """Put images before the stages that they go to, with what they carry; those that are done leave."""
    for index, name in enumerate(places):
        rows = (way == index).nonzero()[0]
        if name != ANSWER and len(rows):
            waiting[name].append((numbers[rows], {key: value[rows] for key, value in carried.items()}))


def joined(parts: list[tuple[Array, Arrays]], most: int) -> Iterator[tuple[Array, Arrays]]:
    """The images that wait before a stage, together, at most so many at a time."""
    if not parts:
        return
    numbers = np.concatenate([each for each, _ in parts])
    names = set.intersection(*(set(carried) for _, carried in parts))
    together = {name: np.concatenate([carried[name] for _, carried in parts]) for name in names}
    for start in range(0, len(numbers), most):
        rows = slice(start, start + most)
        yield numbers[rows], {name: np.ascontiguousarray(value[rows]) for name, value in together.items()}


def at_temperature(likely: Array, temperature: float) -> Array:
    """Probabilities [N, classes] at another temperature: p^(1/T), adding up to 1."""
    if temperature == 1:
        return likely
    logs = np.log(np.maximum(likely, 1e-30)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    told: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return told

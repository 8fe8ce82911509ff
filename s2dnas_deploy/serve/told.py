"""What a server tells of itself and of its models, as plain values: for HTTP as JSON, for gRPC as messages.

Place in the flow: `House` ──▶ these ──▶ whoever asks. Names are those of the Open Inference Protocol and of
Triton's extensions.
"""

from collections.abc import Mapping
from typing import Any

from s2dnas_deploy import __version__
from s2dnas_deploy.serve.ask import Named
from s2dnas_deploy.serve.house import House, Resident
from s2dnas_deploy.serve.service import Service

Values = Mapping[str, Any]

_PLATFORM = "s2dnas_onnxruntime"
_EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


def server() -> Values:
    """Name, version and what it can do beyond the protocol."""
    return {"name": "s2dnas_deploy", "version": __version__, "extensions": list(_EXTENSIONS)}


def metadata(house: House, service: Service, resident: Resident) -> Values:
    """What a model reads and answers."""
    tensors = service.tensors
    return {
        "name": resident.name,
        "versions": sorted(house.residents[resident.name], key=int),
        "platform": _PLATFORM,
        "inputs": [_tensor(tensors.image)],
        "outputs": [_tensor(each) for each in tensors.answers.values()],
    }


def config(service: Service, resident: Resident) -> Values:
    """What Triton calls a model's configuration: as far as it says something here."""
    image = service.tensors.image
    return {
        "name": resident.name,
        "platform": _PLATFORM,
        "backend": "s2dnas",
        "max_batch_size": service.batch,
        "input": [{"name": image.name, "data_type": _type(image), "dims": list(image.shape[1:])}],
        "output": [
            {"name": each.name, "data_type": _type(each), "dims": list(each.shape[1:]) or [1]}
            for each in service.tensors.answers.values()
        ],
        "dynamic_batching": {"max_queue_delay_microseconds": round(1e6 * service.max_wait)},
    }


def statistics(service: Service, resident: Resident) -> Values:
    """What a model has done, as Triton tells it."""
    counts = service.counts
    requests = counts.took.count  # which clients want to be the same in all of these
    return {
        "name": resident.name,
        "version": resident.version,
        "inference_count": sum(counts.exits),
        "execution_count": counts.fill[0].count,
        "inference_stats": {
            "success": _lasting(requests, counts.took.sum),
            "fail": _lasting(0, 0),
            "queue": _lasting(requests, counts.waited.sum),
            "compute_input": _lasting(requests, 0),
            "compute_infer": _lasting(requests, sum(counts.seconds)),
            "compute_output": _lasting(requests, 0),
        },
    }


def by_stage(service: Service) -> Values:
    """And by exit and stage, which Triton does not know."""
    counts, names = service.counts, service.cascade.names
    return {
        "exits": dict(zip(names, counts.exits, strict=True)),
        "stages": [
            {"name": name, "runs": fill.count, "samples": int(fill.sum), "ns": round(1e9 * seconds)}
            for name, fill, seconds in zip(names, counts.fill, counts.seconds, strict=True)
        ],
    }


def index(house: House) -> list[Values]:
    """Which models there are, loaded or not."""
    return [
        {
            "name": each.name,
            "version": each.version,
            "state": "UNAVAILABLE" if each.service is None else "READY",
            "reason": each.reason,
        }
        for each in house.each
    ]


def is_ready(house: House) -> bool:
    """Whether all models are loaded, and there is one."""
    return 0 < len(house.loaded()) == len(house.each)


def _tensor(each: Named) -> Values:
    return {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}


def _type(each: Named) -> str:
    return "TYPE_STRING" if each.datatype == "BYTES" else f"TYPE_{each.datatype}"


def _lasting(count: int, seconds: float) -> Values:
    return {"count": count, "ns": round(1e9 * seconds)}

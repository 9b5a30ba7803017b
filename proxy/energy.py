"""The `energy` object that clients see, and how it is put into an answer's bytes."""

from __future__ import annotations

import json

import msgspec

from accounting.records import RequestRecord

UJ_PER_JOULE = 1_000_000
UJ_PER_KWH = 3_600_000 * UJ_PER_JOULE


def attribution_method(record: RequestRecord) -> str:
    """How the figure was got, such as `work-model/nvml-counter/simulated-gpu`."""
    parts = [record.method, record.meter]
    if record.simulated:
        parts.append("simulated-gpu")
    return "/".join(parts)


def energy_object(record: RequestRecord) -> dict[str, object]:
    """The object beside `usage`. Energies are None where nothing could be measured."""
    energy = record.energy_uj
    seconds = (record.finished_us - record.started_us) / 1e6
    return {
        "energy_joules": None if energy is None else energy / UJ_PER_JOULE,
        "energy_kwh": None if energy is None else energy / UJ_PER_KWH,
        "avg_power_watts": None if energy is None or seconds <= 0 else energy / UJ_PER_JOULE / seconds,
        "duration_seconds": seconds,
        "attribution_method": attribution_method(record),
        "state": record.state,
        "uncertainty_joules": None if record.uncertainty_uj is None else record.uncertainty_uj / UJ_PER_JOULE,
        "request_id": record.request_id,
    }


def energy_json(record: RequestRecord) -> bytes:
    return msgspec.json.encode(energy_object(record))


def splice(document: bytes, key: str, value: bytes) -> bytes:
    """Add `"key":value` as the last member of a JSON object; every other byte stays as it was."""
    end = document.rfind(b"}")
    if end < 0:
        return document
    comma = b"" if document[:end].rstrip().endswith(b"{") else b","
    return document[:end] + comma + json.dumps(key).encode() + b":" + value + document[end:]

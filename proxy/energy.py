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


def facility_joules(record: RequestRecord, pue: float | None) -> float | None:
    """What the building drew for the request: (GPUs + host) x PUE, in joules.

    None where any of the three is not known, or GPUs or host were not measured all the time: a sum without a
    part of it would pass for the whole.
    """
    whole = record.unmeasured_us == 0 and record.host_unmeasured_us == 0
    if pue is None or record.energy_uj is None or record.host_uj is None or not whole:
        return None
    return (record.energy_uj + record.host_uj) * pue / UJ_PER_JOULE


def energy_object(record: RequestRecord, pue: float | None = None) -> dict[str, object]:
    """The object beside `usage`. Energies are None where nothing could be measured.

    `pue` is the building's power usage effectiveness; with it the object has the facility's joules.
    """
    energy, host = record.energy_uj, record.host_uj
    facility = {} if pue is None else {"facility_joules": facility_joules(record, pue), "pue": pue}
    seconds = (record.finished_us - record.started_us) / 1e6
    return {
        "energy_joules": None if energy is None else energy / UJ_PER_JOULE,
        "energy_kwh": None if energy is None else energy / UJ_PER_KWH,
        "avg_power_watts": None if energy is None or seconds <= 0 else energy / UJ_PER_JOULE / seconds,
        "duration_seconds": seconds,
        "attribution_method": attribution_method(record),
        "state": record.state,
        "uncertainty_joules": None if record.uncertainty_uj is None else record.uncertainty_uj / UJ_PER_JOULE,
        "host_joules": None if host is None else host / UJ_PER_JOULE,
        "host_method": record.host_method,
        **facility,
        "request_id": record.request_id,
    }


def energy_json(record: RequestRecord, pue: float | None = None) -> bytes:
    return msgspec.json.encode(energy_object(record, pue))


def pending_json(request_id: str) -> bytes:
    """The same where the record has not come in time: it can be asked for."""
    keys = ("energy_joules", "energy_kwh", "avg_power_watts", "duration_seconds", "attribution_method")
    more = ("uncertainty_joules", "host_joules", "host_method")
    nothing = dict.fromkeys(keys) | {"state": "pending"} | dict.fromkeys(more)
    return msgspec.json.encode(nothing | {"request_id": request_id})


def splice(document: bytes, key: str, value: bytes) -> bytes:
    """Add `"key":value` as the last member of a JSON object; every other byte stays as it was."""
    end = document.rfind(b"}")
    if end < 0:
        return document
    comma = b"" if document[:end].rstrip().endswith(b"{") else b","
    return document[:end] + comma + json.dumps(key).encode() + b":" + value + document[end:]

"""How a backend's GPUs may be named, and what joulegate makes of it."""

from __future__ import annotations

import pytest

from accounting.meters.wire import GpuInfo
from proxy.meters import Found, named
from proxy.settings import Settings, SettingsError

A, B = "GPU-aaaa1111-0000", "GPU-bbbb2222-0000"


def listed(*uuids: str | None, mig: list[str] | None = None) -> list[Found]:
    gpus = [
        GpuInfo(
            index=index,
            uuid=uuid,
            name="H100",
            power_limit_mw=None,
            driver_version="580",
            simulated=True,
            method="nvml-counter",
            mig=mig,
        )
        for index, uuid in enumerate(uuids)
    ]
    return [Found("nvml", [], listed=gpus)]


def gpus(value: object, found: list[Found], **meter: str) -> object:
    backends = [{"id": "a", "url": "http://127.0.0.1:1", "gpus": value}]
    settings = Settings.model_validate({"backends": backends, "meter": meter})
    return named(settings, found).backends[0].gpus


def test_what_the_engine_sees_is_said_as_in_its_variable() -> None:
    assert gpus("cuda:1", listed(A, B)) == [B]
    assert gpus("cuda:1,0", listed(A, B)) == [B, A]
    assert gpus("cuda:GPU-bbbb", listed(A, B)) == [B]


def test_a_mig_instance_stands_for_its_gpu_and_other_names_stay() -> None:
    assert gpus(["MIG-1", "MIG-2"], listed(A, mig=["MIG-1", "MIG-2"])) == [A]
    assert gpus([B, "node2/0000:01:00.0"], listed(A)) == [B, "node2/0000:01:00.0"]
    assert gpus("all", listed(A)) == "all"


def test_a_variable_that_shows_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match=f"cuda:7 shows no GPU of this machine .0: {A}"):
        gpus("cuda:7", listed(A))


def test_without_a_meter_nothing_is_looked_for() -> None:
    assert gpus("cuda:7", [], source="none") == []


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        gpus("some", listed(A))

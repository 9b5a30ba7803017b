"""A DCGM exporter's page: it collects now and then and serves that until the next time.

Rows as NVIDIA/dcgm-exporter writes them; in MIG mode one for each instance and none for the GPU itself
(issues 317 and 561 there).
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.accounting.meters_remote.fake_gpus import FakeGpu, now_us
from tests.accounting.meters_remote.server import Question, Reply, Server

OTHERS = """\
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",pci_bus_id="00000000:01:00.0"} 1980
"""


@dataclass
class Exported:
    """A GPU on the page. `host` by the label's name; `instances`: how MIG splits it."""

    uuid: str
    gpu: FakeGpu
    host: tuple[str, str] = ("Hostname", "node1")
    instances: tuple[int, ...] = ()
    counter: bool = True
    shown: bool = True


class FakeDcgm:
    def __init__(self, gpus: list[Exported], *, update_s: float) -> None:
        self.gpus, self._update_us = gpus, int(update_s * 1e6)
        self.stuck = False
        self._page, self._collected_us = "", 0
        self.server = Server(self._answer)

    @property
    def url(self) -> str:
        return self.server.url

    def close(self) -> None:
        self.server.stop()

    def _answer(self, asked: Question) -> Reply:
        if asked.path != "/metrics":
            return Reply(404, b"404 page not found\n", "text/plain")
        if not self._page or (not self.stuck and now_us() - self._collected_us >= self._update_us):
            self._page, self._collected_us = self._collect(), now_us()
        return Reply(200, self._page.encode(), "text/plain; version=0.0.4")

    def _collect(self) -> str:
        energies = ["# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter"]
        powers = ["# TYPE DCGM_FI_DEV_POWER_USAGE gauge"]
        for number, one in enumerate(self.gpus):
            if not one.shown:
                continue
            for instance in one.instances or (None,):
                labels = self._labels(number, one, instance)
                energies += [
                    f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{labels} {one.gpu.energy_mj()}"
                ] * one.counter
                powers += [f"DCGM_FI_DEV_POWER_USAGE{labels} {one.gpu.power_mw / 1000:.6f}"]
        return OTHERS + "\n".join(energies + powers) + "\n"

    def _labels(self, number: int, one: Exported, instance: int | None) -> str:
        mig = f'GPU_I_PROFILE="1g.10gb",GPU_I_ID="{instance}",' if instance is not None else ""
        label, host = one.host
        return (
            f'{{gpu="{number}",UUID="{one.uuid}",pci_bus_id="00000000:0{number + 1}:00.0",'
            f'device="nvidia{number}",'
            f'modelName="NVIDIA H100 80GB HBM3",{mig}{label}="{host}",container="",namespace="",pod=""}}'
        )

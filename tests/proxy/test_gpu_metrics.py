"""What Prometheus sees of GPUs, from the events that meters say."""

from __future__ import annotations

import socket

from prometheus_client import CollectorRegistry, generate_latest

from accounting.events import (
    CounterReads,
    CrossCheck,
    GpuTelemetry,
    MeterDown,
    MeterMethod,
    MeterQuality,
    MeterUp,
)
from proxy.gpu_metrics import GpuMetrics
from proxy.tallies import Shown

GPU = "GPU-1"


class Page:
    """The metrics after some events, by series."""

    def __init__(self) -> None:
        self.metrics = GpuMetrics()
        self._registry = CollectorRegistry()
        self._registry.register(Shown(self.metrics.collect))

    def value(self, series: str) -> float | None:
        """Of the one series that begins so; None where there is none."""
        lines = generate_latest(self._registry).decode().splitlines()
        found = [line for line in lines if line.startswith(series)]
        assert len(found) < 2, found
        return float(found[0].rsplit(" ", 1)[1]) if found else None

    def up(self, method: MeterMethod = "nvml-counter", *, new_epoch: bool = False) -> None:
        self.metrics.event(
            MeterUp(t_us=0, gpu=GPU, device="NVIDIA H100", method=method, index=3, new_epoch=new_epoch)
        )

    def down(self, code: str = "GPU_IS_LOST") -> None:
        self.metrics.event(MeterDown(t_us=0, gpu=GPU, code=code, message="gone"))

    def reads(self, *reads: tuple[float, int]) -> None:
        """Seconds and joules."""
        t_us = [round(t_s * 1e6) for t_s, _ in reads]
        self.metrics.event(
            CounterReads(
                gpu=GPU, t_lo_us=t_us, t_hi_us=t_us, energy_mj=[joules * 1000 for _, joules in reads]
            )
        )


def test_energy_is_what_was_read_since_the_start_and_power_its_slope() -> None:
    page = Page()
    page.up()
    page.reads((10.0, 5_000))
    assert page.value("hw_energy_joules_total{") == 0
    assert page.value("hw_power_watts{") is None
    page.reads((10.1, 5_030), (10.15, 5_030), (10.2, 5_060), (11.2, 5_360))
    assert page.value("hw_energy_joules_total{") == 360
    assert page.value("hw_power_watts{") == 300
    [device] = page.metrics.devices()
    assert (device["energy_joules"], device["energy_at"]) == (360, 11.2)


def test_series_carry_uuid_index_node_and_kind() -> None:
    page = Page()
    page.up()
    page.reads((1.0, 1))
    labels = f'gpu="{GPU}",hw_type="gpu",index="3",node="{socket.gethostname()}"'
    assert page.value(f"hw_energy_joules_total{{{labels}}}") == 0
    page.metrics.event(MeterUp(t_us=0, gpu="host:n7", device="processors", method="rapl", node="n7"))
    page.metrics.event(CounterReads(gpu="host:n7", t_lo_us=[0], t_hi_us=[0], energy_mj=[1]))
    assert page.value('hw_energy_joules_total{gpu="host:n7",hw_type="host",index="",node="n7"}') == 0


def test_energy_never_goes_back_and_takes_in_no_other_counter() -> None:
    page = Page()
    page.up()
    page.reads((1.0, 100), (1.1, 150))
    page.up(new_epoch=True)
    page.reads((2.0, 7), (2.1, 9))
    assert page.value("hw_energy_joules_total{") == 52
    page.up("nvml-power")
    page.reads((3.0, 0), (3.1, 5))
    page.up("nvml-counter")
    page.reads((4.0, 1_000_000), (4.1, 1_000_003))
    assert page.value("hw_energy_joules_total{") == 60


def test_a_counter_that_lasts_tells_what_was_drawn_while_it_was_not_read() -> None:
    page = Page()
    page.up()
    page.reads((1.0, 100), (1.1, 150))
    page.down()
    assert page.value("hw_power_watts{") is None
    page.up()
    page.reads((60.0, 900))
    assert page.value("hw_energy_joules_total{") == 800


def test_a_fault_has_its_code_and_is_counted() -> None:
    page = Page()
    page.up()
    assert page.value("joulegate_meter_up{") == 1
    assert page.value("joulegate_meter_info{") == 1
    page.down("GPU_IS_LOST")
    assert page.value("joulegate_meter_up{") == 0
    assert page.value(f'joulegate_meter_fault{{code="GPU_IS_LOST",gpu="{GPU}"}}') == 1
    page.up()
    page.down("UNKNOWN")
    assert page.value("joulegate_meter_fault{") == 1
    page.up()
    assert page.value("joulegate_meter_fault{") is None
    assert page.value(f'joulegate_meter_faults_total{{code="GPU_IS_LOST",gpu="{GPU}"}}') == 1
    assert page.value(f'joulegate_meter_faults_total{{code="UNKNOWN",gpu="{GPU}"}}') == 1


def test_what_is_not_known_has_no_series() -> None:
    page = Page()
    page.up()
    page.metrics.event(MeterQuality(t_us=0, gpu=GPU))
    page.metrics.event(GpuTelemetry(t_us=0, gpu=GPU))
    for name in ("hw_energy_joules_total{", "hw_power_watts{", "hw_power_limit_watts{"):
        assert page.value(name) is None
    for name in ("call_seconds{", "counter_period_seconds{", "cross_check_ratio{"):
        assert page.value(f"joulegate_meter_{name}") is None


def test_how_well_it_is_measured_is_shown_in_seconds() -> None:
    page = Page()
    page.up()
    check = CrossCheck(over_us=5_000_000, counter_mj=187_000, power_mj=340_000, allowed_mj=40_000)
    page.metrics.event(
        MeterQuality(t_us=0, gpu=GPU, call_p50_us=40, call_p95_us=900, counter_period_us=100_000, check=check)
    )
    page.metrics.event(
        GpuTelemetry(t_us=0, gpu=GPU, power_limit_mw=700_000, utilization_percent=50, temperature_c=61)
    )
    assert page.value('joulegate_meter_call_seconds{gpu="GPU-1",quantile="0.95"}') == 0.0009
    assert page.value("joulegate_meter_counter_period_seconds{") == 0.1
    assert page.value("joulegate_meter_cross_check_ratio{") == 0.55
    assert page.value("hw_power_limit_watts{") == 700
    assert page.value("hw_gpu_utilization_ratio{") == 0.5
    assert page.value("hw_temperature_celsius{") == 61

"""Runs vLLM-Omni on the CPU for tests: on 127.0.0.1, its log in a file, ended by its pid."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Final, Literal

from tests.engines.vllm_server import NotInstalled, VllmServer

HERE: Final = Path(__file__).parent
INSTALLER: Final = HERE / "install-vllm-omni-cpu"
PLUGIN: Final = HERE / "omni_cpu"
MAKER: Final = PLUGIN / "make_pipelines.py"

# Stable Diffusion is served by diffusers' own pipeline, Wan by vLLM-Omni's.
FLAGS: Final = {"image": ("--diffusion-load-format", "diffusers"), "video": ()}


def environment() -> Path:
    """The directory that install-vllm-omni-cpu has made. Raises NotInstalled."""
    answer = subprocess.run([INSTALLER, "--path"], check=True, capture_output=True, text=True)
    directory = Path(answer.stdout.strip())
    if not (directory / ".complete").exists():
        raise NotInstalled(f"vLLM-Omni is not in {directory}: run {INSTALLER}")
    return directory


def pipelines() -> Path:
    """The tiny pipelines, cached beside the environment under the hash of the code that makes them."""
    name = f"tiny-diffusion-{hashlib.sha256(MAKER.read_bytes()).hexdigest()[:12]}"
    directory = environment().with_name(name)
    marker = directory / ".complete"
    if not marker.exists():
        python = environment() / "bin" / "python"
        subprocess.run([python, MAKER, directory], check=True, capture_output=True, text=True)
        marker.touch()
    return directory


class OmniServer(VllmServer):
    """A running vLLM-Omni with the tiny pipeline for images or for videos; use as a context manager."""

    def __init__(self, log: Path, kind: Literal["image", "video"]) -> None:
        variables = {"PYTHONPATH": str(PLUGIN), "VLLM_TARGET_DEVICE": "cpu"}
        super().__init__(log, FLAGS[kind], variables, engine_times=False)
        self.kind = kind
        self.served = f"tiny-{kind}"
        """The name of the model in requests."""

    def command(self) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.served]
        return [
            str(environment() / "bin" / "vllm-omni"),
            "serve",
            str(pipelines() / self.kind),
            "--omni",
            *address,
            "--enable-request-id-headers",
            *self.extra,
        ]

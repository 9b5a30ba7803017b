"""A platform plugin for vLLM-Omni: the CPU, so that its server runs for real without an accelerator.

With this directory in PYTHONPATH vLLM-Omni finds it by the entry point in joulegate_omni_cpu-1.dist-info.
Only what vLLM-Omni 0.30 asks of a platform while it serves diffusion pipelines is answered.
"""

from __future__ import annotations

import psutil
import torch
from vllm.config.kernel import IrOpPriorityConfig
from vllm.platforms.cpu import CpuPlatform
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum


def plugin() -> str:
    """Name of the platform class; the entry point."""
    return f"{__name__}.{CpuOmniPlatform.__name__}"


class CpuOmniPlatform(OmniPlatform, CpuPlatform):  # type: ignore[misc]
    _omni_enum = OmniPlatformEnum.OOT

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls, selected_backend: str | None, head_size: int, allow_trtllm_default: bool = False
    ) -> str:
        # Imported late: they ask for the platform themselves.
        from vllm_omni.diffusion.attention.backends import sdpa
        from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum

        sdpa.SDPAImpl.forward = sdpa.SDPAImpl.forward_cuda  # plain PyTorch in spite of its name
        return str(DiffusionAttentionBackendEnum.TORCH_SDPA.get_path())

    @classmethod
    def get_omni_ar_worker_cls(cls) -> str:
        return "vllm_omni.worker.gpu_ar_worker.GPUARWorker"

    @classmethod
    def get_omni_generation_worker_cls(cls) -> str:
        return "vllm_omni.worker.gpu_generation_worker.GPUGenerationWorker"

    @classmethod
    def get_default_stage_config_path(cls) -> str:
        return "vllm_omni/model_executor/stage_configs"

    @classmethod
    def get_default_ir_op_priority(cls, vllm_config: object) -> IrOpPriorityConfig:
        return IrOpPriorityConfig.with_default(["native"])

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        return False  # compiling would take longer than the tests

    @classmethod
    def is_available(cls) -> bool:
        return False  # asked by code that would then use CUDA's streams

    # One device, the machine itself; its memory is the machine's.

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def get_device_count(cls) -> int:
        return 1

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "cpu"

    @classmethod
    def get_device_version(cls) -> str | None:
        return None

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        return None

    @classmethod
    def synchronize(cls) -> None:
        return None

    @classmethod
    def empty_cache(cls) -> None:
        return None

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        return int(psutil.virtual_memory().available)

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return int(psutil.virtual_memory().total)

    @classmethod
    def max_memory_reserved(cls, device: torch.device | None = None) -> int:
        return 0

    @classmethod
    def max_memory_allocated(cls, device: torch.device | None = None) -> int:
        return 0

    @classmethod
    def reset_peak_memory_stats(cls, device: torch.device | None = None) -> None:
        return None

"""What the simulator knows of diffusion models: sizes and shapes, and the arithmetic of one step from them.

Architecture figures are those of the published configuration files. A denoising step passes N tokens through
the transformer: 2 A N floating point operations for A parameters and, where attention is quadratic,
4 L W N^2 for L layers of width W; twice that with classifier-free guidance. A token stands for a patch of
`pixels_per_token` squared pixels and of some frames.

What text encoder and VAE take cannot be seen in the public measurements, which know one number of steps and
one size per model. They are assumed, in the same unit: floating point operations as the transformer does
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

Kind = Literal["image", "video"]

ENCODE_FLOP = 5e12
"""Of the text encoder, once per request: about that of a T5-XXL on 512 tokens. Assumed."""

DECODE_FLOP_PER_PIXEL = 30e6
"""Of the VAE per pixel of each frame: about 10 MFLOP of convolutions, at a third of the speed. Assumed."""

LATENT_FRAMES = 4
"""Frames that a video's VAE makes of one latent frame; the first stands for itself."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one image or video is: pixels, frames (1 for an image), denoising steps."""

    width: int
    height: int
    steps: int
    frames: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames


@dataclass(frozen=True, slots=True)
class DiffusionCard:
    """One model. `shape` is what it makes when nothing is asked for, and that of its measurements.

    `patch` is the side of a token's square in pixels, `frames_patch` the latent frames in one; `text_tokens`
    go through the transformer with the picture's. `passes` is 2 with classifier-free guidance.
    """

    name: str
    kind: Kind
    params: float
    layers: int
    hidden: int
    patch: int
    shape: Shape
    fps: int | None = None
    frames_patch: int = 1
    text_tokens: int = 0
    passes: int = 2
    linear_attention: bool = False

    def tokens(self, shape: Shape) -> int:
        """Tokens that a step computes for one image or video, in one pass."""
        latent = 1 + ceil((shape.frames - 1) / LATENT_FRAMES)
        area = ceil(shape.width / self.patch) * ceil(shape.height / self.patch)
        return self.text_tokens + area * ceil(latent / self.frames_patch)

    def step_flop(self, shape: Shape) -> float:
        """Floating point operations of one step for one image or video."""
        tokens = self.tokens(shape)
        pairs = 0 if self.linear_attention else tokens * tokens
        return self.passes * (2.0 * self.params * tokens + 4.0 * self.layers * self.hidden * pairs)

    def decode_flop(self, shape: Shape) -> float:
        """What the VAE takes for one image or video."""
        return DECODE_FLOP_PER_PIXEL * shape.pixels


_SQUARE = {"width": 1024, "height": 1024}

SANA_1_6B = DiffusionCard(
    name="Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
    kind="image",
    params=1.6e9,
    layers=20,
    hidden=2240,
    patch=32,
    shape=Shape(**_SQUARE, steps=20),
    linear_attention=True,
)
SANA_4_8B = DiffusionCard(
    name="Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
    kind="image",
    params=4.8e9,
    layers=60,
    hidden=2240,
    patch=32,
    shape=Shape(**_SQUARE, steps=20),
    linear_attention=True,
)
PIXART_SIGMA = DiffusionCard(
    name="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    kind="image",
    params=0.6e9,
    layers=28,
    hidden=1152,
    patch=16,
    shape=Shape(**_SQUARE, steps=20),
)
HUNYUAN_DIT = DiffusionCard(
    name="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
    kind="image",
    params=1.5e9,
    layers=40,
    hidden=1408,
    patch=16,
    shape=Shape(**_SQUARE, steps=50),
)
FLUX_DEV = DiffusionCard(
    name="black-forest-labs/FLUX.1-dev",
    kind="image",
    params=12e9,
    layers=57,
    hidden=3072,
    patch=16,
    shape=Shape(**_SQUARE, steps=50),
    text_tokens=512,
    passes=1,  # guidance is an input of the model
)
SD_35_MEDIUM = DiffusionCard(
    name="stabilityai/stable-diffusion-3.5-medium",
    kind="image",
    params=2.5e9,
    layers=24,
    hidden=1536,
    patch=16,
    shape=Shape(**_SQUARE, steps=28),
    text_tokens=333,
)
WAN_1_3B = DiffusionCard(
    name="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    kind="video",
    params=1.3e9,
    layers=30,
    hidden=1536,
    patch=16,
    shape=Shape(width=832, height=480, steps=50, frames=81),
    fps=15,
)
HUNYUAN_VIDEO = DiffusionCard(
    name="tencent/HunyuanVideo",
    kind="video",
    params=13e9,
    layers=60,
    hidden=3072,
    patch=16,
    shape=Shape(width=1280, height=720, steps=50, frames=129),
    fps=15,
    text_tokens=256,
    passes=1,
)
COGVIDEO_2B = DiffusionCard(
    name="zai-org/CogVideoX-2b",
    kind="video",
    params=2e9,
    layers=30,
    hidden=1920,
    patch=16,
    shape=Shape(width=720, height=480, steps=50, frames=49),
    fps=8,
    text_tokens=226,
)
COGVIDEO_15_5B = DiffusionCard(
    name="zai-org/CogVideoX1.5-5B",
    kind="video",
    params=5e9,
    layers=42,
    hidden=3072,
    patch=16,
    shape=Shape(width=1360, height=768, steps=50, frames=81),
    fps=8,
    frames_patch=2,
    text_tokens=226,
)
TINY_IMAGE = DiffusionCard(
    name="tiny-image",
    kind="image",
    params=2e9,
    layers=24,
    hidden=2048,
    patch=16,
    shape=Shape(width=512, height=512, steps=20),
    passes=1,
)
TINY_VIDEO = DiffusionCard(
    name="tiny-video",
    kind="video",
    params=2e9,
    layers=24,
    hidden=2048,
    patch=16,
    shape=Shape(width=256, height=256, steps=10, frames=17),
    fps=8,
    passes=1,
)

CARDS = {
    card.name: card
    for card in (
        SANA_1_6B,
        SANA_4_8B,
        PIXART_SIGMA,
        HUNYUAN_DIT,
        FLUX_DEV,
        SD_35_MEDIUM,
        WAN_1_3B,
        HUNYUAN_VIDEO,
        COGVIDEO_2B,
        COGVIDEO_15_5B,
        TINY_IMAGE,
        TINY_VIDEO,
    )
}

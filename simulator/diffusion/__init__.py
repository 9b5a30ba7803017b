"""A diffusion server on simulated GPUs: images at once, videos as jobs, in the shapes of vLLM-Omni."""

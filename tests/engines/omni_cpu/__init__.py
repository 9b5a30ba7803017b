"""What a real vLLM-Omni needs to run without an accelerator, and the tiny pipelines that it serves in tests.

The modules here run in its environment (install-vllm-omni-cpu), not in the project's.
"""

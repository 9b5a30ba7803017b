"""joulegate: an OpenAI-compatible proxy that tells what each inference request cost in joules."""

__version__ = "0.1.0"

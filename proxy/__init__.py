"""The OpenAI-compatible HTTP surface: the only room that speaks HTTP to clients and engines."""

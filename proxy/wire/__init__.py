"""HTTP/1.1 on both sides of the relay, at the level of asyncio protocols: bytes go from one socket's callback
to the other's, without a task or a future in between. Knows nothing of models, energy or accounts.
"""

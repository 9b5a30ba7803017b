"""A chunk of a chunked body (RFC 9112, 7.1) that came whole and alone, as a token of a stream does.

It can go on framed as it came. Only the plainest form is known here: a size of at most three digits as
`%x` writes it, no extension. Whatever else there is the parser reads.
"""

from __future__ import annotations

_SIZES = {b"%x" % size: size for size in range(1, 4096)}


def payload_of(data: bytes) -> bytes | None:
    """What is in the chunk, if the data is one chunk and nothing else."""
    at = data.find(b"\r\n", 0, 5)
    if at > 0 and _SIZES.get(data[:at]) == len(data) - at - 4 and data.endswith(b"\r\n"):
        return data[at + 2 : -2]
    return None

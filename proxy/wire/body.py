"""A request's body while it is held: once, in one piece."""

from __future__ import annotations


class Body:
    """Most bodies come in one piece and stay the very bytes that were read; others grow in one buffer."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: bytes | bytearray = b""

    def __len__(self) -> int:
        return len(self.held)

    def add(self, piece: bytes) -> None:
        if not self.held:
            self.held = piece
            return
        if isinstance(self.held, bytes):
            self.held = bytearray(self.held)
        self.held += piece

    def take(self) -> bytes | bytearray:
        """What is held; it is no longer."""
        held, self.held = self.held, b""
        return held

"""What is around keys: what an engine gets to see, and where a proxy without keys may listen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.proxy.access.keyed import (
    ENGINE_SECRET,
    keyed,
    new_key,
)
from tests.proxy.raw_engine import RawEngine
from tests.proxy.stack import chat


def test_the_engine_sees_its_own_key_and_never_a_clients(raw: RawEngine, tmp_path: Path) -> None:
    body = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    settings = {
        "backends": [{"id": "raw", "url": raw.url, "api_key": ENGINE_SECRET}],
        "meter": {"source": "none"},
        "access": {"enabled": True},
    }
    with keyed(tmp_path, settings) as stack:
        _, secret = new_key(stack)
        seen = len(raw.received)
        raw.answer(head + body)
        answer = stack.post(
            chat(model="raw"), authorization=f"Bearer {secret}", x_api_key=secret, cookie="a=b"
        )
        assert answer.status_code == 200
        (sent,) = [one for one in raw.received[seen:] if one.line.startswith("POST")]
        assert sent.all("authorization") == [f"Bearer {ENGINE_SECRET}"]
        assert [
            name for name, value in sent.headers if secret in value or name in ("x-api-key", "cookie")
        ] == []


def test_without_keys_only_loopback_is_listened_on(tmp_path: Path) -> None:
    """The address is nobody's: what may listen on it gets as far as trying to."""

    def serve(**environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "joulegate", "serve", "-b", "http://127.0.0.1:9", "--no-meter"]
        given = {f"JOULEGATE_{name}": value for name, value in environment.items()}
        directory = tmp_path / "-".join(["data", *environment])
        return subprocess.Popen(
            [*command, "--data-dir", str(directory), "--host", "192.0.2.1", "--port", "0"],
            env={**os.environ, **given},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    names = ("ACCESS__ENABLED", "ACCESS__OPEN_TO_EVERYONE_ON_THE_NETWORK")
    refused, *allowed = serve(), *(serve(**{name: "true"}) for name in names)
    _, said = refused.communicate()
    assert refused.returncode == 2
    assert "192.0.2.1 can be reached from outside, and no key is asked for" in said
    for one in allowed:
        assert "cannot listen on 192.0.2.1" in one.communicate()[1]

"""How each system is started in front of the mock engine: as a user would, for speed, on 127.0.0.1.

Of the peers: no request logs, no telemetry, the settings that their documentation gives for production.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.rig import peers
from benchmarks.rig.build import RigError
from benchmarks.rig.peers import Peer
from joulegate.process import ProxyProcess
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build as build_nvml

START_S = 90.0
POLL_S = 0.05
STOP_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A system that answers. `headers` and `model` are what its clients have to send."""

    pid: int
    port: int
    model: str = "m"
    headers: str = ""


@dataclass(frozen=True, kw_only=True)
class System:
    """`start` runs it in front of an engine's port, with a directory for its files."""

    name: str
    start: Callable[[int, Path], Iterator[Running]]
    peer: Peer | None = None
    slow: bool = False
    """Takes milliseconds per request: it gets less load, or would not be done in time."""

    @contextmanager
    def running(self, engine_port: int, directory: Path) -> Iterator[Running]:
        yield from self.start(engine_port, directory)

    @property
    def title(self) -> str:
        version = "" if self.peer is None else self.peer.version
        return f"{self.name} {version}" if version[:1].isdigit() else self.name


def _joulegate(engine_port: int, directory: Path) -> Iterator[Running]:
    """Metered by a simulated GPU; journal, ledger and SQLite store on, as it comes."""
    Board.create(directory / "board", [H100]).close()
    library = build_nvml(directory)
    settings = {
        "backends": [{"id": "engine", "url": f"http://127.0.0.1:{engine_port}", "gpus": [H100.uuid]}],
        "meter": {"library": str(library)},
    }
    environment = {**os.environ, "JOULEGATE_SIM_BOARD": str(directory / "board")}
    with ProxyProcess(directory / "proxy", settings, environment=environment) as proxy:
        yield Running(pid=proxy.pid, port=int(proxy.url.rsplit(":", 1)[1]))


NGINX_CONF = """\
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000;
  upstream engine {{
    server 127.0.0.1:{engine_port};
    keepalive 2048;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def _nginx(engine_port: int, directory: Path) -> Iterator[Running]:
    port = _free_port()
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(directory=directory, port=port, engine_port=engine_port))
    program = peers.NGINX.directory / "usr" / "sbin" / "nginx"
    yield from _process([str(program), "-c", str(conf), "-e", f"{directory}/error.log"], port, directory)


def _router_flags(port: int, engine_port: int, log_level: str) -> list[str]:
    return [
        *("--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{engine_port}"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(_free_port())),
        *("--max-concurrent-requests", "8192", "--log-level", log_level, "--policy", "round_robin"),
    ]


def _vllm_router(engine_port: int, directory: Path) -> Iterator[Running]:
    port = _free_port()
    program = str(peers.VLLM_ROUTER.directory / "bin" / "vllm-router")
    yield from _process([program, *_router_flags(port, engine_port, "warning")], port, directory)


def _sglang_router(engine_port: int, directory: Path) -> Iterator[Running]:
    port = _free_port()
    program = str(peers.SGLANG_ROUTER.directory / "bin" / "python")
    flags = _router_flags(port, engine_port, "warn")
    yield from _process([program, "-m", "sglang_router.launch_router", *flags], port, directory)


LITELLM_CONFIG = """\
model_list:
  - model_name: m
    litellm_params: {{model: hosted_vllm/m, api_base: "http://127.0.0.1:{engine_port}/v1", api_key: none}}
"""
LITELLM_QUIET = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_TELEMETRY": "False",
    "NO_DOCS": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it does no access control then
}


def _litellm(engine_port: int, directory: Path) -> Iterator[Running]:
    port = _free_port()
    config = directory / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(engine_port=engine_port))
    program = str(peers.LITELLM.directory / "bin" / "litellm")
    address = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command = [program, *address, "--num_workers", "1", "--telemetry", "False"]
    yield from _process(command, port, directory, LITELLM_QUIET)


def _portkey(engine_port: int, directory: Path) -> Iterator[Running]:
    port = _free_port()
    program = peers.PORTKEY.directory / "node_modules/@portkey-ai/gateway/build/start-server.js"
    named = f"x-portkey-provider: openai|x-portkey-custom-host: http://127.0.0.1:{engine_port}/v1"
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    command = ["node", str(program), f"--port={port}", "--headless"]
    yield from _process(command, port, directory, environment, named)


OURS = System(name="joulegate", start=_joulegate)
NGINX = System(name="nginx", start=_nginx, peer=peers.NGINX)
SYSTEMS = (
    OURS,
    NGINX,
    System(name="vllm-router", start=_vllm_router, peer=peers.VLLM_ROUTER),
    System(name="sglang-router", start=_sglang_router, peer=peers.SGLANG_ROUTER),
    System(name="portkey", start=_portkey, peer=peers.PORTKEY, slow=True),
    System(name="litellm", start=_litellm, peer=peers.LITELLM, slow=True),
)
QUICK = SYSTEMS[:4]


def _process(
    command: list[str],
    port: int,
    directory: Path,
    environment: dict[str, str] | None = None,
    headers: str = "",
) -> Iterator[Running]:
    """Run a command until it is done with; what it says goes into `log` in its directory."""
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that its children can be ended with it
        )
    try:
        _wait(process, Path(command[0]).name, port, headers, directory / "log")
        yield Running(pid=process.pid, port=port, headers=headers)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], name: str, port: int, headers: str, log: Path) -> None:
    """Until it passes on a request. Raises RigError with its last words."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "~00000000.00000000.000001.0~"}]}
    named = dict(line.split(": ", 1) for line in headers.split("|") if line)
    deadline = time.monotonic() + START_S
    said = "nothing"
    while process.poll() is None and time.monotonic() < deadline:
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            answer = httpx.post(url, json=asked, headers=named, timeout=5.0)
        except httpx.TransportError as error:
            said = repr(error)
        else:
            if answer.status_code == 200:
                return
            said = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(POLL_S)
    words = log.read_text(errors="replace")[-1500:]
    raise RigError(f"{name} is not ready, it answers {said}\n{words}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def missing(system: System, install: bool) -> str | None:
    """Why the system cannot be measured here; None if it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if system.peer is None or system.peer.installed:
        return None
    if not install:
        return "not installed (--full installs it)"
    try:
        system.peer.ensure()
    except peers.PeerMissing as error:
        return str(error)
    return None

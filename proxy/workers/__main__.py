"""`python -m proxy.workers FD`: a worker, as the main process starts it."""

from __future__ import annotations

import socket
import sys

from proxy.workers.worker import run

if __name__ == "__main__":
    sys.exit(run(socket.socket(fileno=int(sys.argv[1]))))

"""One bundle behind HTTP in a process of its own: the app as every target carries it, and nothing around it.

It answers on a socket that its parent made, and ends with its parent.
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from components.stage import run_stage
from serving.app import Live, create_app
from serving.runtime import Runtime


def main() -> None:
    """Load the bundle, let it answer its golden requests, and serve it until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m serving.alone", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a listening socket")
    asked = parser.parse_args()
    runtime = Runtime(asked.bundle)
    runtime.warmup()
    live = Live(runtime)
    server = uvicorn.Server(uvicorn.Config(create_app(lambda: live), log_level="warning", ws="websockets-sansio"))
    server.run(sockets=[socket.socket(fileno=asked.socket)])


if __name__ == "__main__":
    run_stage(main)

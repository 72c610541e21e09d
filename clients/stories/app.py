"""A small web app to be supervised: its instances share the work, and too few of them answer slowly.

`app.py DIR`: the file DIR/load holds `MS INSTANCES`: requests take that many milliseconds while fewer instances than that run.
It answers on the socket it is handed (LISTEN_FDS).
"""

import json
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DIR = Path(sys.argv[1])


def running() -> int:
    """Instances that run; each left a file that bears its process id."""
    return sum(Path(f"/proc/{mark.name.removeprefix('pid-')}").exists() for mark in DIR.glob("pid-*"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        if self.path == "/":
            load, enough = map(int, (DIR / "load").read_text().split())
            if running() < enough:
                time.sleep(load / 1000)
        body = json.dumps({"pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args) -> None:
        pass


def main() -> None:
    (DIR / f"pid-{os.getpid()}").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=3)
    # Several instances wait on one socket: whoever comes too late must not block.
    server.socket.setblocking(False)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


main()

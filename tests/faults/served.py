"""`scripts.download` beside a server of its own that has the files of ./served, for the mill."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scripts import download
from utils.prepare.fetch import Download

SERVED = "served"
CONTENT = bytes(range(256)) * 200
FILE = "archive.tar"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Keep quiet: what befalls the process befalls its server too."""


def write_served(folder: Path) -> None:
    """Write what is served."""
    (folder / SERVED).mkdir()
    (folder / SERVED / FILE).write_bytes(CONTENT)


def main(argv: list[str]) -> None:
    """Download from ./served, with the arguments of `scripts.download`; the only name is `archive`."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=SERVED))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mirror = f"http://127.0.0.1:{server.server_port}/{FILE}"
    wanted = Download(FILE, (mirror,), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", len(CONTENT))
    download.ITEMS = {"archive": download.Item((wanted,), download.ARCHIVES, "")}
    download.main(argv)

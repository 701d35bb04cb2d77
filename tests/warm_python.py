"""A Python that has loaded everything: `-m MODULE ...` runs in a fork of a server, a process of its own that starts at once.

What is tested with it is what programs do when they are called, not how they start: that needs `sys.executable`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
# Passes its arguments, folder, environment and streams on; the answer is the program's exit code.
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    content = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(content)
    sys.exit(int(server.recv(16) or b"1"))
"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yield the path of a Python whose server runs meanwhile, with its files in `folder`."""
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    command = [sys.executable, "-m", "tests.warm_python", str(address)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        try:
            yield str(client)
        finally:
            server.kill()


def serve(address: str) -> NoReturn:
    """Fork for every client, and in the fork again for its program."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                break
            client.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with client:
        head, streams, _, _ = socket.recv_fds(client, 8, 3)
        content = b""
        while len(content) < int.from_bytes(head, "big"):
            content += client.recv(1 << 20)
        if program := os.fork():
            client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])).encode())
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    try:
        _run(*json.loads(content))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking apart all that is loaded would take longer than most programs


def _run(arguments: list[str], folder: str, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if arguments[0] == "-u":
        del arguments[0]
    if arguments[0] != "-m":
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    importlib.import_module("tests.faults.preloaded")
    gc.freeze()
    serve(sys.argv[1])

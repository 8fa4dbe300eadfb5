"""Run the command in a process of its own, forked from one that has loaded torch and the other libraries already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

COMMAND = Path(sys.executable).with_name("secateur")  # as installed; seconds to start

_SECONDS = 240


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`secateur` with these arguments, as if typed in `folder`."""
    with tempfile.TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps([str(folder), arguments, str(out), str(err)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["secateur", *arguments], code, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    """One for each test process; it ends when its stdin is closed."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    _load()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _typed(*json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _load() -> None:
    """What commands load on first use."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import torch

    import secateur.cli  # noqa: F401

    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),))


def _typed(folder: str, arguments: list[str], out: str, err: str) -> NoReturn:
    import secateur.cli

    os.environ["COLUMNS"] = "200"
    os.chdir(folder)
    for path, number in ((out, 1), (err, 2)):
        with Path(path).open("w") as file:
            os.dup2(file.fileno(), number)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.alarm(_SECONDS)
    sys.argv = ["secateur", *arguments]
    code: object = 1
    try:
        secateur.cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)  # the parent's threads are not there to be joined


if __name__ == "__main__":
    _serve()

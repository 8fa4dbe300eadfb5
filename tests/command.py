"""Run the command in a process of its own, forked from one that has loaded torch and the other libraries
already.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

COMMAND = Path(sys.executable).with_name("secateur")  # as installed; seconds to start


@dataclass(frozen=True)
class Limits:
    """What the process may use; 0: as much as there is."""

    seconds: int = 240
    data: int = 0  # bytes of memory
    file: int = 0  # bytes of one file that it writes
    kill_after: float = 0.0  # seconds until SIGKILL
    kill_at_file: int = 0  # the file that it has written, but not yet given its name, when it is killed
    user: int = 0  # that the process runs as, where the caller may change it


def run(folder: Path, *arguments: str, limits: Limits = Limits()) -> subprocess.CompletedProcess[str]:
    """`secateur` with these arguments, as if typed in `folder`; after `-c`, Python code as for `python`."""
    with tempfile.TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        request = {"folder": str(folder), "arguments": arguments, "out": str(out), "err": str(err)}
        server.stdin.write(json.dumps({**request, "limits": asdict(limits)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        said = (path.read_text(errors="surrogateescape") for path in (out, err))
        return subprocess.CompletedProcess(["secateur", *arguments], code, *said)


@cache
def _server() -> subprocess.Popen[str]:
    """One for each test process; it ends when its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _serve() -> None:
    _load()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _typed(**json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _load() -> None:
    """What commands load on first use."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import torch

    import secateur
    import secateur.cli.reading

    for name in secateur.__all__:
        getattr(secateur, name)
    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),))


def _typed(folder: str, arguments: list[str], out: str, err: str, limits: dict[str, Any]) -> NoReturn:
    import secateur.cli

    os.environ["COLUMNS"] = "200"
    os.chdir(folder)
    for path, number in ((out, 1), (err, 2)):
        with Path(path).open("w") as file:
            os.dup2(file.fileno(), number)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    _limit(Limits(**limits))
    sys.argv = ["secateur", *arguments]
    code: object = 1
    try:
        if arguments[:1] == ["-c"]:
            exec(arguments[1], {})
        else:
            secateur.cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code if isinstance(code, int) else code is not None
    )  # the parent's threads are not there to be joined


def _limit(limits: Limits) -> None:
    signal.alarm(limits.seconds)
    if limits.data:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.data, limits.data))
    if limits.file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file, limits.file))
    if limits.kill_at_file:
        numbers = count(1)

        def replace(old: Any, new: Any, named: Any = os.replace) -> None:
            if next(numbers) == limits.kill_at_file:
                os.kill(os.getpid(), signal.SIGKILL)
            named(old, new)

        os.replace = replace  # type: ignore[assignment]
    if limits.user and os.geteuid() == 0:
        os.setgid(limits.user)
        os.setuid(limits.user)
    if limits.kill_after:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, limits.kill_after)


if __name__ == "__main__":
    _serve()

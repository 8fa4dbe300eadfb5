"""Write files so that a reader sees the old content or the new, never a part; several files as one set."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from secateur.errors import InputError

_PREFIX, _SUFFIX = ".secateur-", ".tmp"


@dataclass(frozen=True, eq=False)
class _Staged:
    """A complete temporary file, or folder, beside its target. Its `file` is open, and locked, until it has
    its name; of a folder, that is a file beside it.
    """

    file: BinaryIO
    temporary: Path
    target: Path

    @property
    def parts(self) -> list[tuple[Path, Path]]:
        """The temporary files, each with its target."""
        if not self.temporary.is_dir():
            return [(self.temporary, self.target)]
        return [(path, self.target / path.name) for path in sorted(self.temporary.iterdir())]

    def drop(self) -> None:
        with suppress(OSError):  # what a full disk did not take is not flushed either
            self.file.close()
        _remove(self.temporary)
        _lock_of(self.temporary).unlink(missing_ok=True)


_open_set: ContextVar[list[_Staged] | None] = ContextVar("_open_set", default=None)


@contextmanager
def written_together() -> Iterator[None]:
    """Files that are written in this block get their names together at its end, or none of them does.

    Where the block fails, or one of the files cannot get its name, all targets keep their old content. A
    block inside of another belongs to that one.
    """
    if _open_set.get() is not None:
        yield
        return
    staged = list[_Staged]()
    token = _open_set.set(staged)
    try:
        yield
        _publish(staged)
    finally:
        _open_set.reset(token)
        for part in staged:
            part.drop()


def staged_files(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Files of the open set so far, by their paths from `folder`: SHA-256 of their content."""
    found = {}
    for temporary, target in (pair for part in _open_set.get() or () for pair in part.parts):
        with open(temporary, "rb") as file:
            found[os.path.relpath(target, os.path.realpath(folder))] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
    return found


def write_atomically(path: str | os.PathLike[str], writer: Callable[[BinaryIO], object]) -> None:
    """Let `writer` fill a temporary file beside `path`, then put it in the place of `path` in one step.

    Whatever stops the writer (an exception, an interrupt, a full disk), no temporary file stays behind and an
    existing `path` keeps its content. A symbolic link is followed. Temporary files of runs that were killed
    are removed. Raises `InputError` where the file system refuses.
    """
    target = _target(path)
    _remove_stale(target.parent)
    with refusals_named(f"cannot write {path}"):
        _finish(_stage(target, writer))


def write_folder_atomically(
    path: str | os.PathLike[str],
    writer: Callable[[Path], object],
    replaceable: Callable[[Path], bool] = lambda folder: not any(folder.iterdir()),
) -> None:
    """Let `writer` fill a temporary folder beside `path` with files, then give it that name.

    A folder that is there gives way as a whole, and only where it is `replaceable`. Otherwise as
    `write_atomically`, in a set of `written_together` too.
    """
    target = _folder_target(path, replaceable)
    _remove_stale(target.parent)
    with refusals_named(f"cannot write {path}"):
        _finish(_stage_folder(target, writer))


def _finish(staged: _Staged) -> None:
    """Publish it alone, or leave it to the open set."""
    group = _open_set.get()
    if group is not None:
        group.append(staged)
        return
    try:
        _publish([staged])
    finally:
        staged.drop()


@contextmanager
def refusals_named(what: str) -> Iterator[None]:
    """What the file system refuses, as one message; a full disk is told apart."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free some space, or write elsewhere" if full else ""
        raise InputError(f"{what}: {error.strerror or error}{advice}") from error


def _folder_target(path: str | os.PathLike[str], replaceable: Callable[[Path], bool]) -> Path:
    target = Path(os.path.realpath(path))
    with refusals_named(f"cannot write {path}"):
        if target.exists() and not target.is_dir():
            raise InputError(f"{path} is a file; give the path of a folder")
        if target.is_dir() and not replaceable(target):
            raise InputError(
                f"{path} is a folder that holds something else than such a model; give another name, or move "
                "it away"
            )
        if not target.parent.is_dir():
            raise InputError(
                f"cannot write {path}: the folder {target.parent} does not exist; create it first"
            )
    return target


def is_temporary(path: Path) -> bool:
    """Whether a file was on its way to its name, by a run that writes or was killed, or by safetensors."""
    own = path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)
    return own or re.fullmatch(r"\.tmp[A-Za-z0-9_]{6}", path.name) is not None


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    with refusals_named(f"cannot write {path}"):
        if target.is_symlink():
            raise InputError(f"cannot write {path}: it is a loop of symbolic links")
        if target.is_dir():
            raise InputError(f"{path} is a folder; give the path of a file")
        if target.exists() and not target.is_file():
            raise InputError(f"{path} is no regular file; give the path of a file")
        if not target.parent.is_dir():
            raise InputError(
                f"cannot write {path}: the folder {target.parent} does not exist; create it first"
            )
    return target


def _stage(target: Path, writer: Callable[[BinaryIO], object]) -> _Staged:
    # Short, however long the target's name is.
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    file = open(temporary, "xb")  # noqa: SIM115 (it stays open until the file has its name)
    staged = _Staged(file, temporary, target)
    try:
        _locked(file, wait=True)
        writer(file)
        file.flush()
        os.fsync(file.fileno())
    except BaseException:
        staged.drop()
        raise
    return staged


def _stage_folder(target: Path, writer: Callable[[Path], object]) -> _Staged:
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    lock = open(_lock_of(temporary), "xb")  # noqa: SIM115 (it stays open until the folder has its name)
    staged = _Staged(lock, temporary, target)
    try:
        _locked(lock, wait=True)
        temporary.mkdir()
        writer(temporary)
        for path, _ in staged.parts:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(temporary)
    except BaseException:
        staged.drop()
        raise
    return staged


def _lock_of(temporary: Path) -> Path:
    """The locked file beside a temporary folder."""
    return temporary.with_suffix(f".lock{_SUFFIX}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _publish(staged: list[_Staged]) -> None:
    """Give every file its name; where one fails, those before it get their old content back."""
    done = list[tuple[Path, Path | None]]()
    try:
        for part in staged:
            old = _kept_aside(part.target) if len(staged) > 1 or part.target.is_dir() else None
            done.append((part.target, old))
            os.replace(part.temporary, part.target)
    except BaseException as error:
        for target, old in reversed(done):
            if old is not None:
                if target.is_dir():
                    _remove(target)
                os.replace(old, target)
            elif target != done[-1][0]:
                _remove(target)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {done[-1][0]}: {error.strerror or error}") from error
        raise
    for _, old in done:
        if old is not None:
            _remove(old)
    for folder in {part.target.parent for part in staged}:
        _sync_folder(folder)


def _kept_aside(target: Path) -> Path | None:
    """Another name of the file that is there, if any, until the whole set has been written."""
    if not target.exists():
        return None
    aside = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    if target.is_dir():
        os.replace(target, aside)
        return aside
    try:
        os.link(target, aside)
    except OSError:  # a file system without hard links
        shutil.copy2(target, aside)
    return aside


def _remove_stale(folder: Path) -> None:
    """Remove temporary files and folders that no running process holds a lock on."""
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError), open(path, "rb") as file:
                if _locked(file, wait=False):
                    if path.suffixes[-2:-1] == [".lock"]:
                        _remove(path.with_suffix("").with_suffix(_SUFFIX))
                    path.unlink()


def _locked(file: BinaryIO, wait: bool) -> bool:
    """Take the lock of an open file, which goes with the process; False where that is not possible."""
    try:
        import fcntl
    except ImportError:  # on Windows, temporary files of a killed run stay
        return False
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, on systems where a folder can be opened."""
    if os.name != "posix":
        return
    with suppress(OSError):  # not every file system syncs folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

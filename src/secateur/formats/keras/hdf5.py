"""HDF5 files, opened so that nothing outside of the file is read and nothing larger than it is allocated.

Links must be hard links, and a dataset must lie in the file, as plain numbers of the size that it declares.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from secateur.budget import budget
from secateur.errors import InputError
from secateur.graph.export import first_line

if TYPE_CHECKING:
    import h5py

_DEEPEST = 64  # groups in groups
_MOST = 200_000  # groups and datasets
_EXPANSION = 1000  # bytes of a dataset for each byte in which it is compressed
_ATTRIBUTE_LIMIT = 64 << 20  # bytes of one attribute
_KINDS = "fiub"  # of numbers
_FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError, NotImplementedError)


def require_h5py() -> None:
    """Raise `InputError` where h5py is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise InputError("Keras files need h5py: pip install 'secateur[keras]'") from error


class Hdf5:
    """The datasets of an open HDF5 file by their paths, each known to be plain data in the file itself."""

    def __init__(self, name: str, root: h5py.File) -> None:
        self.name, self.root = name, root
        self.datasets: dict[str, h5py.Dataset] = {}
        self.groups: dict[str, h5py.Group] = {"": root}
        self.expanded = 0  # bytes of all datasets that are compressed
        self.beside = root.id.get_filesize()  # bytes of the file that are in no dataset
        self._walk(root, "")

    def refuse(self, part: str, why: str) -> NoReturn:
        raise InputError(f"{self.name}: {part} {why}. If you trust the file, load and save it in Keras again")

    def _walk(self, root: h5py.Group, prefix: str) -> None:
        pending, seen = [(root, prefix)], {_address(root)}
        while pending:
            group, path = pending.pop()
            for key in group:
                inner = f"{path}/{key}" if path else str(key)
                self._check_link(group, key, inner)
                found = group[key]
                if _address(found) in seen or inner.count("/") > _DEEPEST:
                    self.refuse(inner, "is a second link to what stands elsewhere in the file")
                if len(seen) > _MOST:
                    self.refuse(inner, f"is one of more than {_MOST:,} parts")
                seen.add(_address(found))
                if hasattr(found, "shape"):
                    self._check_dataset(found, inner)
                    self.datasets[inner] = found
                else:
                    self.groups[inner] = found
                    pending.append((found, inner))

    def _check_link(self, group: h5py.Group, key: str, path: str) -> None:
        import h5py

        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = f"{getattr(link, 'filename', '')} {getattr(link, 'path', '')}".strip()
            self.refuse(
                path, f"is a {type(link).__name__} to {target[:80]!r}, which may lead out of the file"
            )
        if group.get(key, getclass=True) not in (h5py.Group, h5py.Dataset):
            self.refuse(path, "is neither a group nor a dataset")

    def _check_dataset(self, found: h5py.Dataset, path: str) -> None:
        if found.is_virtual:
            self.refuse(path, "is a virtual dataset, which reads other files")
        if found.external:
            self.refuse(path, f"keeps its numbers in another file ({found.external[0][0]!r})")
        if found.shape is None:
            self.refuse(path, "has no numbers")
        stored, compressed = int(found.id.get_storage_size()), found.id.get_create_plist().get_nfilters() > 0
        if found.nbytes > (stored * _EXPANSION if compressed else stored):
            self.refuse(path, f"of shape {found.shape} declares {found.nbytes:,} bytes and holds {stored:,}")
        self.beside, self.expanded = self.beside - stored, self.expanded + (found.nbytes if compressed else 0)
        if max(found.nbytes, self.expanded) > budget():
            self.refuse(path, f"takes {found.nbytes:,} bytes; at most {budget():,} are read")

    def array(self, path: str) -> np.ndarray[Any, Any]:
        """The numbers of a dataset. Raises `InputError` for what holds no numbers."""
        found = self.datasets[path]
        if found.dtype.kind == "V" and found.dtype.itemsize == 2 and found.dtype.names is None:
            brains: np.ndarray[Any, Any] = found[()].view(np.uint16)
            return brains
        if found.dtype.kind not in _KINDS or found.dtype.itemsize > 8 or found.dtype.subdtype is not None:
            self.refuse(path, f"holds {found.dtype} and no plain numbers")
        numbers = np.empty(found.shape, found.dtype.newbyteorder("="))
        if numbers.size:
            found.read_direct(numbers)
        return numbers

    def text(self, path: str, attribute: str) -> str | None:
        """An attribute of a group that is a text; None where it is absent."""
        group = self.groups[path]
        if attribute not in group.attrs:
            return None
        value = self.attribute(path, group, attribute)
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        if not isinstance(value, str):
            self.refuse(f"{path or '/'}@{attribute}", "is no text")
        return value

    def attribute(self, path: str, found: h5py.Group | h5py.Dataset, name: str) -> Any:
        """An attribute of a group or a dataset, once it is known to be of a size that is read."""
        value = found.attrs.get_id(name)
        declared, where = prod(value.shape) * value.dtype.itemsize, f"{path or '/'}@{name}"
        if declared > _ATTRIBUTE_LIMIT:
            self.refuse(where, f"declares {declared:,} bytes; at most {_ATTRIBUTE_LIMIT:,} are read")
        # Texts of any length lie outside of datasets, and several entries may be one and the same text.
        if value.dtype.kind == "O" and prod(value.shape) * self.beside > budget():
            self.refuse(where, f"may be {prod(value.shape):,} texts of {self.beside:,} bytes")
        return found.attrs[name]


def _address(found: Any) -> tuple[int, int]:
    import h5py

    info = h5py.h5o.get_info(found.id)
    return info.fileno, info.addr


@contextmanager
def opened_hdf5(name: str, file: BinaryIO | io.RawIOBase) -> Iterator[Hdf5]:
    """The file, whose `name` begins every message. Raises `InputError` for what is damaged or hostile."""
    require_h5py()
    import h5py

    try:
        with h5py.File(file, "r") as root:
            yield Hdf5(name, root)
    except InputError:
        raise
    except _FAILURES as error:
        raise InputError(
            f"{name} is not sound HDF5, or is cut short or damaged ({first_line(error)}); fetch or save it "
            "again"
        ) from error

"""The tensors of a `.pt2` archive: declared sizes against the bytes that are there, and sample inputs."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.formats.pt2.archive import INPUTS, PLAIN_RECORD, Archive
from secateur.formats.pt2.graph import CPU
from secateur.formats.pt2.strings import PLAIN_TEXT
from secateur.graph.export import first_line

# Bytes of an element by the number of its dtype in torch's schema (torch/_export/serde/schema.py,
# ScalarType).
# fmt: off
_ITEM_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 34: 4, 35: 8,
    **dict.fromkeys(range(29, 34), 1),
}
# fmt: on


def check_payloads(archive: Archive, part: str, config: Any, folder: str) -> None:
    """Refuse pickled tensors, and tensors that are larger than their records.

    A header can then not ask for memory that the file does not fill.
    """
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        archive.refuse(part, "has no table of tensors")
    for fqn, entry in entries.items():
        if not PLAIN_TEXT.fullmatch(fqn):
            archive.refuse(part, f"names a tensor {fqn[:60]!r}, which is not a plain name")
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            archive.refuse(f"{fqn} in {part}", "is marked as pickled, which can run code on loading")
        record = f"{folder}{entry.get('path_name')}"
        if not PLAIN_RECORD.fullmatch(record) or record not in archive.records:
            archive.refuse(
                f"{fqn} in {part}", f"points to {record[:80]!r}, which is no tensor record of the archive"
            )
        needed = _declared_bytes(archive, f"{fqn} in {part}", entry)
        available = archive.records[record].file_size
        if needed > available:
            archive.refuse(f"{fqn} in {part}", f"declares {needed} bytes but its record holds {available}")
        entry["tensor_meta"]["device"] = CPU


def _declared_bytes(archive: Archive, part: str, entry: Mapping[str, Any]) -> int:
    try:
        meta = entry["tensor_meta"]
        sizes, strides = ([_whole(n) for n in meta[key]] for key in ("sizes", "strides"))
        offset, width = _whole(meta["storage_offset"]), _ITEM_BYTES[meta["dtype"]]
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} sizes but {len(strides)} strides")
    except (KeyError, TypeError, ValueError) as error:
        archive.refuse(part, f"has no valid shape and type ({first_line(error)})")
    if 0 in sizes:
        return 0
    reach = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return width * max(reach, math.prod(sizes))


def _whole(number: Any) -> int:
    value = number["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def clean_inputs(archive: Archive) -> bytes:
    """The sample inputs, read by the weights-only unpickler and written anew; empty where there are none."""
    content = archive.read(INPUTS, limit=archive.records[INPUTS].file_size)
    if not content:
        return b""
    try:
        # the older pickle layout is no zip file, and is refused
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            if any(info.compress_type != zipfile.ZIP_STORED for info in inner.infolist()):
                raise ValueError("compressed records")
        inputs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        if sum(storages.values()) > len(content):
            raise ValueError("tensors larger than the record that holds them")
        output = io.BytesIO()
        torch.save(inputs, output)
    except Exception as error:
        archive.refuse(
            INPUTS,
            "holds sample inputs that are more than tensors, numbers, tuples, lists and dicts, "
            f"so that loading them could run code ({first_line(error)[:200]})",
        )
    return output.getvalue()

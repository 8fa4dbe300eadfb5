"""Inputs as people have them: files, folders, arrays, batches; and the range in which they must lie."""

from __future__ import annotations

import io
import struct
import zlib
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.data import as_tensors, check_within, load_data
from secateur.data import folder as folder_module
from secateur.errors import InputError, SecateurWarning
from secateur.formats.arrays import load_arrays
from secateur.graph.capture import capture

PIL = pytest.importorskip("PIL.Image")


def picture(path: Path, pixels: Any, mode: str | None = None, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path, **settings)


def ramp(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return (np.arange(height * width * channels).reshape(height, width, channels) % 251).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


# --- arrays in files ----------------------------------------------------------------------------------------


def test_default_bounds_give_the_bits_of_a_division_by_255(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(4))
    wanted = torch.from_numpy(pixels[:, None].copy()).to(torch.float32) / 255
    for found in (load_arrays(tmp_path / "a.npz"), load_data(tmp_path / "a.npz", image_shape=None)):
        assert torch.equal(found["images"], wanted) and found["labels"].tolist() == [0, 1, 2, 3]
    result = secateur.prune(
        dense(64), torch.rand(2, 64), remove=0.5, calibration=wanted.reshape(4, 64), samples=4
    )
    np.savez(tmp_path / "flat.npz", images=pixels.reshape(4, 64))
    same = secateur.prune(
        dense(64), torch.rand(2, 64), remove=0.5, calibration=tmp_path / "flat.npz", samples=4
    )
    assert same.recipe == result.recipe


@pytest.mark.parametrize("bounds", [(0, 255), (-1.0, 1.0), (16, 235)])
def test_pixels_are_spread_over_the_bounds(bounds: tuple[float, float], tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.save(tmp_path / "a.npy", pixels)
    low, high = bounds
    found = load_data(tmp_path / "a.npy", image_shape=None, bounds=bounds)["images"].flatten().double()
    wanted = torch.arange(256, dtype=torch.float64) / 255 * (high - low) + low
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert bounds != (0, 255) or torch.equal(found, wanted)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("stored", "shape", "expected"),
    [
        ((2, 5, 6), (1, 5, 6), (2, 1, 5, 6)),
        ((2, 5, 6), (5, 6), (2, 5, 6)),
        ((2, 5, 6, 3), (3, 5, 6), (2, 3, 5, 6)),
        ((2, 5, 6, 3), (5, 6, 3), (2, 5, 6, 3)),
        ((2, 3, 5, 6), (3, 5, 6), (2, 3, 5, 6)),
    ],
)
def test_arrays_take_the_layout_of_the_model(
    kind: str, stored: tuple[int, ...], shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    array = (np.arange(np.prod(stored)).reshape(stored) % 255).astype(kind)
    np.save(tmp_path / "a.npy", array)
    found = load_data(tmp_path / "a.npy", image_shape=shape, bounds=(0, 255))["images"]
    wanted = torch.from_numpy(array).float()
    wanted = (
        wanted.permute(0, 3, 1, 2)
        if expected[1:] != stored[1:] and len(stored) == 4
        else wanted.reshape(expected)
    )
    assert found.shape == expected and torch.equal(found, wanted)


def test_the_only_array_of_a_file_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=np.zeros((2, 4, 4), np.uint8))
    assert load_data(tmp_path / "a.npz", image_shape=None)["images"].shape == (2, 1, 4, 4)
    np.savez(tmp_path / "b.npz", labels=np.zeros((2, 4), np.uint8))
    with pytest.raises(
        InputError, match="holds no images: store them under one of the names images, test_images, x"
    ):
        load_data(tmp_path / "b.npz", image_shape=None)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_of_arrays_the_first_are_taken(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((9, 5))
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, x)
    found = load_data(tmp_path / name, image_shape=(5,), limit=4)["images"]
    assert torch.equal(found, torch.from_numpy(x[:4]).float())


class Trap:
    def __reduce__(self) -> Any:
        raise AssertionError("something was unpickled")


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(size, "little") + header.encode() + content


def header_of(shape: str, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "pickled": (pickled(), "holds object.*pickles and are refused"),
    "objects claimed": (npy(header_of("(2, 2)", "|O"), b"\0" * 64), "pickles and are refused"),
    "shape beyond the file": (
        npy(header_of("(100, 28, 28)"), b"\0" * 9),
        r"shape \(100, 28, 28\).* has 9 bytes after",
    ),
    "shape beyond numbers": (npy(header_of(f"({2**62}, {2**62})"), b"\0" * 9), "its header tells of shape"),
    "negative": (npy(header_of("(-1, 4)"), b"\0" * 9), r"its header tells of shape \(-1, 4\)"),
    "huge header": (npy(header_of("(2, 2)") + " " * 10**6, b"\0" * 9, b"\x02\x00"), "[Hh]eader"),
    "no header": (b"\x93NUMPY\x01\x00", "cannot read the arrays of"),
    "no array": (b"hello", "cannot read the arrays of"),
    "empty": (b"", "cannot read the arrays of"),
    "code": (npy("__import__('os').system('touch marker')"), "cannot read the arrays of"),
    "no samples": (npy(header_of("(0, 4)")), "axis 0 must be the samples"),
    "no axes": (npy(header_of("()"), b"\0"), r"has shape \(\)"),
    "text": (npy(header_of("(2, 2)", "<U1"), b"\0" * 16), "has type <U1: give uint8 pixels or floating"),
    "complex": (npy(header_of("(2, 2)", "<c8"), b"\0" * 32), "has type complex64"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_npy_files_that_cannot_be_used_are_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = HOSTILE[case]
    Path("a.npy").write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_data("a.npy", image_shape=None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_of_a_large_npy_file_only_what_is_wanted_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 10), np.float32))
    monkeypatch.setattr("secateur.data.arrays.budget", lambda: 1000)
    assert load_data(tmp_path / "a.npy", image_shape=None, limit=20)["images"].shape == (20, 10)
    with pytest.raises(InputError, match=r"shape \(100, 10\), 4,000 bytes once it is read; at most 1,000"):
        load_data(tmp_path / "a.npy", image_shape=None)


# --- image files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_pixels_of_an_image_come_as_they_are(suffix: str, tmp_path: Path) -> None:
    pixels = ramp(5, 6)
    picture(tmp_path / f"a.{suffix}", pixels)
    for shape in (None, (3, 5, 6)):
        found = load_data(tmp_path / f"a.{suffix}", image_shape=shape)["images"]
        assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    last = load_data(tmp_path / f"a.{suffix}", image_shape=(5, 6, 3), bounds=(0, 255))["images"]
    assert torch.equal(last, torch.from_numpy(pixels)[None].float())


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "gif"])
def test_compressed_images_are_read(suffix: str, tmp_path: Path) -> None:
    picture(tmp_path / f"a.{suffix}", np.full((8, 8, 3), (200, 100, 50)))
    found = load_data(tmp_path / f"a.{suffix}", image_shape=(3, 4, 4), bounds=(0, 255))["images"]
    assert found.shape == (1, 3, 4, 4)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.tensor([200.0, 100.0, 50.0]), rtol=0, atol=4)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [PIL.new("L", (4, 4), value) for value in (10, 200)]
    for name in ("a.gif", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert load_data(tmp_path / name, image_shape=(1, 4, 4), bounds=(0, 255))[
            "images"
        ].unique().tolist() == [10]


def test_the_middle_is_kept_and_the_shorter_side_fits(tmp_path: Path) -> None:
    """A wide image of three bands, each as wide as it is high, scaled to half: the middle band is left."""
    bands = np.repeat(np.array([[10, 90, 250]], np.uint8), 8, 0).repeat(8, 1)
    for name, pixels in (("wide.png", bands), ("high.png", bands.T)):
        picture(tmp_path / name, pixels)
        found = load_data(tmp_path / name, image_shape=(1, 4, 4), bounds=(0, 255))["images"]
        assert found.shape == (1, 1, 4, 4) and bool(
            ((found - 90).abs() < 12).all()
        )  # the kernel sees its neighbours
    picture(tmp_path / "noise.png", np.tile([[0, 255], [255, 0]], (32, 32)))
    smooth = load_data(tmp_path / "noise.png", image_shape=(1, 4, 4))["images"]
    torch.testing.assert_close(
        smooth[..., 1:3, 1:3], torch.full((1, 1, 2, 2), 0.5), rtol=0, atol=0.03
    )  # antialiased


def test_orientation_alpha_and_depth(tmp_path: Path) -> None:
    exif = PIL.Exif()
    exif[0x0112] = 3  # upside down
    picture(tmp_path / "turned.png", [[0, 50], [100, 200]], exif=exif)
    turned = load_data(tmp_path / "turned.png", image_shape=(1, 2, 2), bounds=(0, 255))["images"]
    assert turned[0, 0].tolist() == [[200, 100], [50, 0]]
    picture(tmp_path / "clear.png", np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]]))
    assert load_data(tmp_path / "clear.png", image_shape=(1, 1, 2), bounds=(0, 255))["images"].tolist() == [
        [[[255, 9]]]
    ]
    PIL.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert load_data(tmp_path / "deep.png", image_shape=None, bounds=(0, 255))[
        "images"
    ].flatten().tolist() == [
        0,
        128,
        255,
    ]
    palette = PIL.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (
        load_data(tmp_path / "palette.png", image_shape=(3, 1, 2), bounds=(0, 255))["images"][
            0, :, 0, 0
        ].tolist()
        == [255] * 3
    )
    grey = load_data(tmp_path / "clear.png", image_shape=(1, 2), bounds=(0, 255))["images"]
    assert grey.tolist() == [[[255, 9]]]


REFUSED: dict[str, tuple[str, Callable[[], bytes], tuple[int, ...] | None, str]] = {
    "bomb": (
        "a.png",
        lambda: png_that_claims(60000, 60000),
        (3, 4, 4),
        "a.png: .*exceeds limit.*make the image smaller",
    ),
    "truncated": ("a.png", lambda: png_that_claims(64, 64), (3, 4, 4), "cannot read the image .*a.png: "),
    "text": (
        "a.jpg",
        lambda: b"hello",
        (3, 4, 4),
        "cannot read the image .*a.jpg: it is none of JPEG, PNG, BMP, WEBP",
    ),
    "program": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", (3, 4, 4), "it is none of JPEG"),
    "empty": ("a.gif", lambda: b"", (3, 4, 4), "it is none of JPEG"),
    "channels": (
        "a.png",
        lambda: png_that_claims(4, 4),
        (7, 4, 4),
        r"takes inputs of shape \(7, 4, 4\), and images have 1",
    ),
    "flat": ("a.png", lambda: png_that_claims(4, 4), (48,), r"shape \(48,\).*give arrays of that"),
    "table": (
        "a.csv",
        lambda: b"1,2",
        None,
        r"cannot read a.csv as data: give a folder of images, or a file whose name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_no_image_are_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, shape, said = REFUSED[case]
    Path(name).write_bytes(content())
    with pytest.raises(InputError, match=said):
        load_data(name, image_shape=shape)


def test_images_too_large_for_the_memory_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a" / "a.png", ramp(20, 20))
    picture(tmp_path / "a" / "b.png", ramp(20, 20))
    monkeypatch.setattr("secateur.data.pictures.budget", lambda: 1000)
    with pytest.raises(InputError, match="claims 20 × 20 pixels, more than the 250 that are decoded"):
        load_data(tmp_path / "a" / "a.png", image_shape=(3, 2, 2))
    monkeypatch.setattr("secateur.data.folder.budget", lambda: 1000)
    with pytest.raises(InputError, match=r"2 images of shape \(3, 9, 9\) take 1,944 bytes; at most 1,000"):
        load_data(tmp_path / "a", image_shape=(3, 9, 9))


@pytest.mark.parametrize(
    ("path", "settings", "said"),
    [
        ("none.npz", {}, "cannot read none.npz: No such file"),
        ("none.npy", {}, "cannot read none.npy: No such file"),
        ("none.png", {}, "cannot read the image none.png: No such file"),
        ("none", {}, "cannot read none as data: No such file"),
        ("", {}, "path='': give the path of a file or a folder"),
        ("none.npz", {"limit": 0}, "limit=0: give a whole number of images, at least 1"),
        (
            "none.npz",
            {"bounds": (1, 0)},
            r"bounds=\(1, 0\): give two finite numbers, the lower below the upper",
        ),
        ("none.npz", {"bounds": ([0.0], [1.0])}, "give two finite numbers"),
    ],
)
def test_wrong_arguments_are_named(path: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_data(path, image_shape=None, **settings)


def test_without_pillow_the_way_to_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", ramp(2, 2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for path in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(
            InputError, match=r"need Pillow, which is not installed: pip install 'secateur\[images\]'"
        ):
            load_data(path, image_shape=None)


# --- folders ------------------------------------------------------------------------------------------------


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Ten grey images in two sub-folders, the image of number i all of value 10·i."""
    for i in range(10):
        picture(tmp_path / "d" / ("cats" if i < 5 else "dogs") / f"{i}.png", np.full((4, 4), 10 * i))
    return tmp_path / "d"


def values(path: Path, **settings: Any) -> list[float]:
    found = load_data(path, image_shape=(1, 4, 4), bounds=(0, 255), **settings)
    assert found.keys() == {"images"}  # sub-folders are no labels
    return [float(x) for x in found["images"].flatten(1).mean(1)]


def test_a_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    assert values(folder) == [10.0 * i for i in range(10)]
    picture(folder / ".hidden" / "a.png", np.zeros((4, 4)))
    picture(folder / "cats" / "._0.png", np.zeros((4, 4)))
    assert values(folder, limit=10) == [10.0 * i for i in range(10)]


def test_fewer_images_are_taken_evenly(folder: Path) -> None:
    assert values(folder, limit=5) == [0, 20, 40, 60, 80]
    assert values(folder, limit=3) == [0, 30, 60]


def test_files_that_are_no_images_are_skipped_with_one_warning(folder: Path) -> None:
    (folder / "cats" / "1.png").write_bytes(png_that_claims(64, 64))
    (folder / "dogs" / "7.png").write_bytes(b"hello")
    (folder / "dogs" / "notes.txt").write_text("hello")
    with pytest.warns(SecateurWarning) as caught:
        assert values(folder) == [10.0 * i for i in range(10) if i not in (1, 7)]
    (said,) = (str(w.message) for w in caught)
    assert "3 of 11 files are no images and are skipped; the first is cats/1.png (" in said


def test_folders_without_use_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(InputError, match=r"texts holds no image that can be read; give \.jpg"):
        load_data(tmp_path / "texts", image_shape=(1, 4, 4))
    (tmp_path / "texts" / "a.txt").write_text("hello")
    with pytest.raises(
        InputError, match=r"no image that can be read; the first is a\.txt \(its name ends in none of"
    ):
        load_data(tmp_path / "texts", image_shape=(1, 4, 4))
    (folder / "cats" / "bomb.png").write_bytes(png_that_claims(60000, 60000))
    with pytest.raises(InputError, match=r"bomb\.png: .*exceeds limit"):
        load_data(folder, image_shape=(1, 4, 4))


def test_without_a_shape_all_images_must_have_one(folder: Path) -> None:
    assert load_data(folder, image_shape=None)["images"].shape == (10, 1, 4, 4)
    picture(folder / "dogs" / "wide.png", ramp(4, 8))
    with pytest.raises(
        InputError, match=r"\(1, 4, 4\) and \(3, 4, 8\) \(dogs/wide.png\); give the shape that the"
    ):
        load_data(folder, image_shape=None)


def test_every_place_of_an_even_choice_is_another(folder: Path) -> None:
    for count in range(1, 30):
        for limit in range(1, 30):
            names = [str(i) for i in range(count)]
            chosen = folder_module._evenly(names, limit)
            assert len(set(chosen)) == len(chosen) == min(count, limit) and chosen[0] == "0"


# --- values of the API --------------------------------------------------------------------------------------


def dense(width: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4 + 6, 3)

    def forward(self, x: Tensor, input_ids: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.table(input_ids).mean(1)], 1))  # type: ignore[no-any-return]


@dataclass
class Sample:
    x: Tensor
    input_ids: Tensor
    attention_mask: Tensor | None = None


GRAPH = capture(dense(), torch.rand(2, 6))
X = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
IDS = torch.arange(24).reshape(12, 2) % 9


def generated() -> Iterator[Tensor]:
    yield from X.split(5)


class Silent:
    """An object that numpy makes an array of."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return X.numpy()


ONE: dict[str, Any] = {
    "tensor": X,
    "with a gradient": X.clone().requires_grad_(),
    "numpy": X.numpy(),
    "numpy, float64": X.double().numpy(),
    "numpy, big-endian and reversed": X.flip(0).numpy().astype(">f4")[::-1],
    "array-like": Silent(),
    "lists": X.tolist(),
    "tuple of one": (X,),
    "inputs and labels": (X, Y),
    "inputs and labels of numpy": (X.numpy(), Y.numpy()),
    "list of batches": list(X.split(5)),
    "tuple of batches": X.split(5),
    "list of arrays": [x.numpy() for x in X.split(5)],
    "list of pairs": [(x, y) for x, y in zip(X.split(5), Y.split(5), strict=True)],
    "generator": generated,
    "loader": DataLoader(TensorDataset(X), batch_size=5),
    "loader with labels": DataLoader(TensorDataset(X, Y), batch_size=5),
    "dict by name": {"input_1": X, "labels": Y},
    "dict of a processor": {"pixel_values": X, "labels": Y},
    "dict of one": {"data": X, "label": Y},
    "mapping": UserDict({"input_ids": X}),
    "batches of dicts": [
        {"pixel_values": x, "labels": y} for x, y in zip(X.split(5), Y.split(5), strict=True)
    ],
}


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("limit", [None, 7])
def test_one_input_comes_in_any_form(kind: str, limit: int | None) -> None:
    value = ONE[kind]() if callable(ONE[kind]) else ONE[kind]
    (found,) = as_tensors(value, GRAPH, (0.0, 1.0), name="calibration", limit=limit)
    assert torch.equal(found, X[:limit]) and not found.requires_grad


TWO: dict[str, Any] = {
    "tuple": (X, IDS),
    "dict in another order": {"input_ids": IDS, "x": X, "labels": Y},
    "dataclass": Sample(X, IDS),
    "batches": [(X[:5], IDS[:5]), (X[5:], IDS[5:])],
    "batches of lists": [[X[:5], IDS[:5]], [X[5:], IDS[5:]]],
    "batches of dataclasses": [Sample(X[:5], IDS[:5]), Sample(X[5:], IDS[5:])],
    "arrays": (X.numpy(), IDS.numpy()),
}


@pytest.mark.parametrize("kind", TWO)
def test_two_inputs_come_in_any_form(kind: str) -> None:
    graph = capture(Two().eval(), (X[:2], IDS[:2]))
    found = as_tensors(TWO[kind], graph, (0.0, 1.0), name="calibration")
    assert torch.equal(found[0], X) and torch.equal(found[1], IDS)


def test_no_more_batches_are_read_than_are_needed() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield X

    (found,) = as_tensors(endless(), GRAPH, (0.0, 1.0), name="calibration", limit=30)
    assert torch.equal(found, torch.cat([X, X, X])[:30])


def test_entries_that_are_no_inputs_are_said() -> None:
    with pytest.warns(
        SecateurWarning, match="calibration: attention_mask: no inputs of the model, and left out"
    ):
        as_tensors({"input_ids": X, "attention_mask": Y}, GRAPH, (0.0, 1.0), name="calibration")


WRONG: dict[str, tuple[Any, str]] = {
    "pairs of inputs": ([(X, X)], r"calibration gives 2 tensors, but the model has 1 inputs \(input_1\)"),
    "no batches": ([], "calibration gives no batches"),
    "ragged lists": ([[0.1, 0.2], [0.3]], "calibration holds a list that is no batch"),
    "text": (["a", "b"], "calibration holds a str that is no batch"),
    "numbers": (iter([0.5]), "calibration holds a float that is no batch"),
    "objects": (np.array([{}], dtype=object), "no batch .*type object"),
    "complex": (np.zeros((2, 6), complex), "type complex128"),
    "meta": (torch.zeros(2, 6, device="meta"), "meta tensors hold no plain values"),
    "unknown names": (
        {"a": X, "b": X},
        "has the entries a, b, and none for input_1; the model's inputs are input_1",
    ),
    "no entries": ({}, r"has the entries \(none\)"),
    "no axes": ([torch.tensor(0.5)], "axis 0 must be the batch"),
    "batches that differ": ([X, X[:, :3]], r"do not fit together, of shapes \(12, 3\), \(12, 6\)"),
    "an object": (object(), "calibration is a object; give a tensor, an array, batches"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_of_no_use_are_named(case: str) -> None:
    value, said = WRONG[case]
    with pytest.raises(InputError, match=said):
        as_tensors(value, GRAPH, (0.0, 1.0), name="calibration")


def picture_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).eval()


PIXELS = torch.randint(0, 256, (20, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
IMAGES = PIXELS.permute(0, 3, 1, 2).float() / 255


@pytest.mark.sweep
@pytest.mark.parametrize("form", ["tensor", "numpy", "batches", "npy", "folder"])
def test_pixels_are_what_they_are_divided_by_255(form: str, tmp_path: Path) -> None:
    for i, pixels in enumerate(PIXELS):
        picture(tmp_path / "d" / f"{i:02}.png", pixels)
    np.save(tmp_path / "x.npy", PIXELS.numpy())
    forms = {
        "tensor": PIXELS,
        "numpy": PIXELS.numpy(),
        "batches": DataLoader(TensorDataset(PIXELS, torch.zeros(20)[:, None].long()[:, 0]), batch_size=6),
        "npy": str(tmp_path / "x.npy"),
        "folder": tmp_path / "d",
    }
    found = secateur.prune(picture_model(), IMAGES[:2], remove=0.5, calibration=forms[form])
    assert found.recipe == secateur.prune(picture_model(), IMAGES[:2], remove=0.5, calibration=IMAGES).recipe


@pytest.mark.long
def test_pixels_are_images_before_they_are_normalised() -> None:
    settings: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": 0.25, "remove": 0.5}
    by_pixels = secateur.prune(picture_model(), IMAGES[:2], calibration=PIXELS, **settings)
    assert (
        by_pixels.recipe == secateur.prune(picture_model(), IMAGES[:2], calibration=IMAGES, **settings).recipe
    )
    wide = secateur.prune(
        picture_model(), IMAGES[:2], remove=0.5, calibration=PIXELS, input_bounds=(0, 255), mean=127.5, std=64
    )
    same = secateur.prune(
        picture_model(),
        IMAGES[:2],
        remove=0.5,
        calibration=255 * IMAGES,
        input_bounds=(0, 255),
        mean=127.5,
        std=64,
    )
    assert wide.recipe.groups == same.recipe.groups


def test_other_types_stay_errors() -> None:
    for wrong in (PIXELS.to(torch.int32), PIXELS.long().numpy()):
        with pytest.raises(InputError, match=r"which takes torch\.float32"):
            secateur.prune(picture_model(), IMAGES[:2], remove=0.5, calibration=wrong)


def test_evaluate_takes_arrays_and_pixels() -> None:
    labels = torch.arange(20) % 4
    plain = secateur.evaluate(picture_model(), IMAGES, labels, attacks=[secateur.FGSM(0.01)])
    pixels = PIXELS.permute(0, 3, 1, 2).contiguous()
    forms = (IMAGES.numpy(), labels.numpy()), (IMAGES.tolist(), labels.tolist()), (pixels.numpy(), labels)
    for images, classes in forms:
        assert secateur.evaluate(picture_model(), images, classes, attacks=[secateur.FGSM(0.01)]) == plain
    settings: dict[str, Any] = {"mean": 0.5, "std": [0.25, 0.5, 0.5], "input_bounds": (0, 1)}
    assert secateur.evaluate(picture_model(), pixels, labels, **settings) == secateur.evaluate(
        picture_model(), IMAGES, labels, **settings
    )


class OfBytes(nn.Module):
    """Takes pixels as bytes and divides them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = picture_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float() / 255)  # type: ignore[no-any-return]


def test_a_model_that_takes_bytes_gets_bytes() -> None:
    labels, pixels = torch.arange(20) % 4, PIXELS.permute(0, 3, 1, 2).contiguous()
    assert (
        secateur.evaluate(OfBytes().eval(), pixels, labels).classes
        == secateur.evaluate(picture_model(), IMAGES, labels).classes
    )
    graph = capture(OfBytes().eval(), pixels[:2])
    (found,) = as_tensors(PIXELS, graph, (0.0, 1.0), name="calibration")
    assert found.dtype == torch.uint8 and torch.equal(found, pixels)


def test_certify_takes_what_prune_takes(tmp_path: Path) -> None:
    model = dense()
    small = secateur.prune(model, X[:2], remove=0.5, method="scale").model
    np.save(tmp_path / "x.npy", X[:3].numpy())
    settings: dict[str, Any] = {"eps": 0.01, "attack_steps": 0}
    plain = secateur.certify(model, small, inputs=X[:3], **settings)
    forms = (
        [X[:3]],
        (X[:3],),
        X[:3].numpy(),
        X[:3].tolist(),
        {"x": X[:3], "labels": Y[:3]},
        tmp_path / "x.npy",
    )
    for form in (*forms, DataLoader(TensorDataset(X[:3], Y[:3]), batch_size=2)):
        found = secateur.certify(model, small, X[:2], inputs=form, **settings)
        assert (found.lower, found.upper) == (plain.lower, plain.upper)
    labelled = [
        secateur.certify(model, small, inputs=X[:3], labels=y, **settings) for y in (Y[:3], [0, 1, 2])
    ]
    assert labelled[0].stable_original == labelled[1].stable_original
    with pytest.raises(
        InputError, match="from a path do not tell the model's arguments; give example_inputs"
    ):
        secateur.certify(model, small, inputs=tmp_path / "x.npy", **settings)


def test_centres_on_the_rim_by_rounding_are_moved_to_it() -> None:
    model = dense()
    x = X[:3].clone()
    x[:, 0] = 1 + 5e-7
    found = secateur.certify(model, model, inputs=x, eps=0.0, attack_steps=0)
    assert max(found.drift) < 1e-9


# --- ranges -------------------------------------------------------------------------------------------------

PIXELS_MEANT = "0–255? divide by 255, or give --input-bounds 0,255 (input_bounds=(0, 255))"
NORMALISED = "already normalised? give images before normalisation with mean and std"
UNITS = "are they in the units that the model takes?"


@pytest.mark.parametrize(
    ("least", "greatest", "bounds", "cause"),
    [
        (0.0, 255.0, (0.0, 1.0), PIXELS_MEANT),
        (3.0, 200.0, (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), PIXELS_MEANT),
        (-2.1, 2.64, (0.0, 1.0), NORMALISED),
        (-0.42, 2.82, (0.0, 1.0), NORMALISED),
        (0.0, 3.0, (0.0, 1.0), UNITS),
        (-300.0, 300.0, (0.0, 1.0), UNITS),
        (0.0, 255.0, (-1.0, 1.0), UNITS),
        (-1.0, 1.0, (0.0, 255.0), UNITS),
    ],
)
def test_values_outside_are_refused_with_the_likely_cause(
    least: float, greatest: float, bounds: tuple[Any, Any], cause: str
) -> None:
    images = torch.linspace(least, greatest, 12).reshape(1, 3, 2, 2)
    with pytest.raises(InputError) as caught:
        check_within(images, bounds, "the images")
    low, high = (float(torch.as_tensor(end).max()) for end in bounds)
    begin = f"the images range from {least:g} to {greatest:g}, outside of input_bounds {low:g} to {high:g}: "
    assert str(caught.value).startswith(begin + cause)


def test_rounding_is_not_outside() -> None:
    for bounds in ((0.0, 1.0), (-2.2, 2.7), (0.0, 255.0), (1000.0, 1000.5)):
        width = bounds[1] - bounds[0]
        x = torch.tensor([bounds[0] - 0.9e-6 * width, bounds[1] + 0.9e-6 * width], dtype=torch.float64)
        check_within(x, bounds, "x")
        with pytest.raises(InputError):
            check_within(x + 2e-6 * width, bounds, "x")
        check_within(torch.tensor(bounds), bounds, "x")
    check_within(torch.tensor([300, -3]), (0.0, 1.0), "whole numbers have no bounds")
    check_within(torch.tensor([300.0, -3.0]), (-torch.inf, torch.inf), "x")
    with pytest.raises(InputError):
        check_within(torch.tensor([300.0, -3.0]), (0.0, torch.inf), "x")


def test_what_needs_the_box_refuses_and_what_does_not_warns() -> None:
    labels = torch.arange(20) % 4
    with pytest.raises(
        InputError, match=r"calibration: the values for .* 0 to 255, outside of .*: 0–255\? divide"
    ):
        secateur.prune(picture_model(), IMAGES[:2], remove=0.5, calibration=255 * IMAGES)
    with pytest.raises(InputError, match=r"calibration: .*already normalised"):
        secateur.prune(
            picture_model(), IMAGES[:2], remove=0.5, calibration=(IMAGES - 0.5) / 0.25, mean=0.5, std=0.25
        )
    with pytest.raises(InputError, match=r"inputs: the values for .*: 0–255\? divide"):
        secateur.certify(picture_model(), picture_model(), inputs=255 * IMAGES[:2], eps=0.1)
    for settings in ({"attacks": [secateur.FGSM(0.1)]}, {"corruptions": ["gaussian_noise"]}):
        with pytest.raises(InputError, match=r"the images range from 0 to 255.*0–255\? divide"):
            secateur.evaluate(picture_model(), 255 * IMAGES, labels, **settings)
    (said,) = secateur.evaluate(picture_model(), 255 * IMAGES, labels).warnings
    assert PIXELS_MEANT in said


# --- numbers of words, and several inputs -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_whole_numbers_are_read_for_models_that_take_them(suffix: str, tmp_path: Path) -> None:
    words = np.arange(12, dtype=np.int32).reshape(3, 4)
    path = tmp_path / f"words{suffix}"
    np.savez(path, x=words) if suffix == ".npz" else np.save(path, words)
    found = load_data(path, image_shape=(4,), whole=True, limit=2)["images"]
    assert found.dtype == torch.int32 and torch.equal(found, torch.from_numpy(words[:2]))
    with pytest.raises(InputError, match=r"of type int32: give uint8 pixels or floating-point numbers"):
        load_data(path, image_shape=(4,))
    embedding = capture(
        nn.Sequential(nn.Embedding(20, 3), nn.Flatten()).eval(), torch.zeros(2, 4, dtype=torch.int64)
    )
    (taken,) = as_tensors(path, embedding, (0.0, 1.0), name="calibration")
    assert torch.equal(taken.long(), torch.from_numpy(words).long())
    with pytest.raises(InputError, match=r"of type int32"):
        as_tensors(path, capture(dense(4), torch.zeros(2, 4)), (0.0, 1.0), name="calibration")


def test_a_file_has_an_array_for_each_of_several_inputs(tmp_path: Path) -> None:
    graph = capture(Two().eval(), (torch.zeros(2, 6), torch.zeros(2, 3, dtype=torch.int64)))
    x, ids = np.random.default_rng(0).random((5, 6), np.float32), np.ones((5, 3), np.int64)
    np.savez(tmp_path / "two.npz", input_ids=ids, x=x, labels=np.zeros(5))
    first, second = as_tensors(tmp_path / "two.npz", graph, (0.0, 1.0), name="calibration", limit=4)
    assert torch.equal(first, torch.from_numpy(x[:4])) and torch.equal(second, torch.from_numpy(ids[:4]))
    np.savez(tmp_path / "one.npz", x=x)
    with pytest.raises(InputError, match="none for input_ids; the model's inputs are x, input_ids"):
        as_tensors(tmp_path / "one.npz", graph, (0.0, 1.0), name="calibration")

"""Make the photographs that secateur ships, from packages that hold them.

    pip download --no-deps scikit-image matplotlib
    python benchmarks/photographs.py scikit_image-*.whl matplotlib-*.whl

All are in the public domain or under CC0, as their packages say: the astronaut (NASA), the portrait of
Grace Hopper (US Navy), the rocket (SpaceX), the deep field (NASA, ESA), the moon (NASA), the coins (Brooklyn
Museum), the cat and the clock (Stefan van der Walt), the cup of coffee (Rachel Michetti), the man with a
camera (Lav Varshney), and the textures of bricks, grass and gravel (CC0Textures; linolafett). They are scaled
to a shorter side of 256 and kept with 6 bits a channel.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
PICTURES = {
    "skimage/data/": "astronaut.png chelsea.png coffee.png rocket.jpg hubble_deep_field.jpg camera.png "
    "brick.png grass.png gravel.png coins.png moon.png clock_motion.png",
    "matplotlib/mpl-data/sample_data/": "grace_hopper.jpg",
}
TARGET = Path(__file__).resolve().parent.parent / "src/secateur/surrogates/photographs.npz"


def main() -> None:
    found: dict[str, np.ndarray] = {}
    for wheel in sys.argv[1:]:
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
            for folder, names in PICTURES.items():
                found |= {
                    name.partition(".")[0]: scaled(Image.open(io.BytesIO(archive.read(folder + name))))
                    for name in names.split()
                    if folder + name in held
                }
    missing = [n for names in PICTURES.values() for n in names.split() if n.partition(".")[0] not in found]
    if missing:
        raise SystemExit(f"the packages given do not hold {', '.join(missing)}")
    np.savez_compressed(TARGET, **dict(sorted(found.items())))  # type: ignore[arg-type]
    print(f"{len(found)} photographs, {TARGET.stat().st_size:,} bytes in {TARGET}")


def scaled(picture: Image.Image) -> np.ndarray:
    """uint8 (height, width) or (height, width, 3)."""
    picture = picture.convert("L" if picture.mode in ("L", "1", "I") else "RGB")
    factor = SIDE / min(picture.size)
    size = round(picture.width * factor), round(picture.height * factor)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) & 0xFC


if __name__ == "__main__":
    main()

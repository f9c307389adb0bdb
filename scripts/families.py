"""Draw docs/images/families.png: a row of samples of each family, from the recipes' pictures.

.venv/bin/python scripts/families.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
ROWS = (  # picture of Fashion-MNIST, a row or a column of it, name
    ("vae_fashion_samples", "row", 1, "VAE"),
    ("wgan_gp_fashion_samples", "row", 1, "WGAN-GP"),
    ("realnvp_fashion_samples", "row", 0, "Real NVP"),
    ("vqvae_prior_fashion_classes", "column", 6, "VQ-VAE, PixelCNN"),  # a class in each row
    ("ddpm_fashion_large0_samples", "row", 1, "DDPM"),
)
TILE, GAP, COLUMNS, LEFT = 56, 4, 10, 190  # pixels


def main() -> None:
    """Write the picture."""
    pitch = TILE + GAP
    picture = Image.new("L", (LEFT + COLUMNS * pitch, len(ROWS) * pitch + GAP), 0)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 18)
    for i, (name, axis, index, label) in enumerate(ROWS):
        top = GAP + i * pitch
        with Image.open(IMAGES / f"{name}.png") as source:
            for j in range(COLUMNS):
                x, y = (j * pitch, index * pitch)[:: 1 if axis == "row" else -1]
                tile = source.convert("L").crop((x, y, x + TILE, y + TILE))
                picture.paste(tile, (LEFT + j * pitch, top))
        draw.text((14, top + TILE / 2), label, fill=230, font=font, anchor="lm")
    picture.save(IMAGES / "families.png", optimize=True)


if __name__ == "__main__":
    main()

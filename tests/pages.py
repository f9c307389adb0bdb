"""Run directories as files alone, and a reader of the pages made of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np

from gengen.viz.grid import grid, save_png

CONFIG = {
    "model": "ddpm",
    "family": "diffusion",
    "config": {"shape": [28, 28, 1], "timesteps": 1000, "learning_rate": 0.00021, "clip": None},
    "data": {
        "name": "mnist5k:train",
        "fingerprint": "sha256:9f2b",
        "num_examples": 4500,
        "shape": [28, 28, 1],
    },
    "seed": 7,
    "steps": 1200,
    "parameters": 520321,
    "versions": {"gengen": "0.1.0", "jax": "0.10.2"},
    "machine": {"platform": "cpu", "device": "AMD EPYC", "num_devices": 1, "cores": 2},
    "something_new": {"deep": {"er": "unforeseen"}},
}
VOID = {"meta", "link", "img", "br"}
SVG_CLOSED = {"line", "path", "rect"}


class Page(HTMLParser):
    """Checks that tags nest; keeps text, attributes and tags."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG_CLOSED, f"HTML has no self-closing <{tag}/>"
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def run_in(folder, rows=(), pictures=(), config=CONFIG, evaluation=None):
    (folder / "samples").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
    for step in pictures:
        image = np.random.default_rng(step).integers(256, size=(4, 8, 8, 1), dtype=np.uint8)
        save_png(folder / "samples" / f"step_{step:08d}.png", grid(image), scale=2)
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def rows_of(num=50, **metrics):
    return [
        {"step": 24 * i, "seconds": 5.0 * i, "examples_per_s": 305.0, "loss": 3.0 / i, **metrics}
        for i in range(1, num + 1)
    ]


EVALUATION = {
    "fake": "runs/ddpm", "real": "mnist5k:train", "floor": "mnist5k:test", "extractor": "mnist-v1",
    "resize": None, "seed": 3, "num": None, "gengen": "0.1.0", "checkpoint": "bf94",
    "rows": [
        {"name": "fid[mnist-v1]", "value": 351.27, "error": 30.52, "n_real": 4500, "n_fake": 500,
         "floor": 12.59, "floor_error": 3.311, "better": "lower", "note": ""},
        {"name": "c2st", "value": 0.97, "error": None, "n_real": None, "n_fake": None,
         "floor": 0.5, "floor_error": None, "better": "floor", "note": "k = 1"},
    ],
}  # fmt: skip

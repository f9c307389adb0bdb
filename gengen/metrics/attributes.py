"""Attributes that say whether an image of handwriting keeps its style when a model changes it.

They are measured on the ink alone (`gengen.data.strokes`), without labels.
"""

from __future__ import annotations

from gengen.data.strokes import slant, stroke_thickness

ATTRIBUTES = {"slant": slant, "thickness": stroke_thickness}

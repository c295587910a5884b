"""Pictures of colored shapes with captions, rendered by the package, and a parser of such pictures."""

from vdm_jax.data.shapes.parse import LEAST_SIDE, parse
from vdm_jax.data.shapes.render import Drawn, draw
from vdm_jax.data.shapes.scene import SCENES, Scene, Thing, agreement, pair, single, swapped
from vdm_jax.data.shapes.source import Shapes, read
from vdm_jax.data.shapes.words import captions, read_caption

__all__ = [
    "LEAST_SIDE",
    "SCENES",
    "Drawn",
    "Scene",
    "Shapes",
    "Thing",
    "agreement",
    "captions",
    "draw",
    "pair",
    "parse",
    "read",
    "read_caption",
    "single",
    "swapped",
]

"""The pictures that experiments leave beside their tables: charts of rows, and R's pictures."""

from experiments.plots.charts import ablations, noises, redraw, tradeoff, training
from experiments.plots.drawing import pyplot
from experiments.plots.pictures import reconstructions, transfer

__all__ = [
    "ablations",
    "noises",
    "pyplot",
    "reconstructions",
    "redraw",
    "tradeoff",
    "training",
    "transfer",
]

"""The pictures that experiments leave beside their tables: charts of rows, and R's pictures."""

from experiments.measure.plots.charts import ablations, noises, redraw, tradeoff, training
from experiments.measure.plots.pictures import reconstructions, transfer

__all__ = ["ablations", "noises", "reconstructions", "redraw", "tradeoff", "training", "transfer"]

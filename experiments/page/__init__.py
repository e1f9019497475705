"""Results as one HTML file that needs nothing else: tables, figures, faces, provenance."""

from experiments.page.document import document, prose, provenance
from experiments.page.faces import Strip, strip
from experiments.page.figures import figures

__all__ = ["Strip", "document", "figures", "prose", "provenance", "strip"]

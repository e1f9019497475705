"""The documentation site, by Sphinx: the repository is its source folder, so that links between its
files work here and where the repository is read."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import advface_jax

project = "advface_jax"
author = copyright = "The advface_jax authors"
version = release = advface_jax.__version__
html_title = f"advface_jax {version}"

root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/*.md", "docs/site/*.md"]
exclude_patterns = ["CODE_OF_CONDUCT.md"]
html_extra_path = ["root"]  # index.html, which leads to the root document

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4  # the same names as the repository's own pages give
highlight_language = "none"  # of blocks that name none: commands, pseudocode
suppress_warnings = ["toc.empty_glob"]  # pages that one release has and another lacks

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units stand in the text; types are in the signature
napoleon_numpy_docstring = False
default_role = "code"

html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the sidebar has the search
}
html_static_path, html_css_files = ["static"], ["site.css"]
html_show_sourcelink = False
napoleon_use_ivar = True


def _plain_text(app, what, name, obj, options, lines):
    """Our docstrings are plain text with code in double backticks: no other mark means anything."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith(">>>"):
            break  # the example, which comes last, is code
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [re.sub(r"([*|_])", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def _no_field(app, what, name, obj, skip, options):
    """The fields of a named tuple stand under its attributes."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


def setup(app):
    app.connect("autodoc-process-docstring", _plain_text, priority=100)  # before napoleon's
    app.connect("autodoc-skip-member", _no_field)

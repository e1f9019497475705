"""What the package's page shows: the README without links into the repository."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PlainLinks(MetadataHookInterface):
    """Outside the repository its paths are no links, and no address is known: they become words."""

    def update(self, metadata: dict) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = re.sub(
            r"!\[([^]]*)\]\((?!https?:)([^)]*)\)", r"*\1* (`\2` in the source archive)", text
        )
        text = re.sub(r"\[([^]]*)\]\((?!https?:|#)([^)#]*)[^)]*\)", _path, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def _path(link: re.Match[str]) -> str:
    words, path = link.groups()
    return f"`{path}`" if words == path else f"{words} (`{path}` in the source archive)"

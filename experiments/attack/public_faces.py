"""The attackers' own faces: people who are not measured."""

import dataclasses
import os
from pathlib import Path

from advface_jax import checks, cli, data
from advface_jax.data.listing import parse_where
from experiments.measure.inputs import DEMO_PEOPLE, DEMO_PICTURES, Preset

CELEBA, LISTED = "celeba_B_attack_160.zip", "celeba_B_attack_160.tsv"
SIZES: dict[Preset, int] = {"demo": 80, "paper": 1000}


@dataclasses.dataclass(frozen=True)
class PublicFaces:
    """Faces that attackers learn from, of people who are not measured.

    Attributes:
      public: A folder or zip of 160×160 crops. By default drawn people other than the measured
        ones (demo), or CelebA B in the folder of ADVFACE_DATA without look-alikes of LFW's people
        (paper).
      public_listing: Their tab-separated list, with columns file and identity.
      public_where: Keep rows of that list by COLUMN=VALUE.
      public_faces: How many; by default 80 (demo) or 1,000 (paper).
    """

    public: str | None = None
    public_listing: Path | None = None
    public_where: tuple[str, ...] = ()
    public_faces: int | None = None

    def check(self) -> None:
        """ValueError for what is wrong without a look at the faces."""
        checks.positive(public_faces=1 if self.public_faces is None else self.public_faces)
        parse_where(self.public_where)
        if self.public is None and (self.public_where or self.public_listing):
            raise ValueError(
                "got --public-where or --public-listing without --public; wanted the faces that "
                "they are of, too"
            )
        cli.present(public=self.public, public_listing=self.public_listing)

    def read(self, preset: Preset) -> data.Faces:
        """The faces, in memory.

        Raises:
          ValueError: There are none.
        """
        self.check()
        n = self.public_faces or SIZES[preset]
        if self.public is not None and self.public != "synthetic":
            where = parse_where(self.public_where)
            return data.read_faces(self.public, listing=self.public_listing, where=where, limit=n)
        if preset == "demo" or self.public == "synthetic":
            people = -(-n // DEMO_PICTURES) + DEMO_PEOPLE
            names = [*data.synthetic_names(people, DEMO_PICTURES)][DEMO_PEOPLE * DEMO_PICTURES :]
            return data.synthetic_faces(people, DEMO_PICTURES, names=names[:n])
        place = Path(os.environ.get("ADVFACE_DATA", ""))
        faces, listing = place / "faces" / CELEBA, place / "lists" / LISTED
        if not (faces.is_file() and listing.is_file()):
            raise ValueError(
                "the attackers' faces are not available: give --public (160×160 crops of people "
                "who are not measured), or set ADVFACE_DATA to a folder with "
                f"faces/{CELEBA} and lists/{LISTED}; docs/datasets.md says how to get them"
            )
        return data.read_faces(faces, listing=listing, where={"lfw_lookalike": "-"}, limit=n)

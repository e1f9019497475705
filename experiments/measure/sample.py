"""The flags that commands share: what is measured, and how AdvFace ascends."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import ProtectConfig, checks, cli
from advface_jax.data import leaks
from advface_jax.models.decoders import check_sources
from advface_jax.system import OWN
from experiments.measure import inputs, paper
from experiments.measure.results_file import Row


@dataclasses.dataclass(frozen=True)
class Sample:
    """Whose faces are measured, with which recogniser, and where the result goes.

    Attributes:
      preset: demo: embedded synthetic faces. paper: the pairs of --set, from --faces and --pairs
        or from the folder in the variable ADVFACE_DATA, with the paper's numbers beside ours.
      set: lfw, cfp_fp or agedb_30, with --preset paper.
      out: Folder for the results.
      weights: facenet-512-q8 (fetched at first use, 17 MB), facenet-128, another known name, or a
        folder of weights_convert.
      faces: 160×160 crops: a folder or zip of identity/image.jpg, insightface's .bin (with its
        pairs), a prepared data set (tfds:NAME), or 'synthetic'.
      listing: Tab-separated list of the faces, with columns file and identity.
      pairs: LFW's pairs.txt, a tab-separated list (fold, same, file1, file2), CFP's folder,
        AgeDB-30's .mat. By default those that the faces come with, else balanced pairs are drawn
        from the identities.
      missing: What to do about pairs whose faces are missing, as where crop found none: refuse, or
        drop them and count them.
      limit: At most so many pairs, as many same as different from every fold, in the list's
        order.
      batch: Faces at a time: protected together, where S uses their statistics.
      seed: Of a defence's noise, and of the pairs that are drawn when none are given. A face's
        noise is derived from the seed and its number, whatever its batch.
      on_leak: What to do about train/test identity overlap, by the lists beside the
        networks (NAME.identities): warn, or refuse.
    """

    preset: inputs.Preset = "demo"
    set: paper.Set = "lfw"
    out: cli.Out = Path("results")
    weights: str = "facenet-512-q8"
    faces: str | None = None
    listing: Path | None = None
    pairs: Path | None = None
    limit: int | None = None
    batch: int = 16
    seed: int = 0
    on_leak: leaks.OnLeak = "warn"
    missing: inputs.Missing = "refuse"

    @property
    def how(self) -> dict[str, Any]:
        """Keywords of ``judging.judge``; a stopped run goes on from the batches it kept."""
        return {"batch": self.batch, "seed": self.seed, "keep": self.out / ".batches"}

    def open(self, *sources: str | None) -> tuple[advface_jax.System, inputs.Inputs]:
        """The recogniser and the faces with their pairs, after ``check``."""
        self.check(*sources)
        cli.loading(self.weights, "faces")
        return advface_jax.load(self.weights), self.read()

    def check(self, *sources: str | None) -> None:
        """Refuse (ValueError) what is wrong without a look at weights and faces.

        ``sources`` are decoders, by kind or by file; None where the system has its own.
        """
        checks.positive(batch=self.batch, limit=1 if self.limit is None else self.limit)
        if self.seed < 0:
            raise ValueError(f"got --seed {self.seed}; wanted 0 or more")
        cli.folder(self.out)
        check_sources(*(one for one in sources if one not in (None, OWN)))
        inputs.places(self.preset, self.faces, self.listing, self.pairs, self.set)

    def read(self, resize: bool = False) -> inputs.Inputs:
        """The faces and the pairs.

        Raises:
          ValueError: As for ``inputs.read`` and ``check``.
        """
        self.check()
        return inputs.read(
            self.preset,
            self.faces,
            self.listing,
            self.pairs,
            self.limit,
            self.seed,
            resize,
            self.set,
            self.missing,
        )

    def beside(self, r: Row, kinds: tuple[str, str], config: ProtectConfig) -> dict[str, float]:
        """The paper's numbers for a row, by the kinds of S and R: none unless the faces are the
        paper's and AdvFace ran at its settings."""
        if self.preset != "paper" or config != ProtectConfig():
            return {}
        return paper.beside(r["method"], r["epsilon"], *kinds, set=self.set)


@dataclasses.dataclass(frozen=True)
class Ascent:
    """How AdvFace ascends; the defaults are the paper's.

    Attributes:
      steps: Iterations of PGD, of MI-FGSM and of random noise.
      alpha: Step size of PGD and MI-FGSM, in units of the feature; None for ε/10.
      bound: total: ε bounds AdvFace's whole perturbation (Eq. 2). step: each step (Eq. 6, taken
        literally).
      statistics: Whose statistics S's batch norm uses: of the batch (the paper), of its
        training (running), or of each face (example).
      start: Where the ascent starts, and around which point the bound holds: z_tilde (the paper),
        or z, the client's own.
      precision: Of the defences; bfloat16 is for accelerators.
    """

    steps: int = ProtectConfig.steps
    alpha: float | None = ProtectConfig.alpha
    bound: Literal["total", "step"] = ProtectConfig.bound
    statistics: Literal["batch", "running", "example"] = ProtectConfig.statistics
    start: Literal["z_tilde", "z"] = ProtectConfig.start
    precision: Literal["float32", "bfloat16"] = "float32"

    def config(self, method: Literal["pgd", "fgsm", "mifgsm"] = "pgd") -> ProtectConfig:
        """As ``protect`` takes it; errors as for ``ProtectConfig``."""
        return ProtectConfig(
            self.steps,
            self.alpha,
            self.bound,
            method=method,
            statistics=self.statistics,
            start=self.start,
        )


OfSample = Annotated[Sample, OmitArgPrefixes]
OfAscent = Annotated[Ascent, OmitArgPrefixes]

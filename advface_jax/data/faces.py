"""Face crops at random access: in memory, or decoded on demand from any source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from advface_jax.data import pictures
from advface_jax.data.records import NamedPair, Skips
from advface_jax.untrusted import BadFile

SIZE = 160  # FaceNet's input, in pixels
_LARGEST = 4096  # of a picture that is resized, in pixels a side


@dataclass(frozen=True)
class Encoded:
    """Crops that stay encoded where they are until they are asked for.

    Attributes:
      read: A name's encoded bytes, as ``Source.read``.
      resize: Whether square pictures of another size than 160x160 are resized.
    """

    read: Callable[[str], bytes]
    resize: bool = False


@dataclass(frozen=True, eq=False)
class Faces:
    """Random access over n face crops; picklable, for worker processes.

    Attributes:
      names: n unique names, as in the source ("identity/image.jpg").
      identities: n labels; equal labels are one person.
      store: uint8 (n, 160, 160, 3), RGB in 0..255; or ``Encoded``, then the faces are lazy.
      skipped: (name, reason) of each face that was asked for and is not available.
      pairs: The verification pairs that the source carries, by name; they may name faces that were
        not selected.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
    store: np.ndarray | Encoded
    skipped: Skips = ()
    pairs: tuple[NamedPair, ...] = ()

    def __post_init__(self) -> None:
        want, store = (len(self.names), SIZE, SIZE, 3), self.store
        if isinstance(store, np.ndarray) and (store.shape != want or store.dtype != np.uint8):
            raise ValueError(
                f"images are {store.dtype} {store.shape}, wanted uint8 {want}: "
                "one 160x160 RGB crop for each name"
            )
        if len(self.identities) != len(self.names):
            raise ValueError(
                f"{len(self.identities)} identities for {len(self.names)} names: give one for each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> np.ndarray:
        """All crops, uint8 (n, 160, 160, 3); lazy faces are all decoded, anew at each use."""
        return self.store if isinstance(self.store, np.ndarray) else self.batch(range(len(self)))

    def crop(self, i: int) -> np.ndarray:
        """One crop, uint8 (160, 160, 3); ValueError with the reason for an unreadable lazy one."""
        if isinstance(self.store, np.ndarray):
            return self.store[i]
        return decode(self.store.read, self.names[i], self.store.resize)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The crops at ``indices``, uint8 (b, 160, 160, 3), a copy.

        Raises:
          ValueError: with the name of a lazy face that is unreadable.
        """
        rows = np.asarray(indices, dtype=np.intp)
        if isinstance(self.store, np.ndarray):
            return self.store[rows]
        images = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
        for k, i in enumerate(rows):
            try:
                images[k] = self.crop(i)
            except ValueError as error:
                raise ValueError(f"the face {self.names[i]} is {error}") from error
        return images

    def select(self, indices: Iterable[int]) -> Faces:
        """The faces at `indices`, in that order; what was skipped stays on record."""
        rows = np.fromiter(indices, dtype=np.intp)
        return Faces(
            tuple(self.names[i] for i in rows),
            tuple(self.identities[i] for i in rows),
            self.store[rows] if isinstance(self.store, np.ndarray) else self.store,
            self.skipped,
            self.pairs,
        )


def decode(read: Callable[[str], bytes], name: str, resize: bool = False) -> np.ndarray:
    """One crop, uint8 (160, 160, 3); ValueError with the reason when there is none."""
    wrong = f"not square or larger than {_LARGEST}x{_LARGEST}" if resize else f"not {SIZE}x{SIZE}"

    def check(wide: int, high: int) -> None:
        if (wide, high) != (SIZE, SIZE) and not (resize and wide == high <= _LARGEST):
            raise BadFile(f"{wrong}: {wide}x{high}")

    try:
        data = read(name)
    except (OSError, ValueError) as error:
        raise BadFile(pictures.reason(error)) from error
    picture = pictures.decode(data, check)
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(picture)

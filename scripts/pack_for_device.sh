#!/usr/bin/env bash
# Packs what a bare machine with an accelerator and without a network lacks, into one folder of at
# most about 50 MB: wheels, the recogniser's 8-bit weights, and LFW's faces as WebP, which are
# read by what they hold and keep their names.
#
#   scripts/pack_for_device.sh FOLDER [PYTHON]     # here; ADVFACE_DATA names LFW's folder, if any
#   bash FOLDER/run.sh --minutes 8                 # there, in the repository's root
#
# The other machine needs Python >= 3.11, jax, flax, optax, orbax-checkpoint, numpy, h5py,
# matplotlib, pillow and, for the comparison, torch. Its results come into $OUT (or ./results).
# The faces are encoded again (quality 90, 42 dB): figures from them are not quite the files'.
set -euo pipefail
folder=${1:?"give the folder to fill"} python=${2:-.venv/bin/python}
mkdir -p "$folder/wheels"
"$python" -m pip download -q --no-deps --only-binary=:all: -d "$folder/wheels" \
  dm-pix platformdirs pooch tyro docstring-parser typeguard rich chex
"$python" - "$folder" <<'PYTHON'
import io
import lzma
import os
import sys
import zipfile
from pathlib import Path

from PIL import Image

import advface_jax
from advface_jax import weights

folder, data = Path(sys.argv[1]), os.environ.get("ADVFACE_DATA")
advface_jax.load("facenet-512-q8")  # fetched and checked, if it is not here yet
file = weights.cache_dir() / "weights" / "facenet-512-q8.tflite"
(folder / "weights.xz").write_bytes(lzma.compress(file.read_bytes(), preset=9))
if data:
    pairs = Path(data, "lists", "lfw_pairs.tsv").read_bytes()
    (folder / "pairs.xz").write_bytes(lzma.compress(pairs))
    faces = zipfile.ZipFile(Path(data, "faces", "lfw_pairs_160.zip"))
    with zipfile.ZipFile(folder / "faces.zip", "w") as packed:
        for name in faces.namelist():
            if not name.endswith("/"):
                image, smaller = Image.open(io.BytesIO(faces.read(name))), io.BytesIO()
                image.convert("RGB").save(smaller, "WEBP", quality=90)
                packed.writestr(name, smaller.getvalue())
PYTHON
cat > "$folder/run.sh" <<'RUN'
# Unpacks this folder into /tmp and runs experiments.accelerator, which gets all arguments.
here=$(dirname "$0") at=${TMPDIR:-/tmp}/advface
python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$at/site" "$here"/wheels/*.whl
mkdir -p "$at/cache/weights" "$at/data/faces" "$at/data/lists"
unpack() { python3 -c "import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())" "$1"; }
unpack "$here/weights.xz" > "$at/cache/weights/facenet-512-q8.tflite"
if [ -f "$here/faces.zip" ]; then
  cp "$here/faces.zip" "$at/data/faces/lfw_pairs_160.zip"
  unpack "$here/pairs.xz" > "$at/data/lists/lfw_pairs.tsv"
  export ADVFACE_DATA="$at/data"
fi
export PYTHONPATH="$at/site" PYTHONUNBUFFERED=1 ADVFACE_CACHE="$at/cache" JAX_COMPILATION_CACHE_DIR="$at/programs"
python3 -m experiments.accelerator --out "$at/accelerator" "$@"
mkdir -p "${OUT:=results}"
(cd "$at/accelerator" && find . \( -name trace -o -name '.batches*' \) -prune -o -type f -print | tar czf - -T -) > "$OUT/accelerator.tar.gz"
cp "$at/accelerator/accelerator.md" "$OUT/"
RUN
du -sh "$folder"

# Unpacks the folder of pack_for_device.py and runs a command of this repository from its root:
#   bash FOLDER/run.sh experiments.accelerator --minutes 8
# Its results come as $OUT/NAME.tar.gz, by default under its own name. In a command, the word SFACE is the folder of SFace's weights. A second call finds all unpacked.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) at=${TMPDIR:-/tmp}/advface command=${1:?give a command, as experiments.accelerator}
shift
export PYTHONPATH="$PWD:$at/site" PYTHONUNBUFFERED=1 ADVFACE_CACHE="$at/cache" JAX_COMPILATION_CACHE_DIR="$at/programs"
[ -d "$here/lists" ] && export ADVFACE_DATA="$at/data"
unpack() { python3 -c "import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())" "$1"; }
if [ ! -f "$at/ready" ]; then
  mkdir -p "$at/cache/weights" "$at/data/faces"
  tar xJf "$here/site.tar.xz" -C "$at"
  unpack "$here/weights.xz" > "$at/cache/weights/facenet-512-q8.tflite"
  if [ -d "$here/lists" ]; then cp -r "$here/lists" "$at/data/" && cp "$here"/*.zip "$at/data/faces/"; fi
  for sface in "$here"/*.onnx.xz; do
    [ -f "$sface" ] || continue
    unpack "$sface" > "$at/$(basename "$sface" .xz)"
    JAX_PLATFORMS=cpu python3 -m weights_convert "$at/$(basename "$sface" .xz)" -o "$at/sface"
  done
  JAX_PLATFORMS=cpu python3 - "$here" <<'PYTHON'
import io
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from advface_jax import checkpoint, weights

for file in Path(sys.argv[1]).glob("*.npz.xz"):
    name = file.name.removesuffix(".npz.xz")
    kept = np.load(io.BytesIO(lzma.open(file).read()))
    flat = {leaf: kept[leaf] for leaf in kept.files if leaf[:2] not in ("q:", "s:")}
    for leaf in (one[2:] for one in kept.files if one.startswith("q:")):
        flat[leaf] = kept[f"q:{leaf}"].astype(np.float32) * kept[f"s:{leaf}"]
    card = json.loads(file.with_name(f"{name}.json").read_text())
    checkpoint.save(weights.cache_dir() / "checkpoints" / name, checkpoint.nest(flat), card)
PYTHON
  touch "$at/ready"
fi
name=${NAME:-${command##*.}}
python3 -m "$command" --out "$at/results/$name" "${@/#SFACE/$at/sface}" && rc=0 || rc=$?
mkdir -p "${OUT:=results}"
(cd "$at/results/$name" && find . \( -name trace -o -name '.batches*' -o -name '*.np[yz]' \) -prune -o -type f -print | tar czf - -T -) > "$OUT/$name.tar.gz"
exit $rc

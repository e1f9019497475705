"""Lists, tables and protocols."""

from __future__ import annotations

import numpy as np

from experiments.fuzzing.seeds import Files, written


def pair_list() -> list[Files]:
    texts = (
        "fold\tsame\tfile1\tfile2\n1\t1\ta/1.jpg\ta/2.jpg\n2\t0\ta/1.jpg\tb/1.jpg\n",
        "sep=;\nFold;Same;File1;File2\n1;true;\"a;1.jpg\";'a'\n",
        "2\t1\nA B\t1\t2\nA\t1\tB\t3\nC 1 2\nC\t1\tD\t2\n".replace(" ", "_"),
        "fold,same,file1,file2\r\n1,0,ä.jpg,b.jpg\r\n",
    )
    found = [{"w": text.encode()} for text in texts]
    return [*found, {"w": texts[0].encode("utf-16")}, {"w": texts[3].encode("cp1252")}]


def listing() -> list[Files]:
    texts = (
        "file\tidentity\tlfw_lookalike\nA/1.png\tA\t-\nA/2.png\tA\tB\n",
        "identity,file\nA,A/1.png\n",
    )
    return [{"w": text.encode()} for text in texts]


def cfp() -> list[Files]:
    lists = {
        f"Protocol/Pair_list_{view}.txt": "".join(
            f"{i} ../Data/Images/{i:03d}/{folder}/01.jpg\n" for i in range(1, 4)
        ).encode()
        for view, folder in (("F", "frontal"), ("P", "profile"))
    }
    splits = {
        f"Protocol/Split/FP/{fold:02d}/{kind}.txt": b"1,1\n2,3\n"
        for fold in (1, 2)
        for kind in ("same", "diff")
    }
    return [lists | splits]


def mat() -> list[Files]:
    from scipy.io import savemat  # comes with JAX

    def struct_of(**fields: object) -> np.ndarray:
        one = np.empty((1, 1), [(name, object) for name in fields])
        for name, value in fields.items():
            one[name][0, 0] = value
        return one

    splits = np.empty((2, 1), object)
    for fold in range(2):
        images = np.empty((2, 2), object)
        for at in np.ndindex(2, 2):
            images[at] = struct_of(name=f"{at[0]}_{at[1]}_A", age=30.0)
        splits[fold, 0] = struct_of(pair=images, same=np.array([[1.0, -1.0]]))

    def make(packed: bool) -> Files:
        return written("w.mat", lambda p: savemat(p, {"splits": splits}, do_compression=packed))

    return [make(False), make(True)]


def identities() -> list[Files]:
    from advface_jax.data import leaks

    return [written("w", lambda path: leaks.write_identities(path, ["Ann_Lee", "Bo_Ek", "12"]))]


def crop_report() -> list[Files]:
    head = "file\tcrop\tstatus\tfaces\tsize\tbox_x1y1x2y2\tprobability\tlandmarks_5xy\tpadding\n"
    row = "a.jpg\tA/a.png\tcropped\t1\t9x9\t1,2,3,4\t0.9\t1,2\t0\n"
    return [{"crops.tsv": (head + row * 2).encode()}]

"""The work of ``advface_jax.protect``, and of training a decoder, in PyTorch.

Stands alone: a Python with torch and numpy runs this file, without JAX or this project.
``experiments.benchmark.peer`` starts it, passes arrays in .npz files (nothing is unpickled) and
exchanges lines of JSON with it, so that the runs of both can take turns. Parameters are ours:
kernels (h,w,in,out), batch norm on the batch's statistics with eps 1e-3.
"""

import functools
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def conv(w, name, x, padding=1, stride=1):
    return F.conv2d(x, w[f"{name}.kernel"], w.get(f"{name}.bias"), stride, padding)


def norm(w, name, y):
    scale, bias = w[f"{name}.scale"], w[f"{name}.bias"]
    return F.batch_norm(y, None, None, scale, bias, training=True, eps=1e-3)


def layer(w, name, x):
    return norm(w, f"{name}.bn", conv(w, f"{name}.conv", x))


def up(w, name, x, stride, size):
    y = F.conv_transpose2d(x, w[f"{name}.kernel"], w.get(f"{name}.bias"), stride)
    return y[:, :, :size, :size]


def up_layer(w, name, x, stride, size):
    return F.relu(norm(w, f"{name}.bn", up(w, f"{name}.conv", x, stride, size)))


def transrec(w, z):
    return F.relu(layer(w, "conv_2b", z))


def resrec(w, z):
    x = F.relu(layer(w, "stem", z))
    for i in range(sum(name.endswith(".0.conv.kernel") for name in w)):
        y = F.relu(layer(w, f"blocks.{i}.0", x))
        x = F.relu(x + layer(w, f"blocks.{i}.1", y))
    return x


def urec(w, z):
    depth = sum(name.startswith("down.") and name.endswith("kernel") for name in w)
    x = F.relu(layer(w, "stem", z))
    skips = []
    for i in range(depth):
        skips.append(x)
        x = F.relu(layer(w, f"down.{i}", F.max_pool2d(x, 2)))
    for i in reversed(range(depth)):
        x = up_layer(w, f"up.{i}", x, 2, skips[i].shape[-1])
        x = F.relu(layer(w, f"merge.{i}", torch.cat([skips[i], x], 1)))
    return x


BODIES = {"transrec": transrec, "resrec": resrec, "urec": urec}


def shadow(body, w, z):
    """S: features (b,64,77,77) to images (b,3,160,160)."""
    y = up_layer(w, "conv_2a", body(w, z), 1, 79)
    # The edge once more; of torch 2.13's own "replicate" the compiled gradient fails.
    y = torch.cat([y, y[:, :, -1:]], 2)
    y = torch.cat([y, y[:, :, :, -1:]], 3)
    return torch.sigmoid(up(w, "conv_1a", y, 2, 160))


def extractor(w, x):
    """E, batch norm folded in: images to features."""
    x = F.relu(conv(w, "conv2d_1a.conv", (255 * x - 127.5) / 128, 0, 2))
    x = F.relu(conv(w, "conv2d_2a.conv", x, 0))
    return F.relu(conv(w, "conv2d_2b.conv", x, 1))


def tensor(name, array):
    """A weight as PyTorch has it: kernels (h,w,in,out) as (out,in,h,w), of transposed convolutions
    as (in,out,h,w)."""
    if array.ndim < 4:
        return torch.from_numpy(array)
    mirrored = any(part in name for part in ("conv_2a", "conv_1a", "up."))
    return torch.from_numpy(array).permute((2, 3, 0, 1) if mirrored else (3, 2, 0, 1))


def gradient(decode, x_tilde, q):
    """The gradient of |S(q) - x~|_1 in q; traceable as a whole."""
    image, vjp = torch.func.vjp(decode, q)
    return vjp(torch.sign(image - x_tilde))[0]


def taped_gradient(decode, x_tilde, q):
    """The same by the usual tape."""
    with torch.enable_grad():
        q = q.detach().requires_grad_()
        image = decode(q)
        return torch.autograd.grad(image, q, torch.sign(image.detach() - x_tilde))[0]


def _replayed(program) -> Any:
    """A program of CUDA graphs, whose next replay overwrites its results: they are copied."""

    def run(*arguments):
        torch.compiler.cudagraph_mark_step_begin()
        found = program(*arguments)
        return found.clone() if torch.is_tensor(found) else tuple(t.clone() for t in found)

    return run


class Given:
    """A file's arrays, and how to compute with them: dtype, memory layout, compiled or not."""

    def __init__(self, file, dtype, precision, variant):
        how, _, layout = variant.partition("+")
        self.eager, self.whole = how == "eager", how in ("step", "tuned")
        self.mode = "max-autotune" if how == "tuned" else None  # with CUDA's graphs
        self.format = torch.channels_last if layout else torch.contiguous_format
        self.dtype, self.exact = getattr(torch, dtype), precision == "highest"
        self.multiply()  # compiled code depends on it
        with np.load(file, allow_pickle=False) as arrays:
            self.arrays = dict(arrays)

    def multiply(self):
        """Switches of the whole process, before each use; JAX, too, rounds float32 by default."""
        torch.set_float32_matmul_precision("highest" if self.exact else "high")
        torch.backends.cudnn.allow_tf32 = not self.exact

    def compiled(self, f) -> Any:
        if self.eager:
            return f
        made = torch.compile(f, dynamic=False, mode=self.mode)
        return _replayed(made) if self.mode else made

    def image(self, name):
        """(b,h,w,c) to the device, (b,c,h,w)."""
        tensor = torch.from_numpy(self.arrays[name]).to(DEVICE, self.dtype).permute(0, 3, 1, 2)
        return tensor.contiguous(memory_format=self.format)

    def weights(self, prefix):
        """A network's, or its gradient, by the names behind ``prefix``."""
        found = {}
        for name, array in ((n, a) for n, a in self.arrays.items() if n.startswith(prefix)):
            weight = tensor(name, array)
            if weight.ndim == 4:
                weight = weight.contiguous(memory_format=self.format)
            # Batch norm's parameters stay in float32, as ours do.
            dtype = torch.float32 if ".bn." in name else self.dtype
            found[name.removeprefix(prefix)] = weight.to(DEVICE, dtype)
        return found


class Protect(Given):
    """One decoder at one batch and dtype: "eager", "compile" (the network), "step" (the whole
    iteration compiled) or "tuned" (the same at most effort), with or without "+channels_last"."""

    def __init__(self, file, kind, dtype, precision, alpha, epsilon, variant):
        super().__init__(file, dtype, precision, variant)
        self.z, self.x_tilde, self.z_tilde, self.theirs = map(
            self.image, ("z", "x_tilde", "z_tilde", "gradient")
        )
        decode = functools.partial(shadow, BODIES[kind], self.weights("shadow."))
        extract = functools.partial(extractor, self.weights("extractor."))

        def advance(q, slope, low, high):
            return torch.clamp(q + alpha * torch.sign(slope), low, high)

        def begin(z):
            x_tilde = decode(z)
            z_tilde = extract(x_tilde)
            return x_tilde, z_tilde, z_tilde - epsilon, z_tilde + epsilon

        if whole := self.whole:
            differentiate, network, move = gradient, decode, advance
        else:  # the network is compiled, and its gradient with it
            differentiate, network = taped_gradient, self.compiled(decode)
            move = self.compiled(advance)

        def slope(x_tilde, q):
            return differentiate(network, x_tilde, q)

        def step(q, x_tilde, low, high):
            return move(q, slope(x_tilde, q), low, high)

        self.step = self.compiled(step) if whole else step
        self.slope = self.compiled(slope) if whole else slope  # alone, for the check
        self.begin = self.compiled(begin)

    def check(self):
        """How far the round trip and the first gradient are from the caller's."""
        x_tilde, z_tilde, _, _ = self.begin(self.z)
        ours = self.slope(self.x_tilde, self.z_tilde)
        return {
            **_compared(ours, self.theirs, (self.theirs != 0) | (ours != 0)),
            "x_tilde_error": _apart(x_tilde, self.x_tilde),
            "z_tilde_error": _apart(z_tilde, self.z_tilde),
        }

    def run(self, steps):
        x_tilde, q, low, high = self.begin(self.z)
        for _ in range(steps):
            q = self.step(q, x_tilde, low, high)
        return q


class Training(Given):
    """Steps of training a decoder at one batch: E's features, the L1 loss, Adam; float32. Unless
    "eager", the loss is compiled, and its gradient with it."""

    def __init__(self, file, kind, precision, learning_rate, variant):
        super().__init__(file, "float32", precision, variant)
        self.x, self.theirs = self.image("images"), self.weights("gradient.")
        weights = self.weights("shadow.")
        self.w = {name: weights[name].requires_grad_() for name in self.theirs}
        extract = functools.partial(extractor, self.weights("extractor."))
        self.optimizer = torch.optim.Adam(self.w.values(), lr=learning_rate)

        def loss(w, x):
            with torch.no_grad():
                z = extract(x)
            return (shadow(BODIES[kind], w, z) - x).abs().mean()

        self.loss = self.compiled(loss)

    def _backward(self):
        with torch.enable_grad():
            self.optimizer.zero_grad()
            self.loss(self.w, self.x).backward()

    def check(self):
        """How far the first gradient, of all weights, is from the caller's."""
        self._backward()
        ours = torch.cat([w.grad.flatten() for w in self.w.values()])
        return _compared(ours, torch.cat([self.theirs[name].flatten() for name in self.w]))

    def run(self, steps):
        for _ in range(steps):
            self._backward()
            self.optimizer.step()


def _compared(ours, theirs, where=...):
    equal = (ours.sign() == theirs.sign())[where].float().mean()
    return {"equal_signs": float(equal), "gradient_error": _apart(ours, theirs)}


def _apart(a, b):
    """The difference's norm in that of ``b``."""
    a, b = a.float(), b.float()
    return float((a - b).norm() / b.norm())


def _timed(case, call, *given):
    """The result, seconds by the clock and of processor time."""
    case.multiply()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(*given)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _peak_bytes():
    """Of this run on an accelerator, of this whole process on a CPU."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not fall between the answers
    known = hasattr(os, "sched_getaffinity")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1)
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 1000  # one program for each case
    cases, kinds = {}, {"protect": Protect, "train": Training}

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    answer(torch=torch.__version__, device=DEVICE, name=name, threads=torch.get_num_threads())
    for line in sys.stdin:
        asked = json.loads(line)
        do, name = asked.pop("do"), asked.pop("case")
        try:
            with torch.no_grad():
                if do in kinds:
                    case = cases[name] = kinds[do](**asked)
                    found, wall, _ = _timed(case, case.check)
                    _, more, _ = _timed(case, case.run, 2)  # which may compile again
                    answer(compile_s=wall + more, **found)
                else:
                    _, wall, cpu = _timed(cases[name], cases[name].run, asked["steps"])
                    answer(wall=wall, cpu=cpu, peak_bytes=_peak_bytes())
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()

"""The house's rules: which room may import which, a light import, a whole wheel, plain locks."""

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("advface_jax", "experiments", "weights_convert")

# Of experiments; a file is a command.
ROOMS = ("measure", "page", "plots", "train", "attack", "decoy", "benchmark", "reproduction")
ROOMS += ("fuzzing", "fault")

# Each room imports these of our modules, itself and no others; the longest matching room decides.
MAY_IMPORT = {
    "advface_jax": ("advface_jax",),
    "advface_jax.checks": (),
    "advface_jax.untrusted": (),  # a leaf for all readers of files
    "advface_jax.protobuf": ("advface_jax.untrusted",),
    "advface_jax.checkpoint": (
        "advface_jax.runtime",
        "advface_jax.untrusted",
    ),  # whether JAX has a backend
    "advface_jax.metrics": ("advface_jax.checks",),
    "advface_jax.sharding": (),
    "advface_jax.networks": (),
    "advface_jax.weights": (),
    "advface_jax.ball": (),
    "advface_jax.gradient": ("advface_jax.ball", "advface_jax.checks"),
    "advface_jax.runtime": ("advface_jax.sharding",),
    "advface_jax.cli": ("advface_jax.runtime", "advface_jax.stopping"),
    "advface_jax.lock": (),
    "advface_jax.stopping": (),
    "advface_jax.models": ("advface_jax.checks", "advface_jax.untrusted"),
    "advface_jax.models.layers": ("advface_jax.models.fast.convolution",),
    "advface_jax.models.fast": ("advface_jax.models", "advface_jax.sharding"),
    "advface_jax.models.fast.convolution": (
        "advface_jax.sharding",  # how many cores a CPU has
        "advface_jax.models.fast.winograd",
    ),
    "advface_jax.models.fast.winograd": (),
    "advface_jax.protect": (
        "advface_jax.checks",
        "advface_jax.gradient",
        "advface_jax.models",
        "advface_jax.networks",
        "advface_jax.sharding",
    ),
    "advface_jax.memory": ("advface_jax.checks", "advface_jax.models", "advface_jax.protect"),
    "advface_jax.keys": ("advface_jax.checks",),
    "advface_jax.decoy_ascent": ("advface_jax.ball", "advface_jax.sharding"),
    "advface_jax.decoy": (
        "advface_jax.checks",
        "advface_jax.decoy_ascent",
        "advface_jax.networks",
        "advface_jax.sharding",
    ),
    "advface_jax.defenses": (
        "advface_jax.checks",
        "advface_jax.decoy",
        "advface_jax.gradient",
        "advface_jax.networks",
        "advface_jax.protect",
    ),
    "advface_jax.attacks": (
        "advface_jax.checks",
        "advface_jax.data",
        "advface_jax.defenses",
        "advface_jax.gradient",
        "advface_jax.models",
        "advface_jax.networks",
        "advface_jax.training",
    ),
    # Loading needs jax alone: the file's module imports nothing of ours, and the room no system.
    "advface_jax.export": (
        "advface_jax.checks",
        "advface_jax.decoy",
        "advface_jax.models",
        "advface_jax.networks",
        "advface_jax.protect",
        "advface_jax.system",  # for types alone
        "advface_jax.untrusted",
    ),
    "advface_jax.export.artefact": (),
    "advface_jax.sealing": (),
    # The service: what it stores, decides and serves. Nothing else of the library knows it.
    "advface_jax.service": (
        "advface_jax.data",
        "advface_jax.decoy",
        "advface_jax.decoy_faces",
        "advface_jax.defenses",
        "advface_jax.detection",
        "advface_jax.keys",
        "advface_jax.metrics",
        "advface_jax.protect",
        "advface_jax.runtime",
        "advface_jax.sealing",
        "advface_jax.stopping",
        "advface_jax.system",
    ),
    "advface_jax.service.store": ("advface_jax.sealing",),
    # Photographs need a network to become faces; data knows none, so the detector lies beside it.
    "advface_jax.detection": (
        "advface_jax.checkpoint",
        "advface_jax.checks",
        "advface_jax.models",
        "advface_jax.weights",
    ),
    "advface_jax.data": (
        "advface_jax.checks",
        "advface_jax.lock",
        "advface_jax.protobuf",
        "advface_jax.untrusted",
    ),
    "advface_jax.data.feature_sets": (
        "advface_jax.checks",
        "advface_jax.data",
        "advface_jax.lock",
        "advface_jax.stopping",
        "advface_jax.untrusted",
    ),
    "experiments": ("advface_jax",),
    **{f"experiments.{room}": ("advface_jax", "experiments.measure") for room in ROOMS},
    **{
        f"experiments.{room}": ("advface_jax", "experiments.measure", "experiments.plots")
        for room in ("train", "benchmark")
    },
    "experiments.page": ("advface_jax",),  # pages know texts and rows, not who made them
    "experiments.measure": ("advface_jax", "experiments.page"),
    "experiments.attack": (
        "advface_jax",
        "experiments.measure",
        "experiments.plots",
        "experiments.train",
    ),
    "experiments.decoy": (
        "advface_jax",
        "experiments.measure",
        "experiments.attack",
        "experiments.plots",
    ),
    "experiments.fuzzing": ("advface_jax", "weights_convert"),  # all readers of files
    "experiments.reproduction": (
        "advface_jax",
        "experiments.measure",
        "experiments.page",
        "experiments.attack",
    ),
    "weights_convert": ("advface_jax",),
}
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-floor.lock")
NEVER_IN_THE_LIBRARY = ("torch", "torchvision", "tensorflow", "keras")
WITHOUT_TENSORFLOW = ("tensorflow-datasets", "tensorflow-metadata")  # need none, despite the name


def under(module, room):
    return module == room or module.startswith(room + ".")


def modules():
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, path.read_text("utf-8")


def imports(name, source):
    """Every module that `source` names in an import, wherever in it the import stands."""
    package = (
        name.removesuffix(".__init__") if name.endswith("__init__") else name.rpartition(".")[0]
    )
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(dots, package)
            for alias in node.names:  # `from advface_jax import metrics` names a module too
                inner = f"{base}.{alias.name}"
                yield inner if base.startswith(OURS) and is_module(inner) else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.endswith(("import_module", "__import__", "run_module")):
                yield importlib.util.resolve_name(str(node.args[0].value), package)


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def wrong_imports(name, source):
    room = max((r for r in MAY_IMPORT if under(name, r)), key=len)
    allowed = (*MAY_IMPORT[room], room if room != "experiments" else "experiments.nothing")
    if room == "experiments":  # a command: any room, and no other command
        allowed += tuple(f"experiments.{r}" for r in ROOMS)
    for found in imports(name, source):
        if any(under(found, ours) for ours in OURS):
            if not any(under(found, one) for one in allowed):
                yield found
        elif name.startswith("advface_jax") and any(under(found, n) for n in NEVER_IN_THE_LIBRARY):
            yield found


def test_nothing_is_imported_in_a_circle():
    """Imports inside functions and for types alone count too; the error names the circle."""
    arrows = {n.removesuffix(".__init__"): [*imports(n, source)] for n, source in modules()}
    graphlib.TopologicalSorter(arrows).prepare()


def test_a_circle_is_seen():
    hidden = "if TYPE_CHECKING:\n    from . import ball\ndef f():\n    from . import gradient"
    one = {"advface_jax.metrics": [*imports("advface_jax.metrics", hidden)]}
    for other in ("advface_jax.ball", "advface_jax.gradient"):
        with pytest.raises(graphlib.CycleError):
            graphlib.TopologicalSorter(one | {other: ["advface_jax.metrics"]}).prepare()


def test_imports_follow_the_arrows():
    wrong = {n: w for n, source in modules() if (w := list(wrong_imports(n, source)))}
    assert not wrong, f"imports against the arrows of MAY_IMPORT: {wrong}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("advface_jax.metrics", "from advface_jax import gradient"),
        ("advface_jax.metrics", "from . import gradient"),
        ("advface_jax.metrics", "from .models.layers import conv"),
        ("advface_jax.models.layers", "import advface_jax.models.facenet"),
        ("advface_jax.models.facenet", "from ..protect import protect"),
        ("advface_jax.protect", "def f():\n    from advface_jax.data import faces"),
        ("advface_jax.data.faces", "from advface_jax.models import facenet"),
        ("advface_jax.__init__", "from . import models, weights_convert as w\nimport experiments"),
        ("advface_jax.system", "def f():\n    import torch.nn"),
        ("advface_jax.system", "import importlib\nimportlib.import_module('tensorflow.io')"),
        ("advface_jax.system", "from importlib import import_module as i\n__import__('torch')"),
        ("weights_convert.rules", "from experiments import tradeoff"),
        ("experiments.tradeoff", "from weights_convert.rules import convert"),
        ("experiments.transfer", "from experiments import tradeoff"),
        ("experiments.measure.table", "from experiments.train import run"),
        ("experiments.train.run", "from experiments.train_decoder import main"),
    ],
)
def test_an_import_against_the_arrows_is_seen(name, source):
    assert list(wrong_imports(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("advface_jax.models.facenet", "from .layers import conv\nimport flax.nnx as nnx"),
        ("advface_jax.protect", "from advface_jax import gradient, models"),
        ("advface_jax.data.__init__", "from . import faces"),
        ("weights_convert.sources.torch", "import torch"),
        ("experiments.tradeoff", "import advface_jax\nfrom advface_jax import metrics"),
        (
            "experiments.reuse",
            "from experiments.train import run\nfrom experiments.measure import table",
        ),
    ],
)
def test_an_import_along_the_arrows_is_allowed(name, source):
    assert not list(wrong_imports(name, source))


def without_encoding(source):
    """The lines that open a text file in whatever encoding the machine has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "encoding" not in {k.arg for k in node.keywords}:
            called, words = ast.unparse(node.func), [ast.unparse(a) for a in node.args]
            opens = called in ("open", "os.fdopen") and not any("b'" in w for w in words[1:])
            of_a_path = called.endswith(".open") and words[:1] in (["'r'"], ["'w'"], ["'a'"])
            if opens or of_a_path or called.endswith((".write_text", ".read_text")):
                yield node.lineno


def test_text_files_are_utf_8_whatever_the_machine_has():
    kinds = "open(p)\np.open('w')\nos.fdopen(1, 'w')\np.write_text(t)\np.read_text()"
    assert list(without_encoding(kinds)) == [1, 2, 3, 4, 5]
    assert not list(without_encoding("open(p, 'rb')\np.open()\nopen(p, encoding='utf-8')"))
    wrong = {n: lines for n, source in modules() if (lines := list(without_encoding(source)))}
    assert not wrong, f"these lines lack encoding=: {wrong}"


def run_python(code, **options):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_library_is_light_and_compiles_nothing():
    """No more than JAX and NumPy is loaded, which takes about a second; the rest waits for use."""
    heavy = {"chex", "dm_pix", "flax", "h5py", "matplotlib", "optax", "orbax", "PIL", "pooch"}
    heavy |= {"rich", "safetensors", "scipy", "skimage", "tensorstore", "tyro"}
    heavy |= {"array_record", "grain", "pyarrow", "tensorflow_datasets"}
    loaded = run_python(
        "import sys, advface_jax\n"
        "assert advface_jax.__file__, 'advface_jax has no __init__.py'\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized(), 'the import started a JAX backend'\n"
        "print(*{name.partition('.')[0] for name in sys.modules})",
        cwd=ROOT,
    )
    assert not heavy & set(loaded)


def test_what_few_need_is_imported_late():
    loaded = run_python(
        "import sys, advface_jax.system, experiments.tradeoff, weights_convert.__main__\n"
        "print(*sys.modules)",
        cwd=ROOT,
    )
    assert not {
        "matplotlib",
        "h5py",
        "pooch",
        "tensorflow_datasets",
        "grain",
        "cryptography",
        "fastapi",
        "onnx",
    } & set(loaded)


def test_modules_are_there_after_a_bare_import():
    names = ("attacks", "data", "defenses", "memory", "metrics", "models", "system", "training")
    run_python(
        "import advface_jax, types\n"
        f"for name in {names}:\n"
        "    assert name in dir(advface_jax), name\n"
        "    assert isinstance(getattr(advface_jax, name), types.ModuleType), name\n"
        "assert callable(advface_jax.load) and callable(advface_jax.memory.largest_batch)\n"
        "assert callable(advface_jax.protect) and advface_jax.__version__[0].isdigit()\n"
        "assert not hasattr(advface_jax, 'nonsense')",
        cwd=ROOT,
    )


def test_the_wheel_is_whole_and_imports_outside_the_tree(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    in_tree = {p.relative_to(ROOT) for o in OURS for p in (ROOT / o).rglob("*") if p.is_file()}
    in_wheel = {p.relative_to(site) for p in site.rglob("*") if p.is_file()}
    missing = {p for p in in_tree if p.suffix != ".pyc"} - in_wheel
    assert not missing, f"the wheel lacks {sorted(map(str, missing))}"
    (about,) = site.glob("*.dist-info/METADATA")
    assert not re.search(r"\]\((?!https?:|#)", about.read_text("utf-8")), "links into the tree"
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    assert "advface = advface_jax.__main__:main" in scripts.read_text("utf-8")
    places = run_python(
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        f"import importlib; print(*(importlib.import_module(n).__file__ for n in {OURS}))",
        cwd=tmp_path,
    )
    assert all(Path(place).is_relative_to(site) for place in places)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_current_and_name_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text and "--" not in re.sub("--hash=sha256:", "", text)
    pinned = {m.group(1) for m in re.finditer(r"^([a-z0-9-]+)==", text, re.MULTILINE)}
    assert not [
        name
        for name in pinned
        if name.startswith(("torch", "tensorflow", "nvidia")) and name not in WITHOUT_TENSORFLOW
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"]
    if lock != "requirements.lock":
        ours = [line for line in extras["dev"] if line.startswith("advface_jax[")]
        assert ours == ["advface_jax[data,docs,export,client,serve]"]
        others = [line for line in extras["dev"] if line not in ours]
        wanted = wanted + others + extras["data"] + extras["keys"] + extras["docs"]
    names = {re.split(r"[\[<>=;]", line)[0].replace("_", "-") for line in wanted}
    assert names <= pinned, f"{lock} lacks {names - pinned}: run `make lock`"


def test_the_floors_are_tested():
    """Each dependency's lower limit is what ``make test-floor`` installs, and none has an upper."""
    text = (ROOT / "requirements-floor.lock").read_text()
    pins = re.findall(r"^([a-z0-9-]+)==([0-9.]+)", text, re.MULTILINE)
    tested = dict(reversed(pins))  # the first of several is that of the oldest Python
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for line in wanted:
        name, floor = line.split(">=")
        assert f"{tested[name]}.".startswith(f"{floor}."), f"{line}: run `make lock`"

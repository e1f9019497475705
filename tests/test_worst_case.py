"""Every defence against every attack: the rows, the worst of them, floors, the sealed reference."""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Small, filled, system_of
from tables import given, is_picture, small_sample, written

from advface_jax import attacks, data, defenses
from advface_jax.defenses import decoys
from experiments import worst_case
from experiments.attack import attackers, case_rows, duetface_case, guessing, joining
from experiments.attack import rows as worst
from experiments.attack.adaptive import Adaptive
from experiments.attack.attacking import Photographs, attacked
from experiments.attack.floors import FLOORS
from experiments.attack.knowing import Against, Known, World, built
from experiments.attack.public_faces import PublicFaces
from experiments.attack.trained import full
from experiments.measure import decoders, decoyed, inputs
from experiments.measure.compared import Case, case
from experiments.measure.judging import keys_of
from experiments.measure.sample import Ascent
from experiments.measure.table import publish
from experiments.plots import pareto

FIELDS = {
    *("defence", "attack", "knows", "ssim", "psnr", "lpips", "type1", "type2"),
    *("tar_far_1e-2", "rank1", "acc", "n", "ssim_ci", "rank1_ci", "acc_ci"),
}

METHODS = ("AdvFace", "AdvFace (FGSM)", "AdvFace (MI-FGSM)")
SEALED = tuple(f"Sealed (AES-GCM), key {k}" for k in ("safe", "stolen"))
EVERY = ("Unprotected", "Random (ball)", "Laplace", *METHODS, *decoyed.NAMES, *FLOORS)


def recogniser(seed):
    return system_of(filled(lambda: Small(rngs=nnx.Rngs(0)), seed), f"{seed:02}", f"seed {seed}")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoders")
    return {role: written(place, "resrec", role) for role in ("shadow", "attacker")}


def world(files):
    system = dataclasses.replace(recogniser(5), card={"source": "random", "sha256": "00"})
    public = data.synthetic_faces(12, 4, names=[*data.synthetic_names(12, 4)][16:])
    attacker = decoders.decoder(system, files["attacker"], "attacker")
    return World(system, (recogniser(6),), attacker, public, 4)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, files):
    out = tmp_path_factory.mktemp("out")
    run = functools.partial(
        worst_case.table, world(files), given(), small_sample(out), Ascent(steps=2)
    )
    with (
        pytest.MonkeyPatch.context() as patched,
        jax.numpy_dtype_promotion("standard"),  # Adam's, as in test_train
    ):
        patched.setattr(decoyed, "DRAWN", 3)
        patched.setattr(decoyed, "LEARNT", 3)
        sealed = SEALED if importlib.util.find_spec("cryptography") else ()
        return run(*files.values(), epochs=1, only=(*EVERY, *sealed)), out


def by_attack(table, defence):
    return {r["attack"]: r for r in table.rows if r["defence"] == defence}


@pytest.mark.slow
@pytest.mark.long
def test_every_defence_meets_every_attack(measured):
    table, out = measured
    names = list(dict.fromkeys(r["defence"] for r in table.rows))
    assert names[:2] == ["Unprotected", "Random (ball)"] and names[-2:] == [*FLOORS]
    assert {*METHODS, *decoyed.NAMES} <= {*names} and "Random (walk)" not in names
    adv = by_attack(table, "AdvFace")
    assert len(adv) == 19 and "R', adaptive" in adv
    assert adv["R', adaptive"]["knows"] == ["extractor", "defense", "shadow"]
    assert adv["R, denoised, own S"]["knows"] == ["extractor", "defense"]
    assert by_attack(table, "Laplace")["R', adaptive"]["knows"] == ["extractor", "defense"]
    for r in adv.values():
        assert FIELDS - {"ssim_ci"} <= r.keys() and r["n"] == 8
        assert (r["ssim"] is None) == (r["reads"] == "identity")
        assert 0 <= r["rank1"] <= 1 and r["rank1_ci"][0] <= r["rank1"] <= r["rank1_ci"][1]
    assert by_attack(table, "Unprotected")["Ψ"]["cosine"] == pytest.approx(1, abs=1e-5)
    ignorant, template = (by_attack(table, one) for one in FLOORS)
    assert set(ignorant) == {"mean face", "shuffled people"}
    assert ignorant["shuffled people"]["cosine"] < 1
    assert template["template"]["cosine"] == pytest.approx(1, abs=1e-5)
    publish(table, out)
    document = json.loads((out / "worst_case.json").read_text())
    assert len(document["rows"]) == len(table.rows)
    assert is_picture(out / "worst_case.png")
    assert (out / "leaderboard.md").read_text().count("AdvFace (MI-FGSM)") == 1


@pytest.mark.slow
@pytest.mark.long
def test_sealed_features_say_nothing_until_the_key_is_stolen(measured):
    pytest.importorskip("cryptography")
    table, _ = measured
    safe, stolen = (by_attack(table, name) for name in SEALED)
    bare = by_attack(table, "Unprotected")
    assert safe["Ψ"]["cosine"] < stolen["Ψ"]["cosine"] - 0.1
    assert stolen["Ψ"]["cosine"] == pytest.approx(bare["Ψ"]["cosine"], abs=1e-2)
    assert safe["Ψ"]["acc"] == stolen["Ψ"]["acc"] == bare["Ψ"]["acc"], "the server has the key"
    assert safe["R"]["cost"]["extra_bytes"] == 28


def test_what_is_measured_stays_measured(tmp_path):
    place, rows = case_rows.file(tmp_path, "Random (ball)"), [{"attack": "R", "ssim": 0.5}]
    assert case_rows.read(place, {"seed": 0}, "light") is None
    case_rows.write(place, {"seed": 0, "folds": (1, 2)}, "full", rows, 3.0)
    kept = case_rows.read(place, {"seed": 0, "folds": (1, 2)}, "light")
    assert kept and kept[:2] == (rows, 3.0), "full has what light asks"
    assert case_rows.read(place, {"seed": 1, "folds": (1, 2)}, "full") is None
    case_rows.write(place, {"seed": 0}, "light", rows, 3.0)
    assert case_rows.read(place, {"seed": 0}, "full") is None
    place.write_text("{")
    assert case_rows.read(place, {"seed": 0}, "light") is None, "damaged"
    assert place.name == "random-ball.json"


def test_rows_of_other_pairs_of_the_same_faces_are_not_taken(files, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(case_rows, "read", lambda file, key, level: asked.append(key))
    monkeypatch.setattr(worst_case, "_measured", lambda *given: case_rows.Kept([], 0.0, ""))
    faces = given()
    for seed in (0, 1, 0):
        of = faces._replace(pairs=inputs.draw(faces.faces, None, seed))
        more = small_sample(tmp_path), Ascent(steps=1)
        with pytest.raises(IndexError):  # a table of no row
            worst_case.table(world(files), of, *more, **files, only=FLOORS[:1])
    first, second, again = asked[:: len(asked) // 3]
    assert first == again != second
    differing = {k for k in first if first[k] != second[k]}
    assert differing == {"pairs_sha256"}


def test_two_defences_do_not_share_a_file():
    worst_case._check_names(["AdvFace", "噪声", "шум", "Ψ", "Random (ball)"])
    for two in (("AdvFace", "AdvFace"), ("Noise 0.1", "Noise 0,1")):
        with pytest.raises(ValueError, match="wanted a name of its own"):
            worst_case._check_names(two)


def test_what_is_kept_is_of_these_attackers_and_this_code(tmp_path, monkeypatch):
    labels = [joining.label(one) for one in attackers.ON_FEATURES]
    assert len({*labels}) == len(labels) and not any(" at 0x" in one for one in labels)
    assert joining.label(Adaptive(tmp_path, 1)).endswith("R', adaptive")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_work.py").write_text("def mine(known): return 1\n")
    first = joining.source_sum(joining.function("their_work:mine", "attack"))
    (tmp_path / "their_work.py").write_text("def mine(known): return 2\n")
    assert first != joining.source_sum(joining.function("their_work:mine", "attack"))
    assert joining.source_sum(len) is None
    partial = functools.partial(joining.function("their_work:mine", "attack"), 2)
    assert joining.source_sum(partial) and joining.label(partial).endswith("[2]")
    assert joining.source_sum(Adaptive(tmp_path, 1))


def test_an_adaptive_decoder_of_another_shadow_is_another_one(files, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr("experiments.attack.adaptive._Training", lambda *given: given[-1])
    monkeypatch.setattr(
        "experiments.attack.adaptive.Place", lambda out, *_, **__: places.append(out)
    )
    ours = world(files)
    shadows = [decoders.decoder(ours.system, files[role], role) for role in files]
    for shadow in (shadows[0], shadows[1], shadows[0]):
        made = defenses.advface(extractor=ours.system.extractor, shadow=shadow)
        with pytest.raises(AttributeError):  # nothing is trained here
            Adaptive(tmp_path, 1)(Known(ours, case(made, ours.system.network, 0.2)))
    assert places[0] == places[2] != places[1]


def test_attackers_have_no_measured_face(files):
    ours, faces = world(files), given()[0]
    assert not inputs.shared(ours.public, faces, "refuse")["shared_images"]
    with pytest.raises(ValueError, match="the attackers' faces"):
        inputs.shared(faces, faces, "refuse")


def test_further_attackers_have_names_of_their_own(tmp_path):
    trained = [one for one in full(tmp_path, 1) if isinstance(one, Adaptive)]
    names = [Adaptive(tmp_path, 1).name, *(one.name for one in trained)]
    assert names[:2] == ["R', adaptive", "R', from scratch"] and "R', own S" in names
    assert len({case_rows.slug(name) for name in names}) == len(names), "a folder each"
    assert len(full(tmp_path, 0)) == len(full(tmp_path, 1)) - len(trained)


def test_a_probe_goes_the_way_of_its_defence():
    images = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 3)), jnp.float32)
    mean = jax.tree_util.Partial(lambda x: x.mean((1, 2)))
    made = Case("", lambda z, keys, mask: (z, z), lambda x, _: 2 * x, mean)
    np.testing.assert_allclose(made.shown(images), 2 * images.mean((1, 2)), rtol=1e-6)
    made = dataclasses.replace(made, probe=lambda item: item + 1)
    np.testing.assert_allclose(made.shown(images), 2 * (images.mean((1, 2)) + 1), rtol=1e-6)
    assert duetface_case.planned(recogniser(5)) is None, "no recogniser for these weights"


@pytest.mark.slow
def test_one_defence_at_a_time(tmp_path, files):
    fixed = world(files), given(), small_sample(tmp_path), Ascent(steps=1)

    def run(only):
        return worst_case.table(*fixed, **files, only=(only,))

    with pytest.raises(ValueError, match="wanted some of: Unprotected, Random"):
        run("Nothing")
    ignorance, template = FLOORS
    first = run(ignorance)
    assert {r["defence"] for r in first.rows} == {ignorance}
    assert "AdvFace" in first.notes["left_out"] and template in first.notes["left_out"]
    both = run(template)
    assert [*dict.fromkeys(r["defence"] for r in both.rows)] == [ignorance, template]
    assert both.rows[: len(first.rows)] == first.rows and both.spent.earlier > 0
    assert not (tmp_path / ".batches").exists(), "no embedding of a face stays"


def row(defence, attacker, **harms):
    empty = dict.fromkeys(worst.HARMS)
    return (
        {"defence": defence, "attacker": attacker, "attack": f"{harms}", "acc": 0.9} | empty | harms
    )


def keyed_case(network):
    """The features' mean, with a secret added that its private recogniser takes off again."""

    def shift(z, keys, epsilon, mask, settings, networks):
        return z + networks

    def of(secret):
        return defenses.Defense("Shifted", shift, networks=jnp.float32(secret), private=Unshift)

    return case(of(3.0), network, 0.2, of(5.0)), of(3.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unshift:
    secret: jax.Array

    def __call__(self, z):
        return z.mean((1, 2)) - self.secret


def test_a_private_recogniser_reads_probes_and_pictures_and_an_attacker_has_other_secrets(
    files, tmp_path
):
    ours = world(files)
    one, defense = keyed_case(ours.system.network)
    known = Known(ours, one)
    z = ours.features.astype(np.float32)
    np.testing.assert_allclose(known.stolen, z + 3, rtol=1e-2)
    np.testing.assert_allclose(known.stored, z + 5, rtol=1e-2)
    crops, *_ = given()
    how = {"batch": 8, "seed": 0, "keep": tmp_path, "settings": {}}
    found = attacked(one, [attackers.paper(known)], ours, crops, Photographs(), **how)
    server = defense.server(ours.system.server)
    of = jnp.asarray(crops.images[:8] / 255, jnp.float32)
    probes = server(ours.system.extractor(of))
    np.testing.assert_allclose(found.probes[:8], probes, atol=1e-4)
    np.testing.assert_allclose(found.served[:8], probes + 3, atol=1e-4)
    assert found.reads[0].replayed is not None
    assert found.reads[0].replayed.shape == found.probes.shape, "by the private one, too"
    assert defenses.none().server("public") == "public"


def test_a_defence_that_joins_may_hold_its_networks_in_any_pytree(files):
    ours = world(files)

    def known(networks):
        made = defenses.Defense("Joined", lambda z, *_: z, networks=networks)
        return Known(ours, case(made, ours.system.network, 0.2))

    for networks in (np.zeros((7, 7, 4), np.float32), {"scale": 2.0}, (1.0, 2.0), None):
        assert known(networks).code == ("extractor", "defense"), "no S to know"
        assert known(networks).with_own_shadow is None
    has = known({"shadow": ours.attacker})
    assert has.code[-1] == "shadow" and has.with_own_shadow is not None


@pytest.mark.slow
def test_who_guesses_or_has_stolen_the_secrets_of_a_decoy(files, monkeypatch):
    monkeypatch.setattr(decoyed, "DRAWN", 3)
    monkeypatch.setattr(decoyed, "LEARNT", 3)
    ours = world(files)
    ours = dataclasses.replace(ours, public=ours.public.select(range(8)))
    _, keyed = decoyed.cases(ours.system, ours.sibling, 0.2, 0)
    known = Known(ours, keyed)
    found = [built(one, known) for one in guessing.ON_SECRETS]
    by_name = {one.attack.name: one for one in found if isinstance(one, Against)}
    assert isinstance(found[-1], attacks.Attack) and found[-1].knows[-1] == "key"
    assert len(by_name) == len(found) - 1 == 17
    groups = [worst.group(one.attack.knows) for one in by_name.values()]
    assert groups.count("without") == 4 and groups.count("with") == 6
    z, keys = jnp.asarray(ours.some_features(4)), keys_of(0, np.arange(4))
    stored, _ = keyed.store(z, keys, np.ones(4, np.float32))
    assert keyed.defense is not None
    start = decoys.start(keyed.defense, keys)
    true = by_name["Ψ, from the true start, × 4"].attack(stored, start=start)
    further = jnp.maximum(start + 4 * (stored - start), 0)
    np.testing.assert_allclose(true, ours.psi(further), atol=1e-4)
    # The map learnt from starts of the attacker's own, and comes nearer to the true ones than z'.
    learnt = known.to_start(stored)
    assert float(jnp.square(learnt - start).sum()) < float(jnp.square(stored - start).sum())
    private = by_name["Ψ with the stolen key"]
    assert (private.attack(stored) * private.known(z)).sum(1).min() > 0.5
    mean, less = (by_name[f"Ψ under 8 keys of his own{more}"] for more in ("", ", less Ψ"))
    assert np.abs(mean.attack(stored) - less.attack(stored)).max() > 1e-3
    bare = Known(ours, case(defenses.none(), ours.system.network, 0.2))
    assert not any(built(one, bare) for one in guessing.ON_SECRETS), "nothing to guess"


def test_who_has_more_can_do_what_needs_less():
    rows = [
        row("A", "without", ssim=0.4),
        row("A", "without", ssim=0.9, rank1=0.2),
        row("A", "with", rank1=0.1),
        row("A", "names", rank1=0.5),
        row("A", "secret", rank1=0.3, ssim=0.1),
        row("B", "with", rank1=1.0),
    ]
    found = worst.worst(rows)
    assert found["A"]["without"]["ssim"] == {"value": 0.9, "ci": None, "attack": rows[1]["attack"]}
    assert found["A"]["with"]["rank1"]["value"] == 0.2, "Ψ does not forget how to do without"
    assert found["A"]["names"]["rank1"]["value"] == 0.5
    assert found["A"]["secret"]["rank1"]["value"] == 0.3
    assert set(found["B"]) == {"with"} and found["A"]["without"]["type2"] is None


def test_the_table_has_a_line_for_who_takes_more():
    rows = [
        row("A", "without", ssim=0.4, rank1=0.2),
        row("A", "names", rank1=0.1),
        row("A", "with", rank1=0.9),
    ]
    rows = [one | {"acc_raw_probe": None} for one in rows]
    told = worst.lines(rows, worst.worst(rows))
    assert [line[:4] for line in told] == [
        ["A", "90.0", "–", "without Ψ"],
        ["  ″", "", "", "with Ψ"],
    ], "stolen names add nothing"


def test_the_leaderboard_of_the_docs_is_the_page_of_its_results():
    docs = Path(worst_case.__file__).parents[1] / "docs"
    document = json.loads((docs / "results/worst-case-700.json").read_text("utf-8"))
    rows, settings = document["rows"], document["config"]

    def page(**changes):
        return worst.leaderboard(
            rows, worst.worst(rows), settings | changes, "results/worst-case-700.json"
        )

    shown = (docs / "leaderboard.md").read_text("utf-8")
    assert not {*page().splitlines()} - {*shown.splitlines()}
    order = [line.split(" |")[0] for line in page().splitlines() if line.startswith("| ")][2:]
    assert order[:2] == ["| Sealed (AES-GCM), key safe", "| Decoy"]
    assert order[-2:] == ["| Ignorance (floor)", "| Template (floor), with Ψ"]
    assert "ε = 0.1, decoys' 0.15." in page(epsilon=0.1)


def test_groups():
    assert worst.group(("extractor", "defense")) == worst.group(()) == "without"
    assert worst.group(("names", "recogniser")) == "with" and worst.group(("names",)) == "names"
    assert worst.group(("start",)) == worst.group(("recogniser", "key")) == "secret"


def test_the_front_has_what_nothing_beats():
    points = [(0.1, 0.5), (0.2, 0.9), (0.3, 0.8), (0.2, 0.9), (0.05, 0.4)]
    assert pareto.front(points) == [0, 1, 3, 4]


def test_sealing():
    pytest.importorskip("cryptography")
    from experiments.attack import sealed

    feature = np.random.default_rng(0).random((2, 3, 4), np.float32)
    item = sealed.seal(feature, b"k" * 32, b"n" * 12)
    assert len(item) == 2 * 24 + 28
    opened = sealed.unseal(item, b"k" * 32, feature.shape)
    np.testing.assert_array_equal(opened, feature.astype(np.float16))
    for wrong, key in ((item, b"l" * 32), (item[:-1] + bytes([item[-1] ^ 1]), b"k" * 32)):
        with pytest.raises(ValueError, match="the key that sealed it"):
            sealed.unseal(wrong, key, feature.shape)


def test_attackers_have_other_people(monkeypatch):
    ours = {*data.synthetic_names(24, 4)}
    public = PublicFaces(public_faces=6).read("demo")
    assert len(public) == 6 and not ours & {*public.names}
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    with pytest.raises(ValueError, match="give --public"):
        PublicFaces().read("paper")
    with pytest.raises(ValueError, match="positive|1 or more|wanted"):
        PublicFaces(public_faces=0).check()
    with pytest.raises(ValueError, match="without --public"):
        PublicFaces(public_where=("a=b",)).check()


def test_a_function_that_cannot_join_is_refused():
    for source, says in (
        ("no function", "MODULE:FUNCTION"),
        ("nowhere_at_all:f", "cannot be loaded"),
        ("json:nothing", "cannot be loaded"),
        ("math:pi", "a float"),
        ("os:getcwd", "with one argument"),
    ):
        with pytest.raises(ValueError, match=says):
            joining.function(source, "attack")
    with pytest.raises(ValueError, match="returned a dict"):
        joining.built({}, defenses.Defense, "a:b", "defense")
    known = Known(None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="returned a str"):
        built(lambda known: "R", known)  # type: ignore[arg-type,return-value]


EXAMPLE = Path(worst_case.__file__).parents[1] / "CONTRIBUTING.md"


@pytest.mark.slow
def test_somebody_elses_file_joins(monkeypatch, tmp_path, files):
    """The example of CONTRIBUTING.md, as it stands there."""
    text = EXAMPLE.read_text("utf-8").partition("## To join the worst case")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "my_work.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = joining.function("my_work:defense", "defense")(recogniser(5))
    ours = world(files)
    one = case(joining.built(found, defenses.Defense, "", ""), ours.system.network, 0.2)
    attack = built(joining.function("my_work:attack", "attack"), Known(ours, one))
    assert isinstance(attack, attacks.Attack) and one.epsilon == 0.2
    crops, over, _ = given()
    how = {"batch": 4, "seed": 0, "keep": tmp_path, "settings": {}}
    measured = attacked(one, [attack], ours, crops, Photographs(), **how)
    use = worst.use(measured, crops.identities, over)
    sample = measured, use, crops.identities, over, "reader"
    line = worst.row(one, attack, measured.reads[0], *sample)
    assert line["defence"] == "Rounded" and 0 < line["ssim"] < 1
    again = attacked(one, [attack], ours, crops, Photographs(), **how)
    assert again.earlier > 0, "what is finished is kept"
    np.testing.assert_array_equal(again.reads[0].seen, measured.reads[0].seen)

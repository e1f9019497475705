"""People of the evaluation who were seen in training are found, whatever the spelling."""

import pytest
from face_files import table
from face_files import valued as faces

from advface_jax.data import leaks
from advface_jax.data.leaks import find_leaks, read_aliases, read_identities
from advface_jax.data.listing import read_listing


def test_spelling_does_not_hide_a_person():
    training = faces("George_W_Bush", "José Núñez", "celeba_7", "nobody")
    found = find_leaks(training, faces("george w. bush", "Jose_Nunez", "CelebA 7", "else"))
    assert found.identities == ("george w. bush", "Jose_Nunez", "CelebA 7")
    assert found and (found.people, found.trained) == (4, 4)
    assert "3 of the evaluation's 4 people were seen in training" in str(found)
    found = find_leaks(faces("a", "b"), faces("c", "ab", "a b"))
    assert not found and "no label of the evaluation's 3 people" in str(found)


def test_bare_numbers_are_counted_and_not_compared():
    found = find_leaks(faces("1234", "7", "x"), faces("1234", "y"))
    assert not found and (found.bare, found.bare_trained) == (1, 2)
    assert "1 of the evaluation's 2 labels are bare numbers" in str(found)
    assert "2 of the training's 3 labels are bare numbers" in str(found)
    assert leaks.normalised("12_34") == "" and leaks.normalised("n12") == "n12"


def test_a_list_of_likely_duplicates_counts(tmp_path):
    path = table(tmp_path / "d.tsv", "set1 identity1 set2 identity2", "A c_1 B c_2", "A 5 B 6")
    aliases = read_aliases(path)
    assert aliases == [("c_1", "c_2"), ("5", "6")]
    found = find_leaks(faces("c_1", "6"), faces("c_2", "5", "c_3"), aliases=aliases)
    assert found.identities == ("c_2", "5") and found.bare == 0
    aliases = read_aliases(table(path, "file identity lfw_lookalike", "1 c_1 Ann_Lee", "2 c_2 -"))
    assert aliases == [("c_1", "Ann_Lee")]
    found = find_leaks(faces("c_1"), faces("Ann_Lee", "Bo"), aliases=aliases)
    assert found.identities == ("Ann_Lee",)
    with pytest.raises(ValueError, match="has the columns file, identity; wanted identity1"):
        read_aliases(table(path, "file identity"))


def test_equal_pictures_are_found_under_other_names():
    found = find_leaks(faces("a", "b", "c"), faces("x", "y", first=2), pictures=True)
    assert found.images == (("c/2.jpg", "x/0.jpg"),) and not found.identities
    assert "1 of its pictures" in str(found)
    assert not find_leaks(faces("a"), faces("x", first=9), pictures=True)


def test_the_written_list_finds_the_same_and_has_no_names(tmp_path):
    path = tmp_path / "d.identities"
    leaks.write_identities(path, ["George_W_Bush", "George_W_Bush", "12", "Ann"])
    text = path.read_text()
    assert "bush" not in text.lower() and "12\n" not in text and len(text.splitlines()) == 4
    found = find_leaks(read_identities(path), faces("george_w_bush", "Bo"))
    assert found.identities == ("george_w_bush",) and (found.trained, found.bare_trained) == (3, 1)
    with pytest.raises(ValueError, match="give both sets as Faces"):
        find_leaks(read_identities(path), faces("a"), pictures=True)
    for other in ("", "hello\nworld\n", text + "Ann\n"):
        path.write_text(other)
        with pytest.raises(ValueError, match="is no list of a training's identities"):
            read_identities(path)


def test_a_leak_is_refused_or_warned_about():
    found = find_leaks(faces("a"), faces("A"))
    with pytest.raises(ValueError, match="S: 1 of the evaluation's 1 people"):
        leaks.refuse_or_warn(found, "S", "refuse")
    with pytest.warns(UserWarning, match="S: 1 of the evaluation's 1 people"):
        leaks.refuse_or_warn(found, "S", "warn")
    leaks.refuse_or_warn(leaks.Leaks(), "S", "refuse")


def test_the_list_of_lookalikes_finds_lfw_s_people(advface_data):
    """Of shadow set A 59 are in LFW by that list, and none of the rows that training takes."""
    lists = advface_data / "lists"
    listing = lists / "celeba_A_shadow_160.tsv"
    lfw = {identity for _, identity in read_listing(lists / "lfw_pairs_160.tsv", None)}
    for where, count in ((None, 59), ({"lfw_lookalike": "-"}, 0)):
        seen = leaks.seen_in(identity for _, identity in read_listing(listing, where))
        found = find_leaks(seen, lfw, aliases=read_aliases(listing))
        assert len(found.identities) == count and found.people == len(lfw)
    assert not find_leaks(seen, lfw)

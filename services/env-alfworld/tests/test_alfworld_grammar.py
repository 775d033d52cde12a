"""Texts from grammars, and that grammars are not code."""

import pytest
from env_alfworld.facts import Facts
from env_alfworld.grammar import Entity, GrammarError, Renderer, expression
from env_alfworld.translation import Translated, translate
from hypothesis import given
from hypothesis import strategies as st

MUG = Entity("mug_1", "object", "mug 1")
LISTS = {
    "list_empty": [{"when": None, "text": ["nothing"]}],
    "list_separator": [{"when": None, "text": [", "]}],
    "list_last_separator": [{"when": None, "text": [", and "]}],
}


@pytest.mark.parametrize(
    ("source", "value"),
    [("o.name", "mug 1"), ("o.indefinite + ' ' + o.name", "a mug 1"), ("o.name or o.id", "mug 1"), ("o", "mug 1"), ("'x'", "x")],
)
def test_an_expression_may_do_what_alfworlds_do(source, value):
    assert str(expression(source)({"o": MUG})) == value


@pytest.mark.parametrize(
    "source",
    [
        *("__import__('os').system('true')", "o.__class__", "o.name.__class__", "open('x')", "(lambda: 1)()", "[o for o in ()]", "o[0]", "1"),
        *("f'{o}'", "o.name % o", "o.name and o.id", "o.name * 9", "(o := 1)", "o if o else o", "import os", "", "o.", "not o", "*o", "o.type()"),
    ],
)
def test_an_expression_may_do_nothing_else(source):
    with pytest.raises(GrammarError):
        expression(source)


@pytest.mark.slow
@pytest.mark.parametrize("evil", ["__import__('os').system('touch evil')", "r.name.__class__"])
def test_a_game_whose_grammar_holds_code_is_refused_and_nothing_of_it_runs(store, source, evil, tmp_path, monkeypatch):
    from env_alfworld.catalogue import read_game

    monkeypatch.chdir(tmp_path)
    game, _ = read_game(source.root, source.games[0].path)
    assert "{r.name}" in game["grammar"]
    with pytest.raises(GrammarError, match="no expression"):
        translate({**game, "grammar": game["grammar"].replace("{r.name}", f"{{{evil}}}")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "text"), [(0, "nothing"), (1, "a 1"), (2, "a 1, and a 2"), (3, "a 1, a 2, and a 3")])
def test_a_list_reads_as_english(count, text):
    entities = {f"o{n}": Entity(f"o{n}", "object", f"{n}") for n in range(1, 4)}
    facts = Facts({("in", ("object",)): [(f"o{n}",) for n in range(1, count + 1)]})
    query = [([("in", ("object",))], [("o", "object")])]
    symbol = {"list": {"each": {"value": "'a ' + o.name"}, "given": query}}
    assert Renderer(LISTS, entities).render([symbol], facts, {}) == text


def test_a_grammar_that_goes_round_in_circles_is_an_error():
    with pytest.raises(GrammarError, match="circles"):
        Renderer({"a": [{"when": None, "text": [{"rule": "a"}]}]}, {}).render([{"rule": "a"}], Facts({}), {})


PAIRS = st.sampled_from([(a, b) for a in "xyz" for b in "xyz"])


@given(st.lists(st.tuples(st.booleans(), PAIRS)), st.sets(PAIRS))
def test_facts_are_those_made_true_last_and_stay_sorted(changes, initial):
    signature = ("on", ("object", "object"))
    facts = Facts({signature: sorted(initial)})
    expected = {pair: True for pair in initial}
    for positive, pair in changes:
        facts.make_true((signature[0] if positive else "not_on", signature[1]), pair)
        expected[pair] = positive
    assert facts.of(signature) == sorted(pair for pair, true in expected.items() if true) or not facts.of(signature)
    assert set(facts.of(signature)) == {pair for pair, true in expected.items() if true}


def test_different_placeholders_stand_for_different_things():
    facts = Facts({("near", ("object", "object")): [("a", "a"), ("a", "b")]})
    query = [([("near", ("object", "object"))], [("o", "object"), ("p", "object")])]
    assert [list(match.values()) for match in facts.matches(query, {})] == [["a", "b"]]
    assert [list(match.values()) for match in facts.matches(query, {("p", "object"): "b"})] == [["b", "a"]]
    assert list(facts.matches(query, {("q", "object"): "a"})) == []


@pytest.mark.slow
def test_a_translated_game_is_the_same_after_it_was_kept(source):
    from env_alfworld.catalogue import read_game

    translated = translate(read_game(source.root, source.games[0].path)[0])
    kept = Translated.from_bytes(translated.to_bytes())
    assert kept.to_bytes() == translated.to_bytes()
    assert (kept.facts, kept.names, kept.fluents) == (translated.facts, translated.names, translated.fluents)

"""A shopper in the sample's shop, in process: the real catalogue, the real search engine."""

import random

import pytest
from conftest import product
from env_webshop import build, expert, goals, pages, sample
from env_webshop.catalogue import DiskCatalogue, ProductStore
from env_webshop.search import open_searcher
from env_webshop.shop import Shopper
from env_webshop.sources import find_source
from env_webshop.taskset import WebshopTasks


@pytest.fixture
def shopper(catalogue, searcher):
    return Shopper(catalogue.goal("synthetic", 0), catalogue, searcher)


def text(shopper):
    return pages.as_text(shopper.page())


def test_the_whole_way_to_a_purchase(shopper, catalogue, searcher):
    actions = expert.plan(shopper.goal, catalogue, searcher, 10)
    assert [shopper.act(action) for action in actions] == [True] * len(actions)
    assert (shopper.kind, shopper.score) == ("done", 1.0)
    assert not shopper.act("search[more]")


def test_previous_leads_from_a_sub_page_to_the_item_and_on_to_the_results(shopper):
    shopper.act("search[t-shirt]")
    shopper.act("click[next >]")
    results = text(shopper)
    assert "Page 2 " in results
    shopper.act(f"click[{shopper.page().results[0].asin}]")
    item = text(shopper)
    value = next(piece.text for piece in pages.pieces(shopper.page()) if piece.kind == "option")
    assert shopper.act(f"click[{value}]")
    for sub_page in pages.SUB_PAGES:
        shopper.act(f"click[{sub_page}]")
        assert text(shopper) != item
        shopper.act("click[< Prev]")
        assert (text(shopper), list(shopper.chosen.values())) == (item, [value])
    shopper.act("click[< prev]")
    assert (text(shopper), shopper.chosen) == (results, {})
    shopper.act("click[< prev]")
    assert "Page 1 " in text(shopper)
    shopper.act("click[back to search]")
    assert text(shopper).startswith("WebShop [SEP]")


@pytest.mark.parametrize(
    "action",
    [
        "",
        "[",
        "click",
        "click[]",
        "click[search]",
        "click[buy now]",
        "buy[now]",
        "search[]",
        "Search[x]",
        "click[SMPL000000]",
        "say[click[back to search]]",
    ],
)
def test_what_cannot_be_done_on_the_page_changes_nothing(shopper, action):
    before = text(shopper)
    assert not shopper.act(action)
    assert text(shopper) == before


def test_a_search_is_possible_on_every_page_as_in_the_original(shopper):
    shopper.act("search[lamp]")
    assert shopper.act("search[granola bars]")
    shopper.act(f"click[{shopper.page().results[0].asin}]")
    assert shopper.act("search[lamp]")
    assert "Page 1 " in text(shopper)


def test_a_search_that_finds_nothing_is_a_page_too(shopper):
    for query in ("zzzzqqq", "the", " ", "\U0001f600", "a" * 8000, '"( OR AND NOT * ? : \\ /'):
        assert shopper.act(f"search[{query}]")
        assert text(shopper).endswith("Page 1 (Total results: 0)")


def test_whatever_is_offered_can_be_clicked_and_each_page_can_be_seen(catalogue, searcher):
    rng = random.Random(0)
    from env_webshop import html

    for number in range(30):
        shopper = Shopper(catalogue.goal("synthetic", number), catalogue, searcher)
        shopper.act(f"search[{rng.choice(['lamp', 'shirt', 'green tea', 'phone case', 'brush'])}]")
        for _ in range(25):
            offered = [clickable for clickable in pages.clickables(shopper.page()) if clickable != "search"]
            if not offered:
                break
            assert shopper.act(f"click[{rng.choice(offered)}]")
            assert pages.as_rich_text(shopper.page())
            assert html.render(shopper.page()).startswith("<!DOCTYPE html>")
        assert 0 <= shopper.score <= 1


def test_the_html_view_shows_what_the_text_shows_and_nothing_of_a_product_runs_in_it(catalogue, searcher):
    from bs4 import BeautifulSoup
    from env_webshop import html

    evil = product(title="<script>alert(1)</script>", description="<img src=x onerror=1>", options={'"><b>': ["</span>&amp;"]})
    for kind, sub_page in (("item", ""), ("sub", "Description"), ("done", "")):
        page = pages.Page(kind, "<i>{{ 7 * 7 }}</i>", product=evil, sub_page=sub_page, chosen={'"><b>': "</span>&amp;"})
        soup = BeautifulSoup(html.render(page), "html.parser")
        assert not soup.find_all(["script", "img", "i", "b"])
        visible = soup.body.get_text()
        shown = [piece.text for piece in pages.pieces(page)] if kind != "done" else [evil.title, "</span>&amp;"]
        assert all(text.strip() in visible for text in shown)


def test_the_html_view_asks_for_nothing_from_anywhere(shopper, catalogue, searcher):
    from bs4 import BeautifulSoup
    from env_webshop import html

    seen = set()
    plan = expert.plan(shopper.goal, catalogue, searcher, 10)
    product_at = next(number for number, action in enumerate(plan) if action.startswith("click[SMPL")) + 1
    for action in [*plan[:product_at], "click[description]", "click[< prev]", *plan[product_at:], None]:
        seen.add(shopper.kind)
        page = html.render(shopper.page(), shopper.parts)
        soup = BeautifulSoup(page, "html.parser")
        assert not soup.find_all(["link", "script", "img", "iframe", "a", "form"])
        assert not [tag for tag in soup.find_all(True) if {"src", "href"} & set(tag.attrs)]
        assert not [word for word in ("url(", "@import", "http:", "https:") if word in page]
        assert action is None or shopper.act(action)
    assert seen == {"search", "results", "item", "sub", "done"}


def test_the_html_view_of_a_purchase_says_what_it_was_scored_for(catalogue, searcher):
    from env_webshop import html

    place = next(place for place in range(100) if catalogue.goal("synthetic", place).options)
    shopper = Shopper(catalogue.goal("synthetic", place), catalogue, searcher)
    for action in expert.plan(shopper.goal, catalogue, searcher, 10):
        option = any(piece.text == action[6:-1] for piece in pages.pieces(shopper.page()) if piece.kind == "option")
        assert option or shopper.act(action)  # no option is chosen
    page = html.render(shopper.page(), shopper.parts)
    assert 0 < shopper.score < 1
    for text in (f">{shopper.score}<", "<dt>options matched</dt><dd>0%</dd>", "<dt>price</dt><dd>within the limit</dd>"):
        assert text in page


def test_experts_score_1_on_every_kind_of_goal(catalogue, searcher):
    for kind, step in (("synthetic", 20), ("human", 1)):
        for place in range(0, len(catalogue.goal_categories(kind)), step):
            wanted = catalogue.goal(kind, place)
            shopper = Shopper(wanted, catalogue, searcher)
            actions = expert.plan(wanted, catalogue, searcher, 10)
            assert all(shopper.act(action) for action in actions)
            assert (shopper.score, len(actions) <= 10) == (1.0, True), (kind, place)


def test_the_nouns_of_a_title_are_found_once_and_kept(folder, catalogue, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    known = catalogue.product("SMPL000000")
    expected = catalogue.nouns(known)
    assert expected
    store = DiskCatalogue(copy)
    store._titles.execute("DELETE FROM nouns")
    assert store.nouns(known) == expected
    store.close()
    assert dict(DiskCatalogue(copy)._titles.execute("SELECT asin, count(*) FROM nouns")) == {"SMPL000000": 1}


def test_the_sample_is_the_same_wherever_it_is_made(tmp_path):
    for name in ("one", "other"):
        sample.generate(tmp_path / name, 40, 20)
    first, second = (find_source(tmp_path / name, "sample") for name in ("one", "other"))
    assert first.digest() == second.digest()


def test_the_sample_has_goals_in_all_five_categories_and_a_training_split(folder):
    tasks = WebshopTasks(folder, sample=True)
    assert {task.task_type for task in tasks.tasks("sample")} == {"fashion", "beauty", "garden", "grocery", "electronics"}
    assert [len(tasks.tasks(f"sample-{part}")) for part in ("test", "dev")] == [500, 1000]
    assert len(tasks.tasks("sample-train")) > 400
    assert all(tasks.find(task.task_id) == task for task in tasks.tasks("sample"))
    assert {split.name for split in tasks.splits()} & {"synthetic", "human", "eto-train"} == set()


def test_etos_splits_are_there_where_all_human_goals_are(folder, monkeypatch):
    monkeypatch.setattr(ProductStore, "goal_categories", lambda self, kind: ["fashion"] * (12087 if kind == "human" else 0))
    tasks = WebshopTasks(folder, sample=False)
    assert {split.name: len(tasks.tasks(split.name)) for split in tasks.splits() if split.name.startswith("eto")} == {
        "eto-train": 1823,
        "eto-test": 200,
        "eto-test-500": 500,
    }
    assert tasks.tasks("eto-test")[0].task_id == "human:2853"
    assert [len(tasks.tasks(f"human-{part}")) for part in ("train", "dev", "test")] == [10587, 1000, 500]


def test_bm25s_finds_mostly_what_lucene_finds(folder, catalogue, searcher):
    build.build(find_source(folder.parent / "sample-files-1", "sample"), folder, "bm25s", 0)
    other = open_searcher("bm25s", folder / "bm25s")
    shared = []
    for place in range(50):
        wanted = catalogue.goal("synthetic", place)
        first = set(searcher.search(wanted.instruction.lower(), 10))
        shared.append(len(first & set(other.search(wanted.instruction.lower(), 10))) / len(first))
    assert sum(shared) / len(shared) > 0.7
    assert other.search("zzzzqqq", 50) == other.search("", 50) == other.search("the", 50) == []


def test_goals_stored_are_goals_made(folder, catalogue):
    place = catalogue.goal("synthetic", 3)
    wanted = catalogue.product(place.asin)
    head = place.instruction.partition(" with ")[0]
    assert place in list(goals.synthetic_goals(wanted, head, place.attributes, 0))

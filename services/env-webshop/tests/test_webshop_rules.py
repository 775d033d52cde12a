"""The rules, as pure functions: products, goals, reward, pages."""

import json
import random

import pytest
from conftest import goal, product
from env_webshop import goals, pages
from env_webshop.pages import Listing, Page
from env_webshop.products import contents, read_product
from env_webshop.reward import normalized_colour, reward
from env_webshop.taskset import expand, split_task_id
from hypothesis import given
from hypothesis import strategies as st


def record(**fields: object) -> dict:
    return {"asin": "B000000001", "name": "Title", "pricing": "$5.00", **fields}


def nouns(product):
    return [word.lower() for word in product.title.split()]


@pytest.mark.parametrize(
    ("pricing", "tag", "low", "high"),
    [
        ("$877.80", "$877.8", 877.8, 877.8),
        ("$1,299.00", "$1299.0", 1299.0, 1299.0),
        ("$8.99 - $18.99", "$8.99 to $18.99", 8.99, 18.99),
        ("$1.00 - $2.00 - $3.00", "$1.0 to $2.0", 1.0, 2.0),
        ("", "$100.0", 100.0, 100.0),
        (None, "$100.0", 100.0, 100.0),
        ("free", "$100.0", 100.0, 100.0),
        ("$.", "$100.0", 100.0, 100.0),
    ],
)
def test_a_price_is_read_as_the_original_reads_it(pricing, tag, low, high):
    read = read_product(record(pricing=pricing), None, 0)
    assert read.price_tag == tag
    assert low <= read.price <= high


def test_a_price_within_a_range_is_the_same_each_time_and_another_for_another_seed():
    ranged = record(pricing="$1.00 - $900.00")
    prices = {read_product(ranged, None, seed).price for seed in (0, 0, 1)}
    assert len(prices) == 2


def test_options_are_in_small_letters_with_slashes_spaced():
    raw = {"Flavor Name": [{"value": " Dark/Sweet ", "image": None}], "Size": None}
    assert read_product(record(customization_options=raw), None, 0).options == {"flavor name": ["dark | sweet"]}
    assert read_product(record(customization_options=""), None, 0).options == {}


@pytest.mark.parametrize("asin", ["nan", "B0000000012"])
def test_products_that_the_original_leaves_out_are_left_out(asin):
    assert read_product(record(asin=asin), None, 0) is None


def test_the_index_holds_title_description_first_feature_and_options():
    text = contents(product(bullets=["One", "Two"], options={"color": ["red", "blue"], "size": ["s"]}))
    assert text == "red cotton shirt a shirt. one color: red, blue, and size: s"


def test_the_order_of_goals_is_the_original_generators():
    expected = list(range(6910))
    random.seed(233)
    random.shuffle(expected)
    assert goals.order(6910) == expected


def test_there_is_a_goal_for_each_combination_of_options_with_one_price_limit():
    made = list(goals.synthetic_goals(product(options={"size": ["s", "m"], "color": ["red"]}), "Find me a shirt", ["soft"], 0))
    assert [found.options for found in made] == [["red", "s"], ["red", "m"]]
    assert len({found.price_limit for found in made}) == 1
    limit = made[0].price_limit
    assert made[1].instruction == f"Find me a shirt with color: red, and size: m, and price lower than {limit:.2f} dollars"


@given(st.floats(0.01, 2000), st.integers(0, 2**32))
def test_a_price_limit_is_above_the_price_or_there_is_none(price, seed):
    (made,) = goals.synthetic_goals(product(price=price), "Find me a shirt", ["soft"], seed)
    again = next(goals.synthetic_goals(product(price=price), "Find me a shirt", ["soft"], seed))
    assert made == again
    assert made.price_limit > price
    assert ("price lower" in made.instruction) == (made.price_limit < goals.NO_LIMIT) == (price < 980)


def test_a_product_without_attributes_to_ask_for_has_no_goals():
    assert list(goals.synthetic_goals(product(), "Find me a shirt", [], 0)) == []


def test_human_goals_lose_their_full_stop_and_those_without_attributes_are_left_out():
    wish = {"instruction": "i need a shirt.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}
    made = list(goals.human_goals(product(price=985.0), [{**wish, "instruction_attributes": []}, wish], 0))
    assert [(found.instruction, found.options) for found in made] == [("i need a shirt", ["red"])]


def test_a_full_match_scores_1_and_each_miss_costs_its_share():
    wanted = product(options={"color": ["red"], "size": ["s"]})
    asked = goal(attributes=["machine wash", "long sleeve"], options=["red", "s"])
    assert reward(wanted, {"color": "red", "size": "s"}, asked, wanted, nouns)[0] == pytest.approx(4 / 5)
    full = product(title="Red Long Sleeve Shirt", options=wanted.options)
    assert reward(full, {"color": "red", "size": "s"}, asked, full, nouns)[0] == 1.0
    assert reward(full, {"size": "s"}, asked, full, nouns)[0] == pytest.approx(4 / 5)
    dear = product(title="Red Long Sleeve Shirt", price=31.0)
    assert reward(dear, {"color": "red", "size": "s"}, asked, dear, nouns)[0] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("title", "query", "category", "kind"),
    [
        ("Red Cotton Shirt", "other", "Other", 1.0),  # the title alone
        ("Blue Wool Hat", "shirts", "Other", 0.0),  # no noun shared, whatever the query says
        ("Red Ball", "other", "Other", 1.0),  # a third of the nouns
    ],
)
def test_the_kind_of_product_weighs(title, query, category, kind):
    other = product(asin="B", title=title, query=query, product_category=category)
    assert reward(other, {}, goal(), product(), nouns)[1]["r_type"] == kind


def test_a_weak_title_match_needs_the_query_or_two_categories():
    wanted = product(title="a b c d e f g shirt")
    far = {"asin": "B", "title": "shirt only here", "query": "other", "product_category": "Other"}
    assert reward(product(**far), {}, goal(), wanted, nouns)[1]["r_type"] == 0.5
    assert reward(product(**{**far, "query": "shirts"}), {}, goal(), wanted, nouns)[1]["r_type"] == 1.0
    near = {**far, "product_category": "Clothing \u203a Shirts"}
    assert reward(product(**near), {}, goal(), wanted, nouns)[1]["r_type"] == 1.0
    very_far = product(title=" ".join(f"n{n}" for n in range(11)) + " shirt")
    assert reward(product(**far), {}, goal(), very_far, nouns)[1]["r_type"] == 0.1


def test_a_size_must_match_to_the_letter_a_colour_need_not():
    wanted = product()
    assert reward(wanted, {"color": "dark red wine"}, goal(options=["dark"]), wanted, nouns)[1]["r_option"] == 1.0
    assert reward(wanted, {"size": "10 wide"}, goal(options=["10"]), wanted, nouns)[1]["r_option"] == 0.0
    assert reward(wanted, {"size": "10"}, goal(options=["10"]), wanted, nouns)[1]["r_option"] == 1.0


def test_the_first_colour_of_the_list_is_taken_not_the_first_in_the_text():
    assert normalized_colour("white and black") == "black"
    assert normalized_colour("plaid") == "plaid"


def test_the_search_page_reads_as_in_the_original():
    page = Page("search", "Find me a shirt")
    assert pages.as_text(page) == "WebShop [SEP] Instruction: [SEP] Find me a shirt [SEP] Search"
    assert list(pages.clickables(page)) == ["search"]


def test_results_have_previous_and_next_where_there_are_pages():
    listings = [Listing("B000000001", "Title", "$5.0")]
    middle = Page("results", "I", keywords=["x"], number=2, total=21, results=listings)
    assert pages.as_text(middle).split(" [SEP] ") == (
        ["Instruction:", "I", "Back to Search", "Page 2 (Total results: 21)", "< Prev", "Next >", "B000000001", "Title", "$5.0"]
    )
    last = Page("results", "I", number=3, total=21)
    assert list(pages.clickables(last)) == ["back to search", "< prev"]
    assert "Next >" not in pages.as_text(Page("results", "I", number=1, total=10))


def test_an_item_page_lists_options_before_the_title():
    page = Page("item", "I", product=product(options={"size": ["s", "m"]}), chosen={"size": "m"})
    assert pages.as_text(page).split(" [SEP] ")[2:] == (
        [
            "Back to Search",
            "< Prev",
            "size",
            "s",
            "m",
            "Red Cotton Shirt",
            "Price: $10.0",
            "Rating: N.A.",
            "Description",
            "Features",
            "Reviews",
            "Buy Now",
        ]
    )
    rich = pages.as_rich_text(page)
    assert rich.startswith("You have clicked m.\nInstruction:\n")
    assert "  [clicked button] m [clicked button_]\n" in rich
    assert "  [button] s [button_]\n" in rich


def test_of_two_options_of_one_value_the_later_is_clicked():
    page = Page("item", "I", product=product(options={"a": ["x"], "b": ["x"], "c": ["description"]}))
    found = pages.clickables(page)
    assert (found["x"].option, found["description"].option) == ("b", "c")


def test_empty_texts_vanish_and_blank_ones_stay_as_an_html_parser_has_it():
    page = Page("sub", "I", product=product(bullets=["One ", "", "\n"], description=""), sub_page="Features")
    assert pages.as_text(page).split(" [SEP] ")[4:] == ["One", ""]
    page = Page("sub", "I", product=product(description=""), sub_page="Description")
    assert pages.as_text(page).split(" [SEP] ")[4:] == []


def test_the_last_page_says_the_score():
    page = Page("done", "I", product=product(), chosen={"size": "<s> & 'm'", "color": "red"}, reward=0.5)
    text = pages.as_text(page)
    options = '{"color": "red", "size": "\\u003cs\\u003e \\u0026 \\u0027m\\u0027"}'
    assert f"Purchased [SEP] asin [SEP] A [SEP] options [SEP] {options} [SEP] attrs" in text
    assert json.loads(options)["size"] == "<s> & 'm'"
    assert text.endswith("Your score (min 0.0, max 1.0) [SEP] 0.5 [SEP] Reward Details [SEP] None")
    assert pages.clickables(page) == {}


@pytest.mark.parametrize(
    "task_id", ["", "sample", ":1", "sample:", "sample:-1", "sample:01", "sample:\u0661", "sample: 1", "sample:1\n", "sample:" + "9" * 30]
)
def test_what_is_no_task_id_is_refused_with_a_reason(task_id):
    with pytest.raises(KeyError) as refused:
        split_task_id(task_id)
    assert " " in refused.value.args[0]


def test_ranges_expand_in_their_order():
    assert expand("5,0-2,9") == [5, 0, 1, 2, 9]

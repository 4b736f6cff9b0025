"""Framework tabs, downloads and the table of times, as a reader finds them in the built HTML."""

import json

import pytest
from bs4 import BeautifulSoup, Tag

from .small_book import SmallBook


def by_id(page: BeautifulSoup, name: object) -> Tag:
    """Return the element with an id, which must be there."""
    element = page.find(id=str(name))
    assert isinstance(element, Tag)
    return element


def tab_sets(page: BeautifulSoup, section: str) -> list[dict[str, Tag]]:
    """Return the tab sets of a section, each as label -> panel."""
    return [
        {
            label.get_text(strip=True): by_id(page, label["aria-controls"])
            for label in tab_set.find_all("label", recursive=False)
        }
        for tab_set in by_id(page, section).find_all(class_="sd-tab-set")
    ]


def printed(panel: Tag) -> str:
    """Return the outputs of a panel, on one line."""
    return " ".join(o.get_text(" ", strip=True) for o in panel.select(".cell_output pre"))


@pytest.fixture(scope="session")
def page(built_book: SmallBook) -> BeautifulSoup:
    """Return the page of the chapter."""
    return built_book.page("chapter")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("pair", [{"PyTorch": "pair p", "Keras": "pair k"}]),
        ("three", [{"PyTorch": "three p1 three p2", "Keras": "three k"}]),
        (
            "alternating",
            [
                {
                    "PyTorch": "alternating p1 alternating p2",
                    "Keras": "alternating k1 alternating k2",
                }
            ],
        ),
        ("broken-up", [{"PyTorch": "broken up p"}, {"Keras": "broken up k"}]),
        ("lone", [{"Keras": "lone k"}]),
    ],
)
def test_each_run_of_tagged_cells_is_one_tab_set_merged_by_framework(
    page: BeautifulSoup, section: str, expected: list[dict[str, str]]
) -> None:
    found = [
        {label: printed(panel) for label, panel in tab_set.items()}
        for tab_set in tab_sets(page, section)
    ]
    assert found == expected


def test_pytorch_comes_first_whatever_ran_first(page: BeautifulSoup) -> None:
    assert list(tab_sets(page, "alternating")[0]) == ["PyTorch", "Keras"]


def test_a_cell_without_a_framework_stays_outside(page: BeautifulSoup) -> None:
    (output,) = (pre for pre in page.select(".cell_output pre") if pre.get_text() == "untagged\n")
    assert output.find_parent(class_="sd-tab-set") is None


def test_every_label_is_in_the_one_sync_group(page: BeautifulSoup) -> None:
    labels = page.select("label.sd-tab-label")
    assert labels
    for label in labels:
        assert label["data-sync-group"] == "framework"
        assert label["data-sync-id"] == label.get_text(strip=True).lower()


def test_a_figure_keeps_alt_text_caption_and_number(page: BeautifulSoup) -> None:
    (tabs,) = tab_sets(page, "figure")
    (image,) = tabs["PyTorch"].find_all("img")
    assert image["alt"] == "One black pixel"
    caption = tabs["PyTorch"].select_one("figcaption")
    assert caption is not None
    assert "A pixel" in caption.get_text()
    assert tabs["PyTorch"].find(id="fig-pixel") is not None


def test_a_deliberate_error_shows_its_traceback(page: BeautifulSoup) -> None:
    (tabs,) = tab_sets(page, "error")
    assert "ZeroDivisionError" in printed(tabs["PyTorch"])
    assert "ValueError" in printed(tabs["Keras"])


def test_tabs_work_inside_a_gated_solution(page: BeautifulSoup) -> None:
    (tabs,) = tab_sets(page, "exercise")
    assert printed(tabs["PyTorch"]) == "solved p"
    assert tabs["Keras"].find_parent(class_="solution") is not None


def test_both_frameworks_show_on_paper_and_without_javascript(page: BeautifulSoup) -> None:
    assert page.head is not None
    without_javascript = page.head.select_one("noscript style")
    on_paper = page.head.select_one("style[media=print]")
    for style in (without_javascript, on_paper):
        assert style is not None
        assert ".sd-tab-content{display:block!important" in style.get_text()


@pytest.mark.parametrize(("own", "other"), [("pytorch", "keras"), ("keras", "pytorch")])
def test_the_menu_offers_the_notebook_of_one_framework(
    built_book: SmallBook, page: BeautifulSoup, own: str, other: str
) -> None:
    link = page.find("a", href=f"_downloads/{own}/chapter.ipynb")
    assert link is not None
    notebook = json.loads((built_book.html / str(link["href"])).read_text("utf-8"))
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert own in tags
    assert other not in tags
    assert any("import mtl_tutorial" in "".join(cell["source"]) for cell in notebook["cells"])


def test_a_page_without_tabs_offers_no_such_notebook(built_book: SmallBook) -> None:
    assert not built_book.page("index").select("a[href*=_downloads]")

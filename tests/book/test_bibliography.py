"""Check the bibliography: every source can be followed, and titles keep their capitals."""

import re
from html import unescape
from pathlib import Path

from pybtex.database import parse_file
from pybtex.plugin import find_plugin

ENTRIES = parse_file(Path(__file__).parents[2] / "book" / "references.bib").entries
STYLE = find_plugin("pybtex.style.formatting", "unsrt")()
HTML = find_plugin("pybtex.backends", "html")()
PRINTED: dict[str, str] = {
    each.key: each.text.render(HTML) for each in STYLE.format_entries(ENTRIES.values())
}


def test_every_entry_has_a_link() -> None:
    """A DOI, an arXiv number or an address, which the page turns into a link."""
    assert len(PRINTED) == len(ENTRIES) > 50
    assert [key for key, text in PRINTED.items() if 'href="https://' not in text] == []


def test_titles_keep_their_capitals() -> None:
    """The style makes a title's letters small: UnitBox and MGDA need braces."""
    lost = {
        key: word
        for key, entry in ENTRIES.items()
        for word in re.findall(r"\w+[A-Z]\w*", entry.fields["title"])
        if word not in unescape(re.sub("<[^>]*>", "", PRINTED[key]))
    }
    assert lost == {}

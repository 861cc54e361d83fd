# SPDX-License-Identifier: GPL-2.0-or-later
"""House rules that no linter knows, over every file that git tracks."""

import re
import subprocess
from pathlib import Path

import pytest

# Recorded or made-up input, kept as it came; the texts of licences.
DATA = re.compile(r"LICENSE|tests/(?!.*\.py$).*")

# Written so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:w[o]rk|tm[p]/(?:work|src|scratch)|r[o]ot)/")
SECRET = re.compile(
    r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw480]=(?![A-Za-z0-9+/=])"  # WireGuard key
    r"|BEGIN (?:[A-Z0-9]+ )*PRIVATE[ ]KEY"
)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@pytest.fixture(scope="module")
def tracked(checkout) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (checkout / name).is_file()]


@pytest.fixture(scope="module")
def sources(checkout, tracked) -> dict[str, str]:
    """The text of every file of ours, by name."""
    return {
        name: (checkout / name).read_text(encoding="utf-8")
        for name in tracked
        if not DATA.fullmatch(name)
    }


def test_every_source_file_names_its_licence(sources):
    spdx = "SPDX-License-Identifier: GPL-2.0-or-later"
    assert [name for name, text in sources.items() if spdx not in text[:300]] == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on(checkout, tracked):
    assert _matching(MACHINE_PATH, checkout, tracked) == []


def test_no_secret_outside_the_tests_own_data(checkout, tracked):
    """R33. What looks like a key is a finding even when it is made up."""
    ours = [name for name in tracked if not name.startswith("tests/")]
    assert _matching(SECRET, checkout, ours) == []


def test_links_between_documents_lead_somewhere(checkout, sources):
    broken = []
    for name, text in sources.items():
        if not name.endswith(".md"):
            continue
        for target, anchor in LINK.findall(text):
            file = (checkout / name).parent / target if target else checkout / name
            if not file.exists() or (anchor and anchor not in _anchors(file)):
                broken.append(f"{name}: {target}{anchor and '#'}{anchor}")
    assert broken == []


def _anchors(file: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as code hosts make them."""
    headings = HEADING.findall(file.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def _matching(pattern: re.Pattern, checkout: Path, names: list[str]) -> list[str]:
    """FILE:LINE of each match."""
    return [
        f"{name}:{number}"
        for name in names
        for number, line in enumerate(
            (checkout / name).read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if pattern.search(line)
    ]


def test_no_two_helpers_of_the_tests_share_a_name(tracked):
    """Outside packages pytest imports by the bare name: the second would be the first."""
    inside = {name.removesuffix("/__init__.py") for name in tracked if name.endswith("__init__.py")}
    bare = [Path(name) for name in tracked if re.fullmatch(r"tests/.*\.py", name)]
    names = [path.name for path in bare if str(path.parent) not in inside]
    shared = {name for name in names if names.count(name) > 1}
    assert shared == {"conftest.py"}

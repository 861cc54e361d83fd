# SPDX-License-Identifier: GPL-2.0-or-later
"""R95: files are merged as Salt merges pillars, and each value's file and line is known."""

import copy
from typing import Any

import pytest
import salt.utils.dictupdate
import salt.utils.yaml
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qubes_vpn_formula.fleet import examine
from qubes_vpn_formula.fleet.layers import Layers, merge
from qubes_vpn_formula.pillarfile import PillarFile

KEYS = st.sampled_from(["a", "b", "yes", "1", "\u00e9", "x y", 1, True])
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "no", "1e3", "a: b", "'"])
VALUES = st.recursive(
    LEAVES | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=4)


def in_salt(documents: list[Any]) -> Any:
    """What a Salt master makes of them, one after the other (salt/pillar/__init__.py)."""
    merged = copy.deepcopy(documents[0])
    for document in documents[1:]:
        merged = salt.utils.dictupdate.merge(merged, document, "smart", "yaml", False)
    return merged


def layers(documents: list[Any]) -> Layers:
    return Layers(
        [
            PillarFile(f"{number}.sls", yaml.safe_dump({"qubes_vpn": one}, sort_keys=False))
            for number, one in enumerate(documents)
        ]
    )


@given(DOCUMENTS)
def test_merged_as_salt_does_it(documents: list[Any]) -> None:
    before = copy.deepcopy(documents)
    merged = documents[0]
    for document in documents[1:]:
        merged = merge(merged, document)
    assert merged == in_salt(before)
    assert list(merged) == list(in_salt(before)), "the order says who is moved first"
    assert documents == before


@given(DOCUMENTS)
def test_salt_reads_what_is_rendered(documents: list[Any]) -> None:
    data = layers(documents).data
    assert salt.utils.yaml.safe_load(examine.render(data)) == data


@given(DOCUMENTS)
def test_each_value_is_found_in_the_file_that_it_came_from(documents: list[Any]) -> None:
    """Salt itself merges the files' numbers, which lie where the values do."""
    made = layers(documents)
    numbered = in_salt([_numbered(one, number) for number, one in enumerate(documents)])
    for path, number in _leaves(numbered, ()):
        file, line = made.place(("qubes_vpn", *path))
        assert file == f"{number}.sls"
        text = yaml.safe_dump({"qubes_vpn": documents[number]}, sort_keys=False)
        assert line == PillarFile(file, text).line(("qubes_vpn", *path))


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: _numbered(one, number) for key, one in value.items()}
    return [number]  # a list, as whatever is no mapping, is replaced


def _leaves(value: Any, path: tuple) -> Any:
    if isinstance(value, list):
        yield path, value[0]
        return
    for key, one in value.items():
        yield from _leaves(one, (*path, key))


@pytest.mark.parametrize(
    ("texts", "path", "place"),
    [
        (["qubes_vpn: {a: 1}", "qubes_vpn:\n  b: 2"], ("qubes_vpn", "a"), ("0", 1)),
        (["qubes_vpn: {a: 1}", "qubes_vpn:\n  a: 2"], ("qubes_vpn", "a"), ("1", 2)),
        (["qubes_vpn: {a: {b: 1}}", "qubes_vpn:"], ("qubes_vpn", "a", "b"), ("1", 1)),
        # What is nowhere is missed by the file that is nearest to the machine.
        (["qubes_vpn: {a: {b: 1}}", "\n\nqubes_vpn: {a: {}}"], ("qubes_vpn", "a", "c"), ("1", 3)),
        (["qubes_vpn: {a: {b: 1}}", "qubes_vpn: {c: {}}"], ("qubes_vpn", "a", "c"), ("0", 1)),
        # A list is replaced as a whole, and mappings in it are not merged.
        (["qubes_vpn: {a: [1, 2]}", "qubes_vpn:\n  a:\n  - 3"], ("qubes_vpn", "a", 0), ("1", 3)),
        (
            ["qubes_vpn: {a: {b: 1}}", "qubes_vpn: {a: 1}", "qubes_vpn: {a: {c: 1}}"],
            ("qubes_vpn", "a", "b"),
            ("2", 1),
        ),
        (
            ["x: &x {b: 1}\nqubes_vpn:\n  a: {<<: *x}", "qubes_vpn: {a: {c: 1}}"],
            ("qubes_vpn", "a", "b"),
            ("0", 3),
        ),
    ],
)
def test_places(texts: list[str], path: tuple, place: tuple[str, int]) -> None:
    made = Layers([PillarFile(str(number), text) for number, text in enumerate(texts)])
    assert made.place(path) == place


def test_anchors_of_anchors_end() -> None:
    """On both sides, so that there is something to merge at each step."""
    laughs = ["a0: &a0 {x: 1}"]
    laughs += [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 45)]
    text = "\n".join([*laughs, "qubes_vpn: *a44"])
    made = Layers([PillarFile("0", text), PillarFile("1", text)])
    assert set(made.data["qubes_vpn"]) == {"x", "y"}

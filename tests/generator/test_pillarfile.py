# SPDX-License-Identifier: GPL-2.0-or-later
"""Pillar files with their line numbers."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.text(max_size=8)
)
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_SCALARS, inner, max_size=4),
    max_leaves=12,
)


@given(_DATA, st.booleans())
def test_same_data_as_yaml(data, flow):
    """Building from the nodes gives what PyYAML's own constructor gives, types included."""
    text = yaml.safe_dump({"qubes_vpn": data}, default_flow_style=flow, allow_unicode=True)
    if any(mark in text for mark in ("{{", "{%", "{#")):
        with pytest.raises(UserError, match="Jinja"):
            pillarfile.PillarFile("x", text)
        return
    found = pillarfile.PillarFile("x", text)
    assert repr(found.data) == repr(yaml.load(text, yaml.CSafeLoader))
    assert not found.has_duplicates


def test_anchors_and_merge_keys():
    """They are YAML's own and stay allowed; keys written down win over merged ones."""
    text = """\
base: &base {label: red, memory: 400}
other: &other {memory: 500, maxmem: 600}
qubes_vpn:
  a: *base
  b:
    <<: [*base, *other]
    label: blue
"""
    found = pillarfile.PillarFile("x", text)
    assert found.data == yaml.safe_load(text)
    assert not found.has_duplicates
    assert found.line(("qubes_vpn", "b", "label")) == 7
    assert found.line(("qubes_vpn", "b", "maxmem")) == 6
    assert found.line(("qubes_vpn", "b", "nothing")) == 5


def test_lines():
    text = "# comment\nqubes_vpn:\n  vaults:\n  - one\n\n  - two\n  layout: {a: 1,\n    b: 2}\n"
    found = pillarfile.PillarFile("x", text)
    assert found.line(("qubes_vpn",)) == 2
    assert found.line(("qubes_vpn", "vaults", 1)) == 6
    assert found.line(("qubes_vpn", "layout", "b")) == 8


def test_every_double_key_is_found():
    """A key that stands three times is two problems, each with the line before it."""
    text = "a: 1\nqubes_vpn:\n  x: 1\n  y: {z: 1, z: 2}\n  x: 2\n  x: 3\na: 2\n"
    located = pillarfile.PillarFile("x", text).problems()
    twice = [(line, problem.what) for line, problem in located if "of one name" in problem.what]
    assert twice == [
        (4, "two of one name: 'z' stands on line 4 already"),
        (5, "two of one name: 'x' stands on line 3 already"),
        (6, "two of one name: 'x' stands on line 5 already"),
        (7, "two of one name: 'a' stands on line 1 already"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.sls: the file is empty."),
        ("# nothing\n", "p.sls: the file is empty."),
        ("- a\n", "p.sls:1: the file is not a mapping."),
        ("other: 1\n", "p.sls: there is no key 'qubes_vpn' at the top."),
        ("a: 1\n---\nb: 2\n", "p.sls:2: a second document begins here"),
        ("a:\n\tb: 1\n", "p.sls:2: not YAML: a tab stands in the indentation."),
        ("a: [1\nb: 2\n", "p.sls:2: not YAML: "),
        ("a: 'x\n", "p.sls:2: not YAML: found unexpected end of stream."),
        ("a: *nobody\n", "p.sls:1: not YAML: found undefined alias."),
        ("a: 1\nb: \x07\n", "p.sls:2: a control character."),
        ("a: !!python/name:os.system x\n", "p.sls:1: a YAML tag"),
        ("a: 2026-99-99\n", "p.sls:1: '2026-99-99' is not a timestamp."),
        ("a: 1\n? [b]\n: 2\n", "p.sls:2: a list or mapping cannot be a key."),
        ("a: {<<: 3}\n", "p.sls:1: '<<' merges mappings only."),
        ("a: 1\nqubes_vpn: {{ pillar }}\n", "p.sls:2: Jinja ('{{'):"),
        ("a: 1\nb: " + "[" * 300 + "]" * 300, "p.sls:2: nested too deeply."),
        ("a: 1\nb: " + "{b: " * 300 + "1" + "}" * 300, "p.sls:2: nested too deeply."),
        ("a:\n" + "- " * 10**6 + "x", "p.sls:2: nested too deeply."),
        ("".join(" " * depth + "a:\n" for depth in range(99)), "p.sls:51: nested too deeply."),
        ("a: 1\nqubes_vpn: &a {b: [*a]}\n", "p.sls:2: an anchor ('&...') is used inside itself."),
        ("a: 1\nqubes_vpn: &a {<<: *a}\n", "p.sls:2: an anchor ('&...') is used inside itself."),
        ("a:\n  - [2001:db8::1]:443/udp\n", "p.sls:2: not YAML: an IPv6 endpoint without quotes."),
    ],
)
def test_cannot_be_read(text, message):
    """One message: file, line, what to do."""
    with pytest.raises(UserError) as error:
        pillarfile.PillarFile("p.sls", text)
    assert str(error.value).startswith(message)
    assert str(error.value).count(". ") >= 1


def test_a_double_key_behind_aliases_is_one_problem():
    """However often, and however deep, aliases lead to it."""
    chain = "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 2000))
    text = "x0: &x0 {a: 1, a: 2}\n" + chain + "qubes_vpn: {}\n"
    located = pillarfile.PillarFile("x", text).problems()
    assert [line for line, problem in located if "of one name" in problem.what] == [1]


def test_check_reports_all_files(tmp_path, capsys):
    """Every problem of every file, by line; files that cannot be read are among them."""
    good, bad, worse = (tmp_path / name for name in ("good.sls", "bad.sls", "worse.sls"))
    good.write_text(
        "qubes_vpn:\n  tunnels:\n    sys-vpn: {kind: mullvad, endpoints: [192.0.2.1:51820/udp]}\n"
    )
    bad.write_text("qubes_vpn:\n  whonix: never\n  tunels: {}\n  topology: dns\n  topology: dns\n")
    worse.write_bytes(b"qubes_vpn: \xff\n")
    paths = [str(good), str(bad), str(worse), str(tmp_path), str(tmp_path / "none.sls")]
    assert main(["check", paths[0]]) == 0
    assert capsys.readouterr().out == f"{good}: no problem\n"
    assert main(["check", *paths]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{bad}:1", f"{bad}:2", f"{bad}:3", f"{bad}:5", f"{worse}:1", *paths[3:], str(good),
    ]  # fmt: skip
    assert main(["check", "--json", *paths]) == 2
    found = json.loads(capsys.readouterr().out)
    assert {one["file"] for one in found} == set(paths[1:])
    assert [one["line"] for one in found if one["file"] == str(bad)] == sorted(
        one["line"] for one in found if one["file"] == str(bad)
    )
    assert all(one["what"] and one["fix"] and one["text"] for one in found)

# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn graph`: nobody is missing, nothing overlaps, and who is in clear is red (R65)."""

import contextlib
import io
import json
import re
import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from networks import networks
from rich.console import Console

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.picture import View, layout, png, svg, text, tree
from qubes_vpn_network import CLEAR, CLIENT, OFFLINE, SHELTERED, UPLINK, Qube

_QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_RED = "#d61f1f"

PILLAR = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: [192.0.2.1:51820/udp]}
  firewalls:
    sys-firewall: {}
    sys-firewall-novpn: {upstream: sys-net}
  routes:
    qubes: {work: sys-firewall, untrusted: sys-firewall-novpn}
  outside_vpn: [untrusted]
"""
AFTER = """\
Internet
└── sys-net
    ├── sys-firewall-novpn  (new)
    │   └── untrusted  (was on sys-firewall)  in clear, by choice
    └── sys-vpn  (new)  tunnel
        └── sys-dns  (new)
            └── sys-firewall  (was on sys-net)
                ├── default-dvm
                ├── personal
                └── work
Offline: default-mgmt-dvm, vault
In clear: templates' updates, by sys-net (pillar: updates.templates)
In clear: the time, by sys-net (pillar: clock)
"""


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR)
    return str(path)


def test_the_layouts_qubes_are_drawn_as_their_own_run_would_make_them(tmp_path, capsys):
    """R10: one that is not there hangs where the pillar says, a vault nowhere."""
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR + "  layout: {mail: {label: green, netvm: sys-firewall}, comms: {}}\n")
    assert main(["graph", str(path), "--embedded", "fresh", "--before", "--after"]) == 0
    before, after = capsys.readouterr().out.split("\nAfter a run, and one of qubes.layout\n")
    assert "mail" not in before
    assert "                ├── mail  (new)\n" in after
    assert "                ├── comms  (new)\n" in after


def test_who_has_the_vpn_where_tor_was_meant_is_said_of_this_machine(tmp_path, embedded, capsys):
    """R06, R10. By the machine, not by the pillar; not of who is in clear before the run."""
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR.partition("  firewalls")[0] + "  layout: {comms: {}, untrusted: {}}\n")
    words = ["graph", str(path), "--embedded", str(embedded.path), "--before", "--after"]
    said = "Not through Tor, because there is no sys-whonix: comms, untrusted\n"
    assert main(words) == 0
    before, after = capsys.readouterr().out.split("\n\n")
    assert (said in before, said in after) == (False, True)
    assert main([*words, "--format", "svg"]) == 0
    assert said.strip() in capsys.readouterr().out
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
    embedded.call("sys-whonix", "admin.vm.property.Set", "provides_network", b"True")
    assert main(words) == 0
    assert "Not through Tor" not in capsys.readouterr().out


def test_text_before_and_after_a_run(pillar, capsys):
    assert main(["graph", pillar, "--embedded", "fresh", "--before", "--after"]) == 0
    before, after = capsys.readouterr().out.split("\nAfter a run\n")
    assert after == AFTER
    assert before.startswith("The machine now\nInternet\n└── sys-net\n    └── sys-firewall\n")
    assert "        └── work  in clear\n" in before


def test_a_bypass_is_told_from_who_else_is_in_clear():
    """R05. In the picture it has a panel of its own."""

    def client(name, **more):
        return Qube(name, "AppVM", "red", "sys-net", None, True, CLIENT, CLEAR, **more)

    net = Qube("sys-net", "AppVM", "red", None, None, True, "uplink", UPLINK)
    qubes = [net, client("portal", bypass="until 14:05"), client("tv", chosen=True), client("work")]
    view = View("The machine now", qubes, ())
    assert lines_of(view) == [
        "portal  in clear, bypass until 14:05",
        "tv  in clear, by choice",
        "work  in clear",
    ]
    drawn = svg.draw([view])
    for words in ("IN CLEAR, bypass until 14:05", "IN CLEAR, by choice", "IN CLEAR"):
        assert drawn.count(f">{words}<") == 1
    assert "3 in clear" in drawn


def lines_of(view):
    """What the text says of each client."""
    file = io.StringIO()
    text.draw(Console(file=file, width=120), view)
    return [line.partition("── ")[2] for line in file.getvalue().splitlines() if "    " in line]


WATCHED = """\
default-dvm, personal, work -> sys-firewall -> sys-dns -> sys-vpn -> sys-net
  WHO                                       ADDRESS  ACCOUNT  VPN   TOR  DESTINATIONS  NAMES
  your line and its provider                sees     -        sees  -    -             -
  the VPN provider of sys-vpn               sees     sees     sees  -    sees          -
  who runs the resolvers that sys-dns asks  -        -        sees  -    -             sees
  the servers that you visit                -        -        sees  -    sees          -
Both who you are and where you go: the VPN provider of sys-vpn.

untrusted -> sys-firewall-novpn -> sys-net
  WHO                         ADDRESS  ACCOUNT  VPN  TOR  DESTINATIONS  NAMES
  your line and its provider  sees     -        -    -    sees          sees
  the servers that you visit  sees     -        -    -    sees          -
Both who you are and where you go: your line and its provider.
"""


def test_who_sees_what(pillar, capsys):
    """R70, R88: of the machine as it is drawn, in each form."""
    words = ["graph", pillar, "--embedded", "fresh", "--after", "--observers"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{AFTER}\n{WATCHED}"
    assert main([*words, "--json"]) == 0
    (view,) = json.loads(capsys.readouterr().out)
    inside, clear = view["observers"]
    assert clear["clients"] == ["untrusted"]
    assert clear["observers"][0]["sees"] == ["address", "destinations", "names"]
    assert [each["kind"] for each in inside["observers"]] == [
        "line",
        "provider",
        "operator",
        "destination",
    ]
    assert main([*words, "--format", "svg"]) == 0
    root = ElementTree.fromstring(capsys.readouterr().out)  # noqa: S314 - ours
    dots = [each.get("fill") for each in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == WATCHED.count("sees")
    assert dots.count(_RED) == 4 + 3  # of the VPN's provider, and of the line in clear


def test_the_machine_itself_is_not_written_to(pillar, embedded):
    before = embedded.snapshot()
    assert main(["graph", pillar, "--embedded", str(embedded.path), "--after"]) == 0
    assert embedded.snapshot() == before


def test_without_a_pillar_tunnels_are_known_by_their_flag(embedded, capsys):
    set_up_by_hand(embedded)
    assert main(["graph", "--embedded", str(embedded.path)]) == 0
    shown = capsys.readouterr().out
    assert "sys-vpn  tunnel, no firewall list\n" in shown
    assert "work\n" in shown
    assert "untrusted  in clear\n" in shown


def set_up_by_hand(embedded):
    """Work behind a tunnel that no firewall list limits."""
    create = b"name=sys-vpn label=orange"
    embedded.call("dom0", "admin.vm.Create.AppVM", "debian-13-minimal", create)
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("sys-vpn", "admin.vm.feature.Set", "service.qubes-vpn", b"1")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-vpn")


def test_a_tunnel_that_hangs_on_nobody_lets_nobody_out(embedded, capsys):
    set_up_by_hand(embedded)
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"")
    assert main(["graph", "--embedded", str(embedded.path), "--json"]) == 0
    ways = {qube["name"]: qube["way"] for qube in json.loads(capsys.readouterr().out)[0]["qubes"]}
    assert ways["work"] == "closed"
    assert ways["untrusted"] == "clear"
    assert ways["vault"] == "offline"
    assert main(["graph", "--embedded", str(embedded.path)]) == 0
    assert "No way out\n└── sys-vpn  tunnel, no firewall list\n    └── work  cut off\n" in (
        capsys.readouterr().out
    )


def test_a_run_that_would_be_refused_is_drawn_and_said(pillar, embedded, capsys):
    """The real thing: a qube of the pillar that is no netvm."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "debian-13-xfce", b"name=sys-dns label=red")
    embedded.call("sys-dns", "admin.vm.feature.Set", "internal", b"1")
    embedded.call("sys-dns", "admin.vm.Start")
    assert main(["graph", pillar, "--embedded", str(embedded.path), "--after"]) == 1
    out, err = capsys.readouterr()
    assert "Refused: " in out
    assert err.startswith("The run would be refused: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--embedded", "fresh", "--after"], "--after needs a pillar"),
        (["nowhere.sls", "--embedded", "fresh"], "nowhere.sls"),
        (["--inventory", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input(words, told, capsys):
    assert main(["graph", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_bad_pillar(tmp_path, capsys):
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR.replace("topology", "topolgy").replace("sys-firewall: {}", "a: {b: c}"))
    assert main(["graph", str(path), "--embedded", "fresh"]) == 2
    assert "pillar.sls:" in capsys.readouterr().out


def test_the_format_follows_the_files_name_and_a_file_is_not_overwritten(pillar, tmp_path, capsys):
    file = tmp_path / "network.svg"
    words = ["graph", pillar, "--embedded", "fresh", "--output", str(file)]
    assert main(words) == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")  # noqa: S314 - ours
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--force", "--format", "text"]) == 0
    assert file.read_text().startswith("Internet\n")


def test_the_picture_in_the_readme_is_current(checkout, tmp_path):
    """By the lines that its pillar names."""
    text = (checkout / "docs/chain.sls").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^#   (.*)", text, re.MULTILINE))
    program = f"{sys.executable} -m qubes_vpn_formula "
    made = tmp_path / "chain.svg"
    script = lines.replace(".venv/bin/qubes-vpn ", program).replace("docs/chain.svg", str(made))
    subprocess.run(["sh", "-c", script], cwd=checkout, check=True)
    assert made.read_bytes() == (checkout / "docs/chain.svg").read_bytes(), f"run: {lines}"


def test_a_png(pillar, tmp_path):
    pytest.importorskip("resvg_py")
    if not png._has_font():
        pytest.skip("there is no font on this machine, so no PNG could be drawn")
    file = tmp_path / "network.png"
    words = ["graph", pillar, "--embedded", "fresh", "--after", "--output", str(file)]
    assert main(words) == 0
    head = file.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20], "big") > 2 * 760


def test_without_resvg_it_says_what_to_install(pillar, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    words = ["graph", pillar, "--embedded", "fresh", "--output", str(tmp_path / "a.png")]
    assert main(words) == 2
    assert "pip install resvg-py" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_without_any_font_it_says_so(monkeypatch):
    """A PNG without names would be a lie."""
    resvg = pytest.importorskip("resvg_py")
    monkeypatch.setattr(
        png,
        "_renderer",
        lambda: lambda **words: resvg.svg_to_bytes(**words, skip_system_fonts=True),
    )
    png._has_font.cache_clear()
    try:
        with pytest.raises(png.UserError, match="no font on this machine"):
            png.draw(svg.draw([View("a", [])]))
    finally:
        png._has_font.cache_clear()


def test_a_reader_that_goes_away(pillar):
    """R69: as of every command, `| head` is no error."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m qubes_vpn_formula graph --embedded fresh | head -n1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("Internet\n", "")


@_QUICK
@given(networks())
def test_nobody_is_missing(qubes):
    assert sorted(tree.grow(qubes).all()) == sorted(qubes)
    texts = [element.text for element in _elements(qubes, "text")]
    for qube in qubes:
        assert texts.count(qube.name) == 1, qube


@_QUICK
@given(networks())
def test_nothing_overlaps_or_leaves_the_picture(qubes):
    drawing = layout.lay(tree.grow(qubes), svg._words(View("", qubes)))
    boxes = [(box.x, box.y, box.width, layout.BOX) for box in drawing.boxes]
    panels = [(panel.x, panel.y, panel.width, panel.height) for panel in drawing.panels]
    for one, other in combinations([*boxes, *panels], 2):
        assert _apart(one, other), (one, other)
    for x, y, width, height in [*boxes, *panels]:
        assert x >= -0.01
        assert y >= -0.01
        assert x + width <= drawing.width + 0.01
        assert y + height <= drawing.height + 0.01
    for panel in drawing.panels:
        chips = [(chip.x, chip.y, chip.width, layout.CHIP) for chip in panel.chips]
        assert all(_apart(one, other) for one, other in combinations(chips, 2))
        for x, y, width, height in chips:
            assert panel.x < x < x + width < panel.x + panel.width
            assert panel.y < y < y + height < panel.y + panel.height


def _apart(one, other):
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one, other
    return x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1


#: Somebody in clear behind a firewall, beside a tunnel.
_CHAIN = [
    Qube("sys-net", "AppVM", "red", None, None, True, "uplink", UPLINK),
    Qube("sys-vpn", "AppVM", "red", "sys-net", None, True, "tunnel", SHELTERED, "sys-vpn"),
    Qube("sys-firewall", "AppVM", "red", "sys-net", None, True, "firewall", CLEAR),
    Qube("work", "AppVM", "blue", "sys-vpn", None, True, CLIENT, SHELTERED, "sys-vpn"),
    Qube("games", "AppVM", "blue", "sys-firewall", None, True, CLIENT, CLEAR),
]


def _carrier(name, netvm, role):
    return Qube(name, "AppVM", "red", netvm, None, True, role, SHELTERED, name, limited=True)


def test_what_is_inside_of_what():
    """R88: tunnels in tunnels and in Tor, in the edges, the legend and the words."""
    qubes = [
        Qube("sys-net", "AppVM", "red", None, None, True, "uplink", UPLINK),
        _carrier("outer", "sys-net", "tunnel"),
        _carrier("tor", "outer", "tor"),
        Qube("between", "AppVM", "red", "tor", None, True, "firewall", SHELTERED, "tor"),
        _carrier("inner", "between", "tunnel"),
        Qube("work", "AppVM", "blue", "inner", None, True, CLIENT, SHELTERED, "inner"),
    ]
    flows = dict(_flows(tree.grow(qubes)))
    assert flows == {
        "sys-net": ("Tor in a tunnel",),
        "outer": ("Tor in a tunnel",),
        "tor": ("tunnel in Tor",),
        "between": ("tunnel",),
        "inner": ("tunnel",),
    }
    legend = {each.text for each in _elements(qubes, "text")}
    assert {"Tor in a tunnel", "tunnel in Tor", "tunnel"} <= legend
    assert "tunnel in a tunnel" not in legend
    console = Console(file=io.StringIO(), width=120)
    text.draw(console, View("", qubes))
    shown = console.file.getvalue()
    assert "outer  tunnel, Tor inside it\n" in shown
    assert "tor  Tor, a tunnel inside it\n" in shown
    assert "inner  tunnel\n" in shown


@_QUICK
@given(networks())
@example(_CHAIN)
def test_red_is_where_somebody_is_in_clear_and_nowhere_else(qubes):
    """A way of somebody in clear is red from end to end."""
    found = {each.get("stroke") for each in _elements(qubes, "path", "rect")}
    in_clear = [qube for qube in qubes if qube.role == CLIENT and qube.way == CLEAR]
    assert (_RED in found) == bool(in_clear)
    by_name = {qube.name: qube for qube in qubes}
    carried = set()
    for qube in in_clear:
        above = by_name[qube.netvm]
        while above.netvm:
            carried.add(above.name)
            above = by_name[above.netvm]
    reds = {name for name, flows in _flows(tree.grow(qubes)) if CLEAR in flows}
    tops = {qube.name for qube in qubes if qube.netvm is None}
    assert reds - tops == carried


def _flows(forest):
    todo = [*forest.uplinks, *forest.cut]
    while todo:
        node = todo.pop()
        yield node.qube.name, node.flows
        todo += node.nodes


def _elements(qubes, *tags):
    root = ElementTree.fromstring(svg.draw([View("a title", qubes)]))  # noqa: S314 - ours
    return [each for each in root.iter() if each.tag.split("}")[1] in tags]


@pytest.mark.parametrize(("count", "width", "height"), [(6, 1000, 500), (60, 1500, 1500)])
def test_a_screen_is_enough(count, width, height):
    """One chain with so many clients."""
    chain = [
        Qube("sys-net", "AppVM", "red", None, None, True, "uplink", UPLINK),
        Qube("sys-vpn", "AppVM", "red", "sys-net", None, True, "tunnel", SHELTERED, "sys-vpn"),
    ]
    for number in range(count):
        netvm = "sys-vpn" if number % 6 else None
        way = SHELTERED if netvm else OFFLINE
        chain.append(
            Qube(f"client-{number}", "AppVM", "blue", netvm, None, False, CLIENT, way, "sys-vpn")
        )
    root = ElementTree.fromstring(svg.draw([View("", chain)]))  # noqa: S314 - ours
    assert int(root.get("width")) <= width
    assert int(root.get("height")) <= height


def test_what_a_note_says_is_text_and_no_markup():
    with contextlib.suppress(ElementTree.ParseError):
        view = View("<a & b>", [], (("</text><script>", CLEAR),))
        root = ElementTree.fromstring(svg.draw([view]))  # noqa: S314 - ours
        assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
        return
    raise AssertionError("the picture is no XML")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints from a provider's relay list: chosen, collapsed, kept in the pillar (R36)."""

import datetime
import ipaddress
import json
import re
import socket
import stat
from pathlib import Path

import pytest
import yaml
from generator.relay_lists import RELAYS, api_list, many, old_cache, relay
from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_endpoints
import qubes_vpn_net
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.relays import chosen, reading
from qubes_vpn_formula.relays.selection import Selection

NOWHERE = str(ipaddress.IPv4Address(0))
API = "45.83.223.196:443/tcp"
PILLAR = """\
# the first line
qubes_vpn:
  tunnels:
    sys-vpn:
      kind: mullvad
      # about endpoints
      endpoints:
        # in Sweden
        - 203.0.113.3:51820/udp   # the fast one
        # my own
        - 192.0.2.9:51820/udp
      # about memory
      memory: 400
  routes: {qubes: {work: sys-firewall}}  # on one line
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is ever fetched or looked up."""

    def refused(*_args, **_kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture
def write(tmp_path):
    def write(data, name="relays.json"):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(path)

    return write


@pytest.fixture
def pillar(write):
    return write(PILLAR, "pillar.sls")


@pytest.fixture
def listed(write):
    return write(api_list(RELAYS))


def relays(*words):
    return main(["relays", *words])


def texts(path, **wishes):
    found = chosen.choose(reading.read(path), Selection(**wishes), "2026-11-22")
    return [one.text for one in found.endpoints]


def tunnel(path):
    assert pillarfile.read(path).problems() == []
    return pillarfile.read(path).document["tunnels"]["sys-vpn"]


# --- choosing


@pytest.mark.parametrize("shape", [api_list, old_cache])
def test_both_shapes(shape, write):
    """Active WireGuard relays only, collapsed, and the API's address."""
    assert texts(write(shape(RELAYS)), countries=("se",)) == [
        "203.0.113.0/31:51820/udp",
        "203.0.113.3:51820/udp",
        API,
    ]


@pytest.mark.parametrize(
    ("wishes", "addresses"),
    [
        ({"countries": ("de", "se"), "owner": "rented"}, ["203.0.113.1"]),
        ({"cities": ("ber",)}, ["198.51.100.5"]),
        ({"hostnames": ("de-ber-wg-001",)}, ["198.51.100.5"]),
        ({"hostnames": ("se-*-00?", "de-*")}, ["198.51.100.5", "203.0.113.0/31", "203.0.113.3"]),
        ({"countries": ("se",), "hosted_by": ("Xtom",)}, ["203.0.113.3"]),
        ({"owner": "owned", "hostnames": ("*-got-*",)}, ["203.0.113.0"]),
    ],
)
def test_every_way_to_choose(wishes, addresses, write):
    listed = [one | ({"provider": "xtom"} if "002" in one["hostname"] else {}) for one in RELAYS]
    listed[1]["provider"] = "M247"
    found = texts(write(api_list(listed)), api=False, **wishes)
    assert found == [f"{address}:51820/udp" for address in addresses]


def test_ports_and_further_addresses(write):
    """As the app chooses: shadowsocks and QUIC have addresses of their own, udp2tcp has not."""
    got = relay(
        "se-got-wg-001",
        "203.0.113.1",
        "2001:db8::1",
        shadowsocks_extra_addr_in=["198.51.100.8", "198.51.100.9", "2001:db8::9"],
        features={"quic": {"addr_in": ["198.51.100.7"], "token": "t", "domain": "d"}},
    )
    plain = relay("se-got-wg-002", "203.0.113.2")
    for shape in (api_list, old_cache):
        path = write(shape([got, plain]))
        assert texts(path, port=53, ipv6=True, api=False) == [
            "203.0.113.1:53/udp",
            "203.0.113.2:53/udp",
            "[2001:db8::1]:53/udp",
        ]
        wishes = {"shadowsocks": 51900, "udp2tcp": 5001, "quic": True, "api": False}
        assert texts(path, **wishes) == [
            "198.51.100.7:443/udp",
            "203.0.113.1:5001/tcp",
            "203.0.113.2:5001/tcp",
            "203.0.113.1:51820/udp",
            "203.0.113.2:51820/udp",
            "198.51.100.8/31:51900/udp",
            "203.0.113.2:51900/udp",
        ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "51821"], "no relay listens on port 51821. Choose --port from 53, 51820."),
        (["--port", "0"], "--port: 0 is not a port"),
        (["--country", "xx"], "the list has no country 'xx'. Known here: de, se."),
        (["--city", "sot"], "the list has no city 'sot'. Did you mean 'sto'?"),
        (["--hosted-by", "M247"], "no hosting company 'M247'. Known here: made up."),
        (["--hostname", "se-goth-wg-001"], "Did you mean 'se-got-wg-001'?"),
        (["--hostname", "no-*"], "the list has no relay 'no-*'. Names are as in se-got-wg-001"),
        (["--hostname", "se got"], "--hostname: 'se got' is neither a host name nor"),
        (["--entry", "se-sto-wg-001"], "every relay that fits is inactive"),
        (["--country", "de", "--owner", "rented"], "no relay fits"),
        (["--shadowsocks", "443"], "se-got-wg-001 does not listen for shadowsocks on port 443"),
        (["--udp2tcp", "81"], "for udp2tcp on port 81. Choose --udp2tcp from 80, 443, 5001."),
        (["--also", "vpn.example:1/udp"], "--also: 'vpn.example' is a host name"),
        (["--also", "0.0.0.0/0:1/udp"], "--also: 0.0.0.0/0 is too wide"),
    ],
)
def test_wishes_that_nothing_fulfils(words, message, listed, capsys):
    assert relays("--from", listed, *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


@given(st.sets(st.ip_addresses(network="45.83.220.0/22"), min_size=1))
def test_collapsed_exactly(addresses):
    """The prefixes hold every chosen relay and not one address more."""
    names = dict.fromkeys(addresses, "se-got-wg-001")
    found = [
        ipaddress.ip_network(qubes_vpn_net.endpoint(one.text).host)
        for one in chosen._collapsed(names, 51820, "udp", "relays.json")
    ]
    assert {address for network in found for address in network} == addresses
    assert found == list(ipaddress.collapse_addresses(found))


@pytest.mark.parametrize("shape", [api_list, old_cache])
def test_600_relays(shape, write, pillar, capsys):
    """Into a pillar and back out of it, with room left below Qubes' limit."""
    path = write(shape(many(600)))
    assert relays("--from", path, "--into", pillar, "--json") == 0
    data = json.loads(capsys.readouterr().out)["tunnels"]["sys-vpn"]
    assert data["firewall"]["bytes"] < data["firewall"]["limit"]
    assert len(tunnel(pillar)["endpoints"]) == 580 + 1
    assert relays("--from", path, "--diff", pillar) == 0


def test_too_many_for_qubes(write, capsys):
    """One Admin API call cannot carry them: it says where to choose less."""
    path = write(api_list(many(600)))
    assert relays("--from", path, "--ipv6") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1,161 endpoints are firewall rules of" in shown.err
    assert "Qubes accepts 65,4" in shown.err
    assert "most relays are in se (" in shown.err


# --- init


@pytest.mark.parametrize(
    ("words", "location"),
    [
        (["--country", "se"], "se"),
        (["--country", "no"], "no"),
        (["--city", "got"], "se got"),
        (["--hostname", "se-got-wg-001"], "se-got-wg-001"),
        (["--country", "se", "--country", "no"], None),
    ],
)
def test_init_says_where_the_app_connects(words, location, write, capsys):
    """R30, R36: by itself it goes to its own default, which the endpoints may not have."""
    hosts = ["se-got-wg-001", "se-got-wg-002", "se-sto-wg-001", "no-osl-wg-001", "no-svg-wg-001"]
    relays = [relay(host, f"203.0.113.{at}") for at, host in enumerate(hosts, 1)]
    listed = write(api_list(relays), "places.json")
    assert main(["init", "--provider", "mullvad", "--relays", listed, *words]) == 0
    shown = capsys.readouterr()
    said = " ".join(shown.err.split())
    pillar = write(shown.out, "made.sls")
    app = yaml.safe_load(shown.out)["qubes_vpn"]["tunnels"]["sys-vpn"].get("mullvad")
    assert app == (location and {"location": location})
    assert ("The relays are in: no, se" in said) is (location is None)
    assert main(["check", pillar]) == 0
    capsys.readouterr()
    told = "the relays are chosen elsewhere" if location else "The relays are in: no, se"
    if location:
        assert main(["set", pillar, "tunnels.sys-vpn.mullvad.location", "ch zrh"]) == 2
    else:
        assert main(["relays", "--from", listed, "--refresh", pillar]) == 0
    shown = capsys.readouterr()
    assert told in " ".join((shown.out + shown.err).split())


@pytest.mark.parametrize(
    ("words", "entry", "told"),
    [
        (["--hostname", "se-got-*"], None, "cannot be told names or patterns, so it may try"),
        (["--hostname", "se-got-wg-001"], None, None),
        (["--owner"], None, None),
        (["--owner"], "se", "the owner or company of an entry relay alone, so it may try"),
        (["--country", "se"], "se", None),
    ],
)
def test_what_the_app_cannot_be_told_is_said(words, entry, told, write, capsys):
    """R36. It would take relays that the endpoints do not allow, and nobody would know why."""
    hosts = ["se-got-wg-001", "se-got-wg-002", "se-sto-wg-001"]
    listed = write(api_list([relay(host, f"203.0.113.{at}") for at, host in enumerate(hosts, 1)]))
    assert main(["init", "--provider", "mullvad", "--relays", listed, *words]) == 0
    shown = capsys.readouterr()
    assert (told is not None and not entry) is ("cannot be told" in shown.err)
    text = shown.out
    if entry:
        head, middle, rest = text.partition("      mullvad:\n")
        assert middle
        text = f"{head}{middle}        entry: {entry}\n{rest}"
    pillar = write(text, "made.sls")
    assert main(["relays", "--from", listed, "--refresh", pillar]) == 0
    shown = capsys.readouterr()
    said = " ".join((shown.out + shown.err).split())
    assert ("cannot be told" in said) is (told is not None)
    assert (told or "") in said


def test_cities_are_named_where_cities_were_chosen(write, capsys):
    """R36. In their countries there are more relays, which the endpoints do not allow."""
    hosts = ["se-got-wg-001", "se-sto-wg-001", "no-osl-wg-001"]
    listed = write(api_list([relay(host, f"203.0.113.{at}") for at, host in enumerate(hosts, 1)]))
    words = ["--city", "got", "--city", "osl"]
    assert main(["init", "--provider", "mullvad", "--relays", listed, *words]) == 0
    assert "The relays are in: no osl, se got" in " ".join(capsys.readouterr().err.split())


def test_companies_are_written_as_the_list_has_them(write, capsys):
    """R36. The app compares letter by letter."""
    path = write(api_list([relay("se-got-wg-001", "203.0.113.1", provider="M247")]))
    assert main(["init", "--provider", "mullvad", "--relays", path, "--hosted-by", "m247"]) == 0
    pillar = write(capsys.readouterr().out, "made.sls")
    assert tunnel(pillar)["relays"]["hosted_by"] == ["M247"]
    app = pillarfile.read(pillar).model.services["sys-vpn"].mullvad
    assert (app["owner"], app["hosted_by"]) == ("any", ("M247",))


def test_init(listed, write, capsys):
    """The same way; where each prefix comes from stands beside it."""
    words = ["init", "--provider", "mullvad", "--relays", listed, "--country", "SE", "--owner"]
    assert main(words) == 0
    shown = capsys.readouterr()
    found = yaml.safe_load(shown.out)["qubes_vpn"]["tunnels"]["sys-vpn"]
    assert found["kind"] == "mullvad"
    assert "profile" not in found
    assert found["endpoints"] == ["203.0.113.0:51820/udp", "203.0.113.3:51820/udp", API]
    assert "# se-got-wg-001" in shown.out
    assert "mullvad-account" in shown.err
    assert "pins it to port 51820" in shown.err
    pillar = write(shown.out, "made.sls")
    assert tunnel(pillar)["relays"]["countries"] == ["se"]
    assert relays("--from", listed, "--refresh", pillar) == 0
    assert write(shown.out, "same.sls") != pillar
    assert pillarfile.read(pillar).text == shown.out


def test_init_writes_names_that_yaml_would_misread(write, capsys):
    """`no` is Norway, and 31173 a company."""
    path = write(api_list([relay("no-osl-wg-001", "203.0.113.1", provider="31173")]))
    words = ["--country", "no", "--hosted-by", "31173"]
    assert main(["init", "--provider", "mullvad", "--relays", path, *words]) == 0
    pillar = write(capsys.readouterr().out, "made.sls")
    assert tunnel(pillar)["relays"]["countries"] == ["no"]
    assert relays("--from", path, "--into", pillar, *words) == 0
    assert tunnel(pillar)["relays"]["hosted_by"] == ["31173"]


def test_init_without_a_list(capsys):
    """It says where to get one."""
    assert main(["init", "--provider", "mullvad"]) == 2
    assert "/var/cache/mullvad-vpn/relays.json" in capsys.readouterr().err


# --- in a pillar


def test_into_a_pillar(listed, pillar, capsys):
    """Comments and everything else stay; the difference is shown."""
    assert (
        relays("--from", listed, "--into", pillar, "--country", "se", "--also", "192.0.2.9:1/udp")
        == 0
    )
    found = tunnel(pillar)
    today = datetime.date.today().isoformat()
    assert found["endpoints"] == [
        "203.0.113.0/31:51820/udp",
        "203.0.113.3:51820/udp",
        API,
        "192.0.2.9:1/udp",
    ]
    said = {key: found["relays"][key] for key in found["relays"] if key != "sha256"}
    assert said == {
        "list": "mullvad",
        "countries": ["se"],
        "port": 51820,
        "also": ["192.0.2.9:1/udp"],
        "taken": today,
    }
    lines = pillarfile.read(pillar).text.splitlines()
    gone = [line for line in PILLAR.splitlines() if line not in lines]
    assert gone == ["        - 192.0.2.9:51820/udp"]
    assert "        - 203.0.113.3:51820/udp   # the fast one" in lines
    shown = capsys.readouterr()
    assert "+        - 203.0.113.0/31:51820/udp  # se-got-wg-001 and 1 more" in shown.out
    assert "sys-vpn: 3 relays, 4 endpoints" in shown.err


def test_a_relay_that_was_renamed(write, listed, pillar):
    """The comment beside its address is ours, and follows; a user's own stays."""
    assert relays("--from", listed, "--into", pillar, "--country", "de") == 0
    assert "# de-ber-wg-001\n" in pillarfile.read(pillar).text
    new = write(api_list([relay("de-fra-wg-007", "198.51.100.5")]), "new.json")
    assert relays("--from", new, "--refresh", pillar) == 0
    assert "# de-fra-wg-007\n" in pillarfile.read(pillar).text
    assert "de-ber-wg-001" not in pillarfile.read(pillar).text


def test_what_would_be_a_problem_is_not_written(write, listed, capsys):
    """WireGuard by NetworkManager speaks udp only."""
    text = PILLAR.replace("kind: mullvad", "kind: wireguard\n      profile: wg0.conf")
    pillar = write(text, "pillar.sls")
    assert relays("--from", listed, "--into", pillar, "--udp2tcp", "443") == 2
    assert "WireGuard speaks udp only" in capsys.readouterr().err
    assert pillarfile.read(pillar).text == text


def test_dry_run_writes_nothing(listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar, "--dry-run") == 0
    assert "+        - 203.0.113.0/31:51820/udp" in capsys.readouterr().out
    assert pillarfile.read(pillar).text == PILLAR


def test_a_second_refresh_changes_nothing(listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar) == 0
    before = pillarfile.read(pillar).text
    capsys.readouterr()
    assert relays("--from", listed, "--refresh", pillar) == 0
    assert capsys.readouterr().out == ""
    assert pillarfile.read(pillar).text == before


def test_refresh_repeats_the_selection(write, listed, pillar, capsys):
    """Whatever the list is now, by what the pillar says; comments in the selection stay."""
    assert relays("--from", listed, "--into", pillar, "--country", "se", "--owner", "rented") == 0
    text = pillarfile.read(pillar).text.replace("owner: rented", "owner: rented  # not theirs")
    write(text, "pillar.sls")
    new = [*RELAYS, relay("se-mma-wg-009", "203.0.113.9", owned=False)]
    assert relays("--from", write(api_list(new)), "--refresh", pillar) == 0
    assert tunnel(pillar)["endpoints"] == ["203.0.113.1:51820/udp", "203.0.113.9:51820/udp", API]
    assert "owner: rented  # not theirs" in pillarfile.read(pillar).text
    assert "edited" not in capsys.readouterr().err


def test_refresh_takes_no_selection_of_its_own(listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar) == 0
    for words in (["--country", "se"], ["--no-api"], ["--also", "192.0.2.9:1/udp"]):
        assert relays("--from", listed, "--refresh", pillar, *words) == 2
        assert f"{words[0]}: the selection is the one in the pillar" in capsys.readouterr().err


def test_refresh_needs_a_selection(listed, pillar, capsys):
    assert relays("--from", listed, "--refresh", pillar) == 2
    assert "no tunnel has 'relays'" in capsys.readouterr().err


def test_a_pillar_with_other_problems_is_not_touched(write, listed, capsys):
    text = PILLAR.replace("memory: 400", "memory: 4")
    pillar = write(text, "pillar.sls")
    assert relays("--from", listed, "--into", pillar) == 2
    assert "memory: 4 is not possible" in capsys.readouterr().out
    assert relays("--from", listed, "--into", write(PILLAR, "p.sls"), "--tunnel", "vpn") == 2
    assert "there is no tunnel 'vpn'" in capsys.readouterr().err
    assert pillarfile.read(pillar).text == text


def test_other_layouts_of_the_list(write, listed):
    """On one line, without indentation, in a flow mapping."""
    block = PILLAR[PILLAR.index("        # in Sweden") : PILLAR.index("      # about memory")]
    for name, text in {
        "flow.sls": PILLAR.replace(f"endpoints:\n{block}", "endpoints: ['192.0.2.9:1/udp']  # x\n"),
        "flat.sls": PILLAR.replace("        - ", "      - "),
        "crlf.sls": PILLAR.replace("\n", "\r\n"),
        "one.sls": "qubes_vpn: {tunnels: {sys-vpn: "
        "{kind: mullvad, endpoints: ['192.0.2.9:1/udp']}}}",
    }.items():
        assert text != PILLAR
        pillar = write("", name)
        Path(pillar).write_bytes(text.encode())
        assert relays("--from", listed, "--into", pillar) == 0
        assert len(tunnel(pillar)["endpoints"]) == 4, name
        assert relays("--from", listed, "--diff", pillar) == 0


# --- edited by hand, or old


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("203.0.113.3:51820/udp", "203.0.113.4:51820/udp"),
        ("countries:\n        - se", "countries:\n        - de"),
        ("port: 51820\n", "port: 53\n"),
        ("taken: '2", "taken: '3"),
    ],
)
def test_what_was_edited_by_hand_is_a_problem(old, new, write, listed, pillar, capsys):
    """A selection that is not that of the endpoints would be believed; the refresh mends it."""
    assert relays("--from", listed, "--into", pillar, "--country", "se") == 0
    text = pillarfile.read(pillar).text
    assert old in text
    write(text.replace(old, new), "pillar.sls")
    capsys.readouterr()
    assert main(["check", pillar]) == 2
    assert "the selection or the endpoints were changed since" in capsys.readouterr().out
    assert relays("--from", listed, "--refresh", pillar) == 0
    assert "were edited since" in capsys.readouterr().err
    assert main(["check", pillar]) == 0


def test_set_refuses_to_part_them(listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar) == 0
    words = ["tunnels.sys-vpn.endpoints", "--append", "192.0.2.77:51820/udp"]
    assert main(["set", pillar, *words]) == 2
    assert "endpoints of your own go under 'also'" in capsys.readouterr().err
    assert main(["set", pillar, "tunnels.sys-vpn.relays", "--delete"]) == 0
    assert main(["set", pillar, *words]) == 0


def test_the_order_of_endpoints_does_not_matter(write, listed, pillar):
    assert relays("--from", listed, "--into", pillar) == 0
    document = yaml.safe_load(pillarfile.read(pillar).text)
    document["qubes_vpn"]["tunnels"]["sys-vpn"]["endpoints"].reverse()
    assert tunnel(write(yaml.safe_dump(document), "turned.sls"))


def test_old_data_is_a_remark(listed, pillar, capsys, monkeypatch):
    """Exit code 0: nothing is wrong with a list that may still be right."""
    taken = datetime.date.today() - datetime.timedelta(days=31)
    monkeypatch.setattr("qubes_vpn_formula.commands.relays._today", taken.isoformat)
    assert relays("--from", listed, "--into", pillar) == 0
    capsys.readouterr()
    assert main(["check", pillar]) == 0
    shown = capsys.readouterr().out
    assert "relays.taken: the relays were chosen 31 days ago" in shown
    assert "no problem" in shown
    assert main(["check", "--json", pillar]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["remark"] is True
    assert line["line"] == 1 + pillarfile.read(pillar).text[
        : pillarfile.read(pillar).text.index("taken:")
    ].count("\n")


# --- in use


def test_what_is_in_use_stays_until_it_is_not(write, listed, pillar, capsys):
    """Only that address on its own port, though it was part of a prefix; marked; then dropped."""
    assert relays("--from", listed, "--into", pillar, "--country", "se") == 0
    new = write(api_list([one for one in RELAYS if one["hostname"] != "se-got-wg-002"]), "new.json")
    capsys.readouterr()
    assert relays("--from", new, "--refresh", pillar, "--in-use", "203.0.113.1") == 0
    assert tunnel(pillar)["endpoints"] == [
        "203.0.113.0:51820/udp",
        "203.0.113.3:51820/udp",
        API,
        "203.0.113.1:51820/udp",
    ]
    assert re.search(
        r"- 203.0.113.1:51820/udp +# in use, no longer chosen\n", pillarfile.read(pillar).text
    )
    assert "kept, because it is in use: 203.0.113.1:51820/udp" in capsys.readouterr().err
    assert relays("--from", new, "--refresh", pillar, "--in-use", "203.0.113.1") == 0
    assert "203.0.113.1:51820/udp" in tunnel(pillar)["endpoints"]
    assert relays("--from", new, "--refresh", pillar) == 0
    assert tunnel(pillar)["endpoints"] == ["203.0.113.0:51820/udp", "203.0.113.3:51820/udp", API]


def test_what_is_in_use_by_a_status(write, listed, pillar, capsys):
    """As `mullvad status --json` has it: the address with a port, among much else."""
    assert relays("--from", listed, "--into", pillar) == 0
    new = write(api_list([one for one in RELAYS if "got" not in one["hostname"]]), "new.json")
    details = {"endpoint": {"address": "203.0.113.1:51820", "protocol": "udp"}, "quantum": True}
    status = {"state": "connected", "details": {**details, "location": {"ipv4": "192.0.2.77"}}}
    words = ["--from", new, "--refresh", pillar, "--status"]
    assert relays(*words, write(status, "status.json")) == 0
    found = tunnel(pillar)["endpoints"]
    assert "203.0.113.1:51820/udp" in found
    assert "192.0.2.77" not in str(found)
    for text, said in (
        ({"state": "disconnected"}, "no address in it is an endpoint of sys-vpn"),
        ("Connected\n", "not JSON"),
        ("[" * 200_000, "not JSON"),
    ):
        assert relays(*words, write(text, "status.json")) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert tunnel(pillar)["endpoints"] == found


@pytest.mark.parametrize("text", ["[2001:db8::1]:51820", "2001:db8::1", "[2001:db8::1]:51820/udp"])
def test_in_use_with_ipv6(text, write, listed, pillar):
    assert relays("--from", listed, "--into", pillar, "--ipv6") == 0
    assert relays("--from", listed, "--into", pillar, "--in-use", text) == 0
    assert tunnel(pillar)["endpoints"][-1] == "[2001:db8::1]:51820/udp"


def test_what_is_in_use_and_chosen_is_nothing_special(listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar) == 0
    before = pillarfile.read(pillar).text
    assert relays("--from", listed, "--refresh", pillar, "--in-use", "203.0.113.1") == 0
    assert pillarfile.read(pillar).text == before


def test_another_port_keeps_the_old_one_of_what_is_in_use(listed, pillar):
    assert relays("--from", listed, "--into", pillar, "--country", "de") == 0
    words = ["--country", "de", "--port", "53", "--in-use", "198.51.100.5"]
    assert relays("--from", listed, "--into", pillar, *words) == 0
    assert tunnel(pillar)["endpoints"] == ["198.51.100.5:53/udp", API, "198.51.100.5:51820/udp"]


@pytest.mark.parametrize(
    ("address", "message"),
    [("198.51.100.99", "is no endpoint of"), ("se-got-wg-001", "is not an address")],
)
def test_nothing_else_is_kept(address, message, listed, pillar, capsys):
    """--in-use opens nothing that was not open."""
    assert relays("--from", listed, "--into", pillar) == 0
    before = pillarfile.read(pillar).text
    for how in ("--into", "--refresh"):
        assert relays("--from", listed, how, pillar, "--in-use", address) == 2
        assert message in capsys.readouterr().err
    assert pillarfile.read(pillar).text == before
    assert relays("--from", listed, "--in-use", address) == 2
    assert relays("--from", listed, "--status", pillar) == 2


# --- beside a pillar


def test_output(listed, tmp_path, capsys):
    """Dated, with a checksum; it is also an endpoints.txt."""
    file = tmp_path / "endpoints.txt"
    words = ["--from", listed, "--country", "se", "--output", str(file)]
    assert relays(*words) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = qubes_vpn_endpoints.read(file.read_bytes())
    assert [one.text for one in found] == ["203.0.113.0/31:51820/udp", "203.0.113.3:51820/udp", API]
    assert datetime.date.today().isoformat() in file.read_text()
    assert relays(*words) == 2
    assert "exists already" in capsys.readouterr().err
    assert relays(*words, "--force") == 0
    assert relays("--from", listed, "--diff", str(file)) == 0
    file.write_text(file.read_text().replace("113.3:", "113.4:"))
    assert relays("--from", listed, "--diff", str(file)) == 2
    assert "it was edited since it was written" in capsys.readouterr().err


def test_printed_as_in_the_file(listed, tmp_path, capsys):
    assert relays("--from", listed, "--output", str(tmp_path / "x")) == 0
    capsys.readouterr()
    assert relays("--from", listed) == 0
    assert capsys.readouterr().out == (tmp_path / "x").read_text()


# --- what is different


def changed(listed, hostname, **keys):
    return [one | (keys if one["hostname"] == hostname else {}) for one in listed]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"active": False}, "is inactive"),
        ({"ipv4_addr_in": "203.0.113.9"}, "has another address: 203.0.113.3 -> 203.0.113.9"),
        ({"owned": False}, "is rented, was owned"),
        ({"provider": "M247"}, "is hosted by M247, was by made up"),
        ({"location": "se-mma"}, "has moved: se sto -> se mma"),
        ({"public_key": "x"}, "has another public key: set up anew, or it is another machine"),
        (
            {"shadowsocks_extra_addr_in": ["198.51.100.1"]},
            "has other addresses for shadowsocks: 1 came, 0 went",
        ),
    ],
)
def test_every_change_of_a_relay(keys, said, write, capsys):
    old = write(old_cache(RELAYS), "old.json")
    new = write(api_list(changed(RELAYS, "se-sto-wg-002", **keys)), "new.json")
    assert relays("--from", new, "--diff", old) == 1
    assert capsys.readouterr().out == f"changed: se-sto-wg-002: {said}\n"
    assert relays("--from", new, "--diff", old, "--country", "de") == 0
    assert "no difference" in capsys.readouterr().out


def test_relays_that_came_and_went(write, capsys):
    old = write(api_list(RELAYS), "old.json")
    new = write(api_list([*RELAYS[1:], relay("ch-zrh-wg-001", "203.0.113.8")]), "new.json")
    assert relays("--from", new, "--diff", old) == 1
    assert capsys.readouterr().out.splitlines() == [
        "came: ch-zrh-wg-001: ch, zrh, owned, at made up, 203.0.113.8",
        "went: se-got-wg-001: se, got, owned, at made up, 203.0.113.0",
    ]
    assert relays("--from", new, "--diff", old, "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in data["changes"]] == ["came", "went"]


def test_since_a_pillar(write, listed, pillar, capsys):
    """Address by address, whatever prefixes they are in."""
    assert relays("--from", listed, "--into", pillar, "--country", "se") == 0
    new = changed(RELAYS, "se-got-wg-002", ipv4_addr_in="203.0.113.2")
    new = changed(changed(new, "se-sto-wg-001", active=True), "se-sto-wg-002", active=False)
    new = write(api_list([one | {"ipv6_addr_in": None} for one in new[:2] + new[3:]]), "new.json")
    capsys.readouterr()
    assert relays("--from", new, "--diff", pillar) == 1
    assert capsys.readouterr().out.splitlines() == [
        "came: 203.0.113.2:51820/udp: it is se-got-wg-002",
        "went: 203.0.113.1:51820/udp: no relay of the list has it",
        "went: 203.0.113.3:51820/udp: it is se-sto-wg-002, which is inactive",
    ]
    assert relays("--from", new, "--diff", pillar, "--country", "se") == 2
    assert "it has a selection of its own" in capsys.readouterr().err


@given(
    st.sets(st.ip_addresses(network="45.83.220.0/26")),
    st.sets(st.ip_addresses(network="45.83.220.0/26")),
)
def test_differences_are_exact(old, new):
    """What came and what went, to the address, however the two are joined to prefixes."""
    from qubes_vpn_formula.relays import difference

    def destinations(addresses):
        networks = ipaddress.collapse_addresses(map(ipaddress.ip_network, addresses))
        return [qubes_vpn_net.endpoint(f"{network}:1/udp") for network in networks]

    told = {"came": set(), "went": set()}
    for change in difference.of_endpoints(destinations(old), destinations(new)):
        told[change.kind] |= set(ipaddress.ip_network(change.name.partition(":")[0]))
    assert told == {"came": new - old, "went": old - new}


# --- lists of other providers

CSV = """\
# from the provider's page
hostname,country,city,owner,hosted_by,address,port,proto,active,public_key
ch-1.example,ch,Zürich,owned,M247,203.0.113.1,1194,udp,,
ch-1.example,ch,Zürich,owned,M247,203.0.113.1,443,tcp,true,
se-1.example,se,,,,203.0.113.2,1194,udp,,a key
se-2.example,se,,,,2001:db8::7,1194,udp,,
se-3.example,se,,,,203.0.113.3,1194,udp,false,
"""


def test_a_plain_list(write, pillar):
    """CSV and JSON: one line for each server and port; no API of Mullvad's."""
    path = write(CSV, "acme.csv")
    every = ["203.0.113.1:443/tcp", "203.0.113.1:1194/udp", "203.0.113.2:1194/udp"]
    assert texts(path) == every
    assert texts(path, countries=("ch",), port=443) == ["203.0.113.1:443/tcp"]
    assert texts(path, cities=("zürich",), ipv6=True, port=1194) == ["203.0.113.1:1194/udp"]
    assert texts(path, ipv6=True) == [*every, "[2001:db8::7]:1194/udp"]
    columns, *rows = [line.split(",") for line in CSV.splitlines()[1:]]
    data = [dict(zip(columns, row, strict=True)) for row in rows]
    data = [one | {"port": int(one["port"]), "active": one["active"] != "false"} for one in data]
    assert texts(write({"relays": data}, "acme.json"), ipv6=True) == texts(path, ipv6=True)
    acme = PILLAR.replace("kind: mullvad", "kind: openvpn\n      profile: acme.ovpn")
    write(acme, "pillar.sls")
    assert relays("--from", path, "--into", pillar, "--country", "ch") == 0
    assert tunnel(pillar)["relays"]["list"] == "plain"
    assert relays("--from", path, "--diff", pillar) == 0


def test_a_list_of_another_provider_is_not_taken(write, listed, pillar, capsys):
    assert relays("--from", listed, "--into", pillar) == 0
    path = write(CSV, "acme.csv")
    assert relays("--from", path, "--refresh", pillar) == 2
    assert "no tunnel has 'relays' of a list 'plain'" in capsys.readouterr().err
    assert relays("--from", path, "--diff", listed) == 2
    assert main(["init", "--provider", "mullvad", "--relays", path]) == 2
    for words in (["--shadowsocks", "51900"], ["--udp2tcp", "80"], ["--quic"], ["--no-api"]):
        assert relays("--from", path, *words) == 2
        assert "are Mullvad's, and this list is not" in capsys.readouterr().err.splitlines()[-1]


# --- broken and hostile lists (more in tests/bad/profiles/relays-*)


def odd(**keys):
    return json.dumps(api_list([*RELAYS, relay("se-got-wg-666", "203.0.113.66") | keys]))


def ranges(value):
    return json.dumps({**api_list(RELAYS), "wireguard": {"relays": [], "port_ranges": value}})


HOSTILE = {
    "empty": ("", "the file is empty"),
    "page": ("\n <!DOCTYPE html><html>", "this is a web page"),
    "deep": ("[" * 500_000, "nested too deeply"),
    "deep-mapping": ('{"relays":' * 200_000, "nested too deeply"),
    "large": (" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    "number": ('{"wireguard": ' + "9" * 5000 + "}", "not JSON"),
    "binary": ("{\0", "not UTF-8 text"),
    "list": ("[1]", "a relay list of Mullvad's web page"),
    "text": ('"relays"', "not a relay list"),
    "null": ('{"wireguard": null}', "not a relay list"),
    "ranges": (ranges([[0, 99999]]), "not a relay list"),
    "ranges-text": (ranges("all"), "not a relay list"),
    "zero": (odd(ipv4_addr_in=NOWHERE), "0.0.0.0 is not an address on the internet"),
    "private": (odd(ipv4_addr_in="10.0.0.1"), "10.0.0.1 is not an address on the internet"),
    "shared": (odd(ipv4_addr_in="100.64.0.1"), "100.64.0.1 is not an address on the internet"),
    "multicast": (odd(ipv4_addr_in="224.0.1.1"), "224.0.1.1 is not an address on the internet"),
    "local": (odd(ipv6_addr_in="fe80::1"), "fe80::1 is not an address on the internet"),
    "extra": (odd(shadowsocks_extra_addr_in=["127.0.0.1"]), "127.0.0.1 is not an address"),
    "network": (odd(ipv4_addr_in="45.83.0.0/16"), "'45.83.0.0/16' is not an IP address"),
    "zone": (odd(ipv6_addr_in="2a03::1%eth0"), "'2a03::1%eth0' is not an IP address"),
    "whole": (odd(ipv4_addr_in=755949316), "755949316 is not an IP address"),
    "twice": (odd(hostname="SE-GOT-WG-001"), "a second relay is called se-got-wg-001"),
    "name": (odd(hostname="se\x1b[2J"), r"'se\x1b[2J' is not a host name"),
    "jinja": (odd(hostname="{{ x }}"), "'{{ x }}' is not a host name"),
    "company": (odd(provider="a\x1b]0;b\x07"), r"'a\x1b]0;b\x07' cannot be the name of a company"),
    "place": (odd(location="s\ne-got"), "cannot be the name of a country"),
    "truth": (odd(active="yes"), "active and owned must be true or false"),
    "type": (odd(location=7), "not a relay list"),
    "missing": ('{"relays": [{"hostname": "a"}]}', "no address is given"),
    "plain-type": ('{"relays": [[]]}', "relay 1 is a list, not a mapping"),
    "plain-column": ("hostname,address,port,proto,adress", "Did you mean 'address'?"),
    "plain-width": ("hostname,address,port,proto\na,203.0.113.1,1", "line 2: it has more or fewer"),
    "plain-port": ("hostname,address,port,proto\na,203.0.113.1,0,udp", "port 0 is not from 1"),
    "plain-range": ("hostname,address,port,proto\na,203.0.113.1,1-9,udp", "'1-9' is not a port"),
    "plain-proto": ("hostname,address,port,proto\na,203.0.113.1,1,any", "'any' is neither udp nor"),
    "plain-twice": (CSV + CSV.splitlines()[2] + "\n", "line 8: it is listed twice"),
    "plain-quote": ('hostname,address,port,proto\n"a', "neither JSON nor CSV"),
    "words": ("These are the relays.\n", "not a relay list"),
    "crowd": (
        "hostname,address,port,proto\n"
        + "".join(f"a,45.{n >> 16}.{n >> 8 & 255}.{n & 255},1,udp\n" for n in range(20_001)),
        "20,001 relays, which no provider has",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_list_that_cannot_be_trusted(name, write, pillar, capsys):
    """One clear line, no control character in it, nothing written."""
    text, message = HOSTILE[name]
    path = write(text, "list")
    assert relays("--from", path, "--into", pillar) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith(f"{path}: ") or shown.err.startswith(f"{path}:")
    assert shown.err.count("\n") == 1
    assert shown.err[:-1].isprintable()
    assert len(shown.err) < 400
    assert pillarfile.read(pillar).text == PILLAR


def test_an_inactive_relay_may_have_no_address(write):
    """It is not used, so it is no reason to refuse the others."""
    listed = [*RELAYS, relay("se-got-wg-009", NOWHERE, active=False)]
    assert len(texts(write(api_list(listed)), countries=("se",))) == 3


def test_a_list_that_never_ends(capsys):
    assert relays("--from", "/dev/zero") == 2
    assert "larger than 16 MiB" in capsys.readouterr().err

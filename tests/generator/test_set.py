# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn set`: one value changed, everything else as it was (R15)."""

import json
import stat

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import qubes_vpn_pillaredit
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError

TEXT = """\
# the first line
qubes_vpn:   # beside the top
  topology: dns
  whonix_gateway: "sys-whonix"  # quoted
  tunnels:

    # about the tunnel
    sys-vpn:
      kind: wireguard # one blank
      profile: 'wg.conf'
      endpoints:
        - 203.0.113.7:51820/udp # first
        - "[2001:db8::7]:51820/udp"
      # after the list
      memory: 400
  routes:
    qubes: {work: sys-firewall, "my.qube": none}  # on one line
    # the end of routes
  vaults: [vault]
  resolvers:
    sys-dns:  # as it comes
  outside_vpn: []
  templates:
    t-vpn: {clone_of: debian-13-minimal}
  layout:
    bank:
      label: green
# the last line
"""
#: Words after FILE, the line that goes, the line that comes.
EDITS = [
    (
        ["whonix_gateway", "my-whonix"],
        ['  whonix_gateway: "sys-whonix"  # quoted'],
        ["  whonix_gateway: my-whonix  # quoted"],
    ),
    (["qubes_vpn.tunnels.sys-vpn.memory", "500"], ["      memory: 400"], ["      memory: 500"]),
    (["tunnels.sys-vpn.maxmem", "800"], [], ["      maxmem: 800"]),
    (
        ["tunnels.sys-vpn.endpoints[0]", "203.0.113.8:51820/udp"],
        ["        - 203.0.113.7:51820/udp # first"],
        ["        - 203.0.113.8:51820/udp # first"],
    ),
    (
        ["tunnels.sys-vpn.endpoints", "--append", "[2001:db8::8]:51820/udp"],
        [],
        ["        - '[2001:db8::8]:51820/udp'"],
    ),
    (
        ["tunnels.sys-vpn.endpoints[1]", "--delete"],
        ['        - "[2001:db8::7]:51820/udp"'],
        [],
    ),
    (
        ["routes.qubes.mail", "sys-firewall"],
        ['    qubes: {work: sys-firewall, "my.qube": none}  # on one line'],
        ['    qubes: {work: sys-firewall, "my.qube": none, mail: sys-firewall}  # on one line'],
    ),
    (
        ['routes.qubes."my.qube"', "--delete"],
        ['    qubes: {work: sys-firewall, "my.qube": none}  # on one line'],
        ["    qubes: {work: sys-firewall}  # on one line"],
    ),
    (["vaults", "--append", "gpg"], ["  vaults: [vault]"], ["  vaults: [vault, gpg]"]),
    (["resolvers.sys-dns.memory", "300"], [], ["      memory: 300"]),
    (["resolvers", "--delete"], ["  resolvers:", "    sys-dns:  # as it comes"], []),
    (
        ["layout.bank", "--delete"],
        ["  layout:", "    bank:", "      label: green"],
        ["  layout: {}"],
    ),
    (["allowlists.work", "[icmp]"], [], ["  allowlists:", "    work:", "    - icmp"]),
    (
        ["tunnels.sys-vpn.endpoints", "[203.0.113.9:51820/udp]"],
        ["        - 203.0.113.7:51820/udp # first", '        - "[2001:db8::7]:51820/udp"'],
        ["        - 203.0.113.9:51820/udp"],
    ),
]


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def change(pillar, *words):
    return main(["set", str(pillar), *words])


@pytest.mark.parametrize(("words", "gone", "come"), EDITS, ids=lambda words: " ".join(words)[:40])
def test_touches_nothing_else(words, gone, come, pillar, capsys):
    """Only the lines of the value itself change; comments, quotes and order stay."""
    assert change(pillar, *words) == 0
    before, after = TEXT.splitlines(), pillar.read_text().splitlines()
    assert [line for line in before if line not in after] == gone
    assert [line for line in after if line not in before] == come
    assert [line for line in after if line in before] == [line for line in before if line in after]
    shown = capsys.readouterr().out
    assert all(f"-{line}" in shown for line in gone)
    assert pillarfile.read(str(pillar)).problems() == []


def test_a_profile_that_is_among_the_others_changes_places_with_the_first(pillar):
    """As dom0's `switch --lasting` does it, byte for byte: both pillars stay the same."""
    before = TEXT.replace(
        "'wg.conf'\n", "'wg.conf'\n      profiles: [a.conf, wg-de.conf]  # others\n"
    )
    pillar.write_text(before)
    assert change(pillar, "tunnels.sys-vpn.profile", "wg-de.conf") == 0
    exchanged = before.replace("'wg.conf'", "wg-de.conf").replace(", wg-de.conf]", ", wg.conf]")
    assert pillar.read_text() == exchanged
    # One that is not among them takes its place alone.
    assert change(pillar, "tunnels.sys-vpn.profile", "new.conf") == 0
    assert pillar.read_text() == exchanged.replace("profile: wg-de.conf", "profile: new.conf")


def test_refuses_a_new_problem(pillar, capsys):
    """The checker decides; the file is not touched, the message names what would be wrong."""
    assert change(pillar, "routes.qubes.work", "sys-net") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "work -> sys-net passes no tunnel" in shown.err
    assert pillar.read_text() == TEXT


def test_an_old_problem_is_no_obstacle(pillar):
    """A pillar is put right one edit after the other."""
    pillar.write_text(TEXT.replace("memory: 400", "memory: 5").replace("topology", "topolgy"))
    assert change(pillar, "tunnels.sys-vpn.memory", "500") == 0
    assert len(pillarfile.read(str(pillar)).problems()) == 1
    assert change(pillar, "topolgy", "--delete") == 0
    assert pillarfile.read(str(pillar)).problems() == []


@pytest.mark.parametrize(
    "words",
    [
        ["tunnels.sys-vpn.private_key", "hunter2hunter2"],
        ["tunnels.sys-vpn.profile", "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ="],
        ["vaults", "--append", "hunter2: {password: hunter2}"],
        ["tunnels.sys-vpn.account", "1234 5678 9012 3456"],
    ],
)
def test_refuses_secrets(words, pillar, capsys):
    """R33: a secret is refused and not shown."""
    assert change(pillar, *words) == 2
    shown = capsys.readouterr()
    assert pillar.read_text() == TEXT
    assert not [word for word in ("hunter2", "aHVu", "5678") if word in shown.out + shown.err]


def test_refuses_a_secret_in_the_place_of_a_secret(pillar, capsys):
    """R33: the problem is not a new one, and still this edit is not made."""
    key = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ="
    text = TEXT.replace("'wg.conf'", f"'{key}'")
    pillar.write_text(text)
    assert change(pillar, "tunnels.sys-vpn.profile", key.swapcase()) == 2
    shown = capsys.readouterr()
    assert pillar.read_text() == text
    assert key.swapcase() not in shown.out + shown.err
    assert "a secret does not belong in the pillar" in shown.err


def test_does_not_show_a_secret_that_is_there(pillar, capsys):
    """The difference shows lines around the change; a secret among them stays hidden."""
    pillar.write_text(TEXT.replace("memory: 400", "password: hunter2\n      memory: 400"))
    assert change(pillar, "tunnels.sys-vpn.memory", "500") == 0
    assert change(pillar, "tunnels.sys-vpn.password", "--delete") == 0
    shown = capsys.readouterr()
    assert "memory: 500" in shown.out
    assert "hunter2" not in shown.out + shown.err + pillar.read_text()


def test_dry_run_writes_nothing(pillar, capsys):
    assert change(pillar, "tunnels.sys-vpn.memory", "500", "--dry-run") == 0
    assert "+      memory: 500" in capsys.readouterr().out
    assert pillar.read_text() == TEXT


def test_same_value_writes_nothing(pillar, capsys):
    before = pillar.stat()
    assert change(pillar, "tunnels.sys-vpn.memory", "400") == 0
    assert "is so already" in capsys.readouterr().out
    assert pillar.stat().st_ino == before.st_ino


def test_json(pillar, capsys):
    assert change(pillar, "tunnels.sys-vpn.memory", "500", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(pillar),
        "key": "qubes_vpn.tunnels.sys-vpn.memory",
        "changed": True,
        "written": True,
    }


def test_keeps_mode_link_and_folder_clean(pillar):
    """A link stays a link, the file behind it keeps its mode, nothing else is left behind."""
    link = pillar.with_name("link.sls")
    link.symlink_to(pillar.name)
    assert change(link, "tunnels.sys-vpn.memory", "500") == 0
    assert link.is_symlink()
    assert "memory: 500" in pillar.read_text()
    assert stat.S_IMODE(pillar.stat().st_mode) == 0o640
    assert sorted(pillar.parent.iterdir()) == [link, pillar]


def test_keeps_line_ends_and_byte_order_mark(pillar):
    pillar.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert change(pillar, "tunnels.sys-vpn.maxmem", "800") == 0
    assert change(pillar, "tunnels.sys-vpn.endpoints[0]", "--delete") == 0
    raw = pillar.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf# the first line\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n") == TEXT.count("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["topology.x", "1"], "qubes_vpn.topology holds a single value"),
        (["vaults[3]", "x"], "there is no such item"),
        (["vaults.x", "1"], "there is no such item"),
        (["tunnels[0]", "1"], "it is a mapping, not a list"),
        (["no.such", "--delete"], "there is no such key"),
        (["topology", "--append", "x"], "is not a list"),
        (["a..b", "1"], "not a key path"),
        (["", "1"], "the key path is empty"),
        (["topology", "[1"], "the value is not YAML"),
        (["topology", "{{ x }}"], "Jinja"),
        (["vaults", "[" * 60 + "]" * 60], "nested too deeply"),
        (["vaults", "[" * 100_000], "nested too deeply"),
        (["vaults", "--append", "{a: " * 300 + "1" + "}" * 300], "nested too deeply"),
        (["vaults", "&a [*a]"], "anchors ('&...') lead too deep"),
    ],
)
def test_bad_words(words, message, pillar, capsys):
    """One message with the file's name, exit code 2, the file as it was."""
    assert change(pillar, *words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert pillar.read_text() == TEXT


def test_anchors_are_not_changed_behind_the_users_back(pillar):
    """An edit that would change two places is refused; one of a merged key overrides it here."""
    text = TEXT.replace(
        "  layout:\n    bank:\n      label: green\n",
        "  layout:\n    bank: &q {label: green}\n    mail: *q\n"
        "    chat:\n      <<: *q\n      memory: 400\n",
    )
    pillar.write_text(text)
    assert change(pillar, "layout.mail.label", "red") == 2
    assert pillar.read_text() == text
    assert change(pillar, "layout.chat.label", "red") == 0
    found = pillarfile.read(str(pillar)).document["layout"]
    assert [found[name]["label"] for name in ("bank", "mail", "chat")] == ["green", "green", "red"]


_KEYS = st.sampled_from(["a", "b-c", "d.e", "no", "1", "key with: colon", "é"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.dictionaries(_KEYS, _VALUES, max_size=4),
    flow=st.booleans(),
    indent=st.sampled_from([2, 4]),
    path=st.lists(_KEYS | st.integers(0, 2), min_size=1, max_size=3),
    value=_VALUES,
    action=st.sampled_from(["put", "append", "delete"]),
)
@settings(max_examples=300)
def test_edit_then_read(data, flow, indent, path, value, action):
    """Whatever is edited, either the data is exactly what was asked for, or the edit is refused."""
    text = "# top\n" + yaml.safe_dump(
        {"qubes_vpn": data, "other": 1},
        default_flow_style=None if flow else False,
        indent=indent,
        allow_unicode=True,
    )
    path = ("qubes_vpn", *path)
    arguments = [] if action == "delete" else [value]
    try:
        new = getattr(qubes_vpn_pillaredit, action)(text, path, *arguments)
    except UserError:
        return
    found, wanted = yaml.safe_load(new), yaml.safe_load(text)
    assert new.startswith("# top\n")
    assert found.pop("other") == wanted.pop("other") == 1
    for key in path[:-1]:
        found, wanted = found[key], _inside(wanted, key)
    last = path[-1]
    before = _inside(wanted, last)
    if action == "delete":
        assert len(found) == len(wanted) - 1
    elif action == "append":
        assert found[last] == [*(before or []), value]
    else:
        assert found[last] == value


def _inside(data, key):
    if isinstance(data, dict):
        return data.get(key)
    return data[key] if isinstance(data, list) and key < len(data) else None


@given(st.lists(_KEYS | st.integers(0, 99), min_size=1))
def test_paths_round_trip(keys):
    """A key path as problems print it is one that `set` takes."""
    from qubes_vpn_problem import path_text

    assert qubes_vpn_pillaredit.keys(path_text(("qubes_vpn", *keys))) == ("qubes_vpn", *keys)


SIX = {name: {} for name in ("vault", "personal", "work", "banking", "comms", "untrusted")}
#: How the word stands there, and what is left of its line.
WORDS = {
    "plain": ("  layout: canonical\n", "  layout:"),
    "with a comment": ("  layout:   canonical   # all six\n", "  layout:   # all six"),
    "in quotes": ("  layout: 'canonical'\n  vaults: []\n", "  layout:"),
    "windows": ("  layout: canonical\r\n", "  layout:"),
    "last": ("  layout: canonical", "  layout:"),
}
TUNNEL = "tunnels: {v: {kind: wireguard, profile: a.conf, endpoints: [203.0.113.7:51820/udp]}}"


def layout_of(file):
    return yaml.safe_load(file.read_text())["qubes_vpn"]["layout"]


@pytest.mark.parametrize("how", WORDS)
def test_a_key_of_a_canonical_qube_spells_the_word_out(how, tmp_path):
    """R10, R11. The six as before, a line each, so that the next edit has a place."""
    file, (text, head) = tmp_path / "pillar.sls", WORDS[how]
    newline = "\r\n" if how == "windows" else "\n"
    old = f"# mine{newline}qubes_vpn:{newline}  {TUNNEL}{newline}  # above{newline}{text}"
    file.write_bytes(old.encode())
    assert main(["set", str(file), "layout.work.label", "gray"]) == 0
    assert layout_of(file) == {**SIX, "work": {"label": "gray"}}
    lines = file.read_bytes().decode().split(newline)
    assert [line for line in lines if line not in [*old.split(newline), ""]] == [
        head,
        *[f"    {name}: {'{label: gray}' if name == 'work' else '{}'}" for name in SIX],
    ]
    assert lines[3] == "  # above"
    assert main(["set", str(file), "layout.banking.allowlist", "--append", "dns"]) == 0
    assert layout_of(file)["banking"] == {"allowlist": ["dns"]}
    assert main(["set", str(file), "layout.vault", "--delete"]) == 0
    assert [*layout_of(file)] == [*SIX][1:]


def test_the_word_in_brackets_or_on_a_line_of_its_own(tmp_path):
    file = tmp_path / "pillar.sls"
    for text in (
        f"qubes_vpn: {{{TUNNEL}, layout: canonical}}",
        f"qubes_vpn:\n  {TUNNEL}\n  layout:\n    canonical\n",
    ):
        file.write_text(text)
        assert main(["set", str(file), "layout.vault", "--delete"]) == 0
        assert "vault" not in layout_of(file)
        assert {"vault": {}, **layout_of(file)} == SIX


def test_a_wildcard_is_refused_as_one(tmp_path, capsys):
    """R11. And not as an alias of YAML's."""
    file = tmp_path / "pillar.sls"
    file.write_text(f"qubes_vpn:\n  {TUNNEL}\n  layout: canonical\n")
    words = ["set", str(file), "layout.banking.allowlist", "--append", "*.bank.example:443/tcp"]
    assert main(words) == 2
    assert "has a wildcard, and the Qubes firewall knows none" in capsys.readouterr().err
    assert layout_of(file) == "canonical"


def test_the_word_stays_for_other_edits(tmp_path, capsys):
    file = tmp_path / "pillar.sls"
    file.write_text(f"qubes_vpn:\n  {TUNNEL}\n  layout: canonical\n")
    assert main(["set", str(file), "topology", "simple"]) == 0
    assert layout_of(file) == "canonical"
    before = file.read_text()
    assert main(["set", str(file), "layout.work.label", "pink"]) == 2
    assert "layout.work.label: 'pink' is not possible here" in capsys.readouterr().err
    assert main(["set", str(file), "layout.nobody", "--delete"]) == 2
    assert file.read_text() == before
    assert main(["set", str(file), "layout", "{work: {}}"]) == 0
    assert layout_of(file) == {"work": {}}

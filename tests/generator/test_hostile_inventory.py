# SPDX-License-Identifier: GPL-2.0-or-later
"""An inventory that somebody made up: each command says one sentence about it, in time (R93)."""

import json
import os
import signal
import time

import pytest

import qubes_vpn_inventory
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded import dom0

SERVICE = "qubes.UpdatesProxy"
ESCAPE, BIDI = "\033[2J\033]0;owned\007", "work\u202egnp"
COMMANDS = ("audit", "graph", "table", "plan")


@pytest.fixture
def taken(embedded):
    return qubes_vpn_inventory.take(dom0.machine(embedded.path, dry=True), {})


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(
        "qubes_vpn:\n  tunnels:\n    sys-vpn:\n      {kind: wireguard, profile: wg.conf,"
        " endpoints: [192.0.2.1:51820/udp]}\n"
    )
    return path


@pytest.fixture
def said(tmp_path, pillar, capsys):
    """What a command says to an inventory, its exit code and the seconds that it took."""

    def run(command, inventory):
        path = tmp_path / "hostile.json"
        text = inventory if isinstance(inventory, str) else json.dumps(inventory)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        words = [str(pillar)] if command == "plan" else []
        begun = time.process_time()
        code = main([command, *words, "--inventory", str(path)])
        spent = time.process_time() - begun
        shown = capsys.readouterr()
        assert all(char.isprintable() or char == "\n" for char in shown.out + shown.err)
        assert "Traceback" not in shown.err
        if code == 2:
            assert shown.out == ""
            assert shown.err.startswith(f"{path}:")
            assert shown.err.count("\n") == 1, shown.err
            assert len(shown.err) < 1000
        return code, shown.out + shown.err, spent

    return run


def renamed(taken, name):
    text = json.dumps(taken).replace('"work"', json.dumps(name))
    return json.loads(text)


def without_end(taken, key):
    taken["qubes"]["work"]["properties"][key] = {"value": "work", "inherited": False}


def chain(taken, length):
    """Netvms one behind the other, the last one offline."""
    first = taken["qubes"]["sys-firewall"]
    for number in range(length):
        copy = json.loads(json.dumps(first))
        netvm = f"n{number + 1}" if number + 1 < length else None
        copy["properties"]["netvm"] = {"value": netvm, "inherited": False}
        copy["properties"].pop("ip", None)
        taken["qubes"][f"n{number}"] = copy


def many(taken, number):
    """Qubes, each with a list of its own."""
    text = json.dumps(taken["qubes"]["work"])
    for place in range(number):
        qube = json.loads(text)
        qube["properties"].pop("ip", None)
        qube["firewall"] = [f"action=accept dst4=10.{place % 250}.{place // 250}.0/24"]
        taken["qubes"][f"q{place}"] = qube


SPOILT = {
    "escapes": lambda taken: renamed(taken, f"work{ESCAPE}"),
    "bidi": lambda taken: renamed(taken, BIDI),
    "another alphabet": lambda taken: renamed(taken, "w\u043erk"),
    "half a character": lambda taken: renamed(taken, "\udcff"),
    "longest": lambda taken: renamed(taken, "w" * 100_000),
    "no name": lambda taken: renamed(taken, ""),
    "its own netvm": lambda taken: without_end(taken, "netvm"),
    "its own template": lambda taken: without_end(taken, "template"),
    "escapes in a rule": lambda taken: taken["qubes"]["work"]["firewall"].append(
        f"action=accept comment={ESCAPE}"
    ),
    "escapes in a label": lambda taken: taken["qubes"]["work"]["properties"].update(
        label={"value": ESCAPE, "inherited": False}
    ),
    "escapes in what was written": lambda taken: taken["written"].update(work={"netvm": ESCAPE}),
    "escapes in who was written": lambda taken: taken["written"].update({ESCAPE: {"netvm": None}}),
    "escapes in a fact": lambda taken: taken["more"].append(ESCAPE),
    "escapes in a key": lambda taken: taken.update({ESCAPE: 1}),
    "escapes in policy": lambda taken: taken["policy"].update({"30-a.policy": [ESCAPE]}),
    "a policy of another place": lambda taken: taken["policy"].update({"../a.policy": []}),
    "a number as a name": lambda taken: taken["globals"].update(default_netvm=7),
    "a list as a name": lambda taken: taken["globals"].update(default_netvm=["work"]),
    "a list as a class": lambda taken: taken["qubes"]["work"].update({"class": ["AppVM"]}),
    "a mapping as a power": lambda taken: taken["qubes"]["work"].update(power={"a": 1}),
    "a list as a release": lambda taken: taken.update(release=["4.3"]),
    "a release of its own": lambda taken: taken.update(release=ESCAPE),
    "no time": lambda taken: taken.pop("taken") and None,
    "a time of no zone": lambda taken: taken.update(taken="2026-01-31T12:00:00"),
    "a time of its own": lambda taken: taken.update(taken=ESCAPE),
    "a time before all": lambda taken: taken.update(taken="0001-01-01T00:00:00+23:59"),
    "a version of its own": lambda taken: taken.update(version=ESCAPE * 1000),
    "a number without end": lambda taken: taken["qubes"]["work"]["properties"].update(
        memory={"value": 10**4000, "inherited": False}
    ),
    "escapes in a bypass": lambda taken: taken["qubes"]["work"].update(
        {"class": "DispVM", "bypass": ESCAPE}
    ),
    "a bypass that is no disposable": lambda taken: taken["qubes"]["work"].update(
        bypass="12345678-1234-1234-1234-123456789abc"
    ),
    "no number": lambda taken: taken["qubes"]["work"]["properties"].update(
        memory={"value": float("nan"), "inherited": False}
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spoil", SPOILT)
def test_what_cannot_be_a_machine_is_one_sentence(command, spoil, taken, said):
    code, told, spent = said(command, SPOILT[spoil](taken) or taken)
    assert code == 2, told
    assert told.isascii()
    assert spent < 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[" * 1_000_000, '{"a":' * 100_000, "9" * 1_000_000, "\0", "\udcff{}"],
    ids=lambda text: repr(text[:5]),
)
def test_what_is_no_json_is_one_sentence(text, said):
    code, told, spent = said("audit", text)
    assert (code, told.isascii()) == (2, True)
    assert spent < 3


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "line",
    [
        "!include {path}",
        "  !include-dir {folder}",
        f"!include-service {SERVICE} * {{path}}",
        "!compat-4.0",
        "!not-readable",
    ],
)
def test_no_file_of_the_readers_is_opened(command, line, taken, said, tmp_path):
    """A pipe stands for all that should not be read: it would be waited at for ever."""
    pipe = tmp_path / "mine.policy"
    os.mkfifo(pipe)
    taken["policy"]["20-theirs.policy"] = [line.format(path=pipe, folder=tmp_path)]
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    try:
        code, told, _ = said(command, taken)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert (code, "20-theirs.policy'[0]: this is no rule" in told) == (2, True), told


@pytest.mark.parametrize("command", ["audit", "graph"])
def test_a_long_chain_is_no_trouble(command, taken, said):
    chain(taken, 400)
    code, told, spent = said(command, taken)
    assert code in (0, 1, 2), told
    assert spent < 20


@pytest.mark.parametrize("command", ["audit", "table"])
def test_many_qubes_are_read_in_time(command, taken, said):
    many(taken, 500)
    code, told, spent = said(command, taken)
    assert code in (0, 1), told[-300:]
    assert spent < 20

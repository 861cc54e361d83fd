# SPDX-License-Identifier: GPL-2.0-or-later
"""What qubes do for a user's tests, in a real network; and what dom0 takes of a qube that lies.

R60 to R64.  The whole of it, with a tunnel: tests/booted/test_verify_booted.py.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.qube import Qube

_PAGES = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        pages = {"/text": "192.0.2.7\\\\n", "/json": '{"ip": "192.0.2.7", "exit": true}'}
        self.wfile.write(pages.get(self.path, "\\\\x1b[31m" * 9999).encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 80), Page).serve_forever()
"""


@pytest.fixture
def dom0_with(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Any], Any]:
    """A `Probing` of dom0's, whose qube "work" is the given one."""
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", "")  # what this sets is taken back
    monkeypatch.setattr(sys, "path", sys.path)
    dom0.machine(embedded.path, dry=True)
    embedded.call("work", "admin.vm.Start")

    def make(qube: Any) -> Any:
        monkeypatch.setenv("QUBES_VPN_QREXEC", str(qrexec.client(tmp_path, {"work": qube})))
        import qubes_vpn_probing
        import qubes_vpn_qubesd

        return qubes_vpn_probing.Probing(qubes_vpn_qubesd.connect())

    return make


@pytest.fixture
def online(qube: Qube) -> Qube:
    """A qube that has nothing but itself."""
    qube.run("ip link set lo up")
    return qube


def check(page: str, address: str | None = None, provider: str | None = None) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1/{page}", "address": address, "provider": provider}


def test_the_address_that_somebody_sees(dom0_with, online):
    """R61: text or JSON; whatever else is on the page is no address."""
    online.popen([sys.executable, "-c", _PAGES.replace("\\\\", "\\")])
    online.run("until ss -tln | grep -q :80; do sleep 0.05; done")
    probing = dom0_with(online)
    text, six = probing.exits("work", check("text")).values()
    assert (str(text.address), text.provider, str(text.of)) == ("192.0.2.7", None, "127.0.0.1")
    assert (six.address, six.error) == (None, "the name was not found")
    seen = probing.exits("work", check("json", "ip", "exit"))[4]
    assert (str(seen.address), seen.provider) == ("192.0.2.7", True)
    assert probing.exits("work", check("json", "exit", "exit"))[4].address is None
    assert probing.exits("work", check("else"))[4].error == "an answer that says something else"


def test_packets_are_sent_and_heard(dom0_with, online):
    """R63: by whoever listens, whole, and with where they go."""
    probing = dom0_with(online)
    packets = [{"to": to, "how": how} for to in ("127.0.0.1", "::1") for how in ("udp", "icmp")]
    with probing.listening(["work"], "the-word") as heard:
        assert heard() == []
        answers = probing.packets("work", packets, "the-word")
        found = heard()
    assert [one.came for one in answers] == [False, True] * 2
    assert {(one.to, one.protocol) for one in found if one.port in (0, 4660)} == {
        ("127.0.0.1", 1), ("127.0.0.1", 17), ("::1", 58), ("::1", 17),
    }  # fmt: skip
    with probing.listening(["work"], "another-word") as heard:
        probing.packets("work", packets, "the-word")
        assert heard() == []


def test_whose_packet_it_is_is_heard(dom0_with, online):
    """R62: of many that send at once, each with a number behind the word."""
    probing = dom0_with(online)
    packets = [{"to": "127.0.0.1", "how": "udp"}]
    with probing.listening(["work"], "the-word") as heard:
        for marker in ("the-word", "the-word-7", "the-word-12"):
            probing.packets("work", packets, marker)
        questions = [{"server": "127.0.0.1", "protocol": "udp", "name": "the-word-9-0.example"}]
        probing.questions("work", questions)
        found = heard()
    assert {one.of for one in found if one.protocol == 17} == {None, 7, 12, 9}


def test_who_has_hung_is_not_waited_for_again(dom0_with, namespaces, monkeypatch):
    probing = dom0_with(Lying("sleep 60"))
    import qubes_vpn_probing

    monkeypatch.setattr(qubes_vpn_probing, "_CALL", 1)
    packets = [{"to": "127.0.0.1", "how": "udp"}]
    asks = (
        lambda: probing.packets("work", packets, "word"),
        lambda: probing.links("work"),
        lambda: probing.listening(["work"], "word").__enter__(),
    )
    for place, ask in enumerate(asks):
        begun = time.monotonic()
        with pytest.raises(_no_answer().NoAnswer) as told:
            ask()
        assert ("is not asked again" in str(told.value)) == (place > 0)
        assert (time.monotonic() - begun < 0.5) == (place > 0)


def test_who_never_begins_to_listen_is_not_waited_for(dom0_with, namespaces, monkeypatch):
    probing = dom0_with(Lying("sleep 60"))
    import qubes_vpn_probing

    monkeypatch.setattr(qubes_vpn_probing, "_CALL", 1)
    begun = time.monotonic()
    with pytest.raises(_no_answer().NoAnswer), probing.listening(["work"], "word"):
        pass
    assert time.monotonic() - begun < 10
    with pytest.raises(_no_answer().NoAnswer, match="is not asked again"):
        probing.links("work")


def test_without_a_network_nothing_comes_back(dom0_with, qube):
    probing = dom0_with(qube)
    packets = [{"to": "192.0.2.53", "how": how} for how in ("udp", "icmp")]
    assert {one.came for one in probing.packets("work", packets, "word")} == {False}
    questions = [{"server": "192.0.2.53", "protocol": "udp", "name": "a.example.org"}]
    assert [one.error for one in probing.questions("work", questions)] == ["no way there"]
    assert probing.links("work") == 0


class Lying:
    """A qube whose programs answer what somebody wrote."""

    def __init__(self, answer: str) -> None:
        self.enter = ["sh", "-c", f"cat >/dev/null; {answer}", "-"]


SEEN = {"address": "192.0.2.7", "provider": None, "of": "192.0.2.8"}
LIES = [
    *("", "null", "[1, 2]", "[[], []]", "[{}, {}]", "[" * 100_000, "\033[2J", '"\udcff"'),
    [{**SEEN, "address": "fe80::1%\033[31m"}, SEEN],
    [{**SEEN, "address": 7}, SEEN],
    [{**SEEN, "provider": "yes\033[31m"}, SEEN],
    [{**SEEN, "of": "192.0.2.8; reboot"}, SEEN],
    [{"error": "\033[31m"}, SEEN],
    [{"error": ["silence"]}, SEEN],
    [SEEN],
    [SEEN] * 3,
]


@pytest.mark.parametrize("lie", range(len(LIES)))
def test_what_cannot_be_is_no_answer_and_is_not_repeated(dom0_with, namespaces, tmp_path, lie):
    answer = LIES[lie] if isinstance(LIES[lie], str) else json.dumps(LIES[lie])
    file = tmp_path / "answer"
    file.write_bytes(answer.encode("utf-8", "surrogateescape"))
    probing = dom0_with(Lying(f"cat {file}"))
    with pytest.raises(_no_answer().NoAnswer) as told:
        probing.exits("work", check("json"))
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 100


@pytest.mark.parametrize(
    "lie",
    [
        "",
        "ready",
        r"ready\ntick 99999 0\n",
        r"ready\n{}\ntick 999999 0\n",
        r"ready\ntick 999999 7\n",
        r"ready\ntick many 0\n",
        r'ready\n{"device": "\033[31m", "out": true, "to": "::1", "protocol": 1, "port": 1}\n',
        r'ready\n{"device": "eth0", "out": true, "to": "::1", "protocol": 1, "port": -1}\n',
        r'ready\n{"device": "a", "out": true, "to": "::1", "protocol": 1, "port": 1, "of": "7"}\n',
    ],
)
def test_who_does_not_listen_has_not_heard_nothing(dom0_with, namespaces, lie):
    probing = dom0_with(Lying(f"printf '{lie}'"))

    def listen() -> list[Any]:
        with probing.listening(["work"], "word") as heard:
            return heard()

    if lie.endswith(r"tick 99999 0\n"):
        assert listen() == []  # who says that he has listened is believed
        return
    with pytest.raises(_no_answer().NoAnswer) as told:
        listen()
    assert str(told.value).isprintable()


def _no_answer() -> ModuleType:
    import qubes_vpn_ask

    return qubes_vpn_ask

# SPDX-License-Identifier: GPL-2.0-or-later
"""A booted resolver qube, for its client and by itself: the first answer, and answers a second.

No tunnel: what is compared is the same dnscrypt-proxy, asked by a client through the formula's
rules and asked in the qube itself.  All answers of the load are in its cache.
"""

import re
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev

import qubes_vpn_dnscrypt
import qubes_vpn_model
from bench.result import Result
from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.booted.machine import DNS, AppVM, Booted
from qubes_vpn_formula.lab.nameservers import Nameservers
from qubes_vpn_formula.lab.qube import Inside, Qube
from qubes_vpn_formula.lab.questions import Asking, Question

#: Answers a second of at least 0.95 of the proxy alone.
RATE = round(1 / 0.95, 3)
FIRST = 1.5
BOOTS = 5
#: Runs of four slices of a second: alone, client, client, alone.
FOURS = 8
_OWN = "127.0.0.1"
#: Without one there is no pillar; nothing of it runs here.
_ANY = {"kind": "wireguard", "profile": "wg0.conf", "endpoints": ["198.51.100.1:51820/udp"]}
_TUNNEL = {"tunnels": {"sys-vpn": _ANY}}
_NAMES = "".join(f"name-{number}.example.org A\n" for number in range(100))


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as name, Booted() as lab:
        folder = Path(name)
        for part in ("names", "t-dns"):
            (folder / part).mkdir()
        names = Nameservers(folder / "names", lab.internet)
        names.serve("dnscrypt")
        dnscrypt = {"servers": {"lab": names.stamps["dnscrypt"]}}
        document = {**_TUNNEL, "resolvers": {"sys-dns": {"dnscrypt": dnscrypt}}}
        template = formula.template(lab, "t-dns", document, folder / "t-dns")
        template.stop()
        qube = lab.appvm("sys-dns", template, services=["qubes-vpn-dns"])
        client = lab.client("work", netvm=qube)
        model, problems = qubes_vpn_model.read(document)
        assert not problems, problems
        qube.start()
        for path, text in qubes_vpn_dnscrypt.files(model.services["sys-dns"].dnscrypt).items():
            qube.write(f"{qubes_vpn_dnscrypt.FOLDER}/{path}", text)
        qube.stop()
        (folder / "load").write_text(_NAMES)
        load = [*names.dnsperf(), "-d", str(folder / "load")]
        return [_first(qube, client), _rate(load, qube, client)]


def _first(qube: AppVM, client: Qube) -> Result:
    """Seconds from the proxy's start, of the boots, for the client : for itself."""
    pairs = []
    for _ in range(BOOTS):
        asking: list[Asking] = []

        def ask(asking: list[Asking] = asking) -> None:
            for where, server in ((client, DNS[0]), (qube.network, _OWN)):
                question = Question(server, "first.example.org", wait=0.02)
                asking.append(Asking(where, question, every=0.01, for_=60))

        qube.start(plugged=ask)
        ended = [one.answer().ended for one in asking]
        started = _started(qube)
        pairs.append([end - started for end in ended])
        qube.stop()
    theirs, own = (median(times) for times in zip(*pairs, strict=True))
    return Result(
        "seconds from the proxy's start to the first answer, client's : its own",
        round(median(a / b for a, b in pairs), 3),
        FIRST,
        f"{theirs:.3g} s : {own:.3g} s, {BOOTS} boots",
    )


def _started(qube: AppVM) -> float:
    """When the proxy's process began, in seconds since 1970."""
    shown = "systemctl show --value --property=ExecMainStartTimestampMonotonic dnscrypt-proxy"
    return time.time() - time.monotonic() + int(qube.run(shown).stdout) / 1e6


def _rate(load: list[str], qube: AppVM, client: Qube) -> Result:
    qube.start()
    asking = Asking(client, Question(DNS[0], "a.example.org"), every=0.1, for_=60)
    assert asking.answer().addresses
    _answers(load, client, DNS[0])  # now they are in the cache
    rates = []
    for _ in range(FOURS):
        rates.append(
            [
                _answers(load, where, server)
                for where, server in (
                    (qube.network, _OWN),
                    (client, DNS[0]),
                    (client, DNS[0]),
                    (qube.network, _OWN),
                )
            ]
        )
    # Seconds an answer takes, through : alone, so that less is better, as everywhere.
    ratios = [(four[0] + four[3]) / (four[1] + four[2]) for four in rates]
    through = mean(four[1] + four[2] for four in rates) / 2
    alone = mean(four[0] + four[3] for four in rates) / 2
    error = stdev(ratios) / len(ratios) ** 0.5
    return Result(
        "seconds an answer takes, through sys-dns : the proxy alone",
        round(mean(ratios), 3),
        RATE,
        f"{through:,.0f} : {alone:,.0f} answers a second, standard error {error:.3f}",
    )


def _answers(load: list[str], where: Inside, server: str) -> float:
    """Answers a second, of a hundred names in turn."""
    said = where.run([*load, "-s", server, "-l", "1", "-c", "4", "-q", "50"]).stdout
    assert float(re.search(r"Queries lost: .*\(([\d.]+)%\)", said)[1]) < 1, said
    return float(re.search(r"Queries per second: +([\d.]+)", said)[1])

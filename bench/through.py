# SPDX-License-Identifier: GPL-2.0-or-later
"""Through the VPN qube, with the killswitch and without it: throughput and latency.

One lab, one real WireGuard tunnel, one stream that goes on while the rules come and go in slices of
a fraction of a second: what a machine is busy with besides changes slowly, and so hits both.
"""

import re
import subprocess
import tempfile
from statistics import mean, stdev
from typing import NamedTuple

from bench.result import Result
from qubes_vpn_formula.lab.chains import simple
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.qube import Qube

#: Throughput of at least 0.97, latency of at most 1.05 times that without the killswitch.
THROUGHPUT, LATENCY = round(1 / 0.97, 3), 1.05
#: Runs of four slices: without, with, with, without.
FOURS = 100
#: Prints what each slice was: with (1) or without (0), its beginning and end, bytes.
_SLICES = r"""
set -e
/usr/lib/qubes-vpn/killswitch load
{ nft list table inet qubes_vpn; nft list table netdev qubes_vpn; } >/run/1.nft
printf 'delete table %s qubes_vpn\n' inet netdev >/run/0.nft
now=1
bytes=/sys/class/net/wg0/statistics/tx_bytes
for slice in $(for n in $(seq FOURS); do echo 0 1 1 0; done); do
    [ $slice = $now ] || nft -f /run/$slice.nft
    now=$slice
    sleep 0.05
    from=$EPOCHREALTIME before=$(<$bytes)
    sleep 0.2
    echo $slice $from $EPOCHREALTIME $(($(<$bytes) - before))
done
/usr/lib/qubes-vpn/killswitch load
""".replace("FOURS", str(FOURS))


def results() -> list[Result]:
    with Lab(simple(), Ours()) as lab:
        lab.start()
        client, vpn = lab.qubes["client-1"], lab.qubes["sys-vpn"]
        with lab.internet.popen(["iperf3", "--server"], stdout=subprocess.DEVNULL) as server:
            lab.internet.run("until ss -Hltn sport = 5201 | grep -q .; do sleep 0.05; done")
            try:
                return [_throughput(client, vpn), _latency(client, vpn)]
            finally:
                server.terminate()


class _Slice(NamedTuple):
    loaded: bool
    begin: float
    end: float
    count: int


def _throughput(client: Qube, vpn: Qube) -> Result:
    flow = ["iperf3", "--client", SERVER[4], "--time", "3600"]
    with client.popen(flow, stdout=subprocess.DEVNULL) as stream:
        slices = _slices(vpn)
        stream.terminate()
    rates = [one.count / (one.end - one.begin) for one in slices]
    fours = [rates[at : at + 4] for at in range(0, len(rates), 4)]
    # Seconds a byte takes, with : without, so that less is better, as everywhere.
    ratios = [(four[0] + four[3]) / (four[1] + four[2]) for four in fours]
    error = stdev(ratios) / len(ratios) ** 0.5
    return Result(
        "seconds a byte takes, with : without the killswitch",
        round(mean(ratios), 3),
        THROUGHPUT,
        f"standard error {error:.3f}",
    )


def _latency(client: Qube, vpn: Qube) -> Result:
    ping = ["ping", "-D", "-n", "-i", "0.002", SERVER[4]]
    # A pipe that nobody reads meanwhile would stop it.
    with tempfile.TemporaryFile("w+") as said:
        with client.popen(ping, stdout=said) as stream:
            slices = _slices(vpn)
            stream.terminate()
        said.seek(0)
        answers = re.findall(r"^\[([\d.]+)\].* time=([\d.]+) ms", said.read(), re.MULTILINE)
    times: dict[bool, list[float]] = {True: [], False: []}
    at = 0
    for one in slices:
        while at < len(answers) and float(answers[at][0]) < one.begin:
            at += 1
        while at < len(answers) and float(answers[at][0]) <= one.end:
            times[one.loaded].append(float(answers[at][1]))
            at += 1
    with_it, without = (sorted(times[loaded])[len(times[loaded]) * 99 // 100] for loaded in (1, 0))
    detail = f"{with_it:.3g} ms : {without:.3g} ms, {len(times[True]):,} pings"
    what = "99th percentile of latency, with : without the killswitch"
    return Result(what, round(with_it / without, 3), LATENCY, detail)


def _slices(vpn: Qube) -> list[_Slice]:
    done = vpn.run(["bash", "-c", _SLICES], timeout=FOURS * 4)
    return [
        _Slice(slice == "1", float(begin), float(end), int(count))
        for slice, begin, end, count in map(str.split, done.stdout.splitlines())
    ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading many endpoints: the killswitch's set against one rule for each, in a network namespace.

Both are one transaction of the same nft; without its dry run and without reading the list.
"""

import subprocess
import time

import qubes_vpn_endpoints
import qubes_vpn_ruleset
from bench.result import Result, ratio
from qubes_vpn_formula.paths import formula_root

CLOSED = formula_root() / "salt/qubes/network/files/closed.nft"
#: How often each pair is timed, by the number of endpoints.
PAIRS = {5_000: 5, 50_000: 1}
GOAL = 0.5


def results() -> list[Result]:
    return [_result(count, pairs) for count, pairs in PAIRS.items()]


def _result(count: int, pairs: int) -> Result:
    lines = "".join(f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}:51820/udp\n" for n in range(count))
    elements = qubes_vpn_endpoints.elements(qubes_vpn_endpoints.read(lines.encode()))
    closed = CLOSED.read_text()
    as_set = qubes_vpn_ruleset.transaction(
        closed, qubes_vpn_ruleset.Configuration(endpoints=elements)
    )
    chain = f"inet {qubes_vpn_ruleset.TABLE} to_endpoint"
    as_rules = closed + "".join(_rule(chain, element) for element in elements.endpoints4)
    return ratio(
        f"load {count:,} endpoints as a set : as rules",
        GOAL,
        [(_seconds(as_set), _seconds(as_rules)) for _ in range(pairs)],
    )


def _rule(chain: str, element: str) -> str:
    address, proto, port = element.split(" . ")
    return f"add rule {chain} ip daddr {address} {proto} dport {port} accept\n"


def _seconds(text: str) -> float:
    start = time.perf_counter()
    subprocess.run(["unshare", "--net", "nft", "-f", "-"], input=text, text=True, check=True)
    return time.perf_counter() - start

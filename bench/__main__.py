# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the benchmarks: `python -m bench [NAME...]`. Exit code 1 when a goal is missed."""

import argparse

from bench import (
    api_calls,
    audit,
    chain,
    endpoints,
    fleet,
    large_pillar,
    many_qubes,
    proof,
    relays,
    reloads,
    resolver,
    show_sls,
    through,
    upstream,
)

BENCHES = {
    "large_pillar": large_pillar,
    "many_qubes": many_qubes,
    "api_calls": api_calls,
    "audit": audit,
    "chain": chain,
    "upstream": upstream,
    "show_sls": show_sls,
    "endpoints": endpoints,
    "relays": relays,
    "reloads": reloads,
    "through": through,
    "proof": proof,
    "fleet": fleet,
    "resolver": resolver,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed, against goals.")
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    names = parser.parse_args().name or BENCHES
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no benchmark is called {', '.join(unknown)}: {', '.join(BENCHES)}")
    results = [result for name in names for result in BENCHES[name].results()]
    width = max(len(result.what) for result in results)
    print(f"{'':{width}}  result   goal")
    for result in results:
        print(result.line(width))
    return any(result.missed for result in results)


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs every benchmark: `python -m bench`. Exit code 1 when a goal is missed."""

import sys

from bench import api_calls, endpoints, large_pillar, reloads, show_sls, through

BENCHES = (large_pillar, api_calls, show_sls, endpoints, reloads, through)

results = [result for bench in BENCHES for result in bench.results()]
width = max(len(result.what) for result in results)
print(f"{'':{width}}  result   goal")
for result in results:
    verdict = "" if result.reached else "   MISSED"
    print(
        f"{result.what:{width}}  {result.value:6g}  <={result.goal:5g}   {result.detail}{verdict}"
    )
sys.exit(not all(result.reached for result in results))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Proofs about rule sets: nftables as terms for an SMT solver.

What is modelled, its sources and its limits: ``docs/model.md``.
"""

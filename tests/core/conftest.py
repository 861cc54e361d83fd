# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis on machines that have other things to do: no example is wrong because it is slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("core", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("core")

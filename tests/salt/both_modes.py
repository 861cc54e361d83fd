# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's states as Salt's own loader gives them, once for each mode."""

import salt.loader
from salt.loader.lazy import LazyLoader
from saltfactories.utils.functional import Loaders


def both_modes(loaders: Loaders) -> dict[bool, LazyLoader]:
    """The states by whether `test=True` is their mode."""
    return {
        test: salt.loader.states(
            {**loaders.opts, "test": test},
            loaders.modules,
            loaders.utils,
            loaders.serializers,
            context=loaders.context,
        )
        for test in (False, True)
    }

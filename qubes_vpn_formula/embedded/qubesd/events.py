# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of reactions: what else happens when a property, feature, tag or power state changes.

Names are `pre-set:NAME`, `set:NAME`, `pre-reset:NAME`, `reset:NAME` for properties (arguments
`new, old`; resets `old`), `feature-pre-set`, `feature-set`, `feature-delete`, `tag-add`, and the
power events `created`, `pre-start`, `pre-spawn`, `qdb-create`, `qdb-clients`, `start`,
`pre-shutdown`, `shutdown`, `unpaused`, `firewall-changed`.
"""

from collections import defaultdict

_reactions = defaultdict(list)


def on(*names: str, classes: frozenset[str] | None = None):
    """Register a reaction; *classes* limits it to qubes of these classes."""

    def register(function):
        for name in names:
            _reactions[name].append((classes, function))
        return function

    return register


def fire(name: str, subject, *facts) -> None:
    """Run the reactions to *name*; the first that raises stops the rest."""
    for classes, function in _reactions[name]:
        if classes is None or subject.klass in classes:
            function(subject, *facts)

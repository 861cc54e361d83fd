# SPDX-License-Identifier: GPL-2.0-or-later
"""A system bus that nobody is on: as in a qube without systemd-resolved (Debian's template)."""

from dbus import exceptions

__all__ = ["SystemBus", "exceptions"]


class SystemBus:
    """The bus."""

    def get_object(self, name, path):
        """Raise what the bus daemon answers for a service that is not installed."""
        raise exceptions.DBusException(
            f"{name}{path}: not provided by any .service files",
            name="org.freedesktop.DBus.Error.ServiceUnknown",
        )

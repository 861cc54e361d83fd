# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus's one error."""


class DBusException(Exception):
    """An answer that is an error.  name: D-Bus' own name of it."""

    def __init__(self, *texts, name=None):
        super().__init__(*texts)
        self._name = name

    def get_dbus_name(self):
        """D-Bus' own name of the error."""
        return self._name

# SPDX-License-Identifier: GPL-2.0-or-later
"""How a call can fail, seen from the client."""


class AdminError(Exception):
    """An error answer: `error` is the class name on the wire, `message` the text for the user."""

    def __init__(self, error: str, message: str = ""):
        super().__init__(f"{error}: {message}")
        self.error = error
        self.message = message


class EmptyAnswer(Exception):
    """No answer at all, as for a protocol violation or a crash in qubesd."""


class Missing(EmptyAnswer):
    """Something the qube does not have (a property without value, a netvm that is dom0).

    qubesd meets it as an attribute error: lists of properties show an empty value, any other call
    gets an empty answer.
    """


def enforce(condition: object) -> None:
    """Raise `EmptyAnswer` unless *condition* holds."""
    if not condition:
        raise EmptyAnswer


def value_error(message: str) -> AdminError:
    return AdminError("QubesValueError", message)


def property_value_error(message: str) -> AdminError:
    return AdminError("QubesPropertyValueError", message)

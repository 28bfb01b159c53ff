"""Make text safe to print: a file's name may hold what a terminal would obey."""

from __future__ import annotations

import logging
import re

_LONGEST = 300  # letters of a line that somebody else wrote


def printable(text: str, *, instead: str | None = None) -> str:
    """Return text with line ends, escape sequences and undecodable bytes written out.

    instead: what stands for each of them, where the text must not grow.
    """
    return "".join(c if c.isprintable() else instead or ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return a text from anybody, such as a library's error, as one short printable line."""
    line = " ".join(text.split())
    return printable(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…")


class PrintableFormatter(logging.Formatter):
    """Formats a log record as one line that is safe to print."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the message without what follows it, such as a traceback."""
        return printable(super().formatMessage(record))


def without_password(address: str) -> str:
    """Return a server's address with dots for a password: of a URL, or PostgreSQL's key=value."""
    hidden = re.sub(r"(://[^/@]*?):[^@/]*@", r"\1:…@", address)
    return re.sub(r"(password\s*=\s*)('[^']*'|\S+)", r"\1…", hidden)

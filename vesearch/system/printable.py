"""Make text safe to print: a file's name may hold what a terminal would obey."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    """Return text with line ends, escape sequences and undecodable bytes written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class PrintableFormatter(logging.Formatter):
    """Formats a log record as one line that is safe to print."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the message without what follows it, such as a traceback."""
        return printable(super().formatMessage(record))

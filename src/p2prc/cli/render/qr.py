"""A ticket as a picture that a camera reads (the only importer of segno)."""

from __future__ import annotations

import io


def qr_code(ticket: str) -> str:
    """Return the lines of a QR code, two rows of it in each.

    Tickets are read in upper case too, and a code of capitals and digits is much smaller.
    """
    import segno  # noqa: PLC0415 - only who wants a picture pays for it

    drawn = io.StringIO()
    segno.make(ticket.upper(), error="L", micro=False).terminal(drawn, border=2, compact=True)
    return drawn.getvalue().rstrip("\n")

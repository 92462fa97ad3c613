"""What every answer over HTTP carries, whoever makes it: also the answer to what can't be understood as HTTP."""

from collections.abc import Callable

from multidict import CIMultiDict, CIMultiDictProxy

NOTHING_LOADED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The policy of answers that are no pages: nothing is loaded or run on their behalf."""


def securing(server: str) -> Callable[[CIMultiDict[str]], None]:
    """A function that adds to the headers of an answer what it must have; a page's own policy stays.

    Args:
        server: what a server calls itself; otherwise it would be the library's name and version.
    """
    # Not an ordinary dict, whose names would be folded to lower case again for every answer.
    common = CIMultiDictProxy(
        CIMultiDict(
            {
                "Server": server,
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
                "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            }
        )
    )

    def secure(headers: CIMultiDict[str]) -> None:
        headers.update(common)
        headers.setdefault("Content-Security-Policy", NOTHING_LOADED)

    return secure

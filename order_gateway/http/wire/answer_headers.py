"""What every answer carries, whoever makes it: also the answer to what can't be understood as HTTP."""

from multidict import CIMultiDict, CIMultiDictProxy

SERVER = "order-service"
SECURITY_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(
    # Not an ordinary dict, whose names would be folded to lower case anew for every answer.
    CIMultiDict(
        {
            # Otherwise the library's name and version.
            "Server": SERVER,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        }
    )
)
NOTHING_LOADED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The policy of answers that are no pages: nothing is loaded or run on their behalf."""


def secure(headers: CIMultiDict[str]) -> None:
    """Add to the headers of an answer what it must have; a page's own policy stays."""
    headers.update(SECURITY_HEADERS)
    headers.setdefault("Content-Security-Policy", NOTHING_LOADED)

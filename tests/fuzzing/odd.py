"""Values that break things, and ways to break bytes."""

from random import Random

NUMBERS = (
    0,
    -1,
    1,
    2,
    100,
    101,
    10**6,
    10**6 + 1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**40,
    0.1,
    1.005,
    -0.0,
)
TOKENS = (
    "1e1000000",
    "-1e1000000",
    "1e-1000000",
    "0e99999999999999999999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "1." + "0" * 500 + "1",
    '"\\ud800"',
    '"\\u0000"',
    "[" * 2000,
    '{"a":' * 2000,
    '{"a":1,"a":2}',
    "tru",
    "'a'",
    "\x00",
    '"\xe9',
)
"""Put into a JSON text as they are."""
TEXTS = (
    "",
    " ",
    "a",
    "a" * 64,
    "a" * 65,
    "a" * 256,
    "a" * 5000,
    "\x00",
    "a\nb",
    "\u202e",
    "\u00e9" * 64,
    "\N{GRINNING FACE}" * 64,
    "' OR 1=1 --",
    '"; DROP TABLE orders; --',
    "%s%s%n",
    "%",
    "{}",
    "../../etc/passwd",
    "\ufffe",
    "null",
    "-1",
    "1e9",
    "true",
    "2026-11-20T12:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "0000-00-00",
    "2026-02-30",
    "cancelled",
    "paid",
    "USD",
    "\uff11",
)
BYTES = (
    b"\x00",
    b"\xff",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b":",
    b" ",
    b"\t",
    b"\x0b",
    b"%00",
    b"\xed\xa0\x80",
    b"\xc3",
    b"{",
    b"[",
    b'"',
    b",",
    b"9" * 40,
    b"-",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.0",
    b"Expect: x\r\n",
    b"\\u",
)


def mutated(random: Random, data: bytes) -> bytes:
    """The same, with some of it flipped, cut, doubled, moved or replaced."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(changed) + 1)
        until = min(at + random.choice((1, 1, 2, 8, 100)), len(changed))
        match random.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at:until]
            case 2:
                changed[at:at] = changed[at:until] * random.choice((1, 2, 50))
            case 3:
                changed[at:at] = random.choice(BYTES)
            case 4:
                changed[at:until] = random.choice(BYTES)
            case 5:
                changed[at:until] = random.randbytes(until - at)
            case _ if not random.randrange(4):
                del changed[at:]
    return bytes(changed)

"""Imported before `grpc`, it keeps gRPC's core from writing what strangers send to standard error.

The core writes lines of its own there, past our log: for every header that it can't parse, and for every GOAWAY with
the text that came with it, which may be anything, another request with its key, too. Whoever looks for a fault below
our code says GRPC_VERBOSITY=ERROR (or INFO), and knows what may be in these lines then.
"""

import os

# The core reads it once, while `grpc` is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

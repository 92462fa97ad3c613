"""HTTP itself: connections, headers, strict JSON, values, and errors in their envelope.

Imports nothing else of http.
"""

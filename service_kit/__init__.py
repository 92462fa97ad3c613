"""What the warehouse and the order gateway share, and nothing else does: only what runs in production.

Imports neither of them.
"""

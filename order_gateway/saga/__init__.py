"""The steps of an order against the outside: doing them, and finishing what was left undone.

Imports storage, payments, gateway and the core; nothing of audit, pricing or http.
"""

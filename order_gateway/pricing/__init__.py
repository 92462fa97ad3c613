"""What an order's lines cost: the basket, and the catalogue that is kept for pricing.

Imports storage, gateway and the core; nothing of saga, audit or http.
"""

"""Whether orders agree with the warehouse, why an order is as it is, and mending what does not agree.

Imports saga, storage, gateway and the core; nothing of http.
"""

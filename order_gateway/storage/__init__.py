"""The orders' database: every statement about orders, and the rows they read and write.

Imports the core, settings, and the ports' types; nothing of saga, pricing, audit or http.
"""

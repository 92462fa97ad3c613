"""The order service: an HTTP facade whose orders always end in agreement with the warehouse.

At the root: the pure core (life of an order, allocation, identity), settings, metrics, and what puts the rooms
together. Imports run downwards: commands, http, audit and pricing, saga, storage, settings, payments and gateway, core.
"""

"""Stockwarden: a warehouse that never oversells, and an order service in front of it.

Where the distribution is installed, everything of it is below this name; setup.py says how, and why.
"""

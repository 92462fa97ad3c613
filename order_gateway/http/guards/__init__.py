"""What stands before a handler: who calls, from where, how many at once, and whether it was asked before.

Imports wire and the settings of access; knows no noun.
"""

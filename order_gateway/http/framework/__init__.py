"""Operations: one entry routes, guards, validates and documents; and the document itself.

Imports guards and wire; knows no noun.
"""

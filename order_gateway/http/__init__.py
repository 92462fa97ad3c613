"""The HTTP facade of the order service: the application, and a file per noun.

Shared by nouns: `bodies` (what clients send), `views` (what they get), `calls`. Imports every other room; nobody but
`__main__` imports this one. Inside, imports run downwards: app, nouns, framework, guards, wire.
"""

"""Renders files from the contract: Triton's configs, the client's keywords, and tables of the documentation.

`pbtxt` renders config.pbtxt, `client_keywords` the client's keyword types, `tables` pages and tables of the
documentation, `monitoring` the files that are generated from the alert rules. `command` writes and checks all of them.
"""

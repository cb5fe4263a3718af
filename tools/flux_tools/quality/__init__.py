"""What the demo checkpoint can do, measured on pictures that it never saw, through the real server and our client.

Nothing that serves imports this package.
"""

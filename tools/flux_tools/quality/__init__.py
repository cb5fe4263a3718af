"""What the demo checkpoint can do, measured on images that it never saw, through the real server and our client.

Nothing that serves imports this package.
"""

"""GenServe's REST API, as its clients know it."""

"""GenServe's REST API."""

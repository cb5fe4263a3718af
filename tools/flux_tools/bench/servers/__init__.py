"""The alternatives: servers of the same stock diffusers pipelines, each written as its documentation recommends."""

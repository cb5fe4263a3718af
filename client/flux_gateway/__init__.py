"""REST in front of Triton: GenServe's API. It holds no model: it asks by `flux_client`."""

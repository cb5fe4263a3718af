"""REST in front of Triton: GenServe's API and OpenAI's of images. It holds no model: it asks by `flux_client`."""

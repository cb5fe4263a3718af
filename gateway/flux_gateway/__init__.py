"""REST gateway in front of Triton: GenServe's API, OpenAI's images API, and the web page. It uses `flux_client`."""

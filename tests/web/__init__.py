"""The page, the API and the metrics, over captures whose numbers are known."""

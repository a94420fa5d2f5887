"""Live capture: filters, and captures in network namespaces that the tests make themselves."""

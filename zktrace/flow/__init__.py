"""From TCP segments to ordered bytes per connection. Knows nothing of ZooKeeper."""

//! TCP reassembly: segments in, ordered bytes per connection out. Knows nothing of ZooKeeper.

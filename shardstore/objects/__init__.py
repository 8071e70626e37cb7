"""Object stores: how one is asked, copies of its objects within a budget, and a store of shards that lies there."""

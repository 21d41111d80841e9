"""Our side: the platform, through its Python client, over the address given."""

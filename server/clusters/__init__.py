"""Other clusters: asking them who they are, and passing on requests for what is theirs."""

"""The expert pool: routers, what balances them, who owns which expert, the experts, and the exchange with them."""

"""The expert pool: routers, balance loss, who owns which expert, the experts themselves, and the exchange with them."""

"""Who is where: ranks, pools and experts, by arithmetic alone."""

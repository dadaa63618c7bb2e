"""What people look at: pages, charts, terminal."""

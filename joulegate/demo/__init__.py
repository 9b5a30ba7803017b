"""What `joulegate demo` sends and shows."""

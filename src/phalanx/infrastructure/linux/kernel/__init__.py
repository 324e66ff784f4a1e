"""What the Linux kernel is asked for: namespaces, links, routes, control groups, and the marks."""

"""The infrastructure of real packets: namespaces, links and limits of a Linux kernel."""
